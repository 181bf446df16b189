"""Figures with their 95 % intervals, and comparisons: the one home of statistics.

Contract: rates have Wilson's intervals and their differences Newcombe's; means of clips have a bootstrap's, whose draws
are always the same, or Student's. Two runs over the same prompts and seeds are compared clip by clip (`Paired`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

DRAWS = 4000
EXACT = 14  # up to so many differences all their signs are gone through, more are drawn


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; without samples all three are NaN."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """As tables show it: value (low .. high)."""
        if np.isnan(self.value):
            return "none"
        form = f"{'+' if signed else ''}.{digits}f"
        return f"{self.value:{form}} ({self.low:{form}} .. {self.high:{form}})"


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, one per clip; NaN, a clip where nothing could be measured, is left out."""
    return _bootstrap_means(np.array([values], float), lambda means: means[0])


def ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """Mean of `over` / mean of `under`, whose values belong to the same clips; clips with a NaN are left out."""
    return _bootstrap_means(np.array([over, under], float), lambda means: means[0] / means[1])


def _bootstrap_means(rows: np.ndarray, value: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """`value` of the means of rows (K, clips), and of as many means as there are draws of clips."""
    rows = rows[:, ~np.isnan(rows).any(0)]
    if not rows.shape[1]:
        return Estimate(np.nan, np.nan, np.nan)
    drawn = value(rows[:, resampled(rows.shape[1], DRAWS)].mean(2))
    return Estimate(float(value(rows.mean(1))), *percentile_interval(drawn))


def resampled(count: int, draws: int) -> np.ndarray:
    """(draws, count) indices of clips drawn with replacement, always the same for the same arguments."""
    return np.random.default_rng(0).integers(count, size=(draws, count))


def percentile_interval(drawn: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of what a bootstrap drew."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def student_mean(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval; of one value alone the interval is not known (NaN), of none nothing is."""
    values = np.array(values, float)
    count = len(values)
    if count < 2:
        return Estimate(float(values[0]) if count else np.nan, np.nan, np.nan)
    half = stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count)
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


@dataclass(frozen=True)
class Paired:
    """One run less another, over the same clips. p: two-sided, of the hypothesis that neither tends to be larger."""

    difference: Estimate
    p: float
    count: int


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Paired:
    """Mean of `one` - `other`, value by value, with Student's interval and a sign-flip permutation test.

    Pairs with a NaN are left out; without pairs p is NaN. Of values that are 0 or 1 the test is McNemar's exact one.
    """
    apart = np.array(one, float) - np.array(other, float)
    apart = apart[~np.isnan(apart)]
    return Paired(student_mean(apart), _sign_flip_p(apart), len(apart))


def _sign_flip_p(apart: np.ndarray) -> float:
    """The share of all ways to flip signs that make a sum at least as far from 0; of 20,000 ways if there are many."""
    if not len(apart):
        return np.nan
    apart = apart[apart != 0]
    if len(apart) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart)) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(20_000, len(apart)))
        signs[0] = 1  # what was seen is one of the ways: p is never 0
    sums = np.abs(signs @ apart)
    return float((sums >= abs(apart.sum()) - 1e-12 * np.abs(apart).sum()).mean())


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate of `successes` in `n` trials; (0, 1) without any trial."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Rate:
    """A success rate and its 95 % Wilson interval."""

    name: str
    successes: int
    count: int

    @property
    def rate(self) -> float:
        return self.successes / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.successes, self.count)

    @property
    def estimate(self) -> Estimate:
        """The rate as figures are shown; NaN without trials."""
        return Estimate(self.rate, *self.interval)


def rate_difference(one: Rate, other: Rate) -> Estimate:
    """`one` - `other`, of independent trials, with Newcombe's interval (Statistics in Medicine 17, 1998, method 10)."""
    (low1, high1), (low2, high2) = one.interval, other.interval
    apart = one.rate - other.rate
    lower, upper = math.hypot(one.rate - low1, high2 - other.rate), math.hypot(high1 - one.rate, other.rate - low2)
    return Estimate(apart, apart - lower, apart + upper)
