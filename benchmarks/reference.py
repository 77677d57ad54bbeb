"""The obvious implementation of a step: yardstick for speed, and oracle for what a step computes.

Written as one would from the equations: the default memory layout, every output with its graph, D's passes one expert
after another, every output in D's loss, a stock Adam per network. It shares the networks and the objective with
`licm.competition`, and none of its estimators, shortcuts or loss functions.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from licm.competition import Competition, Objective


@dataclass(frozen=True)
class ReferenceRecord:
    """What one step saw: D's logits [N', n] before it, the winners int64 [n], and the losses."""

    logits: Tensor
    winners: Tensor
    discriminator_loss: float
    expert_loss: float
    cycle_error: float | None


class Reference:
    """A copy of a competition, stepped the obvious way.

    Args:
        competition: Its networks are copied with their weights; its optimisers start anew.
    """

    def __init__(self, competition: Competition) -> None:
        def plain(module):
            return copy.deepcopy(module).to(memory_format=torch.contiguous_format)

        self.experts = [plain(expert) for expert in competition.bank]
        self.forward = [plain(network) for network in competition.forward or []]
        self.discriminator = plain(competition.discriminator)
        self.objective: Objective = competition.objective
        self.r1_gamma, self.cycle_weight = competition.r1_gamma, competition.cycle_weight
        self.pair_weight = competition.pair_weight
        self.cycle_pulls = competition.cycle_pulls
        self.tie_gap = competition.tie_margin * competition.mean_margin
        self.usual_error = competition.usual_error.tolist()

        def adam(*modules):
            parameters = [parameter for module in modules for parameter in module.parameters()]
            return torch.optim.Adam(parameters, lr=competition.learning_rate, foreach=False)

        learners = zip(self.experts, self.forward) if self.forward else zip(self.experts)
        self.expert_optimizers = [adam(*modules) for modules in learners]
        self.discriminator_optimizer = adam(self.discriminator)

    def step(self, canonical: Tensor, transformed: Tensor) -> ReferenceRecord:
        """One update of the discriminator, then of the winners."""
        for expert in self.experts:
            expert.train(not expert.is_frozen)
        outputs = [expert(transformed) for expert in self.experts]
        logits = torch.stack([self.discriminator(output) for output in outputs]).detach()
        real_score = self.discriminator(canonical).sigmoid().mean().item()
        winners = self.name_winners(transformed, outputs, logits.sigmoid() / real_score)
        discriminator_loss = self.update_discriminator(canonical, outputs, logits)
        expert_loss, cycle_error = self.update_experts(canonical, transformed, outputs, winners)
        return ReferenceRecord(logits, winners, discriminator_loss, expert_loss, cycle_error)

    def name_winners(self, transformed: Tensor, outputs: list[Tensor], scores: Tensor) -> Tensor:
        """The best score wins, unless others are near and tell the input better."""
        winners = scores.argmax(dim=0)
        if not self.forward or self.tie_gap <= 0:
            return winners
        errors = []
        for index, (network, output) in enumerate(zip(self.forward, outputs)):
            error = (network(output) - transformed).pow(2).mean(dim=(1, 2, 3)).detach()
            near = scores[index] >= scores.max(dim=0).values - self.tie_gap
            error[~near] = torch.inf
            errors.append(error)
        tied = torch.stack(errors).isfinite().sum(dim=0) > 1
        for index, error in enumerate(errors):
            seen = error[tied & error.isfinite()]
            if len(seen):
                usual = self.usual_error[index]
                self.usual_error[index] = 0.98 * usual + 0.02 * seen.mean().item() if usual else seen.mean().item()
        usual = torch.tensor(self.usual_error).clamp(min=1e-12)
        comparative = torch.stack(errors) / usual[:, None]
        return torch.where(tied, comparative.argmin(dim=0), winners)

    def update_discriminator(self, canonical: Tensor, outputs: list[Tensor], logits: Tensor) -> float:
        """D learns from canonical images and all outputs, weighted as the objective says."""
        real = canonical.clone().requires_grad_(True)
        real_logits = self.discriminator(real)
        loss = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
        for output, weight in zip(outputs, self.weights(logits)):
            fake_logits = self.discriminator(output.detach())
            errors = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits), reduction="none")
            loss = loss + (weight * errors).mean()
        total = loss
        if self.r1_gamma > 0:
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            total = loss + self.r1_gamma / 2 * slope.pow(2).sum(dim=(1, 2, 3)).mean()
        self.discriminator_optimizer.zero_grad()
        total.backward()
        self.discriminator_optimizer.step()
        return loss.item()

    def weights(self, logits: Tensor) -> Tensor:
        """w_j of every output, [N', n]: (3), (3') or (3'')."""
        count = len(logits)
        if self.objective == "all_experts":
            return torch.full_like(logits, 1 / count)
        if self.objective == "winner_weighted":
            won = F.one_hot(logits.argmax(dim=0), count).T
            return torch.where(won.bool(), 0.5, 0.5 / (count - 1))
        odds = logits.exp()  # p / (1 - p)
        attention = odds / odds.sum(dim=0)
        return attention / 2 + (1 - attention) / (2 * (count - 1))

    def update_experts(
        self, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
    ) -> tuple[float, float | None]:
        """Each expert that won moves, on the mean over its own wins, under the new D."""
        losses, errors = [], []
        for index, output in enumerate(outputs):
            won = winners == index
            if not won.any():
                continue
            logits = self.discriminator(output)[won]
            loss = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
            losses.append(loss.item())
            if self.forward:
                told = output[won] if self.cycle_pulls else output[won].detach()
                error = F.mse_loss(self.forward[index](told), transformed[won])
                errors.append(error.item())
                loss = loss + self.cycle_weight * error
                if self.cycle_pulls and self.pair_weight > 0:
                    pair = self.pair_error(index, canonical[won], transformed[won], output[won])
                    loss = loss + self.pair_weight * pair
            self.expert_optimizers[index].zero_grad()
            loss.backward()
            self.expert_optimizers[index].step()
        return sum(losses) / len(losses), sum(errors) / len(errors) if errors else None

    def pair_error(self, index: int, canonical: Tensor, transformed: Tensor, restored: Tensor) -> Tensor:
        """The error of an expert on canonical images, put under what its forward network knows of its mechanism."""
        network, expert = self.forward[index], self.experts[index]
        noise = (transformed - network(restored)).detach()
        made = (network(canonical).detach() + noise).clamp(0, 1)
        error = F.mse_loss(expert.eval()(made), canonical)
        expert.train(not expert.is_frozen)
        return error
