"""The router: whom it proposes, what stands for the others, and when it is trusted."""

import pytest
import torch

from licm import checkpoint as files
from licm.competition import Competition
from licm.config import make_config
from licm.routing import Router, Routing
from licm.run import build_run, restore_images
from licm.saving import load_run, save_run
from licm.seeding import generator
from licm.training import train
from tests.problems import bars, small_competition


def make_routing(num_experts: int = 5, **settings) -> Routing:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Routing(Router(channels=1, num_experts=num_experts), **settings)


def routed_competition(num_experts: int = 5, **settings) -> Competition:
    competition = small_competition(
        num_experts=num_experts, normalization="layer", objective="score_weighted", loser_samples=1, r1_gamma=1.0
    )
    competition.routing = make_routing(num_experts, **settings)
    return competition


def step(competition: Competition, number: int = 0):
    images = torch.cat([1 - bars(8, seed=number), bars(8, seed=number + 1).roll(2, dims=-1)])
    return competition.step(bars(16, seed=number), images, generator(0, "losers", number))


@pytest.mark.parametrize("size", [(28, 28), (9, 40), (3, 3)])
def test_logits_for_images_of_any_size(size):
    assert Router(channels=3, num_experts=7)(torch.rand(4, 3, *size)).shape == (4, 7)


def test_proposals_and_one_from_outside_that_stands_for_all_others():
    routing = make_routing(proposals=2)
    routing.agreement = 1.0
    images = bars(3000)
    stands_for = routing.propose(images, 5, generator(0, "test"))
    best = routing.router(images).topk(2, dim=1).indices.T
    assert (stands_for.gather(0, best) == 1).all()
    assert (stands_for.sum(dim=0) == 5).all()
    assert ((stands_for > 0).sum(dim=0) == 3).all()
    drawn = torch.bincount((stands_for == 3).int().argmax(dim=0), minlength=5)
    possible = torch.stack([(best != expert).all(dim=0).sum() for expert in range(5)]) / 3
    assert ((drawn - possible).abs() < 6 * possible.sqrt() + 1).all(), "each of the others as often as another"


@pytest.mark.parametrize(
    ("proposals", "agreement", "exact"), [(0, 1.0, True), (2, 0.5, True), (2, 0.98, False), (4, 1.0, True)]
)
def test_the_competition_is_exact_until_the_router_is_trusted(proposals, agreement, exact):
    competition = routed_competition(proposals=proposals)
    competition.routing.agreement = agreement
    record = step(competition)
    assert bool(record.asked.all()) == exact
    assert (record.router_check is not None) == (exact and proposals > 0)
    assert record.asked.gather(0, record.winners[None]).all(), "who was not asked cannot win"
    assert (record.scores[~record.asked] == 0).all()


def test_a_trusted_router_is_checked_at_its_interval():
    competition = routed_competition(proposals=2, check_every=3, trusted_from=0.0)
    exact = [bool(step(competition, number).asked.all()) for number in range(9)]
    assert exact == [False, False, False, True, False, False, False, True, False]


def test_a_check_is_the_share_of_winners_proposed_and_the_score_lost():
    routing = make_routing(3, proposals=1)
    with torch.no_grad():
        routing.router.logits.weight.zero_()
        routing.router.logits.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # always proposes expert 1
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.5, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    check = routing.check(bars(4), scores, torch.tensor([0, 1, 1, 1]))
    assert check.agreement == 0.75
    assert check.regret == pytest.approx((0.9 - 0.5) / 4)
    assert routing.agreement == pytest.approx(0.1 * 0.75)


