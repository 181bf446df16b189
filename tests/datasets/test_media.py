"""Probing and decoding of real files: the right frames, upright, and every kind of damage named."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from comfyui_lavie.datasets.catalogue import Item
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.media import decode_image, decode_video, probe_image, probe_video
from comfyui_lavie.datasets.sources.base import file_locator, read_frames
from comfyui_lavie.tests.media import numbered, numbers, write_image, write_sound, write_video, zero_middle
from PIL import Image


def noise(count: int = 20) -> np.ndarray:
    """Frames that do not compress, so that damage in the middle of a file hits pictures."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)


def item_of(path, start: float = 0.0, end: float | None = None) -> Item:
    found = probe_video(path, start, end)
    locator = {**file_locator(path), "origin": found.origin}
    return Item(path.name, "video", "", found.frames, found.fps, found.width, found.height, locator)


class TestVideo:
    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
    @pytest.mark.parametrize("decode", [True, False], ids=["decode", "packets"])
    def test_probe_counts_frames_rate_and_size(self, tmp_path, suffix, decode):
        found = probe_video(write_video(tmp_path / f"a{suffix}", numbered(30), fps=24), decode=decode)
        assert (found.frames, found.width, found.height) == (30, 48, 32)
        assert found.fps == pytest.approx(24, rel=2e-3)  # Matroska's times are whole milliseconds

    @pytest.mark.parametrize("fps", [8, Fraction(24000, 1001), 60], ids=str)
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
    def test_any_frames_are_the_right_ones(self, tmp_path, suffix, fps):
        """Across groups of pictures, with B-frames, from files and from their bytes."""
        item = item_of(write_video(tmp_path / f"a{suffix}", numbered(40), fps=fps))
        for wanted in (range(40), range(0, 40, 3), range(13, 40, 9), [0], [11], [12], [13], [39]):
            assert numbers(read_frames(item, list(wanted))) == list(wanted)

    def test_bytes_read_as_files_do(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", numbered(20))
        assert probe_video(path.read_bytes()) == probe_video(path)
        times = [0.05, 1.25]
        assert numbers(np.stack(decode_video(path.read_bytes(), times))) == [0, 12]

    def test_a_part_is_counted_from_its_own_first_frame(self, tmp_path):
        item = item_of(write_video(tmp_path / "a.mp4", numbered(40), fps=10), start=1.0, end=2.5)
        assert (item.frames, item.locator["origin"]) == (15, pytest.approx(1.0))
        assert numbers(read_frames(item, range(15))) == list(range(10, 25))

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
    def test_only_the_part_is_looked_into(self, tmp_path, suffix):
        """Parts of a long video do not decode it from end to end each: damage elsewhere goes unnoticed."""
        path = write_video(tmp_path / f"a{suffix}", noise(40))
        whole, parts = probe_video(path), [probe_video(path, i * 0.5, i * 0.5 + 0.5) for i in range(8)]
        assert [part.frames for part in parts] == [5] * 8
        assert [part.origin for part in parts] == pytest.approx([whole.origin + 0.5 * i for i in range(8)], abs=2e-3)
        zero_middle(path, 0.55, 0.7)
        with pytest.raises(DataError):
            probe_video(path)
        assert probe_video(path, 0.5, 1.0) == parts[1]

    def test_a_part_outside_has_no_frames(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", numbered(10), fps=10)
        with pytest.raises(DataError, match="no frames in this part: from 5 s to 6 s"):
            probe_video(path, 5.0, 6.0)

    def test_variable_rates_play_at_their_true_speed(self, tmp_path):
        """Ten frames 0.1 s apart, then five 0.2 s apart: at an even pace each of the latter is seen twice."""
        ticks = [100 * i for i in range(10)] + [1000 + 200 * i for i in range(5)]
        item = item_of(write_video(tmp_path / "a.mkv", numbered(15), fps=10, ticks=ticks))
        assert item.frames == 15 and item.fps == pytest.approx(14 / 1.8, rel=1e-3)
        seen = numbers(read_frames(item, range(15)))
        shown = [(i + 0.5) / item.fps for i in range(15)]
        assert seen == [max(n for n, tick in enumerate(ticks) if tick / 1000 <= time) for time in shown]
        assert len(set(seen)) < 15 and seen[-1] == 14

    def test_a_clock_that_does_not_begin_at_zero(self, tmp_path):
        ticks = [70000 + 100 * i for i in range(20)]
        item = item_of(write_video(tmp_path / "a.mkv", numbered(20), fps=10, ticks=ticks))
        assert item.locator["origin"] == pytest.approx(70.0)
        assert numbers(read_frames(item, [0, 7, 19])) == [0, 7, 19]

    def test_sound_beside_the_picture_does_not_matter(self, tmp_path):
        item = item_of(write_video(tmp_path / "a.mp4", numbered(20), sound=True))
        assert numbers(read_frames(item, [0, 19])) == [0, 19]

    def test_turned_videos_come_upright(self, tmp_path):
        """A telephone held upright writes lying frames and a matrix that turns them by 90 degrees."""
        frames = np.zeros((4, 32, 48, 3), np.uint8)
        frames[:, :, :24] = 255  # the left half is white
        path = write_video(tmp_path / "a.mp4", frames)
        content = bytearray(path.read_bytes())
        matrix = content.index(b"tkhd") + 4 + 40
        assert struct.unpack(">9i", content[matrix : matrix + 36])[0] == 1 << 16
        clockwise = (0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)
        content[matrix : matrix + 36] = struct.pack(">9i", *clockwise)
        path.write_bytes(content)
        item = item_of(path)
        assert (item.width, item.height) == (32, 48)
        (picture,) = read_frames(item, [0])
        assert picture[:20].mean() > 230 and picture[28:].mean() < 25  # what was left is now on top


class TestImages:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
    def test_sizes_and_pixels(self, tmp_path, suffix):
        path = write_image(tmp_path / f"a{suffix}", 40, 24)
        found = probe_image(path)
        assert (found.frames, found.width, found.height) == (1, 40, 24)
        assert np.array_equal(decode_image(path.read_bytes()), decode_image(path))
        if suffix in (".png", ".bmp", ".tif"):
            assert np.array_equal(decode_image(path), np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))

    def test_turned_images_come_upright(self, tmp_path):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[:, :20] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        upright = decode_image(tmp_path / "a.png")
        assert upright.shape == (40, 20, 3)
        assert upright[:20].min() == 255 and upright[20:].max() == 0

    def test_what_is_transparent_comes_out_white(self, tmp_path):
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[:4] = (200, 0, 0, 255)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        seen = decode_image(tmp_path / "a.png")
        assert (seen[0, 0] == (200, 0, 0)).all() and (seen[7, 7] == 255).all()

    @pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
    def test_other_modes_become_rgb(self, tmp_path, mode):
        Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif")
        assert decode_image(tmp_path / "a.tif").shape == (8, 8, 3)
        assert decode_image(tmp_path / "a.tif").min() == 255


class TestBadFiles:
    @pytest.mark.parametrize("decode", [True, False], ids=["decode", "packets"])
    def test_only_sound(self, tmp_path, decode):
        with pytest.raises(DataError, match="no video stream, only sound"):
            probe_video(write_sound(tmp_path / "a.mp4"), decode=decode)

    @pytest.mark.parametrize("content", [b"", bytes(5000), b"not a video at all" * 100], ids=["empty", "zeros", "text"])
    def test_no_video_at_all(self, tmp_path, content):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable video|no video stream"):
            probe_video(tmp_path / "a.mp4")
        with pytest.raises(DataError, match="not a readable image"):
            probe_image(content)

    @pytest.mark.parametrize("decode", [True, False], ids=["decode", "packets"])
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
    def test_zero_length(self, tmp_path, suffix, decode):
        """A file with a video track in which nothing lies; MP4 then has no track either."""
        path = write_video(tmp_path / f"a{suffix}", numbered(0))
        assert path.stat().st_size > 100
        with pytest.raises(DataError, match="no video stream" if suffix == ".mp4" else "a video without frames"):
            probe_video(path, decode=decode)

    @pytest.mark.parametrize("decode", [True, False], ids=["decode", "packets"])
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
    def test_cut_short(self, tmp_path, suffix, decode):
        path = write_video(tmp_path / f"a{suffix}", noise())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=r"cut short|not a readable video|damaged"):
            probe_video(path, decode=decode)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
    def test_damaged_in_the_middle(self, tmp_path, suffix):
        with pytest.raises(DataError, match=r"damaged|cut short|not a readable video"):
            probe_video(zero_middle(write_video(tmp_path / f"a{suffix}", noise())))

    @pytest.mark.parametrize("decode", [True, False], ids=["decode", "packets"])
    def test_a_hole_in_the_middle(self, tmp_path, decode):
        """A clip across it would jump; the parts beside it are whole."""
        ticks = [100 * i for i in range(12)] + [2000 + 100 * i for i in range(12)]
        path = write_video(tmp_path / "a.mkv", numbered(24), ticks=ticks)
        with pytest.raises(DataError, match=r"frames are missing: none for 0\.90 s after 1\.10 s"):
            probe_video(path, decode=decode)
        assert (probe_video(path, 0, 1.2).frames, probe_video(path, 1.5).frames) == (12, 12)

    def test_frames_without_order(self, tmp_path):
        """AVI has no times: those of H.264 with B-frames come out wrong, and frames would be mistaken."""
        write_video(tmp_path / "a.avi", numbered(30), codec="libx264")
        for decode in (True, False):
            with pytest.raises(DataError, match=r"do not ascend|without a time|same time"):
                probe_video(tmp_path / "a.avi", decode=decode)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
    def test_image_cut_short(self, tmp_path, suffix):
        content = write_image(tmp_path / f"a{suffix}").read_bytes()
        with pytest.raises(DataError, match="not a readable image"):
            probe_image(content[: len(content) // 2])

    @pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged TIFF files
    def test_whatever_is_damaged_ends_in_one_kind_of_error(self, tmp_path):
        """Random bytes, mostly in headers, of files of many kinds: readable still, or a DataError, never a crash."""
        rng = np.random.default_rng(0)
        files = [write_video(tmp_path / f"a{suffix}", noise(6)) for suffix in (".mp4", ".mkv", ".webm", ".avi")]
        files += [write_image(tmp_path / f"a{suffix}", 20, 16) for suffix in (".png", ".jpg", ".webp", ".tif")]
        refused = 0
        for path in files:
            whole = path.read_bytes()
            for _ in range(25):
                content = bytearray(whole)
                for _ in range(rng.integers(1, 15)):
                    content[rng.integers(len(content) if rng.random() < 0.5 else 200)] = rng.integers(256)
                try:
                    if path.suffix in (".mp4", ".mkv", ".webm", ".avi"):
                        probe_video(bytes(content), decode=bool(rng.random() < 0.5))
                    else:
                        probe_image(bytes(content))
                except DataError:
                    refused += 1
        assert 25 < refused < 8 * 25
