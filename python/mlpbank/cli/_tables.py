"""Tables for ``mlpbank predict``: read keys and inputs."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt

from mlpbank._keys import is_missing
from mlpbank.errors import InvalidValueError, MlpbankError

STDIN = ("-", "/dev/stdin")
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".npy", ".npz")

_MAGIC = {b"\x1f\x8b": ".csv.gz", b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet"}

_WHOLE = re.compile(r"(?<=[0-9])\.0*$")  # of ints that became float where there are gaps
_INTEGER = re.compile(r"[+-]?[0-9]+")
# The spellings of a missing value that pandas.read_csv knows, in lower case.
_MISSING = (
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "null", "nan", "none"),
)
_WORDS = dict.fromkeys(_MISSING, math.nan) | {"true": 1.0, "false": 0.0}
_TEXT: Any = {"encoding": "utf-8-sig", "newline": ""}  # skips a byte order mark

Keys = list[Any] | npt.NDArray[np.int64]
Choose = Callable[[Sequence[str]], list[str]]


class CommandError(InvalidValueError):
    """An argument or input of a command is wrong. The message is one line."""


class KeyColumnError(CommandError):
    """A column holds other keys than those of the bank."""


def read_table(path: Path, key: Sequence[str], choose: Choose, key_type: Any) -> tuple[Keys, Any]:
    """Return the keys and the inputs (rows, columns) of a table.

    Parameters
    ----------
    path : Path
        Its suffix tells the format. ``-`` is standard input, whose first bytes tell it.
    key : sequence of str
        The names of the columns of keys, or their numbers in an array without names: several where
        the bank's keys are tuples.
    choose : callable
        Takes the names of all columns and returns those of the inputs.
    key_type : type or None
        Of the bank's keys. Without any, keys are read as str.

    Returns
    -------
    keys : list of str, int, tuples or None, or int64 array
        None, also as a part of a tuple, where a key is missing.
    inputs : array (rows, columns)
        Of whatever dtype of real numbers; finite ones are finite as float32.

    Raises
    ------
    CommandError
        The file is no such table.
    """
    if str(path) in STDIN:
        with open(0, "rb", closefd=False) as pipe:
            source, suffix = _recognised(pipe)
            return _read(source, "standard input", suffix, key, choose, key_type)
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    if not suffix:
        expected = f"a name that ends in {', '.join(SUFFIXES)}, or - for standard input"
        raise CommandError(f"--input: expected {expected}, got {path}")
    with open(path, "rb") as file:
        return _read(file, str(path), suffix, key, choose, key_type)


def _recognised(pipe: io.BufferedReader) -> tuple[BinaryIO, str]:
    """Return standard input and the suffix of its format. All but CSV is read into memory."""
    first = pipe.peek(1)[:1]
    if not any(magic.startswith(first) for magic in _MAGIC):
        return pipe, ".csv"
    data = pipe.read()
    suffix = next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), ".csv")
    if suffix == ".parquet" and not data.endswith(b"PAR1"):  # a CSV header may begin with PAR1
        suffix = ".csv"
    return io.BytesIO(data), suffix


def _read(
    source: BinaryIO, name: str, suffix: str, key: Sequence[str], choose: Choose, key_type: Any
) -> tuple[Keys, Any]:
    if suffix == ".csv":
        with io.TextIOWrapper(source, **_TEXT) as text:
            return _read_csv(text, name, key, choose, key_type)
    if suffix == ".csv.gz":
        with io.TextIOWrapper(gzip.GzipFile(fileobj=source), **_TEXT) as text:
            return _read_csv(text, name, key, choose, key_type)
    if suffix == ".parquet":
        with needs("reading .parquet", "pandas", "pyarrow"):
            import pandas

            with foreign(f"{name}: expected Parquet", ImportError):
                frame = pandas.read_parquet(source)
        columns = {str(column): frame[column].to_numpy() for column in frame.columns}
        for level in frame.index.names:  # the writer's index, which may be the keys
            if level in key and level not in columns:
                columns[level] = frame.index.get_level_values(level).to_numpy()
    else:
        loaded = _load_numpy(source, name, suffix)
        if isinstance(loaded, dict):
            columns = loaded
        elif loaded.dtype.names is None:
            return _split_columns(name, loaded, key, key_type)
        elif loaded.ndim != 1:
            raise CommandError(
                f"{name}: expected one dimension of named fields, got shape {loaded.shape}"
            )
        else:
            columns = {field: loaded[field] for field in loaded.dtype.names}
    features = choose(list(columns))
    for feature in features:
        column = columns[feature]
        if column.dtype.kind not in "fiub" or column.ndim != 1:
            raise CommandError(
                f"--features: expected numbers, got column {feature!r} of {column.dtype}; make it "
                "float64, or leave it out of --features if it is no input"
            )
    keys = _keys_of([columns[column] for column in key], key, key_type)
    for feature in features:
        if len(columns[feature]) != len(keys):
            got = f"{len(columns[feature])} in {feature!r}"
            raise CommandError(f"{name}: expected {len(keys)} rows, as {key[0]!r} has, got {got}")
    return keys, np.concatenate(
        [_checked(columns[feature][:, None], name, [feature]) for feature in features], axis=1
    )


@contextmanager
def foreign(expected: str, *others: type[Exception]) -> Iterator[None]:
    """Turn any exception of another library's reader into a CommandError, except for `others`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (MlpbankError, OSError, MemoryError, *others)):
            raise
        raise CommandError(f"{expected}, got {str(error) or type(error).__name__}") from error


