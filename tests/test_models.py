"""Shapes, receptive fields and what the networks may and may not depend on."""

import pytest
import torch

from licm.identity import train_identity
from licm.models import Discriminator, Expert, ExpertBank, score_matrix
from licm.seeding import generator


def images(count: int = 3, channels: int = 1, size: tuple[int, int] = (28, 28)) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=generator(0, "test images"))


@pytest.mark.parametrize("head", ["sigmoid", "residual"])
@pytest.mark.parametrize("normalization", ["frozen", "batch", "layer", "none"])
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (33, 20))])
def test_expert_keeps_shape_and_range(head, normalization, channels, size):
    expert = Expert(channels=channels, width=6, depth=3, head=head, normalization=normalization)
    y = expert(images(channels=channels, size=size))
    assert y.shape == (3, channels, *size)
    assert y.min() >= 0
    assert y.max() <= 1


def test_the_slides_expert_and_discriminator():
    """5 convolutions, 32 filters of 3x3; pooling after every 2 convolutions, 1024 units at the end."""
    expert = Expert()
    convolutions = [m for m in expert.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1, 32), (32, 32), (32, 32), (32, 32), (32, 1)]
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    # 9 * (32 + 3 * 32 * 32 + 32) + 1 weights and the last bias, and 4 normalisations of 2 * 32.
    assert sum(parameter.numel() for parameter in expert.parameters()) == 9 * (32 + 3 * 1024 + 32) + 1 + 4 * 64
    kinds = [type(m).__name__ for m in Discriminator().features]
    assert kinds == ["Conv2d", "ELU", "Conv2d", "ELU", "AvgPool2d"] * 3


@pytest.mark.parametrize(
    ("settings", "radius"),
    [({}, 5), ({"depth": 3}, 3), ({"dilations": (1, 2, 4, 2, 1)}, 10), ({"normalization": "none"}, 5)],
)
def test_receptive_radius_is_what_a_pixel_can_reach(settings, radius):
    expert = Expert(width=4, **settings).eval()
    assert expert.receptive_radius == radius
    x = torch.full((1, 1, 31, 31), 0.5, requires_grad=True)
    expert(x)[0, 0, 15, 15].backward()
    reached = x.grad[0, 0].abs() > 0
    rows, cols = reached.any(dim=1).nonzero().flatten(), reached.any(dim=0).nonzero().flatten()
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (15 - radius, 15 + radius) * 2


def test_plain_expert_is_shift_equivariant_and_coordinates_break_it():
    x = torch.zeros(1, 1, 40, 40)
    x[..., 16:24, 16:24] = torch.rand(8, 8, generator=generator(0, "patch"))
    moved = x.roll(3, dims=-1)
    inner = (..., slice(12, 28), slice(12, 28))
    for coordinates in (False, True):
        expert = Expert(width=4, coordinates=coordinates).eval()
        same = torch.allclose(expert(x).roll(3, dims=-1)[inner], expert(moved)[inner], atol=1e-6)
        assert same is not coordinates


@pytest.mark.parametrize("size", [8, 28, 32, 45])
def test_discriminator_takes_its_image_size_only(size):
    discriminator = Discriminator(channels=3, image_size=size, widths=(4, 4, 4), hidden=8)
    assert discriminator(images(channels=3, size=(size, size))).shape == (3,)
    with pytest.raises(ValueError, match=f"takes {size}x{size} px, got 9x9"):
        discriminator(images(channels=3, size=(9, 9)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="dilations: expected 5 numbers, one per convolution, got 2"):
        Expert(dilations=(1, 2))
    with pytest.raises(ValueError, match="image_size: 3 poolings need at least 8 px, got 7"):
        Discriminator(image_size=7)


def test_bank_restores_each_image_with_its_own_expert():
    bank = ExpertBank([Expert(width=4, depth=2) for _ in range(3)]).eval()
    x, chosen = images(5), torch.tensor([2, 0, 2, 1, 0])
    bank.train()
    restored = bank.restore(x, chosen)
    assert not bank.training, "restoring neither uses nor moves batch statistics"
    with pytest.raises(ValueError, match=r"images: expected finite values in \[0, 1\]"):
        bank.restore(2 + x, chosen)
    with pytest.raises(ValueError, match=r"images: expected 1 channel\(s\), got 3"):
        bank.restore(images(5, channels=3), chosen)
    for index, expert in enumerate(chosen.tolist()):
        assert torch.allclose(restored[index], bank[expert](x[index : index + 1])[0], atol=1e-6)


def test_score_matrix_scores_every_expert_on_every_image():
    bank = ExpertBank([Expert(width=4, depth=2) for _ in range(2)]).eval()
    discriminator = Discriminator(widths=(4, 4), hidden=8)
    scores = score_matrix(bank, discriminator, images(5))
    assert scores.shape == (2, 5)
    assert not scores.requires_grad
    assert scores[1, 3].item() == pytest.approx(discriminator(bank[1](images(5)[3:4])).item(), abs=1e-6)


@pytest.mark.accelerator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_models_agree_between_devices():
    expert, discriminator = Expert().eval(), Discriminator()
    on_cpu = discriminator(expert(images()))
    on_device = discriminator.cuda()(expert.cuda()(images().cuda())).cpu()
    assert torch.allclose(on_cpu, on_device, atol=1e-3)


@pytest.mark.parametrize(
    ("normalization", "is_blind"), [("layer", True), ("frozen", False), ("batch", False), ("none", False)]
)
def test_under_layer_normalisation_an_expert_does_not_see_contrast(normalization, is_blind):
    """Why it is not the default."""
    torch.manual_seed(0)
    expert = Expert(width=4, depth=3, normalization=normalization).eval()
    images = torch.rand(2, 1, 12, 12)
    with torch.no_grad():
        difference = (expert(images) - expert(images / 2)).abs().max().item()
    assert (difference < 1e-3) == is_blind


def test_frozen_statistics_are_those_of_the_identity_start():
    bank = ExpertBank([Expert(width=4, depth=3, normalization="frozen") for _ in range(2)])
    x = images(8, size=(12, 12))
    train_identity(bank[0], x, seed=0, index=0, max_steps=3, batch_size=4)
    learned, untouched = (each.body[1].running_mean.clone() for each in bank)
    assert learned.abs().max() > 0
    assert untouched.abs().max() == 0
    bank.train()
    assert not bank.uses_batch_statistics
    assert torch.allclose(bank[0](x)[:1], bank[0](x[:1]), atol=1e-6), "an output depends on its own image alone"
    assert torch.equal(bank[0].body[1].running_mean, learned)


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_folded_batch_normalisation_is_the_same(dims):
    torch.manual_seed(0)
    expert = Expert(channels=2, width=4, depth=3, normalization="batch", dims=dims)
    x = torch.rand(5, 2, *[12] * dims)
    for _ in range(3):
        expert(x)  # moves the running statistics
    for norm in expert.body[1::3]:
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    expert.eval()
    assert torch.allclose(expert(x), torch.sigmoid(expert.last(expert.body(x))), atol=1e-6)
