"""Simple operators fitted to pairs of images: what a network does to its input, in words and with a quality.

The family: an image is moved by whole pixels, its texture is smoothed or sharpened, its tones are inverted or scaled
and lifted, and the result is clamped to [0, 1]. Every part may be left out, and is unless it explains more. Fits are
least squares over all pixels of all pairs; no label is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from licm.checks import check_images
from licm.mechanisms import blur, shift

Texture = Literal["as it is", "smoothed", "sharpened"]
Tone = Literal["as it is", "inverted", "scaled"]

SIGMAS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the Gaussians tried, in pixels
PART_COST = 0.05  # what a part must explain to be worth its mention, in units of quality
FITS_WELL, FITS_ROUGHLY = 0.8, 0.5


@dataclass(frozen=True)
class Operator:
    """x -> clamp(gain * t(shift(x)) + offset), with t the texture: nothing, a Gaussian, or an unsharp mask.

    Attributes:
        dy: Pixels down.
        dx: Pixels right.
        texture: What happens to details.
        sigma: Of its Gaussian, in pixels; 0 for none.
        amount: Of sharpening: t(u) = u + amount * (u - Gaussian(u)).
        tone: What happens to intensities.
        gain: Their factor, -1 for an inversion.
        offset: What is added then, 1 for an inversion.
    """

    dy: int = 0
    dx: int = 0
    texture: Texture = "as it is"
    sigma: float = 0.0
    amount: float = 0.0
    tone: Tone = "as it is"
    gain: float = 1.0
    offset: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether it moves images."""
        return (self.dy, self.dx) != (0, 0)

    @property
    def parts(self) -> int:
        """How many parts it has; scaling counts twice, for its two numbers."""
        return self.moves + (self.texture != "as it is") + {"as it is": 0, "inverted": 1, "scaled": 2}[self.tone]

    def __call__(self, images: Tensor) -> Tensor:
        """Applies it to images [n, c, h, w] in [0, 1]; black comes in where they are moved."""
        moved = shift(images, None, dy=self.dy, dx=self.dx)
        return (self.gain * _textured(moved, self) + self.offset).clamp(0, 1)

    def __str__(self) -> str:
        """In words, as what is done.

        >>> str(Operator(dy=-4, dx=2, tone="inverted", gain=-1, offset=1))
        'moves by 4 px up and 2 px right, inverts the contrast'
        """
        said = []
        if self.moves:
            said.append(f"moves by {to_where(self.dy, self.dx)}")
        if self.texture == "smoothed":
            said.append(f"smooths (sigma {self.sigma:g} px)")
        elif self.texture == "sharpened":
            said.append(f"sharpens (sigma {self.sigma:g} px, amount {self.amount:.1f})")
        if self.tone == "inverted":
            said.append("inverts the contrast")
        elif self.tone == "scaled":
            sign = "+" if self.offset >= 0 else "-"
            said.append(f"turns intensity p into {self.gain:.2f} p {sign} {abs(self.offset):.2f}")
        return ", ".join(said) or "leaves images as they are"


def to_where(dy: int, dx: int) -> str:
    """Says a movement in words.

    >>> to_where(-4, 0)
    '4 px up'
    """
    ways = [(dy, "down", "up"), (dx, "right", "left")]
    return " and ".join(f"{abs(d)} px {plus if d > 0 else minus}" for d, plus, minus in ways if d)


@dataclass(frozen=True)
class Fit:
    """An operator and the share of the outputs' variance that it explains: 1 is exact, 0 no better than their mean."""

    operator: Operator
    quality: float


def fit_operator(inputs: Tensor, outputs: Tensor, *, radius: int) -> Fit:
    """Finds the simplest operator that turns inputs into outputs.

    Of all combinations of parts the one with the highest quality is taken, less `PART_COST` for each part. Where
    images are moved, only pixels that were in the frame before count.

    Args:
        inputs: [n, c, h, w] in [0, 1].
        outputs: The same shape and range.
        radius: Movements are tried up to so many pixels each way.

    Raises:
        ValueError: If an argument is not as described, or all outputs are of one and the same colour.
    """
    check_images(inputs, "inputs")
    check_images(outputs, "outputs")
    if inputs.shape != outputs.shape:
        raise ValueError(f"outputs: expected the shape of inputs, {tuple(inputs.shape)}, got {tuple(outputs.shape)}")
    if outputs.amax() - outputs.amin() < 1e-3:
        raise ValueError("outputs: all are of one and the same colour, so every operator would fit")
    inputs, outputs = inputs.float(), outputs.float()
    fits = _fits(inputs, outputs, radius)
    return max(fits, key=lambda fit: fit.quality - PART_COST * fit.operator.parts)