@contextmanager
def encoded(name: str) -> Iterator[None]:
    """Turn a UnicodeEncodeError into a CommandError that names the output and the character."""
    try:
        yield
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise CommandError(
            f"{name}: expected text that {error.encoding} can hold, got {character!a}"
        ) from None


@contextmanager
def needs(purpose: str, *packages: str) -> Iterator[None]:
    """Turn an ImportError into a CommandError that names the packages to install."""
    try:
        yield
    except ImportError as error:
        names = " ".join(packages)
        raise CommandError(
            f"{purpose} needs {' and '.join(packages)}: pip install {names} ({error})"
        ) from error


def _read_csv(
    file: TextIO, name: str, key: Sequence[str], choose: Choose, key_type: Any
) -> tuple[Keys, Any]:
    """Return keys and inputs of CSV with a header. All rows have as many cells as the header."""
    rows = _csv_rows(file, name)
    _, header = next(rows, (1, []))
    if not header:
        raise CommandError(f"{name}, line 1: expected a header, got none")
    features = choose(header)
    for used in (*key, *features):
        if header.count(used) > 1:
            raise CommandError(
                f"{name}, line 1: expected one column {used!r}, got {header.count(used)}"
            )
    columns = [header.index(feature) for feature in features]
    # With one column, itemgetter returns a cell and not a tuple.
    pick = itemgetter(*columns) if len(columns) > 1 else lambda row: (row[columns[0]],)
    is_tuple = key_type not in (None, str, int)
    cell_of = [(header.index(column), column, kind) for column, kind in _typed(key, key_type)]
    keys: list[Any] = []
    values = array("d")
    for line, row in rows:
        if len(row) != len(header):
            got = f"{len(row)}" if row else "a blank line"
            raise CommandError(
                f"{name}, line {line}: expected {len(header)} cells like the header, got {got}"
            )
        parts = [_key_cell(row[at], kind, name, line, column) for at, column, kind in cell_of]
        keys.append(tuple(parts) if is_tuple else parts[0])
        cells = pick(row)
        joined = "".join(cells)
        try:
            if "_" in joined or not joined.isascii():  # float("1_0") is 10
                raise ValueError
            numbers = list(map(float, cells))
            if not all(map(math.isfinite, numbers)):  # float("1e400") is inf
                raise ValueError
        except ValueError:
            where = f"{name}, line {line}, column "
            numbers = [
                _number(cell, where + repr(f)) for f, cell in zip(features, cells, strict=True)
            ]
        values.extend(numbers)
    inputs = _checked(np.array(values, np.float64).reshape(-1, len(features)), name, features)
    return keys, inputs


