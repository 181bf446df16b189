"""Warping error (Lai et al., Learning blind video temporal consistency, 2018), with flow that needs no weights."""

from __future__ import annotations

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup
from .flow import backward_flows, forward_flows, has_flow, look_up


def warping_error(frames: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> float:
    """Mean squared difference, colours 0 .. 1, of each frame and the frame before brought along the flow.

    Left out is what was hidden before: |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5, w the flow back and w' the flow forth
    from where it leads (Sundaram et al. 2010). frames (F, H, W, 3), flows (F - 1, H, W, 2).
    """
    errors = []
    for before, after, forth, back in zip(frames[:-1], frames[1:], forward, backward, strict=True):
        returned = look_up(forth, back)
        apart, both = np.square(back + returned).sum(-1), np.square(back).sum(-1) + np.square(returned).sum(-1)
        visible = apart <= 0.01 * both + 0.5  # False where NaN, outside the picture
        if visible.any():
            moved = look_up(before, back)
            errors.append(np.square((moved[visible] - after[visible]) / 255).mean())
    return float(np.mean(errors)) if errors else NOT_MEASURED


def _start(_setup: Setup):
    def measure(clip: Clip) -> float:
        if not has_flow(clip):
            return NOT_MEASURED
        return 1000 * warping_error(clip.frames, forward_flows(clip), backward_flows(clip))

    return measure


METRICS = (
    Metric(
        "warping_error", "warping error, 1/1000", "lower",
        "Mean squared colour difference (0 to 1, times 1000) of each frame and its predecessor warped by DIS flow "
        "(OpenCV, medium preset), where forward and backward flow agree. Lai et al. 2018 use FlowNet2; figures of "
        "other flows are not comparable.",
        _start, digits=3,
    ),
)  # fmt: skip
