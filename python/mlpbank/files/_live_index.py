"""The index of a live folder: an SQLite file with one row for each change of a model.

SQLite makes writers take turns, makes changes whole and durable, and recovers after a crash. Here
are its statements, and its errors in the words of mlpbank. docs/format.md describes the tables.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mlpbank.errors import BankBusyError, BankFileError
from mlpbank.files._connections import Connections, connect

NAME = "index.sqlite"
KINDS = ("load", "remove", "describe", "compact")  # of changes
_APPLICATION = 0x6D6C7062  # "mlpb"
_VERSION = 1
_WAIT = 60.0  # seconds for the turn of a writer

# Names of columns in their order, which `About` has, too.
_BANK = (
    "identity, description, sequence, synced, base, base_sequence, next_base, segment_bytes, "
    "segment, tail"
)
_CHANGES = (
    "sequence, last, kind, slot, key, version, revision, loaded_at, reuse_count, segment, offset, "
    "checksum"
)
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE bank (
  one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT, description TEXT, sequence INTEGER,
  synced INTEGER, base INTEGER, base_sequence INTEGER, next_base INTEGER, segment_bytes INTEGER,
  segment INTEGER, tail INTEGER
);
CREATE TABLE changes (
  sequence INTEGER PRIMARY KEY, last INTEGER, kind TEXT, slot INTEGER, key, version TEXT,
  revision INTEGER, loaded_at REAL, reuse_count INTEGER, segment INTEGER, offset INTEGER,
  checksum INTEGER
);
"""


class About(NamedTuple):
    """The row about the bank.

    Attributes
    ----------
    identity : str
        Of the folder, drawn at random.
    description : str
        JSON, see `Description`.
    sequence : int
        Of the last change.
    synced : int
        The blocks of all changes up to this one are on the disk.
    base, base_sequence : int
        The number of the base, and the last change that is in it.
    next_base : int
        The number of the next base.
    segment_bytes : int
        The size of a segment.
    segment, tail : int
        Where the next block goes. The segment may not exist yet.
    """

    identity: str
    description: str
    sequence: int
    synced: int
    base: int
    base_sequence: int
    next_base: int
    segment_bytes: int
    segment: int
    tail: int


class Change(NamedTuple):
    """A row about one change. What does not belong to its kind is None.

    Attributes
    ----------
    sequence, last : int
        Its number, and that of the last change of its transaction.
    kind : {"load", "remove", "describe", "compact"}
    slot, key, version, revision, loaded_at
        Of the model. A key that is a tuple is bytes, as in bank files.
    reuse_count : int
        Of the slot, after the change.
    segment, offset, checksum : int
        Where the block of the slot lies after the change, and its CRC-32.
    """

    sequence: int
    last: int
    kind: str
    slot: int | None = None
    key: Any = None
    version: str | None = None
    revision: int | None = None
    loaded_at: float | None = None
    reuse_count: int | None = None
    segment: int | None = None
    offset: int | None = None
    checksum: int | None = None


