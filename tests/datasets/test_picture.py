"""Colours of frames as a viewer sees them, by closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.media import decode_video, probe_video
from comfyui_lavie.datasets.video import decode_video as decode_whole
from comfyui_lavie.datasets.video import encode_video
from comfyui_lavie.tests.media import write_planes

# name: number in H.273, share of red and blue in luma
MATRICES = {"709": (1, 0.2126, 0.0722), "601": (6, 0.299, 0.114), "470bg": (5, 0.299, 0.114), "240m": (7, 0.212, 0.087)}
PQ, HLG, BT2020 = 16, 18, 9


def yuv_of(rgb, red: float, blue: float, full: bool = False, bits: int = 8) -> np.ndarray:
    """Whole numbers (Y, Cb, Cr) of colours 0 .. 1, (..., 3)."""
    r, g, b = np.moveaxis(np.asarray(rgb, float), -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    top, one = (1 << bits) - 1, 1 << (bits - 8)
    if full:
        values = [top * y, top * cb + 128 * one, top * cr + 128 * one]
    else:
        values = [(219 * y + 16) * one, (224 * cb + 128) * one, (224 * cr + 128) * one]
    return np.clip(np.rint(np.stack(values, -1)), 0, top).astype(np.uint8 if bits == 8 else np.uint16)


def rgb_of(yuv, red: float, blue: float, full: bool = False, bits: int = 8) -> np.ndarray:
    """Colours 0 .. 255, unrounded."""
    y, cb, cr = np.moveaxis(np.asarray(yuv, float), -1, 0)
    top, one = (1 << bits) - 1, 1 << (bits - 8)
    if full:
        y, cb, cr = y / top, (cb - 128 * one) / top, (cr - 128 * one) / top
    else:
        y, cb, cr = (y / one - 16) / 219, (cb / one - 128) / 224, (cr / one - 128) / 224
    r, b = y + (2 - 2 * red) * cr, y + (2 - 2 * blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 1) * 255


def patches(colors: np.ndarray, size: int = 8) -> np.ndarray:
    """(n, 3) as a row of squares, (size, n size, 3)."""
    return np.repeat(np.repeat(colors[None], size, 0), size, 1)


def centres(picture: np.ndarray, size: int = 8) -> np.ndarray:
    return picture[size // 2, size // 2 :: size].astype(int)


def write_colors(path, yuv: np.ndarray, pixels: str = "yuv420p", **facts):
    """A row of squares of these (n, 3) numbers."""
    y, cb, cr = np.moveaxis(patches(yuv), -1, 0)
    down, across = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[pixels[3:6]]
    return write_planes(path, [[y, cb[::down, ::across], cr[::down, ::across]]] * 2, pixels, **facts)


def first_of(path) -> np.ndarray:
    """The first picture; all ways to it agree."""
    found = probe_video(path)
    (picture,) = decode_video(path, [found.origin + 0.01])
    assert np.array_equal(picture, decode_whole(path)[0]) and picture.shape == (found.height, found.width, 3)
    return picture


class TestColor:
    @pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le"])
    @pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
    @pytest.mark.parametrize("matrix", MATRICES)
    def test_what_the_file_says_is_honoured(self, tmp_path, matrix, full, pixels):
        """Random colours and a grey ramp of every matrix, range and depth; on average neither darker nor lighter."""
        rng = np.random.default_rng(sum(map(ord, matrix + pixels)) + full)
        colors = np.concatenate([rng.random((24, 3)), np.repeat(rng.random((24, 1)), 3, 1)])
        number, *shares = MATRICES[matrix]
        bits = 8 if pixels[-1] == "p" else int(pixels[-4:-2])
        yuv = yuv_of(colors, *shares, full, bits)
        path = write_colors(tmp_path / "a.mkv", yuv, pixels, colorspace=number, color_range=2 if full else 1)
        error = centres(first_of(path)) - rgb_of(yuv, *shares, full, bits)
        deep = full and bits > 8  # libswscale takes 1020 of 1023 for white
        assert np.abs(error).max() < (1.6 if deep else 1.2) and -0.2 < error.mean() < (0.6 if deep else 0.2)

    def test_the_reported_color(self, tmp_path):
        """(200, 60, 40) of BT.709 was read as (186, 46, 41) by BT.601."""
        yuv = yuv_of([[200 / 255, 60 / 255, 40 / 255]] * 4, *MATRICES["709"][1:])
        facts = dict(codec="libx264", options={"qp": "0"}, colorspace=1, color_range=1)
        path = write_colors(tmp_path / "a.mp4", yuv, **facts)
        assert np.abs(centres(first_of(path)) - (200, 60, 40)).max() <= 1

    @pytest.mark.parametrize(
        ("width", "height", "matrix"),
        [
            (64, 64, "601"),
            (720, 576, "601"),
            (1024, 576, "601"),
            (64, 578, "709"),
            (1280, 720, "709"),
            (1280, 64, "709"),
        ],
    )
    def test_untagged_files_are_read_as_players_do(self, tmp_path, width, height, matrix):
        yuv = yuv_of([200 / 255, 60 / 255, 40 / 255], *MATRICES[matrix][1:])
        planes = [np.full(shape, value, np.uint8) for shape, value in
                  zip([(height, width), *[(height // 2, width // 2)] * 2], yuv, strict=True)]  # fmt: skip
        path = write_planes(tmp_path / "a.mkv", [planes], "yuv420p")
        assert np.abs(first_of(path)[height // 2, width // 2].astype(int) - (200, 60, 40)).max() <= 1

    @pytest.mark.parametrize("size", [(48, 64), (720, 1280)], ids=["small", "large"])
    def test_what_we_write_is_read_back(self, tmp_path, size):
        encode_video(np.broadcast_to(np.array([200, 60, 40], np.uint8), (2, *size, 3)), tmp_path / "a.mp4", 8)
        assert np.abs(first_of(tmp_path / "a.mp4")[8, 8].astype(int) - (200, 60, 40)).max() <= 1

    @pytest.mark.parametrize(
        ("pixels", "codec"), [("gray", "ffv1"), ("gray10le", "ffv1"), ("gbrp10le", "ffv1"), ("rgb24", "png")]
    )
    def test_grey_and_rgb_videos(self, tmp_path, pixels, codec):
        bits = 10 if "10" in pixels else 8
        levels = np.linspace(0, (1 << bits) - 1, 32).astype(np.uint8 if bits == 8 else np.uint16)
        colors = patches(np.repeat(levels[:, None], 3, 1))
        planes = [colors] if pixels == "rgb24" else [colors[..., 0]] * (1 if "gray" in pixels else 3)
        path = write_planes(tmp_path / "a.mov" if codec == "png" else tmp_path / "a.mkv", [planes], pixels, codec)
        error = centres(first_of(path)) - levels[:, None] / ((1 << bits) - 1) * 255
        assert np.abs(error).max() < (1.3 if bits == 10 else 0.01)

    @pytest.mark.parametrize(
        ("facts", "reason"),
        [({"colorspace": 8}, r"colour matrix \(8 of H\.273\)"), ({"color_trc": 9}, r"transfer characteristics \(9")],
        ids=["YCgCo", "logarithmic"],
    )
    def test_what_cannot_be_read_right_is_refused(self, tmp_path, facts, reason):
        path = write_colors(tmp_path / "a.mkv", yuv_of(np.zeros((4, 3)), 0.299, 0.114), **facts)
        with pytest.raises(DataError, match=reason):
            probe_video(path)


def sdr_of_hdr(rgb, transfer: int) -> list[float]:
    """One colour, R'G'B' of BT.2020 0 .. 1, by BT.2100 and method A of BT.2446, as 0 .. 255 of BT.709."""
    if transfer == PQ:

        def light(e):
            p = e ** (1 / (2523 / 4096 * 128))
            return min(1.0, 10 * (max(p - 3424 / 4096, 0) / (2413 / 4096 * 32 - 2392 / 4096 * 32 * p)) ** (8192 / 1305))

        shown = [light(e) for e in rgb]
    else:
        scene = [e * e / 3 if e <= 0.5 else (math.exp((e - 0.55991073) / 0.17883277) + 0.28466892) / 12 for e in rgb]
        gain = (0.2627 * scene[0] + 0.678 * scene[1] + 0.0593 * scene[2]) ** 0.2
        shown = [gain * e for e in scene]
    r, g, b = (max(0.0, e) ** (1 / 2.4) for e in shown)
    y = 0.2627 * r + 0.678 * g + 0.0593 * b
    rho_hdr, rho_sdr = 1 + 32 * 0.1 ** (1 / 2.4), 1 + 32 * 0.01 ** (1 / 2.4)
    p = math.log(1 + (rho_hdr - 1) * y) / math.log(rho_hdr)
    if p <= 0.7399:
        p *= 1.077
    elif p < 0.9909:
        p = -1.151 * p * p + 2.7811 * p - 0.6302
    else:
        p = 0.5 * p + 0.5
    mapped = (rho_sdr**p - 1) / (rho_sdr - 1)
    ratio = mapped / (1.1 * y) if y else 0.0
    cb, cr = ratio * (b - y) / 1.8814, ratio * (r - y) / 1.4746
    y = mapped - max(0.1 * cr, 0)
    r, b = y + 1.4746 * cr, y + 1.8814 * cb
    g = (y - 0.2627 * r - 0.0593 * b) / 0.678
    return narrowed([r, g, b])


