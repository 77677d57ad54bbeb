"""The method: experts compete for each image, the winner alone learns, and the discriminator learns from all.

Following Parascandolo, Kilbertus, Rojas-Carulla and Schölkopf (ICML 2018). For a transformed image x' every
expert E_j gives E_j(x') and the discriminator D scores it; the winner is j* = argmax_j D(E_j(x')). One step:

1. all experts transform the batch, and D as it stands scores them, which names the winners;
2. D moves to raise E_P log D(x) + E_Q sum_j w_j log(1 - D(E_j(x'))), with w_j = 1/N' in the paper's
   objective (3), which losers enter as much as winners;
3. each expert moves to raise log D(E_j(x')) on the images it won, under the new D. Experts that won nothing do
   not move at all, and D's parameters get no gradient.

Departures from the paper, each a plain argument: the weights (3'), where the winner's output weighs as much as
all losers' together, and (3''), where half the weight goes to the experts in proportion to the odds D gives
their outputs; two sampled outputs an image in place of all, which keep the objective; R1, the penalty
gamma/2 E_P |grad_x D(x)|^2 on D's logit (Mescheder, Geiger and Nowozin, ICML 2018); and forward networks F_j, which
learn the mechanisms themselves from what their experts won. Through them an output must tell its input again (the
cycle error |F_j(E_j(x')) - x'|^2 of Zhu et al., ICCV 2017), and by them ties are settled.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from licm.checks import check_images
from licm.models import Discriminator, ExpertBank, score_matrix

Objective = Literal["all_experts", "winner_weighted", "score_weighted"]

USUAL = 0.98  # decay of the moving average of an expert's cycle error, by steps in which it is in a tie


def choose_winners(scores: Tensor) -> Tensor:
    """Returns the expert with the highest score for each image; a tie goes to the first of the tied.

    Args:
        scores: [N', n], logits or probabilities.

    Returns:
        int64 [n].

    >>> choose_winners(torch.tensor([[0.1, 0.5], [0.9, 0.5]])).tolist()
    [1, 0]
    """
    is_best = scores == scores.max(dim=0).values
    return is_best.to(torch.uint8).argmax(dim=0)


def attention(objective: Objective, logits: Tensor) -> Tensor:
    """Returns whose output D looks at harder: the winner's or, under (3''), each in proportion to its odds.

    The odds of a score p are p / (1 - p), so the shares are the softmax of the logits: one for a clear winner, and
    even between experts that do the same work. Under (3') two such experts were seen to take turns for ever, likely
    because D turns on whichever wins; under (3'') winning by a hair changes nothing (docs/ablation.md).

    Args:
        objective: "score_weighted" for (3''), else the winner.
        logits: D's logits for every expert's output, [N', n].

    Returns:
        [N', n], each column of sum 1.
    """
    if objective == "score_weighted":
        return logits.softmax(dim=0)
    return F.one_hot(choose_winners(logits), len(logits)).T.to(logits.dtype)


def attended_share(objective: Objective, num_experts: int) -> float:
    """Returns the weight in D's objective of the output attended to: 1/N' under (3), half under (3') and (3'')."""
    return 1 / num_experts if objective == "all_experts" or num_experts == 1 else 0.5


def output_weights(objective: Objective, logits: Tensor) -> Tensor:
    """Returns the weight w_j of every expert's output in D's objective, [N', n], each column of sum 1.

    With attention a and its share s, w_j = s a_j + (1 - s) (1 - a_j) / (N' - 1): the output attended to, and the
    others evenly. For (3), s = 1/N' makes it 1/N' whatever a.

    >>> output_weights("winner_weighted", torch.tensor([[0.0], [2.0], [0.0]])).flatten().tolist()
    [0.25, 0.5, 0.25]
    """
    num_experts = len(logits)
    share, attended = attended_share(objective, num_experts), attention(objective, logits)
    return share * attended + (1 - share) * (1 - attended) / max(num_experts - 1, 1)


def choose_outputs(objective: Objective, num_experts: int, attended: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Chooses which experts' outputs D learns from, with weights whose mean over draws is `output_weights`.

    Args:
        objective: See `attention`.
        num_experts: N', at least 2.
        attended: int64 [n], an expert for each image, drawn by its attention.
        draws: int64 [k, n] in [0, N' - 2], which of the others to take, distinct within an image and each as likely
            as another. They share the others' whole weight.

    Returns:
        The chosen experts, int64 [1 + k, n] with the one attended to first, and their weights, float [1 + k], sum 1.
    """
    others = draws + (draws >= attended).long()  # skips the one attended to
    share = attended_share(objective, num_experts)
    weights = [share] + [(1 - share) / len(draws)] * len(draws)
    return torch.cat([attended[None], others]), torch.tensor(weights, device=attended.device)


def draw_attended(probabilities: Tensor, generator: Generator) -> Tensor:
    """Draws one expert for each image, with the probabilities in its column of [N', n]: int64 [n]."""
    point = torch.rand(probabilities.shape[1], generator=generator).to(probabilities)
    return (probabilities.cumsum(dim=0)[:-1] <= point).sum(dim=0)


def draw_others(num_images: int, num_experts: int, count: int, generator: Generator) -> Tensor:
    """Draws `count` of the N' - 1 other experts for each image, evenly, without replacement: int64 [count, n]."""
    return torch.rand(num_experts - 1, num_images, generator=generator).argsort(dim=0)[:count]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, weights: Tensor) -> Tensor:
    """Returns minus D's objective, -(E_P log D(x) + E_Q sum_j w_j log(1 - D(E_j(x')))).

    Args:
        real_logits: [n], D's logits on canonical images.
        fake_logits: [k, m], on the outputs of k experts for each of m transformed images.
        weights: [k, 1] or [k, m].
    """
    return F.softplus(-real_logits).mean() + (weights * F.softplus(fake_logits)).sum(dim=0).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Returns E |grad_x D(x)|^2 / 2, differentiable in D's parameters; `images` must require a gradient."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum() / (2 * len(images))


@dataclass(frozen=True)
class StepRecord:
    """What one step saw and did.

    Attributes:
        scores: D's probabilities for every expert's output before the step, [N', n].
        winners: int64 [n].
        real_score: Mean probability D gave the canonical images before its step.
        discriminator_loss: Minus D's objective, without the penalty.
        expert_loss: Mean over the experts that won of -log D of their winning outputs, under the new D.
        cycle_error: Mean over the experts that won of the squared error a pixel of F_j(E_j(x')); None without F.
    """

    scores: Tensor
    winners: Tensor
    real_score: float
    discriminator_loss: float
    expert_loss: float
    cycle_error: float | None = None


class Competition:
    """Experts, discriminator, forward networks where wanted, and their optimisers.

    The forward networks always learn to undo their experts on what these won. The experts feel the cycle error only
    while `cycle_pulls` is set: too early it holds them near where they are and slows the competition. Where several
    outputs are about as good, the winner is the expert whose forward network tells the input best by its own measure:
    no network can tell the inputs of two mechanisms from the same output, so two experts able to do the same work part.

    Args:
        bank: The experts.
        discriminator: D.
        objective: "all_experts" for (3), "winner_weighted" for (3'), "score_weighted" for (3'').
        loser_samples: How many outputs per image, beside the one attended to, D learns from; None for all.
        r1_gamma: Weight of the gradient penalty, 0 for none.
        forward: One network for each expert, of its shapes and without batch statistics; None for none.
        cycle_weight: Weight of the cycle error beside an expert's loss.
        tie_margin: Scores nearer to the best than this part of `mean_margin` are ties; 0: the best score wins.
        learning_rate: Adam's, for experts and D.
        betas: Adam's.
    """

    def __init__(
        self,
        bank: ExpertBank,
        discriminator: Discriminator,
        *,
        objective: Objective = "all_experts",
        loser_samples: int | None = None,
        r1_gamma: float = 0.0,
        forward: ExpertBank | None = None,
        cycle_weight: float = 0.0,
        tie_margin: float = 0.0,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.bank = bank
        self.discriminator = discriminator
        self.objective: Objective = objective
        self.loser_samples = loser_samples
        self.r1_gamma = r1_gamma
        self.forward = forward
        self.cycle_weight = cycle_weight
        self.cycle_pulls = False
        self.tie_margin = tie_margin
        self.mean_margin = 0.0  # the winners' mean lead, over D's score of canonical images; 0 while ties are left
        self.usual_error = torch.zeros(len(bank))  # moving average of each expert's cycle error in ties; 0: none yet
        self.learning_rate = learning_rate
        # One Adam for all experts: it leaves parameters whose gradient is None, the losers', untouched.
        adam = partial(torch.optim.Adam, lr=learning_rate, betas=betas, fused=True)
        learners = [bank] if forward is None else [bank, forward]
        self.expert_optimizer = adam([{"params": list(one.parameters())} for each in learners for one in each])
        self.discriminator_optimizer = adam(discriminator.parameters())

    def set_learning_rate_factor(self, factor: float) -> None:
        """Sets both learning rates to `factor` times the initial one."""
        for optimizer in (self.expert_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * factor

    def copy_expert(self, source: int, target: int) -> None:
        """Makes one expert, and its forward network, the twin of another: weights, statistics, optimiser state."""
        self.usual_error[target] = self.usual_error[source]
        state = self.expert_optimizer.state
        for each in (self.bank, self.forward):
            if each is None:
                continue
            each[target].load_state_dict(each[source].state_dict())
            for old, new in zip(each[source].parameters(), each[target].parameters()):
                state.pop(new, None)
                if old in state:
                    state[new] = {name: value.clone() for name, value in state[old].items()}

    def forget(self, expert: int) -> None:
        """Drops the optimiser's memory of one expert, whose weights have been replaced."""
        for parameter in self.bank[expert].parameters():
            self.expert_optimizer.state.pop(parameter, None)

    def step(self, canonical: Tensor, transformed: Tensor, generator: Generator) -> StepRecord:
        """Does one update of the discriminator and of the winners.

        Args:
            canonical: Images from P, [n, c, h, w] in [0, 1].
            transformed: Images from the mixture Q, [m, c, h, w] in [0, 1].
            generator: Where a sample of losers is drawn from.
        """
        outputs = self._transform(transformed)
        with torch.no_grad():
            logits = torch.stack([self.discriminator(output) for output in outputs])
        d_loss, real_score = self._update_discriminator(canonical, outputs, logits, generator)
        winners = self._name_winners(transformed, outputs, logits.sigmoid() / max(real_score, 1e-6))
        e_loss, cycle_error = self._update_winners(transformed, outputs, winners)
        return StepRecord(logits.sigmoid(), winners, real_score, d_loss, e_loss, cycle_error)

    def _transform(self, transformed: Tensor) -> list[Tensor]:
        """Every expert's output; with the graph only where the winners' update cannot do without.

        Under batch normalisation an output depends on the whole batch, so the winners' gradient needs the
        graph of the full batch. Without it, the winners alone are transformed again.
        """
        self.bank.train()
        with torch.set_grad_enabled(self.bank.uses_batch_statistics):
            return self.bank(transformed)

    def _update_discriminator(
        self, canonical: Tensor, outputs: list[Tensor], logits: Tensor, generator: Generator
    ) -> tuple[float, float]:
        num_experts, n = logits.shape
        if self.loser_samples is not None and self.loser_samples < num_experts - 1:
            attended = draw_attended(attention(self.objective, logits), generator)
            draws = draw_others(n, num_experts, self.loser_samples, generator).to(logits.device)
            chosen, weights = choose_outputs(self.objective, num_experts, attended, draws)
            weights = weights[:, None]
        else:
            chosen = torch.arange(num_experts, device=logits.device)[:, None].expand(-1, n)
            weights = output_weights(self.objective, logits)
        fakes = torch.stack([output.detach() for output in outputs])[chosen, torch.arange(n)]
        real = canonical.detach().requires_grad_(self.r1_gamma > 0)
        real_logits = self.discriminator(real)
        fake_logits = self.discriminator(fakes.flatten(0, 1)).view(chosen.shape)
        loss = discriminator_loss(real_logits, fake_logits, weights)
        total = loss
        if self.r1_gamma > 0:
            total = loss + self.r1_gamma * gradient_penalty(real_logits, real)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.discriminator_optimizer.step()
        return loss.item(), real_logits.detach().sigmoid().mean().item()

    @torch.no_grad()
    def _name_winners(self, transformed: Tensor, outputs: list[Tensor], scores: Tensor) -> Tensor:
        """The best scores win; a tie goes to the expert whose cycle error is lowest beside what is usual for it.

        What counts is the comparative advantage: by the error itself, the better of two forward networks would win all.
        Scores are over D's of canonical images, [N', n].
        """
        winners, gap = choose_winners(scores), self.tie_margin * self.mean_margin
        if self.forward is None or gap <= 0:
            return winners
        near = scores >= scores.max(dim=0).values - gap
        tied = near.sum(dim=0) > 1
        errors = torch.full_like(scores, torch.inf)
        for j in (near & tied).any(dim=1).nonzero().flatten().tolist():
            chosen = near[j] & tied
            told = self.forward[j](outputs[j][chosen])
            error = (told - transformed[chosen]).square().flatten(1).mean(dim=1)
            usual, now = self.usual_error[j].item(), error.mean().item()
            self.usual_error[j] = usual = USUAL * usual + (1 - USUAL) * now if usual else now
            errors[j, chosen] = error / max(usual, 1e-12)
        return torch.where(tied, choose_winners(-errors), winners)

    def _update_winners(
        self, transformed: Tensor, outputs: list[Tensor], winners: Tensor
    ) -> tuple[float, float | None]:
        wins = {int(j): winners == j for j in winners.unique()}
        if self.bank.uses_batch_statistics:
            won = {j: outputs[j][mask] for j, mask in wins.items()}
        else:
            won = {j: self.bank[j](transformed[mask]) for j, mask in wins.items()}
        self.discriminator.requires_grad_(False)  # the gradient passes through D to the experts
        losses = F.softplus(-self.discriminator(torch.cat(list(won.values()))))
        self.discriminator.requires_grad_(True)
        total = loss = torch.stack([own.mean() for own in losses.split([len(each) for each in won.values()])]).sum()
        cycle_error = None
        if self.forward is not None:
            told = {j: each if self.cycle_pulls else each.detach() for j, each in won.items()}
            errors = [F.mse_loss(self.forward[j](told[j]), transformed[mask]) for j, mask in wins.items()]
            total = loss + self.cycle_weight * torch.stack(errors).sum()
            cycle_error = torch.stack(errors).mean().item()
        self.expert_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.expert_optimizer.step()
        return loss.item() / len(won), cycle_error


@torch.no_grad()
def compete(
    bank: ExpertBank, discriminator: Discriminator, images: Tensor, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Lets trained experts compete for images, in evaluation mode.

    Args:
        bank: The experts.
        discriminator: D.
        images: [n, c, h, w] in [0, 1].
        batch_size: Images at a time.

    Returns:
        D's probabilities [N', n] and the winners, int64 [n].

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels and size.
    """
    check_images(images, "images", channels=discriminator.channels)
    bank.eval()
    logits = torch.cat([score_matrix(bank, discriminator, b) for b in images.split(batch_size)], dim=1)
    return logits.sigmoid(), choose_winners(logits)
