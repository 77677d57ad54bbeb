"""Mechanisms: the transformations whose inverses the experts are to learn.

A mechanism is a function `(images, generator, **parameters) -> images` listed in `MECHANISMS`. To add one,
write the function, add a line to the registry and a line to `docs/mechanisms.md`; the contract tests then
cover it. In configurations a mechanism is written as a call, and chains with a bar, applied left to right:
`"shift(dy=-4)"`, `"rotate(degrees=20) | invert"`.
"""

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from licm.checks import unknown_name

Transform = Callable[..., Tensor]

# --- The transformations: images [n, c, h, w] in [0, 1] -> images of the same shape, dtype and range ---------


def identity(images: Tensor, generator: Generator | None) -> Tensor:
    """Leaves the images as they are: an untouched part of a mixture."""
    return images.clone()


def shift(images: Tensor, generator: Generator | None, *, dy: int = 0, dx: int = 0) -> Tensor:
    """Moves by `dy` pixels down and `dx` pixels right; what comes in is black, what goes out is lost."""
    height, width = images.shape[-2:]
    moved = torch.zeros_like(images)
    if abs(dy) < height and abs(dx) < width:
        source_rows, rows = slice(max(-dy, 0), height - max(dy, 0)), slice(max(dy, 0), height - max(-dy, 0))
        source_cols, cols = slice(max(-dx, 0), width - max(dx, 0)), slice(max(dx, 0), width - max(-dx, 0))
        moved[..., rows, cols] = images[..., source_rows, source_cols]
    return moved


def invert(images: Tensor, generator: Generator | None) -> Tensor:
    """Inverts the contrast: 1 - p."""
    return 1 - images


def noise(images: Tensor, generator: Generator | None, *, variance: float = 0.25) -> Tensor:
    """Adds independent Gaussian noise of the given variance (0.25 is sigma 0.5), then clamps to [0, 1]."""
    drawn = torch.randn(images.shape, generator=generator).to(images)
    return (images + math.sqrt(variance) * drawn).clamp(0, 1)


def salt_and_pepper(images: Tensor, generator: Generator | None, *, probability: float = 0.2) -> Tensor:
    """Sets each pixel, with the given probability, to black or white at even odds."""
    drawn = torch.rand(images.shape, generator=generator).to(images.device)
    extreme = (drawn < probability / 2).to(images.dtype)
    return torch.where(drawn < probability, extreme, images)


