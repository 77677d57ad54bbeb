"""The arithmetic a step cannot do without, in FLOP (a multiplication and an addition are two).

Convolutions and fully connected layers are counted, pointwise work is not. With E and D for one image's forward pass
through an expert and through the discriminator, N' experts, a batch of B images from P and as many from Q, and k
outputs per image that D learns from, the exact step takes

    scoring               B N' (E + D)
    winners, backward     2 B N' E  under batch normalisation, where the gradient passes through the whole batch of
                          every expert that won; without, 3 B E: each image's winner again, forward and backward
    winners, through D    2 B D     forward, and backward to D's input
    D's training          3 (B + k B) D
    R1                    3 B D     the gradient in D's input, and twice as much for its own gradient
    cycle                 3 B E     with forward networks
    pairs                 4 B E     likewise, with pairs: a pass of F_j, forward and backward of E_j

A first layer whose input needs no gradient takes a little less. `tests/test_arithmetic.py` holds the sum against what
torch counts in a step.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from licm.competition import Competition


@torch.no_grad()
def forward_flop(module: nn.Module, size: int) -> int:
    """Returns the FLOP of one image's forward pass, [1, c, size, size]."""
    channels = next(layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d))
    was_training = module.training
    with FlopCounterMode(display=False) as counter:
        module.eval()(next(module.parameters()).new_zeros(1, channels, size, size))
    module.train(was_training)
    return counter.get_total_flops()


def step_flop(competition: Competition, *, batch: int, size: int) -> dict[str, int]:
    """Returns the FLOP of each part of a step, as the module says, and their `total`."""
    experts = len(competition.bank)
    expert = forward_flop(competition.bank[0], size)
    discriminator = forward_flop(competition.discriminator, size)
    outputs = experts if competition.loser_samples is None else min(1 + competition.loser_samples, experts)
    of_winners = 2 * experts if competition.bank.uses_batch_statistics else 3
    forward = 0 if competition.forward is None else forward_flop(competition.forward[0], size)
    parts = {
        "scoring": batch * experts * (expert + discriminator),
        "winners_backward": batch * of_winners * expert,
        "winners_through_discriminator": 2 * batch * discriminator,
        "discriminator_training": 3 * (batch + outputs * batch) * discriminator,
        "r1": 3 * batch * discriminator if competition.r1_gamma > 0 else 0,
        "cycle": 3 * batch * forward,
        "pairs": batch * (3 * expert + forward) if competition.pair_weight > 0 else 0,
    }
    return {**parts, "total": sum(parts.values())}
