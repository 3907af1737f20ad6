"""Which bank the service answers from, and how a new one takes its place without downtime."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from mlpbank import Bank

logger = logging.getLogger("uvicorn.error")


def flights_bank_file() -> Path:
    """Return the path of the bank file that comes with the package."""
    return Path(str(resources.files("mlpbank") / "data" / "flights.mlpbank"))


def bank_file() -> Path:
    """Return the bank file that the environment variable BANK_FILE names, or else that of the flights."""
    return Path(os.environ["BANK_FILE"]) if os.environ.get("BANK_FILE") else flights_bank_file()


def _open(path: Path) -> Bank:
    bank = Bank.open(path)
    if bank.key_type is int:
        raise ValueError(f"{path}: expected a bank with str keys, which is what URLs and JSON objects have")
    return bank


class BankSource:
    """A bank file, and the bank opened from it.

    Parameters
    ----------
    path : Path
        Mapped, so that all processes that have it open share its memory.

    Attributes
    ----------
    bank : Bank
        The one to predict with. Whoever began with an older one finishes with it; it is unmapped when all have.
    reloads : int
        How often a newer file took the place of an older one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reloads = 0
        self._seen = self._identity()
        self.bank = _open(path)

    def _identity(self) -> tuple[int, int, int]:
        status = os.stat(self.path)
        return status.st_ino, status.st_mtime_ns, status.st_size

    def reload_if_new(self) -> bool:
        """Open the file if it is another than before, and say so; an unusable one leaves everything as it is."""
        try:
            found = self._identity()
            if found == self._seen:
                return False
            self._seen = found
            bank = _open(self.path)  # milliseconds, however large it is
            old, new = self.bank.architecture, bank.architecture
            if (new.input_size, new.output_size) != (old.input_size, old.output_size):
                raise ValueError(f"expected the input and output size of {old!r}, got {new!r}")
        except (OSError, ValueError) as error:
            logger.error("%s: not reloaded: %s", self.path, error)
            return False
        self.bank = bank
        self.reloads += 1
        logger.info("%s: reloaded, %d models", self.path, len(bank))
        return True

    async def watch(self, on_reload: Callable[[], None], seconds: float) -> None:
        """Look for a new file for ever. Each worker process does, so all of them follow within that time."""
        while True:
            await asyncio.sleep(seconds)
            if self.reload_if_new():
                on_reload()
