"""The bound from above: an expert of the same architecture, trained on pairs of transformed image and original.

It is told what the method has to find out: the mechanism of an image, and the original under it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from licm.config import ExpertConfig
from licm.datasets import Mixture
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
        torch.default_generator.manual_seed(derive_seed(seed, "paired weights", index))
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


@torch.no_grad()
def restore_paired(
    mechanisms: Sequence[Callable[[Tensor, Generator], Tensor]],
    originals: Tensor,
    mixture: Mixture,
    *,
    architecture: ExpertConfig,
    steps: int,
    seed: int,
) -> Tensor:
    """Restores each image of a mixture by an expert trained on pairs under its mechanism: [n, c, h, w] in [0, 1].

    Args:
        mechanisms: Those of the mixture, in its order.
        originals: What the experts are trained on, float [m, c, h, w] in [0, 1].
        mixture: What is restored.
        architecture: The experts'.
        steps: Steps of each.
        seed: See `train_paired`.
    """
    restored = torch.empty_like(mixture.images)
    for index, mechanism in enumerate(mechanisms):
        with torch.enable_grad():
            expert = train_paired(mechanism, originals, architecture=architecture, steps=steps, seed=seed, index=index)
        chosen = mixture.mechanism == index
        restored[chosen] = torch.cat([expert(part) for part in mixture.images[chosen].split(256)])
    return restored
