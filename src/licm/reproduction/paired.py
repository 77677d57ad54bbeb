"""The bound from above: an expert of the same architecture, trained on pairs of transformed image and original.

It is told what the method has to find out: the mechanism of an image, and the original under it.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from licm.config import ExpertConfig
from licm.models import EXPERTS
from licm.seeding import derive_seed, generator

_BATCH_SIZE = 64
_LEARNING_RATE = 3e-3


def train_paired(
    mechanism: Callable[[Tensor, Generator], Tensor],
    originals: Tensor,
    *,
    architecture: ExpertConfig,
    steps: int,
    seed: int,
    index: int = 0,
) -> nn.Module:
    """Trains one expert to undo one known mechanism.

    Binary cross-entropy of its output against the original, Adam, batches of at most 64, the learning rate constant
    to the half and then linearly to 0. A mechanism with randomness is applied afresh to each batch. The global random
    state is left as it was.

    Args:
        mechanism: M, a function of images and a generator.
        originals: x, float [n, c, h, w] in [0, 1].
        architecture: The expert's.
        steps: Steps.
        seed: Of weights, batches and the mechanism's randomness.
        index: The mechanism's number, so that each has its own randomness.

    Returns:
        The expert, in evaluation mode.
    """
    settings = architecture.model_dump()
    make_expert = EXPERTS[settings.pop("architecture")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "paired weights", index))
        expert = make_expert(channels=originals.shape[1], **settings)
    expert = expert.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(expert.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    draws = generator(seed, "paired batches", index)
    for _ in range(steps):
        chosen = torch.randint(len(originals), (min(_BATCH_SIZE, len(originals)),), generator=draws)
        target = originals[chosen].contiguous(memory_format=torch.channels_last)
        restored = expert(mechanism(target, draws))
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy(restored, target).backward()
        optimizer.step()
        schedule.step()
    return expert.eval()
