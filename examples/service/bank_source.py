"""Which bank the service answers from, and how a new one takes its place without downtime."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from mlpbank import Bank

logger = logging.getLogger("uvicorn.error")

Identity = tuple[int, int, int, int]


class BankUnavailableError(RuntimeError):
    """The bank cannot be used now.

    As when its mapped file was changed in place: answers would be wrong, or reading it would kill.
    """


def flights_bank_file() -> Path:
    """Return the path of the bank file that comes with the package."""
    return Path(str(resources.files("mlpbank") / "data" / "flights.mlpbank"))


def bank_file() -> Path:
    """Return the bank file that $BANK_FILE names, by default that of the flights."""
    return Path(os.environ["BANK_FILE"]) if os.environ.get("BANK_FILE") else flights_bank_file()


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _File:
    """An open bank file, held so that a change in place is seen whatever its path leads to by now.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: opening a pipe does not wait for its writer.
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self.number)
        self.identity = _identity(os.fstat(self.number))
        self.name = f"/proc/self/fd/{self.number}"  # opens this very file again

    def check(self) -> None:
        """Raise BankUnavailableError if the file was written to or cut since it was opened.

        Takes a microsecond.
        """
        if _identity(os.fstat(self.number)) != self.identity:
            raise BankUnavailableError("the bank file was changed in place; waiting for a good one")

    def verify(self) -> None:
        """Raise ValueError if the checksums are wrong.

        Runs in a process of its own, because reading a cut file kills the process.
        """
        command = [sys.executable, "-m", "mlpbank", "verify", self.name]
        done = subprocess.run(
            command, pass_fds=[self.number], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = done.stderr.strip()[-400:] or "it was cut meanwhile"
            raise ValueError(f"changed in place, and not sound: {reason}")


class BankSource:
    """A bank file, and the bank opened from it. What one worker changes, it alone has.

    Parameters
    ----------
    path : Path
        Mapped, so that all processes that have it open share its memory.

    Attributes
    ----------
    bank : Bank
        The one opened last. `using` gives it to predict with. A call that began with an older one
        finishes with it; it is unmapped after the last such call.
    reloads : int
        How often this process opened a newer file in place of an older one.
    writable : bool
        Changes are possible; they stay in memory.
    open_bank : callable
        ``Bank.open``, or what is to be called instead.

    Raises
    ------
    OSError, ValueError
        There is no bank file, or it is not valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reloads = 0
        self.writable = True
        self.open_bank: Callable[[str], Bank] = Bank.open
        self._seen: Identity | None = None  # what was opened or refused last; None: look again
        self._complaint = ""
        self._file = _File(path)
        self.bank = self._open(self._file)

    def check(self) -> None:
        """Raise BankUnavailableError if the bank must not be touched."""
        self._file.check()

    @contextmanager
    def using(self) -> Iterator[Bank]:
        """Give the bank to a block; raise BankUnavailableError if its file changes before its end.

        The check before the block prevents touching the mapping of a cut file, which would kill
        the process. The check after it finds a file that was written to while it was read.
        """
        file, bank = self._file, self.bank
        file.check()
        try:
            yield bank
        except Exception:
            file.check()  # better said than the error that came of it
            raise
        file.check()
        self._file.check()  # the bank that the batcher asked, if it was replaced meanwhile

    def start(self) -> None:
        """Open the file anew in a worker process, rather than use what its parent opened.

        What was changed in place, and so takes long to check, is left to `watch`.
        """
        try:
            file = _File(self.path)
            if self._changed_in_place(file):
                self._seen = None
                self.check()
            self._use(file, self._open(file))
        except (BankUnavailableError, OSError, ValueError) as error:
            self._complain(error)

    def _changed_in_place(self, file: _File) -> bool:
        """Whether the mapped file was written to. The writing may still go on."""
        return file.identity[:2] == self._file.identity[:2] and file.identity != self._file.identity

    def look(self) -> tuple[_File, Bank] | None:
        """Return the file opened if it is another than before; an unusable one is logged, once."""
        try:
            if _identity(os.stat(self.path)) == self._seen:
                return None
            file = _File(self.path)
            if self._changed_in_place(file):
                self._seen = file.identity
                file.verify()
            return file, self._open(file)
        except (BankUnavailableError, OSError, ValueError) as error:
            if not isinstance(error, ValueError):
                self._seen = None  # it may pass: try again
            self._complain(error)
            return None

    def _open(self, file: _File) -> Bank:
        self._seen = file.identity
        try:
            bank = self.open_bank(file.name)  # milliseconds, however large it is
        except ValueError as error:
            raise type(error)(str(error).replace(file.name, str(self.path))) from None
        file.check()
        old = getattr(self, "bank", bank)
        before, now = old.architecture, bank.architecture
        if (now.input_size, now.output_size) != (before.input_size, before.output_size):
            raise ValueError(f"expected the input and output size of {before!r}, got {now!r}")
        kinds = [kind.__name__ for kind in (old.key_type, bank.key_type) if kind is not None]
        if kinds[:1] != kinds[-1:]:
            raise ValueError(f"expected {kinds[0]} as keys, got {kinds[1]}")
        return bank

    def _use(self, file: _File, bank: Bank) -> None:
        self._file, self.bank = file, bank
        self._complaint = ""

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            logger.error("%s: not reloaded: %s", self.path, error)

    async def watch(self, on_reload: Callable[[], None], seconds: float) -> None:
        """Look for a new file at intervals. Each worker does, so all follow within one interval."""
        while True:
            try:
                if found := await asyncio.to_thread(self.look):
                    self._use(*found)
                    # In the same step: no call asks one bank and checks the other's file
                    on_reload()
                    self.reloads += 1
                    logger.info("%s: reloaded, %d models", self.path, len(self.bank))
            except Exception:
                logger.exception("%s: not reloaded", self.path)  # and never the end of looking
            await asyncio.sleep(seconds)
