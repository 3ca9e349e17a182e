"""Intervals, paired tests and corrections: by hand, against scipy, and on made populations."""

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.statistics import difference, holm, mean_interval, seed_spread

RNG = np.random.default_rng(7)
SKEWED = 1 - RNG.gamma(2, 0.04, 40)  # as Dice is: near 1, with a tail downwards


@pytest.mark.parametrize("values", [SKEWED, SKEWED[:12], RNG.normal(0, 1, 60)], ids=["skewed", "few", "normal"])
def test_the_interval_is_that_of_scipy(values):
    found = mean_interval(values)
    expected = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=1).confidence_interval
    width = expected.high - expected.low
    # Two draws of resamples: each bound is known to about a fiftieth of the width.
    assert found.low == pytest.approx(expected.low, abs=0.04 * width)
    assert found.high == pytest.approx(expected.high, abs=0.04 * width)
    assert found.mean == pytest.approx(values.mean())
    assert found.count == len(values)


def test_the_interval_leans_towards_the_tail():
    plain = np.quantile(RNG.choice(SKEWED, (9999, 40)).mean(axis=1), [0.025, 0.975])
    assert mean_interval(SKEWED).low < plain[0]


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    held = 0
    for _ in range(300):
        found = mean_interval(1 - RNG.gamma(2, 0.04, 30))
        held += found.low <= 0.92 <= found.high
    assert 0.89 <= held / 300 <= 0.99  # 95%, a little less for thirty skewed values; the standard error is 1.3%


def test_the_same_values_give_the_same_interval():
    assert mean_interval(SKEWED) == mean_interval(SKEWED.copy())


def test_many_values_are_resampled_in_blocks(monkeypatch):
    whole = mean_interval(SKEWED)
    monkeypatch.setattr("pipeline.comparison.statistics.BLOCK", 1000)
    in_blocks = mean_interval(SKEWED)
    assert in_blocks.low == pytest.approx(whole.low, abs=0.002)


def test_too_few_values_have_no_interval():
    none, one, equal = mean_interval([]), mean_interval([0.5]), mean_interval([0.3, 0.3, 0.3])
    assert np.isnan(none.mean)
    assert none.count == 0
    assert (one.mean, one.count) == (0.5, 1)
    assert np.isnan(one.low)
    assert (equal.mean, equal.low, equal.high) == (0.3, 0.3, 0.3)


def test_wilcoxon_by_hand():
    # Differences 1, 2, 3, 4, 5, -6: negative ranks sum to 6. Of the 2^6 signs, the subsets of {1..6} with a sum of 6 or
    # less are {}, 1, 2, 3, 4, 5, 6, 12, 13, 14, 15, 23, 24, 123: 14. Two-sided 2 * 14 / 64 = 0.4375.
    baseline = np.zeros(6)
    found = difference([0.1, 0.2, 0.3, 0.4, 0.5, -0.6], baseline)
    assert found.p == pytest.approx(0.4375)
    assert (found.better, found.worse, found.equal) == (5, 1, 0)
    assert found.estimate.mean == pytest.approx(0.15)
    assert found.least_p == pytest.approx(2 / 64)


@pytest.mark.parametrize("count", [2, 7, 12, 40, 50, 101, 300])
def test_wilcoxon_by_scipy(count):
    one = RNG.normal(0, 0.02, count)
    other = one + RNG.normal(0.004, 0.02, count)
    assert difference(other, one).p == pytest.approx(stats.wilcoxon(other - one).pvalue)


def test_wilcoxon_with_ties_by_scipy():
    d = np.array([1, 1, -1, 2, 2, 3, -3, 4.0])
    assert difference(d, np.zeros(8)).p == pytest.approx(stats.wilcoxon(d).pvalue)


def test_beyond_the_exact_range_little_changes(monkeypatch):
    d = RNG.normal(0.15, 1, 100)
    exact = difference(d, np.zeros(100)).p
    monkeypatch.setattr("pipeline.comparison.statistics.MOST_EXACT", 10)
    # One in a thousand: so far out a normal curve is some tenths off.
    assert difference(d, np.zeros(100)).p == pytest.approx(exact, rel=0.25)


def test_all_on_one_side_is_the_smallest_p():
    for n in (1, 3, 5, 6, 9):
        found = difference(np.arange(1, n + 1) / 10, np.zeros(n))
        assert found.p == pytest.approx(found.least_p)
        assert found.p == pytest.approx(2 / 2**n)


