"""Revival: an idle expert starts again as a copy of an overloaded one.

An expert that never wins never learns, so without help it stays dead while another owns two mechanisms; and two
experts that do the same work leave another mechanism without an owner. Both are idle: without them the winning
score would hardly fall (`Health.contribution`). The copy, a twin down to the optimiser's state but for a little
noise on the weights, and the overloaded expert then compete for its mechanisms and usually split them. Where
there is nothing to split (more experts than mechanisms) the copy does not help: each is on trial, undone when
the pair's winning score has fallen, the copy wins next to nothing or the two still do the same work, and an
expert is tried only so often.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from licm.competition import Competition
from licm.health import Health
from licm.seeding import generator


@dataclass(frozen=True)
class Trial:
    """A copy on trial.

    Attributes:
        revived: The expert that became a copy.
        donor: The expert it is a copy of.
        step: When.
        score_before: The donor's winning score then, relative to D's score of canonical images.
        former: What the revived expert was before, as `Competition.remember` gives it.
    """

    revived: int
    donor: int
    step: int
    score_before: float
    former: dict[str, Tensor]


@dataclass
class Revival:
    """The rule and its state: tries per expert and the trials under way."""

    num_experts: int
    seed: int
    every: int = 25
    idle_below: float = 0.25
    overloaded_above: float = 1.25
    noise: float = 0.02
    duplicate_margin: float = 0.05
    max_tries: int = 4
    trial_steps: int = 100
    tries: Tensor = field(init=False)
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tries = torch.zeros(self.num_experts, dtype=torch.int64)

    def given_up(self) -> Tensor:
        """Returns which experts have no try and no trial left, bool [N']."""
        given_up = self.tries >= self.max_tries
        for trial in self.trials:
            given_up[trial.revived] = False
        return given_up

    def has_work(self, health: Health, competing: Tensor) -> bool:
        """Whether a trial is under way, or would begin at the next look among those competing, bool [N']."""
        return bool(self.trials) or self._choose(health, competing) is not None

    def step(
        self,
        step: int,
        competition: Competition,
        health: Health,
        *,
        may_revive: bool,
    ) -> list[dict[str, Any]]:
        """Ends the trials that are due and begins at most one.

        Args:
            step: The number of steps done.
            competition: Its experts and their optimiser state are changed in place.
            health: Win shares and winning scores; changed where experts split or rejoin.
            may_revive: Whether new trials may begin.

        Returns:
            What happened, one record per event.
        """
        events = []
        for trial in [t for t in self.trials if step - t.step >= self.trial_steps]:
            self.trials.remove(trial)
            events.append(self._end(trial, competition, health))
        if may_revive and not events and step % self.every == 0:  # what was just put back first has to compete
            pair = self._choose(health, competition.bank.competing)
            if pair is not None:
                events.append(self._begin(step, *pair, competition, health))
        return events

    def _choose(self, health: Health, competing: Tensor) -> tuple[int, int] | None:
        """Returns the idlest expert with tries left and the most overloaded, neither on trial nor retired, or None."""
        share = health.win_share * int(competing.sum())
        busy = ~competing.cpu()
        for trial in self.trials:
            busy[[trial.revived, trial.donor]] = True
        idle = health.idle(self.idle_below, competing) & (self.tries < self.max_tries) & ~busy
        overloaded = (share > self.overloaded_above) & ~busy & ~idle
        if not (idle.any() and overloaded.any()):
            return None
        idlest = torch.where(idle, health.contribution, torch.inf).argmin()
        highest = torch.where(overloaded, share, -torch.inf).argmax()
        return int(idlest), int(highest)

    def _begin(
        self,
        step: int,
        revived: int,
        donor: int,
        competition: Competition,
        health: Health,
    ) -> dict[str, Any]:
        bank = competition.bank
        trial = Trial(revived, donor, step, health.winning_score[donor].item(), competition.remember(revived))
        self.trials.append(trial)
        self.tries[revived] += 1
        draws = generator(self.seed, "revival noise", step)
        competition.copy_expert(donor, revived)
        with torch.no_grad():
            for parameter in bank[revived].parameters():
                size = self.noise * parameter.square().mean().sqrt()
                parameter.add_(size * torch.randn(parameter.shape, generator=draws).to(parameter))
        health.win_share[[revived, donor]] = health.win_share[[revived, donor]].mean()
        health.winning_score[revived] = health.winning_score[donor]
        health.contribution[[revived, donor]] = health.contribution[[revived, donor]].mean()
        health.gaps[revived], health.gaps[:, revived] = health.gaps[donor], health.gaps[:, donor]
        health.silent[revived] = 0
        return {"event": "revived", "expert": revived, "donor": donor, "try": int(self.tries[revived])}

    def _end(self, trial: Trial, competition: Competition, health: Health) -> dict[str, Any]:
        pair = [trial.revived, trial.donor]
        share = health.win_share[pair]
        score_after = ((share * health.winning_score[pair]).sum() / share.sum().clamp(min=1e-12)).item()
        event: dict[str, Any] = {"expert": trial.revived, "donor": trial.donor}
        event |= {"score_before": trial.score_before, "score_after": score_after}
        dead = share[0] < 0.25 * share[1]
        same = health.are_duplicates(trial.revived, trial.donor, self.duplicate_margin)
        worse = score_after < trial.score_before - self.duplicate_margin  # who does two things well has little to gain
        if not (worse or dead or same):
            return {"event": "revival kept", **event}
        if share[0] > share[1]:  # the copy took over: what it learnt stays, as the donor
            competition.copy_expert(trial.revived, trial.donor)
        competition.put_back(trial.revived, trial.former)
        health.win_share[trial.donor] = share.sum()
        health.win_share[trial.revived] = 0.0
        health.contribution[trial.donor] = health.contribution[pair].sum()
        health.contribution[trial.revived] = 0.0
        return {"event": "revival undone", **event}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns what `restore` needs: plain values, and tensors by name."""
        trials = [
            {"revived": t.revived, "donor": t.donor, "step": t.step, "score_before": t.score_before}
            for t in self.trials
        ]
        tensors = {f"{t.revived}.{key}": value for t in self.trials for key, value in t.former.items()}
        return {"tries": self.tries.tolist(), "trials": trials}, tensors

    def restore(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Puts back what `state` returned."""
        self.tries = torch.tensor(values["tries"], dtype=torch.int64)
        self.trials = []
        for trial in values["trials"]:
            prefix = f"{trial['revived']}."
            former = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.trials.append(Trial(**trial, former=former))
