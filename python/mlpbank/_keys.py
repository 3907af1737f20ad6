"""Keys: from the names of models to their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import as_ids
from mlpbank._files import BankFileError

Key = str | int
Table = _core.StringTable | _core.IntTable
Ids = npt.NDArray[np.int64]

_DELETED = -1


def make_table(keys: Any) -> Table:
    """Return a table in which the key at position i has id i.

    Raises
    ------
    TypeError
        The keys are not all str or all int.
    ValueError
        Two are equal, or one cannot be encoded as UTF-8.
    """
    keys, kind = as_keys(keys)
    if kind is int:
        slots, duplicate = _core.int_slots(keys)
        table: Table = _core.IntTable(keys, slots)
    else:
        for i, key in enumerate(keys):
            if not isinstance(key, str):
                raise TypeError(f"keys[{i}]: expected a str, got {key!r}")
        encoded = [encode(key) for key in keys]
        offsets = np.zeros(len(keys) + 1, np.uint64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        data = np.frombuffer(b"".join(encoded), np.uint8)
        slots, duplicate = _core.string_slots(offsets, data)
        table = _core.StringTable(offsets, data, slots)
    if duplicate >= 0:
        key = keys[duplicate] if kind is str else int(keys[duplicate])
        raise ValueError(f"keys: expected different ones, got {key!r} again at position {duplicate}")
    return table


def empty_table(kind: type) -> Table:
    """Return a table of no keys of one kind, ``str`` or ``int``."""
    return make_table([] if kind is str else np.empty(0, np.int64))


def encode(text: str, name: str = "key") -> bytes:
    """Return a str as UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: expected a str that UTF-8 can hold, got {text!r} ({error.reason})") from None


def as_keys(keys: Any) -> tuple[Any, type]:
    """Return many keys as a list (of str) or an int64 array, and which of the two the first one asks for.

    Raises
    ------
    TypeError
        `keys` is not a sequence or column, or an entry is neither str nor int like the first one.
    ValueError
        They have more than one dimension, or an int needs more than 64 bits.
    """
    if not isinstance(keys, list):
        if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
            try:
                return as_ids(keys, "keys"), int
            except IndexError:  # uint64; the list below says it better
                pass
        to_list = getattr(keys, "tolist", None) or getattr(keys, "to_list", None)  # NumPy, pandas; polars
        unordered = isinstance(keys, (str, bytes, set, frozenset))
        if hasattr(keys, "columns"):  # iterating over a data frame gives their names
            raise TypeError(f"keys: expected a list, tuple, array or column of str or int, got a {type(keys).__name__}")
        if to_list is None and (unordered or not hasattr(keys, "__iter__")):
            raise TypeError(f"keys: expected a list, tuple, array or column of str or int, got {keys!r}")
        keys = list(keys) if to_list is None else to_list()
        if not isinstance(keys, list):
            raise TypeError(f"keys: expected one dimension, got {keys!r}")
    if not keys or isinstance(keys[0], str):
        return keys, str
    if not isinstance(keys[0], (int, np.integer)) or isinstance(keys[0], bool):
        raise TypeError(f"keys[0]: expected a str or an int, got {keys[0]!r}")
    if set(map(type, keys)) != {int}:
        for i, key in enumerate(keys):
            if not isinstance(key, (int, np.integer)) or isinstance(key, bool):
                raise TypeError(f"keys[{i}]: expected an int, got {key!r}")
    try:
        return np.array(keys, np.int64), int
    except OverflowError:
        i = next(i for i, key in enumerate(keys) if not _fits(key))
        raise ValueError(f"keys[{i}]: expected an int of 64 bits, got {keys[i]}") from None


def _fits(key: Any) -> bool:
    return -(2**63) <= int(key) < 2**63


def plain(key: Any) -> Key:
    """Return a key without what a subclass of str or int may add, such as another hash."""
    return str.__str__(key) if isinstance(key, str) else int(key)


def _find_in(table: Any, keys: Any, changes: dict[Any, int]) -> tuple[Ids, int]:
    found: tuple[Ids, int] = table.find(keys, changes)
    return found


