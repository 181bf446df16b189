"""What a media file is read from, what a look into it finds, and how its failures read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

Source = str | Path | bytes


@dataclass(frozen=True)
class Probed:
    """What a file holds: frames of the segment asked for, frames per second, upright size, seconds of frame 0."""

    frames: int
    fps: float
    width: int
    height: int
    origin: float = 0.0


def readable(source: Source) -> str | io.BytesIO:
    """What PyAV and Pillow open."""
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def reason_of(error: Exception) -> str:
    """An exception of PyAV or Pillow in one line."""
    return getattr(error, "strerror", None) or str(error).replace("\n", " ") or type(error).__name__
