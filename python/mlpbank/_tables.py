"""Tables for ``mlpbank predict``: keys and inputs from CSV, Parquet and .npy files, predictions as CSV."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import Float32Array
from mlpbank._keys import Key

STDIN = ("-", "/dev/stdin")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_WORDS = {"": math.nan, "nan": math.nan, "na": math.nan, "true": 1.0, "false": 0.0}
_TEXT: Any = {"encoding": "utf-8-sig", "newline": ""}  # with or without a byte order mark
_BATCH = 10_000  # rows that are written at once

Keys = list[str] | npt.NDArray[np.int64]
Choose = Callable[[Sequence[str]], list[str]]


class CommandError(ValueError):
    """What the user gave to a command is wrong; the message says it in one line."""


def read_table(path: Path, key: str, choose: Choose, key_type: type | None) -> tuple[Keys, Any]:
    """Return the keys and the inputs (rows, columns) of a table.

    Parameters
    ----------
    path : Path
        Its suffix tells the format; ``-`` is CSV on standard input.
    key : str
        The column of keys.
    choose : callable
        Takes the names of all columns and returns those of the inputs.
    key_type : type or None
        ``int`` for keys that are int; str otherwise.

    Raises
    ------
    CommandError
        The file is not such a table.
    """
    if str(path) in STDIN:
        with open(0, closefd=False, **_TEXT) as file:
            return _read_csv(file, "standard input", key, choose, key_type)
    if path.name.endswith(".csv"):
        with open(path, **_TEXT) as file:
            return _read_csv(file, str(path), key, choose, key_type)
    if path.name.endswith(".csv.gz"):
        with gzip.open(path, "rt", **_TEXT) as file:
            return _read_csv(file, str(path), key, choose, key_type)
    if path.suffix == ".npy":
        table = _load_npy(path)
        if table.dtype.names is None:
            return _split_columns(path, table, key, key_type)
        if table.ndim != 1:
            raise CommandError(f"{path}: expected one dimension of named fields, got shape {table.shape}")
        columns: dict[str, Any] = {name: table[name] for name in table.dtype.names}
    elif path.suffix == ".parquet":
        with needs("reading .parquet", "pandas", "pyarrow"):
            import pandas

            frame = pandas.read_parquet(path)
        columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    else:
        raise CommandError(
            f"--input: expected a name that ends in .csv, .csv.gz, .parquet or .npy, or - for CSV, got {path}"
        )
    inputs = []
    for name in choose(list(columns)):
        column = columns[name]
        if column.dtype.kind not in "fiub" or column.ndim != 1:
            raise CommandError(f"--features: expected numbers, got column {name!r} of {column.dtype}")
        inputs.append(column.astype(np.float32))
    return _as_keys(columns[key], key, key_type), np.stack(inputs, axis=1)


@contextmanager
def needs(purpose: str, *packages: str) -> Iterator[None]:
    """Name the packages to install if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        names = " ".join(packages)
        raise CommandError(f"{purpose} needs {' and '.join(packages)}: pip install {names} ({error})") from error


def _read_csv(file: TextIO, name: str, key: str, choose: Choose, key_type: type | None) -> tuple[Keys, Any]:
    """Return keys and inputs of CSV with a header; every row has as many cells as that."""
    rows = _csv_rows(file, name)
    _, header = next(rows, (1, []))
    if not header:
        raise CommandError(f"{name}, line 1: expected a header, got none")
    features = choose(header)
    for used in (key, *features):
        if header.count(used) > 1:
            raise CommandError(f"{name}, line 1: expected one column {used!r}, got {header.count(used)}")
    at, places = header.index(key), [header.index(feature) for feature in features]
    # With one place, itemgetter gives a cell and not a tuple.
    pick = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
    texts: list[str] = []
    ints, values = array("q"), array("d")
    for line, row in rows:
        if len(row) != len(header):
            got = f"{len(row)}" if row else "a blank line"
            raise CommandError(f"{name}, line {line}: expected {len(header)} cells like the header, got {got}")
        if key_type is int:
            ints.append(_integer(row[at], f"{name}, line {line}, column {key!r}"))
        else:
            texts.append(row[at])
        cells = pick(row)
        joined = "".join(cells)
        try:
            if "_" in joined or not joined.isascii():  # float("1_0") is 10
                raise ValueError
            numbers = list(map(float, cells))
        except ValueError:
            where = f"{name}, line {line}, column "
            numbers = [_number(cell, where + repr(f)) for f, cell in zip(features, cells, strict=True)]
        values.extend(numbers)
    wide = np.array(values, np.float64).reshape(-1, len(features))
    with np.errstate(over="ignore"):
        inputs = wide.astype(np.float32)
    beyond = np.argwhere(np.isinf(inputs) & np.isfinite(wide))
    if len(beyond):
        row, column = beyond[0].tolist()
        number = f"{wide[row, column]} in row {row + 1} of column {features[column]!r}"
        raise CommandError(f"{name}: expected numbers that float32 can hold, got {number}")
    return (np.array(ints, np.int64) if key_type is int else texts), inputs


