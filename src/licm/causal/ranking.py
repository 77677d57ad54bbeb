"""Which factorisation is causal? The graphs of an equivalence class by how few mechanisms change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from licm.causal.change_tests import Change
from licm.causal.changes import mechanism_change, report_changes
from licm.causal.columns import Table, columns_of
from licm.causal.equivalence import equivalence_class


@dataclass(frozen=True)
class Ranking:
    """Graphs by how few mechanisms change over the environments.

    Attributes:
        graphs: The fewest changes first; graphs of equal number stand next to each other.
        changes: How many mechanisms change along each, over all environments.
    """

    graphs: list[nx.DiGraph]
    changes: list[int]

    def tied_rank(self, graph: nx.DiGraph) -> float:
        """Returns a graph's rank from 1, the mean of their places where several tie.

        Raises:
            ValueError: If the graph was not ranked.
        """
        places = [place for place, other in enumerate(self.graphs) if set(other.edges) == set(graph.edges)]
        if not places or set(self.graphs[0]) != set(graph):
            raise ValueError("graph: is not among those ranked")
        own = self.changes[places[0]]
        fewer, equal = sum(c < own for c in self.changes), sum(c == own for c in self.changes)
        return fewer + (equal + 1) / 2

    @property
    def best(self) -> list[nx.DiGraph]:
        """The graphs along which the fewest mechanisms change."""
        return [graph for graph, count in zip(self.graphs, self.changes) if count == self.changes[0]]


def rank_by_changes(
    graph: nx.DiGraph,
    observed: Table,
    environments: Sequence[Table],
    *,
    alpha: float = 0.05,
) -> Ranking:
    """Ranks the graphs of a Markov equivalence class by how few mechanisms change: which factorisation is causal?

    Args:
        graph: Any member of the class, at most 6 nodes.
        observed: Data without intervention, a column for each node.
        environments: Data under interventions, of unknown targets.
        alpha: For each graph and environment, the chance of any false finding.

    Raises:
        TypeError: As `mechanism_changes`.
        ValueError: As `equivalence_class` and `mechanism_changes`; or if there is no environment.
    """
    if not environments:
        raise ValueError("environments: expected at least one, got none")
    graphs = equivalence_class(graph)
    before = columns_of(graph, observed, "observed")
    after = [columns_of(graph, data, f"environments[{number}]") for number, data in enumerate(environments)]
    known: dict[Any, Change] = {}  # a test is shared by all graphs in which a node has the same parents

    def count(candidate: nx.DiGraph, number: int) -> int:
        findings = {}
        for node in candidate:
            parents = tuple(candidate.predecessors(node))
            family = node, frozenset(parents), number
            if family not in known:
                known[family] = mechanism_change(node, parents, before, after[number])
            findings[node] = known[family]
        return len(report_changes(candidate, findings, alpha=alpha).changed)

    changes = [sum(count(candidate, number) for number in range(len(environments))) for candidate in graphs]
    order = sorted(range(len(graphs)), key=changes.__getitem__)
    return Ranking([graphs[index] for index in order], [changes[index] for index in order])
