"""Measures the speed of a step and of restoring: against the obvious loop, and against what the machine can do.

    python -m benchmarks speed --json docs/results/speed.json
    python -m benchmarks speed --parts step limit
    python -m benchmarks speed --table

What is compared is run in turn, round by round, in one process, so that a noisy machine is noisy to all alike; ratios
are of medians, and the spread stands beside them. Parts are written to the file as they end, beside what it has of
other parts. `--table` makes docs/results/speed.md from docs/results/speed.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.arithmetic import step_flop
from benchmarks.reference import Reference
from licm.checkpoint import provenance
from licm.competition import Competition, compete
from licm.config import Config, make_config
from licm.run import build_run
from licm.seeding import generator

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "speed.json", RESULTS / "speed.md"
WARM_UP = 3  # rounds that are not counted
SIZES = (  # a title, how keys end, batch, width
    ("batch 64, width 32", "", 64, 32),
    ("batch 32, width 16 (`default`)", "_default_sizes", 32, 16),
)


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Times calls in turn: seconds, as `median`, `min` and `max` of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for count in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if count >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(each), "min": min(each), "max": max(each)} for name, each in seconds.items()
    }


def competition_of(config: Config, size: int = 28) -> Competition:
    """The competition of a fresh run, the cycle pulling."""
    competition = build_run(config, channels=1, image_size=size).competition
    competition.cycle_pulls = True
    return competition


def deal(competition: Competition | Reference, name: str, batch: int, num_experts: int) -> None:
    """Has the method that names the winners do its work, and then deal the images out evenly."""
    named = getattr(competition, name)

    def dealt(*arguments: Any) -> torch.Tensor:
        named(*arguments)
        return torch.arange(batch) % num_experts

    setattr(competition, name, dealt)


def stepper(competition: Competition | Reference, batch: int, size: int = 28) -> Callable[[], object]:
    """One step on fixed images, won by one expert after another, as when each has its mechanism.

    Grey noise does for images, since no shape depends on what they show.
    """
    draws = generator(0, "benchmark images")
    canonical, transformed = torch.rand(2, batch, 1, size, size, generator=draws)
    if isinstance(competition, Reference):
        deal(competition, "name_winners", batch, len(competition.experts))
        return lambda: competition.step(canonical, transformed)
    deal(competition, "_name_winners", batch, len(competition.bank))
    canonical, transformed = (each.to(memory_format=torch.channels_last) for each in (canonical, transformed))
    return lambda: competition.step(canonical, transformed, draws)


def measure_step(rounds: int) -> dict[str, Any]:
    """A step of `default` at batch 64 and width 32, and at its own sizes, against the reference."""
    result: dict[str, Any] = {}
    for _, name, batch, width in SIZES:
        competition = competition_of(make_config(overrides={"experts.width": width}))
        calls = {"reference": stepper(Reference(competition), batch), "step": stepper(competition, batch)}
        seconds = in_turn(calls, rounds)
        result[f"step_speedup_vs_reference{name}"] = seconds["reference"]["median"] / seconds["step"]["median"]
        result[f"step_seconds{name}"] = seconds
    return result


def measure_limit(rounds: int) -> dict[str, Any]:
    """What a step needs in arithmetic, over its time, against the best rate of a matrix product."""

    def product(size: int) -> Callable[[], object]:
        one, other = torch.rand(2, size, size)
        return lambda: torch.mm(one, other)

    result: dict[str, Any] = {}
    for _, name, batch, width in SIZES:
        competition = competition_of(make_config(overrides={"experts.width": width}))
        calls = {str(size): product(size) for size in (1024, 2048, 4096)}
        seconds = in_turn({"step": stepper(competition, batch), **calls}, rounds)
        flop = step_flop(competition, batch=batch, size=28)
        rates = {size: 2 * int(size) ** 3 / seconds[size]["median"] / 1e9 for size in calls}
        rate = flop["total"] / seconds["step"]["median"] / 1e9
        result[f"step_flop{name}"] = flop
        result[f"step_gflops{name}"] = rate
        result[f"product_gflops{name}"] = rates
        result[f"peak_fraction{name}"] = rate / max(rates.values())
    return result


def measure_cost(rounds: int) -> dict[str, Any]:
    """Seconds and rate of a step against batch, width, image size and the number of experts, one changed at a time."""
    rows = []
    changes: list[tuple[str, dict[str, Any]]] = [
        ("batch", {"batch": 16}),
        ("batch", {"batch": 32}),
        ("batch", {"batch": 64}),
        ("batch", {"batch": 128}),
        *(("width", {"experts.width": width}) for width in (8, 16, 32, 64)),
        *(("image size", {"size": size}) for size in (28, 32, 64, 128)),
        *(("experts", {"num_experts": count}) for count in (5, 10, 20, 40)),
    ]
    for what, change in changes:
        settings = {"batch": 32, "size": 28, **change}
        batch, size = settings.pop("batch"), settings.pop("size")
        competition = competition_of(make_config(overrides=settings), size)
        seconds = in_turn({"step": stepper(competition, batch, size)}, rounds)["step"]
        flop = step_flop(competition, batch=batch, size=size)["total"]
        rows.append({"varied": what, "value": next(iter(change.values())), "seconds": seconds, "flop": flop})
    return {"cost": rows}


def measure_restoring(rounds: int) -> dict[str, Any]:
    """Images per second: who wins by the exact competition, and the winner's output where the winner is known."""
    rows = []
    run = build_run(make_config(), channels=1, image_size=28)
    run.experts.eval()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch in (1, 16, 256, 4096):
            images = torch.rand(batch, 1, 28, 28, generator=generator(0, "benchmark images"))
            images = images.to(memory_format=torch.channels_last)
            winners = torch.arange(batch) % len(run.experts)
            calls = {
                "exact": lambda images=images: compete(run.experts, run.discriminator, images),
                "winners_known": lambda images=images, winners=winners: run.experts.restore(images, winners),
            }
            seconds = in_turn(calls, rounds if batch < 4096 else 3)
            row = {name: batch / each["median"] for name, each in seconds.items()}
            rows.append({"threads": threads, "batch": batch, "images_per_second": row})
    return {"restoring": rows}


