"""The approximate-identity start: before the competition each expert reproduces its input.

The slides train every expert on *transformed* data to give it back ("trained"). It is much cheaper to do so with one,
and to start the others as copies of it with noise on their weights ("copied"). A residual head offers a start without
training ("analytic"): with a last convolution near zero, sigmoid(logit(x) + 0) is x.
"""

import torch
from torch import Tensor, nn

from licm.models import Expert, ExpertBank
from licm.seeding import generator


def train_identity(
    expert: nn.Module,
    images: Tensor,
    *,
    seed: int,
    index: int,
    tolerance: float = 0.002,
    max_steps: int = 500,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
) -> int:
    """Trains one expert to return its input, until a batch's mean squared error is below `tolerance`.

    Args:
        expert: Changed in place; its optimiser (Adam) is not kept.
        images: Transformed images, [n, c, h, w] in [0, 1].
        seed: The run's seed.
        index: The expert's number, so that each sees its own batches.
        tolerance: Mean squared error at which to stop.
        max_steps: Steps at which to stop anyway.
        batch_size: Images per step.
        learning_rate: Adam's.

    Returns:
        The number of steps taken, 0 where the expert was near enough.
    """
    expert.train()
    optimizer = torch.optim.Adam(expert.parameters(), lr=learning_rate, fused=True)
    draws = generator(seed, "identity batches", index)
    for step in range(1, max_steps + 1):
        batch = images[torch.randint(len(images), (batch_size,), generator=draws)]
        loss = nn.functional.mse_loss(expert(batch), batch)
        near = loss.item() < tolerance
        if near and step == 1:  # a copy of one that is: the first step of Adam, of full length, would lead away
            return 0
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if near:
            return step
    return max_steps


@torch.no_grad()
def copy_with_noise(expert: nn.Module, source: nn.Module, *, noise: float, seed: int, index: int) -> None:
    """Makes an expert a copy of another, but for noise on each tensor of weights.

    Args:
        expert: Changed in place.
        source: Of the same architecture.
        noise: Standard deviation, over the root mean square of the tensor's entries.
        seed: The run's seed.
        index: The expert's number, so that each has its own noise.
    """
    expert.load_state_dict(source.state_dict())
    draws = generator(seed, "identity noise", index)
    for parameter in expert.parameters():
        size = noise * parameter.square().mean().sqrt()
        parameter.add_(size * torch.randn(parameter.shape, generator=draws).to(parameter))


def analytic_identity(expert: nn.Module, *, seed: int, index: int, std: float = 0.01) -> None:
    """Draws the last convolution from N(0, std^2), which makes a residual expert near the identity.

    Raises:
        ValueError: If the expert's head is not residual.
    """
    if not isinstance(expert, Expert) or expert.head != "residual":
        found = getattr(expert, "head", type(expert).__name__)
        raise ValueError(f"identity.start: 'analytic' needs experts.head 'residual', got {found!r}")
    draws = generator(seed, "analytic identity", index)
    with torch.no_grad():
        assert expert.last.bias is not None
        expert.last.weight.copy_(torch.randn(expert.last.weight.shape, generator=draws) * std)
        expert.last.bias.zero_()


@torch.no_grad()
def identity_errors(bank: ExpertBank, images: Tensor) -> list[float]:
    """Returns each expert's mean squared error as a copy of `images`, in evaluation mode."""
    bank.eval()
    return [nn.functional.mse_loss(expert(images), images).item() for expert in bank]
