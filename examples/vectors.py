"""Vectors: four things happen to rows of numbers, unlabelled; as many experts learn to undo one each.

Rows are made here: 16 readings of 4 sources that are skewed, float32 [n, 16] in [0, 1], as of sensors or of a spectrum.
One heap is clean. Of the other, of other rows, each was inverted, reversed, offset or rotated, and nobody says which.

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

READINGS, SOURCES = 16, 4
RESPONSES = torch.rand(SOURCES, READINGS, generator=generator(0, "responses")) ** 2
TURN = torch.randn(READINGS, READINGS, generator=generator(0, "rotation"))
ROTATION = torch.matrix_exp(0.25 * (TURN - TURN.T))  # orthogonal, of determinant 1
OFFSET = 0.25 * torch.tensor([1.0, -1.0]).repeat(READINGS // 2)

MECHANISMS: dict[str, Callable[[Tensor, Generator | None], Tensor]] = {
    "inverted": lambda rows, draws: 1 - rows,
    "reversed": lambda rows, draws: rows.flip(1),
    "offset": lambda rows, draws: (rows + OFFSET).clamp(0, 1),
    "rotated": lambda rows, draws: (0.5 + (rows - 0.5) @ ROTATION.T).clamp(0, 1),
}

# Wider, as a linear map has no filters to share, and a weaker penalty: rows lie nearer to each other than images do.
SETTINGS = {
    "experts.width": 64,
    "discriminator.widths": [64, 64],
    "competition.r1_gamma": 0.01,
}


def readings(count: int, draws: Generator) -> Tensor:
    """Makes rows, float32 [count, 16] in [0, 1]: the sources mixed, and a little noise."""
    sources = torch.rand(count, SOURCES, generator=draws) ** 2
    noise = 0.01 * torch.randn(count, READINGS, generator=draws)
    return (0.15 + sources @ RESPONSES / 2.2 + noise).clamp(0, 1)


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
