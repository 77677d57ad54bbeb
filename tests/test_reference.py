"""The step against the obvious one: the same losses, winners and gradients, with the estimators off."""

import pytest
import torch
from benchmarks.reference import Reference

from licm.seeding import generator
from tests.problems import bars, small_competition

MARGIN = 1e-4  # of logits: below it rounding may name another winner


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    """As left by the last backward pass; None is kept as an empty tensor."""
    return [torch.empty(0) if p.grad is None else p.grad.clone() for p in module.parameters()]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("normalization", ["frozen", "batch", "layer", "none"])
@pytest.mark.parametrize(
    ("objective", "gamma", "cycle_weight", "cycle_pulls", "tie_margin", "pair_weight"),
    [
        ("all_experts", 0.0, 0.0, False, 0.0, 0.0),
        ("winner_weighted", 1.0, 0.0, False, 0.0, 0.0),
        ("score_weighted", 1.0, 5.0, False, 0.0, 0.0),
        ("score_weighted", 1.0, 5.0, True, 0.0, 0.0),
        ("score_weighted", 1.0, 5.0, True, 0.5, 0.0),
        ("score_weighted", 1.0, 5.0, True, 0.0, 20.0),
    ],
)
def test_a_step_gives_the_losses_winners_and_gradients_of_the_obvious_one(
    monkeypatch, normalization, objective, gamma, cycle_weight, cycle_pulls, tie_margin, pair_weight
):
    competition = small_competition(
        normalization=normalization,
        objective=objective,
        r1_gamma=gamma,
        cycle_weight=cycle_weight,
        tie_margin=tie_margin,
        pair_weight=pair_weight,
    )
    competition.cycle_pulls, competition.mean_margin = cycle_pulls, 1.0
    competition.set_learning_rate_factor(10)
    for step in range(10):  # away from the start, where all experts are alike
        competition.step(bars(16, seed=step), 1 - bars(16, seed=50 + step), generator(0, "losers", step))
    competition.set_learning_rate_factor(1)
    for optimizer in (competition.expert_optimizer, competition.discriminator_optimizer):
        optimizer.state.clear()  # the reference's optimisers start anew too
    reference = Reference(competition)
    canonical, transformed = bars(16, seed=100), torch.cat([1 - bars(8, seed=101), bars(8, seed=102).roll(2, dims=-1)])

    seen = {}
    update = reference.update_discriminator

    def remembered(*arguments):
        loss = update(*arguments)
        seen["discriminator"] = gradients(reference.discriminator)  # before the experts' passes add to them
        return loss

    monkeypatch.setattr(reference, "update_discriminator", remembered)
    theirs = reference.step(canonical, transformed)
    ours = competition.step(canonical, transformed, generator(0, "losers"))

    best = theirs.logits.topk(2, dim=0).values
    clear = best[0] - best[1] > MARGIN
    assert clear.any()
    assert torch.equal(ours.winners[clear], theirs.winners[clear])
    assert torch.equal(theirs.winners, theirs.logits.argmax(dim=0)) != (tie_margin > 0), "there are ties to settle"
    assert clear.all(), "choose other images: the gradients below are of the same winners"
    assert ours.discriminator_loss == pytest.approx(theirs.discriminator_loss, rel=1e-5)
    assert ours.expert_loss == pytest.approx(theirs.expert_loss, rel=1e-5)
    assert ours.cycle_error == (None if theirs.cycle_error is None else pytest.approx(theirs.cycle_error, rel=1e-5))
    assert_close(gradients(competition.discriminator), seen["discriminator"])
    for ours_of, theirs_of in (
        *zip(competition.bank, reference.experts),
        *zip(competition.forward or [], reference.forward),
    ):
        assert_close(gradients(ours_of), gradients(theirs_of))


def test_the_comparison_catches_a_wrong_weight(monkeypatch):
    competition = small_competition(objective="winner_weighted")
    reference = Reference(competition)
    monkeypatch.setattr(reference, "weights", lambda logits: torch.full_like(logits, 1 / 3))
    theirs = reference.step(bars(8), 1 - bars(8, seed=1))
    ours = competition.step(bars(8), 1 - bars(8, seed=1), generator(0, "losers"))
    assert ours.discriminator_loss != pytest.approx(theirs.discriminator_loss, rel=1e-5)
