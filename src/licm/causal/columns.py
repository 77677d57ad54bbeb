"""Named columns of observations: what comes in, its checks, and its states as codes."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = Mapping[Any, ArrayLike]
Kind = Literal["auto", "discrete", "gaussian", "mixed"]
Missing = Literal["refuse", "pairwise", "category"]

MAX_STATES = 32  # an integer column with more distinct values counts as continuous under kind="auto"


def as_columns(data: Table | ArrayLike, names: Sequence[Hashable] | None = None) -> dict[Any, NDArray]:
    """Returns the columns of a table by name.

    Args:
        data: A mapping from a name to a column [n] (a data frame is one in this respect), or an array [n, d].
        names: Of the columns of an array; x0, x1, ... by default.

    Raises:
        ValueError: If there is no column or no row, columns differ in length or share a name, a value is infinite, or
            `names` do not fit.
    """
    if hasattr(data, "items"):
        if names is not None:
            raise ValueError("names: are those of the mapping, got both")
        columns = {}
        for name, column in data.items():
            if name in columns:  # a data frame may have it twice
                raise ValueError(f"data: two columns are named {name!r}")
            columns[name] = _as_array(column)
    else:
        array = np.asarray(data)
        if array.ndim != 2:
            raise ValueError(f"data: expected a mapping of columns or an array [n, d], got shape {array.shape}")
        chosen = [f"x{index}" for index in range(array.shape[1])] if names is None else list(names)
        if len(set(chosen)) != array.shape[1]:
            raise ValueError(f"names: expected {array.shape[1]} different ones, got {len(set(chosen))}")
        columns = dict(zip(chosen, map(_as_array, array.T)))
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


def _as_array(column: ArrayLike) -> NDArray:
    """A column; numbers among `None` as numbers."""
    array = np.asarray(column)
    if array.dtype.kind == "O" and array.ndim == 1:
        gone = is_missing(array)
        if all(isinstance(value, Real) for value in array[~gone]):
            return np.array([np.nan if missing else value for value, missing in zip(array, gone)], float)
    return array


def columns_of(nodes: Iterable[Any], data: Table, name: str = "data") -> dict[Any, NDArray]:
    """Returns the columns of some nodes; others are not looked at.

    Args:
        nodes: Their names.
        data: A column [n] for each.
        name: The argument's, for the message.

    Raises:
        ValueError: If a node has no column or values are missing, or as `as_columns`.
    """
    chosen = {}
    for node in nodes:
        if node not in data:
            raise ValueError(f"{name}: no column for node {node!r}")
        chosen[node] = data[node]
    columns = as_columns(chosen)
    for node, column in columns.items():
        if is_missing(column).any():
            raise ValueError(f"{name}: column {node!r} has missing values")
    return columns


def is_words(column: NDArray) -> bool:
    """Whether a column has no numbers."""
    return column.dtype.kind not in "biuf"


def is_missing(column: NDArray) -> NDArray[np.bool_]:
    """Returns where a column has no value: NaN, None or an empty string, [n]."""
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind == "O":
        return np.array([_is_nothing(value) for value in column], bool)
    if column.dtype.kind in "mM":
        return np.isnat(column)
    return column == "" if column.dtype.kind == "U" else np.zeros(len(column), bool)


def _is_nothing(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return not value
    return type(value).__name__ in ("NAType", "NaTType") or value != value  # pandas' own cannot be asked


def is_continuous(column: NDArray) -> bool:
    """Whether a column counts as continuous: fractions, or integers with more than `MAX_STATES` distinct values."""
    if column.dtype.kind == "f":
        known = column[~np.isnan(column)]
        if len(known) and (known != np.round(known)).any():
            return True
        return len(np.unique(known)) > MAX_STATES
    if column.dtype.kind not in "iu" or int(column.max()) - int(column.min()) < MAX_STATES:
        return False
    return len(np.unique(column)) > MAX_STATES


def choose_kind(columns: Mapping[Any, NDArray], kind: Kind) -> Kind:
    """Returns what `auto` means for these columns, or checks that another kind can be had.

    Raises:
        ValueError: If a column of words is to be Gaussian.
    """
    if kind == "gaussian":
        words = [name for name, column in columns.items() if is_words(column)]
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
            codes[~gone] = np.searchsorted(self.edges[1:-1], known.astype(float))
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
        bins: Number of equally filled bins of a continuous column; None for a discrete one. A value as frequent as
            several bins has one of its own, and there are fewer.
        missing_state: Whether a missing value is a state of its own.
    """
    known = column[~is_missing(column)]
    edges = None if bins is None else _edges(known.astype(float), bins)
    values = known.astype(str) if known.dtype.kind == "O" else known
    labels = np.unique(values) if edges is None else edges[:-1]
    return Coding(labels, edges, len(labels) if missing_state else None)


def _edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The edges of bins (a, b] that are equally filled, or fewer where a value alone fills several."""
    low, high = values.min(), values.max()
    cuts = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    cuts = np.unique(np.minimum(cuts, np.nextafter(high, -np.inf)))  # the last bin has the greatest value in any case
    return np.array([low, *cuts[cuts >= low], high])


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
                "set missing to 'pairwise' or 'category', or leave them out"
            )