class Index:
    """The index of a folder: a connection for reading, and one for writing when it is needed.

    Parameters
    ----------
    path : Path
        Of the file.
    full_sync : bool
        Whether a commit waits for the disk.
    """

    def __init__(self, path: Path, full_sync: bool = True) -> None:
        self._path = path
        self._full_sync = full_sync
        self._connections = Connections()
        self._is_full: bool | None = None  # whether commits of the writer wait now
        self._file: tuple[int, int] | None = None  # its device and number

    @classmethod
    def create(cls, path: Path, about: About) -> None:
        """Make a new index, which is on the disk when this returns."""
        connections = Connections()
        with connections.write_lock, _errors(path):
            try:
                connection = _connect(path, "rwc")
                connections.writers.append(connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                marks = ", ".join("?" * len(about))
                connection.execute(f"INSERT INTO bank (one, {_BANK}) VALUES (1, {marks})", about)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connections.close()

    def read(self, after: Callable[[About], int], most: int = -1) -> tuple[About, list[Any]]:
        """Return the row about the bank, and changes, of one moment.

        Parameters
        ----------
        after : callable
            Gives the number after which changes are returned.
        most : int
            So many changes at most; -1: all.

        Returns
        -------
        About
        list of tuple
            See `Change`.
        """
        while True:
            with self._connections.read_lock, _errors(self._path):
                reader = self._reader()
                self.expect_same_file()
                is_kept = reader in self._connections.readers
                try:
                    reader.execute("BEGIN")
                    about = self._about(reader)
                    rows = reader.execute(
                        f"SELECT {_CHANGES} FROM changes WHERE sequence > ? ORDER BY sequence "
                        "LIMIT ?",
                        (after(about), most),
                    ).fetchall()
                finally:
                    if reader.in_transaction:
                        reader.rollback()
                    if not is_kept:
                        reader.close()
            if is_kept or not self._has_log():
                return about, rows
            # A writer has come meanwhile, and may have changed the file while it was read.

    @contextmanager
    def writing(self, full_sync: bool | None = None) -> Iterator[Writing]:
        """Take the turn of a writer. What is not committed inside is undone.

        `full_sync`: whether this commit waits for the disk, None: as the others do.
        """
        end, pause = time.monotonic() + _WAIT, 50e-6
        while True:  # in short steps: a signal can interrupt them, a fork comes in between
            with self._connections.write_lock:
                writer = self._writer(self._full_sync if full_sync is None else full_sync)
                try:
                    if self._begin(writer):
                        self.expect_same_file()
                        yield Writing(self._path, writer, self._about(writer))
                        return
                finally:
                    if writer.in_transaction:
                        with suppress(sqlite3.Error):
                            writer.rollback()
            if time.monotonic() > end:
                raise BankBusyError(
                    f"{self._path}: another process has been writing for {_WAIT:.0f} s"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.005)

    def check(self) -> None:
        """Raise BankFileError where the file itself is damaged."""
        with self._connections.read_lock, _errors(self._path):
            (found,) = self._reader().execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise BankFileError(f"{self._path}: {found}")

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _writer(self, full_sync: bool) -> sqlite3.Connection:
        with _errors(self._path):
            writers = self._connections.writers
            if not writers:
                writers.append(_connect(self._path, "rw"))
                writers[0].execute("PRAGMA busy_timeout = 0")  # `writing` waits
                self._is_full = None
            if writers[0].in_transaction:  # what an exception has left
                writers[0].rollback()
            if full_sync is not self._is_full:
                self._is_full = None
                writers[0].execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
                self._is_full = full_sync
            return writers[0]

    def _reader(self) -> sqlite3.Connection:
        if self._connections.readers:
            return self._connections.readers[0]
        if not self._path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        may_write = os.access(self._path.parent, os.W_OK) and os.access(self._path, os.W_OK)
        try:
            reader = _connect(self._path, "rw" if may_write else "ro")
            reader.execute("SELECT 1 FROM bank")
        except sqlite3.OperationalError as error:
            # SQLite needs two files beside this one, and may not make them. Where there is no log,
            # no writer has the index open, and all that was committed is in the file itself.
            lacks_files = "unable to open" in str(error) or "readonly database" in str(error)
            if may_write or not lacks_files or self._has_log():
                raise
            return _connect(self._path, "ro&immutable=1")
        self._connections.readers.append(reader)
        return reader

    def expect_same_file(self) -> None:
        """Raise where the path no longer leads to what is open.

        Blocks would go into the folder of that name, and rows into the one that was moved away.
        """
        status = os.stat(self._path)
        file = (status.st_dev, status.st_ino)
        if self._file not in (None, file):
            raise BankFileError(
                f"{self._path}: expected the folder that was opened, got another one in its place; "
                "open it again"
            )
        self._file = file

    def _has_log(self) -> bool:
        """Return whether there may be changes that are not yet in the file itself."""
        log = self._path.with_name(f"{self._path.name}-wal")
        return log.exists() and log.stat().st_size > 0

    def _begin(self, writer: sqlite3.Connection) -> bool:
        """Take the turn of a writer if it is free, and return whether it was."""
        try:
            with _errors(self._path):
                writer.execute("BEGIN IMMEDIATE")
        except BankBusyError:
            return False
        return True

    def _about(self, connection: sqlite3.Connection) -> About:
        with _errors(self._path):
            row = connection.execute(f"SELECT {_BANK} FROM bank").fetchone()
        if row is None:
            raise BankFileError(f"{self._path}: expected a row about the bank, got none")
        numbers = row[2:]
        if type(row[0]) is not str or type(row[1]) is not str:
            raise BankFileError(f"{self._path}: expected text, got {row[:2]!r:.200}")
        if {*map(type, numbers)} != {int} or min(numbers) < 0 or max(numbers) >= 2**62:
            raise BankFileError(f"{self._path}: expected numbers, got {numbers!r:.200}")
        return About(*row)


class Writing:
    """The turn of a writer.

    Attributes
    ----------
    about : About
        As the last writer left it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, about: About) -> None:
        self._path = path
        self._connection = connection
        self.about = about

    def add(self, changes: Sequence[Change]) -> None:
        """Add rows."""
        marks = ", ".join("?" * len(Change._fields))
        with _errors(self._path):
            self._connection.executemany(
                f"INSERT INTO changes ({_CHANGES}) VALUES ({marks})", changes
            )

    def drop(self, first: int, last: int) -> None:
        """Remove rows by their numbers."""
        with _errors(self._path):
            self._connection.execute(
                "DELETE FROM changes WHERE sequence BETWEEN ? AND ?", (first, last)
            )

    def tell(self, **values: Any) -> None:
        """Change columns of the row about the bank."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with _errors(self._path):
            self._connection.execute(f"UPDATE bank SET {columns}", tuple(values.values()))

    def first_segment(self) -> int | None:
        """Return the first segment that a row names, None if there is none."""
        with _errors(self._path):
            row = self._connection.execute("SELECT min(segment) FROM changes").fetchone()
        first: int | None = row[0]
        return first

    def commit(self) -> None:
        """End the turn. When this returns, everything is there, and waits for the disk if asked."""
        with _errors(self._path):
            self._connection.commit()

    @property
    def commit_now(self) -> Any:
        """SQLite's own commit, a function that runs no Python. Errors are those of SQLite."""
        return self._connection.commit


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = connect(path, mode)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if mode != "rwc" and application != _APPLICATION:
            raise BankFileError(f"{path}: expected the index of a live bank, got another database")
        if version > _VERSION:
            raise BankFileError(
                f"{path}: this mlpbank reads up to version {_VERSION}, got {version}; a newer "
                "mlpbank wrote it"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) from error
    except (OverflowError, UnicodeDecodeError) as error:  # values of rows, SQLite's own messages
        raise BankFileError(f"{path}: damaged: {error}") from error


def translated(error: sqlite3.Error, path: Path) -> Exception:
    """Return an error of SQLite as the one that says what to do."""
    text = str(error)
    for part, number in (
        ("disk is full", errno.ENOSPC),
        ("disk I/O error", errno.EIO),
        ("readonly database", errno.EACCES),
        ("unable to open", errno.EACCES if path.exists() else errno.ENOENT),
    ):
        if part in text:
            return OSError(number, f"{os.strerror(number)} ({text})", str(path))
    if "locked" in text or "busy" in text:
        return BankBusyError(f"{path}: {text}; another process has it open in a way of its own")
    return BankFileError(f"{path}: damaged: {text}")
