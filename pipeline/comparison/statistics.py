"""How sure a mean over cases is, and whether two runs differ by more than the choice of cases explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # all of scipy.stats takes half a second to load

RESAMPLES = 9999
SEED = 20150518  # any would do, but always the same: a page that is made again says the same
CONFIDENCE = 0.95
LEVEL = 0.05  # of the corrected p below which a difference is called one
MOST_EXACT = 100  # pairs
EQUAL = 1e-9  # scores this close are the same number, computed in another order
BLOCK = 4_000_000  # drawn numbers in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` values with the bounds of its 95% interval; nan where there are too few values."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Difference:
    """A run minus the baseline over `estimate.count` cases that both have.

    Args:
        estimate: of the mean difference.
        better: cases with a better score than the baseline's.
        worse: cases with a worse one.
        equal: cases with the same one.
        tendency: 1 where the ranks of the better cases outweigh those of the worse, -1 where they do not, else 0: the
            direction of what the test finds, which a few cases far off do not turn as they turn the mean.
        p: of Wilcoxon's signed-rank test, two-sided.
        least_p: the smallest p that so many unequal pairs can give, 2 / 2^n: 0.0625 for five.
    """

    estimate: Estimate
    better: int
    worse: int
    equal: int
    tendency: int
    p: float
    least_p: float


def mean_interval(values: ArrayLike) -> Estimate:
    """Return the mean of values and its 95% bootstrap interval, bias-corrected and accelerated (BCa).

    Scores crowd below 1 with a tail towards 0, and BCa moves both bounds as far as that tail asks for, which the plain
    percentiles do not. The same values give the same interval.

    Reference: Efron, B. (1987). Better bootstrap confidence intervals. JASA 82(397), 171-185.

    Args:
        values: one number per case, nan left out before.
    """
    x = np.asarray(values, float)
    if x.size == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    if np.ptp(x) < EQUAL:
        return Estimate(mean, mean, mean, x.size)
    low, high = np.quantile(means := _resampled_means(x), _levels(x, means))
    return Estimate(mean, float(low), float(high), x.size)


def _levels(x: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two quantiles of the resampled means that BCa takes as bounds (Efron's equation 2.9)."""
    below = (np.sum(means < x.mean()) + np.sum(means <= x.mean())) / (2 * means.size)
    z0 = special.ndtri(np.clip(below, 0.5 / means.size, 1 - 0.5 / means.size))
    gap = x - x.mean()  # from the jackknife means to their own mean, but for a factor
    a = np.sum(gap**3) / (6 * np.sum(gap**2) ** 1.5)
    z = z0 + special.ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return np.asarray(special.ndtr(z0 + z / (1 - a * z)))


def _resampled_means(x: NDArray[np.float64]) -> NDArray[np.float64]:
    if x.size * RESAMPLES <= BLOCK:  # most often, and then for many runs of as many cases
        return _draws(x.size) @ x
    rng, step = np.random.default_rng(SEED), max(BLOCK // x.size, 1)
    sizes = [min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step)]
    return np.concatenate([_weights(rng, x.size, size) @ x for size in sizes])


@lru_cache(2)
def _draws(count: int) -> NDArray[np.float64]:
    return _weights(np.random.default_rng(SEED), count, RESAMPLES)


def _weights(rng: np.random.Generator, count: int, resamples: int) -> NDArray[np.float64]:
    """How often each value is drawn, over their number: (resamples, count), each row with a sum of 1."""
    return rng.multinomial(count, np.full(count, 1 / count), resamples) / count


