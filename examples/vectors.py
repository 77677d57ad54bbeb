"""Vectors: four things happen to rows of numbers, unlabelled; as many experts learn to undo one each.

Rows are made here: 16 readings of 8 sources that are skewed, float32 [n, 16] in [0, 1], as of sensors or of a spectrum.
One heap is clean. Of the other, of other rows, each was offset, halved, compressed or tilted, and nobody says which.

    python examples/vectors.py --seed 0
"""

import argparse
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from licm import MechanismInverter
from licm.datasets import Mixture, apply_mechanisms
from licm.metrics import matched_share, mean_per_mechanism, winner_matrix
from licm.seeding import generator

READINGS, SOURCES = 16, 8
RESPONSES = torch.rand(SOURCES, READINGS, generator=generator(0, "responses")) ** 4
LEVELS = 0.15 + 0.25 * torch.rand(READINGS, generator=generator(0, "levels"))
OFFSET = 0.15 * torch.tensor([1.0, -1.0]).repeat(READINGS // 2)
TILT = torch.linspace(1.3, 0.3, READINGS)

MECHANISMS: dict[str, Callable[[Tensor, Generator | None], Tensor]] = {
    "offset": lambda rows, draws: (rows + OFFSET).clamp(0, 1),
    "halved": lambda rows, draws: 0.5 * rows,
    "compressed": lambda rows, draws: rows.sqrt(),
    "tilted": lambda rows, draws: (rows * TILT).clamp(0, 1),
}

SETTINGS = {
    "experts.normalization": "none",  # not "layer": it takes the size of a row away, here a mechanism
    "experts.head": "residual",  # keeps each reading in its place, and starts as the identity without training
    "identity.start": "analytic",
    "experts.depth": 3,  # a wide and deep network undoes several mechanisms by itself
    "experts.width": 32,
    "discriminator.widths": [64, 64],
    "discriminator.hidden": 128,
    "competition.r1_gamma": 0.01,  # rows lie nearer to each other than images, and R1 is per unit of distance squared
}


def readings(count: int, draws: Generator) -> Tensor:
    """Makes rows, float32 [count, 16] in [0.15, 0.9]: each reading has its level, and feels some of the sources."""
    sources = torch.rand(count, SOURCES, generator=draws) ** 4
    return LEVELS + 0.5 * sources @ RESPONSES / RESPONSES.sum(dim=0)


def mixture(rows: Tensor, draws: Generator) -> Mixture:
    """Puts each row under a mechanism, as many under one as under another."""
    mechanism = torch.arange(len(rows)) % len(MECHANISMS)
    return Mixture(apply_mechanisms(rows, mechanism, list(MECHANISMS.values()), draws), mechanism, rows)


def main() -> None:
    """Trains, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="the limit of training steps [the default's]")
    options = parser.parse_args()
    clean = readings(2000, generator(options.seed, "clean rows"))
    seen = mixture(readings(2000, generator(options.seed, "other rows")), generator(options.seed, "mechanisms"))
    test = mixture(readings(1000, generator(0, "test rows")), generator(0, "test mechanisms"))

    count = len(MECHANISMS)
    inverter = MechanismInverter(
        count, kind="vectors", steps=options.steps, settings=SETTINGS, random_state=options.seed
    )
    inverter.fit(seen.images, canonical=clean)  # neither originals nor mechanisms

    winners, restored = inverter.predict(test.images), inverter.transform(test.images)
    winner_shares = winner_matrix(test.mechanism, winners, num_mechanisms=count, num_experts=count)
    errors = [
        mean_per_mechanism((rows - test.originals).square().mean(dim=1), test.mechanism, count).sqrt().tolist()
        for rows in (test.images, restored)
    ]
    print(f"seed {options.seed}: matched share {matched_share(winner_shares):.3f}")
    print(f"{'root mean squared error':24} before   after  share won by each expert")
    for row, (name, before, after) in enumerate(zip(MECHANISMS, *errors)):
        print(f"{name:24} {before:.3f}   {after:.3f}   {' '.join(f'{share:.2f}' for share in winner_shares[row])}")
    print(f"{'mean':24} {sum(errors[0]) / count:.3f}   {sum(errors[1]) / count:.3f}")


if __name__ == "__main__":
    main()
