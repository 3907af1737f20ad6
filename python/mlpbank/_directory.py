"""Which model of a bank has which key: its id, its version, and when the id of a deleted one may be used again."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._files import BankFileError
from mlpbank._keys import Ids, Key, Keys, Table, empty_table, encode, make_table, table_size

_PLACE_BITS = 32  # an id is the number of a place and, above these bits, how many models had that place before
_PLACE_MASK = (1 << _PLACE_BITS) - 1
_MAX_REUSED = ((1 << (63 - _PLACE_BITS)) - 1) << _PLACE_BITS
_MAX_GENERATION = 2**63 - 1


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


@dataclass(frozen=True)
class Records:
    """What is known of n models, at the positions that are their places.

    Attributes
    ----------
    table : StringTable, IntTable or None
        Their keys; None if there never was one.
    generations : int64 array (n,)
    loaded_at : float64 array (n,)
        Seconds since 1970.
    version_offsets, version_bytes : uint64 array (n + 1,) and uint8 array
        Versions as UTF-8, empty for None.
    """

    table: Table | None
    generations: npt.NDArray[np.int64]
    loaded_at: npt.NDArray[np.float64]
    version_offsets: npt.NDArray[np.uint64]
    version_bytes: npt.NDArray[np.uint8]

    @classmethod
    def new(cls, table: Table | None, version: str | None = None) -> Records:
        """Return the records of models that have just been loaded."""
        n = 0 if table is None else table_size(table)
        check_version(version)
        encoded = np.frombuffer((version or "").encode(), np.uint8)
        offsets = np.arange(n + 1, dtype=np.uint64) * np.uint64(len(encoded))
        return cls(table, np.ones(n, np.int64), np.full(n, time.time()), offsets, np.tile(encoded, n))

    def version(self, i: int) -> str | None:
        """Return the version of one model."""
        begin, end = (int(offset) for offset in self.version_offsets[i : i + 2])
        return self.version_bytes[begin:end].tobytes().decode(errors="replace") or None


def check_version(version: Any) -> None:
    """Raise TypeError or ValueError if this could not be the version of a model."""
    if version is None:
        return
    if not isinstance(version, str):
        raise TypeError(f"version: expected a str, got {version!r}")
    encode(version, "version")


class Readers:
    """The predictions that are running, so that a place is not given to another model while one of them may use it."""

    def __init__(self) -> None:
        self.epoch = 0
        self._running: dict[object, int] = {}
        _all_readers.add(self)

    def enter(self) -> object:
        """Return what `leave` takes."""
        token = object()
        self._running[token] = self.epoch
        return token

    def leave(self, token: object) -> None:
        """End what `enter` began."""
        del self._running[token]

    def passed(self, epoch: int) -> bool:
        """Whether everything that began in `epoch` or before has ended."""
        return min(list(self._running.values()), default=epoch + 1) > epoch

    def forget(self) -> None:
        """In a forked child: what ran in other threads of the parent does not run here."""
        self._running.clear()


# One lock for the changes of all banks: each takes microseconds, and a fork has one lock to wait for.
lock = threading.RLock()
_all_readers: weakref.WeakSet[Readers] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for readers in _all_readers:
        readers.forget()
    lock.release()


os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)


class Directory:
    """The models of one bank. Changes need the lock; what only looks up does not, unless it says so.

    Parameters
    ----------
    records : Records
        What the bank begins as.
    """

    def __init__(self, records: Records) -> None:
        self.keys = Keys(records.table)
        self.readers = Readers()
        self._records = records
        self._changed: dict[int, tuple[str | None, int, float]] = {}  # version, generation, time of loading
        self._used = len(self.keys)  # places from here on were never used
        self._deleted: deque[tuple[int, int]] = deque()  # place, epoch of the deletion
        self._reused: npt.NDArray[np.int64] | None = None  # the upper part of the id of each place; None: all zero

    def place_of(self, key: Any) -> int:
        """Return the place of a key, or raise UnknownModelError."""
        place = self.keys.id(key)
        if place < 0:
            raise UnknownModelError([key], 1)
        return place

    def free_place(self) -> int:
        """Return a place that no running prediction can look at, or a new one. Call with the lock held."""
        if self._deleted and self.readers.passed(self._deleted[0][1]):
            return self._deleted.popleft()[0]
        self._used += 1
        return self._used - 1

    def give_back(self, place: int) -> None:
        """Take back a free place that was not used. Call with the lock held."""
        self._deleted.appendleft((place, -1))

    def loaded(self, key: Any, place: int, version: str | None) -> None:
        """Note that a model was loaded. Call with the lock held."""
        known = self.keys.id(key) >= 0
        generation = self._record(place)[1] if known else 0
        self._changed[place] = (version or None, min(generation, _MAX_GENERATION - 1) + 1, time.time())
        if not known:
            self.keys.add(key, place)

    def remove(self, key: Any) -> int:
        """Forget a model and return its place, which is free from now on. Call with the lock held."""
        place = self.place_of(key)
        self.keys.remove(key)
        self._changed.pop(place, None)
        if self._reused is None or len(self._reused) <= place:
            more = np.zeros(2 * self._used, np.int64)
            if self._reused is not None:
                more[: len(self._reused)] = self._reused
            self._reused = more
        self._reused[place] += 1 << _PLACE_BITS
        if self._reused[place] < _MAX_REUSED:  # else there is no further id for it
            self._deleted.append((place, self.readers.epoch))
        self.readers.epoch += 1
        return place

    def ids(self, places: Ids) -> Ids:
        """Return the ids of places. Call with the lock held."""
        return places if self._reused is None else places | self._reused_of(places)

    def places(self, ids: Ids) -> Ids:
        """Return the places of ids; raise UnknownModelError if the model of one was deleted."""
        if self._reused is None:
            return ids
        places = ids & _PLACE_MASK
        stale = (ids >= 0) & (self._reused_of(places) != ids - places)
        if stale.any():
            raise UnknownModelError(ids[stale].tolist(), len(ids), "ids")
        return np.where(ids < 0, ids, places)

    def _reused_of(self, places: Ids) -> Ids:
        reused = self._reused
        assert reused is not None
        return np.where(places < len(reused), reused[np.minimum(places, len(reused) - 1)], 0)

    def _record(self, place: int) -> tuple[str | None, int, float]:
        if place in self._changed:
            return self._changed[place]
        records = self._records
        return records.version(place), int(records.generations[place]), float(records.loaded_at[place])

    def info(self, key: Any) -> ModelInfo:
        """Return what is known about a model. Call with the lock held."""
        version, generation, loaded_at = self._record(self.place_of(key))
        try:
            return ModelInfo(key, version, generation, datetime.fromtimestamp(loaded_at, timezone.utc))
        except (ValueError, OverflowError, OSError):
            raise BankFileError(f"loaded_at: expected seconds since 1970, got {loaded_at} for {key!r}") from None

    def copy(self) -> Directory:
        """Return a copy that nobody changes. Call with the lock held; it takes time in proportion to the changes."""
        other = Directory(self._records)
        other.keys.table = self.keys.table
        other.keys.changes = dict(self.keys.changes)
        other._changed = dict(self._changed)
        return other

    def compact(self) -> tuple[Ids, Records]:
        """Return the places of all models, in the order of their keys, and records in that order."""
        old = self._records
        if not self._changed and not self.keys.changes and self.keys.table is old.table:
            return np.arange(len(old.generations)), old
        items = list(self.keys.items())
        places = np.array([place for _, place in items], np.int64)
        n = len(places)
        known = np.flatnonzero(places < len(old.generations))
        generations, loaded_at = np.zeros(n, np.int64), np.zeros(n)
        generations[known] = old.generations[places[known]]
        loaded_at[known] = old.loaded_at[places[known]]
        versions = [b""] * n
        if len(old.version_bytes) > 0:
            for i in known.tolist():
                versions[i] = (old.version(int(places[i])) or "").encode()
        position = np.full(max(places.tolist(), default=0) + 1, -1)
        position[places] = np.arange(n)
        for place, (version, generation, loaded) in self._changed.items():
            i = int(position[place])
            generations[i], loaded_at[i], versions[i] = generation, loaded, (version or "").encode()
        offsets = np.zeros(n + 1, np.uint64)
        np.cumsum([len(version) for version in versions], out=offsets[1:])
        kind = self.keys.kind
        table = None if kind is None else empty_table(kind)
        if n > 0:
            try:
                table = make_table([key for key, _ in items])
            except ValueError as error:  # two are equal
                raise BankFileError(f"the file this bank came from is damaged: {error}") from error
        return places, Records(table, generations, loaded_at, offsets, np.frombuffer(b"".join(versions), np.uint8))
