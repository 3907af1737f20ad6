"""A live bank to answer from: every worker changes it, and all of them follow."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bank_source import BankUnavailableError
from mlpbank import Bank, BankFileError, LiveBank

logger = logging.getLogger("uvicorn.error")


class LiveSource:
    """The folder of a live bank, and the bank opened from it.

    What one worker changes, all workers have with their next request, and after a restart.

    Parameters
    ----------
    path : Path
    sync : {"commit", "interval", "off"}
        What a change waits for.

    Attributes
    ----------
    bank : Bank
        From `start` on. Without models where the folder could not be opened.
    reloads : int
        How often the folder was opened again, after it could not be read.
    writable : bool
        Whether this process may write into the folder.

    Raises
    ------
    OSError, ValueError
        There is no such folder, or it is not valid.
    """

    def __init__(self, path: Path, sync: Any) -> None:
        self.path = path
        self.reloads = 0
        self.writable = os.access(path, os.W_OK)
        self._sync = sync
        self._problem = ""
        # Not kept: a parent that keeps it would also keep the disk space of files that a compaction
        # has removed since.
        with self._open() as bank:
            self.bank: Bank = Bank(bank.architecture)

    def _open(self) -> LiveBank:
        bank = Bank.open(self.path, writable=self.writable, sync=self._sync)
        assert isinstance(bank, LiveBank)
        return bank

    def start(self) -> None:
        """Open the folder in a worker process. If that fails, `watch` tries again."""
        self._look()

    def check(self) -> None:
        """Take over what is new; raise BankUnavailableError if that cannot be."""
        with self.using() as bank:
            if isinstance(bank, LiveBank):
                bank.refresh()

    @contextmanager
    def using(self) -> Iterator[Bank]:
        """Give the bank to a block; raise BankUnavailableError if it cannot be read or written."""
        if not isinstance(self.bank, LiveBank):
            raise BankUnavailableError(self._problem)
        try:
            yield self.bank
        except (BankFileError, OSError) as error:
            raise BankUnavailableError(f"the bank cannot be used now: {error}") from error

    def _look(self) -> bool:
        """Open the folder again where the bank cannot be used; return whether that was so."""
        try:
            self.check()
        except BankUnavailableError:
            try:
                self.bank = self._open()
            except (BankFileError, OSError) as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.error("%s: not opened: %s", self.path, error)
            else:
                self._problem = ""
                return True
        return False

    async def watch(self, on_reload: Callable[[], None], seconds: float) -> None:
        """Look at intervals whether the bank can be used. Changes are seen without that."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(self._look):
                    on_reload()
                    self.reloads += 1
                    logger.info("%s: opened again, %d models", self.path, len(self.bank))
            except Exception:
                logger.exception("%s: not opened", self.path)  # and never the end of looking
