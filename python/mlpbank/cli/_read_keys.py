"""Keys of tables: cells of CSV and columns of other tables as keys of a bank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._keys import is_missing
from mlpbank.cli._errors import CommandError, KeyColumnError
from mlpbank.cli._parts import KeyColumn

# The spellings of a missing value that pandas.read_csv knows, in lower case.
MISSING = (
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "null", "nan", "none"),
)
_WHOLE = re.compile(r"(?<=[0-9])\.0*$")  # of ints that became float where there are gaps
_INTEGER = re.compile(r"[+-]?[0-9]+")


def typed(key: Sequence[str], key_type: Any) -> list[tuple[str, Any]]:
    """Return the columns of keys, each with the type of what it holds."""
    return list(zip(key, getattr(key_type, "__args__", (key_type,)), strict=True))


def has_tuples(key_type: Any) -> bool:
    """Return whether keys of a bank are tuples. Without any type, keys are str."""
    return key_type not in (None, str, int)


def key_cells(cells: list[str], kind: Any) -> KeyColumn:
    """Return cells as keys or parts of them. ValueError if one is none; `key_cell` tells why."""
    if kind is not int:
        return [cell or None for cell in cells] if "" in cells else cells
    joined = "".join(cells)
    if joined.isascii() and joined.replace("-", "").isdigit():
        try:
            return np.array(list(map(int, cells)), np.int64)
        except (ValueError, OverflowError):  # an empty cell, two signs, more than 64 bits
            pass
    return [key_cell(cell, kind, "") for cell in cells]


def key_cell(cell: str, kind: Any, where: str) -> str | int | None:
    """Return a cell as a key or a part of one, None where it is missing.

    A text is what it is: also one that says NA may be a key, and where it is none, it is unknown.
    """
    if kind is not int:
        return cell or None
    if cell.isdigit() and len(cell) < 19 and cell.isascii():
        return int(cell)
    text = cell.strip(" ")
    if text.lower() in MISSING:
        return None
    return _integer(_WHOLE.sub("", text), where)


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


def key_column(column: npt.NDArray[Any], name: str, key_type: Any, first: int) -> KeyColumn:
    """Return a column as keys of a bank, or raise CommandError for the first that is no key.

    `first` is the number of rows before these.
    """
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
        raise wrong_column(name, str(column.dtype), column.dtype.kind, key_type)
    if wrong.any():
        got = f"{column[wrong][0]} in row {first + int(np.argmax(wrong)) + 1}"
        raise CommandError(f"--key: expected a column of {wanted(key_type)}, got {got}")
    return column.astype(np.int64)


def wrong_column(name: str, dtype: str, kind: str, key_type: Any) -> KeyColumnError:
    """Return the error for a column of another dtype, with how pandas makes it one of keys."""
    if key_type is int:
        way = "; write it with astype('Int64')" if kind in ("U", "O") else ""
    else:
        way = {
            "i": "; write it with astype(str)",
            "u": "; write it with astype(str)",
            "f": "; write it with astype('Int64') and then astype('string')",
        }.get(kind, "")
    return KeyColumnError(
        f"--key: expected a column of {wanted(key_type)} like the bank's keys, got {name!r} of "
        f"{dtype}{way}"
    )


def wanted(key_type: Any) -> str:
    """Return what a column of keys holds, for messages."""
    return "integers of 64 bits" if key_type is int else "text"
