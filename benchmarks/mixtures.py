"""Real mixtures: unequal, partly untouched, small, or of an unknown number of mechanisms. What still works?

    python -m benchmarks mixtures --seeds 0 1 2 --json docs/results/mixtures.json
    python -m benchmarks mixtures --only "weights 1:10" "four, number unknown" --json docs/results/mixtures.json
    python -m benchmarks mixtures --table

Each condition changes one thing of a default run on the embedded digits. Official test digits, evenly under the
mechanisms whatever the mixture. A record is written when its run is done; what is in the file is not made again.
`--table` makes docs/results/mixtures.md from the record.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.keeping import add_records, commits_of, finished_or_stop
from licm.checkpoint import provenance
from licm.config import Config, make_config
from licm.datasets import TrainingData, load_training_data
from licm.evaluation import evaluate
from licm.mechanisms import MECHANISM_SETS
from licm.tables import markdown
from licm.training import train

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "mixtures.json", RESULTS / "mixtures.md"
PAPER = MECHANISM_SETS["paper"]
FOUR = ["shift(dy=4)", "shift(dx=-4)", "invert", "noise(variance=0.25)"]
SIX = ["shift(dy=4)", "shift(dy=-4)", "shift(dx=4)", "shift(dx=-4)", "invert", "noise(variance=0.25)"]
FIGURES = ("matched_share", "ari", "psnr", "accuracy_restored", "accuracy_clean", "num_competing", "dead_experts")


@dataclass(frozen=True)
class Mixed:
    """A condition.

    Attributes:
        overrides: Dotted keys to values, over the defaults.
        images: Canonical and transformed images, the first so many of each; None for all.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None


CONDITIONS = {
    "even, 10,000 images a side": Mixed(),
    # The first of ten is ten times as frequent as the last, in even steps.
    "weights 1:10": Mixed({"data.mechanism_weights": [10 - index for index in range(10)]}),
    "a fifth untouched, eleven experts": Mixed(
        {
            "mechanisms": [*PAPER, "identity"],
            "num_experts": 11,
            "data.mechanism_weights": [0.08] * 10 + [0.2],
        }
    ),
    "3,000 images a side": Mixed(images=3000),
    "1,000 images a side": Mixed(images=1000),
    "300 images a side": Mixed(images=300),
    "four, number unknown": Mixed({"mechanisms": FOUR, "num_experts": "auto"}),
    "six, number unknown": Mixed({"mechanisms": SIX, "num_experts": "auto"}),
    "ten, number unknown": Mixed({"num_experts": "auto"}),
}


def data_of(config: Config, images: int | None) -> TrainingData:
    """Loads a condition's data, the first `images` of each heap."""
    data = load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)
    if images is None:
        return data
    labels = None if data.labels is None else data.labels[:images]
    return replace(data, canonical=data.canonical[:images], transformed=data.transformed[:images], labels=labels)


def measure(name: str, seed: int, **changes: Any) -> dict[str, Any]:
    """Trains and measures a condition."""
    mixed = CONDITIONS[name]
    config = make_config(overrides={**mixed.overrides, **changes, "seed": seed})
    data = data_of(config, mixed.images)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        finished_or_stop(train(config, folder, data=data))
        found = evaluate(folder)
    kept = {figure: found[figure] for figure in (*FIGURES, "winner_matrix", "per_mechanism", "steps", "train_seconds")}
    what = {"condition": name, "seed": seed, "images": [len(data.canonical), len(data.transformed)]}
    return {**what, "mechanisms": found["mechanisms"], **kept, "provenance": provenance()}


def make_page(records: list[dict[str, Any]]) -> str:
    """Returns the results page, from the records alone."""
    lines = [
        "# Mixtures",
        "",
        "Made by `python -m benchmarks mixtures --table` from `mixtures.json`: default runs on the embedded digits,",
        "one thing changed. Official test digits, evenly under the mechanisms; every seed that was run, in its place.",
        "",
    ]
    rows = [["condition", "seeds", "matched share", "PSNR, dB", "accuracy restored (clean)", "experts left"]]
    for name in CONDITIONS:
        if not (own := [each for each in records if each["condition"] == name]):
            continue
        clean = statistics.fmean(each["accuracy_clean"] for each in own)
        cells = [", ".join(str(each["seed"]) for each in own)]
        cells += [", ".join(form.format(each[key]) for each in own) for key, form in _CELLS.items()]
        cells[-2] += f" ({clean:.3f})"
        rows.append([name, *cells])
    where = f"{records[0]['provenance']['machine']}, commits {commits_of(records)}."
    return "\n".join([*lines, markdown(rows), "", where]) + "\n"


_CELLS = {"matched_share": "{:.4f}", "psnr": "{:.1f}", "accuracy_restored": "{:.3f}", "num_competing": "{}"}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--table", action="store_true", help="make docs/results/mixtures.md and stop")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(make_page(json.loads(RECORD.read_text())))
        return
    jobs = (
        ({"condition": name, "seed": seed}, lambda known, name=name, seed=seed: measure(name, seed))
        for seed in arguments.seeds
        for name in arguments.only
    )
    add_records(arguments.json, jobs)


if __name__ == "__main__":
    main()
