"""Images of any size: tiles give what the whole gives, and crops tell who wins."""

import pytest
import torch
from torch import nn

from licm.competition import compete
from licm.full_size import (
    MAX_CROPS,
    apply_expert,
    crop_places,
    mean_scores,
    reach_of,
    restore_full_size,
    route_full_size,
    spread,
)
from licm.models import Discriminator, Expert, ExpertBank
from tests.problems import SIZE, bars, small_competition


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def trained(**settings: object) -> Expert:
    """An expert whose normalisation has seen images, so that it is more than the identity of its start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expert = Expert(width=4, depth=3, **settings)
    for _ in range(3):
        expert(noise(4, 1, 16, 16))
    return expert.eval()


@pytest.mark.parametrize("settings", [{}, {"normalization": "none"}, {"head": "residual"}, {"dilations": (1, 3, 2)}])
@pytest.mark.parametrize("tile_pixels", [1, 900, 2500, 4000])
@pytest.mark.parametrize("shape", [(1, 1, 61, 83), (3, 1, 50, 50), (1, 1, 7, 640)])
def test_tiles_give_what_the_whole_gives(settings, tile_pixels, shape):
    expert, images = trained(**settings), noise(*shape)
    whole = expert(images)
    assert (apply_expert(expert, images, tile_pixels=tile_pixels) - whole).abs().max() <= 1e-6
    assert not torch.equal(whole, images)


def test_tiles_without_the_overlap_would_not():
    expert, images = trained(), noise(1, 1, 64, 64)
    expert.receptive_radius -= 1
    assert (apply_expert(expert, images, tile_pixels=900) - expert(images)).abs().max() > 1e-4


def test_no_more_than_the_bound_goes_through_at_a_time():
    seen = []

    class Watched(nn.Module):
        is_local, receptive_radius = True, 5

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape)
            return images

    images = noise(5, 1, 100, 90)
    assert torch.equal(apply_expert(Watched(), images, tile_pixels=50_000), images)
    assert len(seen) == 1
    for bound in (20_000, 2500):
        seen.clear()
        assert torch.equal(apply_expert(Watched(), images, tile_pixels=bound), images)
        assert max(shape.numel() for shape in seen) <= bound
        assert len(seen) > 1


def test_experts_that_see_the_whole_image_are_tiled_only_beyond_the_bound():
    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3), keepdim=True).expand_as(images)

    class Coordinates(nn.Module):
        is_local, receptive_radius = False, 3

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    assert reach_of(Mean()) is reach_of(Coordinates()) is reach_of(Expert(coordinates=True)) is None
    assert reach_of(Expert()) == 5
    images = noise(1, 1, 60, 60)
    assert torch.equal(apply_expert(Mean(), images, tile_pixels=3600), Mean()(images))
    assert apply_expert(Mean(), images, tile_pixels=1600).unique().numel() > 1


def test_crops_cover_small_images_and_are_spread_over_large_ones():
    for height, width in ((28, 28), (40, 28), (60, 200), (28, 1700)):
        covered = torch.zeros(height, width)
        places = crop_places(height, width, 28)
        for top, left in places:
            covered[top : top + 28, left : left + 28] = 1
        assert covered.all()
        assert len(places) == -(-height // 28) * -(-width // 28)
    for height, width in ((1000, 1500), (3000, 40), (28, 5000), (1, 28)):
        places = crop_places(height, width, 28)
        assert len(places) <= MAX_CROPS
        assert {max(top for top, _ in places), max(left for _, left in places)} <= {0, height - 28, width - 28}
    assert spread(1000, 28, 3) == [0, 486, 972]


def problem(*, coordinates: bool = False) -> tuple[ExpertBank, Discriminator]:
    """Three experts that differ and a discriminator, none at its start."""
    competition = small_competition()
    for step in range(3):
        competition.step(bars(8, seed=step), 1 - bars(8, seed=9 + step), torch.Generator().manual_seed(step))
    experts = [Expert(width=4, depth=3, coordinates=True).eval()] if coordinates else []
    return ExpertBank([*competition.bank, *experts]).eval().requires_grad_(False), competition.discriminator


@pytest.mark.parametrize("shape", [(2, 1, 12, 12), (2, 1, 31, 17), (1, 1, 300, 310)])
@pytest.mark.parametrize("coordinates", [False, True])
def test_the_score_is_the_mean_over_crops_of_the_output(shape, coordinates):
    bank, discriminator = problem(coordinates=coordinates)
    images = noise(*shape)
    scores = mean_scores(bank, discriminator, images)
    places = crop_places(*shape[2:], SIZE)
    for expert, found in zip(bank, scores):
        output = expert(images)
        crops = [discriminator(output[:, :, y : y + SIZE, x : x + SIZE]).sigmoid().detach() for y, x in places]
        assert found.tolist() == pytest.approx(torch.stack(crops).mean(dim=0).tolist(), abs=1e-6)


def test_only_what_the_crops_need_is_computed_of_large_images():
    bank, discriminator = problem()
    seen = []
    handle = bank[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    mean_scores(bank, discriminator, noise(1, 1, 600, 600))
    assert len(seen) == MAX_CROPS
    assert sum(seen) <= MAX_CROPS * (SIZE + 2 * 3) ** 2
    handle.remove()


def test_at_the_size_of_training_the_experts_compete_as_ever():
    bank, discriminator = problem()
    images = torch.cat([bars(20), 1 - bars(20)])
    scores, winners, restored = restore_full_size(bank, discriminator, images)
    expected, by = compete(bank, discriminator, images)
    assert torch.allclose(scores.float(), expected, atol=1e-6)
    assert torch.equal(winners, by)
    assert torch.allclose(restored, bank.restore(images, by), atol=1e-6)


def test_what_is_smaller_is_padded_as_in_training_and_cut_again():
    bank, discriminator = problem()
    image = noise(1, 1, 7, 30)
    frame = torch.zeros(1, 1, SIZE, 30)
    frame[:, :, 2:9] = image
    scores, winners, restored = restore_full_size(bank, discriminator, image)
    framed = restore_full_size(bank, discriminator, frame)
    assert torch.equal(scores, framed[0])
    assert torch.equal(restored, framed[2][:, :, 2:9])
    assert int(winners) == int(framed[1])


class ByBrightness(nn.Module):
    """A router of three experts, for dark, grey and bright images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -100 * (images.mean(dim=(1, 2, 3))[:, None] - torch.tensor([0.1, 0.25, 0.4])).square()


def test_a_router_names_the_winners_in_place_of_the_competition(monkeypatch):
    competition = small_competition()
    images = noise(6, 1, 2 * SIZE, 3 * SIZE).round() * torch.linspace(0.1, 1, 6).view(6, 1, 1, 1)
    router = ByBrightness()
    exact, *_ = restore_full_size(competition.bank, competition.discriminator, images)
    scores, winners, restored = restore_full_size(competition.bank, competition.discriminator, images, router=router)
    assert len(winners.unique()) > 1
    for index, winner in enumerate(winners.tolist()):
        alone = images[index : index + 1]
        crops = [alone[:, :, top : top + SIZE, left : left + SIZE] for top in (0, 12) for left in (0, 12, 24)]
        assert winner == torch.stack([router(crop).softmax(dim=1) for crop in crops]).mean(dim=0).argmax().item()
        assert torch.allclose(restored[index], competition.bank[winner](alone)[0], atol=1e-6)
        assert scores[winner, index].item() == pytest.approx(exact[winner, index].item(), rel=1e-5)
        assert (scores[:, index] > 0).sum() == 1
    assert winners.equal(route_full_size(router, images, SIZE))
