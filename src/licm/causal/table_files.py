"""Tables in files: CSV with the standard library, Parquet with pyarrow (the extra `data`)."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from licm.reading import read_content, refuse

_SEPARATORS = ",;\t"  # the first of equals
MISSING_WORDS = frozenset({"", "na", "nan", "null", "none", "?"})


def read_table(path: str | Path) -> dict[str, NDArray]:
    """Reads named columns from a file, numbers as numbers.

    A CSV file has names in its first row; between values are commas, or else semicolons (numbers then may have decimal
    commas) or tabs, whichever part that row into most. A column is of integers or of fractions where all its values
    are; missing values (empty, NA, NaN, null, None or ?) become NaN there, and empty strings in a column of words.

    Args:
        path: Ends in .csv or .parquet.

    Returns:
        A column [n] for each name.

    Raises:
        ValueError: If the file cannot be read, or is no table of at least two columns with different names.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a table, a name that ends in {' or '.join(readers)}")
    names, columns = readers[path.suffix.lower()](path)
    for index, name in enumerate(names):
        if not name:
            raise ValueError(f"{path}: column {index + 1} has no name")
        if name in names[:index]:
            raise ValueError(f"{path}: two columns are named {name!r}")
    if len(names) < 2:
        raise ValueError(
            f"{path}: expected at least two columns, got {len(names)} "
            "(in CSV, commas, semicolons or tabs are between them)"
        )
    return dict(zip(names, columns))


def _read_csv(path: Path) -> tuple[list[str], list[NDArray]]:
    try:
        text = read_content(path).decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it has null characters")
        separator = max(_SEPARATORS, key=lambda each: _num_names(text, each))
        rows = list(_csv_rows(text, separator))
    except UnicodeDecodeError as error:
        refuse(path, ValueError(f"expected text in UTF-8, {error.reason} at byte {error.start}"))
    except (ValueError, csv.Error) as error:
        refuse(path, error)
    if len(rows) < 2:
        raise ValueError(f"{path}: expected a line of names and at least one of values, got {len(rows)} line(s)")
    width = len(rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}: line {line} has {len(row)} values, the first has {width} names")
    columns = zip(*(row for _, row in rows[1:]))
    names = [" ".join(name.split()) for name in rows[0][1]]
    return names, [_numbers(np.array(column), decimal_comma=separator == ";") for column in columns]


def _num_names(text: str, separator: str) -> int:
    """How many names the first row has if they are parted so; 0 if it cannot be read so."""
    try:
        return len(next(_csv_rows(text, separator), (0, []))[1])
    except csv.Error:
        return 0


def _csv_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return ((reader.line_num, row) for row in reader if row)


def _numbers(column: NDArray, *, decimal_comma: bool = False) -> NDArray:
    """A column of words as numbers where it is one."""
    column = np.char.strip(column)
    missing = np.isin(np.char.lower(column), list(MISSING_WORDS))
    digits = np.char.replace(column, ",", ".") if decimal_comma else column
    try:
        values = np.where(missing, "nan", digits).astype(float)
    except ValueError:
        return np.where(missing, "", column)
    if missing.any() or not np.isfinite(values).all() or (values != np.round(values)).any():
        return values
    return values.astype(np.int64) if np.abs(values).max() < 2**53 else values


def _read_parquet(path: Path) -> tuple[list[str], list[NDArray]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install 'licm[data]'") from None
    try:
        table = parquet.read_table(io.BytesIO(read_content(path)))
    except (OSError, ArrowException) as error:
        refuse(path, error)
    if not table.num_rows:
        raise ValueError(f"{path}: expected at least one row, got none")
    names = [str(name) for name in table.column_names]
    return names, [_arrow_column(path, name, column) for name, column in zip(names, table.columns)]


def _arrow_column(path: Path, name: str, column: Any) -> NDArray:
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    values = column.to_pylist()
    if types.is_floating(kind) or types.is_decimal(kind):
        return np.array([np.nan if value is None else float(value) for value in values])
    if types.is_boolean(kind) or types.is_integer(kind):
        return np.array([np.nan if value is None else value for value in values])
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array([value or "" for value in values])
    raise ValueError(f"{path}: column {name!r} is of type {kind}; expected numbers, booleans or words")
