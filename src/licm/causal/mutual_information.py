"""Mutual information of all pairs of variables, a tile at a time.

For discrete data a tile's joint counts are one product of one-hot matrices. Mutual information is a sum of c log c
over counts,

    N I(X; Y) = sum_ab f(n_ab) - sum_a f(n_a) - sum_b f(n_b) + f(N),    f(c) = c log c,

and counts are integers up to N, so that f is looked up in a table: no logarithm and no Python loop per pair.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

_ROWS_AT_A_TIME = 8192
_CELLS_AT_A_TIME = 1 << 22
_WIDE = 1024  # states; the joint counts of more are mostly zeros, and are sorted instead of multiplied


class PairScores(Protocol):
    """Weights of pairs of variables."""

    @property
    def size(self) -> int:
        """Number of variables d."""

    @property
    def num_rows(self) -> int:
        """Number of observations n."""

    def blocks(self, width: int) -> list[slice]:
        """Returns consecutive blocks of variables whose matrices are at most `width` wide, or one variable each."""

    def tile(self, rows: slice, cols: slice) -> Floats:
        """Returns the weights of a block of variables with another, in nats, [len(rows), len(cols)]."""

    def pairs(self, first: Ints, second: Ints) -> Floats:
        """Returns the weights of chosen pairs [m], in nats."""

    def some_rows(self, rows: Ints) -> "PairScores":
        """Returns the same on a choice of observations."""


class DiscretePairs:
    """Mutual information of discrete variables of any number of states.

    Where a value is missing, a pair is measured on the observations that have both (pairwise complete).

    Args:
        codes: [d, n], states from 0, -1 for a missing value.
        num_states: [d].
        bias_correction: Add Miller and Madow's (K_a + K_b - K_ab - 1) / 2N, K the numbers of cells that occur.
    """

    def __init__(self, codes: NDArray[np.integer], num_states: Ints, *, bias_correction: bool = False) -> None:
        self._codes = np.ascontiguousarray(codes)
        self._num_states = num_states
        self._bias_correction = bias_correction
        # State 0 is what is left over; a constant variable gets one state that never occurs.
        self._width = np.maximum(num_states - 1, 1)
        self._wide = np.asarray(num_states) > _WIDE
        counts = np.arange(self.num_rows + 1, dtype=float)
        self._table = counts * np.log(np.maximum(counts, 1))
        if bias_correction:
            self._table[1:] -= 0.5
        self._missing = bool((codes < 0).any())
        # Counts are exact in float32 up to 2**24.
        self._dtype = np.float32 if self.num_rows < 1 << 24 else np.float64

    @property
    def size(self) -> int:
        """Number of variables d."""
        return len(self._codes)

    @property
    def num_rows(self) -> int:
        """Number of observations n."""
        return self._codes.shape[1]

    def blocks(self, width: int) -> list[slice]:
        """Returns consecutive blocks of variables with together at most `width` indicator columns.

        A variable of more than 1,024 states is a block of its own.
        """
        blocks, start, used = [], 0, 0
        for index, (needed, alone) in enumerate(zip(self._width.tolist(), self._wide.tolist())):
            if used and (used + needed > width or alone or self._wide[index - 1]):
                blocks.append(slice(start, index))
                start, used = index, 0
            used += needed
        return [*blocks, slice(start, self.size)]

    def tile(self, rows: slice, cols: slice) -> Floats:
        """Returns the mutual information, in nats, of a block of variables with another, [len(rows), len(cols)]."""
        if self._wide[rows].any() or self._wide[cols].any():
            first, second = np.meshgrid(np.arange(self.size)[rows], np.arange(self.size)[cols], indexing="ij")
            return self.pairs(first.ravel(), second.ravel()).reshape(first.shape)
        starts = self._starts(rows), self._starts(cols)
        sizes = int(self._width[rows].sum()), int(self._width[cols].sum())
        if not self._missing:
            joint = self._products(self._indicators(rows), self._indicators(cols))
            totals = np.array([[self.num_rows]])
            return self._information(joint, self._counts(rows)[:, None], self._counts(cols)[None], totals, *starts)
        left = self._stacked(self._indicators(rows), self._observed(rows))
        right = self._stacked(self._indicators(cols), self._observed(cols))
        products = self._products(left, right)
        (joint, of_rows), (of_cols, totals) = (np.split(half, [sizes[1]], 1) for half in np.split(products, [sizes[0]]))
        return self._information(joint, of_rows, of_cols, totals, *starts)

    def pairs(self, first: Ints, second: Ints) -> Floats:
        """Returns the mutual information of chosen pairs, in nats, [m], from their tables of counts."""
        found = np.empty(len(first))
        wide = self._wide[first] | self._wide[second]
        for place in np.flatnonzero(wide):
            found[place] = self._sorted_pair(int(first[place]), int(second[place]))
        others = np.flatnonzero(~wide)
        most = int(self._num_states[~self._wide].max(initial=1))
        step = max(1, _CELLS_AT_A_TIME // max(self.num_rows, most**2))
        for at in range(0, len(others), step):
            some = others[at : at + step]
            found[some] = self._some_pairs(first[some], second[some])
        return found

    def some_rows(self, rows: Ints) -> "DiscretePairs":
        """Returns the same on a choice of observations."""
        return DiscretePairs(self._codes[:, rows], self._num_states, bias_correction=self._bias_correction)

    def _some_pairs(self, first: Ints, second: Ints) -> Floats:
        states = int(max(self._num_states[first].max(), self._num_states[second].max(), 1))
        left, right = self._codes[first], self._codes[second]
        cell = np.arange(len(first))[:, None] * states**2 + left.astype(np.intp) * states + right
        known = cell.ravel() if not self._missing else cell[(left >= 0) & (right >= 0)]
        joint = np.bincount(known, minlength=len(first) * states**2).reshape(-1, states, states)
        look = self._table.take
        total = joint.sum((1, 2))
        information = look(joint).sum((1, 2)) - look(joint.sum(1)).sum(1) - look(joint.sum(2)).sum(1) + look(total)
        return information / np.maximum(total, 1)

    def _sorted_pair(self, first: int, second: int) -> float:
        """The same for one pair, from the cells that occur alone: at most one a row, however many states there are."""
        left, right = self._codes[first].astype(np.intp), self._codes[second].astype(np.intp)
        known = (left >= 0) & (right >= 0)
        left, right = left[known], right[known]
        joint = np.unique(left * int(self._num_states[second]) + right, return_counts=True)[1]
        look = self._table.take
        alone = look(np.bincount(left)).sum() + look(np.bincount(right)).sum() if len(left) else 0.0
        return float(look(joint).sum() - alone + look(len(left))) / max(len(left), 1)

    def _starts(self, block: slice) -> Ints:
        width = self._width[block]
        return np.cumsum(width) - width

    def _of_columns(self, block: slice) -> tuple[Ints, Ints]:
        """The variable and the state (from 1) of each indicator column."""
        width = self._width[block]
        variable = np.repeat(np.arange(block.start, block.stop), width)
        return variable, np.arange(len(variable)) - np.repeat(self._starts(block), width) + 1

    def _indicators(self, block: slice) -> Iterator[NDArray]:
        variable, state = self._of_columns(block)
        for codes in self._by_rows():
            yield (codes[variable] == state[:, None].astype(codes.dtype)).astype(self._dtype)

    def _observed(self, block: slice) -> Iterator[NDArray]:
        for codes in self._by_rows():
            yield (codes[block] >= 0).astype(self._dtype)

    def _by_rows(self) -> Iterator[NDArray]:
        for at in range(0, self.num_rows, _ROWS_AT_A_TIME):
            yield self._codes[:, at : at + _ROWS_AT_A_TIME]

    @staticmethod
    def _stacked(*parts: Iterator[NDArray]) -> Iterator[NDArray]:
        return (np.concatenate(pieces) for pieces in zip(*parts))

    @staticmethod
    def _products(left: Iterator[NDArray], right: Iterator[NDArray]) -> Ints:
        return sum(a @ b.T for a, b in zip(left, right)).astype(np.intp)

    def _counts(self, block: slice) -> Ints:
        """How often each indicator is 1, where nothing is missing."""
        return sum(part.sum(axis=1, dtype=np.float64) for part in self._indicators(block)).astype(np.intp)

    def _information(self, joint: Ints, of_rows: Ints, of_cols: Ints, totals: Ints, *starts: Ints) -> Floats:
        """Mutual information from the counts of all states but 0.

        Args:
            joint: n_ab, [states of the rows, states of the columns].
            of_rows: n_a where the column's variable is known, [states of the rows, columns] or [., 1].
            of_cols: n_b where the row's variable is known, [rows, states of the columns] or [1, .].
            totals: N, [rows, columns] or [1, 1].
            starts: Where the states of each row's, and of each column's variable begin.
        """
        over_a = _Sum(starts[0], axis=0)
        over_b = _Sum(starts[1], axis=1)
        a_with_0 = of_rows - over_b(joint)
        b_with_0 = of_cols - over_a(joint)
        rows_0, cols_0 = totals - over_a(of_rows), totals - over_b(of_cols)
        both_0 = rows_0 - over_b(b_with_0)
        look = self._table.take
        information = over_a(over_b(look(joint)) + look(a_with_0)) + over_b(look(b_with_0)) + look(both_0)
        information -= over_a(look(of_rows)) + look(rows_0)
        information -= over_b(look(of_cols)) + look(cols_0)
        information += look(totals)
        information /= np.maximum(totals, 1)
        return information


class _Sum:
    """Sums over the states of each variable along one axis."""

    def __init__(self, starts: Ints, *, axis: int) -> None:
        self.starts, self.axis = starts, axis

    def __call__(self, values: NDArray) -> NDArray:
        if values.shape[self.axis] == len(self.starts):  # one column a variable
            return values
        return np.add.reduceat(values, self.starts, axis=self.axis)


class GaussianPairs:
    """Mutual information -1/2 log(1 - rho^2) of jointly Gaussian variables, rho the sample correlation.

    A squared correlation is taken to be at most 1 - 1e-12, so that weights stay finite; a constant variable has
    correlation 0 with all others. Where a value is missing, rho is that of the observations that have both.

    Args:
        values: float [d, n], NaN for a missing value.
    """

    def __init__(self, values: Floats) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = ~np.isnan(values)
            count = np.maximum(observed.sum(axis=1, keepdims=True), 1)
            centred = np.where(observed, values, 0)
            centred = np.where(observed, values - centred.sum(axis=1, keepdims=True) / count, 0)
            scale = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
            magnitude = np.abs(np.where(observed, values, 0)).max(axis=1, keepdims=True, initial=0)
        varies = scale > 1e-12 * magnitude  # what a constant's rounding leaves is no variation
        self._values = np.where(varies, centred / np.where(varies, scale, 1), 0)
        self._observed = None if observed.all() else observed

    @property
    def size(self) -> int:
        """Number of variables d."""
        return len(self._values)

    @property
    def num_rows(self) -> int:
        """Number of observations n."""
        return self._values.shape[1]

    def blocks(self, width: int) -> list[slice]:
        """Returns consecutive blocks of at most `width` variables."""
        return [slice(at, min(at + width, self.size)) for at in range(0, self.size, width)]

    def tile(self, rows: slice, cols: slice) -> Floats:
        """Returns the mutual information, in nats, of a block of variables with another, [len(rows), len(cols)]."""
        left, right = self._values[rows], self._values[cols]
        if self._observed is None:
            return _gaussian_information(left @ right.T / self.num_rows)
        seen_left, seen_right = self._observed[rows].astype(float), self._observed[cols].astype(float)
        sums = [
            seen_left @ seen_right.T,
            left @ right.T,
            left @ seen_right.T,
            seen_left @ right.T,
            left**2 @ seen_right.T,
            seen_left @ (right**2).T,
        ]
        return _gaussian_information(_correlation(*sums))

    def pairs(self, first: Ints, second: Ints) -> Floats:
        """Returns the mutual information of chosen pairs, in nats, [m]."""
        step = max(1, _CELLS_AT_A_TIME // self.num_rows)
        parts = [self._some_pairs(first[at : at + step], second[at : at + step]) for at in range(0, len(first), step)]
        return np.concatenate([np.empty(0), *parts])

    def some_rows(self, rows: Ints) -> "GaussianPairs":
        """Returns the same on a choice of observations."""
        values = self._values[:, rows]
        return GaussianPairs(values if self._observed is None else np.where(self._observed[:, rows], values, np.nan))

    def _some_pairs(self, first: Ints, second: Ints) -> Floats:
        left, right = self._values[first], self._values[second]
        if self._observed is None:
            return _gaussian_information((left * right).sum(axis=1) / self.num_rows)
        both = self._observed[first] & self._observed[second]
        left, right = np.where(both, left, 0), np.where(both, right, 0)
        sums = (both, left * right, left, right, left**2, right**2)
        return _gaussian_information(_correlation(*(values.sum(axis=1) for values in sums)))


def _correlation(count: Floats, xy: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats) -> Floats:
    count = np.maximum(count, 1)
    spread = np.maximum(xx - x**2 / count, 0) * np.maximum(yy - y**2 / count, 0)
    varies = spread > 1e-20 * count**2
    return np.where(varies, (xy - x * y / count) / np.sqrt(np.where(varies, spread, 1)), 0)


def _gaussian_information(correlation: Floats) -> Floats:
    return -0.5 * np.log1p(-np.minimum(correlation**2, 1 - 1e-12))
