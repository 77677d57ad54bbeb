"""The forms in which examples are given to Python: arrays, tensors, data sets and paths to tensors, and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor
from torch.utils.data import Dataset

from licm.checks import KINDS, check_images
from licm.pictures import is_image_file
from licm.sources import ImageSet, load_image_file, load_images

PATHS = (str, Path)
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # with which torch can do little


@dataclass(frozen=True)
class Given:
    """Images, signals or vectors as the method takes them, and the way back to the form in which they were given.

    Attributes:
        images: float32 in [0, 1], of a layout in `licm.checks.LAYOUTS`.
        give_back: Turns such images of the same shape into the container, shape and type that were given.
    """

    images: Tensor
    give_back: Callable[[Tensor], Any]


def count_axes(X: Any, name: str) -> int:
    """Returns the number of axes of an array or of nested lists; raises a `TypeError` for what has none, and words."""
    array = X if hasattr(X, "ndim") else np.asarray(X)
    if not array.ndim:
        raise TypeError(f"{name}: expected an array, tensor, data set or path, got {type(X).__name__}")
    if array.ndim == 1 and len(array) and isinstance(np.asarray(array)[0], PATHS):
        many = f"{len(array)} paths or words"
        raise TypeError(f"{name}: expected an array, tensor, data set or one path, got {many}; give images as a folder")
    return array.ndim


def read_images(
    X: Any,
    name: str,
    expected: tuple[int, ...] | None = None,
    *,
    dims: int = 2,
    channels: int | None = None,
    usable_only: bool = False,
) -> Given:
    """Reads examples of any form that `MechanismInverter` lists.

    Args:
        X: What was given.
        name: The argument's name, for messages.
        expected: The shape that each must have, such as (c, h, w); None for any.
        dims: 2 for images, 1 for signals, 0 for vectors.
        channels: Of a folder of images: 1 for grey, 3 for colour; None as they are.
        usable_only: Whether bad images of a folder are left out, as in `licm.sources.load_image_folder`.

    Raises:
        TypeError: If they are of a kind that is not listed.
        ValueError: If they are not as described.
    """
    if dims < 2 and isinstance(X, (*PATHS, ImageSet)):
        raise TypeError(f"{name}: expected an array, tensor or data set of {KINDS[dims]}, got {type(X).__name__}")
    values, array_type = _as_tensor(X, name, channels, usable_only)
    shape, dtype = values.shape, values.dtype
    if dtype in _UNSIGNED:
        values = values.to(torch.int64)
    images = _with_channels(values, name, expected) if dims == 2 else values
    if dims == 1 and values.ndim == 2:
        images = values[:, None]
    if dims == 2 and not dtype.is_floating_point:
        narrow = dtype in (torch.bool, torch.int8)  # which cannot hold what comes out
        low, high = (0, 0) if narrow or 0 in shape else (int(value) for value in images.aminmax())
        if narrow or low < 0 or high > 255:
            got = dtype if narrow else f"values from {low} to {high}"
            raise ValueError(f"{name}: expected integers in 0..255 or numbers in [0, 1], got {got}")
        images = images.float() / 255
    check_images(images, name, dims=dims)
    if expected is not None and tuple(images.shape[1:]) != expected:
        want, got = (" x ".join(map(str, each)) for each in (expected, images.shape[1:]))
        raise ValueError(f"{name}: expected {KINDS[dims]} like those of the fit, {want}, got {got}")

    def give_back(restored: Tensor) -> Any:
        restored = restored.reshape(shape)
        restored = restored if dtype.is_floating_point else (restored * 255).round()
        return restored.to(dtype) if array_type is None else restored.cpu().numpy().astype(array_type)

    return Given(images.float(), give_back)


def _as_tensor(X: Any, name: str, channels: int | None, usable_only: bool) -> tuple[Tensor, np.dtype[Any] | None]:
    """Returns the values as given, and of which type they are to come back as an array, or None."""
    if isinstance(X, PATHS) and is_image_file(X):
        return load_image_file(X, channels=channels).images, np.dtype(np.uint8)
    if isinstance(X, PATHS):
        return load_images(X, channels=channels, usable_only=usable_only).images, np.dtype(np.uint8)
    if isinstance(X, ImageSet):
        return X.images, None
    if isinstance(X, Tensor):
        if X.layout != torch.strided or X.is_complex() or X.is_quantized:
            raise TypeError(f"{name}: expected a dense tensor of real numbers, got {X.layout}, {X.dtype}")
        return X.detach().cpu(), None
    if isinstance(X, Dataset):
        try:
            if not (items := [X[index] for index in range(len(X))]):  # type: ignore[arg-type]
                raise ValueError("an empty one")
            return torch.stack([item[0] if isinstance(item, tuple | list) else item for item in items]), None
        except (TypeError, RuntimeError, LookupError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{name}: expected a dataset of image tensors of one size, got {reason}") from None
    if np.ma.is_masked(X):
        raise ValueError(f"{name}: expected an array without gaps, got masked values")
    array = check_array(X, dtype="numeric", allow_nd=True, ensure_2d=count_axes(X, name) < 3, input_name=name)
    known = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    return torch.tensor(np.ascontiguousarray(array, known)), array.dtype


def _with_channels(values: Tensor, name: str, expected: tuple[int, ...] | None) -> Tensor:
    """Turns images of any layout into [n, c, h, w]."""
    if values.ndim == 2:
        count, features = values.shape
        side = math.isqrt(features)
        if expected is not None and features == math.prod(expected):
            return values.reshape(count, *expected)
        if side * side != features:
            raise ValueError(
                f"{name}: expected rows of square grey images, got {features} feature(s), which is no square; "
                "give images that are not as [n, c, h, w], and vectors with kind='vectors'"
            )
        return values.reshape(count, 1, side, side)
    if values.ndim == 3:
        return values[:, None]
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(f"{name}: expected [n, h, w], [n, 1 or 3, h, w] or [n, h * w], got {list(values.shape)}")
    return values
