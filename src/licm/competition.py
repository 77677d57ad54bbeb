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
cycle error |F_j(E_j(x')) - x'|^2 of Zhu et al., ICCV 2017), by them ties are settled, and what they make of canonical
images their experts must undo: pairs to learn from, without any pair in the data (as back-translation does, Sennrich,
Haddow and Birch, ACL 2016).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from licm.checks import check_images
from licm.models import Discriminator, ExpertBank, score_matrix
from licm.objective import (
    Objective,
    choose_outputs,
    choose_winners,
    discriminator_loss,
    gradient_penalty,
    output_weights,
)
from licm.routing import RouterCheck, Routing

USUAL = 0.98  # decay of the moving average of an expert's cycle error, by steps in which it is in a tie


@dataclass(frozen=True)
class StepRecord:
    """What one step saw and did.

    Attributes:
        scores: D's probabilities for every expert's output before the step, [N', n]; 0 for who was not asked.
        winners: int64 [n].
        real_score: Mean probability D gave the canonical images before its step.
        discriminator_loss: Minus D's objective, without the penalty.
        expert_loss: Mean over the experts that won of -log D of their winning outputs, under the new D.
        cycle_error: Mean over the experts that won of the squared error a pixel of F_j(E_j(x')); None without F.
        asked: Which experts were, bool [N', n].
        router_check: What an exact step told of a router's proposals; None at the other steps.
    """

    scores: Tensor
    winners: Tensor
    real_score: float
    discriminator_loss: float
    expert_loss: float
    cycle_error: float | None
    asked: Tensor
    router_check: RouterCheck | None = None


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
        pair_weight: Weight beside it, while `cycle_pulls` is set, of the squared error a pixel of E_j(F_j(x) + r)
            against x, canonical images with a residual r of F_j.
        tie_margin: Scores nearer to the best than this part of `mean_margin` are ties; 0: the best score wins.
        winners: "best" for the competition; "fixed" gives each image to an expert drawn once and for all, whatever the
            scores: a baseline.
        diversity_weight: Weight of the mean squared difference a pixel between a winner's output and the other
            experts' of the same image, held constant, by which its loss is lowered; 0 for none.
        routing: Learns whom to ask, and says so once it is trusted; None: all experts are always asked.
        compiled: Whether experts without batch statistics score by a compiled pass (`torch.compile`).
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
        pair_weight: float = 0.0,
        tie_margin: float = 0.0,
        winners: Literal["best", "fixed"] = "best",
        diversity_weight: float = 0.0,
        routing: Routing | None = None,
        compiled: bool = False,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if routing is not None and routing.proposals > 0 and bank.uses_batch_statistics:
            raise ValueError("a router cannot choose among experts with batch statistics: each needs the whole batch")
        self.bank = bank
        self.discriminator = discriminator
        self.objective: Objective = objective
        self.loser_samples = loser_samples
        self.r1_gamma = r1_gamma
        self.forward = forward
        self.cycle_weight = cycle_weight
        self.pair_weight = pair_weight
        self.cycle_pulls = False
        self.tie_margin = tie_margin
        self.winners = winners
        self.diversity_weight = diversity_weight
        self.mean_margin = 0.0  # the winners' mean lead, over D's score of canonical images; 0 while ties are left
        self.usual_error = torch.zeros(len(bank))  # moving average of each expert's cycle error in ties; 0: none yet
        self.routing = routing
        self._apply = torch.compile(_apply) if compiled else _apply  # one graph serves all experts
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

    def _parts(self, expert: int) -> dict[str, nn.Module]:
        """An expert and its forward network, by the prefix of their weights in what `remember` gives."""
        parts: dict[str, nn.Module] = {"": self.bank[expert]}
        return parts if self.forward is None else parts | {"forward.": self.forward[expert]}

    def remember(self, expert: int) -> dict[str, Tensor]:
        """Returns copies of the weights of an expert and of its forward network, and of its usual error."""
        parts = self._parts(expert).items()
        kept = {prefix + key: value.clone() for prefix, part in parts for key, value in part.state_dict().items()}
        return kept | {"usual_error": self.usual_error[expert].clone()}

    def put_back(self, expert: int, kept: dict[str, Tensor]) -> None:
        """Makes an expert what `remember` found, and drops the optimiser's memory of it.

        A checkpoint may hold the expert's own weights alone, as they were kept at first; the rest then stays.
        """
        self.usual_error[expert] = kept.get("usual_error", self.usual_error[expert])
        for prefix, part in self._parts(expert).items():
            part.load_state_dict({key: kept.get(prefix + key, value) for key, value in part.state_dict().items()})
            for parameter in part.parameters():
                self.expert_optimizer.state.pop(parameter, None)

    def step(self, canonical: Tensor, transformed: Tensor, generator: Generator) -> StepRecord:
        """Does one update of the discriminator and of the winners.

        Args:
            canonical: Images from P, [n, c, h, w] in [0, 1]; or signals [n, c, t], or vectors [n, d].
            transformed: Images from the mixture Q, [m, c, h, w] in [0, 1]; of the same kind.
            generator: Where a sample of losers is drawn from.
        """
        stands_for = self.bank.competing.to(transformed.dtype)[:, None].repeat(1, len(transformed))
        if self.routing is not None and self.routing.proposals > 0:
            stands_for = self.routing.propose(transformed, len(self.bank), generator)
        asked = stands_for > 0
        outputs = self._transform(transformed, asked)
        logits = self._score(outputs, asked)
        d_loss, real_score = self._update_discriminator(canonical, outputs, logits, stands_for, generator)
        scores = logits.sigmoid() / max(real_score, 1e-6)
        winners = self._name_winners(transformed, outputs, scores, asked)
        check = None
        if self.routing is not None:
            if asked.all():
                check = self.routing.check(transformed, scores, winners)
            self.routing.learn(transformed, winners)
        e_loss, cycle_error = self._update_winners(canonical, transformed, outputs, winners)
        return StepRecord(logits.sigmoid(), winners, real_score, d_loss, e_loss, cycle_error, asked, check)

    def settle_router(self, transformed: Tensor, generator: Generator) -> None:
        """Teaches the router, if any, who wins images [n, c, h, w] once training is over (`Routing.settle`)."""
        if self.routing is not None:
            self.routing.settle(transformed, compete(self.bank, self.discriminator, transformed)[1], generator)

    def _transform(self, transformed: Tensor, asked: Tensor) -> list[Tensor]:
        """The outputs of the experts asked, zeros elsewhere; with the graph only where the winners' update needs it.

        Under batch normalisation an output depends on the whole batch, so the winners' gradient needs the
        graph of the full batch. Without it, the winners alone are transformed again.
        """
        self.bank.train()
        if self.bank.uses_batch_statistics:
            chosen = self.bank.competing.tolist()
            return [one(transformed) if each else torch.zeros_like(transformed) for one, each in zip(self.bank, chosen)]
        with torch.no_grad():
            if asked.all():
                return [self._apply(expert, transformed) for expert in self.bank]
            outputs = [torch.zeros_like(transformed) for _ in self.bank]
            for expert, output, chosen in zip(self.bank, outputs, asked):
                if chosen.any():
                    output[chosen] = expert(transformed[chosen])
            return outputs

    @torch.no_grad()
    def _score(self, outputs: list[Tensor], asked: Tensor) -> Tensor:
        """D's logits of the outputs, [N', n], a batch at a time; minus infinity for who was not asked."""
        logits = torch.full(asked.shape, -torch.inf, device=asked.device)
        packed = torch.stack(outputs)[asked]
        logits[asked] = torch.cat([self.discriminator(part) for part in packed.split(asked.shape[1])])
        return logits

    def _update_discriminator(
        self, canonical: Tensor, outputs: list[Tensor], logits: Tensor, stands_for: Tensor, generator: Generator
    ) -> tuple[float, float]:
        competing = self.bank.competing  # D has nothing to learn of the others
        outputs = [output for output, each in zip(outputs, competing.tolist()) if each]
        logits, stands_for = logits[competing], stands_for[competing]
        num_experts, n = logits.shape
        if self.loser_samples is not None and self.loser_samples < num_experts - 1:
            chosen, weights = choose_outputs(self.objective, logits, stands_for, self.loser_samples, generator)
            weights = weights[:, None]
        else:
            chosen = stands_for.topk(int((stands_for[:, 0] > 0).sum()), dim=0).indices
            weights = output_weights(self.objective, logits, stands_for).gather(0, chosen)
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
    def _name_winners(self, transformed: Tensor, outputs: list[Tensor], scores: Tensor, asked: Tensor) -> Tensor:
        """The best scores win; a tie goes to the expert whose cycle error is lowest beside what is usual for it.

        What counts is the comparative advantage: by the error itself, the better of two forward networks would win all.
        Scores are over D's of canonical images, [N', n].
        """
        if self.winners == "fixed":
            drawn = [crc32(image.numpy().tobytes()) % len(self.bank) for image in transformed.cpu()]
            return torch.tensor(drawn, device=scores.device)
        winners, gap = choose_winners(scores), self.tie_margin * self.mean_margin
        if self.forward is None or gap <= 0:
            return winners
        near = asked & (scores >= scores.max(dim=0).values - gap)
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
        self, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
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
            errors, of_pairs = [], []
            for j, mask in wins.items():
                restored, own = won[j] if self.cycle_pulls else won[j].detach(), transformed[mask]
                told = self.forward[j](restored)
                errors.append(F.mse_loss(told, own))
                if self.pair_weight > 0 and self.cycle_pulls:
                    of_pairs.append(self._pair_error(j, canonical[mask.nonzero()[:, 0] % len(canonical)], own - told))
            total = loss + self.cycle_weight * torch.stack(errors).sum()
            cycle_error = torch.stack(errors).mean().item()
            if of_pairs:
                total = total + self.pair_weight * torch.stack(of_pairs).sum()
        if self.diversity_weight > 0:
            others = torch.stack(outputs).detach()
            apart = [(each - others[:, wins[j]]).square().mean() for j, each in won.items()]  # from itself: 0
            total = total - self.diversity_weight * torch.stack(apart).sum()
        self.expert_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.expert_optimizer.step()
        return loss.item() / len(won), cycle_error

    def _pair_error(self, j: int, canonical: Tensor, residual: Tensor) -> Tensor:
        """Squared error a pixel of expert j on canonical images, of which its forward network makes transformed ones.

        The network gives the mean of what a mechanism with noise may do, so what it leaves of images that were won,
        the residual, is added. There are as many pairs as wins, too few for batch statistics: the running ones serve.
        """
        assert self.forward is not None
        with torch.no_grad():
            made = (self.forward[j](canonical) + residual).clamp(0, 1)
        expert, mode = self.bank[j], self.bank[j].training
        error = F.mse_loss(expert.eval()(made), canonical)
        expert.train(mode)
        return error


def _apply(expert: nn.Module, images: Tensor) -> Tensor:
    return expert(images)


@torch.no_grad()
def compete(
    bank: ExpertBank, discriminator: Discriminator, images: Tensor, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Lets trained experts compete for images, in evaluation mode.

    Args:
        bank: The experts.
        discriminator: D.
        images: [n, c, h, w] in [0, 1], or signals [n, c, t] or vectors [n, d], as D takes.
        batch_size: Images at a time.

    Returns:
        D's probabilities [N', n] and the winners, int64 [n].

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels and size.
    """
    check_images(images, "images", channels=discriminator.channels, dims=discriminator.dims)
    bank.eval()
    logits = torch.cat([score_matrix(bank, discriminator, b) for b in images.split(batch_size)], dim=1)
    return logits.sigmoid(), choose_winners(logits)
