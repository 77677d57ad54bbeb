"""Image files of any sizes through the experts of a run that was trained on crops: whole, each in its own size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from licm.confidence import Calibration, gather_evidence
from licm.full_size import TILE_PIXELS, apply_expert, restore_full_size
from licm.pictures import Picture, check_pixels, find_images, is_grey, is_image_file, read_picture, with_channels
from licm.run import Run
from licm.sources import load_images

_MOST = 128  # images that go through at once, as far as they have no more than TILE_PIXELS in all


@dataclass(frozen=True)
class Restored:
    """What became of images.

    Attributes:
        scores: D's mean probabilities over crops, float32 [N', n] in [0, 1]; 0 for retired experts.
        winners: int64 [n].
        images: The winners' outputs, [c, h, w] each, of the size and depth (uint8 or uint16) of the image.
        reasons: Why the run abstains from each, as `Calibration.reasons` says it; none without a calibration.
    """

    scores: Tensor
    winners: Tensor
    images: list[np.ndarray]
    reasons: list[str]


def restore_whole(run: Run, path: str | Path, *, calibration: Calibration | None = None) -> Restored:
    """Restores the images of a folder, in the order of their names, or of a file, as `licm restore` does.

    Raises:
        ValueError: If an image cannot be read or is not of the run's channels, or there is none.
    """
    pictures = _read_all(run, path)
    scores = torch.zeros(len(run.experts), len(pictures))
    winners = torch.zeros(len(pictures), dtype=torch.int64)
    reasons = [""] * (0 if calibration is None else len(pictures))
    found: dict[int, np.ndarray] = {}
    for indices, batch in _of_one_size(run, pictures):
        means, chosen, restored = restore_full_size(run.experts, run.discriminator, batch)
        scores[:, indices], winners[indices] = means.float(), chosen
        found |= {index: as_pixels(output, pictures[index]) for index, output in zip(indices, restored)}
        if calibration is not None:
            told = calibration.reasons(gather_evidence(run, batch, means, chosen, restored))
            for index, reason in zip(indices, told):
                reasons[index] = reason
    images = [found[index] for index in range(len(pictures))]
    return Restored(scores, winners, images, reasons)


def apply_whole(run: Run, path: str | Path, *, mechanism: int) -> list[np.ndarray]:
    """Does to whole clean images what `Run.apply` does to those of a crop's size; arguments and errors are alike."""
    run.apply(torch.zeros(1, *run.discriminator.input_shape), mechanism=mechanism)  # refuses what cannot be
    pictures = _read_all(run, path)
    assert run.competition.forward is not None
    network, found = run.competition.forward[mechanism], dict[int, np.ndarray]()
    for indices, batch in _of_one_size(run, pictures):
        found |= {
            index: as_pixels(output, pictures[index]) for index, output in zip(indices, apply_expert(network, batch))
        }
    return [found[index] for index in range(len(pictures))]


def _read_all(run: Run, path: str | Path) -> list[Picture]:
    path = Path(path)
    if path.is_dir():
        return [read_for(run, each) for each in find_images(path)]
    if is_image_file(path):
        return [read_for(run, path)]
    return [_in_channels(run, Picture(image, "PNG"), path) for image in load_images(path).images.numpy()]


def read_for(run: Run, path: Path, *, keep_content: bool = False) -> Picture:
    """Reads an image if the run can restore it, in the run's channels, and what is in the file where that is asked for.

    Raises:
        ValueError: If it cannot be read, is in colour where the run is not, or is too large once it is padded.
    """
    return _in_channels(run, read_picture(path, keep_content=keep_content), path)


def padded_size(run: Run, picture: Picture) -> int:
    """Returns how many pixels an image has where it is padded to D's size, as `restore_full_size` does."""
    height, width = (max(side, run.discriminator.image_size) for side in picture.pixels.shape[1:])
    return height * width


def _in_channels(run: Run, picture: Picture, path: Path) -> Picture:
    channels = run.discriminator.channels
    if channels == 1 and run.config.data.channels is None and not is_grey(picture):
        raise ValueError(f"{path}: expected a grey image, as the run was trained on, got colour")
    try:
        check_pixels(padded_size(run, picture), "padded with black to the size of training")
        return with_channels(picture, channels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _of_one_size(run: Run, pictures: list[Picture]) -> Iterator[tuple[list[int], Tensor]]:
    """Yields the images on the run's device, those of one size together, and their indices."""
    of_size: dict[tuple[int, ...], list[int]] = {}
    for index, picture in enumerate(pictures):
        of_size.setdefault(picture.pixels.shape, []).append(index)
    for (_, height, width), indices in of_size.items():
        most = min(_MOST, max(1, TILE_PIXELS // (height * width)))
        for start in range(0, len(indices), most):
            part = indices[start : start + most]
            yield part, as_batch([pictures[index] for index in part]).to(run.device)


def as_batch(pictures: Sequence[Picture]) -> Tensor:
    """Returns pictures of one size as float32 [n, c, h, w] in [0, 1]."""
    return torch.from_numpy(np.stack([picture.pixels.astype(np.float32) / picture.white for picture in pictures]))


def as_pixels(output: Tensor, picture: Picture) -> np.ndarray:
    """Returns an output [c, h, w] in [0, 1] in the depth of the picture it was made of."""
    return output.mul(picture.white).round().cpu().numpy().astype(picture.pixels.dtype)
