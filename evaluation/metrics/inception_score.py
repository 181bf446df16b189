"""Inception Score of videos (Saito et al. 2020), of C3D's classes of UCF-101."""

from __future__ import annotations

import numpy as np

from ..errors import EvaluationError
from ..statistics import Estimate, percentile_interval, resampled
from .base import Metric, Setup, SetValue
from .weight_files import C3D

CLASSES, SPLITS, DRAWS = 101, 10, 200


def inception_score(probabilities: np.ndarray) -> float:
    """exp(mean KL(p(y | x) || p(y))) of (N, classes): 1 where all clips say the same, at most the number of classes."""
    p = np.maximum(probabilities.astype(np.float64), 1e-16)
    return float(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))


def judge(probabilities: np.ndarray, _real: None) -> SetValue:
    """The mean of SPLITS parts, as published; the interval is of redrawn clips, moved as the Frechet distance's is."""
    sums = probabilities.sum(1)
    if probabilities.min() < -1e-4 or np.abs(sums - 1).max() > 1e-3:
        raise EvaluationError(f"{C3D.name} should give probabilities that sum to 1, got sums up to {sums.max():.3g}")
    if len(probabilities) < 2 * SPLITS:
        raise EvaluationError(f"the Inception Score is the mean of {SPLITS} parts of 2 clips at least, "
                              f"got {len(probabilities)} clips")  # fmt: skip

    def published(p: np.ndarray) -> list[float]:
        return [inception_score(part) for part in np.array_split(p, SPLITS)]

    parts = published(probabilities)
    drawn = np.array([np.mean(published(probabilities[chosen])) for chosen in resampled(len(probabilities), DRAWS)])
    low, high = percentile_interval(drawn - drawn.mean())
    value = float(np.mean(parts))
    notes = {"standard deviation of the parts": float(np.std(parts)), "in one part": inception_score(probabilities)}
    return SetValue(Estimate(value, value + low, value + high), notes, tuple(drawn.tolist()))


def _start(setup: Setup):
    from .torchscript import feature_function, load_network  # torch is slow to import

    network = load_network(setup.path(C3D), setup.device)
    return feature_function(network, lambda video: video, setup.frames, CLASSES, setup.device)


METRICS = (
    Metric(
        "inception_score", "Inception Score", "higher",
        "exp(mean KL(p(y|x) || p(y))) of the probabilities of C3D's 101 classes (c3d_ucf101.pt, called with pixels of "
        f"0 to 255 as StyleGAN-V does) on the first {{frames}} frames; mean of {SPLITS} parts.",
        _start, judge, (C3D,), digits=2,
    ),
)  # fmt: skip
