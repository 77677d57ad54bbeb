"""Measures the causal-graph half: what changes, which graph is causal, and how far Chow-Liu trees scale.

    python -m benchmarks structure --json docs/results/structure.json
    python -m benchmarks structure --json FILE --parts scaling pgmpy --sizes 50 200
    python -m benchmarks structure --json FILE --quick
    python -m benchmarks structure --table

Rows are written to the file as they are made, beside what it has; what is made again is replaced. `--quick` makes a few
small ones. `--table` makes docs/results/structure.md from docs/results/structure.json. Every tree is made in a process
of its own, so that its memory is its own. pgmpy and experts are measured where they can be: with pgmpy installed, with
`--run`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from benchmarks.structure_page import make_page
from licm.causal.changes import mechanism_changes
from licm.causal.chow_liu import ChowLiu
from licm.causal.conditionals import LinearGaussian
from licm.causal.factorization import CausalFactorization
from licm.causal.mutual_information import DiscretePairs
from licm.causal.ranking import rank_by_changes
from licm.causal.tree_search import approximate_tree

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "structure.json", RESULTS / "structure.md"
ROWS = 5000
SIZES = (50, 200, 1000, 3000, 10_000)
PGMPY_SIZES = (50, 100, 200)
APPROXIMATE_SIZES = (10_000, 100_000)
RECOVERY_ROWS = (50, 100, 200, 500, 1000, 2000, 5000)


def random_tree(size: int, rows: int, draws: np.random.Generator) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """A random recursive tree of binary variables; each copies its parent but for a flip of chance 0.05 to 0.3.

    Returns:
        States, int8 [size, rows], and the edges (i, j), i < j.
    """
    parent = [int(draws.integers(0, index)) for index in range(1, size)]
    states = np.empty((size, rows), np.int8)
    states[0] = draws.integers(0, 2, rows)
    for index, above in enumerate(parent, start=1):
        states[index] = states[above] ^ (draws.random(rows, np.float32) < draws.uniform(0.05, 0.3))
    return states, {(above, index) for index, above in enumerate(parent, start=1)}


def random_gaussian(size: int, chance: float, draws: np.random.Generator) -> CausalFactorization:
    """A random graph, each pair joined with the given chance, of linear-Gaussian mechanisms."""
    order = draws.permutation(size).tolist()
    graph = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from((order[j], order[i]) for i in range(size) for j in range(i) if draws.random() < chance)

    def mechanism(parents: int) -> LinearGaussian:
        weights = draws.uniform(0.3, 1, parents) * draws.choice([-1, 1], parents)
        return LinearGaussian(weights, draws.normal(), draws.uniform(0.5, 1.5))

    return CausalFactorization(graph, {node: mechanism(graph.in_degree(node)) for node in graph})


def shift_some(model: CausalFactorization, targets: list[int], draws: np.random.Generator) -> CausalFactorization:
    """Shifts mechanisms by 0.5 to 1 of their noise's standard deviation, up or down."""
    for target in targets:
        deviation = model.conditionals[target].deviation  # type: ignore[attr-defined]
        model = model.soft(target, shift=float(deviation * draws.uniform(0.5, 1) * draws.choice([-1, 1])))
    return model


def invariance(models: int) -> dict[str, Any]:
    """Recall of targets, and the rate of models with any false finding, in the causal factorisation."""
    from scipy.stats import binomtest

    found = targets = false = reversed_more = 0
    for seed in range(models):
        draws = np.random.default_rng(seed)
        model = random_gaussian(10, 0.3, draws)
        chosen = draws.choice(10, draws.integers(1, 4), replace=False).tolist()
        before = model.sample(ROWS, draws)
        after = shift_some(model, chosen, draws).sample(ROWS, draws)
        report = mechanism_changes(model.graph, before, after, targets=chosen)
        backwards = mechanism_changes(model.graph.reverse(), before, after, targets=chosen)
        targets += len(chosen)
        found += len(chosen) - len(report.missed)
        false += bool(report.unexpected)
        reversed_more += len(backwards.changed) > len(report.changed)
    interval = binomtest(false, models).proportion_ci(method="exact")
    return {
        "models": models,
        "invariance_recall": found / targets,
        "invariance_fwer": false / models,
        "invariance_fwer_interval": [interval.low, interval.high],
        "reversed_graph_changes_more": reversed_more / models,
    }