def _typed(key: Sequence[str], key_type: Any) -> list[tuple[str, Any]]:
    """Return the columns of keys, each with the type of what it holds."""
    return list(zip(key, getattr(key_type, "__args__", (key_type,)), strict=True))


def _key_cell(cell: str, kind: Any, name: str, line: int, column: str) -> str | int | None:
    """Return a cell as a key or a part of one, None where it is missing.

    A text is what it is: also one that says NA may be a key, and where it is none, it is unknown.
    """
    if kind is not int:
        return cell or None
    if cell.isdigit() and len(cell) < 19 and cell.isascii():
        return int(cell)
    text = cell.strip(" ")
    if text.lower() in _MISSING:
        return None
    return _integer(_WHOLE.sub("", text), f"{name}, line {line}, column {column!r}")


def _checked(wide: npt.NDArray[Any], name: str, columns: Sequence[str]) -> npt.NDArray[Any]:
    """Return `wide` (rows, columns), or raise CommandError for the first overflow of float32."""
    with np.errstate(over="ignore"):
        beyond = np.argwhere(np.isinf(wide.astype(np.float32)) & np.isfinite(wide))
    if len(beyond):
        row, column = beyond[0].tolist()
        number = f"{wide[row, column]} in row {row + 1} of column {columns[column]!r}"
        raise CommandError(f"{name}: expected numbers that float32 can hold, got {number}")
    return wide


