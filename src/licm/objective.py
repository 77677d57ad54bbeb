"""The discriminator's objective: whose outputs count how much, drawn samples of them, the loss and its penalty."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Objective = Literal["all_experts", "winner_weighted", "score_weighted"]


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


def attention(objective: Objective, logits: Tensor, stands_for: Tensor) -> Tensor:
    """Returns whose output D looks at harder: the winner's or, under (3''), each in proportion to its odds.

    The odds of a score p are p / (1 - p), so the shares are the softmax of the logits: one for a clear winner, and
    even between experts that do the same work. Under (3') two such experts were seen to take turns for ever, likely
    because D turns on whichever wins; under (3'') winning by a hair changes nothing (docs/ablation.md).

    Args:
        objective: "score_weighted" for (3''), else the winner.
        logits: D's logits, [N', n], as for `output_weights`.
        stands_for: [N', n], as for `output_weights`.

    Returns:
        [N', n], each column of sum 1.
    """
    if objective == "score_weighted":
        return (logits + stands_for.log()).softmax(dim=0)
    return F.one_hot(choose_winners(logits), len(logits)).T.to(logits.dtype)


def attended_share(objective: Objective, num_experts: int) -> float:
    """Returns the weight in D's objective of the output attended to: 1/N' under (3), half under (3') and (3'')."""
    return 1 / num_experts if objective == "all_experts" or num_experts == 1 else 0.5


def output_weights(objective: Objective, logits: Tensor, stands_for: Tensor | None = None) -> Tensor:
    """Returns the weight w_j of every expert's output in D's objective, [N', n], each column of sum 1.

    With attention a and its share s, w_j = s a_j + (1 - s) (1 - a_j) / (N' - 1): the output attended to, and the
    others evenly. For (3), s = 1/N' makes it 1/N' whatever a.

    Args:
        objective: See `attention`.
        logits: D's logits, [N', n]; minus infinity for an output that was not scored.
        stands_for: [N', n], how many experts each output stands for: 1, or more for one drawn evenly from several, of
            which the rest are 0. None for all 1. Under (3) a weight is then 1/N' times this number.

    >>> output_weights("winner_weighted", torch.tensor([[0.0], [2.0], [0.0]])).flatten().tolist()
    [0.25, 0.5, 0.25]
    """
    num_experts = len(logits)
    stands_for = torch.ones_like(logits) if stands_for is None else stands_for
    share, attended = attended_share(objective, num_experts), attention(objective, logits, stands_for)
    return share * attended + (1 - share) * (stands_for - attended) / max(num_experts - 1, 1)


def choose_outputs(
    objective: Objective, logits: Tensor, stands_for: Tensor, others: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draws which experts' outputs D learns from, with weights whose mean over draws is `output_weights`.

    Args:
        objective: See `attention`.
        logits: D's logits, [N', n], as for `output_weights`.
        stands_for: [N', n], as for `output_weights`.
        others: How many outputs per image beside the one drawn by attention, at most N' - 1. They are drawn evenly
            from the others, without replacement where all outputs are at hand, and share the others' whole weight.
        generator: Where they are drawn from.

    Returns:
        The chosen experts, int64 [1 + others, n] with the one attended to first, and their weights, float [1 + others],
        of sum 1.
    """
    share = attended_share(objective, len(logits))
    attended = draw_attended(attention(objective, logits, stands_for), generator)
    if (stands_for == 1).all():
        order = torch.rand(len(logits) - 1, logits.shape[1], generator=generator).argsort(dim=0)[:others]
        drawn = order.to(attended.device)
        drawn = drawn + (drawn >= attended).long()  # skips the one attended to
    else:
        rest = stands_for.scatter_add(0, attended[None], -torch.ones_like(stands_for[:1]))
        drawn = torch.multinomial(rest.T.cpu(), others, replacement=True, generator=generator).T.to(attended.device)
    weights = [share] + [(1 - share) / others] * others
    return torch.cat([attended[None], drawn]), logits.new_tensor(weights)


def draw_attended(probabilities: Tensor, generator: Generator) -> Tensor:
    """Draws one expert for each image, with the probabilities in its column of [N', n]: int64 [n]."""
    bounds = probabilities.cumsum(dim=0)
    point = torch.rand(probabilities.shape[1], generator=generator).to(probabilities)
    return (bounds[:-1] <= point * bounds[-1]).sum(dim=0)  # below the last bound, however it is rounded


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
