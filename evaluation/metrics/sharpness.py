"""Sharpness: of a clip by itself, and across the edges of a reference."""

from __future__ import annotations

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup

_EDGE = 0.2  # of the clip's steepest slope; what is at least so steep in the truth is an edge
_LUMA = np.float32([0.299, 0.587, 0.114])


def sharpness(frames: np.ndarray) -> float:
    """Root mean square of the Laplacian of luma, of 255; uint8 (F, H, W, 3). Noise counts as sharp."""
    luma = frames @ _LUMA
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return float(np.sqrt(np.square(around - 4 * inner).mean()))


def edge_sharpness(seen: np.ndarray, truth: np.ndarray) -> float:
    """Slope of luma across the truth's edges, along the truth's own gradient, in parts of the truth's slope there.

    1 is as sharp as the truth, in the right place; noise adds nothing on average.
    """
    seen_slope, true_slope = _gradient(seen), _gradient(truth)
    steepness = np.square(true_slope).sum(0)
    edge = steepness >= _EDGE**2 * steepness.max()
    return float((seen_slope * true_slope).sum(0)[edge].sum() / steepness[edge].sum())


def _gradient(frames: np.ndarray) -> np.ndarray:
    """(2, F, H, W) of luma, along y and x."""
    return np.stack(np.gradient(frames @ _LUMA, axis=(1, 2)))


def _start(_setup: Setup):
    return lambda clip: sharpness(clip.frames)


def _start_edges(_setup: Setup):
    def measure(clip: Clip) -> float:
        flat = np.ptp(clip.reference @ _LUMA) == 0
        return NOT_MEASURED if flat else edge_sharpness(clip.frames, clip.reference)

    return measure


METRICS = (
    Metric(
        "sharpness", "sharpness", "",
        "Root mean square of the Laplacian (4 neighbours) of luma, of 255. It depends on what is shown, and noise "
        "counts as sharp: compare clips of the same prompts.",
        _start, digits=2,
    ),
    Metric(
        "edge_sharpness", "edge sharpness", "",
        "Slope of luma across the reference's edges (at least a fifth of its steepest slope), along its gradient, in "
        "parts of the slope there; 1 is as sharp as the reference.",
        _start_edges, reference=True, digits=3,
    ),
)  # fmt: skip
