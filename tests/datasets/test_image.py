"""Stills as a viewer shows them: orientations, depths, profiles; what cannot be shown right is refused."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.media import decode_image, probe_image
from PIL import Image, ImageCms

# EXIF: where the first stored row and the first stored column are seen (CIPA DC-008, tag 274)
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def seen(stored: np.ndarray, tag: int) -> np.ndarray:
    """Every stored pixel at the place where it is to be seen."""
    height, width = stored.shape[:2]
    row, column = np.mgrid[:height, :width]
    first_row, first_column = SIDES[tag]
    along_rows = row if first_row in ("top", "left") else height - 1 - row
    along_columns = column if first_column in ("left", "top") else width - 1 - column
    y, x = (along_rows, along_columns) if first_row in ("top", "bottom") else (along_columns, along_rows)
    shown = np.zeros((y.max() + 1, x.max() + 1, *stored.shape[2:]), stored.dtype)
    shown[y, x] = stored
    return shown


def png(levels: np.ndarray, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of 16 bits, written by hand: Pillow writes grey ones only."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(levels: np.ndarray, orientation: int = 1) -> bytes:
    """An uncompressed TIFF file of 16-bit RGB, little-endian."""
    height, width, count = levels.shape
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 150), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200),
        (274, 3, 1, orientation), (277, 3, 1, count), (278, 4, 1, height), (279, 4, 1, levels.size * 2),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = struct.pack("<2sHI", b"II", 42, 8) + directory
    return head.ljust(150, b"\0") + struct.pack("<3H", 16, 16, 16).ljust(50, b"\0") + levels.astype("<u2").tobytes()


class TestOrientation:
    @pytest.mark.parametrize("tag", SIDES)
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
    def test_all_eight(self, tmp_path, suffix, tag):
        """Random sizes and pictures, in colour and grey."""
        rng = np.random.default_rng(tag)
        for mode in ("RGB", "L"):
            height, width = rng.integers(8, 40, 2)
            stored = rng.integers(0, 256, (height, width, 3) if mode == "RGB" else (height, width), np.uint8)
            exif = Image.Exif()
            exif[0x0112] = tag
            Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif, lossless=True, quality=100, subsampling=0)
            expected = seen(stored, tag)
            expected = expected if mode == "RGB" else np.repeat(expected[..., None], 3, 2)
            picture = decode_image(tmp_path / f"a{suffix}")
            assert picture.shape == expected.shape
            assert np.abs(picture.astype(int) - expected).max() <= (16 if suffix == ".jpg" else 0)

    @pytest.mark.parametrize("tag", SIDES)
    def test_of_16_bits(self, tmp_path, tag):
        rng = np.random.default_rng(tag)
        color = rng.integers(0, 65536, (9, 14, 3))
        assert np.array_equal(decode_image(tiff(color, tag)), seen(np.rint(color / 257).astype(np.uint8), tag))
        grey = rng.integers(0, 65536, (9, 14)).astype(np.uint16)
        expected = np.repeat(seen(np.rint(grey / 257).astype(np.uint8), tag)[..., None], 3, 2)
        exif = Image.Exif()
        exif[0x0112] = tag
        for suffix in (".png", ".tif"):
            Image.fromarray(grey).save(tmp_path / f"a{suffix}", exif=exif)
            assert np.array_equal(decode_image(tmp_path / f"a{suffix}"), expected)

    @pytest.mark.parametrize("tag", [0, 9, 65535])
    def test_tags_that_mean_nothing(self, tmp_path, tag):
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.new("RGB", (8, 4)).save(tmp_path / "a.png", exif=exif)
        assert decode_image(tmp_path / "a.png").shape == (4, 8, 3)


class TestDepth:
    @pytest.mark.parametrize("kind", ["grey png", "grey tif", "rgb png", "rgb tif", "grey alpha png", "rgb alpha png"])
    def test_16_bits_are_divided_by_257(self, tmp_path, kind):
        """All 65536 levels; alpha lays them over white."""
        levels = np.random.default_rng(0).permutation(65536).reshape(256, 256)
        alpha = np.random.default_rng(1).choice([0, 65535], levels.shape)
        color = np.stack([levels, levels[::-1], levels.T], -1)
        if kind.startswith("grey") and "alpha" not in kind:
            path = tmp_path / f"a.{kind[-3:]}"
            Image.fromarray(levels.astype(np.uint16)).save(path)
            expected = np.repeat(levels[..., None], 3, 2)
        else:
            path, expected = tmp_path / f"a.{kind[-3:]}", color
            if kind == "rgb tif":
                path.write_bytes(tiff(color))
            elif kind == "rgb png":
                path.write_bytes(png(color, 2))
            elif kind == "rgb alpha png":
                path.write_bytes(png(np.concatenate([color, alpha[..., None]], -1), 6))
            else:
                path.write_bytes(png(np.stack([levels, alpha], -1), 4))
                expected = np.repeat(levels[..., None], 3, 2)
        exact = expected / 257
        if "alpha" in kind:
            share = alpha[..., None] / 65535
            exact = exact * share + 255 * (1 - share)
        error = decode_image(path) - exact
        assert np.abs(error).max() <= 0.5

    @pytest.mark.parametrize(("mode", "reason"), [("I", "whole numbers of 32 bits"), ("F", "floating-point numbers")])
    def test_what_has_no_white_is_refused(self, tmp_path, mode, reason):
        Image.new(mode, (8, 8), 1).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=f"{reason}, whose white is not stated; save it with 8 or 16 bits"):
            probe_image(tmp_path / "a.tif")

    @pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGBA", "PA"])
    def test_8_bits_and_fewer_are_untouched(self, tmp_path, mode):
        grey = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[None], 8, 0)
        image = Image.fromarray(grey * 0 + 255 if mode == "1" else grey).convert(mode)
        image.save(tmp_path / "a.tif" if mode == "PA" else tmp_path / "a.png")
        picture = decode_image(tmp_path / "a.tif" if mode == "PA" else tmp_path / "a.png")
        assert np.array_equal(picture[..., 0], grey * 0 + 255 if mode == "1" else grey)


def rgb_profile(gamma: float) -> bytes:
    """A matrix profile of BT.709's primaries, adapted to D50, with a power for each channel (ICC.1, 8.3)."""
    primaries = [(0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {
        b"desc": text,
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    tags |= {
        name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, content, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value = value.ljust(-(-len(value) // 4) * 4, b"\0")
        table += name + struct.pack(">II", place + len(content), len(value))
        content += value
    head = struct.pack(">I4sI4s4s4s", place + len(content), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head = (head.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def srgb_of_light(light: np.ndarray) -> np.ndarray:
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


class TestProfiles:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
    def test_another_gamma(self, tmp_path, suffix):
        """Grey of a linear profile, as sRGB writes that light; transparent and opaque."""
        grey = np.repeat(np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None], 8, 0)[..., None], 3, 2)
        expected = srgb_of_light(grey / 255.0)
        for alpha in (False, True):
            if alpha and suffix == ".jpg":
                continue
            image = Image.fromarray(grey)
            if alpha:
                image.putalpha(255)
            image.save(tmp_path / f"a{suffix}", icc_profile=rgb_profile(1.0), lossless=True, quality=100)
            assert np.abs(decode_image(tmp_path / f"a{suffix}") - expected).max() <= 3

    def test_of_16_bits(self):
        levels = np.repeat(np.repeat(np.arange(0, 65536, 4096)[None], 8, 0)[..., None], 3, 2)
        profile = (b"iCCP", b"test\0\0" + zlib.compress(rgb_profile(1.0)))
        assert np.abs(decode_image(png(levels, 2, profile)) - srgb_of_light(levels / 65535)).max() <= 3

    @pytest.mark.parametrize("profile", ["sRGB", "broken"])
    def test_what_changes_nothing(self, tmp_path, profile):
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        content = (
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if profile == "sRGB" else b"x" * 200
        )
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=content)
        assert np.array_equal(decode_image(tmp_path / "a.png"), pixels)


class TestSeveralPictures:
    @pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".tiff"])
    @pytest.mark.parametrize("count", [2, 5])
    def test_are_refused(self, tmp_path, suffix, count):
        pictures = [Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(count)]
        pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:])
        with pytest.raises(DataError, match=f"several pictures in one file: {count}, an animation or pages"):
            probe_image(tmp_path / f"a{suffix}")

    def test_a_telephone_s_second_picture_is_no_second_one(self, tmp_path):
        """MPO: JPEG files that carry a depth or gain map, or a second eye, behind the picture."""
        Image.new("RGB", (32, 16), "red").save(
            tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8), "blue")]
        )
        assert np.abs(decode_image(tmp_path / "a.jpg")[8, 16].astype(int) - (255, 0, 0)).max() < 8

    def test_a_preview_is_none_either(self, tmp_path):
        from PIL.TiffImagePlugin import AppendingTiffWriter, ImageFileDirectory_v2

        preview = ImageFileDirectory_v2()
        preview[254] = 1
        with AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
            Image.new("RGB", (32, 16), "red").save(file, "TIFF")
            file.newFrame()
            Image.new("RGB", (16, 8), "blue").save(file, "TIFF", tiffinfo=preview)
        assert decode_image(tmp_path / "a.tif").shape == (16, 32, 3)


def test_a_large_image_warns_of_nothing(tmp_path, monkeypatch):
    """Pillow's warning names no file; twice its limit is an error that prepare names."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "huge.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe_image(tmp_path / "large.png").width == 40
        with pytest.raises(DataError, match="too many pixels: more than 2000"):
            probe_image(tmp_path / "huge.png")
