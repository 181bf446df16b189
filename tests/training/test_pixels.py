"""Pixels of draws: the very frames, cut, mirrored and moved as planned; the same with any number of workers."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.datasets.background import ordered_map
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.sources import probe, read_frames, scan
from comfyui_lavie.nano.shapes import render as render_scene
from comfyui_lavie.nano.shapes import sample_scene
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.tests.media import numbered, numbers, write_image, write_video
from comfyui_lavie.training.data import Bucket, DataSettings, TrainingData, render
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two videos and two images of noise, with captions."""
    for i in range(2):
        write_video(tmp_path / f"v{i}.mkv", numbered(40, width=96, height=64))
        write_image(tmp_path / f"i{i}.png", width=100, height=80, seed=i)
        for name in (f"v{i}", f"i{i}"):
            (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    return tmp_path


def training_data(folder, **changes) -> TrainingData:
    settings = DataSettings(("unused",), (Bucket(4, 32, 48, 4),), images=1, crop="native")
    return TrainingData(replace(settings, **changes), Catalogue.of(map(probe, scan(folder))))


def test_clips_are_the_frames_that_were_planned(folder):
    for step in range(4):
        for draw in training_data(folder).plan(0, step)[::2]:
            pixels = render(draw)
            assert pixels.shape == (4, 32, 48, 3) and pixels.dtype == np.uint8
            assert numbers(pixels) == [draw.start + i * draw.stride for i in range(4)]


def test_native_crops_are_copies_and_flips_mirror_them(folder):
    data = training_data(folder, flip=0.5)
    images = [draw for step in range(4) for draw in data.plan(0, step) if draw.kind == "image"]
    assert {draw.flip for draw in images} == {True, False}
    for draw in images:
        left, top = map(int, draw.box[:2])
        whole = read_frames(draw.item, [0])[0]
        expected = whole[top : top + 32, left : left + 48]
        assert np.array_equal(render(draw)[0], expected[:, ::-1] if draw.flip else expected)
        assert draw.item.caption == f"caption of {draw.item.key.split('/')[1].split('.')[0]}"


def test_cover_shrinks_what_it_cuts_out(tmp_path):
    """Columns and rows of the source are found at the places that the box says."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(160), np.arange(120)[:, None]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("ramps")
    data = training_data(tmp_path, video=False, images=0, crop="cover", buckets=(Bucket(1, 32, 48, 1),))
    for step in range(5):
        (draw,) = data.plan(0, step)
        left, top, width, height = draw.box
        assert (width, height) == (pytest.approx(160), pytest.approx(160 * 32 / 48))
        seen = render(draw)[0].astype(float)
        columns = left + (np.arange(48) + 0.5) * width / 48 - 0.5
        rows = top + (np.arange(32) + 0.5) * height / 32 - 0.5
        assert np.abs(seen[:, 2:-2, 0] - columns[2:-2]).max() < 0.6
        assert np.abs(seen[2:-2, :, 1] - rows[2:-2, None]).max() < 0.6


def test_whole_boxes_are_resized_as_pillow_does(tmp_path):
    """To within a level of its antialiased bicubic of the cut-out, enlarged or made smaller."""
    write_image(tmp_path / "a.png", width=240, height=160, seed=3)
    (tmp_path / "a.txt").write_text("noise")
    for height, width, scale in ((32, 48, 1), (240, 360, 0)):
        data = training_data(tmp_path, video=False, images=0, crop="cover", buckets=(Bucket(1, height, width, 1),),
                             enlarge=True)  # fmt: skip
        (draw,) = data.plan(0, 0)
        left, top, wide, high = map(int, draw.box)
        assert draw.box == (left, top, wide, high) and ((wide, high) > draw.size) == bool(scale)
        whole = Image.fromarray(read_frames(draw.item, [0])[0])
        expected = whole.crop((left, top, left + wide, top + high)).resize(draw.size, Image.Resampling.BICUBIC)
        difference = np.abs(render(draw)[0].astype(int) - np.asarray(expected))
        assert difference.max() <= 1 and difference.mean() < 0.05


def test_image_clips_move_evenly(tmp_path):
    """A clip out of an image goes the same way from frame to frame: waves in it have the phases of the boxes."""
    column, row = np.arange(160), np.arange(120)[:, None]
    waves = np.zeros((120, 160, 3))
    waves[..., 0], waves[..., 1] = np.sin(2 * np.pi * column / 16), np.sin(2 * np.pi * row / 16)
    Image.fromarray(np.rint(127 + 100 * waves).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("waves")
    data = training_data(tmp_path, image_clips=1.0, images=0, buckets=(Bucket(8, 32, 48, 4),))
    moved = 0
    for draw in data.plan(0, 0):
        frames = render(draw).astype(float)
        assert frames.shape == (8, 32, 48, 3)
        wave = np.exp(-2j * np.pi * np.arange(48) / 16)
        for channel, axis, length in ((0, 0, 48), (1, 1, 32)):
            profile = frames[..., channel].mean(1 + axis)  # (8, length)
            seen = 1j * (profile * wave[:length]).sum(1)
            planned = np.exp(2j * np.pi * (draw.box[axis] + np.linspace(0, 1, 8) * draw.drift[axis]) / 16)
            assert np.abs(np.angle(seen / planned)).max() * 16 / (2 * np.pi) < 0.05  # pixels
        moved += abs(draw.drift[0]) > 2
    assert moved


def test_shapes_are_drawn_whole():
    data = TrainingData(
        DataSettings(("unused",), (Bucket(16, 64, 64, 2),), images=1, stride=(1, 1)), Catalogue.of(shapes(4, 4))
    )
    for draw in data.plan(0, 0)[::2]:
        assert np.array_equal(render(draw), render_scene(sample_scene(draw.item.locator["seed"]), 16, 64))


def test_a_file_that_went_bad_is_named(folder):
    data = training_data(folder)
    (folder / "v0.mkv").write_bytes(b"gone bad")
    bad = next(draw for step in range(9) for draw in data.plan(0, step) if "v0.mkv" in draw.item.key)
    with pytest.raises(DataError, match=r"v0\.mkv: its content has changed"):
        render(bad)


class TestBackground:
    @pytest.mark.parametrize("workers", [1, 2, 5])
    def test_any_number_of_workers_gives_the_same(self, folder, workers):
        data = training_data(folder, flip=0.5)

        def batch(step):
            return np.stack([render(draw)[0] for draw in data.plan(3, step)])

        ahead = list(ordered_map(batch, range(5, 12), workers, ahead=2 * workers))
        for step, seen in zip(range(5, 12), ahead, strict=True):
            assert np.array_equal(seen, batch(step))

    def test_errors_come_where_the_result_would_have(self):
        def half(number):
            if number == 3:
                raise DataError("three")
            return number / 2

        results = ordered_map(half, range(10), workers=3, ahead=6)
        assert [next(results) for _ in range(3)] == [0, 0.5, 1]
        with pytest.raises(DataError, match="three"):
            next(results)

    def test_it_works_ahead_so_far_and_no_further(self):
        begun, enough = [], threading.Event()

        def note(number):
            begun.append(number)
            if len(begun) == 4:
                enough.set()
            return number

        results = ordered_map(note, range(100), workers=2, ahead=4)
        assert next(results) == 0 and enough.wait(10)
        results.close()
        assert sorted(begun) == [0, 1, 2, 3]

    def test_closing_ends_the_threads(self):
        results = ordered_map(lambda number: number, range(100), workers=2, ahead=4)
        next(results)
        assert any(thread.name.startswith("lavie-data") for thread in threading.enumerate())
        results.close()
        assert not any(thread.name.startswith("lavie-data") for thread in threading.enumerate())