def _csv_rows(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of the line it begins on; blank lines at the end are none."""
    reader = csv.reader(file, strict=True)
    blank = 0
    line = 1
    try:
        for row in reader:
            if row:
                if blank:
                    yield blank, []
                yield line, row
            else:
                blank = blank or line
            line = reader.line_num + 1
    except csv.Error as error:
        raise CommandError(f"{name}, line {line}: expected CSV, got {error}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{name}: expected UTF-8, got byte {error.object[error.start]:#04x}") from None
    except (EOFError, zlib.error) as error:
        raise CommandError(f"{name}: expected a complete gzip file, got {error}") from None


def _integer(cell: str, where: str) -> int:
    text = cell.strip(" ")
    # No more digits than 64 bits have: int() refuses thousands of them.
    if not _INTEGER.fullmatch(text) or len(text.lstrip("+-0")) > 19 or not -(2**63) <= int(text) < 2**63:
        raise CommandError(f"{where}: expected an integer of 64 bits, since the bank's keys are, got {cell[:80]!r}")
    return int(text)


def _number(cell: str, where: str) -> float:
    text = cell.strip(" ").lower()
    if text in _WORDS:
        return _WORDS[text]
    try:
        if "_" not in text and text.isascii():
            return float(text)
    except ValueError:
        pass
    raise CommandError(f"{where}: expected a number, got {cell[:80]!r}")


def _load_npy(path: Path) -> npt.NDArray[Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{path}: expected an .npy file, got {error}") from None
    if not isinstance(table, np.ndarray):
        raise CommandError(f"{path}: expected one array, got an .npz file")
    return table


def _split_columns(path: Path, table: npt.NDArray[Any], key: str, key_type: type | None) -> tuple[Keys, Any]:
    """Return the keys and the inputs of an array whose columns have no names."""
    if table.ndim != 2 or not re.fullmatch("[0-9]{1,9}", key) or int(key) >= table.shape[1]:
        raise CommandError(f"--key: expected the number of a column of {path}, shape {table.shape}, got {key!r}")
    if table.dtype.kind not in "fiu":
        raise CommandError(f"{path}: expected numbers, got {table.dtype}")
    return _as_keys(table[:, int(key)], key, key_type), np.delete(table, int(key), axis=1)


def _as_keys(column: npt.NDArray[Any], name: str, key_type: type | None) -> Keys:
    """Return a column as keys of a bank, or raise CommandError for the first entry that is none."""
    wanted = "integers of 64 bits" if key_type is int else "text"
    if column.ndim != 1:
        raise CommandError(f"--key: expected a column of {wanted}, got {name!r} of shape {column.shape}")
    if key_type is int and column.dtype.kind in "iu":
        wrong = column > np.iinfo(np.int64).max
    elif key_type is int and column.dtype.kind == "f":
        # From these on a float may be another integer, rounded.
        most = min(2.0 ** (np.finfo(column.dtype).nmant + 1), 2.0**62)
        wrong = ~((column == np.trunc(column)) & (np.abs(column.astype(np.float64)) < most))
    elif key_type is not int and column.dtype.kind in "UO" and all(isinstance(key, str) for key in column.tolist()):
        return column.tolist()  # type: ignore[no-any-return]
    elif len(column) == 0:
        return np.empty(0, np.int64) if key_type is int else []
    else:
        raise CommandError(f"--key: expected a column of {wanted} like the bank's keys, got {name!r} of {column.dtype}")
    if wrong.any():
        raise CommandError(f"--key: expected a column of {wanted}, got {column[wrong][0]} in row {np.argmax(wrong)}")
    return column.astype(np.int64)


def write_csv(file: TextIO, key: str, keys: Sequence[Key] | Keys, names: Sequence[str], y: Float32Array) -> None:
    """Write keys and predictions with a header; NaN is an empty cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([key, *names])
    for first in range(0, len(y), _BATCH):
        part = y[first : first + _BATCH]
        cells = part.astype(str).astype(object)  # the fewest digits that give the float32 back
        cells[np.isnan(part)] = ""
        some = keys[first : first + _BATCH]
        writer.writerows([k, *row] for k, row in zip(some, cells.tolist(), strict=True))