def ranks(models: int) -> dict[str, Any]:
    """Tied rank of the true graph in its Markov equivalence class against the number of single-target environments."""
    rows = []
    for count in range(1, 6):
        truth, sizes, alone = [], [], []
        for seed in range(models):
            draws = np.random.default_rng([seed, 5])
            model = random_gaussian(5, 0.5, draws)
            order = draws.permutation(5).tolist()
            observed = model.sample(2000, draws)
            changed = [shift_some(model, [target], draws).sample(2000, draws) for target in order[:count]]
            ranking = rank_by_changes(model.graph, observed, changed)
            truth.append(ranking.tied_rank(model.graph))
            sizes.append(len(ranking.graphs))
            alone.append(len(ranking.best) == 1 and truth[-1] == 1)
        rows.append(
            {
                "targets": count,
                "mean_tied_rank": float(np.mean(truth)),
                "mean_class_size": float(np.mean(sizes)),
                "true_graph_alone_at_the_top": float(np.mean(alone)),
            }
        )
    return {"models": models, "rows": rows}


def recovery(trees: int) -> dict[str, Any]:
    """Share of a random tree's edges that are found, against the number of observations; 100 variables."""
    rows = []
    for count in RECOVERY_ROWS:
        shares = []
        for seed in range(trees):
            states, edges = random_tree(100, count, np.random.default_rng(seed))
            shares.append(_recall(ChowLiu(kind="discrete").fit(states.T).edges_, edges))
        rows.append({"rows": count, "mean": float(np.mean(shares)), "least": float(np.min(shares))})
    return {"trees": trees, "rows": rows}


def _recall(found: np.ndarray, edges: set[tuple[int, int]]) -> float:
    return len(edges & set(map(tuple, found.tolist()))) / len(edges)


def one_exact(size: int) -> dict[str, Any]:
    """Time and memory of `ChowLiu.fit` on binary variables, from the table to the tree."""
    states, edges = random_tree(size, ROWS, np.random.default_rng(size))
    table = states.T
    model, seconds = _timed(lambda: ChowLiu(kind="discrete").fit(table))
    return {"size": size, **seconds, "total": model.total_weight_, "recall": _recall(model.edges_, edges)}


def one_pgmpy(size: int, jobs: int) -> dict[str, Any]:
    """The same of pgmpy; and ours again, just before and after it, so that both saw the same machine."""
    import pandas as pd
    from pgmpy.estimators import TreeSearch
    from sklearn.metrics import mutual_info_score

    states, _ = random_tree(size, ROWS, np.random.default_rng(size))
    table = pd.DataFrame(states.T, columns=[f"x{index}" for index in range(size)])
    ours = [_timed(lambda: ChowLiu(kind="discrete").fit(table)) for _ in range(3)]
    search = TreeSearch(table, root_node="x0", n_jobs=jobs)
    tree, costs = _timed(lambda: search.estimate(estimator_type="chow-liu", show_progress=False))
    ours += [_timed(lambda: ChowLiu(kind="discrete").fit(table)) for _ in range(3)]
    total = sum(mutual_info_score(table[a], table[b]) for a, b in tree.edges)
    return {
        "size": size,
        "jobs": jobs,
        **costs,
        "our_seconds": float(np.median([each["seconds"] for _, each in ours])),
        "our_cpu_seconds": float(np.median([each["cpu_seconds"] for _, each in ours])),
        "total_differs_by": abs(float(total) - ours[0][0].total_weight_),
    }


