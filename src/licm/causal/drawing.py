"""Graphs as text and as pictures, in the colours of all figures. matplotlib is loaded when the first is drawn."""

import warnings
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from licm.checks import check_picture
from licm.writing import write_bytes

_LABELLED = 80  # nodes; more are drawn as dots
_LONGEST = 24  # characters of a name
_LETTER, _ROW = 0.075, 0.36  # inches, at 8 points
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
    lines = [_name(root)]
    waiting = [(root, child, "") for child in reversed(list(tree.successors(root)))]
    while waiting:
        parent, node, indent = waiting.pop()
        last = not waiting or waiting[-1][0] != parent
        data = tree.edges[parent, node]
        weight = f"  {data['nats']:.4g} nats" if "nats" in data else ""
        share = f"  {data['confidence']:.0%}" if "confidence" in data else ""
        lines.append(f"{indent}{'└─' if last else '├─'} {_name(node)}{weight}{share}")
        below = indent + ("   " if last else "│  ")
        waiting += [(node, child, below) for child in reversed(list(tree.successors(node)))]
    return "\n".join(lines)


def tidy_layout(tree: nx.DiGraph, root: Hashable) -> Positions:
    """Places a tree from left to right: leaves in rows of their own, inner nodes midway between their children.

    No two nodes share a place and no edges cross, however deep the tree.

    Args:
        tree: Oriented away from `root`.
        root: Its root.

    Returns:
        Positions, one unit to the right per edge from the root, one unit down per leaf.

    >>> tidy_layout(nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d")]), "a")["a"]
    (0.0, -0.5)
    """
    depth = nx.single_source_shortest_path_length(tree, root)
    order = list(nx.dfs_preorder_nodes(tree, root))
    leaves = [node for node in order if tree.out_degree(node) == 0]
    row = {leaf: float(-index) for index, leaf in enumerate(leaves)}
    for node in reversed(order):
        rows = [row[child] for child in tree.successors(node)]
        if rows:
            row[node] = (min(rows) + max(rows)) / 2
    return {node: (float(depth[node]), row[node]) for node in order}


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
    widths = {edge: 0.5 + 3.5 * each / most for edge, each in zip(tree.edges, nats)}
    labels = {edge: f"{share:.0%}" for edge, share in nx.get_edge_attributes(tree, "confidence").items()}
    note = "wider: more mutual information" + ("; %: share of bootstrap samples" if labels else "")
    _draw(tree, tidy_layout(tree, root), path, nodes=[root], widths=widths, labels=labels, note=note)


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
    widths = {edge: 2.5 if edge[1] in set(changed) else 1.0 for edge in graph.edges}
    note = "thick: mechanism changed; dashed: set by hand" if changed else "no mechanism changed"
    _draw(graph, layered_layout(graph), path, nodes=changed, into=True, dashed=hard, widths=widths, note=note, row=0.9)


def _draw(
    graph: nx.DiGraph,
    positions: Positions,
    path: str | Path,
    *,
    nodes: Collection[Any],
    into: bool = False,
    dashed: Collection[Any] = (),
    widths: Mapping[Any, float],
    labels: Mapping[Any, str] | None = None,
    note: str,
    row: float = _ROW,
) -> None:
    """Draws nodes, some marked, and with `into` the edges into them too."""
    kind = check_picture(path)
    from matplotlib.collections import LineCollection

    from licm.drawing import LIGHT, canvas, render

    small = len(graph) <= _LABELLED
    names = {node: _name(node) for node in graph}
    longest = max(map(len, names.values()))
    column = _LETTER * longest + (0.85 if labels else 0.5)
    places = np.array([positions[node] for node in graph])
    extent = np.ptp(places, axis=0)
    unit = np.array([column, row]) if small else 7.5 / np.maximum(extent, 1)
    places = (places - places.min(axis=0)) * unit + [column / 2 if small else 0.25, 0.5]
    width, height = extent * unit + [max(column, 3.6 - extent[0] * unit[0]) if small else 0.5, 0.8]
    at = dict(zip(graph, places.tolist()))
    marked, broken = set(nodes), set(dashed)
    bold = [edge for edge in graph.edges if into and edge[1] in marked]
    colours = {edge: LIGHT.second if edge in set(bold) else LIGHT.faint for edge in graph.edges}
    with canvas(LIGHT, width, height) as figure, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks: boxes
        figure.set_layout_engine("none")  # everything has its place, in inches
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        axes.text(0.1, 0.1, note, fontsize=7, color=LIGHT.muted)
        if small:
            boxes = {
                node: axes.text(
                    at[node][0],
                    at[node][1],
                    names[node],
                    ha="center",
                    va="center",
                    fontsize=8,
                    parse_math=False,
                    bbox={
                        "boxstyle": "round,pad=0.4",
                        "facecolor": LIGHT.paper,
                        "edgecolor": LIGHT.second if node in marked else LIGHT.muted,
                        "linewidth": 2.5 if node in marked else 1,
                        "linestyle": "dashed" if node in broken else "solid",
                    },
                )
                for node in graph
            }
            for tail, head in graph.edges:
                far = into and positions[tail][1] - positions[head][1] > 1  # past the nodes of a row between
                axes.annotate(
                    "",
                    at[head],
                    at[tail],
                    zorder=1,
                    arrowprops={
                        "arrowstyle": "-|>",
                        "color": colours[tail, head],
                        "linewidth": widths[tail, head],
                        "linestyle": "dashed" if head in broken else "solid",
                        "patchA": boxes[tail].get_bbox_patch(),
                        "patchB": boxes[head].get_bbox_patch(),
                        "connectionstyle": f"arc3,rad={0.2 if far else 0}",
                        "shrinkA": 0,
                        "shrinkB": 1,
                    },
                )
            for (tail, head), text in (labels or {}).items():
                middle = (np.array(at[tail]) + at[head]) / 2
                ground = {"facecolor": LIGHT.paper, "edgecolor": "none", "pad": 0.5}
                axes.text(middle[0], middle[1], text, ha="center", va="center", fontsize=7, bbox=ground)
            figure.draw_without_rendering()  # boxes learn their size, and arrows where to end
        else:
            lines = [(at[tail], at[head]) for tail, head in graph.edges]
            every = list(graph.edges)
            axes.add_collection(
                LineCollection(lines, colors=[colours[e] for e in every], linewidths=[widths[e] / 2 for e in every])
            )
            fill = [LIGHT.second if node in marked else LIGHT.muted for node in graph]
            axes.scatter(
                places[:, 0], places[:, 1], s=[40 if node in marked else 4 for node in graph], c=fill, zorder=2
            )
        write_bytes(Path(path), render(figure, kind))


def _name(node: Hashable) -> str:
    """A node's name on one line, cut where it is long."""
    name = " ".join(str(node).split())
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
