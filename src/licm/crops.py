"""Heaps of images of any sizes, of which training sees random crops of one size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from licm.pictures import find_images, measure, read_picture, top_left, with_channels
from licm.seeding import generator
from licm.sources import load_images

ROOM = 1 << 30  # bytes of decoded images that a heap keeps; what is beyond is read again for each crop
SAMPLE, SAMPLE_BYTES = 1000, 1 << 28  # crops that stand for a heap where all must be seen at once, and their room


class Heap:
    """Images of any sizes, in memory as far as they have room there.

    Attributes:
        size: Height and width of the crops.
        channels: Of the crops, 1 or 3.
    """

    def __init__(self, path: str | Path, *, size: int, channels: int | None = None, room: int = ROOM) -> None:
        """Opens a heap, and decodes all of it if there is room.

        Args:
            path: A folder of images, or another source of `licm.sources.load_images`.
            size: Height and width of the crops; smaller images are padded with black, as `data.image_size` does.
            channels: 1 converts to grey, 3 to colour; None is 1 if all images are grey, else 3.
            room: Bytes of decoded images to keep.

        Raises:
            ValueError: If the folder or an image cannot be read or there is none, or 16-bit grey is among colour.
        """
        self.size, self._kept = size, dict[int, np.ndarray]()
        self._paths: Sequence[Path] = find_images(path) if Path(path).is_dir() else []
        if self._paths:
            self._length, self._room = len(self._paths), room
            headers = [measure(image) for image in self._paths]
            self.channels = channels or max(each for each, _ in headers)
            if sum(self.channels * length // each for each, length in headers) <= room:
                for index in range(self._length):
                    self._pixels(index)
        else:
            images = load_images(path).images.numpy()
            self._length, self.channels = len(images), images.shape[1]
            self._kept = dict(enumerate(images))

    def __len__(self) -> int:
        return self._length

    def crops(self, indices: Tensor, draws: Generator) -> Tensor:
        """Returns a random crop of each of the images at `indices` [k]: float32 [k, channels, size, size] in [0, 1].

        Raises:
            ValueError: If an image that had no room in memory can no longer be read.
        """
        places = torch.rand(len(indices), 2, generator=draws, dtype=torch.float64).numpy()
        found = torch.zeros(len(indices), self.channels, self.size, self.size)
        for crop, index, place in zip(found.numpy(), indices.tolist(), places):
            pixels = self._pixels(index)
            height, width = pixels.shape[1:]
            top, left = ((place * [max(0, side - self.size) + 1 for side in (height, width)]).astype(int)).tolist()
            seen = pixels[:, top : top + self.size, left : left + self.size]
            down, right = top_left(seen.shape[1], seen.shape[2], self.size)
            crop[:, down : down + seen.shape[1], right : right + seen.shape[2]] = seen / np.float32(
                np.iinfo(pixels.dtype).max
            )
        return found

    def batch(self, step: int, size: int, *, seed: int, purpose: str) -> Tensor:
        """Returns the crops of a step, which depend on nothing but (seed, purpose, step): [size, channels, ...].

        Each pass over the images is in a fresh order and takes one crop of each; passes follow each other without a
        break, so that a heap may be smaller than a batch.
        """
        places = range(step * size, (step + 1) * size)
        orders = {p // len(self): None for p in places}
        passes = {e: torch.randperm(len(self), generator=generator(seed, purpose, e)) for e in orders}
        indices = torch.stack([passes[p // len(self)][p % len(self)] for p in places])
        return self.crops(indices, generator(seed, f"{purpose}: places", step))

    def sample(self, *, purpose: str) -> Tensor:
        """Returns about a thousand crops that stand for the heap, always the same: [k, channels, size, size]."""
        room = SAMPLE_BYTES // (4 * self.channels * self.size**2)
        return self.batch(0, max(2, min(SAMPLE, room)), seed=0, purpose=purpose)

    def _pixels(self, index: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        path = self._paths[index]
        picture = read_picture(path)
        try:
            pixels = with_channels(picture, self.channels).pixels
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[index] = pixels
        return pixels
