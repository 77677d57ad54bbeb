"""Small problems with known answers, and competitions small enough for a test."""

from typing import Literal

import torch
from torch import Tensor

from licm.competition import Competition, Objective
from licm.models import Discriminator, Expert, ExpertBank, Normalization
from licm.seeding import generator

SIZE = 12


def bars(count: int, *, seed: int = 0) -> Tensor:
    """Bright vertical or horizontal bars on black: float32 [count, 1, 12, 12] in [0, 1]."""
    draws = generator(seed, "bars")
    images = torch.zeros(count, 1, SIZE, SIZE)
    for image in images:
        position = int(torch.randint(3, SIZE - 4, (1,), generator=draws))
        rows, cols = slice(3, SIZE - 3), slice(position, position + 2)
        if torch.rand(1, generator=draws) < 0.5:
            rows, cols = cols, rows
        image[0, rows, cols] = 0.7 + 0.3 * torch.rand(1, generator=draws)
    return images


def small_competition(
    *,
    num_experts: int = 3,
    normalization: Normalization = "batch",
    objective: Objective = "all_experts",
    loser_samples: int | None = None,
    r1_gamma: float = 0.0,
    cycle_weight: float = 0.0,
    pair_weight: float = 0.0,
    tie_margin: float = 0.0,
    winners: Literal["best", "fixed"] = "best",
    diversity_weight: float = 0.0,
    compiled: bool = False,
    seed: int = 0,
) -> Competition:
    """A competition on 12x12 images whose experts have 4 filters; with a cycle weight, it has forward networks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bank = ExpertBank([Expert(width=4, depth=3, normalization=normalization) for _ in range(num_experts)])
        discriminator = Discriminator(image_size=SIZE, widths=(4, 8), hidden=16)
        forward = ExpertBank([Expert(width=4, depth=3, normalization="none") for _ in range(num_experts)])
    return Competition(
        bank,
        discriminator,
        objective=objective,
        loser_samples=loser_samples,
        r1_gamma=r1_gamma,
        forward=forward if cycle_weight > 0 else None,
        cycle_weight=cycle_weight,
        pair_weight=pair_weight,
        tie_margin=tie_margin,
        winners=winners,
        diversity_weight=diversity_weight,
        compiled=compiled,
    )
