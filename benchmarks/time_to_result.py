"""How long runs took to be good, from their histories alone: seconds, steps and arithmetic.

    python -m benchmarks time_to_result --train FOLDER --seeds 0 1 2 --json FILE
    python -m benchmarks time_to_result RUN... --json FILE
    python -m benchmarks time_to_result RUN... --reference PAPER_RUN... --json FILE
    python -m benchmarks time_to_result RUN... --reference docs/results/time_to_result.json --json FILE

Good is a matched share of 0.99 on the watched validation images, and their restored accuracy within 0.025 of the
clean. Seconds are the run's own: they include the identity start, the history's judge and the validation. A run that
never gets there counts with its whole length, a lower bound: `censored`. `--train` trains runs of `default`, looked at
every 25 steps, until they are good, for at most 15 minutes each.

The obvious loop takes the same steps as a run of the preset `paper`, whose objective and networks it shares
(`tests/test_reference.py`), but no run of it is waited for: with `--reference` its step and a step of its identity
start are timed here, times those that such runs took to the first goal; so are the fast steps of `paper`, in turn with
them (`paper_seconds`). An earlier record in place of such runs gives the steps they took.
"""

import argparse
import json
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.arithmetic import forward_flop, step_flop
from benchmarks.keeping import finished_or_stop
from benchmarks.reference import Reference
from benchmarks.speed import in_turn, stepper
from licm.checkpoint import load_checkpoint, provenance, read_config, read_history, read_run
from licm.config import Config, make_config, parse_overrides
from licm.run import build_run
from licm.training import train

SHARE = 0.99
SHORT_OF_CLEAN = 0.025
LONGEST = 900.0  # seconds


def train_until_good(folder: Path, config: Config) -> Path:
    """Trains a run until both goals are reached or its time is up."""
    goals = {"accuracy": 1.0, "seconds": 0.0}
    reached: set[str] = set()

    def look(record: dict[str, Any]) -> None:
        if record["kind"] == "judge":
            goals["accuracy"] = record["accuracy_clean"] - SHORT_OF_CLEAN
        if record["kind"] == "step":
            goals["seconds"] = record["seconds"]
        if record["kind"] == "validation":
            reached.update({"share"} if record["matched_share"] >= SHARE else ())
            reached.update({"accuracy"} if record["accuracy_restored"] >= goals["accuracy"] else ())
        if len(reached) == 2 or goals["seconds"] > LONGEST:
            signal.raise_signal(signal.SIGINT)  # the run stops after this step, and is saved

    run = train(config, folder, callbacks=[look])
    if len(reached) < 2 and goals["seconds"] <= LONGEST:
        finished_or_stop(run)
    return folder


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


def steps_of_reference(path: Path) -> list[dict[str, Any]]:
    """Returns the seed and the `steps` to the first goal of a run of `paper`, or of all those in an earlier record.

    `identity_steps` are those of the identity start, summed over experts.
    """
    if path.is_file():
        kept = ("preset", "seed", "identity_steps", "steps", "censored")
        known = json.loads(path.read_text())["reference"]
        if not all(key in each for each in known for key in kept):
            raise SystemExit(f"{path}: what it says of the reference lacks one of {', '.join(kept)}")
        return [{key: each[key] for key in kept} for each in known]
    reached, config = time_to_result(path)["matched_share_0_99"], read_config(path)
    (identity,) = [record for record in read_history(path) if record["kind"] == "identity"]
    what = {"preset": config.preset, "seed": config.seed, "identity_steps": sum(identity["steps"])}
    return [{**what, "steps": reached["steps"], "censored": reached["censored"]}]


def time_steps_of_paper() -> dict[str, float]:
    """Returns the seconds of a step of `paper`, by the obvious loop and by ours, and of one of its identity start."""
    config = make_config("paper")
    batch, size = config.training.batch_size, config.data.image_size
    assert size is not None
    ours = build_run(config, channels=1, image_size=size).competition
    obvious = Reference(ours)
    calls = {"reference": stepper(obvious, batch, size), "paper": stepper(ours, batch, size)}
    calls["identity"] = identity_stepper(obvious.experts[0], torch.rand(batch, 1, size, size))
    return {name: times["median"] for name, times in in_turn(calls, 5).items()}


def with_seconds(steps: dict[str, Any], times: dict[str, float]) -> dict[str, Any]:
    """Adds to the steps of a run of `paper` its seconds by the obvious loop, and by ours (`paper_seconds`)."""
    start = times["identity"] * steps["identity_steps"]
    return {
        **steps,
        "seconds": start + times["reference"] * steps["steps"],
        "paper_seconds": start + times["paper"] * steps["steps"],
    }


def identity_stepper(expert: nn.Module, images: Tensor) -> Callable[[], object]:
    """Returns a function that does one step of an expert's identity start on images, [n, c, h, w]."""
    optimizer = torch.optim.Adam(expert.parameters())

    def step() -> None:
        loss = F.mse_loss(expert(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--train", type=Path, metavar="FOLDER", help="a new folder for runs to train first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="theirs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="of theirs")
    parser.add_argument(
        "--reference", nargs="+", type=Path, default=[], metavar="RUN", help="runs of `paper`, or a record"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    arguments = parser.parse_args()
    folders = list(arguments.runs)
    if arguments.train:
        overrides = {"training.validate_every": 25, **parse_overrides(arguments.settings)}
        for seed in arguments.seeds:
            config = make_config(overrides={**overrides, "seed": seed})
            folders.append(train_until_good(arguments.train / f"seed{seed}", config))
    if not folders:
        parser.error("name runs, or a folder to train some in (--train)")
    runs = [time_to_result(folder) for folder in folders]
    summary: dict[str, Any] = {}
    for name in ("matched_share_0_99", "accuracy"):
        summary[f"seconds_to_{name}"] = statistics.median(run[name]["seconds"] for run in runs)
        summary[f"seconds_to_{name}_censored"] = any(run[name]["censored"] for run in runs)
    reference = [each for path in arguments.reference for each in steps_of_reference(path)]
    if reference:
        times = time_steps_of_paper()
        reference = [with_seconds(each, times) for each in reference]
        summary["step_seconds"] = times
        seconds = statistics.median(each["seconds"] for each in reference)
        summary["time_ratio_reference_over_default"] = seconds / summary["seconds_to_matched_share_0_99"]
        summary["reference_censored"] = any(run["censored"] for run in reference)
    text = json.dumps({**summary, "runs": runs, "reference": reference, "provenance": provenance()}, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
