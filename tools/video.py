"""Video files as arrays and as one picture.

Contract: frames are uint8 arrays (F, H, W, 3), RGB.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

SHEET_COLUMNS = 8
SHEET_MIN_CELL = 96  # pixels; smaller frames are enlarged by a whole factor
SHEET_GAP = 4  # pixels


def decode_video(source: bytes | Path | str) -> np.ndarray:
    """All frames of a video file or of its content."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode_video(frames: np.ndarray, path: Path | str, fps: int) -> None:
    """Write an H.264 file that players show; sides that are odd numbers get one more row or column."""
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


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