def rotate(images: Tensor, generator: Generator | None, *, degrees: float = 20.0) -> Tensor:
    """Turns counter-clockwise about the centre; multiples of 90 degrees on square images are exact."""
    quarters, rest = divmod(degrees, 90)
    if rest == 0 and images.shape[-1] == images.shape[-2]:
        return torch.rot90(images, int(quarters % 4), dims=(-2, -1))
    angle = math.radians(degrees)
    return _affine(images, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def scale(images: Tensor, generator: Generator | None, *, factor: float = 0.7) -> Tensor:
    """Resizes the content about the centre by `factor`, on a frame of unchanged size."""
    return _affine(images, [[1 / factor, 0.0], [0.0, 1 / factor]])


def shear(images: Tensor, generator: Generator | None, *, degrees: float = 20.0) -> Tensor:
    """Slants horizontally by an angle."""
    return _affine(images, [[1.0, math.tan(math.radians(degrees))], [0.0, 1.0]])


def flip_horizontal(images: Tensor, generator: Generator | None) -> Tensor:
    """Mirrors left and right."""
    return images.flip(-1)


def flip_vertical(images: Tensor, generator: Generator | None) -> Tensor:
    """Mirrors top and bottom."""
    return images.flip(-2)


def blur(images: Tensor, generator: Generator | None, *, sigma: float = 1.5) -> Tensor:
    """Convolves with a Gaussian of standard deviation `sigma` pixels, zeros outside the frame."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    rows = F.conv2d(images, kernel[:, :, :, None], padding=(radius, 0), groups=images.shape[1])
    both = F.conv2d(rows, kernel[:, :, None, :], padding=(0, radius), groups=images.shape[1])
    return both.clamp(0, 1)


def gain(images: Tensor, generator: Generator | None, *, factor: float = 0.5, offset: float = 0.0) -> Tensor:
    """Scales and lifts the intensity, factor * p + offset, then clamps to [0, 1]."""
    return (factor * images + offset).clamp(0, 1)


def contrast(images: Tensor, generator: Generator | None, *, factor: float = 0.5) -> Tensor:
    """Scales the contrast about mid-grey, then clamps to [0, 1]; factors up to 1 lose nothing."""
    return (factor * (images - 0.5) + 0.5).clamp(0, 1)


def cast(images: Tensor, generator: Generator | None, *, channel: int = 0, factor: float = 0.5) -> Tensor:
    """Scales one channel alone, a colour cast, then clamps to [0, 1]; factors up to 1 lose nothing."""
    _check_channels(images, "cast", channel)
    tinted = images.clone()
    tinted[:, channel] = (factor * images[:, channel]).clamp(0, 1)
    return tinted


def swap_channels(images: Tensor, generator: Generator | None, *, first: int = 0, second: int = 2) -> Tensor:
    """Exchanges two channels: red and blue, unless others are named."""
    _check_channels(images, "swap_channels", first, second)
    order = list(range(images.shape[1]))
    order[first], order[second] = second, first
    return images[:, order]


def thicken(images: Tensor, generator: Generator | None, *, radius: int = 1) -> Tensor:
    """Grey-level dilation by a square of side 2 * radius + 1: bright strokes grow."""
    return F.max_pool2d(images, 2 * radius + 1, stride=1, padding=radius)


def thin(images: Tensor, generator: Generator | None, *, radius: int = 1) -> Tensor:
    """Grey-level erosion by a square of side 2 * radius + 1: bright strokes shrink."""
    return -F.max_pool2d(-images, 2 * radius + 1, stride=1, padding=radius)


def _check_channels(images: Tensor, name: str, *channels: int) -> None:
    if max(channels) >= images.shape[1]:
        raise ValueError(
            f"mechanism {name!r}: channel {max(channels)} needs images of at least {max(channels) + 1} channels, "
            f"got {images.shape[1]}"
        )


def _affine(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Resamples with the 2x2 map from output to input offsets (x, y) about the centre, in pixels."""
    height, width = images.shape[-2:]
    # affine_grid works in units of half the frame per axis; a map in pixels needs the aspect ratio.
    (xx, xy), (yx, yy) = matrix
    theta = torch.tensor([[xx, xy * height / width, 0], [yx * width / height, yy, 0]])
    grid = F.affine_grid(theta.to(images).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)


# --- The registry -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MechanismKind:
    """A family of mechanisms: its transformation, settings from weak to strong, and an inverse if exact.

    Attributes:
        transform: The function.
        levels: Keyword settings ordered from the weakest to the strongest.
        bounds: Smallest and largest valid value of parameters that have one.
        inverse: A function with the same parameters that undoes `transform` exactly wherever
            `inverse_valid` says so for the parameters, or None.
        inverse_valid: Whether `inverse` is exact for given parameters.
        of_colour: Whether it is meant for images of several channels: of grey ones it is refused, or a gain.
    """

    transform: Transform
    levels: tuple[Mapping[str, float], ...] = ({},)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    inverse: Transform | None = None
    inverse_valid: Callable[..., bool] = lambda **parameters: True
    of_colour: bool = False


def _levels(name: str, *values: float) -> tuple[Mapping[str, float], ...]:
    return tuple({name: value} for value in values)


MECHANISMS: dict[str, MechanismKind] = {
    "identity": MechanismKind(identity, inverse=identity),
    "shift": MechanismKind(shift, _levels("dx", 1, 2, 4, 6)),
    "invert": MechanismKind(invert, inverse=invert),
    "noise": MechanismKind(noise, _levels("variance", 0.01, 0.0625, 0.25), {"variance": (0, 100)}),
    "salt_and_pepper": MechanismKind(salt_and_pepper, _levels("probability", 0.05, 0.2, 0.4), {"probability": (0, 1)}),
    "rotate": MechanismKind(
        rotate,
        _levels("degrees", 5, 10, 20, 45),
        inverse=lambda images, generator, degrees=20.0: rotate(images, generator, degrees=-degrees),
        inverse_valid=lambda degrees=20.0: degrees % 90 == 0,
    ),
    "scale": MechanismKind(scale, _levels("factor", 0.9, 0.7, 0.5), {"factor": (0.01, 100)}),
    "shear": MechanismKind(shear, _levels("degrees", 5, 10, 20, 30), {"degrees": (-80, 80)}),
    "flip_horizontal": MechanismKind(flip_horizontal, inverse=flip_horizontal),
    "flip_vertical": MechanismKind(flip_vertical, inverse=flip_vertical),
    "blur": MechanismKind(blur, _levels("sigma", 0.5, 1, 1.5, 2.5), {"sigma": (0.05, 100)}),
    "gain": MechanismKind(gain, _levels("factor", 0.9, 0.5, 0.25), {"factor": (-100, 100), "offset": (-100, 100)}),
    "contrast": MechanismKind(
        contrast,
        _levels("factor", 0.9, 0.5, 0.2),
        {"factor": (-100, 100)},
        inverse=lambda images, generator, factor=0.5: (images - 0.5) / factor + 0.5,
        inverse_valid=lambda factor=0.5: 0 < factor <= 1,
    ),
    "cast": MechanismKind(
        cast,
        _levels("factor", 0.9, 0.5, 0.25),
        {"channel": (0, 2), "factor": (0, 100)},
        inverse=lambda images, generator, channel=0, factor=0.5: cast(images, None, channel=channel, factor=1 / factor),
        inverse_valid=lambda channel=0, factor=0.5: 0 < factor <= 1,
        of_colour=True,
    ),
    "swap_channels": MechanismKind(
        swap_channels, bounds={"first": (0, 2), "second": (0, 2)}, inverse=swap_channels, of_colour=True
    ),
    "thicken": MechanismKind(thicken, _levels("radius", 1, 2), {"radius": (0, 100)}),
    "thin": MechanismKind(thin, _levels("radius", 1, 2), {"radius": (0, 100)}),
}
"""The kinds of mechanisms by name; one of your own is an entry more."""

MECHANISM_SETS: dict[str, tuple[str, ...]] = {
    # Parascandolo et al. 2018: 8 translations by 4 px, contrast inversion, noise of variance 0.25.
    "paper": (
        "shift(dy=-4)",
        "shift(dy=-4, dx=4)",
        "shift(dx=4)",
        "shift(dy=4, dx=4)",
        "shift(dy=4)",
        "shift(dy=4, dx=-4)",
        "shift(dx=-4)",
        "shift(dy=-4, dx=-4)",
        "invert",
        "noise(variance=0.25)",
    ),
}
"""Lists of mechanisms by name."""


# --- Mechanisms and their notation --------------------------------------------------------------------------


@dataclass(frozen=True)
class Mechanism:
    """One mechanism M: a kind of the registry with its parameters bound.

    >>> half = Mechanism("contrast", {"factor": 0.5})
    >>> str(half), half.has_inverse
    ('contrast(factor=0.5)', True)
    """

    kind: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in MECHANISMS:
            raise ValueError(unknown_name("mechanism", self.kind, MECHANISMS))
        bounds = MECHANISMS[self.kind].bounds
        allowed = dict(list(inspect.signature(MECHANISMS[self.kind].transform).parameters.items())[2:])
        for name, value in self.parameters.items():
            if name not in allowed:
                raise ValueError(f"mechanism {self.kind!r}: {unknown_name('parameter', name, allowed)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
                raise ValueError(f"mechanism {self.kind!r}: {name} must be a finite number, got {value!r}")
            if allowed[name].annotation is int and not isinstance(value, int):
                raise ValueError(f"mechanism {self.kind!r}: {name} must be a whole number, got {value!r}")
            low, high = bounds.get(name, (-math.inf, math.inf))
            if not low <= value <= high:
                raise ValueError(f"mechanism {self.kind!r}: {name} must be in [{low}, {high}], got {value!r}")

    def __call__(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Transforms images [n, c, h, w] in [0, 1]; `generator` (CPU) is the source of any randomness."""
        return MECHANISMS[self.kind].transform(images, generator, **self.parameters)

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.kind}({inner})" if inner else self.kind

    @property
    def has_inverse(self) -> bool:
        """Whether an exact inverse is declared for these parameters."""
        kind = MECHANISMS[self.kind]
        return kind.inverse is not None and kind.inverse_valid(**self.parameters)

    def inverse(self, images: Tensor) -> Tensor:
        """Undoes the mechanism exactly.

        Raises:
            ValueError: If no exact inverse is declared.
        """
        inverse = MECHANISMS[self.kind].inverse
        if inverse is None or not self.has_inverse:
            raise ValueError(f"mechanism {str(self)!r} has no exact inverse")
        return inverse(images, None, **self.parameters)


@dataclass(frozen=True)
class Chain:
    """Mechanisms applied one after the other; itself a mechanism."""

    parts: tuple[Mechanism, ...]

    def __call__(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Transforms images [n, c, h, w] in [0, 1] by each part in turn."""
        for part in self.parts:
            images = part(images, generator)
        return images

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))

    @property
    def has_inverse(self) -> bool:
        """Whether every part declares an exact inverse."""
        return all(part.has_inverse for part in self.parts)

    def inverse(self, images: Tensor) -> Tensor:
        """Undoes the parts in reverse order; raises `ValueError` where one has no exact inverse."""
        for part in reversed(self.parts):
            images = part.inverse(images)
        return images


def parse_mechanism(text: str) -> Mechanism | Chain:
    """Reads a mechanism from its notation.

    Args:
        text: A name, a call with keyword numbers, or several joined by `|`, applied left to right.

    Raises:
        ValueError: If the notation, the name or a parameter is not understood.

    >>> str(parse_mechanism("shift(dy=-4)|invert"))
    'shift(dy=-4) | invert'
    """
    try:
        parts = _read_parts(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"mechanism {text!r}: expected NAME, NAME(parameter=number, ...) or several joined by '|'"
        ) from error
    return parts[0] if len(parts) == 1 else Chain(parts)


def _read_parts(node: ast.AST) -> tuple[Mechanism, ...]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return (*_read_parts(node.left), *_read_parts(node.right))
    if isinstance(node, ast.Name):
        return (Mechanism(node.id),)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return (Mechanism(node.func.id, {str(kw.arg): _read_number(kw.value) for kw in node.keywords}),)
    raise TypeError("not a mechanism")


def _read_number(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise TypeError("not a number") from error


def parse_mechanisms(notation: str | Sequence[str]) -> list[Mechanism | Chain]:
    """Reads a list of mechanisms, or the name of a set of `MECHANISM_SETS`.

    >>> len(parse_mechanisms("paper"))
    10
    """
    if isinstance(notation, str):
        if notation not in MECHANISM_SETS:
            raise ValueError(
                f"{unknown_name('mechanism set', notation, MECHANISM_SETS)}, or a list such as [invert, shift(dx=4)]"
            )
        notation = MECHANISM_SETS[notation]
    return [parse_mechanism(text) for text in notation]