def measure_memory(rounds: int) -> dict[str, Any]:
    """Peak resident memory of a training of the defaults, in a process of its own."""
    script = (
        "import resource, sys, tempfile, licm\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    licm.train(licm.make_config(overrides={'steps': 30, 'identity.max_steps': 5}), folder)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {"peak_rss_mb": float(done.stdout)}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "memory": measure_memory,  # first: the peak of a new process begins with that of the one which starts it
    "step": measure_step,
    "limit": measure_limit,
    "cost": measure_cost,
    "restoring": measure_restoring,
}


def make_page(record: dict[str, Any]) -> str:
    """Returns the results page, from the record alone."""
    where = record["provenance"]
    lines = [
        "# Speed",
        "",
        "Made by `python -m benchmarks speed --table` from `speed.json`. What is compared ran in turn in one process;",
        "figures are medians. What was tried, and what became of it: [performance](../performance.md).",
        "",
        f"torch {where['torch']}, {where['threads']} threads, {where['machine']}, commit {where['commit']}.",
    ]
    if "step_speedup_vs_reference" in record:
        lines += ["", "## A step against the obvious loop", "", "| | reference, s | step, s (range) | ratio |"]
        lines += ["| --- | ---: | ---: | ---: |"]
        for title, name, *_ in SIZES:
            seconds = record[f"step_seconds{name}"]
            ours, theirs = seconds["step"], seconds["reference"]
            lines.append(
                f"| {title} | {theirs['median']:.3f} | {ours['median']:.3f} ({ours['min']:.3f} to {ours['max']:.3f}) | "
                f"{record[f'step_speedup_vs_reference{name}']:.2f} |"
            )
    if "peak_fraction" in record:
        lines += ["", "## A step against the machine", "", "| | GFLOP a step | GFLOP/s | best product | fraction |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for title, name, *_ in SIZES:
            lines.append(
                f"| {title} | {record[f'step_flop{name}']['total'] / 1e9:.1f} | {record[f'step_gflops{name}']:.0f} | "
                f"{max(record[f'product_gflops{name}'].values()):.0f} | {record[f'peak_fraction{name}']:.2f} |"
            )
    if "cost" in record:
        lines += ["", "## Cost of a step of `default`, one thing varied", "", "| varied | to | s | GFLOP/s |"]
        lines += ["| --- | ---: | ---: | ---: |"]
        for row in record["cost"]:
            rate = row["flop"] / row["seconds"]["median"] / 1e9
            lines.append(f"| {row['varied']} | {row['value']} | {row['seconds']['median']:.3f} | {rate:.0f} |")
    if "restoring" in record:
        lines += ["", "## Restoring, images per second", "", "| threads | batch | exact competition | winner known |"]
        lines += ["| ---: | ---: | ---: | ---: |"]
        for row in record["restoring"]:
            rates = row["images_per_second"]
            lines.append(f"| {row['threads']} | {row['batch']} | {rates['exact']:.0f} | {rates['winners_known']:.0f} |")
    if "peak_rss_mb" in record:
        lines += ["", f"Peak memory of a training of `default`: {record['peak_rss_mb']:.0f} MB."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds of what is timed in turn")
    parser.add_argument("--table", action="store_true", help="make docs/results/speed.md and stop")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(make_page(json.loads(RECORD.read_text())))
        return
    threads = torch.get_num_threads()
    record: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        record = json.loads(arguments.json.read_text())
    for name in arguments.parts:
        torch.set_num_threads(threads)
        record |= PARTS[name](arguments.rounds)
        torch.set_num_threads(threads)
        record["provenance"] = provenance()
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if not arguments.json:
        print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
