"""How the figures look: themes, labels that keep their distance, files that are the same for the same records.

Nothing is told by colour alone: lines differ in width and dash and carry their name, cells carry their number,
winners a frame. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours: of the background, of text, of lesser text, of lines behind, and two that stand out."""

    paper: str
    ink: str
    muted: str
    faint: str
    accent: str
    second: str

    def scale(self) -> LinearSegmentedColormap:
        """The colours from nothing to everything."""
        return LinearSegmentedColormap.from_list("shares", [self.paper, self.accent])


LIGHT = Theme("#ffffff", "#1b1b1b", "#5f5f5f", "#c4c4c4", "#0072b2", "#d55e00")
DARK = Theme("#16181d", "#ececec", "#a8a8a8", "#5b5e66", "#56b4e9", "#e69f00")


@contextmanager
def canvas(theme: Theme, width: float, height: float) -> Iterator[Figure]:
    """Gives an empty figure, in inches, and the theme's colours to what is drawn on it meanwhile."""
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "figure.facecolor": theme.paper,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
    }
    with mpl.rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Returns a figure as a file's content, the same bytes for the same figure; PNG has 150 dots per inch."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "licm"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def label_at_right(axes: Axes, height: float, text: str, **style: Any) -> None:
    """Writes beside the axes, at a height in units of the data: the name of a line where it ends."""
    place = axes.get_yaxis_transform()
    axes.annotate(
        text, (1, height), xycoords=place, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, **style
    )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights apart to at least `gap`, keeping their order and the middle of those that are moved.

    >>> spread([0.5, 0.5, 0.9], 0.1)
    [0.45, 0.55, 0.9]
    """
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in sorted(range(len(heights)), key=heights.__getitem__):
        group, centre = [index], heights[index]
        while groups and centre - centres[-1] < gap * (len(group) + len(groups[-1])) / 2:
            group = groups.pop() + group
            centres.pop()
            centre = sum(heights[i] for i in group) / len(group)
        groups.append(group)
        centres.append(centre)
    result = list(heights)
    for group, centre in zip(groups, centres):
        for rank, index in enumerate(group):
            result[index] = centre + gap * (rank - (len(group) - 1) / 2)
    return result


def wrapped(text: str | None, width: int = 36) -> str:
    """Breaks a text into lines of at most `width` characters.

    >>> print(wrapped("moves by 4 px up", width=8))
    moves by
    4 px up
    """
    return "\n".join(textwrap.wrap(text or "wins too little to say", width))


def smoothed(values: Sequence[float], decay: float = 0.95) -> list[float]:
    """Returns the moving average of a noisy curve, from its first value on.

    >>> smoothed([1, 0], decay=0.75)
    [1, 0.75]
    """
    result = [values[0]]
    for value in values[1:]:
        result.append(decay * result[-1] + (1 - decay) * value)
    return result


def mosaic(images: np.ndarray, gaps: Sequence[int], gap: int) -> tuple[np.ndarray, list[int], list[int]]:
    """Puts images in rows and columns on a transparent ground.

    Args:
        images: uint8 [rows, columns, c, h, w], c of 1 or 3.
        gaps: Pixels left of each column.
        gap: Pixels between rows.

    Returns:
        uint8 [height, width, 4], the left edge of each column and the upper edge of each row.
    """
    count, _, _, high, wide = images.shape
    lefts = [sum(gaps[: column + 1]) + column * wide for column in range(len(gaps))]
    uppers = [row * (high + gap) for row in range(count)]
    ground = np.zeros((uppers[-1] + high, lefts[-1] + wide, 4), dtype=np.uint8)
    for upper, row in zip(uppers, images):
        for left, image in zip(lefts, row):
            cell = ground[upper : upper + high, left : left + wide]
            cell[..., :3], cell[..., 3] = np.broadcast_to(image, (3, high, wide)).transpose(1, 2, 0), 255
    return ground, lefts, uppers
