"""Label-free health and the revival rule."""

import json

import pytest
import torch

from licm.competition import Competition, StepRecord
from licm.health import HEALTHY_MARGIN, Health
from licm.revival import Revival
from licm.seeding import generator
from tests.problems import small_competition


def record(winners: list[int], num_experts: int, *, best: float = 0.6, other: float = 0.2, real: float = 0.8):
    scores = torch.full((num_experts, len(winners)), other)
    scores[winners, range(len(winners))] = best
    return StepRecord(scores, torch.tensor(winners), real, 0.0, 0.0, None, scores > -1)


def settle(health: Health, winners: list[int], num_experts: int, steps: int = 400, **scores: float) -> None:
    for _ in range(steps):
        health.update(record(winners, num_experts, **scores))


def everyone(health: Health) -> torch.Tensor:
    return torch.ones(len(health.win_share), dtype=torch.bool)


def judge(health: Health, given_up: list[bool] | None = None) -> bool:
    flags = torch.tensor(given_up or [False] * len(health.win_share))
    return health.judge(given_up=flags, idle_below=0.25, overloaded_above=1.4)


def test_averages_settle_on_what_the_batches_say():
    health = Health.start(3)
    settle(health, [0, 0, 0, 1], 3)
    assert health.win_share.tolist() == pytest.approx([0.75, 0.25, 0.0], abs=1e-3)
    assert health.winning_score.tolist() == pytest.approx([0.75, 0.75, 0.0], abs=1e-2)  # 0.6 / 0.8
    assert health.margin == pytest.approx(0.5, abs=1e-3)  # (0.6 - 0.2) / 0.8
    assert health.contribution.tolist() == pytest.approx([0.375, 0.125, 0.0], abs=1e-3)


def test_an_expert_that_dies_at_once_is_idle_within_a_hundred_even_shares_of_images():
    health = Health.start(4)
    settle(health, [0, 1, 2, 3] * 8, 4)
    assert not health.idle(0.25).any()
    settle(health, [0, 1, 2, 0] * 8, 4, steps=12)  # 384 images
    assert not health.idle(0.25).any()
    settle(health, [0, 1, 2, 0] * 8, 4, steps=1)
    assert health.idle(0.25).tolist() == [False, False, False, True]
    assert health.win_share[3] * 4 > 0.7, "the average alone would not tell"
    assert Health.restore(json.loads(json.dumps(health.state()))).idle(0.25).tolist() == health.idle(0.25).tolist()
    settle(health, [0, 1, 2, 3] * 8, 4, steps=1)
    assert not health.idle(0.25).any()


def test_contribution_is_what_the_mean_winning_score_would_lose():
    """Against its definition: the mean winning score with all experts, less that without one."""
    scores = torch.rand(4, 50, generator=generator(0, "scores"))
    health = Health.start(4)
    for _ in range(600):
        health.update(StepRecord(scores, scores.argmax(dim=0), 0.5, 0.0, 0.0, None, scores > -1))
    for expert in range(4):
        without = torch.cat([scores[:expert], scores[expert + 1 :]])
        loss = (scores.max(dim=0).values - without.max(dim=0).values).mean() / 0.5
        assert health.contribution[expert].item() == pytest.approx(loss.item(), abs=1e-4)


def test_gaps_are_the_mean_leads_over_each_experts_own_images():
    scores = torch.rand(3, 40, generator=generator(0, "scores"))
    winners = scores.argmax(dim=0)
    health = Health.start(3)
    for _ in range(3000):
        health.update(StepRecord(scores, winners, 0.5, 0.0, 0.0, None, scores > -1))
    for i in range(3):
        leads = (scores[i] - scores)[:, winners == i].mean(dim=1) / 0.5
        assert health.gaps[i].tolist() == pytest.approx(leads.tolist(), abs=1e-4)


def test_doubles_are_idle_and_the_rightful_owner_of_a_rare_mechanism_is_not():
    scores = torch.full((4, 20), 0.1)
    scores[0, :16] = scores[1, :16] = 0.6  # two for the same sixteen images
    scores[1, :8] += 0.01
    scores[0, 8:16] += 0.01
    scores[2, 16:19] = 0.6
    scores[3, 19] = 0.6  # a twentieth of the images, but nobody else could do them
    health = Health.start(4)
    for _ in range(400):
        health.update(StepRecord(scores, scores.argmax(dim=0), 0.8, 0.0, 0.0, None, scores > -1))
    assert health.idle(0.25).tolist() == [True, True, False, False]


