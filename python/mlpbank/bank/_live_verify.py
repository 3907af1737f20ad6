"""Verifying a live folder: everything that opening leaves out for speed, without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mlpbank import _core
from mlpbank.bank import _live
from mlpbank.bank._follower import columns_of, description_of
from mlpbank.errors import BankFileError
from mlpbank.files import _live_folder, _mapped
from mlpbank.files._live_index import About, Change, Index
from mlpbank.files._live_rows import RowCheck

_TRIES = 100  # to see a folder that others compact all the time


class Verified(NamedTuple):
    """What a sound folder holds.

    Attributes
    ----------
    models : int
    sequence : int
        Of the last change.
    changes : int
        Since the base.
    left_over : list of str
        Names of files that nothing refers to.
    is_head_behind : bool
        The head does not tell of the last change: a writer was stopped before it could, or is just
        about to.
    """

    models: int
    sequence: int
    changes: int
    left_over: list[str]
    is_head_behind: bool


def verify(folder: Path, progress: bool = False) -> Verified:
    """Check index, head, base, segments and all models of a folder, which may be in use.

    Raises
    ------
    BankFileError
        Something is not as it was written, or a weight is not finite.
    OSError
        A file is missing or cannot be read.
    """
    _live_folder.check_folder(folder, anywhere=True)
    head = _live_folder.map_head(folder, writable=False)
    index = Index(_live_folder.index_path(folder))
    try:
        index.check()
        base = None
        for _ in range(_TRIES):
            told = head.sequence
            about, rows = index.read(lambda about: about.base_sequence)
            try:
                if told > about.sequence:
                    raise BankFileError(
                        f"{folder / _live_folder.HEAD}: expected a number up to {about.sequence}, "
                        f"the last change of the index, got {told}; opening the bank for writing "
                        "puts it right"
                    )
                if base != about.base:
                    _verify_base(folder, about, progress)
                    base = about.base
                changes = _verify_rows(folder, about, rows)
                models = _verify_models(folder, {row.slot for row in changes}, progress)
                break
            except (FileNotFoundError, BankFileError):
                # A compaction may have removed what the index named, and put other files there.
                if index.read(lambda about: about.sequence)[0].base == about.base:
                    raise
        else:
            raise BankFileError(f"{folder}: expected time to read it, got compactions all the time")
        left_over = _left_over(folder, about, changes)
        return Verified(models, about.sequence, len(changes), left_over, told < about.sequence)
    finally:
        index.close()


def _verify_base(folder: Path, about: About, progress: bool) -> None:
    path = _live_folder.base_path(folder, about.base)
    contents = _mapped.open_somehow(path)
    columns_of(contents, description_of(folder, about), path)
    try:
        _mapped.verify(contents, progress)
    except BankFileError as error:
        raise BankFileError(f"{path}: {error}") from error


def _verify_rows(folder: Path, about: About, rows: list[Any]) -> list[Change]:
    """Check all rows and their blocks, those that later ones have replaced included."""
    path = _live_folder.index_path(folder)
    description = description_of(folder, about)
    check = RowCheck(path, about, description, about.base_sequence)
    changes = list(check.changes(rows))
    check.end()
    if about.tail > about.segment_bytes or about.segment < 1:
        raise BankFileError(f"{path}: damaged: the end {about.tail} of segment {about.segment}")
    segments: dict[int, Any] = {}
    size = description.block.bytes
    for row in changes:
        if row.segment is None or row.offset is None:
            continue
        if row.segment not in segments:
            segments[row.segment] = _live_folder.map_segment(
                folder, row.segment, about.segment_bytes
            )
        if _core.crc32(segments[row.segment][row.offset : row.offset + size]) != row.checksum:
            raise BankFileError(
                f"{_live_folder.segment_path(folder, row.segment)}: damaged: the weights of change "
                f"{row.sequence} at {row.offset} do not have CRC-32 {row.checksum}"
                + ("" if row.sequence <= about.synced else "; it did not wait for the disk")
            )
    return changes


def _verify_models(folder: Path, slots: set[int | None], progress: bool) -> int:
    """Open the folder, which checks that changes fit together, and check what has changed."""
    bank = _live.open_to_copy(folder)
    try:
        state = bank._state
        weights = state.weights._core
        frozen = state.slot_map.core.freeze(True)
        keys, taken = state.slot_map._keys_and_slots(frozen)
        for key, slot in zip(keys, taken.tolist(), strict=True):
            if slot in slots:
                _mapped.check_finite(weights, slot, key)
        return len(keys)
    except BankFileError as error:
        raise BankFileError(f"{folder}: {error}") from error
    finally:
        bank.close()


def _left_over(folder: Path, about: About, changes: list[Change]) -> list[str]:
    index = _live_folder.index_path(folder).name
    used = {index, f"{index}-wal", f"{index}-shm", _live_folder.HEAD}
    used.add(_live_folder.base_path(folder, about.base).name)
    for segment in {about.segment, *(row.segment for row in changes if row.segment is not None)}:
        used.add(_live_folder.segment_path(folder, segment).name)
    return sorted({path.name for path in folder.iterdir()} - used)
