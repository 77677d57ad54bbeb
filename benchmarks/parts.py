"""Where a step's time goes: seconds, GFLOP and GFLOP/s of its parts.

    python -m benchmarks parts --json docs/results/parts.json

Every expert wins its share and the cycle pulls, as in `benchmarks.speed`. Beside each part stands the best rate of a
matrix product, measured in the same rounds.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.arithmetic import forward_flop, step_flop
from benchmarks.speed import SIZES, competition_of, stepper
from licm.checkpoint import provenance
from licm.competition import Competition
from licm.config import make_config

PARTS = {  # a method of the competition: what it does, and which parts of the arithmetic
    "_transform": ("all experts transform the batch", ("experts",)),
    "_score": ("D scores all outputs", ("scores",)),
    "_update_discriminator": ("D learns", ("discriminator_training", "r1")),
    "_update_winners": ("winners learn", ("winners_backward", "winners_through_discriminator", "cycle", "pairs")),
}


def watch(competition: Competition) -> dict[str, list[float]]:
    """Has the competition note how long its parts take; returns what will hold their seconds."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str) -> None:
        method = getattr(competition, name)

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = method(*arguments)
            seconds[name].append(time.perf_counter() - start)
            return result

        setattr(competition, name, call)

    for name in PARTS:
        timed(name)
    return seconds


def measure(batch: int, width: int, *, rounds: int, warm_up: int = 3) -> dict[str, Any]:
    """Measures a step of `default` at a batch and a width."""
    competition = competition_of(make_config(overrides={"experts.width": width}))
    seconds, call = watch(competition), stepper(competition, batch)
    one, other = torch.rand(2, 2048, 2048)
    steps, products = [], []
    for _ in range(warm_up + rounds):
        start = time.perf_counter()
        call()
        middle = time.perf_counter()
        torch.mm(one, other)
        steps.append(middle - start)
        products.append(time.perf_counter() - middle)
    flop = step_flop(competition, batch=batch, size=28)
    expert = batch * len(competition.bank) * forward_flop(competition.bank[0], 28)
    flop |= {"experts": expert, "scores": flop["scoring"] - expert}
    rows = {}
    for name, (title, counted) in PARTS.items():
        taken, needed = statistics.median(seconds[name][warm_up:]), sum(flop[each] for each in counted)
        rows[title] = {"seconds": taken, "flop": needed, "gflops": needed / taken / 1e9}
    whole = statistics.median(steps[warm_up:])
    return {
        "batch": batch,
        "width": width,
        "step_seconds": whole,
        "step_gflops": flop["total"] / whole / 1e9,
        "product_gflops": 2 * 2048**3 / statistics.median(products[warm_up:]) / 1e9,
        "parts": rows,
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    sizes = [measure(batch, width, rounds=arguments.rounds) for _, _, batch, width in SIZES]
    text = json.dumps({"sizes": sizes, "provenance": provenance()}, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
