"""Plan: what a transaction writes, once it is its turn: slots, blocks and rows of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._key_columns import as_keys
from mlpbank._keys import kind_of
from mlpbank.bank._state import State
from mlpbank.errors import TooLargeError
from mlpbank.files import _live_index
from mlpbank.files._live_index import About
from mlpbank.typing import Key

_Block = npt.NDArray[np.uint8]
_MOST_SLOTS = 2**31 - 1


class Load(NamedTuple):
    """A model to load: as its block (panel layout), or as arrays of its own (lane layout)."""

    arrays: Any
    block: _Block | None
    checksum: int  # of the block
    version: str | None
    loaded_at: float
    given: Any  # by the caller, to place it once more


class Change(NamedTuple):
    """What happens to a key: the model that is there goes, or another one comes, or both."""

    removes: bool
    load: Load | None


class _Row(NamedTuple):
    """A row of the index, all but its numbers, and which of the blocks it names."""

    kind: str
    slot: int
    key: Any
    version: str | None
    revision: int | None
    loaded_at: float | None
    reuse_count: int
    block: int | None


class Plan:
    """The rows of a transaction, and the blocks that these name.

    Parameters
    ----------
    state : State
        With all that was committed before.
    block : BlockFormat
    about : About
        As the last writer left it.
    changes : mapping of key to Change

    Attributes
    ----------
    blocks : list of uint8 array
    sequence : int
        Of the last row.

    Raises
    ------
    UnknownModelError
        A model to remove is gone.
    """

    def __init__(
        self,
        state: State,
        block: _core.BlockFormat,
        about: About,
        changes: Mapping[Key, Change],
    ) -> None:
        self._weights = state.weights._core
        self._core = core = state.slot_map.core
        self._about = about
        self._checksums: list[int | None] = []
        self._tiles: dict[int, int] = {}  # number of a tile in `blocks`, in the lane layout
        self._rows: list[_Row] = []
        self.blocks: list[_Block] = []
        self._block_models, self._block_bytes = block.models, block.bytes
        stored = _stored(list(changes))
        slots, _ = state.slot_map.find(as_keys(list(changes)))
        loads = sum(change.load is not None for change in changes.values())
        vacant, unused = iter(core.vacant_slots(loads)), core.num_used_slots
        for key, stored_key, slot, change in zip(
            changes, stored, slots.tolist(), changes.values(), strict=True
        ):
            if change.removes:
                if slot < 0:
                    raise state.slot_map.unknown(key)
                self._remove(stored_key, slot)
            load = change.load
            if load is None:
                continue
            revision = 1
            if change.removes or slot < 0:
                slot = next(vacant, unused)
                unused += slot == unused
                if slot > _MOST_SLOTS:
                    raise TooLargeError(f"bank: expected at most {_MOST_SLOTS} models")
            else:
                info = core.info(key)
                assert info is not None
                revision = info.revision + 1
            self._load(stored_key, slot, load, revision)
        self.sequence = about.sequence + len(self._rows)

    def rows(self, where: Sequence[tuple[int, int]]) -> list[_live_index.Change]:
        """Return the rows, where blocks lie at these segments and offsets."""
        checksums = [
            _core.crc32(block.data) if known is None else known
            for block, known in zip(self.blocks, self._checksums, strict=True)
        ]
        first, last = self._about.sequence + 1, self.sequence
        places = [(*place, checksum) for place, checksum in zip(where, checksums, strict=True)]
        return [
            _live_index.Change(first + i, last, *row[:-1], *_place(row, places))
            for i, row in enumerate(self._rows)
        ]

    def _remove(self, key: Any, slot: int) -> None:
        block = None
        if self._block_models > 1:
            block = self._tile(slot)
            self._weights.clear_lane(slot, self.blocks[block])
        reuse_count = self._core.reuse_count(slot) + 1
        self._rows.append(_Row("remove", slot, key, None, None, None, reuse_count, block))

    def _load(self, key: Any, slot: int, load: Load, revision: int) -> None:
        if load.block is not None:
            block = len(self.blocks)
            self.blocks.append(load.block)
            self._checksums.append(load.checksum)
        else:
            block = self._tile(slot)
            weights, biases, slopes = load.arrays
            self._weights.pack(slot, weights, biases, slopes, self.blocks[block])
        about = load.version, revision, load.loaded_at, self._core.reuse_count(slot)
        self._rows.append(_Row("load", slot, key, *about, block))

    def _tile(self, slot: int) -> int:
        """Return the number of the tile of a slot, which starts as it is now."""
        tile = slot // self._block_models
        if tile not in self._tiles:
            self._tiles[tile] = len(self.blocks)
            block = np.zeros(self._block_bytes, np.uint8)
            self._weights.copy_block(slot, block)
            self.blocks.append(block)
            self._checksums.append(None)
        return self._tiles[tile]


def _place(row: _Row, places: Sequence[tuple[int, int, int]]) -> tuple[int | None, ...]:
    """Return segment, offset and checksum."""
    return (None, None, None) if row.block is None else places[row.block]


def _stored(keys: list[Key]) -> list[Any]:
    """Return keys as the index has them: tuples as bytes."""
    if type(keys[0]) is not tuple:
        return list(keys)
    tuples: list[Any] = keys  # all are
    ends, data = _core.encode_tuples(tuples, kind_of(keys[0]))
    return [data[a:b].tobytes() for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
