"""How much and how evenly things move, by optical flow without weights. Our own figures, not VBench's."""

from __future__ import annotations

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup
from .flow import forward_flows, has_flow, look_up

TOP = 0.05  # share of the pixels that stand for what moves
LEAST_MOTION = 0.1  # pixels a frame, of what moves; below that there is nothing whose evenness could be told
DYNAMIC = 6 / 256  # of the short side, from frame to frame, at 8 frames per second: VBench's bound
DYNAMIC_PAIRS = 4 / 16  # share of the pairs that must pass it


def motion_strengths(clip: Clip) -> np.ndarray:
    """(F - 1,) mean speed of the fastest 5 % of the pixels of each pair, in parts of the short side."""
    flows = forward_flows(clip)
    speed = np.linalg.norm(flows, axis=-1).reshape(len(flows), -1)
    fastest = max(1, round(TOP * speed.shape[1]))
    top = np.partition(speed, -fastest, axis=1)[:, -fastest:]
    return top.mean(1) / min(flows.shape[1:3])


def motion_smoothness(flows: np.ndarray) -> float:
    """1 - sum |v' - v| / sum (|v'| + |v|) over the pixels of flows (T, H, W, 2); v' is the next flow where v leads to.

    1 for constant velocity, 0 where every motion turns back or stops; NOT_MEASURED where hardly anything moves.
    """
    changed = moved = 0.0
    count = 0
    for now, following in zip(flows[:-1], flows[1:], strict=True):
        then = look_up(following, now)
        seen = ~np.isnan(then[..., 0])
        speeds = np.linalg.norm(then[seen], axis=-1) + np.linalg.norm(now[seen], axis=-1)
        changed += float(np.linalg.norm(then[seen] - now[seen], axis=-1).sum())
        moved += float(speeds.sum())
        count += int((speeds > 2 * LEAST_MOTION).sum())
    return 1 - changed / moved if count else NOT_MEASURED


def _start_strength(_setup: Setup):
    def measure(clip: Clip) -> float:
        return 100 * float(motion_strengths(clip).mean()) if has_flow(clip) else NOT_MEASURED

    return measure


def _start_dynamic(_setup: Setup):
    def measure(clip: Clip) -> float:
        if not has_flow(clip):
            return NOT_MEASURED
        strong = motion_strengths(clip) > DYNAMIC
        return float(strong.sum() >= max(1, round(DYNAMIC_PAIRS * len(clip.frames))))

    return measure


def _start_smoothness(_setup: Setup):
    def measure(clip: Clip) -> float:
        return motion_smoothness(forward_flows(clip)) if has_flow(clip) else NOT_MEASURED

    return measure


METRICS = (
    Metric(
        "motion_strength", "motion strength, %", "",
        "DIS flow (OpenCV, medium preset) of neighbouring frames: mean speed of the fastest 5 % of the pixels, percent "
        "of the short side a frame, mean over pairs.",
        _start_strength, digits=2,
    ),
    Metric(
        "dynamic_degree_dis", "dynamic clips (DIS)", "",
        "A clip is dynamic if the speed of its fastest 5 % passes 6/256 of the short side a frame in a quarter of its "
        "frames or more. After VBench's dynamic degree, with DIS flow instead of RAFT and all frames instead of 8 a "
        "second: not VBench's figure.",
        _start_dynamic, rate=True,
    ),
    Metric(
        "motion_smoothness_dis", "motion smoothness (DIS)", "higher",
        "1 - sum |v' - v| / sum (|v'| + |v|) over all pixels and frames; v is the DIS flow of a pixel, v' the next "
        "frame's flow where it leads to. 1 for constant velocity, 0 for motion that turns back. Our own, not VBench's.",
        _start_smoothness,
    ),
)  # fmt: skip
