"""Signals: four things happen to heartbeats, unlabelled; as many experts learn to undo one each.

Heartbeats are made here: waves P, Q, R, S and T of random height, width and place, as float32 [n, 1, 64] in [0, 1].
One heap is clean. Of the other, of other beats, each was late, early, small or noisy, and nobody says which.

    python examples/signals.py --seed 0
"""

import argparse
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from licm import MechanismInverter
from licm.datasets import Mixture, apply_mechanisms
from licm.metrics import matched_share, mean_per_mechanism, winner_matrix
from licm.seeding import generator

LENGTH = 64
#            P      Q      R     S      T
HEIGHTS = (0.10, -0.10, 0.50, -0.15, 0.20)
PLACES = (-12.0, -3.0, 0.0, 3.0, 16.0)  # steps from R
WIDTHS = (2.5, 1.2, 1.4, 1.4, 4.0)

MECHANISMS: dict[str, Callable[[Tensor, Generator | None], Tensor]] = {
    "4 steps late": lambda beats, draws: beats.roll(4, dims=-1),
    "4 steps early": lambda beats, draws: beats.roll(-4, dims=-1),
    "half as high": lambda beats, draws: 0.5 * beats,
    "noisy": lambda beats, draws: (beats + 0.2 * torch.randn(beats.shape, generator=draws)).clamp(0, 1),
}

SETTINGS = {
    "experts.normalization": "batch",  # not "layer": it cannot tell a beat from one half as high
    "competition.r1_gamma": 0.1,  # beats lie nearer to each other than images, and R1 is per unit of distance squared
}


def heartbeats(count: int, draws: Generator) -> Tensor:
    """Makes heartbeats, float32 [count, 1, 64] in [0, 1]; R is near step 28."""
    times = torch.arange(LENGTH) - 28.0 - torch.randn(count, 1, generator=draws)
    beats = torch.full((count, LENGTH), 0.3)
    for height, place, width in zip(HEIGHTS, PLACES, WIDTHS):
        heights, places, widths = (1 + 0.2 * torch.randn(count, 1, generator=draws) for _ in range(3))
        beats += height * heights * torch.exp(-(((times - place * places) / (width * widths.clamp(0.5))) ** 2) / 2)
    return beats.clamp(0, 1)[:, None]


def mixture(beats: Tensor, draws: Generator) -> Mixture:
    """Puts each beat under a mechanism, as many under one as under another."""
    mechanism = torch.arange(len(beats)) % len(MECHANISMS)
    return Mixture(apply_mechanisms(beats, mechanism, list(MECHANISMS.values()), draws), mechanism, beats)


def main() -> None:
    """Trains, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300, help="the limit of training steps [300]")
    options = parser.parse_args()
    clean = heartbeats(2000, generator(options.seed, "clean beats"))
    seen = mixture(heartbeats(2000, generator(options.seed, "other beats")), generator(options.seed, "mechanisms"))
    test = mixture(heartbeats(1000, generator(0, "test beats")), generator(0, "test mechanisms"))

    count = len(MECHANISMS)
    inverter = MechanismInverter(
        count, kind="signals", steps=options.steps, settings=SETTINGS, random_state=options.seed
    )
    inverter.fit(seen.images, canonical=clean)  # neither originals nor mechanisms

    winners, restored = inverter.predict(test.images), inverter.transform(test.images)
    winner_shares = winner_matrix(test.mechanism, winners, num_mechanisms=count, num_experts=count)
    errors = [
        mean_per_mechanism((beats - test.originals).square().mean(dim=(1, 2)), test.mechanism, count).sqrt().tolist()
        for beats in (test.images, restored)
    ]
    print(f"seed {options.seed}: matched share {matched_share(winner_shares):.3f}")
    print(f"{'root mean squared error':24} before   after  share won by each expert")
    for row, (name, before, after) in enumerate(zip(MECHANISMS, *errors)):
        print(f"{name:24} {before:.3f}   {after:.3f}   {' '.join(f'{share:.2f}' for share in winner_shares[row])}")
    print(f"{'mean':24} {sum(errors[0]) / count:.3f}   {sum(errors[1]) / count:.3f}")


if __name__ == "__main__":
    main()
