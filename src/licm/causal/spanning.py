"""The strongest spanning tree of edges that arrive in blocks.

By the cycle property the weakest edge of a cycle is in no maximum spanning tree. A forest of at most n - 1 edges
therefore stands for all edges seen so far: the tree of (forest of the edges seen, new edges) is the tree of all of
them, in whatever order the blocks come and wherever their forests were made.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


class Forest:
    """The maximum spanning forest of the edges added so far.

    Ties are broken by the pair's indices, a strict order of all edges, so that the forest does not depend on the order
    in which edges come.

    Attributes:
        size: Number of vertices n.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._first, self._second = np.empty(0, np.intp), np.empty(0, np.intp)
        self._weight = np.empty(0)
        self._pending: list[tuple[Ints, Ints, Floats]] = []
        self._floor = np.full(size, -np.inf)

    def add(self, first: Ints, second: Ints, weight: Floats) -> None:
        """Adds edges.

        Args:
            first: Vertices [m], each below `second`'s.
            second: Vertices [m].
            weight: [m], finite.
        """
        self._pending.append((first, second, weight))
        if sum(len(edges[2]) for edges in self._pending) >= max(self.size, 1 << 16):
            self._take_tree()

    def add_tile(self, rows: slice, cols: slice, weight: Floats) -> None:
        """Adds all pairs i < j of a block of rows and one of columns.

        Edges that the forest already outdoes are dropped at once: between u and v the forest has a path through
        vertex r, so an edge weaker than all of the paths r-u and r-v closes a cycle as its weakest edge.

        Args:
            rows: Of i.
            cols: Of j, equal to `rows` or after them.
            weight: [len(rows), len(cols)].
        """
        keep = weight >= np.minimum.outer(self._floor[rows], self._floor[cols])
        if rows == cols:
            keep &= np.tri(len(weight), k=-1, dtype=bool).T
        first, second = np.nonzero(keep)
        self.add(first + rows.start, second + cols.start, weight[first, second])

    def edges(self) -> tuple[Ints, Ints, Floats]:
        """Returns the forest's edges, the strongest first: vertices [m], vertices [m], weights [m], m < n."""
        if self._pending:
            self._take_tree()
        return self._first, self._second, self._weight

    def _graph(self, values: Floats) -> coo_array:
        return coo_array((values, (self._first, self._second)), shape=(self.size, self.size))

    def _take_tree(self) -> None:
        parts = [(self._first, self._second, self._weight), *self._pending]
        self._pending = []
        first, second, weight = (np.concatenate(column) for column in zip(*parts))
        pair = first * self.size + second
        order = np.lexsort((pair, -weight))
        _, strongest = np.unique(pair[order], return_index=True)  # of a pair that came twice
        order = order[np.sort(strongest)]
        self._first, self._second, self._weight = first[order], second[order], weight[order]
        # Ranks from 1 as costs: scipy takes the cheapest tree, and a cost of zero for no edge.
        tree = minimum_spanning_tree(self._graph(np.arange(1.0, len(order) + 1)).tocsr())
        chosen = np.sort(tree.data).astype(np.intp) - 1
        self._first, self._second, self._weight = self._first[chosen], self._second[chosen], self._weight[chosen]
        self._raise_floor()

    def _raise_floor(self) -> None:
        """For each vertex the weakest edge on its path from the root, -inf if there is none."""
        if not len(self._weight):
            return
        root = self._first[0]
        graph = self._graph(np.arange(1.0, len(self._weight) + 1)).tocsr()
        reached, parent = breadth_first_order(graph, root, directed=False)
        parent[root] = root
        parent = np.where(parent < 0, np.arange(self.size), parent)
        floor = np.full(self.size, -np.inf)
        child_of_first = parent[self._first] == self._second
        floor[np.where(child_of_first, self._first, self._second)] = self._weight
        floor[root] = np.inf
        while not np.array_equal(parent[parent], parent):  # each round doubles the length of path looked at
            floor, parent = np.minimum(floor, floor[parent]), parent[parent]
        outside = np.ones(self.size, bool)
        outside[reached] = False
        floor[outside] = -np.inf
        self._floor = floor


def merge_forests(forests: Iterable[Forest]) -> Forest:
    """Returns the forest of all edges that went into any of `forests`, which may come from different machines.

    >>> left, right = Forest(3), Forest(3)
    >>> left.add(np.array([0, 0]), np.array([1, 2]), np.array([3.0, 1.0]))
    >>> right.add(np.array([1]), np.array([2]), np.array([2.0]))
    >>> merge_forests([left, right]).edges()[2].tolist()
    [3.0, 2.0]
    """
    forests = list(forests)
    merged = Forest(forests[0].size)
    for forest in forests:
        merged.add(*forest.edges())
    return merged
