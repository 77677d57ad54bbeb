"""What a run learns from and is judged by: disjoint originals, the fixed mixture Q, and batches of both.

Training receives images only. The number of the mechanism behind each image of the mixture and the hidden
originals are kept beside them for evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from licm.crops import Heap
from licm.downloads import MIRRORS
from licm.mechanisms import parse_mechanisms
from licm.pictures import top_left
from licm.seeding import generator, shuffled
from licm.sources import (
    ImageSet,
    find_idx_files,
    load_embedded,
    load_idx_folder,
    load_images,
    load_mnist,
    load_omniglot,
)

IN_MEMORY = "in memory"  # in place of a path, for images that were given to Python; they are in no file

Transformation = Callable[[Tensor, Generator | None], Tensor]


@dataclass(frozen=True)
class Originals:
    """Four disjoint sets of originals; `test` is touched by evaluation alone."""

    canonical: ImageSet
    to_transform: ImageSet
    validation: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Mixture:
    """Images each under one mechanism.

    Attributes:
        images: What is seen, x' = M_m(x), float32 [n, c, h, w] in [0, 1].
        mechanism: m, int64 [n]; for evaluation only.
        originals: x, float32 [n, c, h, w]; for evaluation only.
        labels: Class of the original, int64 [n], or None; for evaluation only.
    """

    images: Tensor
    mechanism: Tensor
    originals: Tensor
    labels: Tensor | None = None

    def select(self, indices: slice | Tensor) -> "Mixture":
        """Returns the images at `indices`."""
        labels = None if self.labels is None else self.labels[indices]
        return Mixture(self.images[indices], self.mechanism[indices], self.originals[indices], labels)


def load_originals(source: str, *, seed: int, image_size: int | None = None, channels: int | None = None) -> Originals:
    """Loads a source and splits it into disjoint originals.

    The embedded set has fixed parts. Of a set with official training and test parts, one 60th of the training
    part is for validation and halves of the rest are canonical and to be transformed. A set without a test
    part gives a tenth to the test, the same for all seeds, and another tenth to validation.

    Args:
        source: "embedded", "mnist", "fashion-mnist", "omniglot", or a path: a folder of images or of MNIST's four
            IDX files, a `.npz` or IDX file, or an Omniglot `.zip`.
        seed: Decides the split of all but the embedded set, and never what is in the test part.
        image_size: Pad with black to this height and width; None leaves the size.
        channels: Of a folder of images: 1 for grey, 3 for colour; None as they are.

    Raises:
        ValueError: If the source is not understood, too small, or larger than `image_size`.
    """
    if source == "embedded":
        parts = load_embedded()
    elif source in ("mnist", "fashion-mnist") or find_idx_files(source):
        train, test = load_mnist(source) if source in MIRRORS else load_idx_folder(source)
        parts = {**_split(train, seed, len(train) // 60), "test": test}
    else:
        if source == "omniglot" or source.endswith(".zip"):
            images = load_omniglot(None if source == "omniglot" else source)
        else:
            images = load_images(source, channels=channels, usable_only=True)
        tenth = len(images) // 10
        order = torch.randperm(len(images), generator=generator(0, "test split"))
        parts = {**_split(images.select(order[tenth:]), seed, tenth), "test": images.select(order[:tenth])}
    return Originals(**{name: _padded(part, image_size) for name, part in parts.items()})


def _split(images: ImageSet, seed: int, validation: int) -> dict[str, ImageSet]:
    if validation < 1:
        raise ValueError(f"data.source: too few images to split, got {len(images)}")
    order = torch.randperm(len(images), generator=generator(seed, "split"))
    parts, start = {}, 0
    half = (len(images) - validation) // 2
    for name, size in {"validation": validation, "canonical": half, "to_transform": half}.items():
        parts[name] = images.select(order[start : start + size])
        start += size
    return parts


def _kind(images: Tensor) -> str:
    return f"{images.shape[-1]}x{images.shape[-2]} px {'grey' if images.shape[1] == 1 else 'colour'}"


def _check_alike(real: str, fake: str) -> None:
    if real != fake:
        hint = "" if real.split()[-1] == fake.split()[-1] else "; folders are read as grey with data.channels=1"
        raise ValueError(f"data.transformed: expected images like those of data.canonical, {real}, got {fake}{hint}")


def _padded(images: ImageSet, size: int | None) -> ImageSet:
    height, width = images.images.shape[-2:]
    if size is None or (height, width) == (size, size):
        return images
    if max(height, width) > size:
        raise ValueError(f"data.image_size: the images are {width}x{height} px, larger than {size}")
    top, left = top_left(height, width, size)
    border = (left, size - width - left, top, size - height - top)
    return replace(images, images=F.pad(images.images, border))


def to_float(images: Tensor) -> Tensor:
    """Turns uint8 images in 0..255 into float32 in [0, 1]."""
    return images.float().div_(255)


def to_bytes(images: Tensor) -> np.ndarray:
    """Turns images in [0, 1], on any device, into a uint8 array, rounded."""
    return (images * 255).round().to(torch.uint8).cpu().numpy()


def apply_mechanisms(
    originals: Tensor, mechanism: Tensor, mechanisms: Sequence[Transformation], draws: Generator
) -> Tensor:
    """Applies to each original its mechanism.

    Args:
        originals: float [n, c, h, w] in [0, 1].
        mechanism: int64 [n], the index in `mechanisms` for each image.
        mechanisms: The mechanisms.
        draws: The source of the mechanisms' randomness.
    """
    images = torch.empty_like(originals)
    for index in mechanism.unique().tolist():
        chosen = mechanism == index
        images[chosen] = mechanisms[index](originals[chosen], draws)
    return images


def draw_mechanisms(count: int, num_mechanisms: int, weights: Sequence[float] | None, draws: Generator) -> Tensor:
    """Draws a mechanism for each of `count` images, int64 [count].

    Raises:
        ValueError: If `weights` are not one non-negative number per mechanism with a positive sum.
    """
    if weights is None:
        return torch.randint(num_mechanisms, (count,), generator=draws)
    if len(weights) != num_mechanisms or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"data.mechanism_weights: expected {num_mechanisms} non-negative numbers with a positive sum, "
            f"got {tuple(weights)}"
        )
    return torch.multinomial(torch.tensor(weights).double(), count, replacement=True, generator=draws)


def make_mixture(
    originals: ImageSet,
    mechanisms: Sequence[Transformation],
    *,
    draws: Generator,
    weights: Sequence[float] | None = None,
    round_robin: bool = False,
) -> Mixture:
    """Puts each original under one mechanism, once.

    Args:
        originals: The originals.
        mechanisms: The mechanisms.
        draws: The source of the assignment and of the mechanisms' randomness.
        weights: Relative frequencies of the mechanisms; None for equal ones.
        round_robin: Assign in turn over a random order, so that the counts differ by at most one.
    """
    images = to_float(originals.images)
    if round_robin:
        mechanism = torch.empty(len(images), dtype=torch.int64)
        mechanism[torch.randperm(len(images), generator=draws)] = torch.arange(len(images)) % len(mechanisms)
    else:
        mechanism = draw_mechanisms(len(images), len(mechanisms), weights, draws)
    return Mixture(apply_mechanisms(images, mechanism, mechanisms, draws), mechanism, images, originals.labels)


@dataclass(frozen=True)
class TrainingData:
    """All that training may see, and the validation mixture that its monitor reports on.

    Attributes:
        canonical: Sample of P, float32 [n, c, h, w].
        transformed: Sample of Q, float32 [m, c, h, w].
        validation: Monitoring; nothing of it decides anything in training. None for one's own images.
        redraw: Where the mixture is drawn afresh, (indices, generator) -> images; else None.
        labels: Class of each canonical image, int64 [n], or None; for monitoring only, like `validation`.
        heaps: Images of any sizes, canonical and transformed, of which batches are random crops; else None.
            `canonical` and `transformed` are then samples of their crops, for what looks at all at once.
    """

    canonical: Tensor
    transformed: Tensor
    validation: Mixture | None = None
    redraw: Callable[[Tensor, Generator], Tensor] | None = None
    labels: Tensor | None = None
    heaps: tuple[Heap, Heap] | None = None

    def batch(self, step: int, size: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """Returns the canonical and the transformed batch of a step, which depend on nothing but (seed, step)."""
        if self.heaps is not None:
            real, fake = (
                heap.batch(step, size, seed=seed, purpose=f"{name} crops")
                for heap, name in zip(self.heaps, ("canonical", "transformed"))
            )
            return real, fake
        real = self.canonical[batch_indices(len(self.canonical), size, step, seed, "canonical batches")]
        indices = batch_indices(len(self.transformed), size, step, seed, "transformed batches")
        if self.redraw is None:
            return real, self.transformed[indices]
        return real, self.redraw(indices, generator(seed, "fresh mixture", step))


def batch_indices(count: int, size: int, step: int, seed: int, purpose: str) -> Tensor:
    """Returns the indices of batch `step` (from 0) when each pass over `count` images is in a fresh order.

    Raises:
        ValueError: If there are fewer images than a batch.
    """
    if count < size:
        raise ValueError(f"batch_size: {size} is more than the {count} images of the {purpose}")
    epoch, position = divmod(step, count // size)
    return shuffled(count, seed, purpose, epoch)[position * size : (position + 1) * size]


def load_training_data(
    *,
    source: str,
    mechanisms: str | Sequence[str],
    seed: int,
    channels: int | None = None,
    image_size: int | None = None,
    fresh_mixture: bool = False,
    mechanism_weights: Sequence[float] | None = None,
    canonical: str | None = None,
    transformed: str | None = None,
    crop_size: int | None = None,
) -> TrainingData:
    """Loads what a run trains on: a source under known mechanisms, or one's own two folders.

    Raises:
        ValueError: If only one of `canonical` and `transformed` is given, their images differ in shape, a source
            cannot be read, or there is a `crop_size` without them.
    """
    if (canonical is None) != (transformed is None):
        raise ValueError("data: canonical and transformed go together, got only one of them")
    if canonical is not None and transformed is not None:
        if IN_MEMORY in (canonical, transformed):
            raise ValueError("data: the run was trained on images in memory, which its folder does not keep")
        if crop_size is not None:
            return _crops_of(canonical, transformed, crop_size, channels)
        real, fake = (
            _padded(load_images(path, channels=channels, usable_only=True), image_size).images
            for path in (canonical, transformed)
        )
        _check_alike(_kind(real), _kind(fake))
        return TrainingData(to_float(real), to_float(fake))
    if crop_size is not None:
        raise ValueError("data.crop_size: crops are of images of one's own, data.canonical and data.transformed")
    originals = load_originals(source, seed=seed, image_size=image_size, channels=channels)
    chosen = parse_mechanisms(mechanisms)
    mixture = make_mixture(originals.to_transform, chosen, draws=generator(seed, "mixture"), weights=mechanism_weights)

    def redraw(indices: Tensor, draws: Generator) -> Tensor:
        drawn = draw_mechanisms(len(indices), len(chosen), mechanism_weights, draws)
        return apply_mechanisms(mixture.originals[indices], drawn, chosen, draws)

    return TrainingData(
        canonical=to_float(originals.canonical.images),
        transformed=mixture.images,
        validation=evaluation_mixture(originals.validation, chosen),
        redraw=redraw if fresh_mixture else None,
        labels=originals.canonical.labels,
    )


def _crops_of(canonical: str, transformed: str, size: int, channels: int | None) -> TrainingData:
    real, fake = (Heap(path, size=size, channels=channels) for path in (canonical, transformed))
    _check_alike(*("grey" if heap.channels == 1 else "colour" for heap in (real, fake)))
    return TrainingData(
        real.sample(purpose="canonical sample"), fake.sample(purpose="transformed sample"), heaps=(real, fake)
    )


def evaluation_mixture(originals: ImageSet, mechanisms: Sequence[Transformation]) -> Mixture:
    """Puts originals under mechanisms in turn, by a fixed seed: the same for all models and runs."""
    return make_mixture(originals, mechanisms, draws=generator(0, "evaluation mixture"), round_robin=True)
