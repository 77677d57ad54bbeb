"""The causal (Markov) factorisation p(x) = prod_j p(x_j | pa_j), and interventions on its mechanisms.

Each mechanism is a module of its own: an intervention replaces one and leaves the others as they are, object by object.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import networkx as nx
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from licm.causal.columns import Table, columns_of, is_words
from licm.causal.conditionals import Blend, Conditional, PointMass, Shifted, as_conditional
from licm.checks import unknown_name


class CausalFactorization:
    """A density over the nodes of a directed acyclic graph, one mechanism a node.

    Immutable: `fit` and the interventions return new factorisations.

    Args:
        graph: A networkx DiGraph without cycles. A node's parents are in the order of the graph's nodes.
        conditionals: For each node a conditional of `licm.causal.conditionals`, a name ("tabular",
            "linear_gaussian") or a scikit-learn regressor or classifier; or one of these for all nodes.

    Raises:
        ValueError: If the graph has a cycle or no node, a node has no conditional or a conditional no node, or a
            conditional takes another number of parents than the graph gives.
        TypeError: If `graph` is not a DiGraph or a conditional is not one.

    >>> from licm.causal.conditionals import LinearGaussian
    >>> graph = nx.DiGraph([("cause", "effect")])
    >>> model = CausalFactorization(graph, {
    ...     "cause": LinearGaussian([], 0.0, 1.0), "effect": LinearGaussian([2.0], 0.0, 1.0)})
    >>> float(model.do(cause=3).sample(100_000, np.random.default_rng(0))["effect"].mean().round(1))
    6.0
    """

    def __init__(self, graph: nx.DiGraph, conditionals: "Mapping[Any, Any] | Any") -> None:
        self.graph = nx.freeze(check_graph(graph).copy())
        self._position = {node: index for index, node in enumerate(graph)}
        if not isinstance(conditionals, Mapping):
            conditionals = dict.fromkeys(graph, conditionals)
        without = [node for node in graph if node not in conditionals]
        if without:
            raise ValueError(f"conditionals: none for node {without[0]!r}")
        extra = [node for node in conditionals if node not in graph]
        if extra:
            raise ValueError(f"conditionals: {extra[0]!r} is not a node of the graph")
        self.nodes: tuple[Any, ...] = tuple(nx.topological_sort(graph))
        self.conditionals: dict[Any, Conditional] = {node: as_conditional(conditionals[node]) for node in self.nodes}
        for node, conditional in self.conditionals.items():
            given, expected = len(self.parents(node)), conditional.num_parents
            if expected is not None and expected != given:
                names = ", ".join(map(repr, self.parents(node))) or "none"
                raise ValueError(
                    f"conditionals: that of {node!r} takes {expected} parent(s), the graph gives {given} ({names})"
                )

    def parents(self, node: Hashable) -> tuple[Any, ...]:
        """Returns a node's parents, in the order its conditional sees them: that of the graph's nodes."""
        return tuple(sorted(self.graph.predecessors(node), key=self._position.__getitem__))

    def fit(self, data: Table) -> "CausalFactorization":
        """Returns a factorisation whose conditionals are fitted, each on its own.

        Args:
            data: A column [n] for each node; others are not looked at.

        Raises:
            ValueError: If a node has no column, values are missing, or a conditional cannot be fitted.
        """
        columns = columns_of(self.nodes, data)
        fitted = {}
        for node, conditional in self.conditionals.items():
            with _naming(node):
                fitted[node] = conditional.fit(columns[node], self._matrix(node, columns))
        return CausalFactorization(self.graph, fitted)

    def log_density(self, data: Table) -> NDArray[np.float64]:
        """Returns log p(x) in nats, [n], the sum of `terms`.

        Args:
            data: A column [n] for each node.

        Raises:
            ValueError: If a node has no column or values are missing.
        """
        return np.sum(list(self.terms(data).values()), axis=0)

    def terms(self, data: Table) -> dict[Any, NDArray[np.float64]]:
        """Returns log p(x_j | pa_j) in nats, [n], for each node j.

        Raises:
            ValueError: If a node has no column or values are missing.
        """
        columns = columns_of(self.nodes, data)
        terms = {}
        for node, conditional in self.conditionals.items():
            with _naming(node):
                terms[node] = conditional.log_density(columns[node], self._matrix(node, columns))
        return terms

    def sample(self, count: int, draws: Generator) -> dict[Any, NDArray]:
        """Draws from the density, parents before children.

        Args:
            count: Number of observations, at least 1.
            draws: The source of randomness.

        Returns:
            A column [count] for each node.

        Raises:
            ValueError: If `count` is below 1, or a mechanism cannot do with what its parents give.
        """
        if count < 1:
            raise ValueError(f"count: expected at least 1, got {count}")
        columns: dict[Any, NDArray] = {}
        for node, conditional in self.conditionals.items():
            with _naming(node):
                columns[node] = conditional.sample(self._matrix(node, columns, count), draws)
        return columns

    def do(self, values: Mapping[Any, float] | None = None, **named: float) -> "CausalFactorization":
        """Returns the density under a hard intervention: nodes set to values, deaf to their parents.

        Args:
            values: The value of each node set.
            **named: The same, for nodes whose names are words.

        Raises:
            ValueError: If nothing is set or a node is not in the graph.
        """
        chosen = {**(values or {}), **named}
        if not chosen:
            raise ValueError("do: expected at least one node and its value, got none")
        changed = self
        for node, value in chosen.items():
            changed = changed.replace_mechanism(node, PointMass(value), parents=())
        return changed

    def soft(
        self, node: Hashable, *, shift: float = 0.0, other: Any = None, share: float = 0.0
    ) -> "CausalFactorization":
        """Returns the density under a soft intervention: the node still listens to its parents.

        Args:
            node: Whose mechanism changes.
            shift: Added to what the mechanism gives.
            other: A mechanism for the same parents that acts in its place with probability `share`.
            share: In [0, 1].

        Raises:
            ValueError: If the node is not in the graph, nothing is changed, or `other` has no share or does not fit.
        """
        if (other is None) != (share == 0):
            raise ValueError("soft: another mechanism and its share go together, got one of them")
        if shift == 0 and other is None:
            raise ValueError("soft: expected a shift, or another mechanism and its share, got neither")
        mechanism = self.conditionals[self._known(node)]
        if shift:
            mechanism = Shifted(mechanism, shift)
        if other is not None:
            self.replace_mechanism(node, other)  # refuses what does not fit
            mechanism = Blend(mechanism, as_conditional(other), share)
        return self.replace_mechanism(node, mechanism)

    def replace_mechanism(
        self, node: Hashable, conditional: Any, *, parents: "tuple[Any, ...] | list[Any] | None" = None
    ) -> "CausalFactorization":
        """Returns the density with another mechanism for one node; all others are the same objects.

        Args:
            node: Whose mechanism is replaced.
            conditional: As in the constructor.
            parents: Other parents for it, which it sees in the order of the graph's nodes; None for those it has.

        Raises:
            ValueError: If a node is not in the graph, the new parents close a cycle, or the numbers do not fit.
        """
        graph = nx.DiGraph(self.graph)
        self._known(node)
        if parents is not None:
            graph.remove_edges_from([(parent, node) for parent in self.parents(node)])
            graph.add_edges_from([(self._known(parent), node) for parent in parents])
        return CausalFactorization(graph, {**self.conditionals, node: conditional})

    def _known(self, node: Hashable) -> Hashable:
        if node not in self.conditionals:
            raise ValueError(unknown_name("node", node, [str(name) for name in self.nodes]))
        return node

    def _matrix(self, node: Hashable, columns: Mapping[Any, NDArray], count: int | None = None) -> NDArray:
        """The columns of a node's parents, [n, m]: objects where some are words, so that numbers stay numbers."""
        parents = [columns[parent] for parent in self.parents(node)]
        if not parents:
            return np.empty((len(columns[node]) if count is None else count, 0))
        mixed = len({is_words(column) for column in parents}) > 1
        return np.column_stack([column.astype(object) for column in parents] if mixed else parents)


@contextmanager
def _naming(node: Hashable) -> Iterator[None]:
    """Says in an error whose mechanism it is about; scikit-learn's own kinds of error stay what they are."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ValueError(f"node {node!r}: {error}") from error


def check_graph(graph: nx.DiGraph) -> nx.DiGraph:
    """Returns the graph if it is a directed acyclic one with at least one node.

    Raises:
        TypeError: If it is not a networkx DiGraph.
        ValueError: If it has no node, or a cycle, which is named.
    """
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(f"graph: expected a networkx.DiGraph, got {type(graph).__name__}")
    if not len(graph):
        raise ValueError("graph: expected at least one node, got none")
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
        raise ValueError(f"graph: expected no cycle, got {' -> '.join(map(str, [*cycle, cycle[0]]))}")
    return graph