def one_approximate(size: int) -> dict[str, Any]:
    """The approximate tree, and what the exact one would cost: one block of rows against all, times all blocks."""
    states, edges = random_tree(size, ROWS, np.random.default_rng(size))
    pairs = DiscretePairs(states, np.full(size, 2))
    forest, seconds = _timed(lambda: approximate_tree(pairs, np.random.default_rng(0)))
    first, second, weight = forest.edges()
    blocks = pairs.blocks(1024)
    _, row = _timed(lambda: [pairs.tile(blocks[0], block) for block in blocks])
    return {
        "size": size,
        **seconds,
        "recall": _recall(np.column_stack([first, second]), edges),
        "total": float(weight.sum()),
        "exact_seconds_extrapolated": row["seconds"] * (len(blocks) + 1) / 2,
        "exact_cpu_seconds_extrapolated": row["cpu_seconds"] * (len(blocks) + 1) / 2,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, {"seconds": wall, "cpu_seconds": cpu, "peak_rss_mb": peak}


def _in_own_process(call: str) -> dict[str, Any]:
    code = f"import json; from benchmarks import structure; print(json.dumps(structure.{call}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{call} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


MIXTURES = {  # of the ten mechanisms of the paper: eight shifts, inversion, noise
    "shifts only": [1] * 8 + [0, 0],
    "inversion and noise only": [0] * 8 + [1, 1],
    "noise only": [0] * 9 + [1],
    "half inversion": [1] * 8 + [9, 1],
}


def experts(run: Path) -> dict[str, Any]:
    """Accuracy under new mixtures of mechanisms, foretold from a run and measured."""
    from licm.causal.experts import predict_under_mixture
    from licm.classifier import train_classifier
    from licm.config import load_config
    from licm.datasets import load_originals, to_float

    config = load_config(run / "config.yaml")
    canonical = load_originals(
        config.data.source, seed=config.seed, image_size=config.data.image_size, channels=config.data.channels
    ).canonical
    classifier = train_classifier(to_float(canonical.images), canonical.labels)
    rows = []
    for title, weights in MIXTURES.items():
        for restored in (False, True):
            made = predict_under_mixture(run, weights, restored=restored, classifier=classifier)
            figures = ("predicted", "measured", "unchanged", "standard_error")
            images = "restored" if restored else "transformed"
            rows.append({"mixture": title, "images": images, **{name: getattr(made, name) for name in figures}})
    return {"preset": config.preset, "seed": config.seed, "rows": rows}


def headlines(record: dict[str, Any]) -> dict[str, Any]:
    """The figures asked for; those that were not measured are None."""
    exact = {row["size"]: row for row in record.get("scaling", {}).get("rows", [])}
    rival = {(row["size"], row["jobs"]): row for row in record.get("pgmpy", {}).get("rows", [])}
    rough = {row["size"]: row for row in record.get("approximate", {}).get("rows", [])}
    invariant = record.get("invariance", {})
    beside = rival.get((200, 1))
    return {
        # CPU seconds: on a busy machine wall clock compares the load, not the programs.
        "chow_liu_speedup_vs_pgmpy_200": beside and beside["cpu_seconds"] / beside["our_cpu_seconds"],
        "chow_liu_seconds_10000": exact.get(10_000, {}).get("seconds"),
        "chow_liu_cpu_seconds_10000": exact.get(10_000, {}).get("cpu_seconds"),
        "chow_liu_peak_rss_mb_10000": exact.get(10_000, {}).get("peak_rss_mb"),
        "approx_recall_100000": rough.get(100_000, {}).get("recall"),
        "approx_seconds_100000": rough.get(100_000, {}).get("seconds"),
        **{f"invariance_{name}": invariant.get(f"invariance_{name}") for name in ("recall", "fwer", "fwer_interval")},
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="the record to write, or to add to")
    parser.add_argument("--parts", nargs="+", help="default: all that can be measured here")
    parser.add_argument("--sizes", type=int, nargs="+", help="of scaling, pgmpy and approximate")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, -1], help="of pgmpy; -1 for all cores")
    parser.add_argument("--models", type=int, help="of invariance (1000), ranks (50) and recovery (20)")
    parser.add_argument("--run", type=Path, help="a run folder with the paper's mechanisms, for the part experts")
    parser.add_argument("--quick", action="store_true", help="2 models and 20 variables, where not said otherwise")
    parser.add_argument("--table", action="store_true", help="make the results page from its record")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(make_page(json.loads(RECORD.read_text())))
        return
    if arguments.json is None:
        parser.error("expected --json FILE or --table")
    models = arguments.models or (2 if arguments.quick else None)
    sizes = arguments.sizes or ([20] if arguments.quick else None)
    studies = {
        "invariance": lambda: invariance(models or 1000),
        "ranks": lambda: ranks(models or 50),
        "recovery": lambda: recovery(models or 20),
        "experts": lambda: experts(arguments.run),
    }
    calls = {
        "scaling": [f"one_exact({size})" for size in sizes or SIZES],
        "pgmpy": [f"one_pgmpy({size}, {jobs})" for size in sizes or PGMPY_SIZES for jobs in arguments.jobs],
        "approximate": [f"one_approximate({size})" for size in sizes or APPROXIMATE_SIZES],
    }
    can = {"experts": arguments.run is not None, "pgmpy": find_spec("pgmpy") is not None}
    parts = arguments.parts or [part for part in (*studies, *calls) if can.get(part, True)]
    for part in parts:
        if part not in {*studies, *calls} or not can.get(part, True):
            parser.error(
                f"{part}: parts are {', '.join((*studies, *calls))}; pgmpy is to be installed, experts needs --run"
            )
    record: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}

    def write(part: str, made: dict[str, Any]) -> None:
        record[part] = made
        record["headlines"] = headlines(record)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
        print(part, json.dumps(made), flush=True)

    for part in parts:
        if part in studies:
            machine = _machine()
            write(part, {"machine": machine, **studies[part]()})
        for call in calls.get(part, []):
            machine = _machine()
            row = {**_in_own_process(call), "machine": machine}
            kept = [old for old in record.get(part, {}).get("rows", []) if _key(old) != _key(row)]
            write(part, {"rows": sorted([*kept, row], key=_key)})


def _key(row: dict[str, Any]) -> tuple[int, int]:
    return row["size"], -row.get("jobs", 0)


def _machine() -> dict[str, Any]:
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"cores": os.cpu_count(), "threads": int(threads) if threads else os.cpu_count(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
