"""The images of a folder that training can use: bad ones are left out with a warning, as long as most are good."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from licm.pictures import list_images

NAMED = 5  # images that are left out are named in a warning each, up to so many of a folder; the others are counted

T = TypeVar("T")

logger = logging.getLogger(__name__)


class UsableImages:
    """The images in a folder and its subfolders but for those that cannot be used.

    Attributes:
        paths: Those still thought usable, in the order of their names.
        total: How many images there are, with those that are left out.
        left_out: How many are left out so far.
    """

    def __init__(self, folder: str | Path) -> None:
        """Lists a folder; links that are not followed are left out.

        Raises:
            ValueError: If a folder cannot be read, there is no image, or more than half are left out.
        """
        listing = list_images(folder)
        listing.require(folder)
        names, refused, _ = listing
        self._folder, self.left_out, self.total = Path(folder), 0, len(names) + len(refused)
        self.paths = [Path(folder, name) for name in names]
        self._leave_out([f"{Path(folder, name)}: {reason}" for name, reason in sorted(refused.items())])

    def read(self, reader: Callable[[Path], T]) -> list[T]:
        """Reads all `paths`; those of which the reader raises a `ValueError` are no longer among them.

        Raises:
            ValueError: If more than half of the folder's images are now left out.
        """
        found, reasons = dict[Path, T](), []
        for path in self.paths:
            try:
                found[path] = reader(path)
            except ValueError as error:
                reasons.append(str(error))
        self.paths = list(found)
        self._leave_out(reasons)
        return list(found.values())

    def leave_out(self, error: ValueError) -> None:
        """Counts one more image as left out, for who reads images later; it stays among the paths.

        Raises:
            ValueError: If more than half of the folder's images are now left out.
        """
        self._leave_out([str(error)])

    def _leave_out(self, reasons: list[str]) -> None:
        """Warns of images by why, which names each."""
        room = max(0, NAMED - self.left_out)
        self.left_out += len(reasons)
        if 2 * self.left_out > self.total:
            told = f"{self.left_out} of {self.total} images cannot be used, which is more than half"
            raise ValueError(f"{self._folder}: {told}; the last: {reasons[-1]}")
        for reason in reasons[:room]:
            logger.warning("warning: left out of training: %s", reason)
        if len(reasons) > room:
            told = "warning: %d of the %d images of %r are left out of training, not all of them named"
            logger.warning(told, self.left_out, self.total, str(self._folder))
