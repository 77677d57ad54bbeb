"""Which mechanisms changed between two data sets: independence of mechanisms made visible.

In the causal factorisation an intervention changes the conditionals of its targets and no other. In a factorisation
along another graph more of them change, unless that graph is in the same interventional Markov equivalence class
(`licm.causal.equivalence`): members of the class cannot be told apart by what changes.
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from licm.causal.change_tests import Change, discrete_change, holm, linear_gaussian_change
from licm.causal.columns import Table, columns_of, is_continuous, is_words
from licm.causal.equivalence import MAX_NODES, equivalence_class
from licm.causal.factorization import check_graph


@dataclass(frozen=True)
class ChangeReport:
    """What `mechanism_changes` found.

    Attributes:
        graph: The factorisation's graph.
        findings: A test's result for each node, p-values as they came.
        adjusted: Holm's p-value for each node.
        alpha: The chance of any false finding that is accepted.
        targets: What was said to be intervened on, or None if unknown.
    """

    graph: nx.DiGraph
    findings: dict[Any, Change]
    adjusted: dict[Any, float]
    alpha: float
    targets: frozenset[Any] | None = None

    @property
    def changed(self) -> list[Any]:
        """Nodes whose mechanism changed."""
        return [node for node, p_value in self.adjusted.items() if p_value <= self.alpha]

    @property
    def hard(self) -> list[Any]:
        """Those of them that a hard intervention set or let go."""
        return [node for node in self.changed if self.findings[node].hard]

    @property
    def changed_edges(self) -> list[tuple[Any, Any]]:
        """The edges into changed nodes."""
        changed = set(self.changed)
        return [edge for edge in self.graph.edges if edge[1] in changed]

    @property
    def unexpected(self) -> list[Any]:
        """Changed nodes that are no targets; empty where the targets are unknown."""
        return [node for node in self.changed if self.targets is not None and node not in self.targets]

    @property
    def missed(self) -> list[Any]:
        """Targets that were not found to have changed."""
        changed = set(self.changed)
        return [node for node in self.graph if node in (self.targets or ()) and node not in changed]

    @property
    def ties(self) -> list[nx.DiGraph] | None:
        """The other graphs that tie, those of the interventional Markov equivalence class: no test tells them apart.

        By the targets where they are known, else by what changed, had it been all and not more. None for graphs of more
        than 6 nodes, whose classes are not listed.
        """
        if len(self.graph) > MAX_NODES:
            return None
        intervened = self.changed if self.targets is None else self.targets
        return equivalence_class(self.graph, [intervened])[1:]

    def __str__(self) -> str:
        changed, width = set(self.changed), max(9, *(len(str(node)) for node in self.graph))
        lines = [f"{'mechanism':<{width}}  p (Holm)   verdict"]
        for node, p_value in self.adjusted.items():
            verdict = "unchanged" if node not in changed else "set by hand" if self.findings[node].hard else "CHANGED"
            if node in self.unexpected:
                verdict += ", though no target"
            elif node in self.missed:
                verdict += ", though a target"
            lines.append(f"{node!s:<{width}}  {p_value:<9.2g}  {verdict}")
        if self.ties is not None:
            lines.append(_say_ties(self.ties, "what changed" if self.targets is None else "the targets"))
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """Saves a picture of the graph, changed mechanisms and the edges into them marked.

        Args:
            path: Ends in .png or .svg; what is there is replaced.
        """
        from licm.causal.drawing import draw_changes

        draw_changes(self.graph, self.changed, path, hard=self.hard)


def _say_ties(ties: list[nx.DiGraph], intervened: str) -> str:
    if not ties:
        return f"no other graph ties: alone in its interventional Markov equivalence class, given {intervened}"
    drawn = [", ".join(f"{a} -> {b}" for a, b in sorted(graph.edges, key=str)) for graph in ties[:3]]
    more = f"; and {len(ties) - 3} more" if len(ties) > 3 else ""
    title = "one other graph ties" if len(ties) == 1 else f"{len(ties)} other graphs tie"
    return f"{title}, no test tells them from this one, given {intervened}: {'; '.join(drawn)}{more}"


def mechanism_changes(
    graph: nx.DiGraph,
    before: Table,
    after: Table,
    *,
    targets: Collection[Hashable] | None = None,
    alpha: float = 0.05,
) -> ChangeReport:
    """Tests for each node whether p(x_j | pa_j) is the same before and after.

    Continuous variables: likelihood-ratio test of linear-Gaussian mechanisms. Discrete ones (integers of few values,
    booleans, words): G-test, pooled over the parents' states. A variable whose noise is gone on one side only was set
    by a hard intervention. p-values are corrected by Holm's rule.

    Args:
        graph: Acyclic; its nodes are columns of the data.
        before: A column [n] for each node.
        after: A column [m] for each node.
        targets: What was intervened on, where known; the report then says what was unexpected or missed.
        alpha: The chance of any false finding, in (0, 1).

    Raises:
        TypeError: If `graph` is not a DiGraph.
        ValueError: If the graph has a cycle, a column or value is missing, a column has words on one side only, a
            discrete node has a continuous parent, a continuous one too few observations, a target is not in the
            graph, or `alpha` is out of range.
    """
    check_graph(graph)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a probability in (0, 1), got {alpha:g}")
    strange = [target for target in targets or () if target not in graph]
    if strange:
        raise ValueError(f"targets: {strange[0]!r} is not a node of the graph")
    first, second = columns_of(graph, before, "before"), columns_of(graph, after, "after")
    findings = {node: mechanism_change(node, tuple(graph.predecessors(node)), first, second) for node in graph}
    return report_changes(graph, findings, alpha=alpha, targets=targets)


def report_changes(
    graph: nx.DiGraph,
    findings: dict[Any, Change],
    *,
    alpha: float = 0.05,
    targets: Collection[Hashable] | None = None,
) -> ChangeReport:
    """Returns the report of tests, one a node, their p-values corrected by Holm's rule."""
    adjusted = holm(np.array([findings[node].p_value for node in graph]))
    chosen = None if targets is None else frozenset(targets)
    return ChangeReport(graph, findings, dict(zip(graph, adjusted.tolist())), alpha, chosen)


