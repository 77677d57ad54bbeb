"""Mechanisms p(x_j | pa_j): a table, a linear-Gaussian one, any scikit-learn estimator, and what interventions make.

Each is immutable: `fit` returns a fitted copy. A conditional sees its parents as an array [n, m], in the order of the
graph's nodes.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from licm.checks import unknown_name

Floats = NDArray[np.float64]
_LOG_2PI = float(np.log(2 * np.pi))
_MOST_CELLS = 1 << 26  # of a table, half a GB


class Conditional(Protocol):
    """The density of a variable given its parents."""

    @property
    def num_parents(self) -> int | None:
        """How many parents it takes, or None while it takes any number."""

    def fit(self, values: NDArray, parents: NDArray) -> "Conditional":
        """Returns a copy fitted to values [n] and parents [n, m]."""

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log p(values | parents) in nats, [n]."""

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one value for each row of parents [n, m], [n]."""


@dataclass(frozen=True, eq=False)
class Tabular:
    """A table of probabilities over states 0..k-1, given parents that are states too.

    Attributes:
        table: [k_1, ..., k_m, k] for m parents; rows sum to 1. None until fitted.
        pseudo_count: Added to every count in `fit`. A parents' state that never occurred gets even probabilities.
        num_states: k, where `fit` is not to take the largest state that occurs plus one.
        parent_states: (k_1, ..., k_m), likewise.
    """

    table: ArrayLike | None = None
    pseudo_count: float = 0.0
    num_states: int | None = None
    parent_states: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.table is not None:
            table = np.asarray(self.table, float)
            if table.ndim == 0 or not np.allclose(table.sum(axis=-1), 1) or (table < 0).any():
                raise ValueError("table: expected probabilities that sum to 1 along the last axis")
            object.__setattr__(self, "table", table)
        if self.pseudo_count < 0:
            raise ValueError(f"pseudo_count: expected at least 0, got {self.pseudo_count:g}")

    @property
    def num_parents(self) -> int | None:
        """How many parents it takes."""
        return None if self.table is None else np.ndim(self.table) - 1

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Returns a copy with the relative frequencies of values [n] given parents [n, m].

        Raises:
            ValueError: If these are not states, `parent_states` does not fit, or the table would be too large.
        """
        columns = [_as_states(column, None) for column in [*parents.T, values]]
        chosen = (*(self.parent_states or [None] * (len(columns) - 1)), self.num_states)
        if len(chosen) != len(columns):
            raise ValueError(f"parent_states: expected {len(columns) - 1} numbers, got {len(chosen) - 1}")
        shape = tuple(int(column.max()) + 1 if states is None else states for states, column in zip(chosen, columns))
        columns = [_as_states(column, states) for column, states in zip(columns, shape)]
        if prod(shape) > _MOST_CELLS:
            raise ValueError(
                f"tabular: a table of {' x '.join(map(str, shape))} states is too large; join some of them"
            )
        flat = np.ravel_multi_index(tuple(columns), shape)
        counts = np.bincount(flat, minlength=prod(shape)).reshape(shape) + self.pseudo_count
        total = counts.sum(axis=-1, keepdims=True)
        return replace(self, table=np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / shape[-1]))

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log probabilities in nats, [n]; -inf where the table has 0."""
        rows = self._rows(parents)
        states = _as_states(values, rows.shape[-1])
        with np.errstate(divide="ignore"):
            return np.log(rows[np.arange(len(rows)), states])

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one state for each row of parents, int [n]."""
        cumulative = np.cumsum(self._rows(parents), axis=1)
        uniform = draws.random(len(parents))[:, None] * cumulative[:, -1:]
        return np.minimum((uniform >= cumulative).sum(axis=1), cumulative.shape[1] - 1)

    def _rows(self, parents: NDArray) -> Floats:
        table = _fitted(self.table)
        states = tuple(_as_states(column, size) for column, size in zip(parents.T, table.shape))
        return table[states] if states else np.broadcast_to(table, (len(parents), len(table)))


