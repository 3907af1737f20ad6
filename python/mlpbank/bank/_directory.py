"""Which models a bank has: their keys, their slots in the weights, their versions."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank._keys import (
    Ids,
    Key,
    check_key,
    could_be,
    empty_table,
    make_table,
    plain,
    table_keys,
)
from mlpbank.files._atomic import BankFileError
from mlpbank.weights import BatchedWeights

MOST_REUSES = 2**31 - 1  # of a slot: an id has so many bits left for their number


class UnknownModelError(KeyError):
    """A key, or an id, of no model of the bank.

    Attributes
    ----------
    keys : list
        All that are unknown, in the order of the call.
    """

    def __init__(self, keys: list[Any], total: int, kind: str = "keys") -> None:
        shown = ", ".join(f"{key!r:.80}" for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
        super().__init__(keys, total, kind)
        self.keys = keys
        self._message = f"no such model: {shown} ({len(keys)} of {total} {kind})"

    def __str__(self) -> str:
        return self._message


@dataclass(frozen=True)
class ModelInfo:
    """What a bank knows about a model beside its weights.

    Attributes
    ----------
    key : str or int
    version : str or None
        As given when it was loaded.
    generation : int
        How often it was loaded under this key.
    loaded_at : datetime
        When it was loaded last, UTC.
    """

    key: Key
    version: str | None
    generation: int
    loaded_at: datetime


class Directory:
    """Which models a bank has: `core` knows and changes it, this puts it into words.

    Parameters
    ----------
    weights : BatchedWeights
    records : ModelColumns
        What the bank begins as.
    """

    def __init__(self, weights: BatchedWeights, records: ModelColumns, most_reuses: int = MOST_REUSES) -> None:
        self._records = records
        self.core = _core.Bank(
            weights._core,
            records.table,
            records.generations,
            records.loaded_at,
            records.version_offsets,
            records.version_bytes,
            most_reuses,
        )

    @property
    def kind(self) -> type | None:
        """``str`` or ``int``, of which all keys are; None as long as there never was one."""
        return self.core.key_type

    def check(self, key: Any) -> None:
        """Raise TypeError or ValueError if a key could not be one of these."""
        check_key(key, self.kind)

    def find(self, keys: Any, kind: type) -> tuple[Ids, int]:
        """Return the slots of keys as `as_keys` gave them, -1 where there is none, and how many there are not."""
        return self._find(self.core.find, keys, kind)

    def find_ids(self, keys: Any, kind: type) -> tuple[Ids, int]:
        """Return the ids of keys like `find`."""
        return self._find(self.core.find_handles, keys, kind)

    def _find(self, find: Callable[[Any], tuple[Ids, int]], keys: Any, given: type) -> tuple[Ids, int]:
        kind = self.core.key_type
        if kind is given:
            found, unknown = find(keys)
            if unknown >= 0:
                return found, unknown
            i = -2 - unknown
            raise TypeError(f"keys[{i}]: expected a str, got {keys[i]!r}")
        if kind is None or len(keys) == 0:
            return np.full(len(keys), -1, np.int64), len(keys)
        first = keys[0] if given is str else int(keys[0])  # not np.int64(1)
        raise TypeError(f"keys: expected {kind.__name__} like the bank's, got {first!r}")

    def slot(self, key: Any) -> int:
        """Return the slot of one key, -1 if it is unknown. Whoever uses the slot has a reader of the core meanwhile."""
        kind = self.kind
        if not could_be(key, kind):
            return -1
        one: Any = [plain(key)] if kind is str else np.array([key], np.int64)
        return int(self.core.find(one)[0][0])

    def slots_of(self, ids: Ids) -> Ids:
        """Return the slots of ids; raise UnknownModelError if the model of one was removed."""
        slots, stale = self.core.slots_of(ids)
        if stale is not None:
            raise UnknownModelError(ids[stale].tolist(), len(ids), "ids")
        return slots

    def remove(self, key: Any) -> None:
        """Remove a model."""
        try:
            known = could_be(key, self.kind) and self.core.remove(plain(key))
        except ValueError:  # a lone surrogate
            known = False
        if not known:
            raise UnknownModelError([key], 1)

    def info(self, key: Any) -> ModelInfo:
        """Return what is known about a model."""
        found = None
        with contextlib.suppress(ValueError):  # a lone surrogate
            found = self.core.info(plain(key)) if could_be(key, self.kind) else None
        if found is None:
            raise UnknownModelError([key], 1)
        try:
            when = datetime.fromtimestamp(found.loaded_at, timezone.utc)
        except (ValueError, OverflowError, OSError):
            raise BankFileError(f"loaded_at: expected seconds since 1970, got {found.loaded_at} for {key!r}") from None
        return ModelInfo(key, found.version or None, found.revision, when)

    def keys(self) -> list[Key]:
        """Return all keys, in the order of the table and then of addition."""
        return self._keys_and_slots(self.core.freeze(False))[0]

    def freeze(self) -> tuple[_core.Snapshot, Ids, ModelColumns]:
        """Return the weights of all models at one moment, their slots in the order of their keys, and their records."""
        frozen = self.core.freeze(True)
        old = self._records
        table = old.table
        if frozen.key_type is not None and table is None:
            table = empty_table(frozen.key_type)
        if not frozen.records and not len(frozen.added.slots) and not len(frozen.moved.slots):
            records = ModelColumns(table, old.generations, old.loaded_at, old.version_offsets, old.version_bytes)
            return frozen.weights, np.arange(len(old.generations)), records
        keys, slots = self._keys_and_slots(frozen)
        n = len(slots)
        known = np.flatnonzero(slots < len(old.generations))
        generations, loaded_at = np.zeros(n, np.int64), np.zeros(n)
        generations[known] = old.generations[slots[known]]
        loaded_at[known] = old.loaded_at[slots[known]]
        versions = [b""] * n
        if len(old.version_bytes) > 0:
            for i in known.tolist():
                versions[i] = (old.version(int(slots[i])) or "").encode()
        position = np.full(max(slots.tolist(), default=0) + 1, -1)
        position[slots] = np.arange(n)
        for slot, record in frozen.records:
            i = int(position[slot])
            generations[i], loaded_at[i], versions[i] = record.revision, record.loaded_at, record.version.encode()
        offsets = np.zeros(n + 1, np.uint64)
        np.cumsum([len(version) for version in versions], out=offsets[1:])
        if n > 0:
            try:
                table = make_table(keys)
            except ValueError as error:  # two are equal
                raise BankFileError(f"the file this bank came from is damaged: {error}") from error
        elif frozen.key_type is not None:
            table = empty_table(frozen.key_type)
        data = np.frombuffer(b"".join(versions), np.uint8)
        return frozen.weights, slots, ModelColumns(table, generations, loaded_at, offsets, data)

    def _keys_and_slots(self, frozen: _core.FrozenBank) -> tuple[list[Key], Ids]:
        table = self._records.table
        keys: list[Key] = [] if table is None else list(table_keys(table))
        slots = np.arange(len(keys))
        moved = frozen.moved
        if len(moved.slots):
            assert table is not None
            slots[table.find(moved.keys)[0]] = moved.slots
            kept = slots >= 0
            keys, slots = list(itertools.compress(keys, kept.tolist())), slots[kept]
        added = frozen.added
        if len(added.slots):
            keys += added.keys if isinstance(added.keys, list) else added.keys.tolist()
            slots = np.concatenate((slots, added.slots))
        return keys, slots
