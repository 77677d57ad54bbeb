"""Heaps of images of any sizes, of which training sees random crops of one size."""

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from licm.pictures import measure, read_picture, top_left, with_channels
from licm.seeding import generator, shuffled
from licm.sources import load_images
from licm.usable import UsableImages

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

        Of a folder, images that cannot be used are left out with a warning: damaged ones, links out, and 16-bit grey
        among colour. One that only later turns out to be damaged, or is gone, gives its turns to the next in the order
        of the names, so that crops depend on nothing but the files, the seed and the step.

        Args:
            path: A folder of images, or another source of `licm.sources.load_images`.
            size: Height and width of the crops; smaller images are padded with black, as `data.image_size` does.
            channels: Of a folder, 1 converts to grey, 3 to colour; None is 1 if all images are grey, else 3.
            room: Bytes of decoded images to keep.

        Raises:
            ValueError: If the folder cannot be read, or none or less than half of its images can be used.
        """
        self.size, self._kept = size, dict[int, np.ndarray]()
        self._room, self._unusable = room, set[int]()
        if Path(path).is_dir():
            self._usable = UsableImages(path)
            headers = self._usable.read(measure)
            self.channels = channels or max(each for each, _ in headers)
            if sum(self.channels * length // each for each, length in headers) <= room:
                self._kept = dict(enumerate(self._usable.read(self._decode)))
            self._length = len(self._usable.paths)
        else:
            images = load_images(path).images.numpy()
            self._length, self.channels = len(images), images.shape[1]
            self._kept = dict(enumerate(images))

    def __len__(self) -> int:
        return self._length

    def crops(self, indices: Tensor, draws: Generator) -> Tensor:
        """Returns a random crop of each of the images at `indices` [k]: float32 [k, channels, size, size] in [0, 1].

        Raises:
            ValueError: If more than half of the images cannot be read, of those that had no room in memory.
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
        passes = {e: shuffled(len(self), seed, purpose, e) for e in orders}
        indices = torch.stack([passes[p // len(self)][p % len(self)] for p in places])
        return self.crops(indices, generator(seed, f"{purpose}: places", step))

    def sample(self, *, purpose: str) -> Tensor:
        """Returns about a thousand crops that stand for the heap, always the same: [k, channels, size, size]."""
        room = SAMPLE_BYTES // (4 * self.channels * self.size**2)
        return self.batch(0, max(2, min(SAMPLE, room)), seed=0, purpose=purpose)

    def _pixels(self, index: int) -> np.ndarray:
        """Returns an image, or of one that cannot be used the next that can."""
        while index not in self._kept:
            if index not in self._unusable:
                try:
                    pixels = self._decode(self._usable.paths[index])
                except ValueError as error:
                    self._usable.leave_out(error)
                    self._unusable.add(index)
                else:
                    if pixels.nbytes <= self._room:
                        self._room -= pixels.nbytes
                        self._kept[index] = pixels
                    return pixels
            index = (index + 1) % len(self)
        return self._kept[index]

    def _decode(self, path: Path) -> np.ndarray:
        picture = read_picture(path)
        try:
            return with_channels(picture, self.channels).pixels
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
