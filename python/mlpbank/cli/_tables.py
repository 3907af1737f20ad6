"""Tables for ``mlpbank predict``: files and standard input in every format, read in parts."""

from __future__ import annotations

import gzip
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mlpbank.cli._errors import CommandError
from mlpbank.cli._parts import Choose, Table
from mlpbank.cli._read_arrays import array_table
from mlpbank.cli._read_csv import csv_table
from mlpbank.cli._read_parquet import parquet_table

STDIN = ("-", "/dev/stdin")
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".npy", ".npz")

_MAGIC = {b"\x1f\x8b": ".csv.gz", b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet"}
_TEXT: Any = {"encoding": "utf-8-sig", "newline": ""}  # skips a byte order mark


@contextmanager
def open_table(
    path: Path, key: Sequence[str], choose: Choose, key_type: Any
) -> Iterator[tuple[Table, str]]:
    """Open a table whose parts can be read in the block, with its suffix.

    CSV, Parquet and .npy are read in parts; .npz, and what comes through a pipe and is no CSV, are
    in memory as a whole.

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

    Raises
    ------
    CommandError
        The file is no such table; also when a part of it is read.
    """
    is_stdin = str(path) in STDIN
    name = "standard input" if is_stdin else str(path)
    if not is_stdin and not suffix_of(path):
        expected = f"a name that ends in {', '.join(SUFFIXES)}, or - for standard input"
        raise CommandError(f"--input: expected {expected}, got {path}")
    with ExitStack() as opened:
        file = opened.enter_context(open(0 if is_stdin else path, "rb", closefd=not is_stdin))
        source, suffix = _recognised(file) if is_stdin else (file, suffix_of(path))
        if suffix == ".parquet":
            table = parquet_table(source, name, key, choose, key_type)
        elif suffix in (".npy", ".npz"):
            table = array_table(source, name, suffix, key, choose, key_type)
        else:
            stream: Any = gzip.GzipFile(fileobj=source) if suffix == ".csv.gz" else source
            text = opened.enter_context(io.TextIOWrapper(stream, **_TEXT))
            table = csv_table(text, name, key, choose, key_type)
            status = os.fstat(file.fileno())
            if source is file and stat.S_ISREG(status.st_mode):
                table.total, table.position = status.st_size, file.tell
        yield table, suffix


def suffix_of(path: Path) -> str:
    """Return the suffix that tells a format, an empty one if there is none."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def _recognised(pipe: io.BufferedReader) -> tuple[BinaryIO, str]:
    """Return standard input and the suffix of its format.

    All but CSV is read into memory if it cannot be read in any order.
    """
    first = pipe.peek(8)[:8]  # fewer, where only these have come
    if not any(first.startswith(magic) or magic.startswith(first) for magic in _MAGIC):
        return pipe, ".csv"
    source: BinaryIO = pipe
    if not pipe.seekable():
        source = io.BytesIO(pipe.read())
    start = source.tell()
    beginning = source.read(8)
    suffix = next((suffix for magic, suffix in _MAGIC.items() if beginning.startswith(magic)), "")
    if suffix == ".parquet":  # a CSV header may begin with PAR1
        source.seek(-4, os.SEEK_END)
        suffix = suffix if source.read(4) == b"PAR1" else ""
    source.seek(start)
    return source, suffix or ".csv"
