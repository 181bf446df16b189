"""Intervals and comparisons against worked examples and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from comfyui_lavie.evaluation.statistics import (
    Rate,
    mean,
    paired_difference,
    rate_difference,
    ratio,
    student_mean,
    wilson_interval,
)
from comfyui_lavie.tables import markdown_table


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (81, 263, 0.25528, 0.36621),  # the worked example of Newcombe 1998
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=2e-5)
    assert Rate("", successes, n).estimate.low == pytest.approx(low, abs=2e-5)


def test_a_difference_of_rates_known_from_the_literature():
    """56 of 70 and 48 of 80: Newcombe 1998, table II, example (a), method 10."""
    found = rate_difference(Rate("one", 56, 70), Rate("other", 48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert found.text(signed=True) == "+0.20 (+0.05 .. +0.33)"


def test_intervals_are_of_a_bootstrap_that_never_changes():
    values = np.random.default_rng(1).normal(5, 1, 100)
    found = mean(values)
    assert found == mean(values) and found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 10
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.15)
    assert mean([2.0, float("nan"), 4.0]).value == 3 and mean([]).text() == mean([float("nan")]).text() == "none"
    assert mean([2.0]).text(1) == "2.0 (2.0 .. 2.0)"


def test_a_ratio_is_of_pairs():
    under = np.array([1.0, 10.0, 100.0])
    found = ratio(under / 2, under)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio([1.0, 2.0], [float("nan"), 4.0]).value == 0.5


def test_students_interval_is_scipys():
    values = np.random.default_rng(2).normal(size=7)
    peer = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = student_mean(values)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), peer.low, peer.high))
    assert student_mean([3.0]).value == 3.0 and math.isnan(student_mean([3.0]).low)
    assert math.isnan(student_mean([]).value)


@pytest.mark.parametrize("count", (5, 12, 40))
def test_the_paired_test_is_scipys_permutation_test(count):
    rng = np.random.default_rng(count)
    one, other = rng.normal(0.5, 1, count), rng.normal(0, 1, count)
    peer = scipy.stats.permutation_test(
        (one, other), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", n_resamples=20_000,
        vectorized=True, rng=np.random.default_rng(3),
    )  # fmt: skip
    found = paired_difference(one, other)
    assert found.p == pytest.approx(peer.pvalue, abs=1e-9 if count <= 12 else 0.01)
    assert found.difference.value == pytest.approx((one - other).mean()) and found.count == count


def test_of_yes_and_no_it_is_mcnemars_exact_test():
    """9 clips are right in the one run only, 2 in the other only; 20 agree."""
    one = [1] * 9 + [0] * 2 + [1] * 20
    other = [0] * 9 + [1] * 2 + [1] * 20
    assert paired_difference(one, other).p == pytest.approx(scipy.stats.binomtest(2, 11).pvalue)


def test_pairs_without_difference_and_without_values():
    assert paired_difference([1, 2, 3], [1, 2, 3]).p == 1
    alone = paired_difference([1, float("nan")], [float("nan"), 2])
    assert alone.count == 0 and math.isnan(alone.p)


def test_tables_align_escape_and_refuse_uneven_rows():
    assert markdown_table(["a", "b", "c"], [("x|y", 1, 2.5)]) == (
        "| a | b | c |\n| --- | ---: | ---: |\n| x\\|y | 1 | 2.5 |"
    )
    assert markdown_table(["a", "b"], [], align="lr").splitlines()[1] == "| --- | ---: |"
    with pytest.raises(ValueError, match=r"expected 2 cells as in \['a', 'b'\], got \['x'\]"):
        markdown_table(["a", "b"], [["x"]])
