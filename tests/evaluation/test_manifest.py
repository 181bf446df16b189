"""Manifests and clips on disk: what is written is what is read, and what is damaged is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from comfyui_lavie.evaluation.clips import read_clip, write_clip
from comfyui_lavie.evaluation.errors import EvaluationError
from comfyui_lavie.evaluation.manifest import MANIFEST, ClipRecord, append, clips_in, of_clip, read
from PIL import Image

RECORD = ClipRecord(
    "a" * 64, "clips/1.mkv", "a ü fish", 7, 5, 48, 32, 8.0, "mine", 2, ("object class",), "w.json", "b" * 64,
    {"base.safetensors": "c" * 64}, {"comfyui": "0.30.0"}, {"steps": 25, "cfg": 7.5}, 1, "2026-11-27T00:00:00+00:00",
)  # fmt: skip


def noise(frames: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 33, 47, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ("clip.mkv", "clip"))
def test_clips_come_back_bit_for_bit(tmp_path, name):
    write_clip(noise(), tmp_path / name, fps=12.5)
    write_clip(noise(seed=1), tmp_path / name, fps=12.5)
    assert np.array_equal(read_clip(tmp_path / name), noise(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    [record] = map(of_clip, clips_in(tmp_path))
    assert (record.file, record.frames, record.width, record.height) == (name, 3, 47, 33) and record.seed is None
    assert record.fps == (12.5 if name.endswith("mkv") else 8.0)


def test_pictures_with_a_gap_or_of_two_sizes_are_no_clip(tmp_path):
    write_clip(noise(), tmp_path / "clip")
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "00003.png")
    with pytest.raises(EvaluationError, match=r"expected pictures of one size, got \(33, 47\) and \(8, 8\)"):
        read_clip(tmp_path / "clip")
    (tmp_path / "clip" / "00001.png").unlink()
    with pytest.raises(EvaluationError, match="expected pictures 0 to 3 without a gap, got 3"):
        read_clip(tmp_path / "clip")


def test_a_damaged_video_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for read_it in (read_clip, of_clip):
        with pytest.raises(EvaluationError, match="broken.mp4: not a readable video"):
            read_it(tmp_path / "broken.mp4")


def test_a_folder_without_clips_says_so(tmp_path):
    with pytest.raises(EvaluationError, match="holds no clips"):
        clips_in(tmp_path)
    with pytest.raises(EvaluationError, match="is no folder"):
        clips_in(tmp_path / "nowhere")


def test_records_come_back_in_order(tmp_path):
    other = replace(RECORD, id="d" * 64, file="2.mkv", prompt=None, seed=None, seconds=None)
    for record in (RECORD, other):
        append(tmp_path, record)
    assert read(tmp_path) == [RECORD, other]


def test_a_line_cut_short_is_left_out_and_then_cut_off(tmp_path, caplog):
    append(tmp_path, RECORD)
    whole = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(whole + whole[:40])
    assert read(tmp_path) == [RECORD] and "cut short" in caplog.text
    other = replace(RECORD, id="e", file="other")
    append(tmp_path, other)
    assert read(tmp_path) == [RECORD, other]


@pytest.mark.parametrize(("change", "fault"), (
    ({"id": None}, "id: expected"), ({"frames": "5"}, "frames: expected"), ({"seed": True}, "seed: expected"),
    ({"tags": "scene"}, "tags: expected"),
    ({"extra": 1}, "unknown fields extra"),
    ({"file": "../other"}, "file: expected a path inside the manifest's folder"),
    ({"file": "/abs"}, "file: expected a path inside the manifest's folder"),
))  # fmt: skip
def test_wrong_fields_are_named_with_their_line(tmp_path, change, fault):
    append(tmp_path, RECORD)
    with (tmp_path / MANIFEST).open("a") as file:
        file.write(json.dumps({**asdict(RECORD), "id": "z", "file": "z", **change}) + "\n")
    with pytest.raises(EvaluationError, match=f"line 2: {fault}"):
        read(tmp_path)


def test_missing_fields_and_doubles_are_named(tmp_path):
    (tmp_path / MANIFEST).write_text('{"id": "a", "file": "b"}\n')
    with pytest.raises(EvaluationError, match="missing fields prompt, seed, frames, width, height, fps"):
        read(tmp_path)
    (tmp_path / MANIFEST).unlink()
    for _ in range(2):
        append(tmp_path, RECORD)
    with pytest.raises(EvaluationError, match="2 lines have the id aaa"):
        read(tmp_path)
