"""Maximum spanning trees over all pairs of variables: exact in one pass over tiles, or among candidate pairs.

Both keep no more than a tile of weights. Blocks of rows are independent of each other: `row_forest` of each, on
whatever machine, and `merge_forests` of the results give the exact tree.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from licm.causal.mutual_information import PairScores
from licm.causal.spanning import Forest

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


def exact_tree(pairs: PairScores, *, width: int = 1024) -> Forest:
    """Returns the maximum spanning tree over all pairs, in one pass over tiles.

    Args:
        pairs: The weights.
        width: Columns of a tile's matrices; memory grows with its square, the tree does not depend on it.
    """
    forest = Forest(pairs.size)
    blocks = pairs.blocks(width)
    for index, rows in enumerate(blocks):
        for cols in blocks[index:]:
            forest.add_tile(rows, cols, pairs.tile(rows, cols))
    return forest


def row_forest(pairs: PairScores, index: int, *, width: int = 1024) -> Forest:
    """Returns the forest of one block of rows, the part of the work that one machine can do on its own.

    Args:
        pairs: The weights.
        index: Which of `pairs.blocks(width)`; its pairs are those with itself and with later blocks.
        width: Columns of a tile's matrices.
    """
    forest = Forest(pairs.size)
    blocks = pairs.blocks(width)
    for cols in blocks[index:]:
        forest.add_tile(blocks[index], cols, pairs.tile(blocks[index], cols))
    return forest


def approximate_tree(
    pairs: PairScores, draws: Generator, *, sketch_rows: int = 512, neighbours: int = 16, width: int = 1024
) -> Forest:
    """Returns the maximum spanning tree among candidate pairs.

    A sketch, a choice of observations, ranks all pairs. Candidates are the strongest partners of each variable and the
    edges of the sketch's own tree, which connect all; they are then weighed on all observations. Weights are exact;
    an edge is missed when it is no candidate.

    Args:
        pairs: The weights.
        draws: Chooses the sketch.
        sketch_rows: Observations in the sketch; the cost is about their share of the exact cost.
        neighbours: Candidates of each variable.
        width: Columns of a tile's matrices.
    """
    if sketch_rows < pairs.num_rows:
        sketch = pairs.some_rows(np.sort(draws.choice(pairs.num_rows, sketch_rows, replace=False)))
    else:
        sketch = pairs
    near, rough = Neighbours(pairs.size, neighbours), Forest(pairs.size)
    blocks = sketch.blocks(width)
    for index, rows in enumerate(blocks):
        for cols in blocks[index:]:
            tile = sketch.tile(rows, cols)
            near.add_tile(rows, cols, tile)
            rough.add_tile(rows, cols, tile)
    candidates = [np.concatenate(ends) for ends in zip(near.pairs(), rough.edges())]
    first, second = np.divmod(np.unique(candidates[0] * pairs.size + candidates[1]), pairs.size)
    forest = Forest(pairs.size)
    forest.add(first, second, pairs.pairs(first, second))
    return forest


class Neighbours:
    """The strongest partners of each variable among the pairs added so far.

    Args:
        size: Number of variables d.
        count: Partners kept of each.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, min(count, size - 1)
        self._partner = np.full((size, self.count), -1, np.intp)
        self._weight = np.full((size, self.count), -np.inf)

    def add_tile(self, rows: slice, cols: slice, weight: Floats) -> None:
        """Adds all pairs i < j of a block of rows and one of columns."""
        if rows == cols:
            weight = np.where(np.eye(len(weight), dtype=bool), -np.inf, weight)
            self._update(rows, cols, weight)
        else:
            self._update(rows, cols, weight)
            self._update(cols, rows, weight.T)

    def pairs(self) -> tuple[Ints, Ints]:
        """Returns the pairs i < j, each once, of which one is among the other's partners."""
        own = np.repeat(np.arange(self.size), self.count)
        other = self._partner.ravel()
        known = other >= 0
        own, other = own[known], other[known]
        first, second = np.divmod(np.unique(np.minimum(own, other) * self.size + np.maximum(own, other)), self.size)
        return first, second

    def _update(self, own: slice, others: slice, weight: Floats) -> None:
        """Merges partners `others` into the lists of the variables `own`; `weight` is [own, others]."""
        better = weight > self._weight[own, -1:]
        touched = np.flatnonzero(better.any(axis=1))
        if not len(touched):
            return
        most = min(self.count, weight.shape[1])
        if better[touched].sum() > most * len(touched):  # then at most `count` of each row matter
            column = np.argpartition(weight[touched], -most, axis=1)[:, -most:]
        else:
            filled = better[touched].sum(axis=1)
            column = np.argsort(~better[touched], axis=1, kind="stable")[:, : filled.max()]
        found = np.take_along_axis(weight[touched], column, axis=1)
        index = touched + own.start
        merged = np.concatenate([self._weight[index], found], axis=1)
        partner = np.concatenate([self._partner[index], column + others.start], axis=1)
        best = np.argsort(-merged, axis=1, kind="stable")[:, : self.count]
        self._weight[index] = np.take_along_axis(merged, best, axis=1)
        self._partner[index] = np.take_along_axis(partner, best, axis=1)
