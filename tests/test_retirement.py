"""Experts that nobody would miss stop competing; what is left tells the number of mechanisms."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from licm import checkpoint as files
from licm.assignments import ASSIGNMENTS
from licm.competition import StepRecord, compete
from licm.config import make_config
from licm.datasets import to_bytes
from licm.evaluation import evaluate
from licm.full_size import mean_scores
from licm.health import Health
from licm.restoring import restore_files
from licm.retirement import expendable, retire
from licm.revival import Revival
from licm.routing import Router, Routing
from licm.run import restore_images, route_images, start_cycle
from licm.saving import load_run
from licm.seeding import generator
from licm.training import train
from tests.problems import bars, small_competition
from tests.test_spare_experts import MECHANISMS, data

SPARE = {
    **{"num_experts": 4, "mechanisms": MECHANISMS, "steps": 400, "batch_size": 16, "revival.retire": True},
    **{"experts.width": 6, "experts.depth": 3, "discriminator.widths": [8, 16], "discriminator.hidden": 32},
    **{"identity.max_steps": 150, "revival.trial_steps": 50, "training.validate_every": 50},
    "experts.normalization": "layer",  # others leave two to share (docs/ablation.md)
}


def scores(*rows):
    return torch.tensor(rows)


def test_of_three_that_do_the_same_one_is_left():
    own = scores([0.9, 0.9, 0.1], [0.89, 0.88, 0.1], [0.88, 0.89, 0.1], [0.1, 0.1, 0.8])
    assert {each.expert for each in expendable(own, below=0.25)} == {1, 2}


def test_two_that_halve_a_mechanism_are_not_both_retired():
    own = scores([0.9, 0.89, 0.1], [0.89, 0.9, 0.1], [0.1, 0.1, 0.8])
    gone = expendable(own, below=0.25)
    assert len(gone) == 1
    assert {gone[0].expert, gone[0].successor} == {0, 1}


def test_the_owner_of_a_rare_mechanism_stays():
    own = torch.full((2, 100), 0.1)
    own[0, :95], own[1, 95:] = 0.9, 0.9
    assert expendable(own, below=0.25) == []


def test_who_never_wins_goes_first_and_one_always_stays():
    own = scores([0.5, 0.5], [0.2, 0.2], [0.4, 0.4])
    assert [each.expert for each in expendable(own, below=0.25)] == [1, 2]
    assert expendable(own[:1], below=0.25) == []


def test_the_retired_are_asked_nothing_and_named_nowhere():
    competition = small_competition(num_experts=3, objective="score_weighted", loser_samples=1)
    router = Router(channels=1, num_experts=3, widths=(4,), grid=2)
    competition.routing = Routing(router)
    images, real = 1 - bars(12), bars(12, seed=1)
    winner = int(compete(competition.bank, competition.discriminator, images)[1].mode().values)
    competition.bank.retire([winner])
    competition.routing.router.forget([winner])
    before = [each.clone() for each in competition.bank[winner].parameters()]
    for step in range(5):
        record = competition.step(real, images, generator(step, "test"))
        assert not record.asked[winner].any()
        assert (record.winners != winner).all()
        assert (record.scores[winner] == 0).all()
    assert all(torch.equal(a, b) for a, b in zip(before, competition.bank[winner].parameters()))
    assert (compete(competition.bank, competition.discriminator, images)[0][winner] == 0).all()
    assert (mean_scores(competition.bank, competition.discriminator, images)[winner] == 0).all()
    assert (router(images).argmax(dim=1) != winner).all()


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_after_it_the_others_compete_as_if_they_had_been_alone(normalization):
    """The objective counts the experts that compete: the losses are those of a competition without the third."""
    images, real = 1 - bars(12), bars(12, seed=1)
    three, two = (small_competition(num_experts=count, normalization=normalization, r1_gamma=1.0) for count in (3, 2))
    for j in range(2):
        two.bank[j].load_state_dict(three.bank[j].state_dict())
    two.discriminator.load_state_dict(three.discriminator.state_dict())
    three.bank.retire([2])
    for step in range(3):
        ours, theirs = (each.step(real, images, generator(step, "test")) for each in (three, two))
        assert ours.discriminator_loss == pytest.approx(theirs.discriminator_loss, abs=1e-6)
        assert ours.expert_loss == pytest.approx(theirs.expert_loss, abs=1e-6)
        assert torch.equal(ours.winners, theirs.winners)


@pytest.mark.parametrize(("seed", "weights"), [(0, (1, 1)), (1, (4, 1))])
def test_the_number_of_mechanisms_is_found(tmp_path, seed, weights):
    run = train(make_config(overrides={**SPARE, "seed": seed}), tmp_path / "run", data=data(weights))
    history = files.read_history(tmp_path / "run")
    retired = [record for record in history if record.get("event") == "retired"]
    assert int(run.experts.competing.sum()) == 2
    assert {record["expert"] for record in retired} == set((~run.experts.competing).nonzero().flatten().tolist())
    assert {record["step"] for record in retired} == {run.retirement_step}
    begun = [record["step"] for record in history if record.get("event") == "revived"]
    assert max(begun, default=0) <= run.retirement_step, "what was retired is not revived"
    last = [record for record in history if record["kind"] == "validation"][-1]
    assert last["matched_share"] >= 0.95  # what counts as success


def test_it_is_kept_with_the_run(small_config, tmp_path, monkeypatch):
    revival = small_config.revival.model_copy(update={"retire": True, "idle_below": 1000.0})
    config = small_config.model_copy(update={"revival": revival})
    run = train(config, tmp_path / "run")
    assert int(run.experts.competing.sum()) == 1, "nobody leads by so much"
    again = load_run(tmp_path / "run")
    assert torch.equal(again.experts.competing, run.experts.competing)
    assert again.retirement_step == run.retirement_step == 2
    (left,) = run.experts.competing.nonzero().flatten().tolist()
    assert start_cycle(again, config).health.win_share.nonzero().flatten().tolist() == [left]
    images = 1 - bars(5)
    assert restore_images(again, images)[1].tolist() == [left] * 5
    assert route_images(again, images).tolist() == [left] * 5
    assert evaluate(tmp_path / "run")["num_competing"] == 1
    (tmp_path / "in").mkdir()
    Image.fromarray(to_bytes(images)[0, 0]).save(tmp_path / "in" / "a.png")
    restore_files(tmp_path / "run", tmp_path / "in", tmp_path / "out")
    (path, expert, _, margin, *_) = (tmp_path / "out" / ASSIGNMENTS).read_text().splitlines()[1].split(",")
    assert (path, expert, margin) == ("a.png", str(left), ""), "no other was asked"


def test_a_resumed_run_retires_the_same(small_config, tmp_path):
    revival = small_config.revival.model_copy(update={"retire": True, "idle_below": 1000.0})
    training = small_config.training.model_copy(update={"save_every": 1})
    config = small_config.model_copy(update={"revival": revival, "training": training})
    whole = train(config, tmp_path / "whole")

    def stop(record):
        if record["kind"] == "step" and record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", callbacks=[stop])
    resumed = train(config, tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.experts.parameters(), resumed.experts.parameters()))
    assert torch.equal(whole.experts.competing, resumed.experts.competing)


def test_auto_is_many_experts_and_their_retirement():
    config = make_config(overrides={"num_experts": "auto"})
    assert (config.num_experts, config.revival.retire) == (16, True)
    assert not make_config().revival.retire
    with pytest.raises(ValueError, match=r"revival\.retire needs router.proposals 0: every expert has to be asked"):
        make_config(
            overrides={"num_experts": "auto", "router.proposals": 2, "experts.normalization": "layer"},
        )


def won(winners: list[int], competing: torch.Tensor) -> StepRecord:
    """A step in which each winner has 0.6, the others 0.2 and the retired, who are not asked, 0."""
    scores = torch.full((len(competing), len(winners)), 0.2)
    scores[winners, range(len(winners))] = 0.6
    scores[~competing] = 0.0
    return StepRecord(scores, torch.tensor(winners), 0.8, 0.0, 0.0, None, scores > 0)


def test_in_a_later_cycle_the_retired_are_neither_revived_nor_waited_for():
    """Of six experts four compete; one of these is dead and another has two mechanisms of three."""
    competing = torch.tensor([True, False, True, True, False, True])
    health, revival = Health.start(6, competing), Revival(6, 0, max_tries=1)
    assert health.win_share.tolist() == [0.25, 0, 0.25, 0.25, 0, 0.25]
    for _ in range(300):
        health.update(won([0, 0, 0, 0, 2, 3], competing))
    assert health.idle(0.25, competing).nonzero().flatten().tolist() == [5]
    assert revival._choose(health, competing) == (5, 0)
    assert revival.has_work(health, competing)
    revival.tries[5] = 1
    assert revival._choose(health, competing) is None, "not one of the retired in its place"
    assert not revival.has_work(health, competing)
    revival.overloaded_above = 3.0  # of an even share among four: expert 0 has 2.7
    revival.tries[5] = 0
    assert revival._choose(health, competing) is None


def test_health_after_retirement_is_that_of_those_who_compete():
    competing, everyone = torch.tensor([True, False, True]), torch.tensor([True, True])
    health, alone = Health.start(3, competing), Health.start(2)
    limits = {"idle_below": 0.25, "overloaded_above": 1.25}
    for _ in range(300):
        health.update(won([0, 2], competing))
        health.judge(given_up=competing & False, competing=competing, **limits)
        alone.update(won([0, 1], everyone))
        alone.judge(given_up=everyone & False, **limits)
    assert health.healthy_steps == alone.healthy_steps > 200, "the one that retired is not waited for"
    assert not health.idle(0.25, competing).any()
    assert health.duplicates(1.0, competing) == [(0, 2)]


@pytest.mark.parametrize("count", [1, 3, 7, 10, 16, 20, 1000])
def test_with_none_retired_shares_start_as_ever(count):
    assert torch.equal(Health.start(count).win_share, torch.zeros(count) + 1 / count)


def test_records_name_the_retired():
    competition = small_competition()
    found = retire(competition, 1 - bars(20), below=1000.0)
    assert len(found) == 2
    assert json.dumps([dataclasses.asdict(each) for each in found])


def test_of_experts_that_are_all_twins_half_retire():
    """Each of three mechanisms has two owners, so that the mean lead of all is as small as that of each."""
    mechanism, draws = torch.arange(300) % 3, torch.Generator().manual_seed(0)
    owners = torch.arange(6)[:, None] // 2 == mechanism
    scores = torch.where(owners, 0.8, 0.1) + 0.05 * torch.rand(6, 300, generator=draws)
    gone = {each.expert for each in expendable(scores, below=0.25)}
    assert sorted({each // 2 for each in set(range(6)) - gone}) == [0, 1, 2]
    assert len(gone) == 3
