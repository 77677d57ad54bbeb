"""Disjoint originals, the fixed mixture, and batches that depend on nothing but (seed, step)."""

import numpy as np
import pytest
import torch

from licm.datasets import (
    TrainingData,
    batch_indices,
    draw_mechanisms,
    evaluation_mixture,
    load_originals,
    load_training_data,
    make_mixture,
)
from licm.mechanisms import parse_mechanisms
from licm.seeding import generator
from licm.sources import ImageSet

TEN = parse_mechanisms("paper")


def image_set(count: int, *, size: int = 8) -> ImageSet:
    """Images that are all different, so that they can be told apart."""
    values = torch.randint(0, 256, (count, 1, size, size), generator=generator(0, "images"))
    return ImageSet(values.to(torch.uint8), torch.arange(count) % 10)


def saved(tmp_path, count: int = 100, size: int = 8) -> str:
    import numpy as np

    path = tmp_path / f"images-{count}-{size}.npz"
    np.savez(path, images=image_set(count, size=size).images.numpy())
    return str(path)


def test_embedded_parts_have_their_sizes_and_do_not_depend_on_the_seed():
    originals = load_originals("embedded", seed=0)
    sizes = [len(getattr(originals, name)) for name in ("canonical", "to_transform", "validation", "test")]
    assert sizes == [10_000, 10_000, 1_000, 2_000]
    other = load_originals("embedded", seed=1, image_size=32)
    assert other.canonical.images.shape[-2:] == (32, 32)
    assert torch.equal(other.canonical.images[:, :, 2:30, 2:30], originals.canonical.images)
    assert other.canonical.images.sum() == originals.canonical.images.sum()


def test_split_is_disjoint_complete_and_seeded(tmp_path):
    path = saved(tmp_path)
    originals = load_originals(path, seed=3)
    parts = [getattr(originals, name) for name in ("canonical", "to_transform", "validation", "test")]
    assert [len(part) for part in parts] == [40, 40, 10, 10]
    together = torch.cat([part.images for part in parts]).flatten(1)
    assert len(together.unique(dim=0)) == 100
    other = load_originals(path, seed=4)
    assert torch.equal(other.test.images, originals.test.images), "the test images are the same for all runs"
    assert not torch.equal(other.canonical.images, originals.canonical.images)


def test_an_idx_folder_and_an_omniglot_zip_are_sources(tmp_path):
    import struct
    import zipfile

    from PIL import Image

    images = image_set(130, size=28)
    for part, start, count in (("train", 0, 120), ("t10k", 120, 10)):
        pixels = images.images[start : start + count, 0].numpy().tobytes()
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + pixels)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(count))
    originals = load_originals(str(tmp_path), seed=0)
    assert [len(originals.test), len(originals.validation), len(originals.canonical)] == [10, 2, 59]
    assert torch.equal(originals.test.images, images.images[120:])
    with zipfile.ZipFile(tmp_path / "omniglot.zip", "w") as archive:
        for index in range(20):
            drawn = Image.new("1", (105, 105), 1)
            drawn.putpixel((index, 50), 0)
            with archive.open(f"images_background/Greek/character01/{index:04}.png", "w") as file:
                drawn.save(file, "PNG")
    assert len(load_originals(str(tmp_path / "omniglot.zip"), seed=0).test) == 2


def test_mixture_puts_each_original_under_its_one_mechanism():
    originals = image_set(50)
    mixture = make_mixture(originals, TEN, draws=generator(0, "m"))
    for index in range(50):
        mechanism = TEN[mixture.mechanism[index]]
        if mechanism.kind != "noise":
            expected = mechanism(originals.images[index : index + 1] / 255.0)[0]
            assert torch.allclose(mixture.images[index], expected, atol=1e-6)
    assert torch.allclose(mixture.originals, originals.images / 255.0)
    assert mixture.images.min() >= 0
    assert mixture.images.max() <= 1
    again = make_mixture(originals, TEN, draws=generator(0, "m"))
    assert torch.equal(again.images, mixture.images)


