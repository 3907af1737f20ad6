"""Parts of a table: some rows at a time, so that memory does not grow with the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.cli._errors import CommandError

KeyColumn = list[Any] | npt.NDArray[np.int64]
Choose = Callable[[Sequence[str]], list[str]]

_ROWS = 65_536
_VALUES = 2**21


@dataclass
class Part:
    """Some rows of a table.

    Attributes
    ----------
    key_columns : list of lists or int64 arrays (rows,)
        One column, or one for each part of keys that are tuples. None where a key is missing.
    inputs : array (rows, columns)
        Of whatever dtype of real numbers; finite ones are finite as float32.
    is_tuple : bool
        Whether keys are tuples.
    own : list of Arrow arrays or None
        The columns of keys as a Parquet file has them.
    """

    key_columns: list[KeyColumn]
    inputs: npt.NDArray[Any]
    is_tuple: bool
    own: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def keys(self) -> list[Any] | npt.NDArray[np.int64]:
        """The keys as a bank takes them."""
        if self.is_tuple:
            return list(zip(*map(as_list, self.key_columns), strict=True))
        return self.key_columns[0]


@dataclass
class Table:
    """A table that is read in parts.

    Attributes
    ----------
    name : str
        For messages.
    width : int
        The number of inputs.
    parts : iterator of Part
        At least one, which has no rows if the table has none.
    total : int or None
        Bytes of the file where `position` tells how many of them are read, else rows; None if it
        is not known.
    position : callable or None
    """

    name: str
    width: int
    parts: Iterator[Part]
    total: int | None = None
    position: Callable[[], int] | None = None


def rows_of_part(columns: int) -> int:
    """Return how many rows a part has."""
    return max(1, min(_ROWS, _VALUES // max(1, columns)))


def as_list(column: KeyColumn) -> list[Any]:
    """Return a column of keys as a list."""
    return column if isinstance(column, list) else column.tolist()


def checked(
    wide: npt.NDArray[Any], name: str, columns: Sequence[str], first: int
) -> npt.NDArray[Any]:
    """Return `wide` (rows, columns), or raise CommandError for the first overflow of float32.

    `first` is the number of rows before these.
    """
    if wide.dtype.kind != "f" or wide.dtype.itemsize < 8:
        return wide
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if np.isfinite(narrow).all():
        return wide
    beyond = np.argwhere(np.isinf(narrow) & np.isfinite(wide))
    if len(beyond):
        row, column = beyond[0].tolist()
        number = f"{wide[row, column]} in row {first + row + 1} of column {columns[column]!r}"
        raise CommandError(f"{name}: expected numbers that float32 can hold, got {number}")
    return wide
