"""Technical facts: black bars with the crop that removes them, frames that stand still, flicker.

A frame stands still if it differs from the one before by less than the noise of an encoder; single ones among moving
frames are duplicates, as a wrong conversion of the frame rate leaves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shots import Shot
from .base import Stage

STILL = 0.12  # levels, mean absolute difference
RUN = 3  # so many still frames in a row are a standstill, fewer are duplicates


@dataclass(frozen=True)
class Technical(Stage):
    """black: levels up to which a row or column counts as a bar. min_bar: share of the side that bars begin at."""

    black: int = 24
    min_bar: float = 0.02

    name = "technical"
    columns = {
        "crop_left": "int32", "crop_top": "int32", "crop_width": "int32", "crop_height": "int32",
        "bars": "float64", "frozen": "float64", "duplicated": "float64", "change": "float64",
    }  # fmt: skip

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """bars: share of the picture; frozen, duplicated: shares of frames; change: mean, in levels."""
        return [self._look(shot) for shot in shots]

    def _look(self, shot: Shot) -> dict[str, Any]:
        left, top, width, height = self.find_crop(shot.pixels.stills)
        still = shot.pixels.changes < STILL
        frozen = _in_runs(still)
        return {
            "crop_left": left, "crop_top": top, "crop_width": width, "crop_height": height,
            "bars": 1 - width * height / (shot.width * shot.height),
            "frozen": float(frozen.mean()) if len(still) else 1.0,
            "duplicated": float((still & ~frozen).mean()) if len(still) else 0.0,
            "change": float(shot.pixels.changes.mean()) if len(still) else 0.0,
        }  # fmt: skip

    def find_crop(self, pictures: Sequence[np.ndarray]) -> tuple[int, int, int, int]:
        """(left, top, width, height) of what is not a black bar in any picture; all of it if all is black."""
        brightest = np.max([picture.max(2) for picture in pictures], axis=0)
        height, width = brightest.shape
        # The 98th percentile of a line: noise and a logo's corner in a bar do not make it a picture.
        rows = np.flatnonzero(np.percentile(brightest, 98, axis=1) > self.black)
        columns = np.flatnonzero(np.percentile(brightest, 98, axis=0) > self.black)
        if not len(rows) or not len(columns):
            return 0, 0, width, height
        top, bottom = self._edges(rows, height)
        left, right = self._edges(columns, width)
        return left, top, right - left, bottom - top

    def _edges(self, bright: np.ndarray, side: int) -> tuple[int, int]:
        """First and after-last line of the picture; bars narrower than `min_bar` are left."""
        first, after = int(bright[0]), int(bright[-1]) + 1
        least = self.min_bar * side
        return (first if first >= least else 0), (after if side - after >= least else side)


def _in_runs(still: np.ndarray) -> np.ndarray:
    """Which of `still` stand in runs of at least RUN."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(np.int8)))
    found = np.zeros(len(still), bool)
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        found[first:after] = after - first >= RUN
    return found
