"""Tables that map the keys of models to slots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._given_keys import GivenKeys
from mlpbank._key_columns import exact_list, listed
from mlpbank._keys import common_kind, encode, stored_key
from mlpbank.errors import BankFileError, InvalidTypeError, InvalidValueError
from mlpbank.typing import Int64Array, Key

Table = _core.StringTable | _core.TupleTable | _core.IntTable

_SEED_BYTES = 16


def make_table(keys: Any) -> Table:
    """Return a table in which the key at position i has slot i.

    Raises
    ------
    TypeError
        A key is none, or they are not all of one type.
    ValueError
        Two keys are equal, or one cannot be encoded in UTF-8.
    """
    values = listed(keys)
    if isinstance(values, GivenKeys) and isinstance(values.values, _core.ArrowKeys):
        values = exact_list(values)
    if isinstance(values, GivenKeys):
        dtype = getattr(keys, "dtype", "floats")
        raise InvalidTypeError(
            f"keys: expected str, int or tuples of them, got {dtype}; use int or str"
        )
    seed = os.urandom(_SEED_BYTES)
    kind: Any = int if isinstance(values, np.ndarray) else _core.type_of_keys(values)
    if isinstance(values, list) and (kind is None or None in values):
        values = _stored(values)
        kind = common_kind(values)
    if kind is int:
        values = _integers(values)
        buckets, duplicate = _core.int_buckets(values, seed)
        table: Table = _core.IntTable(values, buckets, seed)
    else:
        offsets, data = _texts(values) if kind is str else _tuples(values, kind)
        buckets, duplicate = _core.string_buckets(offsets, data, seed)
        table = (
            _core.StringTable(offsets, data, buckets, seed)
            if kind is str
            else _core.TupleTable(offsets, data, buckets, seed, kind)
        )
    if duplicate >= 0:
        key = int(values[duplicate]) if kind is int else values[duplicate]
        raise InvalidValueError(
            f"keys: expected different ones, got {key!r} again at position {duplicate}"
        )
    return table


def _stored(keys: list[Any]) -> list[Key]:
    return [stored_key(key, f"keys[{i}]") for i, key in enumerate(keys)]


def _integers(keys: Any) -> Int64Array:
    try:
        return np.array(keys, np.int64)  # a copy: the caller may change its own array later
    except OverflowError:
        return np.array(_stored(keys), np.int64)  # raises


def _texts(keys: list[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    encoded = [encode(key, f"keys[{i}]") for i, key in enumerate(keys)]
    offsets = np.zeros(len(keys) + 1, np.uint64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def _tuples(keys: list[Any], kind: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    try:
        return _core.encode_tuples(keys, kind)
    except ValueError:  # a large int, or a surrogate that UTF-8 cannot hold
        return _core.encode_tuples(_stored(keys), kind)  # type: ignore[arg-type]


def make_table_of_slots(keys: Sequence[Key | None], kind: Any) -> Table:
    """Return a table of keys of type `kind` by slot; None: the slot has no model."""
    vacant = [i for i, key in enumerate(keys) if key is None]
    seed = os.urandom(_SEED_BYTES)
    if kind is int:
        values = np.array([0 if key is None else key for key in keys], np.int64)
        buckets, duplicate = _core.int_buckets(values, seed, vacant)
        table: Table = _core.IntTable(values, buckets, seed, vacant=vacant)
    else:
        present: list[Any] = [key for key in keys if key is not None]
        ends, data = _texts(present) if kind is str else _core.encode_tuples(present, kind)
        sizes = np.zeros(len(keys) + 1, np.uint64)
        sizes[1:][[key is not None for key in keys]] = np.diff(ends)
        offsets = np.cumsum(sizes, dtype=np.uint64)
        buckets, duplicate = _core.string_buckets(offsets, data, seed, vacant)
        table = (
            _core.StringTable(offsets, data, buckets, seed, vacant=vacant)
            if kind is str
            else _core.TupleTable(offsets, data, buckets, seed, kind, vacant=vacant)
        )
    if duplicate >= 0:
        raise BankFileError(f"keys: expected different ones, got {keys[duplicate]!r} twice")
    return table


def empty_table(kind: Any) -> Table:
    """Return an empty table for keys of one type."""
    if kind is int:
        return make_table(np.empty(0, np.int64))
    if kind is str:
        return make_table([])
    none = np.zeros(1, np.uint64), np.empty(0, np.uint8), np.zeros(2, np.uint32)
    return _core.TupleTable(*none, os.urandom(_SEED_BYTES), kind)


def table_keys(table: Table) -> Sequence[Any]:
    """Return all keys of a table, in the order of their slots; None for slots without a key.

    Raises
    ------
    BankFileError
        The table comes from a damaged file.
    """
    if isinstance(table, _core.IntTable):
        return _without_vacant(table.values.tolist(), table.vacant)
    if isinstance(table, _core.TupleTable):
        try:
            return table.tuples()
        except ValueError as error:
            raise BankFileError(str(error)) from None
    return _without_vacant(decode_strings(table.offsets, table.bytes, "keys"), table.vacant)


def decode_tuples(stored: Sequence[bytes], kind: Any) -> list[Any]:
    """Return tuples of type `kind` that are kept as bytes, all different.

    Raises
    ------
    BankFileError
        One is damaged.
    """
    offsets = np.zeros(len(stored) + 1, np.uint64)
    np.cumsum([len(one) for one in stored], out=offsets[1:])
    data, seed = np.frombuffer(b"".join(stored), np.uint8), os.urandom(_SEED_BYTES)
    buckets, _ = _core.string_buckets(offsets, data, seed)
    return list(table_keys(_core.TupleTable(offsets, data, buckets, seed, kind)))


def _without_vacant(keys: list[Any], vacant: list[int]) -> list[Any]:
    for slot in vacant:
        keys[slot] = None
    return keys


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
