"""Figures of the videos that a training makes on its way: `samples.evaluate` of a recipe names `figures`.

Contract: pixels alone, no weights, seconds a clip; the mean over the clips at which there is something to measure. It
shows collapse (no motion), flicker and blur as curves, and says nothing about prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .manifest import ClipRecord
from .metrics import METRICS
from .metrics.base import Clip, Setup

WATCHED = ("temporal_flickering", "motion_strength", "motion_smoothness_dis", "sharpness")


def figures(videos: Sequence[tuple[str, np.ndarray]]) -> dict[str, float]:
    """{metric: mean} of (caption, uint8 (F, H, W, 3)); a metric that no clip has is left out."""
    measures = {name: METRICS[name].start(Setup()) for name in WATCHED}
    values: dict[str, list[float]] = {name: [] for name in WATCHED}
    for number, (caption, frames) in enumerate(videos):
        count, height, width, _ = frames.shape
        clip = Clip(frames, ClipRecord(str(number), str(number), caption, None, count, width, height, 0.0))
        for name, measure in measures.items():
            values[name].append(measure(clip))
    return {name: float(np.nanmean(found)) for name, found in values.items() if not np.isnan(found).all()}