def test_evaluation_mixture_is_round_robin_and_the_same_for_all():
    mixture = evaluation_mixture(image_set(43), TEN)
    counts = mixture.mechanism.bincount()
    assert counts.max() - counts.min() == 1
    assert torch.equal(mixture.images, evaluation_mixture(image_set(43), TEN).images)


def test_weights_of_the_mixture():
    drawn = draw_mechanisms(11_000, 2, (1, 10), generator(0, "w"))
    # 11,000 draws at 1/11: standard deviation 30; six of them.
    assert abs(int((drawn == 0).sum()) - 1000) < 180
    for weights in [(1,), (1, -1), (0, 0)]:
        with pytest.raises(ValueError, match=r"data.mechanism_weights: expected 2 non-negative numbers"):
            draw_mechanisms(5, 2, weights, generator(0, "w"))


def test_batches_pass_over_all_images_in_a_fresh_order_each_time():
    first = torch.cat([batch_indices(12, 4, step, 0, "p") for step in range(3)])
    second = torch.cat([batch_indices(12, 4, step, 0, "p") for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()
    assert torch.equal(batch_indices(12, 4, 4, 0, "p"), second[4:8]), "a step's batch needs no earlier step"
    with pytest.raises(ValueError, match="batch_size: 13 is more than the 12 images"):
        batch_indices(12, 13, 0, 0, "p")


def test_batches_hold_images_only():
    """What training gets is canonical and transformed images; no mechanism, original or label is in reach."""
    data = load_training_data(source="embedded", mechanisms="paper", seed=0)
    batch = data.batch(0, 32, seed=0)
    assert [tuple(part.shape) for part in batch] == [(32, 1, 28, 28)] * 2
    assert data.canonical.shape == data.transformed.shape == (10_000, 1, 28, 28)


def test_fixed_mixture_stays_and_fresh_mixture_changes(tmp_path):
    path = saved(tmp_path)
    for fresh in (False, True):
        data = load_training_data(source=path, mechanisms=["invert", "noise"], seed=0, fresh_mixture=fresh)
        passes = [data.batch(step, 40, seed=0)[1] for step in range(2)]  # two passes over all 40 images
        known = {image.numpy().tobytes() for image in passes[0]}
        seen_again = sum(image.numpy().tobytes() in known for image in passes[1])
        assert (seen_again == 40) is (not fresh)
        assert torch.equal(data.batch(1, 40, seed=0)[1], passes[1])


def test_ones_own_images(tmp_path):
    data = load_training_data(
        source="embedded",
        mechanisms="paper",
        seed=0,
        canonical=saved(tmp_path, 40),
        transformed=saved(tmp_path, 30),
    )
    assert (len(data.canonical), len(data.transformed), data.validation) == (40, 30, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"canonical": "x"}, "canonical and transformed go together"),
        ({"source": "mnsit"}, "mnsit"),
        ({"image_size": 8, "source": "embedded"}, r"data.image_size: the images are 28x28 px, larger than 8"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_training_data(**{"source": "embedded", "mechanisms": "paper", "seed": 0, **arguments})


def test_images_too_large_to_be_padded_are_named_by_width_and_height(tmp_path):
    np.savez(tmp_path / "wide.npz", images=np.zeros((20, 9, 12), np.uint8))
    paths = {"canonical": str(tmp_path / "wide.npz"), "transformed": str(tmp_path / "wide.npz")}
    with pytest.raises(ValueError, match=r"data.image_size: the images are 12x9 px, larger than 10"):
        load_training_data(source="embedded", mechanisms="paper", seed=0, image_size=10, **paths)


def test_images_of_different_shape_are_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"like those of data.canonical, 8x8 px grey, got 9x9 px grey",
    ):
        load_training_data(
            source="embedded",
            mechanisms="paper",
            seed=0,
            canonical=saved(tmp_path, 20, 8),
            transformed=saved(tmp_path, 20, 9),
        )


def test_too_few_to_split(tmp_path):
    with pytest.raises(ValueError, match=r"too few images to split, got 9"):
        load_originals(saved(tmp_path, 9), seed=0)


def test_training_data_redraws_only_when_asked():
    assert TrainingData(torch.zeros(1), torch.zeros(1)).redraw is None
