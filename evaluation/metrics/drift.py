"""Drift of long videos: how far colours go from those of the first part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import Clip, Metric, Setup


def drifts(frames: np.ndarray, borders: Sequence[int]) -> list[float]:
    """Per part, the first included, how far its mean colour is from the first one's: mean of |difference|, of 255.

    frames: uint8 (F, H, W, 3). borders: frames with which the parts after the first begin.
    """
    means = [part.astype(np.float32).mean(axis=(0, 1, 2)) for part in np.split(frames, list(borders))]
    return [float(np.abs(mean - means[0]).mean()) for mean in means]


def _start(setup: Setup):
    def measure(clip: Clip) -> float:
        return drifts(clip.frames, setup.borders)[-1]

    return measure


METRICS = (
    Metric(
        "drift", "drift", "lower",
        "Distance of the mean colour of the last part from that of the first, mean of the three absolute differences, "
        "of 255; parts begin at frames {borders}.",
        _start, borders=True, digits=2,
    ),
)  # fmt: skip
