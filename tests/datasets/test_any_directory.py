"""`prepare` on folders as they are found: nothing in them ends it, and what is left out has a reason."""

import json
import os
import socket
import subprocess
import sys

import pytest
from comfyui_lavie.datasets.content import BLOCK, BLOCKS, check_content, hash_content
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.media import probe_video
from comfyui_lavie.datasets.media.container import time_limit
from comfyui_lavie.datasets.prepare import Limits, prepare, summary
from comfyui_lavie.datasets.sources.base import file_locator
from comfyui_lavie.files import whole_file
from comfyui_lavie.tests.media import numbered, write_image, write_video


def test_odd_names_pipes_sockets_devices_and_loops(tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    write_image(odd / "good.png")
    write_image(odd / "new\nline.png")
    os.rename(write_image(tmp_path / "bytes.png"), os.fsencode(odd) + b"/\xff\xfe.png")
    os.mkfifo(odd / "pipe.mp4")
    os.mkfifo(odd / "pipe.tar")
    os.symlink("/dev/zero", odd / "device.png")
    os.symlink(odd, odd / "loop")
    os.symlink("self.mp4", odd / "self.mp4")
    os.symlink("nowhere.png", odd / "dangling.png")
    here = os.getcwd()
    os.chdir(odd)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
    os.chdir(here)
    found = prepare([odd], tmp_path / "out", Limits(), "a caption", progress=False)
    assert [item.key for item in found.items] == ["odd/good.png"]
    reasons = {skip.key: skip.reason for skip in found.skipped}
    name = "a name that is not UTF-8 or has control characters; rename it"
    gone = "the file cannot be read (No such file or directory)"
    assert reasons == {
        "odd/new\\nline.png": name, "odd/\\udcff\\udcfe.png": name, "odd/pipe.mp4": "not a file: a pipe",
        "odd/pipe.tar": "not a file: a pipe", "odd/device.png": "not a file: a device",
        "odd/socket.png": "not a file: a socket", "odd/dangling.png": gone,
        "odd/loop": "a link to a folder; name that folder as a source of its own",
        "odd/self.mp4": "the file cannot be read (Too many levels of symbolic links)",
    }  # fmt: skip
    lines = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["key"] for line in lines} == set(reasons)
    said = summary(found, tmp_path / "out")
    assert "2 x a name that is not UTF-8" in said and "4 x not a file" in said


def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path):
    path = write_image(tmp_path / "a.png")
    locator = file_locator(path)
    assert check_content(locator) == path
    write_image(path, seed=1)
    with pytest.raises(DataError, match="content has changed"):
        check_content(locator)


def test_the_fast_hash_is_of_the_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    content = bytearray(os.urandom(4 * BLOCK * BLOCKS))
    one.write_bytes(content)
    other.write_bytes(b"head" + content + b"tail")
    assert hash_content(one) == hash_content(other, 4, len(content)) != hash_content(one, full=True)
    for place in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        other.write_bytes(changed)
        assert hash_content(other) != hash_content(one)
    changed = bytearray(content)
    changed[BLOCK] ^= 1  # between two blocks
    other.write_bytes(changed)
    assert hash_content(other) == hash_content(one) and hash_content(other, full=True) != hash_content(one, full=True)


def test_a_look_into_a_file_has_a_time_limit(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(20))
    with time_limit(1e-6), pytest.raises(DataError, match="takes too long: more than 1e-06 s"):
        probe_video(path)
    assert probe_video(path).frames == 20


def test_what_reads_the_output_may_have_seen_enough(tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png")
    command = f"{sys.executable} -P -m comfyui_lavie.datasets prepare {tmp_path}/in --caption x --out {tmp_path}/out"
    shell = ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"]
    result = subprocess.run(shell, capture_output=True, text=True)
    assert result.stdout.strip() == "0" and "Traceback" not in result.stderr and "Broken" not in result.stderr


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a") as part:
            os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))  # as writers do that bring their own file
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
