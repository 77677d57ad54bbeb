"""docs/results/structure.md, from the record of `benchmarks.structure` alone."""

from typing import Any

from licm.tables import markdown

INTRODUCTION = """# Results: causal graphs

Made by `python -m benchmarks structure --table` from `structure.json`, which
`python -m benchmarks structure --json FILE` writes. `load` is the number of processes that waited
for the cores at the start: where it is above the cores, or other work came later, wall-clock seconds are upper bounds
that say how busy the machine was, and CPU seconds of the process what the work costs. How things are meant:
[the walk-through](../causal-graph.md).
"""


def make_page(record: dict[str, Any]) -> str:
    """Returns the page; parts that were not measured have no section."""
    sections = [INTRODUCTION, _headlines(record["headlines"])]
    for part, write in _SECTIONS.items():
        if part in record:
            sections.append(write(record[part]))
    return "\n".join(sections)


def _headlines(figures: dict[str, Any]) -> str:
    def said(value: Any) -> str:
        if value is None:
            return "not measured"
        return " to ".join(f"{each:.4g}" for each in value) if isinstance(value, list) else f"{value:.4g}"

    return _table([["figure", ""], *([f"`{name}`", said(value)] for name, value in figures.items())])


def _table(rows: list[list[str]]) -> str:
    return markdown(rows, left=()) + "\n"


def _costs(row: dict[str, Any]) -> list[str]:
    return [f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['peak_rss_mb']:.0f}"]


def _machine(row: dict[str, Any]) -> list[str]:
    return [str(row["machine"]["threads"]), f"{row['machine']['load']:.1f}"]


def _invariance(part: dict[str, Any]) -> str:
    low, high = part["invariance_fwer_interval"]
    return f"""## Only the targets change

{part["models"]} random linear-Gaussian models of 10 nodes, 5,000 rows a side, one to three mechanisms shifted by 0.5
to 1 of their noise's standard deviation; tests along the causal graph, Holm's correction at 0.05.

- targets found: {part["invariance_recall"]:.4f}
- models with any false finding: {part["invariance_fwer"]:.3f}, 95 % interval {low:.3f} to {high:.3f}
- along the reversed graph more mechanisms change in {part["reversed_graph_changes_more"]:.3f} of the models
"""


def _ranks(part: dict[str, Any]) -> str:
    rows = [
        [
            str(row["targets"]),
            f"{row['mean_tied_rank']:.2f}",
            f"{row['mean_class_size']:.1f}",
            f"{row['true_graph_alone_at_the_top']:.2f}",
        ]
        for row in part["rows"]
    ]
    return f"""## Which factorisation is causal?

{part["models"]} random linear-Gaussian models of 5 nodes; every environment shifts the mechanism of another node, 2,000
rows each. The graphs of the true one's Markov equivalence class are ranked by how few mechanisms change; ties share the
mean of their places.

""" + _table([["targets", "tied rank of the truth", "graphs in the class", "truth alone at the top"], *rows])


def _recovery(part: dict[str, Any]) -> str:
    rows = [[f"{row['rows']:,}", f"{row['mean']:.3f}", f"{row['least']:.3f}"] for row in part["rows"]]
    return f"""## Recovery of random trees

Share of the true edges found, {part["trees"]} random recursive trees of 100 binary variables, flips 0.05 to 0.3.

""" + _table([["rows", "mean", "least"], *rows])


def _scaling(part: dict[str, Any]) -> str:
    rows = [[f"{r['size']:,}", *_costs(r), f"{r['recall']:.4f}", *_machine(r)] for r in part["rows"]]
    return """## Exact trees

Binary variables, 5,000 rows, random recursive trees with flips 0.05 to 0.3; from the table to the tree. Memory is the
process's peak, libraries and data included.

""" + _table([["variables", "s", "CPU s", "peak MB", "true edges found", "threads", "load"], *rows])


def _pgmpy(part: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['size']:,}",
            "all" if r["jobs"] == -1 else "1",
            *_costs(r),
            f"{r['our_seconds']:.3f}",
            f"{r['our_cpu_seconds']:.3f}",
            f"{r['cpu_seconds'] / r['our_cpu_seconds']:.0f}" if r["jobs"] == 1 else "",
            f"{r['total_differs_by']:.0e}",
            *_machine(r),
        ]
        for r in part["rows"]
    ]
    titles = [
        "variables",
        "n_jobs",
        "s",
        "CPU s",
        "peak MB",
        "our s",
        "our CPU s",
        "times, in CPU s",
        "totals differ by",
    ]
    return """## pgmpy on the same tables

The table is the same, and so is the weight of the tree. Ours is the median of three fits just before pgmpy's and three
just after, in the same process. CPU seconds are those of the first process: with all cores pgmpy's others are not in
them.

""" + _table([[*titles, "threads", "load"], *rows])


def _approximate(part: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['size']:,}",
            *_costs(r),
            f"{r['recall']:.5f}",
            f"{r['exact_cpu_seconds_extrapolated']:.0f}",
            f"{r['exact_cpu_seconds_extrapolated'] / r['cpu_seconds']:.1f}",
            *_machine(r),
        ]
        for r in part["rows"]
    ]
    return """## Approximate trees

The same kind of data, from states to the tree. The exact cost is extrapolated from one block of rows against all
columns. Where the gain is not above 1 the exact tree is the cheaper one.

""" + _table(
        [["variables", "s", "CPU s", "peak MB", "true edges found", "exact, CPU s", "gain", "threads", "load"], *rows]
    )


def _experts(part: dict[str, Any]) -> str:
    rows = [
        [
            r["mixture"],
            r["images"],
            f"{r['predicted']:.3f}",
            f"{r['measured']:.3f}",
            f"{r['standard_error']:.3f}",
            f"{r['unchanged']:.3f}",
        ]
        for r in part["rows"]
    ]
    return f"""## Experts as estimates of the mechanism

Accuracy of a classifier of clean digits under a new mixture of mechanisms, foretold from a finished run of
`{part["preset"]}`, seed {part["seed"]}, by `licm.causal.experts`, and measured on 2,000 test digits. The last column is
what one would say who does not know of mechanisms: the accuracy under the old, even mixture.

""" + _table([["new mixture", "images", "predicted", "measured", "standard error", "old mixture"], *rows])


_SECTIONS = {
    "invariance": _invariance,
    "ranks": _ranks,
    "recovery": _recovery,
    "scaling": _scaling,
    "pgmpy": _pgmpy,
    "approximate": _approximate,
    "experts": _experts,
}
