"""Rows of the index of a live folder, checked one by one: what verify and the log need.

Following a folder checks what it uses, and whether changes fit those before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mlpbank._key_tables import decode_tuples
from mlpbank.errors import BankFileError
from mlpbank.files._live_description import Description
from mlpbank.files._live_index import KINDS, About, Change
from mlpbank.files._mapped import YEAR_9999

_WORD = 2**32
_MOST_SLOTS = 2**31 - 1
_MOST = 2**63  # of what SQLite calls an integer
_ALIGNMENT = 64  # of blocks


class RowCheck:
    """Checks rows in their order.

    Parameters
    ----------
    path : path-like
        Of the index, for messages.
    about : About
    description : Description
    after : int
        The number of the change before the first row.
    """

    def __init__(self, path: Any, about: About, description: Description, after: int) -> None:
        self._path = path
        self._about = about
        self._key_type = description.key_type
        self._block = description.block
        self._before = after
        self._last: int | None = None  # of the transaction that the row before belongs to

    def changes(self, rows: Iterable[Any]) -> Iterator[Change]:
        """Yield rows as they are, once they are checked.

        Raises
        ------
        BankFileError
            A row is not as docs/format.md has it; the message names the row and what is wrong.
        """
        for values in rows:
            row = Change(*values)
            if row.sequence != self._before + 1:
                self._refuse(row, "sequence", f"{self._before + 1}", row.sequence)
            self._check_last(row)
            if row.kind not in KINDS:
                self._refuse(row, "kind", f"one of {', '.join(KINDS)}", row.kind)
            self._check_model(row)
            self._check_block(row)
            self._before = row.sequence
            yield row

    def end(self) -> None:
        """Raise BankFileError where rows are missing at the end."""
        if self._before != self._about.sequence or self._last is not None:
            raise BankFileError(
                f"{self._path}: expected changes up to {self._about.sequence}, got them up to "
                f"{self._before}"
            )

    def _check_last(self, row: Change) -> None:
        self._whole(row, "last", row.sequence, self._about.sequence + 1)
        if self._last is not None and row.last != self._last:
            self._refuse(row, "last", f"{self._last} like the change before", row.last)
        self._last = None if row.last == row.sequence else row.last

    def _check_model(self, row: Change) -> None:
        is_load = row.kind == "load"
        if is_load or row.kind == "remove":
            self._whole(row, "slot", 0, _MOST_SLOTS)
            self._whole(row, "reuse_count", 0, _WORD)
            stored = self._key_type if self._key_type in (str, int) else bytes
            if self._key_type is None or type(row.key) is not stored:
                self._refuse(row, "key", f"one of {self._key_type}", row.key)
        else:
            self._none(row, "slot", "key", "reuse_count")
        if not is_load:
            self._none(row, "version", "revision", "loaded_at")
            return
        self._whole(row, "revision", 1, _MOST)
        if row.version is not None and type(row.version) is not str:
            self._refuse(row, "version", "text", row.version)
        if type(row.loaded_at) is not float or not 0 <= row.loaded_at < YEAR_9999:
            self._refuse(row, "loaded_at", "seconds since 1970", row.loaded_at)

    def _check_block(self, row: Change) -> None:
        has_block = row.kind == "load" or (row.kind == "remove" and self._block.models > 1)
        if not has_block:
            self._none(row, "segment", "offset", "checksum")
            return
        self._whole(row, "segment", 1, self._about.segment + 1)
        self._whole(row, "offset", 0, self._about.segment_bytes - self._block.bytes + 1)
        if row.offset is not None and row.offset % _ALIGNMENT:
            self._refuse(row, "offset", f"a multiple of {_ALIGNMENT}", row.offset)
        self._whole(row, "checksum", 0, _WORD)

    def _whole(self, row: Change, name: str, least: int, end: int) -> None:
        value = getattr(row, name)
        if type(value) is not int or not least <= value < end:
            self._refuse(row, name, f"an integer from {least} to {end - 1}", value)

    def _none(self, row: Change, *names: str) -> None:
        for name in names:
            if (value := getattr(row, name)) is not None:
                self._refuse(row, name, f"none of a change of kind {row.kind}", value)

    def _refuse(self, row: Change, name: str, expected: str, got: Any) -> None:
        raise BankFileError(
            f"{self._path}: damaged: change {row.sequence}: {name}: expected {expected}, got "
            f"{got!r:.80}"
        )


def keys_of(rows: list[Change], key_type: Any) -> list[Any]:
    """Return the keys of rows that are checked, tuples as such; None where there is none."""
    keys = [row.key for row in rows]
    if key_type in (None, str, int):
        return keys
    stored = list(dict.fromkeys(key for key in keys if key is not None))
    tuples: dict[Any, Any] = dict(zip(stored, decode_tuples(stored, key_type), strict=True))
    return [None if key is None else tuples[key] for key in keys]
