"""From a table in a file to its Chow-Liu tree: a record of it, its text, its picture."""

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from licm.causal.chow_liu import ChowLiu
from licm.causal.drawing import draw_tree, tree_text
from licm.causal.table_files import read_table
from licm.checks import check_picture
from licm.seeding import derive_seed


def learn_structure(
    path: str | Path, picture: str | Path | None = None, *, bootstrap: int = 0, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Reads a table, finds its tree, and draws it.

    Args:
        path: The table, .csv or .parquet.
        picture: A new .png or .svg file; None for a .tree.png beside the table, which is replaced.
        bootstrap: Number of samples for the confidence in each edge; 0 for none.
        seed: Of those samples and of the approximate tree's sketch.
        **options: Of `ChowLiu`.

    Returns:
        JSON values: `rows`, `kind`, `variables`, `root`, `nats` (the sum over the tree), `edges`, each with `parent`,
        `child`, `nats` and with a bootstrap `confidence`, parents first; and `picture`, its path.

    Raises:
        ValueError: As `read_table`, `ChowLiu` and `check_picture`.
        OSError: If the picture cannot be written.
    """
    path = Path(path)
    where = path.with_suffix(".tree.png") if picture is None else Path(picture)
    check_picture(where, new=picture is not None)
    columns = read_table(path)
    model = ChowLiu(seed=seed, **options).fit(columns)
    tree = model.to_networkx()
    if bootstrap:
        draws = np.random.default_rng(derive_seed(seed, "bootstrap"))
        nx.set_edge_attributes(tree, model.confidence_by_edge(draws, repeats=bootstrap), "confidence")
    draw_tree(tree, model.root_, where)
    return {
        "rows": len(next(iter(columns.values()))),
        "kind": model.kind_,
        "variables": model.names_,
        "root": model.root_,
        "nats": model.total_weight_,
        "edges": [{"parent": parent, "child": child, **data} for parent, child, data in tree.edges(data=True)],
        "picture": str(where),
    }


def structure_text(record: dict[str, Any]) -> str:
    """Returns a record of `learn_structure` as text: what it is, then the tree, children below their parent."""
    tree = nx.DiGraph()
    tree.add_node(record["root"])
    for edge in record["edges"]:
        tree.add_edge(edge["parent"], edge["child"], **edge)
    size = f"{len(record['variables'])} {record['kind']} variables, {record['rows']} rows"
    return f"{size}, {record['nats']:.6g} nats in the tree\n{tree_text(tree, record['root'])}"
