"""Checks of what users pass in, and the wording of the errors they see.

Each check names the argument, what was expected, what came and, for names, the nearest valid one.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

KINDS = ("vectors", "signals", "images")
"""What examples are called by `dims`, the number of axes along which they extend."""
LAYOUTS = ("[n, d]", "[n, c, t]", "[n, c, h, w]")
"""How a batch of each kind is laid out; d counts as channels of examples that have no extent."""
BY_CROPS = "two folders of any sizes are trained on by crops (data.crop_size)"
"""The way on for images of sizes that are refused."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, in Python's words or in torch's.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory")), is_out_of_memory(RuntimeError("device lost"))
    (True, False)
    """
    told = isinstance(error, RuntimeError) and re.search("allocate memory|out of memory", str(error))
    return isinstance(error, MemoryError) or bool(told)


def unknown_name(kind: str, name: object, valid: Collection[str]) -> str:
    """Returns the message for a name that is not in `valid`.

    >>> unknown_name("preset", "defualt", ["default", "paper"])
    "unknown preset 'defualt': did you mean 'default'? Valid: default, paper"
    """
    close = get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}Valid: {', '.join(sorted(valid)) or 'none'}"


def check_images(images: Any, name: str, *, channels: int | None = None, dims: int | None = 2) -> None:
    """Checks that `images` is a batch of images or, where these are expected, of signals or vectors.

    Args:
        images: What should be a float tensor of finite values in [0, 1], of the layout in `LAYOUTS` of its `dims`.
        name: The argument's name, for the message.
        channels: The number of channels it must have, of vectors that of coordinates, or None for any.
        dims: Along how many axes examples extend: 2, 1 for signals, 0 for vectors; None for any of these.

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If its shape, channels or values are wrong.
    """
    import torch  # here, as names and configurations are checked without it

    layout = " or ".join(LAYOUTS) if dims is None else LAYOUTS[dims]
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor {layout}, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name}: expected floating-point values in [0, 1], got dtype {images.dtype}")
    fits = images.ndim == dims + 2 if dims is not None else 2 <= images.ndim <= 4
    if not fits or 0 in images.shape:
        raise ValueError(f"{name}: expected a non-empty batch {layout}, got shape {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        what = "coordinate(s)" if images.ndim == 2 else "channel(s)"
        raise ValueError(f"{name}: expected {channels} {what}, got {images.shape[1]}")
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise ValueError(f"{name}: expected finite values in [0, 1], got values from {low:g} to {high:.9g}")


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
