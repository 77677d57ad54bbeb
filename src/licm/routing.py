"""A router: which experts are worth asking about an image, learned from who won such images before.

The competition asks all N' experts about every image, and nearly all of that work is to lose. The router is a small
network trained online on the winners of exact competitions. Once it foretells them well it proposes k experts an image;
one more is drawn evenly from the others and stands for all of them, so that the objective of D keeps its mean
(`licm.objective.output_weights`). Every `check_every` steps the competition is exact and tells how good the proposals
were; when they were not, it stays exact until they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from licm.models import convolution

SETTLING_PASSES = 3
PULL = 0.1  # of one exact step on the moving average of agreement


class Router(nn.Module):
    """A network [n, c, h, w] -> logits [n, N'] of how likely each expert wins the image; h and w of any size.

    Signals [n, c, t], of any length, and vectors [n, c] likewise.

    Args:
        channels: c.
        num_experts: N'.
        widths: Filters of its 3x3 convolutions, each of stride 2.
        grid: What the convolutions leave is averaged to this height and width: where things lie matters.
        dims: 2 for images, 1 for signals, 0 for vectors.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_experts: int,
        widths: Sequence[int] = (16, 32, 32),
        grid: int = 4,
        dims: int = 2,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for width in widths:
            layers += [convolution(dims, inputs, width, stride=2), nn.LeakyReLU(0.1)]
            inputs = width
        if dims > 0:
            layers.append((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[dims - 1](grid))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.logits = nn.Linear(inputs * grid**dims, num_experts)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits, [n, N']."""
        return self.logits(self.features(images))

    @torch.no_grad()
    def forget(self, experts: Sequence[int]) -> None:
        """Sees to it that some experts, which were retired, are never named again."""
        self.logits.bias[list(experts)] = -1e9  # beyond what weights can make up for


@dataclass(frozen=True)
class RouterCheck:
    """What an exact step told of the proposals.

    Attributes:
        agreement: Share of images whose winner was among the proposed experts.
        regret: Mean of the best score minus the best among the proposed, over D's score of canonical images.
    """

    agreement: float
    regret: float


class Routing:
    """A router, its optimiser, and when to trust it.

    Args:
        router: The network.
        proposals: k, experts proposed for each image; 0: the router only learns and the competition is exact.
        check_every: Steps from one exact competition to the next while the router is trusted.
        trusted_from: Moving average of `RouterCheck.agreement` from which it is.
        learning_rate: Adam's.
    """

    def __init__(
        self,
        router: Router,
        *,
        proposals: int = 0,
        check_every: int = 50,
        trusted_from: float = 0.97,
        learning_rate: float = 1e-3,
    ) -> None:
        self.router = router
        self.proposals = proposals
        self.check_every = check_every
        self.trusted_from = trusted_from
        self.optimizer = torch.optim.Adam(router.parameters(), lr=learning_rate, fused=True)
        self.agreement = 0.0
        self.since_check = 0

    @torch.no_grad()
    def propose(self, images: Tensor, num_experts: int, draws: Generator) -> Tensor:
        """Says whom to ask, and how many experts each of them stands for.

        Args:
            images: [n, c, h, w] in [0, 1].
            num_experts: N'.
            draws: Where the expert from outside the proposals is drawn.

        Returns:
            [N', n]: 1 for a proposed expert, N' - k for the one drawn from the others, 0 for who is not asked. All 1
            when the competition is to be exact.
        """
        stands_for = images.new_ones(num_experts, len(images))
        outside = num_experts - self.proposals
        trusted = self.agreement >= self.trusted_from and self.since_check < self.check_every
        if self.proposals == 0 or outside < 2 or not trusted:
            self.since_check = 0
            return stands_for
        self.since_check += 1
        proposed = self.router(images).topk(self.proposals, dim=1).indices.T
        others = stands_for.scatter(0, proposed, 0.0)
        drawn = torch.multinomial(others.T.cpu(), 1, generator=draws).T.to(proposed.device)
        return (1 - others).scatter(0, drawn, float(outside))

    def learn(self, images: Tensor, winners: Tensor) -> None:
        """Moves the router towards the winners, int64 [n], of images [n, c, h, w]."""
        loss = F.cross_entropy(self.router(images), winners)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def settle(self, images: Tensor, winners: Tensor, draws: Generator) -> None:
        """Learns, once training is over, who wins as images are restored.

        Until then it saw who won in training, where outputs come of batch statistics and forward networks settle ties:
        of two runs in twenty it went on to name another expert for images under noise.

        Args:
            images: [n, c, h, w] in [0, 1].
            winners: int64 [n].
            draws: For the order of the images.
        """
        for _ in range(SETTLING_PASSES):
            for part in torch.randperm(len(images), generator=draws).to(images.device).split(64):
                self.learn(images[part], winners[part])

    @torch.no_grad()
    def check(self, images: Tensor, scores: Tensor, winners: Tensor) -> RouterCheck | None:
        """Holds what the router would propose against an exact competition, before it learns from that.

        Args:
            images: [n, c, h, w] in [0, 1].
            scores: D's scores over that of canonical images, of all experts, [N', n].
            winners: int64 [n].

        Returns:
            The check; None where there are no proposals to hold against it.
        """
        if self.proposals == 0:
            return None
        proposed = self.router(images).topk(min(self.proposals, len(scores)), dim=1).indices.T
        found = scores.gather(0, proposed).max(dim=0).values
        agreement = (proposed == winners).any(dim=0).float().mean().item()
        self.agreement += PULL * (agreement - self.agreement)
        return RouterCheck(agreement, (scores.max(dim=0).values - found).mean().item())

    def state(self) -> dict[str, Any]:
        """Returns what `restore` needs beside weights and optimiser, as plain values."""
        return {"agreement": self.agreement, "since_check": self.since_check}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what `state` returned."""
        self.agreement, self.since_check = state["agreement"], state["since_check"]
