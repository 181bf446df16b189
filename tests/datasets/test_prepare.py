"""The command `prepare`: everything is in the catalogue or skipped by name; stops, repeats and bad arguments."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import webdataset
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.prepare import add_arguments, run
from comfyui_lavie.datasets.sources import find_missing
from comfyui_lavie.nano.source import write_catalogue
from comfyui_lavie.tests.media import numbered, write_image, write_sound, write_video, zero_middle
from comfyui_lavie.training.data import Bucket, DataSettings, TrainingData, render

CODE = """
import argparse, sys
from comfyui_lavie.datasets.prepare import add_arguments, run
parser = argparse.ArgumentParser(prog="prepare")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


def command(*arguments) -> int:
    """Run prepare with a command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="prepare")
    add_arguments(parser)
    return run(parser.parse_args([*map(str, arguments), "--workers", "2"]))


def captioned(path, text="a red car driving") -> None:
    path.with_suffix(".txt").write_text(text)


@pytest.fixture
def good(tmp_path):
    """A folder in which all is well: three videos, two images."""
    folder = tmp_path / "good"
    folder.mkdir()
    for i, fps in enumerate((24, 24, 30)):
        captioned(write_video(folder / f"v{i}.mp4", numbered(40), fps=fps))
    for i in range(2):
        captioned(write_image(folder / f"i{i}.png", seed=i))
    return folder


@pytest.fixture
def bad(tmp_path):
    """A folder with one of everything that goes wrong; the value is a part of the reason."""
    folder = tmp_path / "bad"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8)
    write_video(folder / "uncaptioned.mp4", numbered(20))
    captioned(write_sound(folder / "sound.mp4"))
    captioned(write_video(folder / "empty.webm", numbered(0)))
    (folder / "zero.mp4").touch()
    captioned(zero_middle(write_video(folder / "damaged.mp4", noise)))
    cut = write_video(folder / "cut.mkv", noise)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    captioned(write_video(folder / "short.mp4", numbered(3)))
    captioned(write_video(folder / "small.mp4", numbered(20, 32, 32)))
    captioned(write_image(folder / "small.png", 47, 32))
    captioned(write_video(folder / "terse.mp4", numbered(20)), "car")
    (folder / "broken.jpg").write_bytes(write_image(tmp_path / "x.jpg").read_bytes()[:300])
    (folder / "readme.md").write_text("about this folder")
    for name in ("zero", "cut", "broken"):
        captioned(folder / f"{name}.xyz")
    return folder, {
        "uncaptioned.mp4": "no caption: write one beside it", "sound.mp4": "no video stream, only sound",
        "empty.webm": "a video without frames", "zero.mp4": "not a readable video", "cut.mkv": "cut short",
        "damaged.mp4": "not a readable video (Invalid data",
        "short.mp4": "too short: 3 of at least 16 frames", "small.mp4": "too small: 32x32, expected at least 48x32",
        "small.png": "too small", "terse.mp4": "caption too short: 1 of at least 3 words",
        "broken.jpg": "not a readable image", "readme.md": "not a kind of video or image that is read (.md)",
    }  # fmt: skip


LIMITS = ("--min-frames", 16, "--min-size", "48x32", "--min-words", 3)


def test_all_that_is_bad_is_skipped_counted_and_named(good, bad, tmp_path, capsys):
    folder, reasons = bad
    assert command("--out", tmp_path / "out", good, folder, *LIMITS) == 0
    catalogue = Catalogue.load(tmp_path / "out")
    assert Counter(item.kind for item in catalogue.items) == {"video": 3, "image": 2}
    skipped = {skip.key.removeprefix("bad/"): skip.reason for skip in catalogue.skipped}
    assert skipped.keys() == reasons.keys()
    for name, part in reasons.items():
        assert part in skipped[name]
    said = capsys.readouterr().out
    assert "3 videos" in said and "2 images" in said and "skipped 12, all named in" in said
    assert "2 x too small" in said and "1 x no caption" in said
    assert "bad/sound.mp4: no video stream, only sound" in said and "and 2 more" in said
    assert "frames per second: 24 (2), 30 (1)" in said and "set fps in [data]" in said


def test_checking_packets_alone_still_finds_missing_ends(good, bad, tmp_path):
    folder, reasons = bad
    assert command("--out", tmp_path / "out", good, folder, *LIMITS, "--check", "packets") == 0
    catalogue = Catalogue.load(tmp_path / "out")
    skipped = {skip.key.removeprefix("bad/") for skip in catalogue.skipped}
    assert reasons.keys() - skipped <= {"damaged.mp4"}
    command("--out", tmp_path / "decoded", good)
    whole = Catalogue.load(tmp_path / "decoded").items
    assert [item for item in catalogue.items if item.key.startswith("good/")] == list(whole)


def test_one_caption_for_all_without_their_own(good, tmp_path):
    (good / "i0.txt").unlink()
    assert command("--out", tmp_path / "out", good, "--caption", " a photo of  sks ") == 0
    captions = {item.key: item.caption for item in Catalogue.load(tmp_path / "out").items}
    assert captions["good/i0.png"] == "a photo of sks" and captions["good/i1.png"] == "a red car driving"


def test_what_was_prepared_is_trained_on(good, tmp_path):
    """A folder, a list, a shard and shapes in two catalogues; every draw of several steps is read, in both buckets."""
    (tmp_path / "list.csv").write_text("path,caption,start\ngood/v0.mp4,the second half,0.8\n")
    with webdataset.TarWriter(str(tmp_path / "000.tar")) as shard:
        shard.write({"__key__": "a", "mp4": (good / "v1.mp4").read_bytes(), "txt": "out of a shard"})
    assert command("--out", tmp_path / "one", good, tmp_path / "list.csv", tmp_path / "000.tar") == 0
    write_catalogue([{"videos": 3, "images": 3, "size": 48}], tmp_path / "two")
    catalogue = Catalogue.load_all([tmp_path / "one", tmp_path / "two"])
    assert Counter(item.locator["source"] for item in catalogue.items) == {"file": 6, "tar": 1, "generated": 6}
    train, heldout = catalogue.split(1)
    assert find_missing(catalogue.items) == ([], 5 + 1)
    buckets = (Bucket(4, 32, 32, 3, 0.5), Bucket(1, 24, 40, 2, 0.5))
    data = TrainingData(DataSettings(("one", "two"), buckets, images=2, stride=(1, 4), fps=8.0), train)
    seen, shapes_of_clips = set(), set()
    for step in range(12):
        for draw in data.plan(0, step):
            pixels = render(draw)
            assert pixels.shape == (draw.count, *draw.size[::-1], 3) and draw.item.caption
            seen.add(draw.item.key)
            shapes_of_clips |= {pixels.shape} if draw.kind == "clip" else set()
    assert seen == {item.key for item in train.items} and len(heldout.items) >= 2
    assert shapes_of_clips == {(4, 32, 32, 3), (1, 24, 40, 3)}


def test_repeating_looks_only_at_what_is_new_or_changed(good, tmp_path):
    """Touched and copied files are known; new ones and those with another content are looked at."""
    command("--out", tmp_path / "out", good)
    before = Catalogue.load(tmp_path / "out")
    journal = (tmp_path / "out" / "probed.jsonl").read_bytes()
    file = good / "v0.mp4"
    os.utime(file)
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(good, tmp_path / "elsewhere" / good.name)
    assert command("--out", tmp_path / "out", tmp_path / "elsewhere" / good.name) == 0
    assert Catalogue.load(tmp_path / "out").fingerprint == before.fingerprint
    assert (tmp_path / "out" / "probed.jsonl").read_bytes() == journal
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time say nothing has changed
    captioned(write_image(good / "new.png"))
    write_image(good / "i0.png", 64, 64)
    captioned(good / "i1.png", "another caption of it")
    assert command("--out", tmp_path / "out", good) == 0
    after = Catalogue.load(tmp_path / "out")
    assert [skip.key for skip in after.skipped] == ["good/v0.mp4"]
    items = {item.key: item for item in after.items}
    assert items["good/i0.png"].width == 64 and items["good/i1.png"].caption == "another caption of it"
    assert "good/new.png" in items and after.fingerprint != before.fingerprint


def test_killed_and_repeated_equals_uninterrupted(good, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for i in range(400):
        (many / f"{i:03}.mp4").write_bytes((good / "v0.mp4").read_bytes() + b"\0\0\0\x0cfree%04d" % i)  # all differ
        captioned(many / f"{i:03}.mp4", f"clip number {i}")
    out, journal = tmp_path / "out", tmp_path / "out" / "probed.jsonl"
    arguments = [sys.executable, "-P", "-c", CODE, str(many), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(arguments)
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "catalogue.json").exists(), "it was to be killed before its end"
    with journal.open("ab") as file:
        file.write(b'["half a li')  # what a kill within a write leaves
    looked_at = journal.read_bytes().count(b"\n")
    assert command("--out", out, many) == 0
    assert command("--out", tmp_path / "whole", many) == 0
    assert Catalogue.load(out) == Catalogue.load(tmp_path / "whole")
    assert len(Catalogue.load(out).items) == 400
    lines = journal.read_text().splitlines()
    assert len(lines) == 401 and 10 <= looked_at < 400  # 400 files, each looked at once, and the broken line
    names = [json.loads(line)[0] for line in lines if line != '["half a li']
    assert len(set(names)) == 400


class TestErrors:
    def test_no_ray(self, good, tmp_path):
        code = "import sys\nsys.modules['ray'] = None" + CODE  # as if it were not installed
        arguments = [sys.executable, "-P", "-c", code, str(good), "--ray", "--out", str(tmp_path / "out")]
        result = subprocess.run(arguments, capture_output=True, text=True)
        assert result.returncode == 1 and "pip install -e '.[ray]'" in result.stderr

    def test_sources_that_cannot_be_read_are_named_together(self, good, tmp_path, capsys):
        (tmp_path / "odd.zip").touch()
        (tmp_path / "list.csv").write_text("name\n")
        sources = [tmp_path / name for name in ("gone", "odd.zip", "list.csv")]
        assert command("--out", tmp_path / "out", good, *sources) == 1
        said = capsys.readouterr().err
        assert "gone does not exist" in said and "odd.zip: expected a folder" in said and "list.csv needs" in said
        assert not (tmp_path / "out").exists()

    def test_nothing_usable(self, tmp_path, capsys):
        write_image(tmp_path / "a.png")
        assert command("--out", tmp_path.parent / "out", tmp_path) == 1
        streams = capsys.readouterr()
        assert "a.png: no caption" in streams.out and "nothing of it can be trained on" in streams.err

    def test_no_source(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as caught:
            command("--out", tmp_path)
        assert caught.value.code == 2 and "SOURCE" in capsys.readouterr().err

    def test_the_catalogue_must_not_lie_in_the_data(self, good, capsys):
        assert command("--out", good / "out", good) == 1
        assert "lies inside the source" in capsys.readouterr().err

    def test_a_folder_that_cannot_be_written(self, good, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert command("--out", tmp_path / "file" / "out", good) == 1
        assert "file" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--min-size", "512"], "--min-size: expected width and height such as 512x320, got '512'"),
            (["--min-frames", "0"], "--min-frames: expected a whole number of 1 or more, got '0'"),
            (["--check", "maybe"], "--check"),
        ],
    )
    def test_arguments_out_of_range(self, tmp_path, capsys, arguments, message):
        with pytest.raises(SystemExit) as caught:
            command(tmp_path, "--out", tmp_path / "out", *arguments)
        assert caught.value.code == 2 and message in capsys.readouterr().err

    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit):
            command("--help")
        said = capsys.readouterr().out
        for part in ("captions.csv", ".parquet", "WebDataset", "--check", "skipped.jsonl", "examples:", "--caption"):
            assert part in said