@pytest.mark.parametrize("counts", [[10, 1], [8] * 8 + [15, 1]])
def test_perfect_owners_of_an_unequal_mixture_are_left_alone(counts):
    """As many experts as mechanisms, frequencies up to fifteen to one: overload alone revives nobody."""
    winners = [expert for expert, count in enumerate(counts) for _ in range(count)]
    health, revival = Health.start(len(counts)), Revival(len(counts), 0)
    settle(health, winners, len(counts), steps=600)
    assert not health.idle(0.25).any()
    assert revival._choose(health, everyone(health)) is None


def test_an_expert_that_never_wins_is_idle_whatever_it_once_led_by():
    health = Health.start(3)
    settle(health, [0, 1, 2], 3, steps=200)
    settle(health, [0, 1], 3, steps=250)
    assert health.idle(0.25).tolist() == [False, False, True]


def test_health_needs_margin_and_every_expert_at_work_and_none_overloaded():
    even, uneven = [0, 0, 1, 1], [0, 0, 0, 1]
    health = Health.start(2)
    settle(health, even, 2)
    assert judge(health)
    assert health.healthy_steps == 1
    assert judge(health)
    assert health.healthy_steps == 2
    settle(health, uneven, 2)  # 1.5 times an even share
    assert not judge(health)
    assert health.healthy_steps == 0
    assert not judge(health, [False, True]), "an expert that has spent its tries and works makes no allowance"
    settle(health, [0, 0, 0, 0], 2)
    assert not judge(health)
    assert judge(health, [False, True]), "with an expert given up, overload is not held against the others"
    narrow = Health.start(2)
    settle(narrow, even, 2, best=0.6, other=0.6 - 0.8 * HEALTHY_MARGIN * 0.9)
    assert not judge(narrow)


def test_a_single_expert_is_never_idle():
    health = Health.start(1)
    settle(health, [0, 0], 1, steps=3)
    assert judge(health)


def test_health_survives_json():
    health = Health.start(3)
    settle(health, [0, 1, 2, 2], 3, steps=7)
    judge(health)
    again = Health.restore(json.loads(json.dumps(health.state())))
    assert again.state() == health.state()
    assert torch.equal(again.contribution, health.contribution)


def weights(competition: Competition, expert: int) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in competition.bank[expert].state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def begun(*, num_experts: int = 3) -> tuple[Revival, Competition, Health, dict[str, torch.Tensor]]:
    """A trial of expert 2 as a copy of expert 0, begun at step 25."""
    revival, competition = Revival(num_experts, 0, trial_steps=100), small_competition(num_experts=num_experts)
    health = Health.start(num_experts)
    settle(health, [0, 0, 0, 1, 1], num_experts)
    former = weights(competition, 2)
    events = revival.step(25, competition, health, may_revive=True)
    assert events == [{"event": "revived", "expert": 2, "donor": 0, "try": 1}]
    return revival, competition, health, former


def test_an_idle_expert_becomes_a_noisy_copy_of_the_most_overloaded():
    _, competition, health, former = begun()
    copy, donor = weights(competition, 2), weights(competition, 0)
    assert not equal(copy, former)
    assert not equal(copy, donor)
    distance = (copy["last.weight"] - donor["last.weight"]).square().mean().sqrt()
    assert distance / donor["last.weight"].square().mean().sqrt() == pytest.approx(0.02, rel=0.5)
    assert health.win_share[0] == health.win_share[2] == pytest.approx(0.3, abs=1e-2)


def test_the_copy_is_a_twin_down_to_the_optimisers_state():
    revival, competition = Revival(3, 0), small_competition()
    for parameter in competition.bank.parameters():
        parameter.grad = torch.randn_like(parameter)
    competition.expert_optimizer.step()
    health = Health.start(3)
    settle(health, [0, 0, 0, 1, 1], 3)
    revival.step(25, competition, health, may_revive=True)
    state = competition.expert_optimizer.state
    for copy, donor in zip(competition.bank[2].parameters(), competition.bank[0].parameters()):
        assert all(torch.equal(state[copy][name], state[donor][name]) for name in ("exp_avg", "exp_avg_sq", "step"))
        assert state[copy]["exp_avg"].data_ptr() != state[donor]["exp_avg"].data_ptr()


@pytest.mark.parametrize(("step", "may_revive"), [(24, True), (25, False)])
def test_no_revival_between_looks_or_when_it_is_over(step, may_revive):
    revival, competition, health = Revival(3, 0), small_competition(), Health.start(3)
    settle(health, [0, 0, 0, 1, 1], 3)
    assert revival.step(step, competition, health, may_revive=may_revive) == []


def test_no_revival_without_an_overloaded_expert():
    revival, competition, health = Revival(3, 0), small_competition(), Health.start(3)
    settle(health, [0, 1], 3)  # one idle, and each other has 1.5 of even: overloaded, so a pair exists
    assert revival._choose(health, everyone(health)) is not None
    revival.overloaded_above = 1.6
    assert revival.step(25, competition, health, may_revive=True) == []


