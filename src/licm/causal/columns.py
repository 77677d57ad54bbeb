"""Named columns of observations: what comes in, its checks, and its states as codes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["auto", "discrete", "gaussian", "mixed"]
Missing = Literal["refuse", "pairwise", "category"]

MAX_STATES = 32  # an integer column with more distinct values counts as continuous under kind="auto"


def as_columns(
    data: Mapping[Any, ArrayLike] | ArrayLike, names: Sequence[Hashable] | None = None
) -> dict[Any, NDArray]:
    """Returns the columns of a table by name.

    Args:
        data: A mapping from a name to a column [n], or an array [n, d].
        names: Of the columns of an array; x0, x1, ... by default.

    Raises:
        ValueError: If there is no column or no row, columns differ in length, a value is infinite, or `names` do not
            fit.
    """
    if isinstance(data, Mapping):
        if names is not None:
            raise ValueError("names: are those of the mapping, got both")
        columns = {name: np.asarray(column) for name, column in data.items()}
    else:
        array = np.asarray(data)
        if array.ndim != 2:
            raise ValueError(f"data: expected a mapping of columns or an array [n, d], got shape {array.shape}")
        chosen = [f"x{index}" for index in range(array.shape[1])] if names is None else list(names)
        if len(set(chosen)) != array.shape[1]:
            raise ValueError(f"names: expected {array.shape[1]} different ones, got {len(set(chosen))}")
        columns = dict(zip(chosen, array.T))
    if not columns:
        raise ValueError("data: expected at least one column, got none")
    lengths = {len(column) if column.ndim == 1 else -1 for column in columns.values()}
    if len(lengths) > 1 or -1 in lengths:
        shapes = ", ".join(f"{name}: {column.shape}" for name, column in list(columns.items())[:5])
        raise ValueError(f"data: expected columns [n] of one length, got {shapes}")
    if 0 in lengths:
        raise ValueError("data: expected at least one row, got none")
    for name, column in columns.items():
        if column.dtype.kind == "f" and np.isinf(column).any():
            raise ValueError(f"data: column {name!r} has infinite values")
    return columns


def is_missing(column: NDArray) -> NDArray[np.bool_]:
    """Returns where a column has no value: NaN, None or an empty string, [n]."""
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind == "O":
        return np.array([value is None or value == "" or value != value for value in column], bool)
    return column == "" if column.dtype.kind == "U" else np.zeros(len(column), bool)


def is_continuous(column: NDArray) -> bool:
    """Whether a column counts as continuous: fractions, or integers with more than `MAX_STATES` distinct values."""
    if column.dtype.kind == "f":
        known = column[~np.isnan(column)]
        if len(known) and (known != np.round(known)).any():
            return True
        return len(np.unique(known)) > MAX_STATES
    return column.dtype.kind in "iu" and int(column.max()) - int(column.min()) >= MAX_STATES and (
        len(np.unique(column)) > MAX_STATES
    )  # fmt: skip


def choose_kind(columns: Mapping[Any, NDArray], kind: Kind) -> Kind:
    """Returns what `auto` means for these columns, or checks that another kind can be had.

    Raises:
        ValueError: If a column of words is to be Gaussian or the kind is unknown.
    """
    if kind not in ("auto", "discrete", "gaussian", "mixed"):
        raise ValueError(f"kind: expected auto, discrete, gaussian or mixed, got {kind!r}")
    if kind == "gaussian":
        words = [name for name, column in columns.items() if column.dtype.kind not in "biuf"]
        if words:
            raise ValueError(f"kind: gaussian needs numbers, column {words[0]!r} has none")
    if kind != "auto":
        return kind
    continuous = [is_continuous(column) for column in columns.values()]
    return "gaussian" if all(continuous) else "mixed" if any(continuous) else "discrete"


@dataclass(frozen=True)
class Coding:
    """How the values of one column become states 0..k-1 and come back.

    Attributes:
        labels: The value of each state, [k]; with `edges`, the lower end of each bin.
        edges: Of the bins of a continuous column, [k + 1]; None for a discrete one.
        missing: The state that stands for a missing value, or None.
    """

    labels: NDArray
    edges: NDArray[np.float64] | None = None
    missing: int | None = None

    @property
    def num_states(self) -> int:
        """k, with the state of missing values."""
        return len(self.labels) + (self.missing is not None)

    def encode(self, column: NDArray, name: Any) -> NDArray[np.intp]:
        """Returns states [n], -1 for a missing value that has no state.

        Raises:
            ValueError: If a discrete column has a value that was not there when the coding was made.
        """
        gone = is_missing(column)
        codes = np.full(len(column), -1 if self.missing is None else self.missing, np.intp)
        known = column[~gone]
        if self.edges is not None:
            codes[~gone] = np.searchsorted(self.edges[1:-1], known.astype(float), side="right")
            return codes
        known = known.astype(str) if self.labels.dtype.kind == "U" else known
        found = np.minimum(np.searchsorted(self.labels, known), len(self.labels) - 1)
        new = self.labels[found] != known
        if new.any():
            raise ValueError(
                f"data: column {name!r} has the value {known[new][0].item()!r}, which was not there in fit"
            )
        codes[~gone] = found
        return codes

    def decode(self, codes: NDArray[np.integer], draws: np.random.Generator) -> NDArray:
        """Returns values [n]; those of a continuous column are drawn evenly from their bin."""
        if self.edges is not None:
            inner = np.minimum(codes, len(self.labels) - 1)
            values = draws.uniform(self.edges[inner], self.edges[inner + 1])
            return np.where(codes == self.missing, np.nan, values) if self.missing is not None else values
        if self.missing is None:
            return self.labels[codes]
        return np.array([*self.labels.tolist(), None], dtype=object)[codes]


def make_coding(column: NDArray, *, bins: int | None, missing_state: bool) -> Coding:
    """Returns the coding of a column.

    Args:
        column: [n].
        bins: Number of equally filled bins of a continuous column; None for a discrete one.
        missing_state: Whether a missing value is a state of its own.
    """
    known = column[~is_missing(column)]
    if bins is None:
        labels = np.unique(known.astype(str) if known.dtype.kind == "O" else known)
        edges = None
    else:
        edges = np.unique(np.quantile(known.astype(float), np.linspace(0, 1, bins + 1))) if len(known) else np.zeros(1)
        edges = np.append(edges, edges[-1]) if len(edges) == 1 else edges  # a constant column has one bin
        labels = edges[:-1]
    return Coding(labels, edges, len(labels) if missing_state else None)


def refuse_missing(columns: Mapping[Any, NDArray]) -> None:
    """Refuses missing values.

    Raises:
        ValueError: Naming the first column that has some.
    """
    for name, column in columns.items():
        count = int(is_missing(column).sum())
        if count:
            raise ValueError(
                f"data: column {name!r} has {count} missing value(s); "
                "choose missing='pairwise' or missing='category', or leave them out"
            )
