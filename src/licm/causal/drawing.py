"""Graphs as text and as pictures, in the colours of all figures. matplotlib is loaded when the first is drawn."""

from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from licm.checks import check_picture
from licm.writing import write_bytes

_LABELLED = 80  # nodes; more are drawn as dots
Positions = dict[Any, tuple[float, float]]


def tree_text(tree: nx.DiGraph, root: Hashable) -> str:
    """Returns a tree as lines, children below their parent.

    Args:
        tree: Oriented away from `root`; edges may have `nats` and `confidence`, which are written beside the child.
        root: Its root.

    >>> print(tree_text(nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d")]), "a"))
    a
    ├─ b
    │  └─ d
    └─ c
    """
    lines = [str(root)]
    waiting = [(root, child, "") for child in reversed(list(tree.successors(root)))]
    while waiting:
        parent, node, indent = waiting.pop()
        last = not waiting or waiting[-1][0] != parent
        data = tree.edges[parent, node]
        weight = f"  {data['nats']:.4g} nats" if "nats" in data else ""
        share = f"  {data['confidence']:.0%}" if "confidence" in data else ""
        lines.append(f"{indent}{'└─' if last else '├─'} {node}{weight}{share}")
        below = indent + ("   " if last else "│  ")
        waiting += [(node, child, below) for child in reversed(list(tree.successors(node)))]
    return "\n".join(lines)


def radial_layout(tree: nx.DiGraph, root: Hashable) -> Positions:
    """Places a tree's root in the middle, leaves at even angles, and inner nodes between their children.

    Args:
        tree: Oriented away from `root`.
        root: Its root.

    Returns:
        Positions with one unit of radius per edge from the root.
    """
    depth = nx.single_source_shortest_path_length(tree, root)
    order = list(nx.dfs_preorder_nodes(tree, root))
    leaves = [node for node in order if tree.out_degree(node) == 0]
    angle = {leaf: 2 * np.pi * index / len(leaves) for index, leaf in enumerate(leaves)}
    for node in reversed(order):
        children = [angle[child] for child in tree.successors(node)]
        if children:
            angle[node] = sum(children) / len(children)
    return {n: (float(depth[n] * np.cos(angle[n])), float(depth[n] * np.sin(angle[n]))) for n in order}


def layered_layout(graph: nx.DiGraph) -> Positions:
    """Places every node of an acyclic graph below its parents; neighbours in a row are apart."""
    positions = {}
    for row, layer in enumerate(nx.topological_generations(graph)):
        for index, node in enumerate(layer):
            lean = 0.25 * (row % 2)  # so that an edge over two rows does not run through a node between
            positions[node] = (index - (len(layer) - 1) / 2 + lean, -float(row))
    return positions


def draw_tree(tree: nx.DiGraph, root: Hashable, path: str | Path) -> None:
    """Saves a picture of a tree: edges as wide as their mutual information, up to 80 nodes with names.

    Args:
        tree: Oriented away from `root`; edges may have `nats`, and `confidence`, which is written beside them.
        root: Its root, marked.
        path: Of the picture (.png or .svg; replaced if it is there).

    Raises:
        ValueError: If the path has another ending.
        OSError: If the picture cannot be written.
    """
    nats = [max(data.get("nats", 0.0), 0.0) for _, _, data in tree.edges(data=True)]
    most = max([*nats, 0.0]) or 1.0
    widths = [0.5 + 3.5 * each / most for each in nats]
    labels = {edge: f"{share:.0%}" for edge, share in nx.get_edge_attributes(tree, "confidence").items()}
    _draw(tree, radial_layout(tree, root), path, nodes=[root], edges=[], widths=widths, labels=labels, square=True)


def draw_changes(graph: nx.DiGraph, changed: Collection[Any], path: str | Path, *, hard: Collection[Any] = ()) -> None:
    """Saves a picture of a factorisation: changed mechanisms and the edges into them thick, of hard ones dashed.

    Args:
        graph: Acyclic.
        changed: Nodes whose mechanism changed.
        path: Of the picture (.png or .svg; replaced if it is there).
        hard: Those of them that were set by a hard intervention.

    Raises:
        ValueError: If the path has another ending.
        OSError: If the picture cannot be written.
    """
    edges = [edge for edge in graph.edges if edge[1] in set(changed)]
    dashed = [edge for edge in edges if edge[1] in set(hard)]
    widths = [2.5 if edge in edges else 1.0 for edge in graph.edges]
    _draw(graph, layered_layout(graph), path, nodes=changed, edges=edges, dashed=dashed, widths=widths)


def _draw(
    graph: nx.DiGraph,
    positions: Positions,
    path: str | Path,
    *,
    nodes: Collection[Any],
    edges: Collection[Any],
    dashed: Collection[Any] = (),
    widths: list[float],
    labels: Mapping[Any, str] | None = None,
    square: bool = False,
) -> None:
    kind = check_picture(path)
    from licm.drawing import LIGHT, canvas, render

    small = len(graph) > _LABELLED
    size = 8.0 if small else 2.5 + 0.9 * len(graph) ** 0.5
    marked, bold, broken = set(nodes), set(edges), set(dashed)
    with canvas(LIGHT, size, size if square else 0.8 * size) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.margins(0.15)
        nx.draw_networkx_edges(
            graph,
            positions,
            ax=axes,
            edgelist=list(graph.edges),
            edge_color=[LIGHT.second if edge in bold else LIGHT.faint for edge in graph.edges],
            style=["dashed" if edge in broken else "solid" for edge in graph.edges],
            width=widths,
            arrows=not small,
            node_size=10 if small else 700,
        )
        nx.draw_networkx_nodes(
            graph,
            positions,
            ax=axes,
            nodelist=list(graph),
            node_color=LIGHT.muted if small else LIGHT.paper,
            edgecolors=[LIGHT.second if node in marked else LIGHT.muted for node in graph],
            linewidths=[3 if node in marked else 1 for node in graph],
            node_size=10 if small else 700,
        )
        if not small:
            names = {node: str(node) if len(str(node)) <= 12 else f"{str(node)[:11]}…" for node in graph}
            nx.draw_networkx_labels(graph, positions, names, ax=axes, font_size=8, font_color=LIGHT.ink)
            nx.draw_networkx_edge_labels(graph, positions, dict(labels or {}), ax=axes, font_size=7)
        write_bytes(Path(path), render(figure, kind))