def mechanism_change(
    node: Any, parents: tuple[Any, ...], before: Mapping[Any, NDArray], after: Mapping[Any, NDArray]
) -> Change:
    """Tests one mechanism; `mechanism_changes` says how.

    Args:
        node: Whose it is.
        parents: Its parents.
        before: Their columns [n], from `columns_of`.
        after: Their columns [m].

    Raises:
        ValueError: As `mechanism_changes`.
    """
    continuous = {}
    for name in (node, *parents):
        if is_words(before[name]) != is_words(after[name]):
            raise ValueError(f"column {name!r} has words on one side and numbers on the other")
        continuous[name] = is_continuous(before[name]) or is_continuous(after[name])
    sides = before[node], after[node]
    gaussian = continuous[node] or all(_stands_still(side) for side in sides)
    wrong = [parent for parent in parents if continuous[parent]]
    if wrong and not gaussian:
        raise ValueError(
            f"node {node!r} is discrete and its parent {wrong[0]!r} continuous: put the parent in bins first"
        )
    try:
        if gaussian:
            columns = [_regressors(before[parent], after[parent], continuous[parent]) for parent in parents]
            return linear_gaussian_change(*_by_side(sides, columns))
        return discrete_change(*_by_side(sides, [_states(before[parent], after[parent]) for parent in parents]))
    except ValueError as error:
        raise ValueError(f"node {node!r}: {error}") from None


def _stands_still(column: NDArray) -> bool:
    return column.dtype.kind in "iuf" and column.min() == column.max()


def _states(before: NDArray, after: NDArray) -> NDArray[np.intp]:
    """States 0..k-1 of both sides, [n + m]."""
    return np.unique(np.concatenate([before, after]), return_inverse=True)[1]


def _regressors(before: NDArray, after: NDArray, continuous: bool) -> NDArray:
    """A continuous parent as it is, [n + m], or an indicator for each state but one, [n + m, k - 1]."""
    if continuous:
        return np.concatenate([before, after])
    states = _states(before, after)
    if states.max() + 2 > min(len(before), len(after)):  # nothing would be left for the noise
        raise ValueError(f"a parent has {states.max() + 1} different words or numbers, too many for the observations")
    return states[:, None] == np.arange(1, states.max() + 1)


def _by_side(sides: tuple[NDArray, NDArray], columns: list[NDArray]) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Values [n], parents [n, p], values [m], parents [m, p]."""
    before, after = sides
    parents = np.column_stack([np.empty((len(before) + len(after), 0), int), *columns])
    return before, parents[: len(before)], after, parents[len(before) :]
