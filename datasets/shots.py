"""A shot: an uncut part of a video file, what is known of it, and the pictures that stages look at.

Contract: every stage sees the same pictures, decoded once: whole ones for what needs detail, small ones at a fixed
pace for motion, and how much each frame differs from the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .errors import DataError
from .media.container import opened
from .media.picture import Pictures
from .media.video import CLOSE, frames_between
from .sources.base import open_locator

STILLS = (1 / 6, 1 / 2, 5 / 6)  # where in a shot whole pictures are taken
SERIES_SECONDS = 0.5  # from one small picture to the next
SERIES_SIDE = 256  # pixels of the longer side of small pictures
THUMBNAIL = (64, 36)  # width, height in which frames are compared


@dataclass(frozen=True, eq=False)
class Pixels:
    """What stages see of a shot. Equal to itself alone, so that what one stage makes of it others find again.

    Attributes:
        stills: uint8 (H, W, 3), RGB, whole, at STILLS.
        series: uint8 (N, h, w, 3), RGB, `pace` seconds apart; one picture at least.
        changes: float32 (frames - 1,): mean absolute difference of each thumbnail from the one before, levels of 255.
    """

    stills: tuple[np.ndarray, ...]
    series: np.ndarray
    pace: float
    changes: np.ndarray


@dataclass(frozen=True)
class Shot:
    """Frames from `start` to `end` seconds after the first frame of a file.

    Attributes:
        locator: of the part, as catalogues have it; "origin" is the file's own time of the shot's first frame.
        width, height: upright. captions: those of its file. row: columns that earlier stages have written.
    """

    key: str
    locator: dict[str, Any]
    frames: int
    fps: float
    width: int
    height: int
    captions: tuple[str, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)
    pixels: Pixels | None = None

    @property
    def seconds(self) -> float:
        """From its first frame to the end of its last."""
        return self.frames / self.fps if self.fps else 0.0


def read_pixels(shot: Shot) -> Pixels:
    """Decode a shot once from end to end. Raises DataError if its frames are not what they were."""
    step = max(1, min(round(SERIES_SECONDS * shot.fps), (shot.frames - 1) // 2))
    series_at = set(range(step // 2, shot.frames, step))
    stills_at = [int(share * shot.frames) for share in STILLS]
    pictures: dict[int, np.ndarray] = {}
    small, thumbnails = [], []
    wanted = sorted(series_at | set(stills_at))
    for picture, index in zip(_chosen_pictures(shot, set(wanted), thumbnails), wanted, strict=False):
        if index in stills_at:
            pictures[index] = picture
        if index in series_at:
            small.append(_shrunk(picture))
    if len(thumbnails) != shot.frames:
        raise DataError(f"expected {shot.frames} frames, got {len(thumbnails)}: the file changed while it was read")
    frames = np.stack(thumbnails).astype(np.int16)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2)).astype(np.float32)
    pace = step / shot.fps if shot.fps else 0.0
    return Pixels(tuple(pictures[i] for i in stills_at), np.stack(small), pace, changes)


def _chosen_pictures(shot: Shot, wanted: set[int], thumbnails: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures of the frames `wanted`; thumbnails of all frames are appended as they come by."""
    begin = shot.locator["origin"] - CLOSE
    until = begin + shot.locator["end"] - shot.locator["start"]

    def choose(frames):
        for index, frame in enumerate(frames):
            thumbnails.append(frame.reformat(*THUMBNAIL, format="gray").to_ndarray())
            if index in wanted:
                yield frame

    with opened(open_locator(shot.locator)) as (container, stream):
        yield from Pictures(stream).convert(choose(frames_between(container, stream, begin, until)))


def _shrunk(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    factor = min(1.0, SERIES_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
