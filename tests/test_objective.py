"""The discriminator's objective: weights, their estimators, the loss and its penalty."""

import numpy as np
import pytest
import torch
from torch import Tensor

from licm.objective import (
    attention,
    choose_outputs,
    choose_winners,
    discriminator_loss,
    draw_attended,
    gradient_penalty,
    output_weights,
)
from licm.seeding import generator
from tests.problems import bars, small_competition

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [-1.0, 0.5, 3.0], [0.0, 0.2, -2.0], [1.0, -3.0, 0.0]], dtype=torch.float64)


def declared_weights(objective: str, logits: np.ndarray) -> np.ndarray:
    """The weights of the objectives as docs/method.md states them, expert by expert and image by image."""
    num_experts, n = logits.shape
    weights = np.zeros_like(logits)
    for image in range(n):
        odds = np.exp(logits[:, image])
        for expert in range(num_experts):
            if objective == "all_experts":
                weights[expert, image] = 1 / num_experts
            elif objective == "winner_weighted":
                won = expert == logits[:, image].argmax()
                weights[expert, image] = 0.5 if won else 0.5 / (num_experts - 1)
            else:
                share = odds[expert] / odds.sum()
                weights[expert, image] = 0.5 * share + 0.5 * (1 - share) / (num_experts - 1)
    return weights


@pytest.mark.parametrize("objective", ["all_experts", "winner_weighted", "score_weighted"])
def test_weights_are_the_declared_objectives(objective):
    weights = output_weights(objective, LOGITS)
    np.testing.assert_allclose(weights.numpy(), declared_weights(objective, LOGITS.numpy()), rtol=1e-12)
    assert (weights > 0).all()
    assert output_weights(objective, LOGITS[:1]).tolist() == [[1.0, 1.0, 1.0]], "one expert has all the weight"


def test_experts_that_do_the_same_work_share_the_attention():
    """Winning by a hair must not turn D on the winner: (3'') is continuous where two outputs score alike."""
    logits = torch.tensor([[3.0, 3.0], [3.0 + 1e-6, 3.0 - 1e-6], [-3.0, -3.0]])
    tied = output_weights("score_weighted", logits)
    assert torch.allclose(tied[0], tied[1], atol=1e-6)
    winner = output_weights("winner_weighted", logits)
    assert (winner[0] - winner[1]).tolist() == pytest.approx([-0.25, 0.25])


@pytest.mark.parametrize("objective", ["all_experts", "winner_weighted", "score_weighted"])
def test_an_output_that_stands_for_others_carries_their_weight(objective):
    """The mean over which of the others is drawn is the objective over all: exactly for (3), nearly for the rest."""
    proposed, others = [0, 1], [2, 3]
    mean = torch.zeros_like(LOGITS)
    for drawn in others:
        stands_for, logits = torch.zeros_like(LOGITS), torch.full_like(LOGITS, -torch.inf)
        stands_for[proposed], stands_for[drawn] = 1.0, len(others)
        logits[[*proposed, drawn]] = LOGITS[[*proposed, drawn]]
        weights = output_weights(objective, logits, stands_for)
        assert weights.sum(dim=0).tolist() == pytest.approx([1.0] * 3)
        assert (weights[stands_for == 0] == 0).all()
        if objective == "all_experts":
            assert weights[proposed].tolist() == [[0.25] * 3] * 2
            assert weights[drawn].tolist() == [0.5] * 3
        mean += weights / len(others)
    expected = declared_weights(objective, LOGITS.numpy())
    if objective == "all_experts":
        np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-12)
    else:
        where = LOGITS[proposed].max(dim=0).values > LOGITS[others].max(dim=0).values + 1  # the best is proposed
        assert where.any()
        np.testing.assert_allclose(mean.numpy()[:, where], expected[:, where], atol=0.05)


@pytest.mark.parametrize("objective", ["all_experts", "winner_weighted", "score_weighted"])
@pytest.mark.parametrize("others", [1, 2, 3])
@pytest.mark.parametrize("routed", [False, True])
def test_the_mean_over_draws_is_the_declared_objective(objective, others, routed):
    logits, stands_for = LOGITS.clone(), torch.ones_like(LOGITS)
    if routed:
        logits[3], stands_for[3], stands_for[2] = -torch.inf, 0.0, 2.0
    draws, count = generator(0, "test"), 4000
    mean, n = torch.zeros_like(LOGITS), LOGITS.shape[1]
    repeated, standing = logits.repeat(1, count), stands_for.repeat(1, count)
    chosen, weights = choose_outputs(objective, repeated, standing, others, draws)
    assert chosen.shape == (1 + others, n * count)
    assert weights.sum().item() == pytest.approx(1)
    for row, weight in zip(chosen, weights):
        mean.index_put_((row, torch.arange(n).repeat(count)), weight / count, accumulate=True)
    # A weight is at most 1, so the standard deviation of a mean is below 0.5 / sqrt(4000) = 0.008; six of them.
    np.testing.assert_allclose(mean.numpy(), output_weights(objective, logits, stands_for).numpy(), atol=0.05)
    if not routed:
        assert all(len(set(column)) == 1 + others for column in chosen.T.tolist()), "drawn without replacement"


def test_the_attended_are_drawn_by_their_attention():
    probabilities = torch.tensor([0.7, 0.0, 0.1, 0.2])
    drawn = draw_attended(probabilities[:, None].expand(-1, 10_000), generator(0, "test"))
    counts = torch.bincount(drawn, minlength=4).double()
    # Standard deviation of a count below 50; six of them.
    assert (counts - 10_000 * probabilities).abs().max() < 6 * 50
    assert counts[1] == 0
    rounded = torch.tensor([[0.5], [0.4999], [0.0]]).expand(-1, 100_000)  # a sum below 1 must not let the last in
    assert draw_attended(rounded, generator(0, "test")).max() == 1
    to_winners = attention("winner_weighted", LOGITS, torch.ones_like(LOGITS))
    assert draw_attended(to_winners, generator(0, "test")).equal(choose_winners(LOGITS))


def test_discriminator_loss_known_answer():
    loss = discriminator_loss(torch.zeros(4), torch.zeros(3, 5), torch.tensor([[0.5], [0.25], [0.25]]))
    assert loss.item() == pytest.approx(2 * np.log(2))


def test_gradient_penalty_of_a_linear_function_is_half_its_squared_norm():
    images = torch.rand(7, 1, 4, 4, requires_grad=True)
    weight = torch.randn(16, generator=generator(0, "w"))
    assert gradient_penalty(images.flatten(1) @ weight, images).item() == pytest.approx(
        weight.square().sum().item() / 2, rel=1e-5
    )


def test_gradient_penalty_is_differentiable_in_the_parameters():
    competition = small_competition()
    discriminator = competition.discriminator.double()
    parameter = discriminator.logit.weight

    def penalty() -> Tensor:
        images = bars(3).double().requires_grad_()
        return gradient_penalty(discriminator(images), images)

    (exact,) = torch.autograd.grad(penalty(), parameter)
    with torch.no_grad():
        parameter[0, 0] += 1e-6
    above = penalty()
    with torch.no_grad():
        parameter[0, 0] -= 2e-6
    below = penalty()
    assert exact[0, 0].item() == pytest.approx(((above - below) / 2e-6).item(), rel=1e-4)
