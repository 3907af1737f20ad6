"""Predictions of ``mlpbank predict``, written in parts as CSV, Parquet or .npy."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlpbank.cli._errors import encoded, needs
from mlpbank.cli._parts import Part, as_list
from mlpbank.files._atomic import atomic_writer
from mlpbank.typing import Float32Array

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".npy")

Write = Callable[[Part, Float32Array], None]
Keys = Sequence[tuple[str, Any]]

_BATCH = 10_000  # rows that are text at once
_IN_MEMORY = 2**26  # bytes of an array before they go to a file


@contextmanager
def open_results(
    output: Path | None, suffix: str, key: Keys, names: Sequence[str]
) -> Iterator[Write]:
    """Open the output for the block, and return what writes a part and its predictions.

    A file has its name when the block ends without an error. Standard output, which is CSV, has
    what was written before an error.

    Parameters
    ----------
    output : Path or None
        None is standard output.
    suffix : str
        One of `SUFFIXES`.
    key : sequence of pairs
        The names of the columns of keys, each with the type of what it holds.
    names : sequence of str
        Those of the columns of predictions. An .npy file has these alone, as an array.
    """
    if output is None:
        yield _csv(sys.stdout.write, "standard output", key, names)
        return
    opened = {".parquet": _parquet, ".npy": _npy, ".csv.gz": _packed}.get(suffix, _plain)
    with atomic_writer(output) as file, opened(file, str(output), key, names) as write:
        yield write


@contextmanager
def _plain(file: BinaryIO, name: str, key: Keys, names: Sequence[str]) -> Iterator[Write]:
    yield _csv(lambda text: file.write(text.encode()), name, key, names)


@contextmanager
def _packed(file: BinaryIO, name: str, key: Keys, names: Sequence[str]) -> Iterator[Write]:
    # Without name and time, equal tables give equal files.
    packed = gzip.GzipFile("", "wb", 6, file, 0)
    with _closed(packed.close):
        yield _csv(lambda text: packed.write(text.encode()), name, key, names)


@contextmanager
def _npy(file: BinaryIO, name: str, key: Keys, names: Sequence[str]) -> Iterator[Write]:
    """The header has the number of rows, and not every file system can go back to it."""
    rows = 0
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:

        def write(part: Part, y: Float32Array) -> None:
            nonlocal rows
            rows += len(y)
            body.write(np.ascontiguousarray(y).data)

        yield write
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, len(names))}
        np.lib.format.write_array_header_1_0(file, header)
        body.seek(0)
        shutil.copyfileobj(body, file)


@contextmanager
def _parquet(file: BinaryIO, name: str, key: Keys, names: Sequence[str]) -> Iterator[Write]:
    """Columns of keys of a Parquet file keep their types; NaN becomes null."""
    with needs("writing .parquet", "pyarrow"):
        import pyarrow
        from pyarrow import parquet

    writer: Any = None

    def write(part: Part, y: Float32Array) -> None:
        nonlocal writer
        columns = dict(zip([column for column, _ in key], part.own or [], strict=False))
        if part.own is None:
            with encoded(name):
                for (column, kind), keys in zip(key, part.key_columns, strict=True):
                    columns[column] = pyarrow.array(keys, "int64" if kind is int else "string")
        for i, output in enumerate(names):
            values = np.ascontiguousarray(y[:, i])
            valid = np.packbits(~np.isnan(values), bitorder="little")
            # By their layout, since pyarrow.array imports pandas for arrays of NumPy.
            buffers = [pyarrow.py_buffer(valid), pyarrow.py_buffer(values)]
            columns[output] = pyarrow.Array.from_buffers(pyarrow.float32(), len(y), buffers)
        table = pyarrow.Table.from_pydict(columns)
        if writer is None:
            writer = parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)

    with _closed(lambda: writer.close()):
        yield write


@contextmanager
def _closed(close: Callable[[], Any]) -> Iterator[None]:
    """Close a writer after the block. After an error it may fail, but not later, by itself."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close()
        raise
    close()


def _csv(write_text: Callable[[str], Any], name: str, key: Keys, names: Sequence[str]) -> Write:
    """Return what writes CSV. NaN and a missing key become an empty cell."""
    header = [*(column for column, _ in key), *names]

    def write(part: Part, y: Float32Array) -> None:
        nonlocal header
        with encoded(name):
            if header:
                write_text(_text([header]))
            header = []
            for first in range(0, len(y), _BATCH):
                now = slice(first, first + _BATCH)
                cells = y[now].astype(str).astype(object)  # the fewest digits that restore it
                cells[np.isnan(y[now])] = ""
                keys = [as_list(column[now]) for column in part.key_columns]
                write_text(_text(list(zip(*keys, *cells.T.tolist(), strict=True))))

    return write


def _text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV. Each ends with a line feed alone."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    if "\r" in text.getvalue():
        # The csv module quotes a carriage return only if its line terminator has one.
        text = io.StringIO(newline="")
        csv.writer(_Lines(text), lineterminator="\r\n").writerows(rows)
    return text.getvalue()


class _Lines:
    """Takes the carriage return away with which the csv module has ended a row."""

    def __init__(self, file: io.StringIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")
