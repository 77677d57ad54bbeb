"""How long runs took to be good, from their histories alone: seconds, steps and arithmetic.

    python -m benchmarks time_to_result RUN... --json FILE

Good is a matched share of 0.99 on the watched validation images, and their restored accuracy within 0.025 of the
clean. Seconds are the run's own: they include the identity start, the history's judge and the validation. A run that
never gets there counts with its whole length, a lower bound: `censored`.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import forward_flop, step_flop
from licm.checkpoint import read_config, read_history, read_run
from licm.run import load_run

SHARE = 0.99
SHORT_OF_CLEAN = 0.025


def time_to_result(folder: Path) -> dict[str, Any]:
    """Returns for one run its seed, threads and, for each goal, `seconds`, `steps`, `gflop` and `censored`."""
    history, config = read_history(folder), read_config(folder)
    steps = {record["step"]: record for record in history if record["kind"] == "step"}
    validations = [record for record in history if record["kind"] == "validation"]
    (judge,) = [record for record in history if record["kind"] == "judge"] or [{"accuracy_clean": 1.0}]
    accuracy = judge["accuracy_clean"] - SHORT_OF_CLEAN
    goals = {
        "matched_share_0_99": [r["step"] for r in validations if r["matched_share"] >= SHARE],
        "accuracy": [r["step"] for r in validations if (r["accuracy_restored"] or 0) >= accuracy],
    }
    run = load_run(folder)
    size = run.discriminator.image_size
    each = step_flop(run.competition, batch=config.training.batch_size, size=size)["total"]
    (identity,) = [record for record in history if record["kind"] == "identity"]
    passes = 3 * sum(identity["steps"]) * config.training.batch_size  # forward and backward
    start = passes * forward_flop(run.experts[0], size)

    def reached(found: list[int]) -> dict[str, Any]:
        step = found[0] if found else max(steps)
        gflop = (start + step * each) / 1e9
        return {"seconds": steps[step]["seconds"], "steps": step, "gflop": gflop, "censored": not found}

    return {
        "preset": config.preset,
        "seed": config.seed,
        "threads": read_run(folder)["threads"],
        "commit": read_run(folder)["commit"],
        **{name: reached(found) for name, found in goals.items()},
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    arguments = parser.parse_args()
    runs = [time_to_result(folder) for folder in arguments.runs]
    summary = {}
    for name in ("matched_share_0_99", "accuracy"):
        summary[f"seconds_to_{name}"] = statistics.median(run[name]["seconds"] for run in runs)
        summary[f"seconds_to_{name}_censored"] = any(run[name]["censored"] for run in runs)
    text = json.dumps({**summary, "runs": runs}, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
