"""Label-free health: what can be said of a competition without knowing the mechanisms.

The discriminator's score of a perfect restoration is not 1/2 but depends on the objective and on how good the
losers look, so scores are read relative to D's score of canonical images.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from licm.competition import StepRecord

HEALTHY_MARGIN = 0.4
"""Winner margin from which experts count as told apart: necessary for all mechanisms to have one owner each, and not
sufficient (docs/ablation.md)."""

SILENT = 100
"""Who has won none of so many images an expert does not work: at a tenth of an even share, 1 in 22,000 by chance."""


class Diverged(ValueError):
    """A loss, or a weight, is not finite."""

    def __init__(self, step: int, what: str = "a loss") -> None:
        super().__init__(
            f"step {step}: {what} is not finite, so training has diverged; lower training.learning_rate. "
            "What was saved before is whole"
        )


@dataclass
class Health:
    """Moving averages over training batches, and for how long they have looked healthy.

    Attributes:
        win_share: Share of images each expert wins, [N'], sum 1.
        winning_score: Mean score of each expert's winning outputs over D's score of canonical images, [N'].
        contribution: How much the mean winning score would fall without each expert, over D's score of canonical
            images, [N']: the mean of its score minus the best of the others where it wins (negative where it won a
            tie with less), zero elsewhere. An expert that never wins contributes nothing, and neither does one of
            two that do the same.
        gaps: How far expert j is from doing expert i's work, [N', N']: the mean of i's score minus j's over the
            images i wins, over D's score of canonical images.
        silent: Images since each expert's last win, int64 [N']. The averages of one that dies at once fall so slowly
            that it would be taken for a working one for 150 steps.
        healthy_steps: Consecutive steps of health up to now.
    """

    win_share: Tensor
    winning_score: Tensor
    contribution: Tensor
    gaps: Tensor
    silent: Tensor
    healthy_steps: int = 0
    decay: float = 0.98

    @classmethod
    def start(cls, num_experts: int, competing: Tensor | None = None) -> "Health":
        """Returns the state before the first step: even shares of those competing (bool [N'], None: all), no scores."""
        zeros = torch.zeros(num_experts)
        gaps, silent = torch.zeros(num_experts, num_experts), torch.zeros(num_experts, dtype=torch.int64)
        among = _all_or(competing, num_experts)
        return cls(among / float(among.sum()), zeros, zeros.clone(), gaps, silent)

    @property
    def margin(self) -> float:
        """Mean lead of the winners over the best of the others, over D's score of canonical images."""
        return self.contribution.sum().item()

    def update(self, record: StepRecord) -> None:
        """Takes in one step."""
        scores, winners = record.scores.cpu() / max(record.real_score, 1e-6), record.winners.cpu()
        wins = torch.bincount(winners, minlength=len(scores)).float()
        best = scores.gather(0, winners[None])[0]
        self.silent = (self.silent + len(winners)) * (wins == 0)
        self.win_share = torch.lerp(wins / wins.sum(), self.win_share, self.decay)
        won_by = torch.nn.functional.one_hot(winners, len(scores)).float()
        mean_score = (scores @ won_by).diagonal() / wins.clamp(min=1)
        asked = record.asked.cpu().float()
        seen = (asked @ won_by).T  # [i, j]: images that i won and j was asked about
        lead = ((asked * (best - scores)) @ won_by).T / seen.clamp(min=1)  # i's score minus j's over these
        # An expert's score moves with the evidence: by its own wins, not by time.
        pull = 1 - self.decay ** (seen * len(scores) / wins.sum())
        self.winning_score = torch.lerp(self.winning_score, mean_score, pull.diagonal())
        self.gaps = torch.lerp(self.gaps, lead, pull)
        if len(scores) > 1:
            gap = best - scores.scatter(0, winners[None], -torch.inf).max(dim=0).values
            contribution = torch.zeros(len(scores)).index_add_(0, winners, gap) / len(winners)
            self.contribution = torch.lerp(contribution, self.contribution, self.decay)

    def idle(self, below: float, competing: Tensor | None = None) -> Tensor:
        """Returns which experts lead by less than `below` times the mean margin where they win, bool [N'].

        They are dead, or double another's work. What counts is the lead in an image won, not the number of images,
        so the rightful owner of a rare mechanism, whose lead is large, is not idle. An expert with less than twice
        that lead is idle too where it also wins so little that its contribution is below `below` of an even one:
        two that halve one mechanism. One that wins less than a twentieth of an even share is, whatever its lead.
        Retired experts are not idle, and shares are even among the others: those `competing`, bool [N'], None for all.
        """
        among = _all_or(competing, len(self.contribution))
        count = int(among.sum())
        if count == 1:
            return torch.zeros_like(among)
        lead = self.contribution / self.win_share.clamp(min=1e-12)
        weak = lead < below * self.margin
        halved = (lead < 2 * below * self.margin) & (self.contribution < below * self.margin / count)
        return among & (~self._working(among) | weak | halved)

    def are_duplicates(self, i: int, j: int, margin: float) -> bool:
        """Returns whether either expert could do the other's work at a cost in score below `margin`."""
        return bool(self.gaps[i, j] < margin and self.gaps[j, i] < margin)

    def duplicates(self, margin: float, competing: Tensor | None = None) -> list[tuple[int, int]]:
        """Returns the pairs i < j of working experts, among those competing, that are duplicates."""
        close, working = self.gaps < margin, self._working(_all_or(competing, len(self.gaps)))
        both = close & close.T & working & working[:, None]
        return [(i, j) for i, j in both.triu(diagonal=1).nonzero().tolist()]

    def _working(self, among: Tensor) -> Tensor:
        """Which experts win at least a twentieth of an even share, and have not fallen silent, bool [N']."""
        count = int(among.sum())
        return among & (self.win_share * count >= 0.05) & (self.silent < SILENT * count)

    def judge(
        self, *, given_up: Tensor, idle_below: float, overloaded_above: float, competing: Tensor | None = None
    ) -> bool:
        """Counts the step as healthy or not: told apart, no expert idle or overloaded.

        Args:
            given_up: bool [N'], experts that may stay idle because their tries are spent; while any of them is
                idle, overload is not held against the others.
            idle_below: See `idle`.
            overloaded_above: Win share in units of an even one above which an expert is overloaded.
            competing: Whom to judge, bool [N'], without the retired; None for all.
        """
        count = int(_all_or(competing, len(self.win_share)).sum())
        share = self.win_share * count
        idle = self.idle(idle_below, competing)
        alive = not bool((idle & ~given_up).any())
        even = bool((idle & given_up).any()) or bool((share <= overloaded_above).all())
        apart = self.margin >= HEALTHY_MARGIN or count == 1
        self.healthy_steps = self.healthy_steps + 1 if alive and even and apart else 0
        return self.healthy_steps > 0

    def state(self) -> dict[str, Any]:
        """Returns what `restore` needs, as plain numbers and lists (floats survive JSON exactly)."""
        return {
            "win_share": self.win_share.tolist(),
            "winning_score": self.winning_score.tolist(),
            "contribution": self.contribution.tolist(),
            "gaps": self.gaps.tolist(),
            "silent": self.silent.tolist(),
            "healthy_steps": self.healthy_steps,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Health":
        """Returns the health that `state` was taken from; in one of an earlier version nobody is silent."""
        none = [0] * len(state["win_share"])
        return cls(
            win_share=torch.tensor(state["win_share"]),
            winning_score=torch.tensor(state["winning_score"]),
            contribution=torch.tensor(state["contribution"]),
            gaps=torch.tensor(state["gaps"]),
            silent=torch.tensor(state.get("silent", none)),
            healthy_steps=state["healthy_steps"],
        )


def _all_or(competing: Tensor | None, num_experts: int) -> Tensor:
    """Returns who competes, bool [N'] on the CPU; None stands for all."""
    return torch.ones(num_experts, dtype=torch.bool) if competing is None else competing.cpu()
