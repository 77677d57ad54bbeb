"""Chow and Liu's tree: of all tree-shaped densities the one of greatest likelihood.

It is the maximum spanning tree when an edge weighs the mutual information of its ends (Chow and Liu, 1968).
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self, get_args

import networkx as nx
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from licm.causal.columns import (
    Coding,
    Kind,
    Missing,
    Table,
    as_columns,
    choose_kind,
    is_continuous,
    is_missing,
    make_coding,
    refuse_missing,
)
from licm.causal.conditionals import LinearGaussian, Tabular
from licm.causal.factorization import CausalFactorization
from licm.causal.mutual_information import DiscretePairs, GaussianPairs, PairScores
from licm.causal.tree_search import approximate_tree, exact_tree
from licm.checks import unknown_name
from licm.seeding import derive_seed

Method = Literal["exact", "approximate"]
logger = logging.getLogger(__name__)
_FEW_STATES = 8  # of which no one needs to be warned, however few the rows


class ChowLiu:
    """The maximum-weight spanning tree under mutual information, and the density it factorises.

    Args:
        kind: "discrete", any number of states; "gaussian", I = -1/2 log(1 - rho^2); "mixed", continuous columns in
            equally filled bins and then discrete; "auto" by the columns: fractions, and integers with more than 32
            distinct values, are continuous.
        bins: Of a continuous column under "mixed", at least 2.
        bias_correction: Miller and Madow's, for discrete data. Off, the tree is that of greatest likelihood.
        missing: "refuse"; "pairwise", each pair measured where both are known; "category", a state of its own.
        root: The node the tree is oriented away from; None for the one with the greatest sum of edge weights. The
            orientation says nothing about causes: all roots give the same density.
        method: "exact"; or "approximate", candidate pairs from a sketch, for tens of thousands of variables and more.
        sketch_rows: Of "approximate": observations in the sketch.
        neighbours: Of "approximate": candidates per variable.
        seed: Of "approximate": of the choice of the sketch.
        width: Columns of a tile's matrices; bounds memory, does not change an exact tree.

    Attributes:
        names_: The variables.
        kind_: "discrete", "gaussian" or "mixed".
        edges_: The tree's edges, the strongest first: indices of variables, [d - 1, 2].
        weights_: Their mutual information in nats, [d - 1].
        root_: The root's name.

    >>> draws = np.random.default_rng(0)
    >>> a = draws.integers(0, 2, 500)
    >>> b = a ^ (draws.random(500) < 0.1)
    >>> c = b ^ (draws.random(500) < 0.1)
    >>> sorted(ChowLiu(root="a").fit({"a": a, "b": b, "c": c}).to_networkx().edges)
    [('a', 'b'), ('b', 'c')]
    """

    def __init__(
        self,
        *,
        kind: Kind = "auto",
        bins: int = 8,
        bias_correction: bool = False,
        missing: Missing = "refuse",
        root: Hashable | None = None,
        method: Method = "exact",
        sketch_rows: int = 512,
        neighbours: int = 16,
        seed: int = 0,
        width: int = 1024,
    ) -> None:
        for name, value, least in (
            ("bins", bins, 2),
            ("sketch_rows", sketch_rows, 2),
            ("neighbours", neighbours, 1),
            ("width", width, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        for name, given, valid in (("kind", kind, Kind), ("missing", missing, Missing), ("method", method, Method)):
            if given not in get_args(valid):
                raise ValueError(unknown_name(name, given, get_args(valid)))
        self.kind, self.bins, self.bias_correction, self.missing = kind, bins, bias_correction, missing
        self.root, self.method, self.seed, self.width = root, method, seed, width
        self.sketch_rows, self.neighbours = sketch_rows, neighbours

    def fit(self, data: Table | ArrayLike, *, names: Sequence[Hashable] | None = None) -> Self:
        """Finds the tree. Logs a warning of a discrete column most of whose values occur once: it shares information
        with every other by chance, and no bias correction takes that off.

        Args:
            data: Columns [n] by name, or an array [n, d]; NaN, None or an empty string is a missing value.
            names: Of an array's columns; x0, x1, ... by default.

        Raises:
            ValueError: If the data are no table, values are missing and `missing` is "refuse", or an option does not
                go with the data.
        """
        columns = as_columns(data, names)
        for name, column in columns.items():
            if is_missing(column).all():
                raise ValueError(f"data: column {name!r} has no values")
        if self.missing == "refuse":
            refuse_missing(columns)
        self.names_: list[Any] = list(columns)
        self.kind_ = choose_kind(columns, self.kind)
        if self.root is not None and self.root not in columns:
            raise ValueError(unknown_name("root", self.root, [str(name) for name in columns]))
        self._learn_coding(columns)
        self._coded = self._code(columns)
        self.__dict__.pop("factorization_", None)
        self._pairs = self._scores(self._coded)
        self.edges_, self.weights_ = self._tree(self._pairs)
        self.root_ = self.root if self.root is not None else self.names_[self._heaviest()]
        return self

    @property
    def total_weight_(self) -> float:
        """The sum of the edges' mutual information, in nats."""
        self._check_fitted()
        return float(self.weights_.sum())

    def to_networkx(self) -> nx.DiGraph:
        """Returns the tree, oriented away from the root; each edge has its mutual information, `nats`."""
        self._check_fitted()
        undirected = nx.Graph()
        undirected.add_nodes_from(self.names_)
        for (first, second), weight in zip(self.edges_.tolist(), self.weights_.tolist()):
            undirected.add_edge(self.names_[first], self.names_[second], nats=weight)
        tree = nx.DiGraph()
        tree.add_nodes_from(self.names_)
        for parent, child in nx.bfs_edges(undirected, self.root_):
            tree.add_edge(parent, child, **undirected.edges[parent, child])
        return tree

    @cached_property
    def factorization_(self) -> CausalFactorization:
        """The tree's density over states (discrete, mixed) or values (Gaussian); each p(child | parent) fitted."""
        self._check_fitted()
        index = {name: position for position, name in enumerate(self.names_)}
        graph = self.to_networkx()
        conditionals: dict[Any, Any] = {}
        for name in self.names_:
            family = [self._coded[index[member]] for member in (*graph.predecessors(name), name)]
            known = np.all([_known(column) for column in family], axis=0)
            *parents, values = (column[known] for column in family)
            matrix = np.column_stack(parents) if parents else np.empty((len(values), 0))
            if self.kind_ == "gaussian":
                empty: LinearGaussian | Tabular = LinearGaussian()
            else:
                states = [self._codings[index[p]].num_states for p in graph.predecessors(name)]
                empty = Tabular(num_states=self._codings[index[name]].num_states, parent_states=tuple(states))
            try:
                conditionals[name] = empty.fit(values, matrix)
            except ValueError as error:
                raise ValueError(f"column {name!r}: {error}") from error
        return CausalFactorization(graph, conditionals)

    def sample(self, count: int, draws: Generator) -> dict[Any, NDArray]:
        """Draws from the tree's density.

        Args:
            count: Number of observations, at least 1.
            draws: The source of randomness.

        Returns:
            A column [count] for each variable, in its own values; under "mixed" a continuous value is drawn evenly
            from its bin.
        """
        columns = self.factorization_.sample(count, draws)
        if self.kind_ == "gaussian":
            return {name: columns[name] for name in self.names_}
        return {name: coding.decode(columns[name], draws) for name, coding in zip(self.names_, self._codings)}

    def score(self, data: Table | ArrayLike) -> float:
        """Returns the mean log-likelihood per observation, in nats; under "mixed" that of the bins.

        Args:
            data: As in `fit`; columns of an array in the same order.

        Raises:
            ValueError: If a column is missing or new, or a value is missing (unless a category of `fit`) or was not
                there in `fit`.
        """
        self._check_fitted()
        columns = as_columns(data, None if hasattr(data, "items") else self.names_)
        if set(columns) != set(self.names_):
            odd = sorted(map(str, set(columns) ^ set(self.names_)))
            raise ValueError(f"data: expected the columns of fit, differs in {', '.join(odd[:5])}")
        coded = self._code({name: columns[name] for name in self.names_})
        for name, values in zip(self.names_, coded):
            if not _known(values).all():
                raise ValueError(f"data: column {name!r} has missing values, which have no likelihood")
        return float(self.factorization_.log_density(dict(zip(self.names_, coded))).mean())

    def edge_confidence(self, draws: Generator, *, repeats: int = 100) -> NDArray[np.float64]:
        """Returns for each of `edges_` the share of bootstrap samples whose tree has it too, [d - 1] in [0, 1].

        Args:
            draws: Chooses the samples: as many observations as there are, with replacement.
            repeats: Number of samples, at least 1.
        """
        self._check_fitted()
        if repeats < 1:
            raise ValueError(f"repeats: expected at least 1, got {repeats}")
        own = self.edges_[:, 0] * len(self.names_) + self.edges_[:, 1]
        found = np.zeros(len(own))
        for _ in range(repeats):
            rows = draws.integers(0, self._pairs.num_rows, self._pairs.num_rows)
            edges, _ = self._tree(self._pairs.some_rows(rows))
            found += np.isin(own, edges[:, 0] * len(self.names_) + edges[:, 1])
        return found / repeats

    def confidence_by_edge(self, draws: Generator, *, repeats: int = 100) -> dict[tuple[Any, Any], float]:
        """Returns `edge_confidence` by (parent, child), as in `to_networkx`."""
        shares = self.edge_confidence(draws, repeats=repeats)
        ends = [(self.names_[first], self.names_[second]) for first, second in self.edges_.tolist()]
        by_ends = dict(zip(map(frozenset, ends), shares.tolist()))
        return {edge: by_ends[frozenset(edge)] for edge in self.to_networkx().edges}

    def _learn_coding(self, columns: Mapping[Any, NDArray]) -> None:
        self._codings: list[Coding] = []
        if self.kind_ == "gaussian":
            if self.bias_correction:
                raise ValueError("bias_correction: is for discrete data, these are gaussian")
            if self.missing == "category":
                raise ValueError("missing: gaussian data have no categories; choose 'pairwise' or kind='mixed'")
            return
        mixed = self.kind_ == "mixed"
        for name, column in columns.items():
            bins = self.bins if mixed and is_continuous(column) else None
            missing_state = self.missing == "category" and bool(is_missing(column).any())
            self._codings.append(make_coding(column, bins=bins, missing_state=missing_state))
            if self._codings[-1].num_states > max(len(column) / 2, _FEW_STATES):
                logger.warning(
                    "warning: column %r has %d different values in %d rows and seems to tell all others, "
                    "as a row's number would: leave it out, or put its values in classes",
                    name,
                    self._codings[-1].num_states,
                    len(column),
                )

    def _code(self, columns: Mapping[Any, NDArray]) -> NDArray:
        """States [d, n] of the smallest integer type, or Gaussian values [d, n]."""
        if self.kind_ == "gaussian":
            return np.array([column.astype(float) for column in columns.values()])
        most = max(coding.num_states for coding in self._codings)
        coded = np.empty((len(columns), len(next(iter(columns.values())))), np.min_scalar_type(-most - 1))
        for row, (coding, (name, column)) in zip(coded, zip(self._codings, columns.items())):
            row[:] = coding.encode(column, name)
        return coded

    def _scores(self, coded: NDArray) -> PairScores:
        if self.kind_ == "gaussian":
            return GaussianPairs(coded)
        states = np.array([coding.num_states for coding in self._codings], np.intp)
        return DiscretePairs(coded, states, bias_correction=self.bias_correction)

    def _tree(self, pairs: PairScores) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        if self.method == "exact":
            forest = exact_tree(pairs, width=self.width)
        else:
            options = {"sketch_rows": self.sketch_rows, "neighbours": self.neighbours, "width": self.width}
            forest = approximate_tree(pairs, np.random.default_rng(derive_seed(self.seed, "sketch")), **options)
        first, second, weight = forest.edges()
        return np.column_stack([first, second]), weight

    def _heaviest(self) -> int:
        size = len(self.names_)
        return int(np.bincount(self.edges_.ravel(), np.repeat(self.weights_, 2), minlength=size).argmax())

    def _check_fitted(self) -> None:
        if not hasattr(self, "edges_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this ChowLiu is not fitted: call fit first")


def _known(coded: NDArray) -> NDArray[np.bool_]:
    """Where a coded column has a value: a number, or a state from 0."""
    return ~np.isnan(coded) if coded.dtype.kind == "f" else coded >= 0
