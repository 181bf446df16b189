"""Frames as they are shown: orientations by the definition of a display matrix, square pixels, a field, over white."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.media import decode_video, probe_video
from comfyui_lavie.datasets.video import decode_video as decode_whole
from comfyui_lavie.tests.datasets.test_picture import first_of
from comfyui_lavie.tests.media import planar_frame, write_planes, write_video
from PIL import Image


def mapped(picture: np.ndarray, matrix) -> np.ndarray:
    """Every pixel (x, y) sent to (a x + c y, b x + d y), moved into view: the definition of a display matrix."""
    a, b, c, d = matrix
    height, width, _ = picture.shape
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = picture
    return shown


EIGHT = [(i, 0, 0, j) for i in (1, -1) for j in (1, -1)] + [(0, i, j, 0) for i in (1, -1) for j in (1, -1)]


def with_matrix(path, matrix, scale: float = 1.0):
    """Patch an MP4's display matrix."""
    a, b, c, d = (int(value * scale * (1 << 16)) for value in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = path.with_name(f"turned{path.name}")
    turned.write_bytes(content)
    return turned


class TestOrientation:
    @pytest.mark.parametrize("matrix", EIGHT, ids=str)
    def test_all_eight(self, tmp_path, matrix):
        """Random sizes, suffixes and pictures."""
        rng = np.random.default_rng(abs(hash(matrix)))
        width, height = (int(side) for side in rng.choice(np.arange(16, 80, 2), 2, replace=False))
        frames = np.repeat(rng.integers(0, 256, (1, height, width, 3), np.uint8), 2, 0)
        path = write_video(tmp_path / f"a{rng.choice(['.mp4', '.mov'])}", frames)
        upright = first_of(path)
        assert np.array_equal(first_of(with_matrix(path, matrix, rng.choice([1.0, 0.5]))), mapped(upright, matrix))

    def test_a_slanted_one_is_refused(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", np.zeros((2, 32, 32, 3), np.uint8))
        with pytest.raises(DataError, match="no turn by right angles"):
            probe_video(with_matrix(path, (0.866, 0.5, -0.5, 0.866)))


class TestShape:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    @pytest.mark.parametrize(
        ("size", "aspect", "width"),
        [((72, 58), Fraction(16, 15), 77), ((72, 48), Fraction(8, 9), 64), ((144, 108), Fraction(4, 3), 192)],
        ids=["PAL", "NTSC", "HDV"],
    )
    def test_pixels_become_square(self, tmp_path, size, aspect, width, suffix):
        y = np.full(size[::-1], 16, np.uint8)
        y[:, size[0] // 2 :] = 235
        plain = np.full((size[1] // 2, size[0] // 2), 128, np.uint8)
        facts = dict(codec="libx264", options={"qp": "0"}, sample_aspect_ratio=aspect)
        path = write_planes(tmp_path / f"a{suffix}", [[y, plain, plain]] * 2, "yuv420p", **facts)
        picture = first_of(path)
        assert picture.shape[:2] == (size[1], width)
        edge = (picture[5, :, 0] < 128).sum()
        assert abs(edge - width / 2) <= 1

    def test_turned_after_it_is_made_square(self, tmp_path):
        plain = [np.full(shape, 128, np.uint8) for shape in ((32, 48), (16, 24), (16, 24))]
        facts = dict(codec="libx264", sample_aspect_ratio=Fraction(3, 2))
        path = write_planes(tmp_path / "a.mp4", [plain] * 2, "yuv420p", **facts)
        found = probe_video(with_matrix(path, (0, 1, -1, 0)))
        assert (found.width, found.height) == (32, 72)

    def test_an_aspect_that_cannot_be_meant(self, tmp_path):
        plain = [np.full(shape, 128, np.uint8) for shape in ((32, 32), (16, 16), (16, 16))]
        path = write_planes(tmp_path / "a.mkv", [plain], "yuv420p", "libx264", sample_aspect_ratio=Fraction(5))
        with pytest.raises(DataError, match="5 times as wide as high"):
            probe_video(path)


class TestInterlaced:
    @pytest.mark.parametrize(("order", "first"), [("tff", 200), ("bff", 40)])
    def test_one_field_is_shown(self, tmp_path, order, first):
        """Two moments woven into each frame: what is shown is the first one alone, by whichever way it is reached."""
        luma = np.full((64, 64), 50, np.uint8)  # grey of 40
        luma[::2] = 188  # grey of 200
        write_interlaced(tmp_path / "a.mp4", luma, 6, order)
        pictures = decode_whole(tmp_path / "a.mp4")
        assert len(pictures) == 6 and np.abs(pictures.astype(int) - first).max() <= 1
        for i in (0, 3, 5):
            (picture,) = decode_video(tmp_path / "a.mp4", [(i + 0.5) / 25])
            assert np.array_equal(picture, pictures[i])

    def test_progressive_frames_keep_every_line(self, tmp_path):
        frame = np.full((64, 64, 3), 40, np.uint8)
        frame[::2] = 200
        path = write_video(tmp_path / "a.mp4", np.stack([frame] * 4))
        assert np.abs(first_of(path).astype(int) - frame)[8:56, 8:56].max() < 40


def write_interlaced(path, luma: np.ndarray, count: int, order: str) -> None:
    """Grey frames of two fields; the encoder takes their order ("tff", "bff") from the frames."""
    height, width = luma.shape
    grey = np.full((height // 2, width // 2), 128, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": f"{order}=1", "qp": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
        for i in range(count):
            frame = planar_frame([luma, grey, grey], "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            graph.push(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())


class TestAlpha:
    @pytest.mark.parametrize(
        ("suffix", "codec", "pixels"),
        [(".mov", "png", "rgba"), (".mov", "qtrle", "argb"), (".webm", "libvpx-vp9", "yuva420p"),
         (".webm", "libvpx", "yuva420p"), (".mov", "prores_ks", "yuva444p10le"), (".mkv", "ffv1", "yuva420p")],
    )  # fmt: skip
    def test_over_white(self, tmp_path, suffix, codec, pixels):
        """Opaque, half and fully transparent red."""
        frame = np.zeros((48, 96, 4), np.uint8)
        frame[...] = (200, 40, 40, 255)
        frame[:, 32:64, 3], frame[:, 64:, 3] = 128, 0
        path = tmp_path / f"a{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10, options={"auto-alt-ref": "0"} if codec == "libvpx" else {})
            stream.height, stream.width, stream.pix_fmt = 48, 96, pixels
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
            container.mux(stream.encode())
        picture = first_of(path).astype(int)
        half = [(value * 128 + 255 * 127) / 255 for value in (200, 40, 40)]
        for at, expected in ((16, (200, 40, 40)), (48, half), (80, (255, 255, 255))):
            assert np.abs(picture[24, at] - expected).max() <= 4
        assert probe_video(path).frames == 4

    def test_transparent_gifs(self, tmp_path):
        frames = []
        for shade in (50, 150):
            image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
            image.paste((shade, 0, 0, 255), (0, 0, 16, 32))
            frames.append(image)
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
        pictures = decode_whole(tmp_path / "a.gif")
        assert [tuple(p[8, 8]) for p in pictures] == [(50, 0, 0), (150, 0, 0)]
        assert all((p[8, 24] == 255).all() for p in pictures)
