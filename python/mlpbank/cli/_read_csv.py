"""Reading CSV with a header, in parts."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from mlpbank.cli._errors import CommandError
from mlpbank.cli._parts import Choose, KeyColumn, Part, Table, as_list, checked, rows_of_part
from mlpbank.cli._read_keys import MISSING, has_tuples, key_cell, key_cells, typed

_BLOCK_CELLS = 2**16  # as many cells are text in memory at once

_WORDS = dict.fromkeys(MISSING, math.nan) | {"true": 1.0, "false": 0.0}
# The spellings of words that need not be looked at cell by cell.
_SPELLED = {
    spelling: number
    for word, number in (_WORDS | {"NaN": math.nan}).items()
    for spelling in (word, word.upper(), word.title())
}
_READ_ERRORS = (csv.Error, UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error)

_Block = tuple[list[KeyColumn], npt.NDArray[np.float64]]


def csv_table(file: TextIO, name: str, key: Sequence[str], choose: Choose, key_type: Any) -> Table:
    """Return a table of CSV. All rows have as many cells as the header."""
    rows = _Rows(file, name)
    header = rows.header()
    features = choose(header)
    for used in (*key, *features):
        if header.count(used) > 1:
            raise CommandError(
                f"{name}, line 1: expected one column {used!r}, got {header.count(used)}"
            )
    cells = _Cells(name, header, key, features, key_type)
    return Table(name, len(features), _parts(rows, cells))


def _parts(rows: _Rows, cells: _Cells) -> Iterator[Part]:
    wanted = rows_of_part(len(cells.features))
    first = 0
    blocks: list[_Block] = []
    for line, block in rows.blocks(cells.width):
        blocks.append(cells.read(line, block))
        count = sum(len(inputs) for _, inputs in blocks)
        if count >= wanted:
            yield _part(blocks, cells, first)
            first += count
            blocks = []
    if blocks or first == 0:
        yield _part(blocks, cells, first)


def _part(blocks: list[_Block], cells: _Cells, first: int) -> Part:
    columns = [_joined([keys[i] for keys, _ in blocks]) for i in range(len(cells.key))]
    empty = np.empty((0, len(cells.features)))
    inputs = np.concatenate([empty, *(inputs for _, inputs in blocks)])
    return Part(columns, checked(inputs, cells.name, cells.features, first), cells.is_tuple)


def _joined(columns: list[KeyColumn]) -> KeyColumn:
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    if columns and len(arrays) == len(columns):
        return np.concatenate(arrays)
    return list(chain.from_iterable(map(as_list, columns)))


class _Rows:
    """The rows of CSV, in blocks with the number of the line where each begins."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._reader = csv.reader(file, strict=True)
        self._name = name
        self._line = 1  # of the next row

    def header(self) -> list[str]:
        _, rows, error = self._read(1)
        if error is not None:
            raise error
        if not rows or not rows[0]:
            raise CommandError(f"{self._name}, line 1: expected a header, got none")
        return rows[0]

    def blocks(self, width: int) -> Iterator[tuple[int, list[list[str]]]]:
        """Yield blocks of rows, each with the line of its first. A blank line is an empty row.

        Blank lines at the end are left out.
        """
        count = max(1, _BLOCK_CELLS // width)
        blank = 0  # the line of the first of blank ones that may be the last lines
        while True:
            line, rows, error = self._read(count)
            is_last = len(rows) < count
            filled = len(rows)
            while filled and not rows[filled - 1]:
                filled -= 1
            if filled and blank:
                yield blank, [[]]
            if filled:
                yield line, rows[:filled]
            if error is not None:
                raise error
            if filled < len(rows) and not blank:
                blank = self._line - (len(rows) - filled)
            if is_last:
                return

    def _read(self, count: int) -> tuple[int, list[list[str]], CommandError | None]:
        """Return the line of the next rows, these, and what is wrong with the one after them."""
        line = self._line
        rows: list[list[str]] = []
        try:
            for row in islice(self._reader, count):
                rows.append(row)
        except _READ_ERRORS as error:
            for row in rows:
                line += _lines(row)
            return self._line, rows, self._said(error, line)
        self._line = self._reader.line_num + 1
        return line, rows, None

    def _said(self, error: Exception, line: int) -> CommandError:
        if isinstance(error, csv.Error):
            return CommandError(f"{self._name}, line {line}: expected CSV, got {error}")
        if isinstance(error, UnicodeDecodeError):
            byte = f"{error.object[error.start]:#04x}"
            return CommandError(f"{self._name}: expected UTF-8, got byte {byte}")
        whole = "a gzip file" if isinstance(error, gzip.BadGzipFile) else "a complete gzip file"
        return CommandError(f"{self._name}: expected {whole}, got {error}")


def _lines(row: list[str]) -> int:
    """Return how many lines of a file a row takes."""
    return 1 + sum(
        cell.count("\n") + cell.count("\r") - cell.count("\r\n")
        for cell in row
        if "\n" in cell or "\r" in cell
    )


class _Cells:
    """Reads the cells of rows: keys and numbers."""

    def __init__(
        self, name: str, header: list[str], key: Sequence[str], features: list[str], key_type: Any
    ) -> None:
        self.name = name
        self.key = key
        self.features = features
        self.is_tuple = has_tuples(key_type)
        self.width = len(header)
        self._keys = [(header.index(column), column, kind) for column, kind in typed(key, key_type)]
        columns = [header.index(feature) for feature in features]
        in_a_row = columns == list(range(columns[0], columns[0] + len(columns)))
        # With one column, itemgetter returns a cell and not a tuple.
        self._pick: Any = (
            itemgetter(slice(columns[0], columns[0] + len(columns)))
            if in_a_row
            else itemgetter(*columns)
        )

    def read(self, line: int, rows: list[list[str]]) -> _Block:
        """Return columns of keys and the inputs of rows, the first of which is in `line`.

        Raises
        ------
        CommandError
            A row does not fit the header, or a cell is not what its column holds.
        """
        if set(map(len, rows)) == {self.width}:
            try:
                return (
                    [key_cells([row[at] for row in rows], kind) for at, _, kind in self._keys],
                    _numbers(list(chain.from_iterable(map(self._pick, rows)))).reshape(
                        len(rows), len(self.features)
                    ),
                )
            except ValueError:  # one by one, to name the first that is wrong
                pass
        return self._one_by_one(line, rows)

    def _one_by_one(self, line: int, rows: list[list[str]]) -> _Block:
        keys: list[list[Any]] = [[] for _ in self._keys]
        numbers = []
        for row in rows:
            if len(row) != self.width:
                got = f"{len(row)}" if row else "a blank line"
                raise CommandError(
                    f"{self.name}, line {line}: expected {self.width} cells like the header, "
                    f"got {got}"
                )
            where = f"{self.name}, line {line}, column "
            for column, (at, name, kind) in zip(keys, self._keys, strict=True):
                column.append(key_cell(row[at], kind, where + repr(name)))
            for feature, cell in zip(self.features, self._pick(row), strict=True):
                numbers.append(_number(cell, where + repr(feature)))
            line += _lines(row)
        return list(keys), np.array(numbers).reshape(len(rows), len(self.features))


def _numbers(cells: list[str]) -> npt.NDArray[np.float64]:
    """Return cells as numbers. ValueError if one may be none, and has to be looked at."""
    joined = "".join(cells)
    if "_" in joined or not joined.isascii():  # float("1_0") is 10
        raise ValueError
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        spelled = (_SPELLED[cell] if cell in _SPELLED else float(cell) for cell in cells)
        numbers = np.fromiter(spelled, np.float64, len(cells))
    # float("1e400") is inf.
    if any(cells[i] not in _SPELLED for i in np.flatnonzero(~np.isfinite(numbers)).tolist()):
        raise ValueError
    return numbers


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
