"""The Frechet distance of two sets of features, as if both were Gaussian, with its noise and its bias.

Contract: covariances are divided by the number of clips, as StyleGAN-V's and cd-fvd's are. The trace of the square root
of C1 C2 is the sum of the roots of the eigenvalues of C2^(1/2) C1 C2^(1/2), which is symmetric: no complex numbers, no
rank asked for.
"""

from __future__ import annotations

import numpy as np

from ..errors import EvaluationError
from ..statistics import Estimate, percentile_interval, resampled
from .base import SetValue

DRAWS, HALVES = 200, 8


class FromReal:
    """The distance of sets of features from a real one (M, D), whose part of the work is done once."""

    def __init__(self, real: np.ndarray):
        self.mean, centred = _centred(real)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        values = np.maximum(values, 0)
        self.root, self.trace = (vectors * np.sqrt(values)) @ vectors.T, values.sum()

    def __call__(self, features: np.ndarray) -> float:
        """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of features (N, D) (Dowson and Landau 1982)."""
        middle, centred = _centred(features)
        if len(centred) < len(self.root):  # X X^T and X^T X have the same eigenvalues but for zeros
            crossed = centred @ self.root
            square = crossed @ crossed.T
        else:
            square = self.root @ (centred.T @ centred) @ self.root
        shared = np.sqrt(np.maximum(np.linalg.eigvalsh(square / len(features)), 0)).sum()
        trace = np.square(centred).sum() / len(features)
        return float(np.square(middle - self.mean).sum() + trace + self.trace - 2 * shared)


def distance_of_sets(one: np.ndarray, other: np.ndarray) -> float:
    """Of features (N, D) and (M, D)."""
    return FromReal(other)(one)


def judge_frechet(made: np.ndarray, real: np.ndarray | None) -> SetValue:
    """The distance of made clips from real ones.

    The interval is the spread of distances of redrawn made clips around the distance, the real set being part of the
    protocol. A redraw repeats clips, which lengthens distances: their mean is moved to the distance. The bias of few
    clips falls like 1 / clips, so that what endless sets would have follows from half of both (Chong and Forsyth 2020).
    """
    if real is None or min(len(made), len(real)) < 4:
        raise EvaluationError(f"a Frechet distance needs 4 made and 4 real clips at least, got {len(made)} and "
                              f"{0 if real is None else len(real)}")  # fmt: skip
    distance = FromReal(real)
    whole = distance(made)
    drawn = np.array([distance(made[chosen]) for chosen in resampled(len(made), DRAWS)])
    low, high = percentile_interval(drawn - drawn.mean())
    rng = np.random.default_rng(0)
    halves = [[rng.permutation(len(features)) for features in (made, real)] for _ in range(HALVES)]
    half = np.mean([distance_of_sets(made[a[::2]], real[b[::2]]) for a, b in halves])
    floor = np.mean([distance_of_sets(real[b[::2]], real[b[1::2]]) for _, b in halves])
    notes = {"of half the clips": half, "of endless clips": 2 * whole - half, "real halves apart": floor}
    notes = {name: float(value) for name, value in notes.items()}
    return SetValue(Estimate(whole, whole + low, whole + high), notes, tuple(drawn.tolist()))


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (D,), features (N, D) less their mean)."""
    features = np.asarray(features, np.float64)
    middle = features.mean(0)
    return middle, features - middle
