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
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.arithmetic import step_flop
from benchmarks.reference import Reference
from licm.checkpoint import provenance
from licm.competition import Competition
from licm.config import Config, make_config
from licm.reproduction.running import plan, read_record
from licm.run import build_run, restore_images
from licm.seeding import generator
from licm.tables import markdown

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "speed.json", RESULTS / "speed.md"
PROPOSALS = 3  # experts a router proposes for an image
WARM_UP = 3  # rounds that are not counted
SIZES = (  # a title, how keys end, batch, width
    ("batch 64, width 32", "", 64, 32),
    ("batch 32, width 16 (`default`)", "_default_sizes", 32, 16),
)


def in_turn(
    calls: dict[str, Callable[[], object]], rounds: int, *, warm_up: int = WARM_UP
) -> dict[str, dict[str, float]]:
    """Times calls in turn: seconds, as `median`, `min` and `max` of each.

    Each is called twice and timed the second time, as in a loop of its own: what another leaves in caches and heap
    is not held against it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for count in range(warm_up + rounds):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            if count >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(each), "min": min(each), "max": max(each)} for name, each in seconds.items()
    }


def competition_of(config: Config, size: int = 28) -> Competition:
    """The competition of a fresh run, the cycle pulling."""
    competition = build_run(config, channels=1, image_size=size).competition
    competition.cycle_pulls = True
    return competition


def dealt_out(competition: Competition | Reference, batch: int) -> None:
    """Has images won by one expert after another, as when each has its mechanism.

    What names the winners, or proposes experts, does its work all the same. The winner and those after it are proposed.
    """
    if isinstance(competition, Reference):
        num_experts, name, routing = len(competition.experts), "name_winners", None
    else:
        num_experts, name, routing = len(competition.bank), "_name_winners", competition.routing
    winners = torch.arange(batch) % num_experts
    named = getattr(competition, name)

    def dealt(*arguments: Any) -> torch.Tensor:
        named(*arguments)
        return winners

    setattr(competition, name, dealt)
    if routing is not None and routing.proposals > 0:
        propose, proposals = routing.propose, routing.proposals

        def proposed(*arguments: Any) -> torch.Tensor:
            stands_for = torch.zeros_like(propose(*arguments))
            asked = (winners + torch.arange(proposals + 1)[:, None]) % num_experts
            stands_for.scatter_(0, asked[:-1], 1.0).scatter_(0, asked[-1:], float(num_experts - proposals))
            return stands_for

        routing.propose = proposed  # type: ignore[method-assign]


def stepper(competition: Competition | Reference, batch: int, size: int = 28) -> Callable[[], object]:
    """One step on fixed images. Grey noise does, since no shape depends on what they show."""
    draws = generator(0, "benchmark images")
    canonical, transformed = torch.rand(2, batch, 1, size, size, generator=draws)
    dealt_out(competition, batch)
    if isinstance(competition, Reference):
        return lambda: competition.step(canonical, transformed)
    canonical, transformed = (each.to(memory_format=torch.channels_last) for each in (canonical, transformed))
    return lambda: competition.step(canonical, transformed, draws)


def measure_step(rounds: int) -> dict[str, Any]:
    """A step of `default` at batch 64 and width 32, and at its own sizes, exact and routed, against the reference."""
    result: dict[str, Any] = {}
    for _, name, batch, width in SIZES:
        config = make_config(overrides={"experts.width": width})
        competition = competition_of(config)
        calls = {
            "reference": stepper(Reference(competition), batch),
            "step": stepper(competition, batch),
            "frozen": stepper(competition_of(frozen(config)), batch),
            "compiled": stepper(competition_of(compiled(config)), batch),
            "routed": stepper(competition_of(routed(config)), batch),
        }
        seconds = in_turn(calls, rounds)
        result[f"step_speedup_vs_reference{name}"] = seconds["reference"]["median"] / seconds["step"]["median"]
        for which in ("frozen", "compiled", "routed"):
            ratio = seconds["reference"]["median"] / seconds[which]["median"]
            result[f"step_speedup_vs_reference_{which}{name}"] = ratio
        result[f"step_seconds{name}"] = seconds
    return result


def frozen(config: Config) -> Config:
    """The same with experts whose outputs depend on no other image: what a router and compiling need."""
    return config.model_copy(update={"experts": config.experts.model_copy(update={"normalization": "frozen"})})


def routed(config: Config) -> Config:
    """The same under a router that is always trusted."""
    changes = {"proposals": PROPOSALS, "trusted_from": 0.0, "check_every": 1 << 40}
    return frozen(config).model_copy(update={"router": config.router.model_copy(update=changes)})


def compiled(config: Config) -> Config:
    """The same with the experts' scoring compiled."""
    return frozen(config).model_copy(update={"training": config.training.model_copy(update={"compile": True})})