def _csv_rows(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its first line. Blank lines at the end are left out."""
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
        raise CommandError(
            f"{name}: expected UTF-8, got byte {error.object[error.start]:#04x}"
        ) from None
    except gzip.BadGzipFile as error:
        raise CommandError(f"{name}: expected a gzip file, got {error}") from None
    except (EOFError, zlib.error) as error:
        raise CommandError(f"{name}: expected a complete gzip file, got {error}") from None


def _integer(cell: str, where: str) -> int:
    text = cell.strip(" ")
    # 64 bits have at most 19 digits; int() refuses a text of thousands.
    if (
        not _INTEGER.fullmatch(text)
        or len(text.lstrip("+-0")) > 19
        or not -(2**63) <= int(text) < 2**63
    ):
        raise KeyColumnError(
            f"{where}: expected an integer of 64 bits, as the bank has it in its keys, got "
            f"{cell[:80]!r}"
        )
    return int(text)


def _number(cell: str, where: str) -> float:
    text = cell.strip(" ").lower()
    if text in _WORDS:
        return _WORDS[text]
    try:
        if "_" not in text and text.isascii():
            number = float(text)
            if math.isfinite(number) or "inf" in text or "nan" in text:  # not 1e400
                return number
    except ValueError:
        pass
    way = ""
    if re.fullmatch(r"[+-]?[0-9.]*,[0-9]+", text):
        way = "; pandas.read_csv(path, decimal=',') reads decimal commas"
    raise CommandError(f"{where}: expected a number, got {cell[:80]!r}{way}")


def _load_numpy(
    source: BinaryIO, name: str, suffix: str
) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Return the array of an .npy file, or those of an .npz file by name."""
    with foreign(f"{name}: expected an {suffix} file"):
        loaded: Any = np.load(source, allow_pickle=False)
        arrays = (
            loaded
            if isinstance(loaded, np.ndarray)
            else {field: loaded[field] for field in loaded.files}
        )
    if isinstance(arrays, np.ndarray) and suffix == ".npz":
        raise CommandError(f"{name}: expected named arrays, got an .npy file")
    if isinstance(arrays, dict) and suffix == ".npy":
        raise CommandError(f"{name}: expected one array, got an .npz file")
    if isinstance(arrays, dict):
        for field, array in arrays.items():
            if not isinstance(array, np.ndarray):  # a zip may hold any other file
                raise CommandError(f"{name}: expected arrays, got {field!r}, which is none")
    return arrays


def _split_columns(
    name: str, table: npt.NDArray[Any], key: Sequence[str], key_type: Any
) -> tuple[Keys, Any]:
    """Return keys and inputs of an array whose columns have no names. `key` is a number."""
    for column in key:
        if (
            table.ndim != 2
            or not re.fullmatch("[0-9]{1,9}", column)
            or (int(column) >= table.shape[1])
        ):
            raise CommandError(
                f"--key: expected the number of a column of {name}, shape {table.shape}, "
                f"got {column!r}"
            )
    if table.dtype.kind not in "fiu":
        raise CommandError(f"{name}: expected numbers, got {table.dtype}")
    at = [int(column) for column in key]
    columns = [i for i in range(table.shape[1]) if i not in at]
    inputs = _checked(table[:, columns], name, list(map(str, columns)))
    return _keys_of([table[:, i] for i in at], key, key_type), inputs


def _keys_of(columns: Sequence[npt.NDArray[Any]], key: Sequence[str], key_type: Any) -> Keys:
    """Return columns as keys of a bank, tuples where these are its keys."""
    parts = [
        _as_keys(column, name, kind)
        for column, (name, kind) in zip(columns, _typed(key, key_type), strict=True)
    ]
    if key_type in (None, str, int):
        return parts[0]
    return list(
        zip(*(part if isinstance(part, list) else part.tolist() for part in parts), strict=True)
    )


def _as_keys(column: npt.NDArray[Any], name: str, key_type: Any) -> Keys:
    """Return a column as keys of a bank, or raise CommandError for the first that is no key."""
    wanted = "integers of 64 bits" if key_type is int else "text"
    if column.ndim != 1:
        raise CommandError(
            f"--key: expected a column of {wanted}, got {name!r} of shape {column.shape}"
        )
    if key_type is int and column.dtype.kind in "iu":
        wrong = column > np.iinfo(np.int64).max
    elif key_type is int and column.dtype.kind == "f":
        # From this magnitude on, a float may be another integer that was rounded.
        most = min(2.0 ** (np.finfo(column.dtype).nmant + 1), 2.0**62)
        gaps = np.isnan(column)
        whole = (column == np.trunc(column)) & (np.abs(column.astype(np.float64)) < most)
        wrong = ~(whole | gaps)
        if gaps.any() and not wrong.any():
            return [None if gap else int(number) for gap, number in zip(gaps, column, strict=True)]
    elif column.dtype.kind in "UO" and all(
        is_missing(key) or isinstance(key, str if key_type is not int else int)
        for key in column.tolist()
    ):
        return [None if is_missing(key) else key for key in column.tolist()]
    elif len(column) == 0:
        return np.empty(0, np.int64) if key_type is int else []
    else:
        got = f"{name!r} of {column.dtype}{_way_to_keys(column, key_type)}"
        raise KeyColumnError(
            f"--key: expected a column of {wanted} like the bank's keys, got {got}"
        )
    if wrong.any():
        got = f"{column[wrong][0]} in row {np.argmax(wrong)}"
        raise CommandError(f"--key: expected a column of {wanted}, got {got}")
    return column.astype(np.int64)


def _way_to_keys(column: npt.NDArray[Any], key_type: Any) -> str:
    """Return how pandas makes a column one of keys, as the end of a message."""
    kind = column.dtype.kind
    if key_type is int:
        return "; write it with astype('Int64')" if kind in "UO" else ""
    return {
        "i": "; write it with astype(str)",
        "u": "; write it with astype(str)",
        "f": "; write it with astype('Int64') and then astype('string')",
    }.get(kind, "")