def difference(values: ArrayLike, baseline: ArrayLike, higher_is_better: bool = True) -> Difference:
    """Compare two runs over the same cases, in the same order: mean difference, its interval, and Wilcoxon's p.

    Equal pairs say nothing of a direction and are left out of the test; ties among the others share their ranks.

    Reference: Wilcoxon, F. (1945). Individual comparisons by ranking methods. Biometrics Bulletin 1(6), 80-83.

    Args:
        values: the run's scores, without nan.
        baseline: the baseline's scores of the same cases.
        higher_is_better: what counts as better.
    """
    d = np.asarray(values, float) - np.asarray(baseline, float)
    d[np.abs(d) < EQUAL] = 0
    rises, falls = int((d > 0).sum()), int((d < 0).sum())
    better, worse = (rises, falls) if higher_is_better else (falls, rises)
    unequal = rises + falls
    signed = d[d != 0].round(12)
    tendency = int(np.sign(np.sum(np.sign(signed) * _doubled_ranks(signed)))) * (1 if higher_is_better else -1)
    least = min(2.0 ** (1 - unequal), 1.0)
    return Difference(mean_interval(d), better, worse, d.size - unequal, tendency, signed_rank_p(signed), least)


def signed_rank_p(d: NDArray[np.float64]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, up to 100 pairs exact, with ties too.

    Under the null every sign is a coin: the distribution of the sum of positive ranks grows rank by rank. Ranks are
    doubled, so that those of ties (2.5) are whole. SciPy is exact with ties only up to 13 pairs, in half a second.

    Args:
        d: differences, none of them zero.
    """
    if d.size > MOST_EXACT:
        from scipy.stats import wilcoxon

        return float(wilcoxon(d).pvalue)
    ranks = _doubled_ranks(d)
    chances = np.ones(1)  # of each sum
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    smaller = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    return min(2 * float(chances[: smaller + 1].sum()), 1.0)


def _doubled_ranks(d: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the ranks of the sizes of differences, ties sharing theirs: 2 and 5, 5 of [0.1, -0.3, 0.3]."""
    _, place, counts = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    ranks: NDArray[np.int64] = (2 * np.cumsum(counts) - counts + 1)[place]
    return ranks


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for the number of tests: the chance of one false difference or more stays below 5%.

    Sorted, the smallest of m is multiplied by m, the next by m - 1, ...; none gets below the one before. nan stays nan
    and counts as no test: [0.01, 0.04, 0.03] becomes [0.03, 0.06, 0.06].

    Reference: Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statistics 6, 65-70.
    """
    values = np.asarray(p, float)
    order = [int(index) for index in np.argsort(values) if not np.isnan(values[index])]
    corrected, highest = values.copy(), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min((len(order) - place) * values[index], 1.0))
        corrected[index] = highest
    return corrected.tolist()


@dataclass(frozen=True)
class SeedSpread:
    """How far another seed alone moves a run's mean.

    Args:
        deviation: standard deviation of a run's mean between seeds.
        bound: a difference of two single runs that luck of the seed exceeds once in twenty times.
        variants: how many variants were trained with several seeds.
        runs: with how many runs in all.
    """

    deviation: float
    bound: float
    variants: int
    runs: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom: how many independent differences between seeds it is known from."""
        return self.runs - self.variants


def seed_spread(means: Sequence[Sequence[float]]) -> SeedSpread | None:
    """Return the spread between seeds pooled over variants, None without a variant of two seeds.

    s^2 = sum (m - mean of its variant)^2 / f with f degrees of freedom, runs less variants; two single runs differ by
    t(0.975, f) sqrt(2) s at most, 19 times out of 20. Two means 0.80 and 0.82: s = 0.0141, f = 1, bound 0.254.

    Args:
        means: for each variant the means of its runs, over the same cases.
    """
    groups = [np.asarray(group, float) for group in means if len(group) > 1]
    if not groups:
        return None
    runs = sum(group.size for group in groups)
    freedom = runs - len(groups)
    deviation = float(np.sqrt(sum(np.sum((group - group.mean()) ** 2) for group in groups) / freedom))
    bound = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * np.sqrt(2) * deviation
    return SeedSpread(deviation, float(bound), len(groups), runs)