def test_a_copy_is_kept_when_the_winning_score_rose():
    revival, competition, health, _ = begun()
    settle(health, [0, 2, 1], 3, best=0.7)
    copy = weights(competition, 2)
    assert revival.step(124, competition, health, may_revive=False) == []
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival kept"
    assert event["score_after"] > event["score_before"]
    assert equal(weights(competition, 2), copy)
    assert not revival.trials


def test_a_copy_is_kept_when_the_winning_score_fell_by_little():
    """A donor that did two mechanisms well has little to gain, and scores move with the discriminator."""
    revival, competition, health, _ = begun()
    settle(health, [0, 2, 1], 3, best=0.57)
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival kept"
    assert event["score_before"] - 0.05 < event["score_after"] < event["score_before"]


def test_a_copy_is_undone_when_the_winning_score_fell():
    revival, competition, health, former = begun()
    settle(health, [0, 0, 2, 1, 1], 3, best=0.4)
    donor = weights(competition, 0)
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival undone"
    assert equal(weights(competition, 2), former)
    assert equal(weights(competition, 0), donor)
    assert health.win_share.tolist() == pytest.approx([0.6, 0.4, 0.0], abs=1e-2)


def test_what_is_undone_is_the_forward_network_and_the_usual_error_too():
    """They settle ties and make pairs: with the donor's, the expert would go on as half of another."""
    revival, competition, health = Revival(3, 0), small_competition(cycle_weight=1.0), Health.start(3)
    settle(health, [0, 0, 0, 1, 1], 3)
    competition.usual_error = torch.tensor([0.5, 0.3, 0.2])
    before = {key: value.clone() for key, value in competition.forward[2].state_dict().items()}
    revival.step(25, competition, health, may_revive=True)
    assert not equal(competition.forward[2].state_dict(), before)
    settle(health, [0, 0, 2, 1, 1], 3, best=0.4)
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival undone"
    assert equal(competition.forward[2].state_dict(), before)
    assert competition.usual_error.tolist() == pytest.approx([0.5, 0.3, 0.2])


def test_a_copy_that_is_dead_again_is_undone_though_the_score_rose():
    revival, competition, health, former = begun()
    settle(health, [0, 0, 1], 3, best=0.7)
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival undone"
    assert event["score_after"] > event["score_before"]
    assert equal(weights(competition, 2), former)


def test_a_copy_that_still_does_the_donors_work_is_undone_though_the_score_rose():
    revival, competition, health, former = begun()
    scores = torch.full((3, 6), 0.2)
    scores[0, :4] = scores[2, :4] = 0.7  # the pair on the same four images, two won by each
    scores[0, :2] += 0.02
    scores[2, 2:4] += 0.02
    scores[1, 4:] = 0.7
    for _ in range(400):
        health.update(StepRecord(scores, scores.argmax(dim=0), 0.8, 0.0, 0.0, None, scores > -1))
    assert health.are_duplicates(0, 2, 0.1)
    assert not health.are_duplicates(0, 1, 0.1)
    (event,) = revival.step(125, competition, health, may_revive=False)
    assert event["event"] == "revival undone"
    assert event["score_after"] > event["score_before"]
    assert equal(weights(competition, 2), former)


def test_a_copy_that_took_over_leaves_its_weights_to_the_donor():
    revival, competition, health, former = begun()
    settle(health, [2, 2, 0, 1, 1], 3, best=0.5)
    copy = weights(competition, 2)
    revival.step(125, competition, health, may_revive=False)
    assert equal(weights(competition, 0), copy)
    assert equal(weights(competition, 2), former)


def test_tries_are_limited_and_then_the_expert_is_given_up():
    revival, competition, health, _ = begun()
    revival.max_tries = 2
    seen = []
    for step in range(50, 401, 25):
        settle(health, [0, 0, 0, 1, 1], 3, steps=100, best=0.5)
        seen += [(step, e["event"]) for e in revival.step(step, competition, health, may_revive=True)]
    # What was just put back competes for one interval before it may be tried again.
    assert seen == [(125, "revival undone"), (150, "revived"), (250, "revival undone")]
    assert revival.tries.tolist() == [0, 0, 2]
    assert revival.given_up().tolist() == [False, False, True]


def test_state_survives_a_save():
    revival, _competition, _health, _former = begun()
    values, tensors = revival.state()
    again = Revival(3, 0, trial_steps=100)
    again.restore(json.loads(json.dumps(values)), tensors)
    assert again.tries.tolist() == revival.tries.tolist()
    assert [(t.revived, t.donor, t.step, t.score_before) for t in again.trials] == [
        (t.revived, t.donor, t.step, t.score_before) for t in revival.trials
    ]
    assert equal(again.trials[0].former, revival.trials[0].former)
