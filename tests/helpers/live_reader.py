"""A reader of live folders, written from docs/format.md alone, with Python, sqlite3 and NumPy only.

It follows a folder that others change. It is for showing that the page says enough.
"""

from __future__ import annotations

import json
import mmap
import sqlite3
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from format_reader import BankFile, tuple_of

Block = npt.NDArray[np.uint8]


@dataclass
class Model:
    """What a folder knows about one model beside its weights."""

    slot: int
    version: str
    revision: int
    loaded_at: float


@dataclass
class Row:
    """A row of the table `changes`."""

    sequence: int
    last: int
    kind: str
    slot: int
    key: Any
    version: str | None
    revision: int
    loaded_at: float
    reuse_count: int
    segment: int | None
    offset: int
    checksum: int


class LiveFolder:
    """A live folder at one moment, which `refresh` moves on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with open(folder / "head", "rb") as file:
            self._head = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert len(self._head) in (4096, 4096 + 1024 * 128)
        assert self._head[:16] == b"mlpbank head 1\n\0"
        self.bank: dict[str, Any] = {}
        self._start()

    @property
    def head(self) -> int:
        return int.from_bytes(self._head[16:24], "little")

    def recent(self, sequence: int) -> dict[str, Any] | None:
        """What the head says of a change, None if nothing: columns of the index, and its blocks.

        Keys that are tuples are bytes.
        """
        at = 4096 + sequence % 1024 * 128
        entry = bytearray(self._head[at : at + 128])
        if int.from_bytes(entry[:8], "little") != sequence:
            return None
        checked, entry[64:72] = entry[64:72], bytes(8)
        crc, entry[8:12] = entry[8:12], bytes(4)
        if zlib.crc32(entry) != int.from_bytes(crc, "little"):
            return None
        flags, key_bytes, version_bytes = entry[12:15]
        assert (entry[15], flags >> 4) == (0, 0)
        slot, reuse_count, revision, loaded_at, segment, checksum, offset, number = struct.unpack(
            "<IIqdIIqq", entry[16:64]
        )
        text, version = entry[72 : 72 + key_bytes], entry[72 + key_bytes :][:version_bytes]
        assert not any(entry[72 + key_bytes + version_bytes :])
        is_load, has_block = not flags & 1, bool(flags & 2)
        key: Any = bytes(text) if flags & 8 else text.decode()
        return {
            "sequence": sequence,
            "kind": "load" if is_load else "remove",
            "slot": slot,
            "key": number if flags & 4 else key,
            "version": version.decode() if version and is_load else None,
            "revision": revision if is_load else None,
            "loaded_at": loaded_at if is_load else None,
            "reuse_count": reuse_count,
            "segment": segment if has_block else None,
            "offset": offset if has_block else None,
            "checksum": checksum if has_block else None,
            "is_checked": int.from_bytes(checked, "little") == sequence,
        }

    def refresh(self) -> bool:
        """Take over what is new. False: the head says that there is nothing."""
        if self.head <= self.bank["sequence"]:
            return False
        bank, rows = self._read(self.bank["sequence"])
        if bank["base"] == self.bank["base"]:
            self._take(bank, rows)
        else:
            self._start()
        return True

    def _read(self, after: int) -> tuple[dict[str, Any], list[Row]]:
        """The row about the bank, and the changes after a number and the base."""
        path = self.folder / "index.sqlite"
        index = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        index.row_factory = sqlite3.Row
        try:
            assert index.execute("PRAGMA application_id").fetchone()[0] == 0x6D6C7062
            assert index.execute("PRAGMA user_version").fetchone()[0] <= 1
            index.execute("BEGIN")
            (bank,) = [dict(row) for row in index.execute("SELECT * FROM bank")]
            after = max(after, bank["base_sequence"])
            found = index.execute(
                "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence", (after,)
            ).fetchall()
        finally:
            index.close()
        rows = [Row(**dict(row)) for row in found]
        assert [row.sequence for row in rows] == list(range(after + 1, bank["sequence"] + 1))
        return bank, rows

    def _start(self) -> None:
        for _ in range(100):
            bank, rows = self._read(0)
            try:
                base = BankFile(self.folder / f"base-{bank['base']:06}.mlpbank")
                self._begin(base)
                self._take(bank, rows)
                return
            except FileNotFoundError:  # a compaction was faster
                continue
        raise AssertionError("expected files that the index names")

    def _begin(self, base: BankFile) -> None:
        self.base = base
        keys = base.keys()
        versions = base.versions()
        self.models = {
            key: Model(
                slot,
                versions[slot],
                base.tensors["generation"][slot].item(),
                base.tensors["loaded_at"][slot].item(),
            )
            for slot, key in enumerate(keys)
            if key is not None
        }
        self.reuse_counts = dict(enumerate(base.reuse_counts()))
        self.blocks: dict[int, Block] = dict(enumerate(base.tensors["weights"]))
        self.used = base.models
        self._segments: dict[int, Block] = {}

    def _take(self, bank: dict[str, Any], rows: list[Row]) -> None:
        about = json.loads(bank["description"])
        assert (about["format"], about["version"]) == ("mlpbank-live", 1)
        for name in ("architecture", "dtype", "layout"):
            assert about[name] == self.base.about[name]
        assert self.base.about["keys"] in (None, about["keys"])
        changed: dict[int, Row] = {}
        taken = {model.slot for model in self.models.values()}
        for row in rows:
            if row.kind not in ("load", "remove"):
                assert row.kind in ("describe", "compact")
                assert row.slot is row.key is row.segment is None
                continue
            key = row.key
            if isinstance(about["keys"], list):
                key = tuple_of(key, about["keys"])
            before = self.models.get(key)
            if row.kind == "remove":
                assert before is not None
                assert before.slot == row.slot
                del self.models[key]
                taken.remove(row.slot)
                assert row.reuse_count == self.reuse_counts.get(row.slot, 0) + 1
            elif before is None:
                assert row.slot not in taken
                assert row.slot <= self.used
                taken.add(row.slot)
                self.used = max(self.used, row.slot + 1)
            else:
                assert before.slot == row.slot
                assert row.revision == before.revision + 1
            if row.kind == "load":
                self.models[key] = Model(row.slot, row.version or "", row.revision, row.loaded_at)
            self.reuse_counts[row.slot] = row.reuse_count
            if row.segment is None:
                assert (row.kind, self.base.block_models) == ("remove", 1)
                self.blocks.pop(row.slot)
            else:
                changed[row.slot // self.base.block_models] = row
        for number, row in changed.items():
            if self.base.block_models == 1 and row.slot not in taken:
                continue
            self.blocks[number] = self._block(row, bank["segment_bytes"])
        self.bank, self.about, self.rows = bank, about, rows

    def _block(self, row: Row, segment_bytes: int) -> Block:
        assert row.segment is not None
        if row.segment not in self._segments:
            path = self.folder / f"blocks-{row.segment:06}.bin"
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            assert len(mapped) == segment_bytes
            self._segments[row.segment] = np.frombuffer(mapped, np.uint8)
        end = row.offset + self.base.block_bytes
        assert row.offset % 64 == 0
        assert end <= segment_bytes
        block = self._segments[row.segment][row.offset : end]
        assert zlib.crc32(block) == row.checksum
        return block

    def model(self, key: Any) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of a model."""
        width = self.base.block_models
        slot = self.models[key].slot
        block = self.blocks[slot // width]
        if width > 1:
            assert self.mark(slot // width) >> slot % width & 1
        return self.base.unpack(block, slot % width)

    def mark(self, tile: int) -> int:
        """The present mask of a tile."""
        end = self.base.block_bytes - 64
        return int.from_bytes(self.blocks[tile][end : end + 4].tobytes(), "little")

    def handle(self, key: Any) -> int:
        """A slot, with its reuse count in the upper bits."""
        slot = self.models[key].slot
        return slot | self.reuse_counts.get(slot, 0) << 32
