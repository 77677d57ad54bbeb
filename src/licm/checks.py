"""Checks of what users pass in, and the wording of the errors they see.

Each check names the argument, what was expected, what came and, for names, the nearest valid one.
"""

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal


def unknown_name(kind: str, name: object, valid: Collection[str]) -> str:
    """Returns the message for a name that is not in `valid`.

    >>> unknown_name("preset", "defualt", ["default", "paper"])
    "unknown preset 'defualt': did you mean 'default'? Valid: default, paper"
    """
    close = get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}Valid: {', '.join(sorted(valid)) or 'none'}"


def check_images(images: Any, name: str, *, channels: int | None = None) -> None:
    """Checks that `images` is a batch of images.

    Args:
        images: What should be a float tensor [n, c, h, w] of finite values in [0, 1].
        name: The argument's name, for the message.
        channels: The number of channels it must have, or None for any.

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If its shape, channels or values are wrong.
    """
    import torch  # here, as names and configurations are checked without it

    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor [n, c, h, w], got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name}: expected floating-point values in [0, 1], got dtype {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{name}: expected a non-empty batch [n, c, h, w], got shape {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"{name}: expected {channels} channel(s), got {images.shape[1]}")
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise ValueError(f"{name}: expected finite values in [0, 1], got values from {low:g} to {high:g}")


def check_picture(path: str | Path, *, new: bool = False) -> Literal["png", "svg"]:
    """Returns which kind of picture a path names.

    Args:
        path: Where it is to be written.
        new: Whether a file that is there already is refused.

    Raises:
        ValueError: If the name ends neither in .png nor in .svg, or the file is there and may not be.
    """
    path = Path(path)
    kinds: dict[str, Literal["png", "svg"]] = {".png": "png", ".svg": "svg"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{str(path)!r}: expected a name that ends in .png or .svg")
    if new and path.exists():
        raise ValueError(f"{str(path)!r} exists already: choose another name, nothing is overwritten")
    return kinds[path.suffix.lower()]
