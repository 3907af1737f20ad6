"""What a live bank does with its folder: it follows it, and takes the turn of a writer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlpbank import _core
from mlpbank.bank._bank import Bank
from mlpbank.bank._follower import NO_OWN, Follower, Own
from mlpbank.bank._knowledge import Known, same_known
from mlpbank.bank._reads import Compute, Find
from mlpbank.bank._slot_map import SlotMap
from mlpbank.bank._state import FollowingState, Seen, State
from mlpbank.errors import InvalidStateError, ModelNotLoadedError
from mlpbank.files._live_description import Description
from mlpbank.files._live_folder import SegmentWriter
from mlpbank.files._live_index import Change, Writing
from mlpbank.inference import MomentPassed
from mlpbank.typing import Float32Array, Key, Sync, Weights

_TRIES = 4  # to see one moment while others take over changes
_INTERVAL = 0.5  # seconds between waits for the disk, with sync="interval"


class BankInFolder(Bank):
    """The part of `LiveBank` that follows its folder and commits."""

    _folder: Path
    path: str
    writable: bool
    _state: FollowingState
    _head: _core.Head | None  # None: closed
    _follower: Follower
    _description: Description
    _is_decided: bool
    _sync: Sync
    _follows: bool
    _segments: SegmentWriter
    _block: _core.BlockFormat
    _lock: threading.RLock  # of taking over changes
    _write_lock: threading.RLock
    _is_busy: bool
    _is_writing: bool
    _timer: threading.Timer | None  # of the next wait for the disk
    _flush_error: Exception | None  # of the last one

    # --- What others have changed.

    def _now(self) -> FollowingState:
        head, state = self._head, self._state
        if head is None:
            self._expect_open()
        elif head.sequence > state.slot_map.core.sequence and (
            not self._follower.take_recent(state)
        ):
            with self._lock:  # another thread may have done it meanwhile
                if head.sequence > self._state.slot_map.core.sequence:
                    self._catch_up()
        return self._state

    @property
    def _slot_map(self) -> SlotMap:
        return self._now().slot_map

    def _catch_up(self, own: Own = NO_OWN) -> None:
        with self._lock:
            if self._is_busy:  # a signal handler has interrupted this
                return
            try:
                self._is_busy = True
                self._expect_open()
                self._follower.catch_up(own)
                self._use(self._follower.state)
            finally:
                self._is_busy = False

    def _take_own(self, own: Own = NO_OWN) -> None:
        """Take over what this bank has committed.

        The change is made, so an error is none of its own: the next call tells it.
        """
        with contextlib.suppress(OSError, MemoryError):
            if not self._follower.take_recent(self._state, own):
                self._catch_up(own)

    def _use(self, state: FollowingState) -> None:
        if state is not self._state:
            state.direct.follow(self._head, state.follower)
            self._direct = state.direct
            self._state = state

    def _describe(self, description: Description, state: State) -> None:
        """Know what the folder says of all models, before these are taken over."""
        if description is not self._description:
            self._fallback, self._metadata = description.fallback, description.metadata
            known = Known(
                description.input_shift,
                description.feature_names,
                description.classes,
                description.repeated,
            )
            self._is_decided = description.is_decided
            if not same_known(self._known, known):
                self._known = known
            self._description = description  # last: an exception in between leaves the rest to do
        state.direct.takes_rows = self._known.input_shift is None
        if description.key_type is not None:
            state.slot_map.core.set_key_type(description.key_type)

    def _decided_now(self) -> Known | None:
        return self._known if self._is_decided else None

    def _while_found(self, find: Find, compute: Compute) -> Float32Array:
        for _ in range(_TRIES):
            state = self._now()
            core = state.slot_map.core
            guard = core.enter()
            try:
                moment = core.moment
                slots, unknown = find(state.slot_map)
                if moment % 2 == 0:
                    return compute(Seen(state, moment), slots, unknown)
            except (MomentPassed, ModelNotLoadedError):
                continue
            finally:
                guard.leave()
        # Changes come faster than this call can look: they wait for it.
        with self._lock:
            state = self._now()
            slots, unknown = find(state.slot_map)
            return compute(Seen(state, state.slot_map.core.moment), slots, unknown)

    def __getitem__(self, key: Key) -> Weights:
        """Return a model's weights as they are stored, see `Bank`."""
        while True:
            state = self._now()
            core = state.slot_map.core
            moment = core.moment
            slot, weights = state.slot_map.slot(key), None
            if slot >= 0:
                with contextlib.suppress(ModelNotLoadedError):  # it is being removed
                    weights = state.weights.get(slot)
            if moment % 2 != 0 or core.moment != moment:
                continue
            if weights is None:
                raise state.slot_map.unknown(key)
            shift = self.input_shift
            return {**weights} if shift is None else {**weights, "input_shift": shift}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, all of them in mapped files."""
        slots = self._now().slot_map.core.num_used_slots
        return -(-slots // self._block.models) * self._block.bytes

    # --- Commits.

    def _tell(self, turn: Writing, **values: Any) -> None:
        sequence = turn.about.sequence + 1
        text = Description(**{**vars(self._description), **values}).to_json()
        turn.add([Change(sequence, sequence, "describe")])
        turn.tell(description=text)
        self._commit(turn, sequence, (turn.about.segment, turn.about.tail), waits=True)

    @contextmanager
    def _writing(self, waits: bool = False) -> Iterator[Writing]:
        """Take the turn of a writer, with all that was committed before taken over.

        `waits`: the commit waits for the disk, whatever `sync` says. What the folder says of all
        models does, so that no change that may be lost goes before it: its former state is not
        kept.
        """
        with self._write_lock:
            if self._is_writing:  # a signal handler has interrupted a change of this thread
                raise InvalidStateError("bank: expected one change after the other, got one inside")
            try:
                self._is_writing = True
                self._expect_open()
                with self._follower.index.writing(True if waits else None) as turn:
                    follower = self._follower
                    if not follower.is_at(turn.about) or self._state is not follower.state:
                        self._catch_up()
                    yield turn
            finally:
                self._is_writing = False

    def _commit(
        self,
        turn: Writing,
        sequence: int,
        end: tuple[int, int],
        rows: Sequence[Change] = (),
        waits: bool = False,
    ) -> None:
        """Commit up to a change, and wait for the disk as `sync` says, or as `_writing` does.

        `end` is where the next block goes, and `rows` as for `Follower.publish`.
        """
        if self._flush_error is not None:
            error, self._flush_error = self._flush_error, None
            raise error
        synced = turn.about.synced
        if waits or self._sync == "commit":
            self._segments.sync(*end)
            synced = sequence
        turn.tell(sequence=sequence, synced=synced, segment=end[0], tail=end[1])
        self._follower.publish(turn, sequence, rows)
        if self._sync == "interval" and self._timer is None:
            self._timer = threading.Timer(_INTERVAL, self._flush_later)
            self._timer.daemon = True
            self._timer.start()

    def _flush(self) -> None:
        """Wait for the disk, for all changes so far, with ``sync="interval"``."""
        with self._write_lock:
            self._timer = None
            if self._head is None:
                return
            with self._follower.index.writing(full_sync=True) as turn:
                self._segments.sync(turn.about.segment, turn.about.tail)
                turn.tell(synced=turn.about.sequence)
                turn.commit()

    def _flush_later(self) -> None:
        try:
            self._flush()
        except Exception as error:  # for the next change, or `close`
            self._flush_error = error

    def _described_with(self, key_type: Any, known: Known | None) -> Description:
        """Return the description once there are models with such keys."""
        if known is None:
            return self._description
        return Description(
            **{
                **vars(self._description),
                "key_type": key_type,
                "is_decided": True,
                **{name: getattr(known, name) for name in known._fields},
            }
        )

    def _expect_open(self) -> None:
        if self._head is None:
            raise InvalidStateError(f"{self.path}: the bank is closed; open it again")

    def _expect_writable(self) -> None:
        self._expect_open()
        if not self.writable:
            raise InvalidStateError(
                f"{self.path}: opened for reading; Bank.open(path, writable=True) can change it"
            )

    def _reset(self) -> None:
        """Make locks and what they guard, also in a forked child."""
        self._lock = threading.RLock()
        self._write_lock = threading.RLock()
        self._is_busy = self._is_writing = False
        self._timer = None
        self._flush_error = None