def narrowed(rgb) -> list[float]:
    """BT.2020 to BT.709 through linear light, 0 .. 255; the matrix from the chromaticities of both."""
    light = to_xyz([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
    wide = to_xyz([(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)])
    linear = np.linalg.solve(light, wide @ np.clip(rgb, 0, 1) ** 2.4)
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.4)


def to_xyz(primaries) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


class TestHDR:
    @pytest.mark.parametrize("transfer", [PQ, HLG], ids=["PQ", "HLG"])
    def test_tone_mapping(self, tmp_path, transfer):
        """Random colours and a grey ramp against the formulas of the recommendations, one colour at a time."""
        rng = np.random.default_rng(transfer)
        colors = np.concatenate([np.repeat(np.linspace(0, 1, 16)[:, None], 3, 1), rng.random((32, 3))])
        yuv = yuv_of(colors, 0.2627, 0.0593, bits=10)
        facts = dict(colorspace=BT2020, color_primaries=BT2020, color_trc=transfer, color_range=1)
        seen = centres(first_of(write_colors(tmp_path / "a.mkv", yuv, "yuv444p10le", **facts)))
        coded = rgb_of(yuv, 0.2627, 0.0593, bits=10) / 255
        expected = np.array([sdr_of_hdr(color, transfer) for color in coded])
        assert np.abs(seen - expected).max() < 2.5 and np.abs(seen - expected)[:16].max() < 1
        assert seen[0].max() == 0 and seen[15].min() >= 254 and (np.diff(seen[:16, 0]) >= 0).all()

    def test_an_hdr_telephone_s_file(self, tmp_path):
        """H.264 of 10 bits in MP4, tagged HLG."""
        yuv = yuv_of([[0.75, 0.75, 0.75]] * 8, 0.2627, 0.0593, bits=10)
        facts = dict(colorspace=BT2020, color_primaries=BT2020, color_trc=HLG, color_range=1)
        path = write_colors(tmp_path / "a.mp4", yuv, "yuv420p10le", codec="libx264", options={"qp": "0"}, **facts)
        assert np.abs(centres(first_of(path)) - sdr_of_hdr((0.75, 0.75, 0.75), HLG)).max() < 1.5

    def test_wide_gamut_without_hdr(self, tmp_path):
        colors = np.random.default_rng(0).random((24, 3))
        yuv = yuv_of(colors, 0.2627, 0.0593, bits=10)
        facts = dict(colorspace=BT2020, color_primaries=BT2020, color_trc=14, color_range=1)
        seen = centres(first_of(write_colors(tmp_path / "a.mkv", yuv, "yuv444p10le", **facts)))
        expected = [narrowed(color) for color in rgb_of(yuv, 0.2627, 0.0593, bits=10) / 255]
        assert np.abs(seen - expected).max() < 2.5
