"""Means with 95 % intervals, by a bootstrap over clips whose draws are always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; without samples all three are NaN."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """As tables show it: value (low .. high)."""
        if np.isnan(self.value):
            return "none"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} .. {self.high:.{digits}f})"


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, one per clip; NaN, a clip where nothing could be measured, is left out."""
    return _estimate(np.array([values], float), lambda means: means[0])


def ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """Mean of `over` / mean of `under`, whose values belong to the same clips; clips with a NaN are left out."""
    return _estimate(np.array([over, under], float), lambda means: means[0] / means[1])


def _estimate(rows: np.ndarray, value: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """`value` of the means of rows (K, clips), and of as many means as there are draws of clips."""
    rows = rows[:, ~np.isnan(rows).any(0)]
    count = rows.shape[1]
    if not count:
        return Estimate(np.nan, np.nan, np.nan)
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    low, high = np.percentile(value(rows[:, draws].mean(2)), (2.5, 97.5))
    return Estimate(float(value(rows.mean(1))), float(low), float(high))
