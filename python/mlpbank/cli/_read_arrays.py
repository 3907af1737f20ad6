"""Reading .npy and .npz, in parts: arrays with names of columns, or one without any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlpbank.cli._errors import CommandError, foreign
from mlpbank.cli._parts import Choose, Part, Table, checked, rows_of_part
from mlpbank.cli._read_keys import has_tuples, key_column, typed, wanted


def array_table(
    source: BinaryIO, name: str, suffix: str, key: Sequence[str], choose: Choose, key_type: Any
) -> Table:
    """Return a table of the arrays of a file. Those of an .npy file are mapped if that can be."""
    loaded = _load(source, name, suffix)
    if isinstance(loaded, dict):
        columns: Mapping[str, npt.NDArray[Any]] = loaded
    elif loaded.dtype.names is None:
        return _unnamed(name, loaded, key, key_type)
    elif loaded.ndim != 1:
        raise CommandError(
            f"{name}: expected one dimension of named fields, got shape {loaded.shape}"
        )
    else:
        columns = {field: loaded[field] for field in loaded.dtype.names}
    features = choose(list(columns))
    for feature in features:
        if columns[feature].dtype.kind not in "fiub" or columns[feature].ndim != 1:
            raise CommandError(
                f"--features: expected numbers, got column {feature!r} of "
                f"{columns[feature].dtype}; make it float64, or leave it out of --features if it "
                "is no input"
            )
    for column, kind in typed(key, key_type):
        if columns[column].ndim != 1:
            got = f"{column!r} of shape {columns[column].shape}"
            raise CommandError(f"--key: expected a column of {wanted(kind)}, got {got}")
    rows = len(columns[key[0]])
    for used in (*key, *features):
        if len(columns[used]) != rows:
            got = f"{len(columns[used])} in {used!r}"
            raise CommandError(f"{name}: expected {rows} rows, as {key[0]!r} has, got {got}")
    given = [columns[column] for column in key]
    inputs = [columns[feature] for feature in features]
    parts = _parts(name, given, inputs, key, features, key_type)
    return Table(name, len(features), parts, rows)


def _parts(
    name: str,
    given: list[npt.NDArray[Any]],
    inputs: list[npt.NDArray[Any]],
    key: Sequence[str],
    features: Sequence[str],
    key_type: Any,
) -> Iterator[Part]:
    rows = len(given[0])
    step = rows_of_part(len(inputs))
    for first in range(0, max(rows, 1), step):
        now = slice(first, first + step)
        keys = [
            key_column(column[now], of, kind, first)
            for column, (of, kind) in zip(given, typed(key, key_type), strict=True)
        ]
        wide = np.stack([column[now] for column in inputs], axis=1)
        yield Part(keys, checked(wide, name, features, first), has_tuples(key_type))


def _unnamed(name: str, table: npt.NDArray[Any], key: Sequence[str], key_type: Any) -> Table:
    """Return the table of an array whose columns have no names. `key` are numbers."""
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
    given, inputs = ([table[:, i] for i in some] for some in (at, columns))
    parts = _parts(name, given, inputs, key, list(map(str, columns)), key_type)
    return Table(name, len(columns), parts, len(table))


def _load(source: BinaryIO, name: str, suffix: str) -> Any:
    """Return the array of an .npy file, or those of an .npz file by name."""
    with foreign(f"{name}: expected an {suffix} file"):
        loaded = _mapped(source) if suffix == ".npy" else None
        if loaded is None:
            loaded = np.load(source, allow_pickle=False)
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


def _mapped(source: BinaryIO) -> npt.NDArray[Any] | None:
    """Return the mapped array of an .npy file; None where np.load has to read or refuse it."""
    if not isinstance(getattr(source, "name", None), str):  # standard input
        return None
    try:
        loaded = np.load(source.name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(loaded) if isinstance(loaded, np.memmap) else None