def _as_states(column: NDArray, num_states: int | None) -> NDArray[np.intp]:
    column = np.asarray(column)
    limit = "" if num_states is None else f" below {num_states}"
    if column.dtype.kind not in "biuf":
        raise ValueError(f"tabular: expected states 0, 1, ...{limit}, got {column[0]!r}; ChowLiu has codes for words")
    states = column.astype(np.intp)
    if (states != column).any() or (states < 0).any() or (num_states is not None and (states >= num_states).any()):
        raise ValueError(f"tabular: expected states 0, 1, ...{limit}, got {column.min()} to {column.max()}")
    return states


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """x = intercept + weights . parents + N(0, deviation^2).

    Attributes:
        weights: [m], one per parent; None until fitted.
        intercept: In units of x.
        deviation: Standard deviation of the noise, above 0.
    """

    weights: ArrayLike | None = None
    intercept: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", np.atleast_1d(np.asarray(self.weights, float)))
        if not self.deviation > 0:
            raise ValueError(f"deviation: expected above 0, got {self.deviation:g}")

    @property
    def num_parents(self) -> int | None:
        """How many parents it takes."""
        return None if self.weights is None else np.size(self.weights)

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Returns a copy fitted by maximum likelihood (least squares).

        Raises:
            ValueError: If there are words, or nothing is left to be noise: the values are constant or an exact function
                of the parents.
        """
        values, parents = _as_numbers(values), _as_numbers(parents)
        design = np.column_stack([np.ones(len(values)), parents])
        coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
        deviation = float(np.sqrt(np.mean((values - design @ coefficients) ** 2)))
        if deviation <= 1e-12 * float(np.abs(values).max()):
            raise ValueError("linear-Gaussian: the values are an exact function of the parents; use PointMass for a do")
        return replace(self, weights=coefficients[1:], intercept=float(coefficients[0]), deviation=deviation)

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log densities in nats, [n]."""
        return _log_normal(_as_numbers(values), self._mean(parents), self.deviation)

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one value for each row of parents, [n]."""
        return self._mean(parents) + self.deviation * draws.standard_normal(len(parents))

    def _mean(self, parents: NDArray) -> Floats:
        return self.intercept + _as_numbers(parents) @ _fitted(self.weights)


def _as_numbers(values: NDArray) -> NDArray:
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        first = values.ravel()[0] if values.size else values
        raise ValueError(f"linear-Gaussian: expected numbers, got {first!s}")
    return values


def _log_normal(values: NDArray, mean: Floats, deviation: float) -> Floats:
    return -0.5 * (((values - mean) / deviation) ** 2 + _LOG_2PI) - np.log(deviation)


@dataclass(frozen=True)
class Estimator:
    """A scikit-learn regressor, with Gaussian noise around its prediction, or classifier, with its probabilities.

    Attributes:
        estimator: `fit` clones it. One with `predict_proba` is taken for a classifier.
        deviation: Of a regressor's noise: the root mean squared residual of `fit`. Of a very flexible regressor this
            is too small; limit its flexibility.
        fitted_parents: Number of parents it was fitted with.
    """

    estimator: Any
    deviation: float | None = None
    fitted_parents: int | None = None

    @property
    def num_parents(self) -> int | None:
        """How many parents it takes."""
        return self.fitted_parents

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Returns a copy with a fitted clone.

        Raises:
            ValueError: If there are no parents to predict from, or a classifier gives no probabilities.
        """
        from sklearn.base import clone, is_classifier

        if is_classifier(self.estimator) and not self._classifies:
            name = type(self.estimator).__name__
            raise ValueError(
                f"estimator: {name} has no predict_proba, which a density needs; CalibratedClassifierCV adds it"
            )
        if parents.shape[1] == 0:
            raise ValueError("estimator: needs at least one parent; give a node without parents a table or a Gaussian")
        fitted = clone(self.estimator).fit(parents, values)
        deviation = None
        if not self._classifies:
            deviation = max(float(np.sqrt(np.mean((values - fitted.predict(parents)) ** 2))), np.finfo(float).tiny)
        return replace(self, estimator=fitted, deviation=deviation, fitted_parents=parents.shape[1])

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log densities or probabilities in nats, [n]; -inf for a class that `fit` has not seen."""
        _fitted(self.fitted_parents)
        if not self._classifies:
            return _log_normal(values, self.estimator.predict(parents), float(self.deviation or 0))
        classes = self.estimator.classes_
        column = np.minimum(np.searchsorted(classes, values), len(classes) - 1)
        with np.errstate(divide="ignore"):
            found = np.log(self.estimator.predict_proba(parents)[np.arange(len(values)), column])
        return np.where(classes[column] == values, found, -np.inf)

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one value or class for each row of parents, [n]."""
        _fitted(self.fitted_parents)
        if not self._classifies:
            return self.estimator.predict(parents) + float(self.deviation or 0) * draws.standard_normal(len(parents))
        cumulative = np.cumsum(self.estimator.predict_proba(parents), axis=1)
        column = (draws.random(len(parents))[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
        return self.estimator.classes_[np.minimum(column, cumulative.shape[1] - 1)]

    @property
    def _classifies(self) -> bool:
        return hasattr(self.estimator, "predict_proba")


@dataclass(frozen=True)
class PointMass:
    """All probability on one value: what a hard intervention puts in a mechanism's place."""

    value: float | int

    @property
    def num_parents(self) -> int:
        """None are listened to."""
        return 0

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Returns itself: there is nothing to learn."""
        return self

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns 0 where the value is the point's, else -inf, [n]."""
        return np.where(np.asarray(values) == self.value, 0.0, -np.inf)

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns the value once for each row of parents, [n]."""
        return np.full(len(parents), self.value)


@dataclass(frozen=True)
class Shifted:
    """A soft intervention: the mechanism, and then `by` added to what it gives."""

    inner: Conditional
    by: float

    @property
    def num_parents(self) -> int | None:
        """Those of the mechanism."""
        return self.inner.num_parents

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Returns a copy whose mechanism is fitted to the values before the shift."""
        return replace(self, inner=self.inner.fit(values - self.by, parents))

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log densities in nats, [n]."""
        return self.inner.log_density(values - self.by, parents)

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one value for each row of parents, [n]."""
        return self.inner.sample(parents, draws) + self.by


@dataclass(frozen=True)
class Blend:
    """A soft intervention: with probability `share` another mechanism acts in the first one's place."""

    inner: Conditional
    other: Conditional
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected a probability in [0, 1], got {self.share:g}")

    @property
    def num_parents(self) -> int | None:
        """Those of the mechanisms."""
        return self.inner.num_parents

    def fit(self, values: NDArray, parents: NDArray) -> Self:
        """Refuses: which of the two acted is not known.

        Raises:
            ValueError: Always.
        """
        raise ValueError("blend: cannot be fitted; fit the mechanism, then intervene")

    def log_density(self, values: NDArray, parents: NDArray) -> Floats:
        """Returns log densities in nats, [n]."""
        with np.errstate(divide="ignore"):
            return np.logaddexp(
                np.log1p(-self.share) + self.inner.log_density(values, parents),
                np.log(self.share) + self.other.log_density(values, parents),
            )

    def sample(self, parents: NDArray, draws: Generator) -> NDArray:
        """Returns one value for each row of parents, [n]."""
        acts = draws.random(len(parents)) < self.share
        return np.where(acts, self.other.sample(parents, draws), self.inner.sample(parents, draws))


def _fitted(value: Any) -> Any:
    if value is None:
        from sklearn.exceptions import NotFittedError

        raise NotFittedError("this conditional is not fitted: call fit first")
    return value


CONDITIONALS = {"tabular": Tabular, "linear_gaussian": LinearGaussian}


def as_conditional(given: "Conditional | str | Any") -> Conditional:
    """Returns a conditional as it is, by its name, or around a scikit-learn estimator.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is nothing of the three.
    """
    if isinstance(given, str):
        if given not in CONDITIONALS:
            raise ValueError(unknown_name("conditional", given, CONDITIONALS))
        return CONDITIONALS[given]()
    if hasattr(given, "log_density") and hasattr(given, "sample"):
        return given
    if hasattr(given, "predict") and hasattr(given, "fit"):
        return Estimator(given)
    raise TypeError(f"conditional: expected one of licm.causal, a name or an estimator, got {type(given).__name__}")
