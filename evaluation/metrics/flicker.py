"""Flicker: VBench's temporal flickering, and the change of the error where there is a reference."""

from __future__ import annotations

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup


def temporal_flickering(frames: np.ndarray) -> float:
    """(255 - mean absolute difference of neighbouring frames) / 255, of uint8 (F, H, W, 3): 1 stands still."""
    if len(frames) < 2:
        return NOT_MEASURED
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0))
    return float((255 - steps.mean((1, 2, 3)).mean()) / 255)


def error_flicker(seen: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute change of the error from frame to frame, of 255: 0 if the error stands still."""
    return float(np.abs(np.diff(seen.astype(np.float32) - truth, axis=0)).mean())


def _start(_setup: Setup):
    return lambda clip: temporal_flickering(clip.frames)


def _start_error(_setup: Setup):
    def measure(clip: Clip) -> float:
        return error_flicker(clip.frames, clip.reference) if len(clip.frames) > 1 else NOT_MEASURED

    return measure


METRICS = (
    Metric(
        "temporal_flickering", "temporal flickering (VBench)", "higher",
        "VBench's formula: (255 - mean absolute difference of neighbouring frames) / 255, mean over pairs, then clips. "
        "It is VBench's score only on its 75 prompts of that name, 25 samples of each that passed its static filter "
        "(RAFT), which is not run here. Stills score 1.",
        _start, digits=4,
    ),
    Metric(
        "error_flicker", "flicker of the error", "lower",
        "Mean absolute change from frame to frame of the difference from the reference, of 255.",
        _start_error, reference=True, digits=2,
    ),
)  # fmt: skip
