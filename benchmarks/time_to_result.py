"""How long runs took to be good, from their histories alone: seconds, steps and arithmetic.

    python -m benchmarks time_to_result RUN... --json FILE
    python -m benchmarks time_to_result RUN... --reference PAPER_RUN... --json FILE

Good is a matched share of 0.99 on the watched validation images, and their restored accuracy within 0.025 of the
clean. Seconds are the run's own: they include the identity start, the history's judge and the validation. A run that
never gets there counts with its whole length, a lower bound: `censored`.

The obvious loop takes the same steps as a run of the preset `paper`, whose objective and networks it shares
(`tests/test_reference.py`), but no run of it is waited for: with `--reference` its step is timed here, times the
steps such runs took to the first goal. Its identity start is not counted.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import forward_flop, step_flop
from benchmarks.reference import Reference
from benchmarks.speed import in_turn, stepper
from licm.checkpoint import load_checkpoint, provenance, read_config, read_history, read_run
from licm.run import build_run

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
        "accuracy": [r["step"] for r in validations if (r.get("accuracy_restored") or 0) >= accuracy],
    }
    channels, size = load_checkpoint(folder)[1]["image_shape"]
    run = build_run(config, channels=channels, image_size=size)
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


def time_reference(folder: Path) -> dict[str, Any]:
    """Returns the seconds that the obvious loop would need for the steps of a run to the first goal."""
    config = read_config(folder)
    channels, size = load_checkpoint(folder)[1]["image_shape"]
    competition = build_run(config, channels=channels, image_size=size).competition
    call = stepper(Reference(competition), config.training.batch_size, size)
    seconds = in_turn({"step": call}, 5)["step"]["median"]
    reached = time_to_result(folder)["matched_share_0_99"]
    steps, censored = reached["steps"], reached["censored"]
    step = {"preset": config.preset, "seed": config.seed, "step_seconds": seconds}
    return {**step, "steps": steps, "seconds": steps * seconds, "censored": censored}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--reference", nargs="+", type=Path, default=[], metavar="RUN", help="runs of `paper`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    arguments = parser.parse_args()
    runs = [time_to_result(folder) for folder in arguments.runs]
    summary: dict[str, Any] = {}
    for name in ("matched_share_0_99", "accuracy"):
        summary[f"seconds_to_{name}"] = statistics.median(run[name]["seconds"] for run in runs)
        summary[f"seconds_to_{name}_censored"] = any(run[name]["censored"] for run in runs)
    reference = [time_reference(folder) for folder in arguments.reference]
    if reference:
        seconds = statistics.median(run["seconds"] for run in reference)
        summary["time_ratio_reference_over_default"] = seconds / summary["seconds_to_matched_share_0_99"]
        summary["reference_censored"] = any(run["censored"] for run in reference)
    text = json.dumps({**summary, "runs": runs, "reference": reference, "provenance": provenance()}, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