def test_the_router_learns_whom_images_go_to():
    routing = make_routing(2, learning_rate=1e-2)
    for number in range(60):
        images = torch.cat([1 - bars(8, seed=number), bars(8, seed=100 + number)])
        routing.learn(images, torch.arange(16) // 8)
    images = torch.cat([1 - bars(20, seed=999), bars(20, seed=1000)])
    assert routing.router(images).argmax(dim=1).tolist() == [0] * 20 + [1] * 20


def test_asking_all_through_the_router_changes_nothing():
    """A routed competition that asks everyone takes the step of one without a router."""
    routed, plain = routed_competition(proposals=4, trusted_from=0.0), routed_competition()
    for number in range(3):
        assert step(routed, number).winners.equal(step(plain, number).winners)
    for one, other in zip(routed.bank.parameters(), plain.bank.parameters()):
        assert torch.equal(one, other)


def test_what_is_not_asked_is_not_computed(monkeypatch):
    competition = routed_competition(proposals=1, trusted_from=0.0)
    seen = 0
    for expert in competition.bank:
        forward = expert.forward

        def counted(images, forward=forward):
            nonlocal seen
            seen += len(images)
            return forward(images)

        monkeypatch.setattr(expert, "forward", counted)
    step(competition)
    assert seen == 2 * 16 + 16  # one proposed, one from outside; then the winners, for their update


def test_experts_with_batch_statistics_cannot_be_routed():
    competition = small_competition(normalization="batch")
    with pytest.raises(ValueError, match="a router cannot choose among experts with batch statistics"):
        Competition(competition.bank, competition.discriminator, routing=make_routing(3, proposals=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"experts.normalization": "batch"},
            "router.proposals needs experts.normalization 'frozen': 'batch' takes the whole batch",
        ),
        ({"router.enabled": False}, "router.proposals needs router.enabled"),
    ],
)
def test_settings_that_do_not_go_with_proposals(settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(overrides={"router.proposals": 3, **settings})


def test_at_the_end_the_router_learns_who_wins_as_images_are_restored(tmp_path, monkeypatch, small_config):
    taught = []
    monkeypatch.setattr(Routing, "settle", lambda self, images, winners, draws: taught.append((images, winners)))
    run = train(small_config, tmp_path / "run")
    ((images, winners),) = taught
    assert winners.equal(restore_images(run, images)[1]), "not by batch statistics, nor by who settled ties"


def test_a_router_that_was_taught_otherwise_settles():
    routing, images = make_routing(2, learning_rate=1e-2), torch.cat([1 - bars(320), bars(320, seed=1)])
    winners = torch.arange(640) // 320
    for _ in range(20):
        routing.learn(images, 1 - winners)
    assert (routing.router(images).argmax(dim=1) == winners).float().mean() < 0.1
    routing.settle(images, winners, generator(0, "router"))
    assert (routing.router(images).argmax(dim=1) == winners).float().mean() > 0.95


def test_a_saved_router_goes_on_as_it_would_have(tmp_path):
    overrides = {"num_experts": 3, "router.proposals": 1, "router.trusted_from": 0.0, "experts.width": 4}
    overrides["experts.normalization"] = "layer"
    run = build_run(make_config(overrides=overrides), channels=1, image_size=12)
    files.create_run(tmp_path / "run", run.config)
    step(run.competition)
    save_run(run, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    for competition in (run.competition, loaded.competition):
        step(competition, 1)
    assert loaded.competition.routing.since_check == run.competition.routing.since_check == 2
    for one, other in zip(loaded.competition.routing.router.parameters(), run.competition.routing.router.parameters()):
        assert torch.equal(one, other)


def test_restoring_by_the_router_asks_one_expert_an_image():
    run = build_run(make_config(overrides={"num_experts": 3, "experts.width": 4}), channels=1, image_size=12)
    images = bars(5)
    scores, winners, restored = restore_images(run, images, routed=True)
    assert winners.equal(run.competition.routing.router(images).argmax(dim=1))
    assert torch.equal(restored, run.experts.restore(images, winners))
    exact, *_ = restore_images(run, images)
    assert torch.allclose(scores.gather(0, winners[None]), exact.gather(0, winners[None]), atol=1e-6)
    assert ((scores > 0).sum(dim=0) == 1).all()


def test_restoring_by_a_router_that_is_not_there():
    run = build_run(make_config(overrides={"router.enabled": False}), channels=1, image_size=12)
    with pytest.raises(ValueError, match=r"this run has no router: train one with router.enabled"):
        restore_images(run, bars(2), routed=True)
