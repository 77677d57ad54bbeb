"""The approximate-identity start."""

import pytest
import torch

from licm.identity import analytic_identity, copy_with_noise, identity_errors, train_identity
from licm.models import Expert, ExpertBank
from tests.problems import bars


def test_training_reaches_the_tolerance_and_reports_its_steps():
    torch.manual_seed(0)
    expert, images = Expert(width=8, depth=3), 1 - bars(64)
    (before,) = identity_errors(ExpertBank([expert]), images)
    steps = train_identity(expert, images, seed=0, index=0, tolerance=0.01, max_steps=400)
    (after,) = identity_errors(ExpertBank([expert]), images)
    assert 1 < steps < 400
    # The stop is on one batch under batch statistics; running statistics lag, so three times the tolerance.
    assert after < 0.03 < before


def test_training_stops_at_its_limit():
    assert train_identity(Expert(width=4, depth=2), bars(40), seed=0, index=0, tolerance=1e-9, max_steps=3) == 3


def test_training_leaves_an_expert_that_is_near_enough():
    expert = Expert(width=4, depth=2)
    before = [parameter.clone() for parameter in expert.parameters()]
    assert train_identity(expert, bars(40), seed=0, index=0, tolerance=1.0) == 0
    assert all(torch.equal(old, new) for old, new in zip(before, expert.parameters()))


def test_copies_have_noise_of_their_own_in_proportion_to_the_weights():
    source, copies = Expert(width=64), [Expert(width=64) for _ in range(3)]
    for copy, index in zip(copies, (1, 1, 2)):
        copy_with_noise(copy, source, noise=0.1, seed=0, index=index)
    old, new = source.body[3].weight, [copy.body[3].weight for copy in copies]
    assert torch.equal(new[0], new[1])
    assert not torch.equal(new[0], new[2])
    assert ((new[0] - old).square().mean() / old.square().mean()).sqrt().item() == pytest.approx(0.1, rel=0.05)


def test_analytic_start_is_the_identity_within_the_heads_margin():
    expert, images = Expert(width=8, head="residual", normalization="none"), bars(8)
    analytic_identity(expert, seed=0, index=0)
    # The residual head maps black and white 0.01 inwards; the small random last convolution adds little.
    assert (expert(images) - images).abs().max() < 0.02
    assert identity_errors(ExpertBank([expert]), images)[0] < 2e-4


def test_analytic_start_differs_between_experts_and_repeats():
    experts = [Expert(width=8, head="residual") for _ in range(3)]
    for expert, index in zip(experts, (0, 0, 1)):
        analytic_identity(expert, seed=0, index=index)
    assert torch.equal(experts[0].last.weight, experts[1].last.weight)
    assert not torch.equal(experts[0].last.weight, experts[2].last.weight)


def test_analytic_start_needs_a_residual_head():
    with pytest.raises(ValueError, match=r"'analytic' needs experts.head 'residual', got 'sigmoid'"):
        analytic_identity(Expert(), seed=0, index=0)
