"""Video files as arrays and as one picture.

Contract: frames are uint8 arrays (F, H, W, 3), RGB.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from .errors import DataError
from .media.container import frames_of, opened
from .media.picture import Pictures

BT709 = 1  # in ITU-T H.273
SHEET_COLUMNS = 8
SHEET_MIN_CELL = 96  # pixels; smaller frames are enlarged by a whole factor
SHEET_GAP = 4  # pixels


def decode_video(source: bytes | Path | str) -> np.ndarray:
    """All frames of a video file or of its content, as a player shows them. Raises DataError if there are none."""
    with opened(source) as (container, stream):
        pictures = list(Pictures(stream).convert(frames_of(container, stream)))
    if not pictures:
        raise DataError("a video without frames")
    return np.stack(pictures)


def bt709_stream(container, rate, height: int, width: int, **options: str):
    """A stream of an open output for H.264 that says what `bt709_frame` makes; sides are even."""
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = ColorRange.MPEG
    return stream


def bt709_frame(picture: np.ndarray) -> av.VideoFrame:
    """uint8 RGB (H, W, 3) for such a stream."""
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )


def encode_video(frames: np.ndarray, path: Path | str, fps: int) -> None:
    """Write an H.264 file that players show; sides that are odd numbers get one more row or column."""
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        stream = bt709_stream(container, fps, *frames.shape[1:3], crf="12")
        for frame in frames:
            container.mux(stream.encode(bt709_frame(frame)))
        container.mux(stream.encode())


def write_animation(frames: np.ndarray, path: Path | str, fps: float) -> None:
    """Write a WebP picture that moves, again and again, for pages that show pictures but no videos."""
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=80)


def contact_sheet(frames: np.ndarray, columns: int = SHEET_COLUMNS) -> Image.Image:
    """All frames side by side, in reading order, on white."""
    count, height, width, _ = frames.shape
    factor = max(1, -(-SHEET_MIN_CELL // min(height, width)))
    height, width = height * factor, width * factor
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (columns * (width + SHEET_GAP) + SHEET_GAP, rows * (height + SHEET_GAP) + SHEET_GAP)
    sheet = Image.new("RGB", size, "white")
    for i, frame in enumerate(frames):
        row, column = divmod(i, columns)
        cell = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(cell, (SHEET_GAP + column * (width + SHEET_GAP), SHEET_GAP + row * (height + SHEET_GAP)))
    return sheet
