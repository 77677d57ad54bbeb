"""Graphs that factorise the same densities, and those that also tell the same story of interventions.

Two graphs are Markov equivalent if they have the same adjacencies and the same v-structures a -> b <- c, a and c not
adjacent (Verma and Pearl, 1990). With interventions of known targets they are interventionally equivalent if that
also holds once every intervention is a node of its own with an edge to each target (Yang, Katcoff and Uhler, 2018).
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any

import networkx as nx

from licm.causal.factorization import check_graph

MAX_NODES = 6


def equivalence_class(graph: nx.DiGraph, targets: Sequence[Collection[Hashable]] = ()) -> list[nx.DiGraph]:
    """Returns all graphs of the (interventional) Markov equivalence class of a graph, the graph itself first.

    Args:
        graph: Acyclic, at most 6 nodes.
        targets: The targets of each intervention; none for the observational class.

    Raises:
        TypeError: If `graph` is not a DiGraph.
        ValueError: If it has a cycle or more than 6 nodes, or a target is not in it.

    >>> chain = nx.DiGraph([("a", "b"), ("b", "c")])
    >>> len(equivalence_class(chain)), len(equivalence_class(chain, [{"b"}]))
    (3, 1)
    """
    check_graph(graph)
    if len(graph) > MAX_NODES:
        raise ValueError(f"graph: all of a class are listed for at most {MAX_NODES} nodes, got {len(graph)}")
    for target in (member for chosen in targets for member in chosen):
        if target not in graph:
            raise ValueError(f"targets: {target!r} is not a node of the graph")
    wanted = _signature(graph, targets)
    others = (other for other in _orientations(graph) if set(other.edges) != set(graph.edges))
    return [graph, *(other for other in others if _signature(other, targets) == wanted)]


def _signature(graph: nx.DiGraph, targets: Sequence[Collection[Hashable]]) -> frozenset[Any]:
    """The v-structures, interventions included as nodes; the adjacencies are the same by construction."""
    parents = {node: list(graph.predecessors(node)) for node in graph}
    for number, chosen in enumerate(targets):
        for node in chosen:
            parents[node].append(("intervention", number))
    adjacent = {frozenset(edge) for edge in graph.edges}
    adjacent |= {frozenset((("intervention", k), node)) for k, chosen in enumerate(targets) for node in chosen}
    return frozenset(
        (node, pair)
        for node, above in parents.items()
        for index, first in enumerate(above)
        for pair in (frozenset((first, second)) for second in above[index + 1 :])
        if pair not in adjacent
    )


def _orientations(graph: nx.DiGraph) -> Iterator[nx.DiGraph]:
    """All acyclic orientations of the graph's adjacencies, built edge by edge so that no cycle is followed up."""
    edges = list(graph.edges)
    nodes = list(graph)

    def extend(index: int, built: nx.DiGraph) -> Iterator[nx.DiGraph]:
        if index == len(edges):
            yield built.copy()
            return
        first, second = edges[index]
        for tail, head in ((first, second), (second, first)):
            if not nx.has_path(built, head, tail):
                built.add_edge(tail, head)
                yield from extend(index + 1, built)
                built.remove_edge(tail, head)

    start = nx.DiGraph()
    start.add_nodes_from(nodes)
    yield from extend(0, start)
