"""SlotMap: from the keys of a bank to the slots of its models, and what else is known of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._columns import ModelColumns, ModelInfo
from mlpbank._given_keys import GivenKeys
from mlpbank._key_columns import as_keys, expect_kind
from mlpbank._key_tables import empty_table, make_table, make_table_of_slots, table_keys
from mlpbank._keys import (
    asked_key,
    check_key,
    check_kind,
    kind_name,
    kind_of,
    known_form,
    spellings,
    stored_key,
    way_to,
)
from mlpbank.errors import (
    BankFileError,
    InvalidTypeError,
    InvalidValueError,
    UnknownModelError,
)
from mlpbank.typing import Int64Array, Key
from mlpbank.weights import BatchedWeights

MOST_REUSES = 2**31 - 1  # of a slot: a handle has so many bits left for their number


class SlotMap:
    """Which slot has which key. `core` knows and changes it; this gives answers and errors form.

    Parameters
    ----------
    weights : BatchedWeights
    columns : ModelColumns
        What the bank begins as.
    """

    def __init__(
        self, weights: BatchedWeights, columns: ModelColumns, most_reuses: int = MOST_REUSES
    ) -> None:
        self._columns = columns
        self._kind: Any = None
        self.core = _core.Bank(
            weights._core,
            columns.table,
            columns.revisions,
            columns.loaded_at,
            columns.version_offsets,
            columns.version_bytes,
            most_reuses,
            [] if columns.reuse_counts is None else columns.reuse_counts.tolist(),
        )

    @property
    def kind(self) -> Any:
        """``str``, ``int`` or ``tuple[...]``, the type of all keys; None if there never was one."""
        if self._kind is None:  # later it stays
            self._kind = self.core.key_type
        return self._kind

    def check(self, key: Any) -> Key:
        """Return a key as it is kept; TypeError or ValueError if it could not be one of these."""
        return check_key(key, self.kind)

    def asked(self, key: Any) -> Key | None:
        """Return one key to look up, None if it is missing; TypeError or ValueError as `check`."""
        plain = asked_key(key)
        if plain is not None:
            check_kind(plain, self.kind)
        return plain

    def find(self, keys: GivenKeys, num_threads: int = 1) -> tuple[Int64Array, int]:
        """Return the slots of keys, -1 for unknown and missing ones, and how many those are.

        Of several threads only columns of Arrow and of objects make use.
        """
        return self._find(keys, False, num_threads)

    def find_handles(self, keys: GivenKeys) -> tuple[Int64Array, int]:
        """Return the handles of keys like `find`."""
        return self._find(keys, True, 1)

    def _find(self, keys: GivenKeys, handles: bool, num_threads: int) -> tuple[Int64Array, int]:
        kind = self.kind
        if keys.kind is None or kind is None:
            return np.full(len(keys), -1, np.int64), len(keys)
        if keys.kind is not kind and keys.kind != kind:
            expect_kind(keys, kind)
            return np.full(len(keys), -1, np.int64), len(keys)  # all are missing
        if isinstance(keys.values, np.ndarray) and keys.values.dtype.kind == "O":
            text = self.core.find_text(keys.values, handles, num_threads)
            return text or self._find(as_keys(keys.values.tolist()), handles, num_threads)
        if isinstance(keys.values, _core.ArrowKeys):
            try:
                return self.core.find_arrow(keys.values, handles, num_threads)
            except InvalidValueError as error:
                raise InvalidValueError(f"keys: {error}") from None
        found, unknown = (self.core.find_handles if handles else self.core.find)(keys.values)
        if unknown < 0:  # another thread has changed the list
            i = -2 - unknown
            asked_key(keys[i], f"keys[{i}]")  # an int beyond 64 bits has a message of its own
            raise InvalidTypeError(f"keys[{i}]: expected one like the others, got {keys[i]!r}")
        if keys.gaps is not None:
            found[keys.gaps] = -1
            unknown = int((found < 0).sum())
        if keys.codes is not None:
            found = np.append(found, -1)[keys.codes]  # code -1 takes the last
            unknown = int((found < 0).sum())
        return found, unknown

    def slot(self, key: Any) -> int:
        """Return the slot of one key, -1 if it is unknown. Enter the core before."""
        kind = self.kind
        known = known_form(key, kind)
        if known is None:
            return -1
        one: Any = np.array([known], np.int64) if kind is int else [known]
        return int(self.core.find(one)[0][0])

    def unknown(self, key: Any) -> UnknownModelError:
        """Return the error for one key that no model has."""
        return UnknownModelError([key], 1, way=self.way_to_known([key]))

    def way_to_known(self, keys: Sequence[Any]) -> str:
        """Return how unknown keys become ones that are there, as the end of a message.

        The first few are looked up without blanks, as integers, and with other capitals.
        """
        for key in keys[:5]:
            try:
                plain = stored_key(key)
            except (TypeError, ValueError):
                continue
            if self.kind is not None and kind_of(plain) != self.kind:
                is_none = f"the bank's keys are {kind_name(self.kind)}, {plain!r:.80} is none"
                return f"; {is_none}{way_to(plain, self.kind)}"
            for near in spellings(plain):
                if self.slot(near) >= 0:
                    return f"; instead of {plain!r:.80} there is {near!r:.80}"
        return ""

    def slots_of(self, handles: Int64Array) -> tuple[Int64Array, int]:
        """Return the slots of handles, -1 where the model was removed, and how many were."""
        slots, stale = self.core.slots_of(handles)
        if stale is None:
            return slots, 0
        return np.where(stale, -1, slots), int(stale.sum())

    def remove(self, key: Any) -> None:
        """Remove a model."""
        known = known_form(key, self.kind)
        if known is None or not self.core.remove(known):
            raise self.unknown(key)

    def info(self, key: Any) -> ModelInfo:
        """Return what is known about a model."""
        known = known_form(key, self.kind)
        found = None if known is None else self.core.info(known)
        if known is None or found is None:
            raise self.unknown(key)
        try:
            when = datetime.fromtimestamp(found.loaded_at, timezone.utc)
        except (ValueError, OverflowError, OSError):
            raise BankFileError(
                f"loaded_at: expected seconds since 1970, got {found.loaded_at} for {key!r}"
            ) from None
        return ModelInfo(known, found.version or None, found.revision, when)

    @property
    def num_slots_added(self) -> int:
        """How many slots have come into use since this was made."""
        return self.core.num_used_slots - len(self._columns.revisions)

    def keys(self) -> list[Key]:
        """Return all keys, in the order of the table and then of addition."""
        return self._keys_and_slots(self.core.freeze(False))[0]

    def freeze(self) -> tuple[_core.Snapshot, Int64Array, ModelColumns]:
        """Return weights, slots in the order of keys, and columns, all of one moment."""
        frozen = self.core.freeze(True)
        old = self._columns
        table = old.table
        if frozen.key_type is not None and table is None:
            table = empty_table(frozen.key_type)
        unchanged = not (frozen.records or len(frozen.added.slots) or len(frozen.moved.slots))
        if unchanged and not old.vacant:
            columns = ModelColumns(
                table, old.revisions, old.loaded_at, old.version_offsets, old.version_bytes
            )
            return frozen.weights, np.arange(len(old.revisions)), columns
        keys, slots = self._keys_and_slots(frozen)
        if len(slots) > 0:
            try:
                table = make_table(keys)
            except ValueError as error:  # two are equal
                raise BankFileError(f"the file this bank came from is damaged: {error}") from error
        elif frozen.key_type is not None:
            table = empty_table(frozen.key_type)
        return frozen.weights, slots, ModelColumns(table, *self._records(frozen, slots))

    def freeze_slots(self) -> tuple[_core.Snapshot, Int64Array, ModelColumns, int]:
        """Return weights, slots, columns in which row i is that of slot i, and the sequence.

        Slots without a model are -1.
        """
        frozen = self.core.freeze(True)
        keys, taken = self._keys_and_slots(frozen)
        slots = np.full(len(frozen.reuse_counts), -1)
        slots[taken] = taken
        by_slot: list[Key | None] = [None] * len(slots)
        for key, slot in zip(keys, taken.tolist(), strict=True):
            by_slot[slot] = key
        kind = frozen.key_type
        table = None if kind is None else make_table_of_slots(by_slot, kind)
        counts = np.array(frozen.reuse_counts, np.uint32)
        columns = ModelColumns(table, *self._records(frozen, slots), counts)
        return frozen.weights, slots, columns, frozen.sequence

    def _records(self, frozen: _core.FrozenBank, slots: Int64Array) -> tuple[Any, Any, Any, Any]:
        """Return the columns of these slots but for keys; those of slot -1 are zeros."""
        old, n = self._columns, len(slots)
        known = np.flatnonzero((slots >= 0) & (slots < len(old.revisions)))
        revisions, loaded_at = np.zeros(n, np.int64), np.zeros(n)
        revisions[known] = old.revisions[slots[known]]
        loaded_at[known] = old.loaded_at[slots[known]]
        versions = [b""] * n
        if len(old.version_bytes) > 0:
            for i in known.tolist():
                versions[i] = (old.version(int(slots[i])) or "").encode()
        position = np.full(max(slots.tolist(), default=0) + 2, -1)
        position[slots] = np.arange(n)  # the last one stands for -1
        for slot, record in frozen.records:
            i = int(position[slot])
            revisions[i], loaded_at[i], versions[i] = (
                record.revision,
                record.loaded_at,
                record.version.encode(),
            )
        offsets = np.zeros(n + 1, np.uint64)
        np.cumsum([len(version) for version in versions], out=offsets[1:])
        return revisions, loaded_at, offsets, np.frombuffer(b"".join(versions), np.uint8)

    def _keys_and_slots(self, frozen: _core.FrozenBank) -> tuple[list[Key], Int64Array]:
        table = self._columns.table
        keys: list[Key] = [] if table is None else list(table_keys(table))
        slots = np.arange(len(keys))
        moved = frozen.moved
        if table is not None and (len(moved.slots) or table.vacant):
            slots[table.vacant] = -1
            if len(moved.slots):
                slots[table.find(moved.keys)[0]] = moved.slots
            kept = slots >= 0
            keys, slots = list(itertools.compress(keys, kept.tolist())), slots[kept]
        added = frozen.added
        if len(added.slots):
            keys += added.keys if isinstance(added.keys, list) else added.keys.tolist()
            slots = np.concatenate((slots, added.slots))
        return keys, slots
