"""Tables in files: CSV with the standard library, Parquet with pyarrow (the extra `data`)."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MISSING_WORDS = frozenset({"", "na", "nan", "null", "none", "?"})


def read_table(path: str | Path) -> dict[str, NDArray]:
    """Reads named columns from a file, numbers as numbers.

    A CSV file has names in its first row. A column is of integers or of fractions where all its values are; missing
    values (empty, NA, NaN, null, None or ?) become NaN there, and empty strings in a column of words.

    Args:
        path: Ends in .csv or .parquet.

    Returns:
        A column [n] for each name.

    Raises:
        ValueError: If the file cannot be read or is no table, which is said in one line.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"table {str(path)!r}: expected a name that ends in {' or '.join(readers)}")
    if not path.is_file():
        raise ValueError(f"table {str(path)!r}: there is no such file")
    return readers[path.suffix.lower()](path)


def _read_csv(path: Path) -> dict[str, NDArray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"table {str(path)!r}: cannot be read as CSV: {error}") from None
    if len(rows) < 2:
        raise ValueError(f"table {str(path)!r}: expected a row of names and at least one of values, got {len(rows)}")
    names = [name.strip() for name in rows[0]]
    _check_names(path, names)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(
                f"table {str(path)!r}: row {number} has {len(row)} values, the first has {len(names)} names"
            )
    return {name: _numbers(np.array(column)) for name, column in zip(names, zip(*rows[1:]))}


def _check_names(path: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        if not name:
            raise ValueError(f"table {str(path)!r}: column {index + 1} has no name")
        if name in names[:index]:
            raise ValueError(f"table {str(path)!r}: two columns are named {name!r}")


def _numbers(column: NDArray) -> NDArray:
    """A column of words as numbers where it is one."""
    column = np.char.strip(column)
    missing = np.isin(np.char.lower(column), list(MISSING_WORDS))
    try:
        values = np.where(missing, "nan", column).astype(float)
    except ValueError:
        return np.where(missing, "", column)
    if missing.any() or not np.isfinite(values).all() or (values != np.round(values)).any():
        return values
    return values.astype(np.int64) if np.abs(values).max() < 2**53 else values


def _read_parquet(path: Path) -> dict[str, NDArray]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise ValueError(f"table {str(path)!r}: Parquet needs pyarrow: pip install 'licm[data]'") from None
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowInvalid) as error:
        raise ValueError(f"table {str(path)!r}: cannot be read as Parquet: {error}") from None
    names = [str(name) for name in table.column_names]
    if not names or not table.num_rows:
        raise ValueError(f"table {str(path)!r}: expected at least one column and one row")
    _check_names(path, names)
    return {name: _arrow_column(path, name, table.column(index)) for index, name in enumerate(names)}


def _arrow_column(path: Path, name: str, column: "object") -> NDArray:
    from pyarrow import types

    kind = column.type  # type: ignore[attr-defined]
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type  # type: ignore[attr-defined]
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        values = column.to_pylist()  # type: ignore[attr-defined]
        if any(value is None for value in values) or types.is_floating(kind) or types.is_decimal(kind):
            return np.array([np.nan if value is None else float(value) for value in values])
        return np.array(values)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array([value or "" for value in column.to_pylist()])  # type: ignore[attr-defined]
    raise ValueError(f"table {str(path)!r}: column {name!r} is of type {kind}; expected numbers, booleans or words")
