"""LiveBank: a bank in a folder, which any process of the machine changes and all of them follow."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

from mlpbank._keys import kind_of
from mlpbank.bank import _compaction
from mlpbank.bank._follower import Follower
from mlpbank.bank._in_folder import BankInFolder
from mlpbank.bank._knowledge import Known
from mlpbank.bank._placing import How
from mlpbank.bank._transaction import Transaction
from mlpbank.engine import Engine
from mlpbank.errors import (
    BankFileError,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    UnknownModelError,
)
from mlpbank.files import _live_folder
from mlpbank.files._described import copy_json
from mlpbank.files._live_folder import SegmentWriter
from mlpbank.typing import Key, Refresh, Sync


class LiveBank(BankInFolder):
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidStateError("LiveBank: Bank.open(folder) opens one, save(live=True) makes one")

    # What `from_models` and the like, and `open` of a file, would come to.
    _bind = __init__

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

    # --- Changes.

    def transaction(self) -> Transaction:
        """Return changes that are made together or not at all, and wait for the disk once.

        See `Transaction`.
        """
        self._expect_writable()
        return Transaction(self)

    def _add(self, key: Key, model: Any, version: str | None, how: How) -> None:
        with self.transaction() as changes:
            changes._add(key, model, version, how)

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
        while True:
            with suppress(UnknownModelError):  # another process has removed one meanwhile
                with self.transaction() as changes:
                    for key in self:
                        del changes[key]
                return

    @property
    def fallback(self) -> Key | None:
        """The key of the model that answers for unknown keys, or None. It can be set."""
        self._now()
        return self._fallback

    @fallback.setter
    def fallback(self, key: Key | None) -> None:
        self._expect_writable()
        with self._writing(waits=True) as turn:
            kind = self._slot_map.kind
            if key is not None:
                key = self._slot_map.check(key)
                kind = kind_of(key)
            self._tell(turn, key_type=kind, fallback=key)
        self._take_own()

    @property
    def metadata(self) -> dict[str, Any]:
        """Your own notes about the bank, as JSON has them: a copy. Set it as a whole."""
        self._now()
        return _Notes(copy_json(self._metadata))

    @metadata.setter
    def metadata(self, metadata: dict[str, Any]) -> None:
        self._expect_writable()
        metadata = copy_json(metadata)
        with self._writing(waits=True) as turn:
            self._tell(turn, metadata=metadata)
        self._take_own()

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
        _compaction.compact(self, progress)
        self._take_own()

    # --- Opening and closing.

    @property
    def identity(self) -> str:
        """What tells this folder from others: drawn at random when it was made."""
        assert self._follower.about is not None
        return self._follower.about.identity

    @classmethod
    def _open_at(cls, path: str, identity: str, sequence: int, engine: Engine) -> LiveBank:
        """Open a folder as it was at a change; later changes are never seen."""
        self = open_live(path, engine, refresh="manual", until=sequence)
        if self.identity != identity:
            raise BankFileError(f"{path}: expected the live bank {identity}, got {self.identity}")
        return self

    def close(self) -> None:
        """Close the bank; further calls raise InvalidStateError. Predictions that run finish.

        With ``sync="interval"`` it waits for the disk.
        """
        error = self._flush_error
        try:
            if self._timer is not None:
                self._timer.cancel()
                self._flush()
            if error is not None:
                raise error
        finally:
            with self._write_lock, self._lock:
                if self._head is not None:
                    self._head = None
                    self._direct.follow(None, None)
                    self._follower.close()
                    self._segments.close()

    def __enter__(self) -> LiveBank:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
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


def open_live(
    path: str | os.PathLike[str],
    engine: Engine | None = None,
    writable: bool = False,
    sync: Sync = "commit",
    refresh: Refresh = "call",
    until: int | None = None,
) -> LiveBank:
    """Open the folder of a live bank, see `Bank.open`, perhaps as it was at an earlier change."""
    for name, value, known in (
        ("sync", sync, ("commit", "interval", "off")),
        ("refresh", refresh, ("call", "manual")),
    ):
        if not isinstance(value, str) or value not in known:
            raise InvalidValueError(f"{name}: expected one of {known}, got {value!r:.80}")
    if not isinstance(writable, bool):
        raise InvalidTypeError(f"writable: expected a bool, got {writable!r:.80}")
    return _opened(path, engine, writable, sync, refresh == "call", until)


def open_to_copy(path: str | os.PathLike[str]) -> LiveBank:
    """Open a folder as it is now, to save it elsewhere: without its head, and on any file system.

    What a machine that stopped has left half done is left out.
    """
    return _opened(path, None, False, "commit", False, None, is_copied=True)


def _opened(
    path: str | os.PathLike[str],
    engine: Engine | None,
    writable: bool,
    sync: Sync,
    follows: bool,
    until: int | None,
    is_copied: bool = False,
) -> LiveBank:
    self = LiveBank.__new__(LiveBank)
    self._folder = folder = Path(os.path.abspath(path))
    self.path, self.writable = str(folder), writable
    self._sync, self._follows = sync, follows
    self._state = self._description = None  # type: ignore[assignment]
    self._known, self._is_decided = Known(), False
    self._fallback, self._metadata = None, {}
    self._reset()
    if writable:
        _live_folder.expect_writable(folder)
    self._follower = Follower(folder, engine, sync == "commit", until, self._describe, is_copied)
    self._block = self._description.block
    about = self._follower.about
    assert about is not None
    self._segments = SegmentWriter(folder, about.segment_bytes, sync == "commit")
    # Without following, `refresh` alone looks for what is new.
    self._head = self._follower.head if follows else _live_folder.silent_head()
    self._use(self._follower.state)
    _live_banks.add(self)
    return self


# --- Fork. Another thread of the parent may have had a lock.

_live_banks: WeakSet[LiveBank] = WeakSet()


def _reset_locks() -> None:
    for bank in list(_live_banks):
        bank._reset()


os.register_at_fork(after_in_child=_reset_locks)
