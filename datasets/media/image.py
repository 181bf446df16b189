"""Looking into image files: one picture each, as a viewer shows it.

Contract: pictures are uint8 RGB (H, W, 3), upright, sRGB, over white. 16 bits are divided by 257 and rounded. What has
no stated white (whole numbers of 32 bits, floating point) and files of several pictures are refused. An MPO or a TIFF
with previews is one picture: its first.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from typing import BinaryIO

import av
import av.error
import numpy as np
from PIL import Image, ImageFile

from ..errors import DataError
from .color_profile import to_srgb
from .file import Probed, Source, reason_of
from .orientation import EXIF_ORIENTATIONS, UPRIGHT, Orientation, orient
from .picture import over_white

EXIF_ORIENTATION, TIFF_SUBFILE_TYPE = 0x0112, 254
TIFF_PREVIEW_OR_MASK = 0b101
UNSTATED_WHITE = {"I": "whole numbers of 32 bits", "F": "floating-point numbers"}

BROKEN = (OSError, ValueError, TypeError, SyntaxError, LookupError, ArithmeticError, struct.error, av.error.FFmpegError)

_opening = threading.Lock()  # warnings are filtered per process, not per thread


def probe_image(source: Source) -> Probed:
    """Decode an image once."""
    height, width, _ = decode_image(source).shape
    return Probed(1, 0.0, width, height)


def decode_image(source: Source) -> np.ndarray:
    """(H, W, 3). Raises DataError for what is damaged or cannot be shown right."""
    try:
        # Never by its path: Pillow 13 maps some TIFF files into memory and then turns them twice.
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            image = _open(file)
            _check_single(image)
            image, orientation = _eight_bits(image, file)
            image = to_srgb(image)
            picture = over_white(np.array(image)) if image.mode == "RGBA" else np.array(image)
            return orient(picture, orientation)
    except Image.DecompressionBombError:
        raise DataError(f"too many pixels: more than {2 * Image.MAX_IMAGE_PIXELS}; make it smaller") from None
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(f"not a readable image ({reason_of(error)})") from None


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    """Its header read. What Pillow warns of names no file; what matters of it is an error here."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(file)
        if "exif" in image.info:  # elsewhere nothing is parsed, but PNG files would be decoded
            image.getexif()
        return image


def _check_single(image: ImageFile.ImageFile) -> None:
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if image.format == "TIFF" and count > 1:
        count = 1 + sum(not _is_preview(image, page) for page in range(1, count))
        image.seek(0)
    if count > 1:
        raise DataError(
            f"several pictures in one file: {count}, an animation or pages; save an animation as a video, of pages the "
            "one that is meant"
        )


def _is_preview(image: ImageFile.ImageFile, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(TIFF_SUBFILE_TYPE, 0) & TIFF_PREVIEW_OR_MASK)


def _eight_bits(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[Image.Image, Orientation]:
    """(an image of 8 bits that still has its colour profile, how it is to be turned)."""
    if image.mode in UNSTATED_WHITE:
        raise DataError(f"{UNSTATED_WHITE[image.mode]}, whose white is not stated; save it with 8 or 16 bits")
    grey = image.mode[:4] == "I;16"
    if not grey and _has_16_bits(image):
        levels, tag = _levels_of_16_bits(file), image.getexif().get(EXIF_ORIENTATION)
    else:
        image.load()
        tag = image.getexif().get(EXIF_ORIENTATION)  # gone from TIFF files, which Pillow turns when it loads them
        levels = np.array(image) if grey else None
    if levels is not None:
        profile = image.info.get("icc_profile")
        image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
        image.info["icc_profile"] = profile
    return image, EXIF_ORIENTATIONS.get(tag, UPRIGHT)


def _has_16_bits(image: ImageFile.ImageFile) -> bool:
    arguments = image.tile[0][3] if image.tile else ""
    return ";16" in (arguments if isinstance(arguments, str) else str(arguments[0]))


def _levels_of_16_bits(file: BinaryIO) -> np.ndarray:
    """uint16 (H, W, 4) of a PNG or TIFF file in colour, or with alpha, of which Pillow would drop the lower bytes."""
    file.seek(0)
    with av.open(file) as container:
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise DataError("not a readable image (of 16 bits)")
        return frame.reformat(format="rgba64le").to_ndarray()