def test_equal_pairs_are_counted_and_not_tested():
    with_zeros = difference([0.1, 0.2, 0.3, 0.4, 0.5, -0.6, 0, 0], np.zeros(8))
    assert with_zeros.p == pytest.approx(0.4375)
    assert with_zeros.equal == 2
    nothing = difference([0.4, 0.6], [0.4, 0.6])
    assert (nothing.p, nothing.equal, nothing.least_p) == (1, 2, 1)
    assert (nothing.estimate.mean, nothing.estimate.low, nothing.estimate.high) == (0, 0, 0)


def test_another_order_of_additions_is_no_difference():
    found = difference([0.1 + 0.2, 0.7], [0.3, 0.7])
    assert found.equal == 2


def test_ties_share_their_ranks():
    # |d| = 1, 1, 1, 1: ranks 2.5 each. No negative one: of 16 signs 1 is as extreme on either side, 2 / 16.
    assert difference([0.1] * 4, np.zeros(4)).p == pytest.approx(2 / 16)


def test_less_may_be_better():
    found = difference([0.1, 0.1, 0.4], [0.2, 0.3, 0.3], higher_is_better=False)
    assert (found.better, found.worse) == (2, 1)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_tendency_is_that_of_the_ranks(higher_is_better):
    # Ranks 1, 2, 3 of the rises weigh 6, rank 4 of the fall 4, though the fall is larger than all rises together.
    sign = 1 if higher_is_better else -1
    found = difference([0.1, 0.2, 0.3, -0.9], np.zeros(4), higher_is_better)
    assert found.tendency == sign
    assert found.estimate.mean < 0
    # Ties share their ranks: 1.5 + 1.5 + 3 = 6 against 4.
    assert difference([0.1, 0.1, 0.2, -0.3], np.zeros(4), higher_is_better).tendency == sign
    assert difference([0.1, -0.1], np.zeros(2)).tendency == 0
    assert difference([0.1], [0.1]).tendency == 0


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]) == []


def test_what_is_not_compared_is_no_test():
    corrected = holm([0.02, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.04)
    assert np.isnan(corrected[1])


def test_equal_variants_are_rarely_called_different():
    """Five networks as good as the baseline, each with noise of its own: a false alarm in one of twenty at most."""
    alarms = 0
    for _ in range(300):
        cases = 1 - RNG.gamma(2, 0.04, 24)
        runs = cases + RNG.normal(0, 0.01, (6, 24))
        corrected = holm([stats_p(run, runs[0]) for run in runs[1:]])
        alarms += min(corrected) < 0.05
    assert alarms / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_planted_difference_is_found():
    found = 0
    for _ in range(100):
        cases = 1 - RNG.gamma(2, 0.04, 24)
        runs = cases + RNG.normal(0, 0.01, (6, 24))
        runs[3] += 0.015
        found += holm([stats_p(run, runs[0]) for run in runs[1:]])[2] < 0.05
    assert found >= 90


def stats_p(run, baseline):
    """The p of `difference`, without its bootstrap, which would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.comparison.statistics.RESAMPLES", 99)
        return difference(run, baseline).p


def test_the_spread_of_seeds_by_hand():
    # Deviations -0.01, 0.01 and -0.02, 0, 0.02: sum of squares 0.0002 + 0.0008, over 1 + 2 degrees of freedom.
    found = seed_spread([[0.80, 0.82], [0.70, 0.72, 0.74], [0.5]])
    assert found.deviation == pytest.approx(np.sqrt(0.001 / 3))
    assert found.bound == pytest.approx(3.182446 * np.sqrt(2) * found.deviation, rel=1e-6)  # t(0.975, 3) from a table
    assert (found.variants, found.runs, found.freedom) == (2, 5, 3)
    assert seed_spread([[0.5], [0.6]]) is None


def test_luck_stays_within_the_bound_of_the_seeds():
    within = 0
    for _ in range(2000):
        known = RNG.normal(0.8, 0.01, (2, 2))
        two = RNG.normal(0.8, 0.01, 2)
        within += abs(two[0] - two[1]) <= seed_spread(known.tolist()).bound
    assert within / 2000 == pytest.approx(0.95, abs=0.015)
