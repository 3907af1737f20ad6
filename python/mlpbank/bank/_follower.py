"""Follower: takes over what the index of a live folder tells.

Blocks stay where they are, in mapped files that all processes share. What is taken over is a few
numbers for each model that has changed.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank.bank._state import FollowingState, State
from mlpbank.engine import Engine
from mlpbank.errors import BankFileError
from mlpbank.files import _live_folder, _mapped
from mlpbank.files._live_description import Description
from mlpbank.files._live_index import KINDS, About, Change, Index, Writing, translated
from mlpbank.weights import BatchedWeights

_SEGMENT = Change._fields.index("segment")  # where it stands in a row of the index

Own = tuple[int, int]  # the first and the last of changes that this process has written itself
NO_OWN = (1, 0)


class Follower:
    """The state of a live bank in this process.

    Parameters
    ----------
    folder : Path
    engine : Engine, optional
    full_sync : bool
        Whether commits wait for the disk.
    until : int, optional
        The last change to take over, none of later ones.
    describe : callable
        ``describe(description, state)`` is called before models are taken over.
    is_copied : bool
        The folder is only read now, without its head, and wherever it lies.

    Attributes
    ----------
    head : Head
    index : Index
    state : FollowingState
    about : About
        As the index had it when it was read last. The sequence of `state` may be higher.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine | None,
        full_sync: bool,
        until: int | None,
        describe: Callable[[Description, State], None],
        is_copied: bool = False,
    ) -> None:
        self._until = until
        self._folder = folder
        self._engine = engine
        self._describe = describe
        _live_folder.check_folder(folder, anywhere=is_copied)
        self.index = Index(_live_folder.index_path(folder), full_sync)
        self._may_write = not is_copied and all(
            os.access(path, os.W_OK) for path in (folder / _live_folder.HEAD, folder)
        )
        if is_copied:
            self.head = _live_folder.silent_head()
        else:
            self.head = _live_folder.map_head(folder, self._may_write)
        self._is_copied = is_copied
        self._end: int | None = None  # the first change that is lost, where it cannot be dropped
        self.about: About | None = None
        self._description: Description | None = None
        self.state: FollowingState
        try:
            self._repair_checked()
            self.catch_up()
        except BaseException:
            self.index.close()
            raise

    @property
    def sequence(self) -> int:
        """The last change that was taken over."""
        return int(self.state.slot_map.core.sequence)

    def catch_up(self, own: Own = NO_OWN) -> None:
        """Take over everything that is committed, as the index tells it.

        Parameters
        ----------
        own : (int, int)
            The first and the last of the changes that this process has written itself.
        """
        old, tried = self.about, None
        while True:
            after, about, rows = self._read()
            self._expect_all(after, rows, about)
            if old is not None and about.identity != old.identity:
                raise BankFileError(
                    f"{self._folder}: expected the folder that was opened, got another one in its "
                    "place; open it again"
                )
            try:
                if old is None or about.base != old.base:
                    self._begin(about, rows)
                elif about.sequence < after:
                    return  # what was committed since has been taken over meanwhile
                elif not self._take(self.state, after, about, rows, own):
                    continue  # another thread has taken over recent changes
                self.about = about
                return
            except FileNotFoundError:
                if about == tried:
                    raise
                tried = about  # compacted since the index was read, perhaps

    def take_recent(self, state: FollowingState, own: Own = NO_OWN) -> bool:
        """Take over what the head tells in a state, `own` as for `catch_up`.

        Returns
        -------
        bool
            False: `catch_up` has to read the index.
        """
        assert self.about is not None
        while True:
            is_up, unknown = state.follower.catch_up(own)
            if is_up or unknown is None:
                return is_up
            try:
                segment = _live_folder.map_segment(self._folder, unknown, self.about.segment_bytes)
                self.index.expect_same_file()  # that of another folder has the same name
            except (BankFileError, OSError):  # perhaps it is gone after a compaction
                return False
            state.follower.add_segment(unknown, segment)

    def is_at(self, about: About) -> bool:
        """Return whether `state` is all that the index tells."""
        assert self.about is not None
        seen = self.about._replace(
            sequence=self.sequence, synced=about.synced, segment=about.segment, tail=about.tail
        )
        return about == seen

    def _read(self) -> tuple[int, About, list[Any]]:
        """Return after which change there is something new, and this up to the last one wanted."""
        after = 0

        def is_new(about: About) -> int:
            nonlocal after
            same_base = self.about is not None and self.about.base == about.base
            after = self.sequence if same_base else about.base_sequence
            return after

        about, rows = self.index.read(is_new)
        if self._end is not None:
            about = about._replace(sequence=self._end - 1)
            rows = [row for row in rows if row[0] < self._end]
        until = self._until
        if until is None:
            return after, about, rows
        later = [row for row in rows if row[0] > until]
        if not about.base_sequence <= until <= about.sequence or any(
            row[2] == "describe" for row in later
        ):
            raise BankFileError(
                f"{self._folder}: expected the bank as it was at change {until}, got one with "
                f"changes {about.base_sequence} to {about.sequence}, or with another fallback or "
                "metadata since; begin anew with the bank as it is"
            )
        return after, about._replace(sequence=until), [row for row in rows if row[0] <= until]

    def _expect_all(self, after: int, rows: list[Any], about: About) -> None:
        """Raise BankFileError where a change is missing, or of a kind that is not known."""
        expected = range(after + 1, about.sequence + 1)
        # Lengths first: a damaged index may claim any number of changes.
        if len(rows) != len(expected) or [row[0] for row in rows] != list(expected):
            got = f"{len(rows)} of {len(expected)}, the last of them {rows[-1:]!r:.80}"
        elif unknown := {row[2] for row in rows} - {*KINDS}:
            got = f"one of kind {next(iter(unknown))!r:.80}"
        else:
            return
        raise BankFileError(
            f"{_live_folder.index_path(self._folder)}: damaged: expected changes "
            f"{expected.start} to {about.sequence}, got {got}"
        )

    def publish(self, turn: Writing, sequence: int, rows: Sequence[Change] = ()) -> None:
        """Commit, and tell all others, in one step that nothing can interrupt.

        Parameters
        ----------
        turn : Writing
        sequence : int
            Of the last change.
        rows : sequence of Change
            All changes of the turn, where followers need nothing else to take them over.
        """
        try:
            self.head.commit(turn.commit_now, turn.about.sequence + 1, sequence, list(rows))
        except sqlite3.Error as error:
            raise translated(error, _live_folder.index_path(self._folder)) from error

    def close(self) -> None:
        """Close the index. Predictions that run keep what they have mapped."""
        self.index.close()

    def _begin(self, about: About, rows: list[Any]) -> None:
        """Make a state from the base."""
        path = _live_folder.base_path(self._folder, about.base)
        description = self._described(about)
        contents = _mapped.open_file(path, map_file=True)
        columns = columns_of(contents, description, path)
        weights = BatchedWeights._from_core(_mapped.as_weights(contents), contents.architecture)
        state = FollowingState(weights, columns, self._engine, self.head)
        self._take(state, 0, about, rows, NO_OWN)
        self.state = state
        self._describe(description, state)

    def _described(self, about: About) -> Description:
        if (
            self._description is None
            or self.about is None
            or about.description != self.about.description
        ):
            self._description = description_of(self._folder, about)
        return self._description

    def _take(
        self,
        state: FollowingState,
        after: int,
        about: About,
        rows: list[Any],
        own: Own,
    ) -> bool:
        """Take over rows, and return True if the state was at change `after`."""
        description = self._described(about)
        try:
            named = {row[_SEGMENT] for row in rows} - {None}
            new = {
                number: _live_folder.map_segment(self._folder, number, about.segment_bytes)
                for number in named - state.follower.segments
            }
            changes = _core.Changes(state.follower, rows, description.key_type, new)
            damaged = changes.damaged_row(own)
            if damaged is not None:
                self._refuse(Change(*rows[damaged]))
            if self.about is not None and state is self.state:
                self._describe(description, state)
            if self._may_write and about.sequence > self.head.sequence:
                self.head.publish(about.sequence)  # before a call answers with it
            return changes.follow(after, about.sequence)
        except (BankFileError, OSError, MemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            path = _live_folder.index_path(self._folder)
            raise BankFileError(f"{path}: damaged: {error}") from error

    def _refuse(self, change: Change) -> None:
        path = _live_folder.segment_path(self._folder, change.segment or 0)
        raise BankFileError(
            f"{path}: damaged: the weights of {change.key!r:.80} at {change.offset} do not have "
            f"CRC-32 {change.checksum}"
        )

    def _repair_checked(self) -> None:
        try:
            self._repair()
        except BankFileError:
            raise
        except (TypeError, ValueError, OverflowError) as error:  # a row holds something else
            path = _live_folder.index_path(self._folder)
            raise BankFileError(f"{path}: damaged: {error}") from error

    def _repair(self) -> None:
        """Put right what a machine that stopped has left behind.

        Without ``sync="commit"`` the index may know of changes whose blocks never reached the disk;
        these changes are dropped, and a warning tells how many. The head may hold any number.
        """
        about, rows = self.index.read(_unsure)
        first = self._first_lost(about, rows)
        if self._is_copied:
            self._end = first
            if first is not None:
                self._warn_of_lost(about.sequence - first + 1, "left out")
            return
        if first is None and self.head.sequence <= about.sequence:
            return
        if not self._may_write:
            return  # a lost change is found when it is taken over; a wrong head costs time only
        with self.index.writing() as turn:
            about, rows = self.index.read(_unsure)
            first = self._first_lost(about, rows)
            sequence = about.sequence if first is None else first - 1
            if first is not None:
                turn.drop(first, about.sequence)
                turn.tell(sequence=sequence)
            if self.head.sequence > sequence:
                self.head.reset(sequence)  # while no other can commit
            self.publish(turn, sequence)
        if first is not None:
            self._warn_of_lost(about.sequence - sequence, "lost")

    def _warn_of_lost(self, changes: int, what: str) -> None:
        warnings.warn(
            f"{self._folder}: the last {changes} changes did not reach the disk before the machine "
            f"stopped, and are {what}; sync='commit' waits",
            RuntimeWarning,
            stacklevel=3,
        )

    def _first_lost(self, about: About, rows: list[Any]) -> int | None:
        """Return the first change of the first transaction that did not reach the disk."""
        description = self._described(about)
        size = description.block.bytes
        segments: dict[int, Any] = {}
        unsure = [Change(*row) for row in rows]
        for row in unsure:
            if row.segment is None:
                continue
            if row.segment not in segments:
                try:
                    segments[row.segment] = _live_folder.map_segment(
                        self._folder, row.segment, about.segment_bytes
                    )
                except (OSError, BankFileError):
                    segments[row.segment] = np.empty(0, np.uint8)
            if not _is_whole(row, segments, size):
                return min(other.sequence for other in unsure if other.last == row.last)
        return None


def _unsure(about: About) -> int:
    return max(about.synced, about.base_sequence)


def _is_whole(row: Change, segments: dict[int, Any], block_bytes: int) -> bool:
    block = segments[row.segment][row.offset : row.offset + block_bytes]  # type: ignore[index,operator]
    return len(block) == block_bytes and _core.crc32(block) == row.checksum


def description_of(folder: Path, about: About) -> Description:
    """Return the description of a folder."""
    try:
        return Description.from_json(about.description)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BankFileError(f"{_live_folder.index_path(folder)}: {error}") from error


def columns_of(contents: Any, description: Description, path: Path) -> Any:
    """Return the columns of a base, which has to be that of its folder."""
    for name in ("architecture", "dtype", "layout"):
        wanted, got = getattr(description, name), getattr(contents, name)
        if wanted != got:
            raise BankFileError(f"{path}: {name}: expected {wanted!r}, got {got!r}")
    if contents.key_type not in (None, description.key_type):
        raise BankFileError(
            f"{path}: keys: expected {description.key_type}, got {contents.key_type}"
        )
    return contents.columns
