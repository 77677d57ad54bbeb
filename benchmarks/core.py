"""Trains and evaluates a preset over seeds, and makes docs/results/core.md from the records.

    python -m benchmarks.core run --preset default --seeds 0 1 2 3 4 --runs runs/core
    python -m benchmarks.core table

`run` skips seeds whose record exists and resumes runs that were stopped. Records go to docs/results/core/.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from licm.tables import markdown

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORDS, TABLE = RESULTS / "core", RESULTS / "core.md"

COLUMNS = (
    ("seed", "seed", "{}"),
    ("matched_share", "matched share", "{:.4f}"),
    ("ari", "ARI", "{:.4f}"),
    ("accuracy_clean", "clean", "{:.4f}"),
    ("accuracy_transformed", "transformed", "{:.4f}"),
    ("accuracy_restored", "restored", "{:.4f}"),
    ("psnr", "PSNR, dB", "{:.2f}"),
    ("ssim", "SSIM", "{:.4f}"),
    ("num_dead_experts", "dead", "{}"),
    ("steps", "steps", "{}"),
    ("train_seconds", "train, s", "{:.0f}"),
)


def run(preset: str, seeds: list[int], runs: Path, overrides: dict[str, Any], name: str) -> None:
    """Trains and evaluates one run per seed and writes its record."""
    import licm
    from licm.progress import Progress

    for seed in seeds:
        path = RECORDS / f"{name}-seed{seed}.json"
        if path.exists():
            continue
        config = licm.make_config(preset, overrides={**overrides, "seed": seed})
        folder = runs / f"{name}-seed{seed}"
        with Progress(config) as progress:
            done = licm.train(config, folder, resume=(folder / "config.yaml").exists(), callbacks=[progress])
        if not done.finished:
            raise SystemExit(f"stopped; the same command goes on with seed {seed}")
        RECORDS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(licm.evaluate(folder), indent=1) + "\n")


def make_table() -> str:
    """Returns the results page, from the committed records alone."""
    groups = defaultdict(list)
    for path in sorted(RECORDS.glob("*-seed*.json")):
        groups[path.stem.rsplit("-seed", 1)[0]].append(json.loads(path.read_text()))
    lines = [
        "# Core results",
        "",
        "Made by `python -m benchmarks.core table` from the records in `core/`. Ten mechanisms, ten experts,",
        "official test digits that no choice was made on; no seed is left out of the range. What the columns are:",
        "[measures](../measures.md). Seconds are wall clock on a shared machine and include validation; accuracy is",
        "that of a classifier trained on the run's own clean digits. The same seed on another number of threads is",
        "another run.",
        "",
        "The records of `without-pairs` were written by `python -m benchmarks.core run` when that and 700 steps were",
        "the default, those of `layer-normalisation-mnist` by `licm reproduce` when that was; today's are in",
        "[the reproduction](reproduction.md). Those of `paper-mnist` are from",
        "runs trained at an early commit, whose run folders were brought into the layout of a later one (names of",
        "tensors and keys only) and evaluated; `python -m benchmarks.core run --preset paper --set data.source=mnist",
        "--name paper-mnist --seeds 0 1 2` trains such runs anew, and `--set steps=2000` the longer one, which was",
        "halted for long times: its seconds tell nothing. `copied` is the first with `identity.start: copied`",
        "([what was tried](../ablation.md#an-identity-start-by-copies)). Each record names its commit.",
    ]
    for name, records in groups.items():
        records.sort(key=lambda record: record["seed"])
        lines += ["", f"## {name}", "", _describe(records), ""]
        rows = [[title for _, title, _ in COLUMNS]]
        rows += [[form.format(record[key]) for key, _, form in COLUMNS] for record in records]
        if len(records) > 1:
            rows.append([_summary(records, key) for key, _, _ in COLUMNS])
        lines.append(markdown(rows, left=()))
    return "\n".join(lines) + "\n"


def _describe(records: list[dict[str, Any]]) -> str:
    first = records[0]
    config, where = first["config"], first.get("trained_with", first["provenance"])
    succeeded = sum(record["matched_share"] >= 0.95 for record in records)
    return (
        f"Preset `{config['preset']}`, data `{config['data']['source']}`, {first['num_images']} test images, "
        f"{where['threads']} thread(s), torch {where['torch']}, {where['machine']}. "
        f"Success (matched share at least 0.95): {succeeded} of {len(records)}."
    )


def _summary(records: list[dict[str, Any]], key: str) -> str:
    if key == "seed":
        return "mean ± s.d."
    values = [record[key] for record in records]
    digits = 0 if key in ("steps", "train_seconds") else 2 if key in ("psnr", "num_dead_experts") else 4
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("run", help="train, evaluate, write records")
    trains.add_argument("--preset", default="default")
    trains.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    trains.add_argument("--runs", type=Path, default=Path("runs/core"), help="where run folders go")
    trains.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    trains.add_argument("--name", help="of the group in the table; the preset's by default")
    trains.add_argument("--threads", type=int, help="torch's threads; all cores by default")
    commands.add_parser("table", help="make docs/results/core.md from the records")
    arguments = parser.parse_args()
    if arguments.command == "table":
        TABLE.write_text(make_table())
        return
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    from licm.config import parse_overrides

    overrides = parse_overrides(arguments.settings)
    run(arguments.preset, arguments.seeds, arguments.runs, overrides, arguments.name or arguments.preset)


if __name__ == "__main__":
    main()
