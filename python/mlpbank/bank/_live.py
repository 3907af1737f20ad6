"""LiveBank: a bank in a folder, which any process of the machine changes and all of them follow."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np

from mlpbank import _core
from mlpbank._keys import kind_of
from mlpbank.bank import _live_files
from mlpbank.bank._bank import Bank
from mlpbank.bank._follower import Follower
from mlpbank.bank._knowledge import Known
from mlpbank.bank._reads import Compute, Find
from mlpbank.bank._slot_map import SlotMap
from mlpbank.bank._state import Seen, State
from mlpbank.bank._transaction import Transaction
from mlpbank.engine import Engine
from mlpbank.errors import (
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    ModelNotLoadedError,
)
from mlpbank.files import _live_folder
from mlpbank.files._described import copy_json
from mlpbank.files._live_description import Description
from mlpbank.files._live_folder import SegmentWriter
from mlpbank.files._live_index import Change, Writing
from mlpbank.inference import MomentPassed
from mlpbank.typing import Float32Array, Key, Refresh, Sync, Weights

_TRIES = 4  # to see one moment while others take over changes
_INTERVAL = 0.5  # seconds between waits for the disk, with sync="interval"


class LiveBank(Bank):
    """A bank in a folder: changes are durable when they return, and all processes see them.

    ``bank.save(folder, live=True)`` makes the folder, ``Bank.open(folder)`` opens it to follow it,
    ``Bank.open(folder, writable=True)`` to change it as well. A call that starts after a change has
    returned, in any process of the machine, sees that change. Handles stay valid in all processes
    until their models are removed. docs/live.md has the promises, and what is not promised.

    All of `Bank` works on it. `update` and `clear` are one transaction. As a pickle it is the path
    of its folder.

    Attributes
    ----------
    path : str
        Of the folder, absolute.
    writable : bool
    """

    _folder: Path
    path: str
    writable: bool
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidStateError("LiveBank: Bank.open(folder) opens one, save(live=True) makes one")

    # --- What others have changed.

    @property
    def sequence(self) -> int:
        """The number of the last change that this bank has taken over."""
        return int(self._now().slot_map.core.sequence)

    def refresh(self) -> int:
        """Take over all changes, and return the number of the last."""
        self._expect_open()
        self._catch_up()
        return int(self._state.slot_map.core.sequence)

    def _now(self) -> State:
        head = self._head
        if head is None:
            self._expect_open()
        elif head.sequence > self._state.slot_map.core.sequence:
            self._catch_up()
        return self._state

    @property
    def _slot_map(self) -> SlotMap:
        return self._now().slot_map

    def _catch_up(self, written: int = 0) -> None:
        with self._lock:
            if self._is_busy:  # a signal handler has interrupted this
                return
            self._is_busy = True
            try:
                self._expect_open()
                self._follower.catch_up(written)
                self._use(self._follower.state)
            finally:
                self._is_busy = False

    def _use(self, state: State) -> None:
        if state is not self._state:
            state.direct.follow(self._head)
            self._direct = state.direct
            self._state = state

    def _describe(self, description: Description, state: State) -> None:
        """Know what the folder says of all models, before these are taken over."""
        if description is not self._description:
            self._description = description
            self._fallback, self._metadata = description.fallback, description.metadata
            known = Known(
                description.input_shift,
                description.feature_names,
                description.classes,
                description.repeated,
            )
            self._is_decided = description.is_decided
            if not _same(self._known, known):
                self._known = known
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

    # --- Changes.

    def transaction(self) -> Transaction:
        """Return changes that are made together or not at all, and wait for the disk once.

        See `Transaction`.
        """
        self._expect_writable()
        return Transaction(self)

    def add(self, key: Key, model: Any, **how: Any) -> None:
        """Add a model, or replace it. All is as for `Bank.add`; `sync` says what it waits for."""
        with self.transaction() as changes:
            changes.add(key, model, **how)

    def __delitem__(self, key: Key) -> None:
        """Remove a model. Predictions that run finish; later ones do not know its key."""
        with self.transaction() as changes:
            del changes[key]

    def update(self, models: Any = (), /, **more: Any) -> None:
        """Add or replace models, all together or not at all. All is as for `Bank.update`."""
        with self.transaction() as changes:
            changes.update(models, **more)

    def clear(self) -> None:
        """Remove all models that the bank has now, together or not at all."""
        with self.transaction() as changes:
            for key in self:
                del changes[key]

    @property
    def fallback(self) -> Key | None:
        """The key of the model that answers for unknown keys, or None. It can be set."""
        self._now()
        return self._fallback

    @fallback.setter
    def fallback(self, key: Key | None) -> None:
        self._expect_writable()
        with self._writing() as turn:
            kind = self._slot_map.kind
            if key is not None:
                key = self._slot_map.check(key)
                kind = kind_of(key)
            self._tell(turn, key_type=kind, fallback=key)
        self._catch_up()

    @property
    def metadata(self) -> dict[str, Any]:
        """Your own notes about the bank, as JSON has them: a copy. Set it as a whole."""
        self._now()
        return _Notes(copy_json(self._metadata))

    @metadata.setter
    def metadata(self, metadata: dict[str, Any]) -> None:
        self._expect_writable()
        metadata = copy_json(metadata)
        with self._writing() as turn:
            self._tell(turn, metadata=metadata)
        self._catch_up()

    def _tell(self, turn: Writing, **values: Any) -> None:
        sequence = turn.about.sequence + 1
        text = Description(**{**vars(self._description), **values}).to_json()
        turn.add([Change(sequence, sequence, "describe")])
        turn.tell(description=text)
        self._commit(turn, sequence)

    def compact(self, *, progress: bool = False) -> None:
        """Write all models into a new base, and remove what it replaces.

        Opening then is as fast as for a file, and the folder as small. Others may predict and
        change the bank meanwhile, in all processes; handles stay valid.

        Parameters
        ----------
        progress : bool
            Show a bar on stderr (needs tqdm).
        """
        self._expect_writable()
        _live_files.compact(self, progress)
        self._catch_up()

    @contextmanager
    def _writing(self) -> Iterator[Writing]:
        """Take the turn of a writer, with all that was committed before taken over."""
        with self._write_lock:
            if self._is_writing:  # a signal handler has interrupted a change of this thread
                raise InvalidStateError("bank: expected one change after the other, got one inside")
            self._is_writing = True
            try:
                with self._follower.index.writing() as turn:
                    self._catch_up()
                    yield turn
            finally:
                self._is_writing = False

    def _commit(self, turn: Writing, sequence: int) -> None:
        """Commit up to a change, and wait for the disk as `sync` says."""
        turn.tell(sequence=sequence)
        if self._sync == "commit":
            self._segments.sync()
            turn.tell(synced=sequence)
        self._follower.publish(turn, sequence)
        if self._sync == "interval" and self._timer is None:
            self._timer = threading.Timer(_INTERVAL, self._flush)
            self._timer.daemon = True
            self._timer.start()

    def _flush(self) -> None:
        """Wait for the disk, for all changes so far."""
        with self._write_lock:
            self._timer = None
            if self._head is None:
                return
            with self._follower.index.writing(full_sync=True) as turn:
                self._segments.sync()
                turn.tell(synced=turn.about.sequence)
                turn.commit()

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

    # --- Opening and closing.

    def close(self) -> None:
        """Close the bank; further calls raise InvalidStateError. Predictions that run finish.

        With ``sync="interval"`` it waits for the disk.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._flush()
        with self._write_lock, self._lock:
            if self._head is None:
                return
            self._head = None
            self._direct.follow(None)
            self._follower.close()
            self._segments.close()

    def _reset(self) -> None:
        """Make locks and what they guard, also in a forked child."""
        self._lock = threading.RLock()
        self._write_lock = threading.RLock()
        self._is_busy = self._is_writing = False
        self._timer = None

    def __enter__(self) -> LiveBank:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _expect_open(self) -> None:
        if self._head is None:
            raise InvalidStateError(f"{self.path}: the bank is closed; open it again")

    def _expect_writable(self) -> None:
        self._expect_open()
        if not self.writable:
            raise InvalidStateError(
                f"{self.path}: opened for reading; Bank.open(path, writable=True) can change it"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        refresh = "call" if self._follows else "manual"
        return open_live, (self.path, self.engine, self.writable, self._sync, refresh)

    def __repr__(self) -> str:
        if self._head is None:
            return f"<LiveBank {self.path}: closed>"
        about = f"{self.architecture!r}, dtype={self.dtype!r}, layout={self.layout!r}"
        return f"<LiveBank of {len(self)} at {self.sequence}: {about}>"


class _Notes(dict[str, Any]):
    """Metadata as a copy: changing it would change nothing."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise InvalidStateError(
            "metadata: a live bank gives a copy; set it as a whole, "
            "bank.metadata = {**bank.metadata, ...}"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _same(a: Known, b: Known) -> bool:
    return a[1:] == b[1:] and np.array_equal(
        np.array(a.input_shift, np.float64), np.array(b.input_shift, np.float64), equal_nan=True
    )


def open_live(
    path: str | os.PathLike[str],
    engine: Engine | None = None,
    writable: bool = False,
    sync: Sync = "commit",
    refresh: Refresh = "call",
) -> LiveBank:
    """Open the folder of a live bank, see `Bank.open`."""
    for name, value, known in (
        ("sync", sync, ("commit", "interval", "off")),
        ("refresh", refresh, ("call", "manual")),
    ):
        if not isinstance(value, str) or value not in known:
            raise InvalidValueError(f"{name}: expected one of {known}, got {value!r:.80}")
    if not isinstance(writable, bool):
        raise InvalidTypeError(f"writable: expected a bool, got {writable!r:.80}")
    self = LiveBank.__new__(LiveBank)
    self._folder = folder = Path(os.path.abspath(path))
    self.path, self.writable = str(folder), writable
    self._sync, self._follows = sync, refresh == "call"
    self._state = self._description = None  # type: ignore[assignment]
    self._known, self._is_decided = Known(), False
    self._fallback, self._metadata = None, {}
    self._reset()
    if writable:
        _live_folder.expect_writable(folder)
    self._follower = Follower(folder, engine, sync == "commit", self._describe)
    self._block = self._description.block
    about = self._follower.about
    assert about is not None
    self._segments = SegmentWriter(folder, about.segment_bytes)
    # A head that says nothing new, and so leaves it to `refresh`.
    silent = np.zeros(_live_folder.HEAD_BYTES, np.uint8)
    self._head = self._follower.head if self._follows else _core.Head(silent)
    self._use(self._follower.state)
    _live_banks.add(self)
    return self


# --- Fork. Another thread of the parent may have had a lock.

_live_banks: WeakSet[LiveBank] = WeakSet()


def _reset_locks() -> None:
    for bank in list(_live_banks):
        bank._reset()


os.register_at_fork(after_in_child=_reset_locks)