def measure_compiling(rounds: int) -> dict[str, Any]:
    """Seconds that a first step takes longer with compiled scoring: without and with what is cached."""
    script = (
        "import time, torch\n"
        "from licm.config import make_config\n"
        "from benchmarks.speed import competition_of, compiled, frozen, stepper\n"
        "seconds = []\n"
        "for config in (frozen(make_config()), compiled(make_config())):\n"
        "    call, start = stepper(competition_of(config), 32), time.perf_counter()\n"
        "    call()\n"
        "    seconds.append(time.perf_counter() - start)\n"
        "print(seconds[1] - seconds[0])\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        call = [sys.executable, "-c", script]
        first, again = (
            float(subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout)
            for _ in range(2)
        )
    return {"compile_seconds": first, "compile_seconds_cached": again}


def measure_router(rounds: int) -> dict[str, Any]:
    """Seconds of a step of `default` against the number of experts, exact and routed."""
    rows = []
    for count in (10, 20, 40, 80):
        config = make_config(overrides={"num_experts": count})
        calls = {
            "exact": stepper(competition_of(config), config.training.batch_size),
            "routed": stepper(competition_of(routed(config)), config.training.batch_size),
        }
        rows.append({"experts": count, "seconds": in_turn(calls, rounds)})
    first, last = (row["seconds"]["routed"]["median"] for row in (rows[0], rows[-1]))
    return {"router_proposals": PROPOSALS, "router": rows, "step_cost_ratio_80_over_10": last / first}


def measure_limit(rounds: int) -> dict[str, Any]:
    """What a step needs in arithmetic, over its time, against the best rate of a matrix product."""

    def product(size: int) -> Callable[[], object]:
        one, other = torch.rand(2, size, size)
        return lambda: torch.mm(one, other)

    result: dict[str, Any] = {}
    for _, name, batch, width in SIZES:
        config = make_config(overrides={"experts.width": width})
        competition = competition_of(config)
        calls = {str(size): product(size) for size in (1024, 2048, 4096)}
        seconds = in_turn({"step": stepper(competition, batch), **calls}, rounds)
        flop = step_flop(competition, batch=batch, size=28)
        rates = {size: 2 * int(size) ** 3 / seconds[size]["median"] / 1e9 for size in calls}
        result[f"step_flop{name}"] = flop
        result[f"product_gflops{name}"] = rates
        rate = flop["total"] / seconds["step"]["median"] / 1e9
        result[f"step_gflops{name}"] = rate
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
    """Images per second of restoring, by the exact competition and by the router.

    How often the router names the exact winner is in the records of the results: on what runs learned, not here.
    """
    rows = []
    run = build_run(make_config(), channels=1, image_size=28)
    assert run.competition.routing is not None
    router, num_experts = run.competition.routing.router, len(run.experts)

    def dealt(images: torch.Tensor) -> torch.Tensor:  # one expert after another, as of a router that has learned
        router(images)
        return torch.nn.functional.one_hot(torch.arange(len(images)) % num_experts, num_experts).float()

    run.competition.routing.router = dealt  # type: ignore[assignment]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch in (1, 16, 256, 4096):
            images = torch.rand(batch, 1, 28, 28, generator=generator(0, "benchmark images"))
            calls = {
                "exact": lambda images=images: restore_images(run, images),
                "routed": lambda images=images: restore_images(run, images, routed=True),
            }
            seconds = in_turn(calls, rounds) if batch < 4096 else in_turn(calls, 1, warm_up=0)
            row = {name: batch / each["median"] for name, each in seconds.items()}
            rows.append({"threads": threads, "batch": batch, "images_per_second": row})
    speedups = [row["images_per_second"]["routed"] / row["images_per_second"]["exact"] for row in rows]
    read = [read_record(row.jobs[0], RESULTS / "reproduction") for row in plan(["specialisation"])]
    agreements = [record["router_agreement"] for record in read if record is not None]
    return {
        "restoring": rows,
        "router_speedup_10": speedups[[row["threads"] == 2 and row["batch"] == 256 for row in rows].index(True)],
        "router_agreement_10": statistics.mean(agreements),
    }


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
    "compiling": measure_compiling,
    "limit": measure_limit,
    "router": measure_router,
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
        f"torch {where['torch']}, {where['threads']} threads, {where['machine']}. Parts and their commits: "
        + ", ".join(f"{name} {commit}" for name, commit in record["commits"].items())
        + ".",
    ]
    if "step_speedup_vs_reference_routed" in record:
        lines += ["", "## A step against the obvious loop", ""]
        lines += [
            "Every expert wins its share. Experts with frozen statistics can be compiled, and a router can choose "
            "among them: it proposes three, and one more is drawn.",
            "",
        ]
        variants = {"exact": "", "frozen": "_frozen", "compiled": "_compiled", "routed": "_routed"}
        rows = [["", "reference, s", *(title for which in variants for title in (f"{which}, s (range)", "ratio"))]]
        for title, name, *_ in SIZES:
            seconds = record[f"step_seconds{name}"]
            cells = [f"{seconds['reference']['median']:.3f}"]
            for which, key in variants.items():
                spread = seconds["step" if which == "exact" else which]
                cells.append("{median:.3f} ({min:.3f} to {max:.3f})".format(**spread))
                cells.append(f"{record[f'step_speedup_vs_reference{key}{name}']:.2f}")
            rows.append([title, *cells])
        lines.append(markdown(rows))
    if "peak_fraction" in record:
        lines += ["", "## A step against the machine", ""]
        rows = [["", "GFLOP a step", "best product, GFLOP/s", "GFLOP/s", "fraction"]]
        for title, name, *_ in SIZES:
            flop, product = record[f"step_flop{name}"]["total"] / 1e9, max(record[f"product_gflops{name}"].values())
            reached = [f"{record[f'step_gflops{name}']:.0f}", f"{record[f'peak_fraction{name}']:.2f}"]
            rows.append([title, f"{flop:.1f}", f"{product:.0f}", *reached])
        lines.append(markdown(rows))
        if "compile_seconds" in record:
            lines += ["", f"Compiling takes {record['compile_seconds']:.0f} s the first time on a machine, then "]
            lines[-1] += f"{record['compile_seconds_cached']:.0f} s a run."
        lines += ["", "What each layer reaches, and what it could: ![roofline](roofline.png)"]
    if "router" in record:
        lines += ["", "## A step of `default` against the number of experts", ""]
        rows = [["experts", "exact, s", "routed, s", "ratio"]]
        for row in record["router"]:
            exact, by_router = row["seconds"]["exact"]["median"], row["seconds"]["routed"]["median"]
            rows.append([str(row["experts"]), f"{exact:.3f}", f"{by_router:.3f}", f"{exact / by_router:.2f}"])
        lines += [
            markdown(rows, left=()),
            "",
            f"Routed, 80 experts cost {record['step_cost_ratio_80_over_10']:.2f} times what 10 do.",
        ]
    if "cost" in record:
        lines += ["", "## Cost of a step of `default`, one thing varied", ""]
        rows = [["varied", "to", "s", "GFLOP/s"]]
        for row in record["cost"]:
            rate = row["flop"] / row["seconds"]["median"] / 1e9
            rows.append([row["varied"], str(row["value"]), f"{row['seconds']['median']:.3f}", f"{rate:.0f}"])
        lines.append(markdown(rows, left=()))
    if "restoring" in record:
        lines += ["", "## Restoring, images per second", ""]
        rows = [["threads", "batch", "exact", "routed", "ratio"]]
        for row in record["restoring"]:
            exact, by_router = row["images_per_second"]["exact"], row["images_per_second"]["routed"]
            speeds = [f"{exact:.0f}", f"{by_router:.0f}", f"{by_router / exact:.1f}"]
            rows.append([str(row["threads"]), str(row["batch"]), *speeds])
        lines += [
            markdown(rows, left=()),
            "",
            "Mean share of test images for which the router names the winner of the exact competition, over seeds",
            f"of [the reproduction](reproduction.md), without a last lesson: {record['router_agreement_10']:.4f}.",
        ]
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
        record["commits"] = {**record.get("commits", {}), name: record["provenance"]["commit"]}
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if not arguments.json:
        print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
