"""Files that appear whole or not at all: after an error, an interruption, a kill, and with two writers at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from comfyui_lavie.files import PART, sweep, whole_file, write_atomically

WRITER = """
import os, sys, time
from comfyui_lavie.files import whole_file
with whole_file(sys.argv[1]) as part:
    part.write_text("half")
    other = part.with_name("other")  # as safetensors does, which puts another file in its place
    other.write_text("half")
    os.replace(other, part)
    print("writing", flush=True)
    time.sleep(60)
"""


def parts(folder) -> list:
    return list(folder.glob(f".*{PART}"))


def test_the_target_changes_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with whole_file(target) as part:
        part.write_text("new")
        assert target.read_text() == "old" and part.parent.parent == tmp_path
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)), whole_file(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "link", tmp_path / "disk" / "real"
    link.symlink_to(real)
    write_atomically(link, ["a\n", "b\n"])
    assert link.is_symlink() and real.read_text() == "a\nb\n"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), whole_file(tmp_path / "nowhere" / "file"):
        pass


def test_what_a_kill_leaves_is_swept_and_what_is_being_written_is_not(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "writing\n"
        assert sweep(tmp_path) == 0 and len(parts(tmp_path)) == 1
        writer.send_signal(signal.SIGKILL)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert len(parts(tmp_path)) == 1 and not (tmp_path / "file").exists()
    write_atomically(tmp_path / "other", ["whole"])
    assert os.listdir(tmp_path) == ["other"]


def test_a_users_own_files_stay(tmp_path):
    names = {"model.safetensors.part", "model.partial", f"model{PART}"}
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / f"folder{PART}").mkdir()
    write_atomically(tmp_path / "file", ["whole"])
    assert set(os.listdir(tmp_path)) == {*names, f"folder{PART}", "file"}


def test_many_writers_of_one_file(tmp_path):
    """Each finds its own text there or that of another, never a mixture; nothing else is left."""
    texts = [letter * 5000 for letter in "abcdefgh"]

    def write(text):
        for _ in range(20):
            write_atomically(tmp_path / "file", [text])
            assert (tmp_path / "file").read_text() in texts

    errors = []

    def run(text):
        try:
            write(text)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["file"]


def test_writing_nothing_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == []
