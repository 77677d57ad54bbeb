"""The method's guarantees, and that each check catches the bug it is there for.

The bugs are those seen in other implementations: a check that passes on one of them is no check.
"""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from licm.competition import Competition, compete
from licm.objective import choose_winners
from licm.seeding import generator
from tests.problems import bars, small_competition
from tests.test_objective import declared_weights

Updated = tuple[float, float | None]


def run_steps(competition: Competition, count: int, *, start: int = 0) -> list[Tensor]:
    """Runs steps on bars against inverted bars and returns the winners of each."""
    winners = []
    for step in range(start, start + count):
        record = competition.step(bars(6, seed=step), 1 - bars(6, seed=100 + step), generator(0, "losers", step))
        winners.append(record.winners)
    return winners


def parameters_of(competition: Competition, expert: int) -> dict[str, Tensor]:
    """Those of an expert and, where there is one, of its forward network."""
    parameters = dict(competition.bank[expert].named_parameters())
    if competition.forward is not None:
        parameters |= {f"forward {name}": p for name, p in competition.forward[expert].named_parameters()}
    return parameters


def weights_of(competition: Competition) -> list[list[Tensor]]:
    experts = range(len(competition.bank))
    return [[p.detach().clone() for p in parameters_of(competition, j).values()] for j in experts]


def optimizer_state_of(competition: Competition, expert: int) -> list[dict[str, Tensor]]:
    parameters = parameters_of(competition, expert).values()
    return [{k: v.clone() for k, v in competition.expert_optimizer.state.get(p, {}).items()} for p in parameters]


# --- Checks, run on the method and on its bugs --------------------------------------------------------------


def check_winners_learn(competition: Competition) -> None:
    before = weights_of(competition)
    (winners,) = run_steps(competition, 1)
    for expert in winners.unique().tolist():
        for name, old, new in zip(parameters_of(competition, expert), before[expert], weights_of(competition)[expert]):
            assert not torch.equal(old, new), f"expert {expert} won but its {name} did not move"


def check_losers_stay(competition: Competition) -> None:
    """Losers that have won before, and so have momentum, must stay bitwise where they are."""
    seen_loser_with_momentum = False
    competition._name_winners = lambda *_: torch.arange(6) % 3  # first, each wins once
    run_steps(competition, 1)
    del competition._name_winners
    for step in range(12):
        before = weights_of(competition)
        states = [optimizer_state_of(competition, j) for j in range(len(competition.bank))]
        (winners,) = run_steps(competition, 1, start=step)
        for expert in set(range(len(competition.bank))) - set(winners.tolist()):
            seen_loser_with_momentum |= any(states[expert])
            for old, new in zip(before[expert], weights_of(competition)[expert]):
                assert torch.equal(old, new), f"expert {expert} lost but its weights moved"
            for old_state, new_state in zip(states[expert], optimizer_state_of(competition, expert)):
                assert old_state.keys() == new_state.keys()
                assert all(torch.equal(old_state[key], new_state[key]) for key in old_state)
    assert seen_loser_with_momentum, "the check needs a loser that has won before"


def check_discriminator_has_no_gradient_from_experts(competition: Competition) -> None:
    """After a whole step, D's gradients are those of its own loss alone."""
    run_steps(competition, 1)
    own = [p.grad.clone() for p in competition.discriminator.parameters() if p.grad is not None]
    outputs = competition.bank(1 - bars(6, seed=3))
    competition._update_winners(bars(6), 1 - bars(6, seed=3), outputs, torch.tensor([0, 0, 1, 1, 2, 2]))
    after = [p.grad for p in competition.discriminator.parameters()]
    for old, new in zip(own, after, strict=True):
        assert new is not None
        assert torch.equal(old, new)


def check_batch_statistics_once_a_step(competition: Competition) -> None:
    """Of frozen ones none is taken."""
    run_steps(competition, 3)
    for expert in competition.bank:
        for name, buffer in expert.named_buffers():
            if name.endswith("num_batches_tracked"):
                assert buffer.item() == (0 if expert.is_frozen else 3)


def check_discriminator_learns_from_losers(competition: Competition) -> None:
    """With the winners' outputs unchanged, other losers' outputs must change D's loss."""
    outputs = [torch.rand(6, 1, 12, 12, generator=generator(0, "outputs", j)) for j in range(3)]
    others = [outputs[0], *(1 - output for output in outputs[1:])]
    state = {key: value.clone() for key, value in competition.discriminator.state_dict().items()}
    losses = []
    for each in (outputs, others):
        competition.discriminator.load_state_dict(state)
        logits = torch.tensor([[5.0], [0.0], [0.0]]).expand(3, 6)
        draws = generator(0, "losers")
        losses.append(competition._update_discriminator(bars(6), each, logits, torch.ones(3, 6), draws)[0])
    assert abs(losses[0] - losses[1]) > 1e-6


# --- The bugs ------------------------------------------------------------------------------------------------


def detached_winners(
    self: Competition, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
) -> Updated:
    won = [outputs[j][winners == j].detach().requires_grad_() for j in winners.unique().tolist()]
    loss = torch.stack([F.softplus(-self.discriminator(own)).mean() for own in won]).sum()
    self.expert_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.expert_optimizer.step()
    return loss.item(), None


def gradients_zeroed_not_dropped(
    self: Competition, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
) -> Updated:
    for parameter in self.bank.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    self.expert_optimizer.zero_grad(set_to_none=False)
    won = [outputs[j][winners == j] for j in winners.unique().tolist()]
    loss = torch.stack([F.softplus(-self.discriminator(own)).mean() for own in won]).sum()
    loss.backward()
    self.expert_optimizer.step()
    return loss.item(), None


def gradients_for_discriminator(
    self: Competition, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
) -> Updated:
    won = [outputs[j][winners == j] for j in winners.unique().tolist()]
    loss = torch.stack([F.softplus(-self.discriminator(own)).mean() for own in won]).sum()
    self.expert_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.expert_optimizer.step()
    return loss.item(), None


def stepping_inside_the_loop(
    self: Competition, canonical: Tensor, transformed: Tensor, outputs: list[Tensor], winners: Tensor
) -> Updated:
    scores = torch.stack([self.discriminator(output) for output in outputs])
    for expert in self.bank:
        loss = F.softplus(-scores).mean()  # one graph for all, stale after the first expert has moved
        loss.backward(retain_graph=True)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.sub_(1e-3 * parameter.grad)
    return 0.0, None


def discriminator_sees_winners_only(objective, logits, stands_for):
    return F.one_hot(choose_winners(logits), len(logits)).T.float()


def transforming_twice(self: Competition, transformed: Tensor, asked: Tensor) -> list[Tensor]:
    self.bank.train()
    self.bank(transformed)
    return self.bank(transformed)


def test_the_discriminator_learns_from_losers_and_the_check_catches_winners_only(monkeypatch):
    for objective, samples in (("all_experts", None), ("winner_weighted", 1), ("score_weighted", 1)):
        check_discriminator_learns_from_losers(small_competition(objective=objective, loser_samples=samples))
    monkeypatch.setattr("licm.competition.output_weights", discriminator_sees_winners_only)
    with pytest.raises(AssertionError):
        check_discriminator_learns_from_losers(small_competition())


# --- Tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["frozen", "batch", "layer", "none"])
@pytest.mark.parametrize(
    ("objective", "samples", "gamma", "cycle_weight", "pair_weight"),
    [
        ("all_experts", None, 0.0, 0.0, 0.0),
        ("winner_weighted", 1, 1.0, 0.0, 0.0),
        ("score_weighted", 1, 1.0, 5.0, 0.0),
        ("score_weighted", 1, 1.0, 5.0, 20.0),
    ],
)
@pytest.mark.parametrize("cycle_pulls", [False, True])
def test_only_winners_learn(normalization, objective, samples, gamma, cycle_weight, pair_weight, cycle_pulls):
    def fresh() -> Competition:
        competition = small_competition(
            normalization=normalization,
            objective=objective,
            loser_samples=samples,
            r1_gamma=gamma,
            cycle_weight=cycle_weight,
            pair_weight=pair_weight,
        )
        competition.cycle_pulls = cycle_pulls
        return competition

    check_winners_learn(fresh())
    check_losers_stay(fresh())
    check_discriminator_has_no_gradient_from_experts(fresh())
    check_batch_statistics_once_a_step(fresh())


@pytest.mark.parametrize(
    ("check", "method", "bug", "error"),
    [
        (check_winners_learn, "_update_winners", detached_winners, AssertionError),
        (check_losers_stay, "_update_winners", gradients_zeroed_not_dropped, AssertionError),
        (
            check_discriminator_has_no_gradient_from_experts,
            "_update_winners",
            gradients_for_discriminator,
            AssertionError,
        ),
        (check_winners_learn, "_update_winners", stepping_inside_the_loop, RuntimeError),
        (check_batch_statistics_once_a_step, "_transform", transforming_twice, AssertionError),
    ],
)
def test_each_check_catches_its_bug(monkeypatch, check, method, bug, error):
    monkeypatch.setattr(Competition, method, bug)
    with pytest.raises(error):
        check(small_competition())


def test_gradient_reaches_the_experts_through_the_discriminators_input():
    competition = small_competition()
    outputs = competition.bank(1 - bars(6))
    for output in outputs:
        output.retain_grad()
    competition._update_winners(bars(6), 1 - bars(6), outputs, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert outputs[0].grad is not None
    assert outputs[0].grad[:3].abs().sum() > 0
    assert outputs[0].grad[3:].abs().sum() == 0, "images an expert lost must not enter its loss"
    assert outputs[2].grad is None


def test_expert_loss_is_the_mean_over_each_experts_own_wins():
    competition = small_competition()
    competition.bank.train()
    images, winners = 1 - bars(6), torch.tensor([0, 0, 0, 0, 2, 2])
    outputs = competition.bank(images)
    with torch.no_grad():
        logits = torch.stack([competition.discriminator(output) for output in outputs]).numpy()
    expected = np.mean([np.log1p(np.exp(-logits[0, :4])).mean(), np.log1p(np.exp(-logits[2, 4:])).mean()])
    assert competition._update_winners(bars(6), images, outputs, winners) == (pytest.approx(expected, rel=1e-5), None)


def test_the_cycle_error_is_the_mean_over_each_experts_own_wins():
    competition = small_competition(cycle_weight=5.0)
    images, winners = 1 - bars(6), torch.tensor([0, 0, 0, 0, 2, 2])
    outputs = competition.bank(images)
    with torch.no_grad():
        errors = [
            (competition.forward[j](outputs[j])[winners == j] - images[winners == j]).square().mean().item()
            for j in (0, 2)
        ]
    _, cycle_error = competition._update_winners(bars(6), images, outputs, winners)
    assert cycle_error == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("cycle_pulls", [False, True])
def test_the_experts_feel_the_cycle_error_only_while_it_pulls(cycle_pulls):
    """The forward networks learn in any case."""
    plain, cyclic = small_competition(), small_competition(cycle_weight=5.0)
    cyclic.cycle_pulls = cycle_pulls
    untrained = [p.clone() for p in cyclic.forward.parameters()]
    images, winners = 1 - bars(6), torch.tensor([0, 0, 1, 1, 2, 2])
    for competition in (plain, cyclic):
        competition._update_winners(bars(6), images, competition.bank(images), winners)
    same = [torch.equal(one.grad, other.grad) for one, other in zip(plain.bank.parameters(), cyclic.bank.parameters())]
    assert all(same) != cycle_pulls
    assert not any(torch.equal(old, new) for old, new in zip(untrained, cyclic.forward.parameters()))


def test_pairs_are_of_canonical_images_and_move_the_expert_that_won():
    """Their error is that of E_j in evaluation mode on F_j(x) with the residual of its wins; it reaches E_j alone."""
    competition = small_competition(cycle_weight=5.0, pair_weight=20.0)
    canonical, images = bars(4, seed=5), 1 - bars(4)
    bank, forward = competition.bank.train(), competition.forward
    restored = bank[1](images).detach()
    statistics = [each.clone() for each in bank[1].buffers()]
    with torch.no_grad():
        made = (forward[1](canonical) + images - forward[1](restored)).clamp(0, 1)
        expected = (bank[1].eval()(made) - canonical).square().mean().item()
    bank.train()
    error = competition._pair_error(1, canonical, images - forward[1](restored))
    error.backward()
    assert error.item() == pytest.approx(expected, rel=1e-5)
    assert bank[1].training
    assert all(torch.equal(old, new) for old, new in zip(statistics, bank[1].buffers()))
    assert all(parameter.grad is not None for parameter in bank[1].parameters())
    others = [*bank[0].parameters(), *bank[2].parameters(), *forward.parameters()]
    assert all(parameter.grad is None for parameter in others)


@pytest.mark.parametrize("cycle_pulls", [False, True])
def test_pairs_are_learned_from_only_while_the_cycle_pulls(cycle_pulls):
    without, with_pairs = (small_competition(cycle_weight=5.0, pair_weight=weight) for weight in (0.0, 20.0))
    images, winners = 1 - bars(6), torch.tensor([0, 0, 1, 1, 2, 2])
    for competition in (without, with_pairs):
        competition.cycle_pulls = cycle_pulls
        competition._update_winners(bars(3), images, competition.bank(images), winners)  # fewer canonical ones
    pairs = zip(without.bank.parameters(), with_pairs.bank.parameters())
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs) != cycle_pulls


def test_a_twin_has_the_forward_network_too():
    competition = small_competition(cycle_weight=5.0)
    run_steps(competition, 3)
    donor = int(competition.bank[0].last.weight.grad is None)  # one that has won
    competition.copy_expert(donor, 2)
    for one, other in zip(parameters_of(competition, donor).values(), parameters_of(competition, 2).values()):
        assert torch.equal(one, other)
    for one, other in zip(optimizer_state_of(competition, donor), optimizer_state_of(competition, 2), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_forward_networks_learn_the_mechanism_of_their_expert():
    """One expert, all images inverted: once it restores, its forward network inverts clean images."""
    competition = small_competition(num_experts=1, r1_gamma=1.0, cycle_weight=5.0)
    competition.set_learning_rate_factor(5)
    for step in range(400):
        competition.cycle_pulls = step >= 100
        canonical, originals = bars(16, seed=2 * step), bars(16, seed=2 * step + 1)
        record = competition.step(canonical, 1 - originals, generator(0, "losers", step))
    clean = bars(20, seed=10_001)
    with torch.no_grad():
        error = (competition.forward[0](clean) - (1 - clean)).square().mean().item()
    assert record.cycle_error < 0.01, "the variance of a pixel is about 0.1"
    assert error < 0.01


def test_near_ties_go_to_the_expert_whose_forward_network_tells_the_input_by_its_own_measure():
    """Scores within half the mean margin of 0.4; the networks' errors are 0.04, 0.01 and 0.0025."""
    inputs = torch.full((3, 1, 12, 12), 0.5)
    outputs = [inputs + 0.2, inputs - 0.1, inputs + 0.05]
    scores = torch.tensor([[0.9, 0.9, 0.9], [0.8, 0.8, 0.6], [0.1, 0.75, 0.1]])

    def winners(usual: list[float], **changes) -> list[int]:
        competition = small_competition(cycle_weight=5.0, tie_margin=0.5)
        competition.mean_margin = 0.4
        competition.forward = [torch.nn.Identity()] * 3
        competition.usual_error = torch.tensor(usual)
        for name, value in changes.items():
            setattr(competition, name, value)
        return competition._name_winners(inputs, outputs, scores, scores > 0).tolist()

    assert winners([0.04, 0.04, 0.04]) == [1, 2, 0]
    assert winners([0.4, 0.04, 0.0025]) == [0, 0, 0], "what is little for one is much for another"
    assert winners([0.4, 0.04, 0.04]) == [0, 2, 0]
    for off in ({"tie_margin": 0.0}, {"mean_margin": 0.0}, {"forward": None}):
        assert winners([0.04, 0.04, 0.04], **off) == [0, 0, 0]


def test_an_experts_usual_error_is_a_moving_average_over_its_ties():
    competition = small_competition(cycle_weight=5.0, tie_margin=0.5)
    competition.mean_margin = 0.4
    competition.forward = [torch.nn.Identity()] * 3
    inputs = torch.full((1, 1, 12, 12), 0.5)
    scores = torch.tensor([[0.9], [0.8], [0.1]])
    for offset in (0.2, 0.1):
        competition._name_winners(inputs, [inputs + offset, inputs, inputs], scores, scores > 0)
    assert competition.usual_error[0].item() == pytest.approx(0.98 * 0.04 + 0.02 * 0.01, rel=1e-5)
    assert competition.usual_error[2] == 0, "it was in no tie"
    competition.copy_expert(0, 2)
    assert competition.usual_error[2] == competition.usual_error[0]


def test_a_tie_has_one_winner():
    assert choose_winners(torch.tensor([[0.5, 0.2], [0.5, 0.7], [0.5, 0.7]])).tolist() == [0, 1]
    competition = small_competition()
    for expert in list(competition.bank)[1:]:
        expert.load_state_dict(competition.bank[0].state_dict())
    before = weights_of(competition)
    (winners,) = run_steps(competition, 1)
    assert winners.tolist() == [0] * 6
    assert all(torch.equal(a, b) for a, b in zip(before[1], weights_of(competition)[1]))


@pytest.mark.parametrize("objective", ["all_experts", "winner_weighted", "score_weighted"])
def test_discriminator_learns_from_all_experts_as_declared(objective):
    """The loss of a step equals the objective written out in NumPy over every expert's output."""
    competition = small_competition(objective=objective)
    real, images = bars(5), 1 - bars(6, seed=1)
    competition.bank.train()
    with torch.no_grad():
        on_fake = torch.stack([competition.discriminator(out) for out in competition.bank(images)]).double().numpy()
        on_real = competition.discriminator(real).double().numpy()
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    weights = declared_weights(objective, on_fake)
    expected = -np.log(sigmoid(on_real)).mean() - (weights * np.log(1 - sigmoid(on_fake))).sum(axis=0).mean()
    record = competition.step(real, images, generator(0, "test"))
    assert record.discriminator_loss == pytest.approx(expected, rel=1e-5)
    winners_only = -np.log(sigmoid(on_real)).mean() - np.log(1 - sigmoid(on_fake.max(axis=0))).mean()
    assert abs(record.discriminator_loss - winners_only) > 1e-4, "the check must tell the bug apart"
    assert record.winners.tolist() == on_fake.argmax(axis=0).tolist()
    assert record.real_score == pytest.approx(sigmoid(on_real).mean(), rel=1e-5)


def test_compete_uses_running_statistics_and_leaves_them():
    competition = small_competition()
    run_steps(competition, 2)
    before = {name: buffer.clone() for name, buffer in competition.bank.named_buffers()}
    images = 1 - bars(9)
    scores, winners = compete(competition.bank, competition.discriminator, images, batch_size=4)
    alone, _ = compete(competition.bank, competition.discriminator, images[:1])
    assert torch.allclose(scores[:, :1], alone, atol=1e-6), "a score must not depend on the rest of the batch"
    assert winners.tolist() == scores.argmax(dim=0).tolist()
    for name, buffer in competition.bank.named_buffers():
        assert torch.equal(before[name], buffer)


def test_with_fixed_winners_an_image_is_always_the_same_experts():
    competition, images, real = small_competition(winners="fixed"), 1 - bars(60), bars(60, seed=1)
    first = competition.step(real, images, generator(0, "test")).winners
    order = torch.randperm(60, generator=generator(0, "order"))
    assert torch.equal(competition.step(real, images[order], generator(1, "test")).winners, first[order])
    assert first.bincount(minlength=3).min() >= 10, "drawn evenly"


def test_the_diversity_term_pulls_a_winner_from_what_the_others_make():
    images, real = 1 - bars(12), bars(12, seed=1)
    moved = {}
    for weight in (0.0, 50.0):
        competition = small_competition(diversity_weight=weight)
        gaps = []
        for step in range(8):
            with torch.no_grad():
                outputs = torch.stack(competition.bank(images))
            winners = competition.step(real, images, generator(step, "test")).winners
            own = outputs[winners, torch.arange(12)]
            gaps.append((outputs - own).square().mean().item())
        moved[weight] = gaps[-1] / gaps[0]
    assert moved[50.0] > 1.2 * moved[0.0]


def test_experts_separate_two_mechanisms_on_bars():
    """The whole method on a problem with a known answer: inverted and plain bars go to different experts."""
    competition = small_competition(num_experts=2, objective="score_weighted", r1_gamma=1.0)
    for step in range(150):
        canonical, originals = bars(16, seed=2 * step), bars(16, seed=2 * step + 1)
        mixed = torch.cat([1 - originals[:8], originals[8:].roll(2, dims=-1)])
        competition.step(canonical, mixed, generator(0, "losers", step))
    test = bars(40, seed=10_001)
    mixed = torch.cat([1 - test[:20], test[20:].roll(2, dims=-1)])
    _, winners = compete(competition.bank, competition.discriminator, mixed)
    first, second = winners[:20].double().mean(), winners[20:].double().mean()
    assert abs(first - second) > 0.9, "nearly all of one mechanism to one expert, of the other to the other"


def test_a_compiled_scoring_is_the_same_competition(monkeypatch):
    """Without code generation, which takes seconds and a compiler: the captured graph, run as it is."""
    captured = []

    def backend(graph, inputs):
        captured.append(graph)
        return graph

    monkeypatch.setattr("licm.competition.torch.compile", partial(torch.compile, backend=backend))
    plain, other = (small_competition(normalization="layer", compiled=compiled) for compiled in (False, True))
    records = [each.step(bars(4), 1 - bars(4), generator(0, "losers")) for each in (plain, other)]
    assert len(captured) == 1, "one graph for all experts"
    torch.testing.assert_close(*(record.scores for record in records))
    for one, two in zip(plain.bank.parameters(), other.bank.parameters()):
        torch.testing.assert_close(one, two)
