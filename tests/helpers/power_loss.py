"""What a disk may hold after a loss of power: from the record of faults.c.

What was synced is there. Of what came later, each write may be there, or not, or some of its
sectors, and each change of a folder's entries may be there or not: all up to one of them, as
file systems with a journal have it, or any of them, which is all that POSIX promises.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

_SECTOR = 512


@dataclass(frozen=True)
class Operation:
    """A line of the record, see faults.c."""

    kind: str
    path: str
    number: int  # offset or size
    other: str
    data: bytes


def read_record(record: Path, root: Path) -> list[Operation]:
    """Return the operations of a record, with paths below `root`."""
    data, operations, at = record.read_bytes(), [], 0
    while at < len(data):
        end = data.index(b"\n", at)
        kind, path, number, length, other = data[at:end].decode().split("\t")
        at = end + 1 + (int(length) if kind == "w" else 0)
        names = [name.removeprefix(str(root)).strip("/") for name in (path, other)]
        if not path.endswith(" (deleted)"):  # of a file that nothing names any more
            operations.append(Operation(kind, names[0], int(number), names[1], data[end + 1 : at]))
    return operations


@dataclass(eq=False)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    later: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: a size

    def now(self) -> bytearray:
        return self._with(self.later)

    def _with(self, later: list[tuple[int, bytes | None]]) -> bytearray:
        data = bytearray(self.synced)
        for at, new in later:
            end = at if new is None else at + len(new)
            data.extend(bytes(max(0, end - len(data))))
            if new is None:
                del data[at:]
            else:
                data[at:end] = new
        return data

    def after_loss(self, rng: random.Random, kept: float, torn: float) -> bytearray:
        later: list[tuple[int, bytes | None]] = []
        for at, new in self.later:
            if new is not None and rng.random() < torn:
                for i in range(0, len(new), _SECTOR):
                    if rng.random() < 0.5:
                        later.append((at + i, new[i : i + _SECTOR]))
            elif rng.random() < kept:
                later.append((at, new))
        return self._with(later)


@dataclass(eq=False)
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)


@dataclass
class _Entry:
    """A change of entries: from a name, to a name, or both."""

    node: _File | _Folder
    source: tuple[_Folder, str] | None
    target: tuple[_Folder, str] | None
    is_synced: bool = False


class Disk:
    """What was done to files below a folder, so far."""

    def __init__(self) -> None:
        self._root = _Folder()
        self._changes: list[_Entry] = []
        self.promises = b""

    def apply(self, operation: Operation) -> None:
        """Do what the next line of the record says."""
        kind, path = operation.kind, operation.path
        if path == "promises":
            self.promises += operation.data
            return
        if kind in "cm":
            self._change(_File() if kind == "c" else _Folder(), None, self._place(path))
        elif kind == "r":
            node = self._node(path)
            self._change(node, self._place(path), self._place(operation.other))
        elif kind in "ud":
            self._change(self._node(path), self._place(path), None)
        else:
            node = self._node(path)
            if isinstance(node, _Folder):
                assert kind == "s"
                for change in self._changes:
                    places = filter(None, (change.source, change.target))
                    change.is_synced |= node in [folder for folder, _ in places]
            elif kind == "s":
                node.synced, node.later = node.now(), []
            elif kind == "f":
                if operation.number > len(node.now()):
                    node.later.append((operation.number, None))
            else:
                node.later.append((operation.number, operation.data if kind == "w" else None))

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = path.split("/")
        at = self._root
        for folder in folders:
            below = at.entries[folder]
            assert isinstance(below, _Folder)
            at = below
        return at, name

    def _node(self, path: str) -> _File | _Folder:
        if not path:
            return self._root
        folder, name = self._place(path)
        return folder.entries[name]

    def _change(
        self,
        node: _File | _Folder,
        source: tuple[_Folder, str] | None,
        target: tuple[_Folder, str] | None,
    ) -> None:
        change = _Entry(node, source, target)
        self._changes.append(change)
        _enter(change, {folder: folder.entries for folder, _ in filter(None, (source, target))})

    def write_after_loss(self, root: Path, rng: random.Random) -> None:
        """Write to a new folder what may be left when the power goes now."""
        kept, torn = rng.choice([(0.0, 0.0), (0.5, 0.0), (0.5, 0.3), (0.9, 0.1), (1.0, 0.0)])
        is_ordered = rng.random() < 0.5
        last = rng.randrange(len(self._changes) + 1)
        entries: dict[_Folder, dict[str, _File | _Folder]] = {}
        for i, change in enumerate(self._changes):
            if change.is_synced or (i < last if is_ordered else rng.random() < kept):
                for folder, _ in filter(None, (change.source, change.target)):
                    entries.setdefault(folder, {})
                _enter(change, entries)

        def write(folder: _Folder, path: Path) -> None:
            path.mkdir()
            for name, node in entries.get(folder, {}).items():
                if isinstance(node, _Folder):
                    write(node, path / name)
                else:
                    (path / name).write_bytes(node.after_loss(rng, kept, torn))

        write(self._root, root)


def _enter(change: _Entry, entries: dict[_Folder, dict[str, _File | _Folder]]) -> None:
    if change.source is not None:
        folder, name = change.source
        if entries[folder].get(name) is change.node:
            del entries[folder][name]
    if change.target is not None:
        folder, name = change.target
        entries[folder][name] = change.node
