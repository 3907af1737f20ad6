"""SQLite's connections to the index of a live folder, and what a fork asks for.

SQLite counts in memory which locks on a file its process has. A forked child would inherit the
counts but not the locks: a connection that it opens takes none then, others do not know of it, and
what it commits may be lost. So all connections are closed before a fork. Each process opens its own
when it needs one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

from mlpbank.errors import InvalidStateError

_WAIT = 60.0  # seconds that a fork waits for the turn of a writer


class Connections:
    """The connections of one index: at most one of each kind.

    Attributes
    ----------
    readers, writers : list of Connection
    read_lock, write_lock
        Who uses one holds its lock. Where a thread needs both it takes `write_lock` first.
    """

    def __init__(self) -> None:
        self.readers: list[sqlite3.Connection] = []
        self.writers: list[sqlite3.Connection] = []
        self._reset()
        with _adding:
            _all.add(self)

    def _reset(self) -> None:
        self.read_lock, self.write_lock = threading.RLock(), threading.RLock()

    def close(self) -> None:
        """Close all connections, which are not in use."""
        with self.write_lock, self.read_lock, suppress(sqlite3.Error):
            for connections in (self.readers, self.writers):
                while connections:
                    connections.pop().close()


class _Connection(sqlite3.Connection):
    """A connection that may just be dropped, of which CPython from 3.13 on would warn."""

    _never_opened = sqlite3.Error

    def __del__(self) -> None:
        try:  # noqa: SIM105 - when the interpreter ends, names of modules may be gone
            self.close()
        except self._never_opened:
            pass


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a connection, in a mode as SQLite's URIs have it. The caller holds its lock."""
    if _inherited:
        raise InvalidStateError(
            f"{path}: this process was forked inside a change of a live bank, and cannot use one; "
            "fork before or after"
        )
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=10,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )


# --- Fork.

_all: WeakSet[Connections] = WeakSet()
_adding = threading.RLock()  # of those to `_all`; none of their locks is held meanwhile
_held: list[Any] = []  # by the thread that forks
_inherited: list[sqlite3.Connection] = []  # from the parent, never closed here


def _close_all() -> None:
    """Wait until no connection is in use, and close all.

    Who opens one holds a lock that is taken here, so none is opened until the fork is over. What
    stays in use for too long is left open, and the child refuses to go on with it.
    """
    _adding.acquire()
    everyone = list(_all)
    for locks in ([one.write_lock for one in everyone], [one.read_lock for one in everyone]):
        _held.extend(lock for lock in locks if lock.acquire(timeout=_WAIT))
    mine = set(_held)
    for one in everyone:
        is_free = {one.write_lock, one.read_lock} <= mine
        # A signal handler may have interrupted a change, and fork.
        if is_free and not any(each.in_transaction for each in one.readers + one.writers):
            one.close()


def _go_on() -> None:
    while _held:
        _held.pop().release()
    with suppress(RuntimeError):  # Ctrl-C came before it was acquired
        _adding.release()


def _go_on_in_child() -> None:
    global _adding
    _adding = threading.RLock()
    _held.clear()
    for one in list(_all):
        _inherited.extend(one.readers + one.writers)
        one.readers, one.writers = [], []
        one._reset()


os.register_at_fork(before=_close_all, after_in_parent=_go_on, after_in_child=_go_on_in_child)
