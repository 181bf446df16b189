"""Seams of long videos: how much more frames differ where a clip or window begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup


def seams(frames: np.ndarray, borders: Sequence[int]) -> np.ndarray:
    """(borders,) mean absolute difference of the frames before and at each border, in parts of that elsewhere.

    frames: uint8 (F, H, W, 3). borders: frames, 1 .. F - 1, with which parts begin. 1 is no seam; where all else stands
    still it is infinite, or NaN if the border does too.
    """
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))  # steps[i] leads to frame i + 1
    places = np.array(borders, int) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return steps[places] / np.delete(steps, places).mean()


def _start(setup: Setup):
    def measure(clip: Clip) -> float:
        found = seams(clip.frames, setup.borders)
        return float(found.mean()) if np.isfinite(found).all() else NOT_MEASURED

    return measure


METRICS = (
    Metric(
        "seams", "seams", "lower",
        "Mean absolute difference of neighbouring frames where parts begin ({borders}), in parts of that elsewhere; 1 "
        "is no seam. Not measured where all else stands still.",
        _start, borders=True, digits=2,
    ),
)  # fmt: skip
