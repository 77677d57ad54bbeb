"""Retirement: experts that nobody would miss stop competing, which tells how many mechanisms there are.

With the number of mechanisms unknown, more experts than needed compete. Those to spare come to be dead or to do what
another does as well, and by the time the learning rate falls the rule takes them out, one by one: of the experts still
competing the one with the smallest mean lead where it wins, as long as that lead is a small part of the mean of all,
or, while pairs that do the same keep that low, of the margin of experts that are told apart. Without it its images go
to the next best, whose lead then grows, so of two that do the same one remains. What is left is the estimate of the
number of mechanisms. No label enters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from licm.competition import Competition, compete
from licm.health import HEALTHY_MARGIN

FEWEST_WINS = 0.05  # in units of an even share; who wins less is retired whatever its lead, as in `Health.idle`


@dataclass(frozen=True)
class Retired:
    """An expert that was found expendable.

    Attributes:
        expert: Which.
        successor: The expert that is next best most often where it won, or on all images if it won none.
        lead: Its mean lead where it won, in units of the mean lead of all winners, or of `HEALTHY_MARGIN` of their mean
            score where that is more.
    """

    expert: int
    successor: int
    lead: float


def expendable(scores: Tensor, *, below: float) -> list[Retired]:
    """Finds the experts without which the winning scores would hardly fall, in the order in which they go.

    Args:
        scores: D's probabilities for every expert's output, [N', n]; 0 for who does not compete.
        below: A mean lead, in the units of `Retired.lead`, below which an expert is expendable.

    >>> twins = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.89], [0.1, 0.88, 0.9]])
    >>> [(each.expert, each.successor) for each in expendable(twins, below=0.25)]
    [(2, 1)]
    """
    return list(_expendable(scores, below))


def _expendable(scores: Tensor, below: float) -> Iterator[Retired]:
    left = (scores > 0).any(dim=1).nonzero().flatten()
    while len(left) > 1:
        own = scores[left]
        best, winners = own.max(dim=0)
        rest = own.scatter(0, winners[None], -torch.inf)
        second, next_best = rest.max(dim=0)
        wins = torch.bincount(winners, minlength=len(left))
        lead = torch.zeros(len(left)).index_add_(0, winners, best - second) / wins.clamp(min=1)
        lead = lead / max((best - second).mean().item(), HEALTHY_MARGIN * best.mean().item(), 1e-12)
        few = wins * len(left) < FEWEST_WINS * own.shape[1]
        # First those that win too few images, fewest first; then by lead.
        least = int(torch.where(few, wins / own.shape[1] - 1, lead).argmin())
        if not few[least] and lead[least] >= below:
            return
        where = next_best[winners == least] if wins[least] else winners
        successor = int(torch.bincount(where, minlength=len(left)).argmax())
        yield Retired(int(left[least]), int(left[successor]), lead[least].item())
        left = left[left != left[least]]


def retire(competition: Competition, images: Tensor, *, below: float) -> list[Retired]:
    """Retires the expendable experts for good.

    Args:
        competition: Its bank and router are changed in place.
        images: Transformed images, [n, c, h, w] in [0, 1], by which they are found.
        below: See `expendable`.
    """
    scores, _ = compete(competition.bank, competition.discriminator, images)
    found = expendable(scores.cpu(), below=below)
    competition.bank.retire([each.expert for each in found])
    if competition.routing is not None:
        competition.routing.router.forget([each.expert for each in found])
    return found
