"""Keys, the names of models, and the tables that map them to slots."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import as_int64
from mlpbank.errors import BankFileError, InvalidTypeError, InvalidValueError
from mlpbank.typing import Key

Table = _core.StringTable | _core.IntTable

_SEED_BYTES = 16


def make_table(keys: Any) -> Table:
    """Return a table in which the key at position i has slot i.

    Raises
    ------
    TypeError
        The keys are not all str or all int.
    ValueError
        Two keys are equal, or one cannot be encoded in UTF-8.
    """
    keys, kind = as_keys(keys)
    seed = secrets.token_bytes(_SEED_BYTES)
    if kind is int:
        keys = keys.copy()  # the caller may change its own array later
        buckets, duplicate = _core.int_buckets(keys, seed)
        table: Table = _core.IntTable(keys, buckets, seed)
    else:
        for i, key in enumerate(keys):
            if not isinstance(key, str):
                raise InvalidTypeError(f"keys[{i}]: expected a str, got {key!r}")
        encoded = [encode(key) for key in keys]
        offsets = np.zeros(len(keys) + 1, np.uint64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        data = np.frombuffer(b"".join(encoded), np.uint8)
        buckets, duplicate = _core.string_buckets(offsets, data, seed)
        table = _core.StringTable(offsets, data, buckets, seed)
    if duplicate >= 0:
        key = keys[duplicate] if kind is str else int(keys[duplicate])
        raise InvalidValueError(
            f"keys: expected different ones, got {key!r} again at position {duplicate}"
        )
    return table


def empty_table(kind: type) -> Table:
    """Return an empty table for keys of one kind, ``str`` or ``int``."""
    return make_table([] if kind is str else np.empty(0, np.int64))


def encode(text: str, name: str = "key") -> bytes:
    """Return `text` in UTF-8, or raise ValueError for a surrogate that UTF-8 cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{name}: expected a str that UTF-8 can hold, got {text!r} ({error.reason})"
        ) from None


def as_keys(keys: Any) -> tuple[Any, type]:
    """Return keys as a list of str or an int64 array, and the type of the first, str or int.

    A list of str is not checked beyond its first entry.

    Raises
    ------
    TypeError
        `keys` is not a sequence or column of one dimension, its first entry is neither str nor int,
        or one after an int is no int.
    ValueError
        An int needs more than 64 bits.
    """
    if not isinstance(keys, list):
        if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
            try:
                return as_int64(keys, "keys"), int
            except IndexError:  # a large uint64; the check of the list below has a better message
                pass
        # NumPy and pandas have tolist, polars has to_list.
        to_list = getattr(keys, "tolist", None) or getattr(keys, "to_list", None)
        unordered = isinstance(keys, (str, bytes, set, frozenset))
        if hasattr(keys, "columns"):  # iterating over a data frame would give column names
            raise InvalidTypeError(
                "keys: expected a list, tuple, array or column of str or int, "
                f"got a {type(keys).__name__}"
            )
        if to_list is None and (unordered or not hasattr(keys, "__iter__")):
            raise InvalidTypeError(
                f"keys: expected a list, tuple, array or column of str or int, got {keys!r}"
            )
        keys = list(keys) if to_list is None else to_list()
        if not isinstance(keys, list):
            raise InvalidTypeError(f"keys: expected one dimension, got {keys!r}")
    if not keys or isinstance(keys[0], str):
        return keys, str
    if not isinstance(keys[0], (int, np.integer)) or isinstance(keys[0], bool):
        raise InvalidTypeError(f"keys[0]: expected a str or an int, got {keys[0]!r}")
    if set(map(type, keys)) != {int}:
        for i, key in enumerate(keys):
            if not isinstance(key, (int, np.integer)) or isinstance(key, bool):
                raise InvalidTypeError(f"keys[{i}]: expected an int, got {key!r}")
    try:
        return np.array(keys, np.int64), int
    except OverflowError:
        i = next(i for i, key in enumerate(keys) if not _fits(key))
        raise InvalidValueError(f"keys[{i}]: expected an int of 64 bits, got {keys[i]}") from None


def _fits(key: Any) -> bool:
    return -(2**63) <= int(key) < 2**63


def to_builtin(key: Any) -> Key:
    """Return a key as a plain str or int: a subclass may have another hash."""
    return str.__str__(key) if isinstance(key, str) else int(key)


def check_key(key: Any, kind: type | None) -> None:
    """Raise TypeError or ValueError if `key` does not fit keys of `kind`, None if that is open."""
    if not isinstance(key, (str, int, np.integer)) or isinstance(key, bool):
        raise InvalidTypeError(f"key: expected a str or an int, got {key!r}")
    if kind is not None and isinstance(key, str) != (kind is str):
        raise InvalidTypeError(
            f"key: expected {kind.__name__} like the bank's other keys, got {key!r}"
        )
    if isinstance(key, str):
        encode(key)
    elif not _fits(key):
        raise InvalidValueError(f"key: expected an int of 64 bits, got {key}")


def could_be(key: Any, kind: type | None) -> bool:
    """Return whether `key` fits a bank with keys of `kind`. None means that it has no keys yet."""
    if kind is None or isinstance(key, bool):
        return False
    if kind is str:
        return isinstance(key, str)
    return isinstance(key, (int, np.integer)) and _fits(key)


def table_keys(table: Table) -> Sequence[Key]:
    """Return all keys of a table, in the order of their slots.

    Raises
    ------
    BankFileError
        The table comes from a damaged file.
    """
    if isinstance(table, _core.IntTable):
        return table.values.tolist()  # type: ignore[no-any-return]
    return decode_strings(table.offsets, table.bytes, "keys")


def decode_strings(
    offsets: npt.NDArray[np.uint64], data: npt.NDArray[np.uint8], name: str
) -> list[str]:
    """Return the strings of concatenated UTF-8, or raise BankFileError if it is damaged."""
    ends, text = offsets.tolist(), data.tobytes()
    if any(a > b for a, b in pairwise(ends)) or ends[0] != 0 or ends[-1] != len(text):
        raise BankFileError(f"{name}: expected offsets that ascend")
    try:
        return [text[a:b].decode() for a, b in pairwise(ends)]
    except UnicodeDecodeError as error:
        raise BankFileError(f"{name}: expected UTF-8, got {error.object!r:.80}") from None