class Keys:
    """A table that never changes and, in a dict, what was added to and deleted from it since. All str or all int.

    Changing needs a lock, reading does not: each change is one step of a dict.
    """

    def __init__(self, table: Table | None = None) -> None:
        self.table = table
        self.changes: dict[Any, int] = {}
        self._count = 0 if table is None else table_size(table)

    @property
    def kind(self) -> type | None:
        """``str`` or ``int``; None as long as there never was a key."""
        return None if self.table is None else str if isinstance(self.table, _core.StringTable) else int

    def check(self, key: Any) -> None:
        """Raise TypeError or ValueError if a key could not be one of these."""
        kind = self.kind
        if not isinstance(key, (str, int, np.integer)) or isinstance(key, bool):
            raise TypeError(f"key: expected a str or an int, got {key!r}")
        if kind is not None and isinstance(key, str) != (kind is str):
            raise TypeError(f"key: expected {kind.__name__} like the bank's other keys, got {key!r}")
        if isinstance(key, str):
            encode(key)
        elif not _fits(key):
            raise ValueError(f"key: expected an int of 64 bits, got {key}")

    def fix_kind(self, key: Any) -> None:
        """Let all keys be of the kind of this one, if there is none yet. Needs the lock."""
        if self.table is None:
            self.table = empty_table(str if isinstance(key, str) else int)

    def find(self, keys: Any, kind: type) -> tuple[Ids, int]:
        """Return the ids of keys as `as_keys` gave them, -1 for those that are unknown, and how many are unknown."""
        table = self.table
        if table is None or len(keys) == 0:
            return np.full(len(keys), -1, np.int64), len(keys)
        if isinstance(table, _core.StringTable) != (kind is str):
            first = keys[0] if kind is str else int(keys[0])  # not np.int64(1)
            raise TypeError(f"keys: expected {'int' if kind is str else 'str'} like the bank's, got {first!r}")
        return _find_in(table, keys, self.changes)

    def id(self, key: Any) -> int:
        """Return the id of one key, -1 if it is unknown."""
        kind = self.kind
        if isinstance(key, str):
            return -1 if kind is not str else int(self.find([key], str)[0][0])
        if kind is not int or not isinstance(key, (int, np.integer)) or isinstance(key, bool) or not _fits(key):
            return -1
        return int(self.find(np.array([key], np.int64), int)[0][0])

    def add(self, key: Any, model: int) -> None:
        """Give an id to a new key."""
        self.fix_kind(key)
        self.changes[plain(key)] = model
        self._count += 1

    def remove(self, key: Any) -> None:
        """Forget a key that is there."""
        key = plain(key)
        assert self.table is not None
        if _find_in(self.table, [key] if isinstance(key, str) else np.array([key], np.int64), {})[1] == 0:
            self.changes[key] = _DELETED
        else:
            del self.changes[key]
        self._count -= 1

    def items(self) -> Iterator[tuple[Key, int]]:
        """Yield every key with its id, in the order of the table and then of addition."""
        changes = dict(self.changes)
        for i, key in enumerate(table_keys(self.table) if self.table is not None else ()):
            model = changes.pop(key, i) if changes else i
            if model != _DELETED:
                yield key, model
        yield from changes.items()

    def __len__(self) -> int:
        return self._count


def table_size(table: Table) -> int:
    """Return the number of keys of a table."""
    return len(table.values) if isinstance(table, _core.IntTable) else len(table.offsets) - 1


def table_keys(table: Table) -> Sequence[Key]:
    """Return all keys of a table, each at the position that is its id.

    Raises
    ------
    BankFileError
        The table came from a damaged file.
    """
    if isinstance(table, _core.IntTable):
        return table.values.tolist()  # type: ignore[no-any-return]
    return texts(table.offsets, table.bytes, "keys")


def texts(offsets: npt.NDArray[np.uint64], data: npt.NDArray[np.uint8], name: str) -> list[str]:
    """Return strings that lie one behind the other, or raise BankFileError if they do not."""
    ends, text = offsets.tolist(), data.tobytes()
    if any(a > b for a, b in pairwise(ends)) or ends[0] != 0 or ends[-1] != len(text):
        raise BankFileError(f"{name}: expected offsets that ascend")
    try:
        return [text[a:b].decode() for a, b in pairwise(ends)]
    except UnicodeDecodeError as error:
        raise BankFileError(f"{name}: expected UTF-8, got {error.object!r:.80}") from None
