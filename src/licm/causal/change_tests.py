"""Is p(x | parents) the same before and after? Tests of one mechanism.

A hard intervention leaves a point mass, on which no likelihood-ratio test is defined. Each test therefore looks first
whether the mechanism has no noise left, and says so; its p-value is then 0.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import chi2

_LEAST_EXPECTED = 5.0  # the usual rule for chi-squared tests of counts
_NO_NOISE = 1e-12  # residuals below this share of the values are rounding
_MOST_CELLS = 1 << 25  # of a table of counts, a quarter of a GB
_INCREDIBLE = 1e-9  # what has less chance than this is no chance


@dataclass(frozen=True)
class Change:
    """What a test found.

    Attributes:
        p_value: In [0, 1]; small where the mechanism has changed.
        statistic: Twice the log-likelihood ratio; infinite where a point mass came or went.
        degrees: Of freedom.
        hard: Whether the mechanism became, or was, a point mass on one side only.
    """

    p_value: float
    statistic: float
    degrees: int
    hard: bool = False


_SAME = Change(1.0, 0.0, 0)
_HARD = Change(0.0, float("inf"), 0, hard=True)


def linear_gaussian_change(before: NDArray, parents_before: NDArray, after: NDArray, parents_after: NDArray) -> Change:
    """Likelihood-ratio test that intercept, weights and noise variance are the same before and after.

    Twice the log ratio is (n + m) log v - n log v_before - m log v_after, v the residual variances of the pooled and of
    the separate regressions, asymptotically chi-squared. Its degrees of freedom are the ranks of the two designs
    less that of the pooled one, plus one for the variance: a parent held still by an intervention takes one away.
    Values without noise on one side only, or following other functions of the parents, were set by a hard intervention.

    Args:
        before: Values [n].
        parents_before: [n, p].
        after: Values [m].
        parents_after: [m, p].

    Raises:
        ValueError: If one side has too few observations for a regression.
    """
    sides = [_with_ones(parents_before), _with_ones(parents_after)]
    fewest = min(len(before), len(after))
    if fewest < sides[0].shape[1] + 2:
        raise ValueError(f"needs at least {sides[0].shape[1] + 2} observations a side, got {fewest}")
    pooled_values = np.concatenate([before, after])
    pooled, rank = _residual_variance(np.concatenate(sides), pooled_values)
    (first, rank_first), (second, rank_second) = (_residual_variance(*side) for side in zip(sides, (before, after)))
    rounding = (_NO_NOISE * float(np.abs(pooled_values).max())) ** 2
    noiseless = first <= rounding, second <= rounding
    if any(noiseless):  # an exact function of the parents: a point mass given them
        return _SAME if all(noiseless) and pooled <= rounding else _HARD
    statistic = len(pooled_values) * np.log(pooled) - len(before) * np.log(first) - len(after) * np.log(second)
    degrees = rank_first + rank_second - rank + 1
    return Change(float(chi2.sf(statistic, degrees)), float(statistic), degrees)


def discrete_change(before: NDArray, parents_before: NDArray, after: NDArray, parents_after: NDArray) -> Change:
    """G-test that the table is the same before and after, pooled over the parents' states.

    For each state of the parents that occurs on both sides, G = 2 sum o log(o / e) of the table side x value;
    statistics and degrees of freedom are summed. Values expected fewer than 5 times on a side are taken together,
    and a state of the parents left with one value says nothing. A side with a single value that the other side's table
    makes incredible was set by a hard intervention.

    Args:
        before: States [n].
        parents_before: States [n, p].
        after: States [m].
        parents_after: States [m, p].

    Raises:
        ValueError: If there are too many states to count.
    """
    values = np.unique(np.concatenate([before, after]), return_inverse=True)[1]
    rows = np.concatenate([parents_before, parents_after])
    stratum = np.unique(rows, axis=0, return_inverse=True)[1].ravel() if rows.shape[1] else np.zeros(len(values), int)
    side = np.repeat([0, 1], [len(before), len(after)])
    shape = (int(stratum.max()) + 1, 2, int(values.max()) + 1)
    if prod(shape) > _MOST_CELLS:
        raise ValueError(f"{shape[2]} values under {shape[0]} states of the parents are too many to count; join some")
    cells = np.ravel_multi_index((stratum, side, values), shape)
    counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(float)
    if _was_set(counts[:, 0], counts[:, 1]) or _was_set(counts[:, 1], counts[:, 0]):
        return _HARD
    findings = [_g_test(table) for table in counts]
    statistic, degrees = (sum(column) for column in zip(*findings))
    return Change(float(chi2.sf(statistic, degrees)) if degrees else 1.0, float(statistic), int(degrees))


def _was_set(still: NDArray, moving: NDArray) -> bool:
    """Whether one side, counts [strata, k], has a single value, and not by chance.

    Were the tables the same, each division of a stratum's n + m rows into sides would be as likely as any other. That
    all k rows of another value fell among the n of the moving side has chance C(n, k) / C(n + m, k).
    """
    values = np.flatnonzero(still.sum(axis=0))
    if len(values) != 1:
        return False
    n, m = moving.sum(axis=1), still.sum(axis=1)
    k = n - moving[:, values[0]]
    log_chance = gammaln(n + 1) - gammaln(n - k + 1) + gammaln(n + m - k + 1) - gammaln(n + m + 1)
    return bool(log_chance.sum() < np.log(_INCREDIBLE))


def _g_test(table: NDArray) -> tuple[float, int]:
    """G and its degrees of freedom of one table [2, k], rare values taken together."""
    total = table.sum()
    smaller_side = table.sum(axis=1).min() / total if total else 0.0
    rare = table.sum(axis=0) * smaller_side < _LEAST_EXPECTED
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) * smaller_side >= _LEAST_EXPECTED]
    if table.shape[1] < 2:
        return 0.0, 0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    terms = table * np.log(np.where(table > 0, table, 1) / expected)
    return 2 * float(np.where(table > 0, terms, 0).sum()), table.shape[1] - 1


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns p-values adjusted by Holm's step-down rule, which bounds the chance of any false finding.

    Args:
        p_values: [k] in [0, 1].

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _with_ones(parents: NDArray) -> NDArray[np.float64]:
    return np.column_stack([np.ones(len(parents)), parents]).astype(float)


def _residual_variance(design: NDArray, values: NDArray) -> tuple[float, int]:
    """The maximum-likelihood variance of the noise, and the rank of the design, whose units do not matter."""
    scale = np.abs(design).max(axis=0)
    design = design / np.where(scale > 0, scale, 1)
    coefficients, _, rank, _ = np.linalg.lstsq(design, values, rcond=1e-10)
    return float(np.mean((values - design @ coefficients) ** 2)), int(rank)