def best_shift(inputs: Tensor, outputs: Tensor, radius: int) -> tuple[int, int]:
    """Returns by how many pixels (down, right) inputs are to be moved to correlate most with outputs, in either sign.

    Args:
        inputs: [n, c, h, w].
        outputs: The same shape.
        radius: The largest movement tried, smaller than h and w.
    """
    steps = range(-radius, radius + 1)
    places = [(dy, dx) for dy in steps for dx in steps]
    correlations = []
    for dy, dx in places:
        pair = torch.stack([shift(inputs, None, dy=dy, dx=dx), outputs])[(..., *_overlap(inputs, dy, dx))].flatten(1)
        pair = pair - pair.mean(dim=1, keepdim=True)
        norms = pair.norm(dim=1).prod()
        correlations.append((pair[0] @ pair[1]).abs() / norms if norms > 1e-9 else torch.zeros((), dtype=pair.dtype))
    best = torch.stack(correlations).argmax()
    # Nothing is gained by a movement that correlates as well as none.
    none = places.index((0, 0))
    return places[none if correlations[none] >= correlations[best] - 1e-6 else int(best)]


def _fits(inputs: Tensor, outputs: Tensor, radius: int) -> Iterator[Fit]:
    """All operators worth a look: numbers of tone and texture by least squares."""
    dy, dx = best_shift(inputs, outputs, min(radius, min(inputs.shape[-2:]) - 2))
    for still in dict.fromkeys((Operator(), Operator(dy=dy, dx=dx))):
        region = (..., *_overlap(inputs, still.dy, still.dx))
        images = shift(inputs, None, dy=still.dy, dx=still.dx)
        moved, wanted = images[region].flatten(), outputs[region].flatten()
        yield from _toned(still, moved, wanted)
        for sigma in SIGMAS:
            coarse = blur(images, None, sigma=sigma)[region].flatten()
            yield from _toned(replace(still, texture="smoothed", sigma=sigma), coarse, wanted)
            yield from _sharpened(replace(still, texture="sharpened", sigma=sigma), moved, moved - coarse, wanted)


def _toned(operator: Operator, textured: Tensor, wanted: Tensor) -> Iterator[Fit]:
    """The operator with each tone; `textured` are the pixels that it has made so far."""
    (gain,), offset = _least_squares([textured], wanted)
    for tone in (operator, _inverted(operator), replace(operator, tone="scaled", gain=gain, offset=offset)):
        yield _fit(tone, textured, wanted)


def _sharpened(operator: Operator, moved: Tensor, detail: Tensor, wanted: Tensor) -> Iterator[Fit]:
    """The operator with each tone and the amount of sharpening that goes with it, where there is one."""
    (gain, share), offset = _least_squares([moved, detail], wanted)
    tones = [(replace(operator, tone="scaled", gain=gain, offset=offset), share / gain if gain else 0.0)]
    for tone in (operator, _inverted(operator)):
        left = wanted - tone.gain * moved - tone.offset
        tones.append((tone, tone.gain * ((detail @ left) / (detail @ detail).clamp(min=1e-9)).item()))
    for tone, amount in tones:
        if amount > 0:
            yield _fit(replace(tone, amount=amount), moved + amount * detail, wanted)


def _inverted(operator: Operator) -> Operator:
    return replace(operator, tone="inverted", gain=-1.0, offset=1.0)


def _fit(operator: Operator, textured: Tensor, wanted: Tensor) -> Fit:
    error = ((operator.gain * textured + operator.offset).clamp(0, 1) - wanted).square().mean()
    return Fit(operator, 1 - (error / wanted.var(correction=0).clamp(min=1e-9)).item())


def _least_squares(features: list[Tensor], wanted: Tensor) -> tuple[list[float], float]:
    """The factors of features, and the offset, that come nearest to what is wanted."""
    matrix = torch.stack([*features, torch.ones_like(wanted)])
    normal, right = (matrix @ matrix.T).double(), (matrix @ wanted).double()
    *gains, offset = (torch.linalg.pinv(normal, hermitian=True, rtol=1e-6) @ right).tolist()
    return gains, offset


def _textured(images: Tensor, operator: Operator) -> Tensor:
    if operator.texture == "as it is":
        return images
    coarse = blur(images, None, sigma=operator.sigma)
    return coarse if operator.texture == "smoothed" else images + operator.amount * (images - coarse)


def _overlap(images: Tensor, dy: int, dx: int) -> tuple[slice, slice]:
    """The rows and columns that were in the frame before the movement."""
    height, width = images.shape[-2:]
    return slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
