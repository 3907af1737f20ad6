"""A bank by reference: what tells other processes and machines which bank to open."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from typing import NamedTuple

from mlpbank.bank import Bank, LiveBank
from mlpbank.engine import Engine
from mlpbank.errors import InvalidTypeError, InvalidValueError


class BankReference(NamedTuple):
    """Path of a bank file or live folder, and what it was when this was made.

    Attributes
    ----------
    path : str
    fingerprint : str
        Of the file, or the identity of the folder.
    sequence : int or None
        Of a folder: its last change, which is the last that whoever opens it sees.
    """

    path: str
    fingerprint: str
    sequence: int | None = None

    def open(self, num_threads: int | None, path: str | None = None) -> Bank:
        """Open the bank as it was, perhaps from another place.

        Raises
        ------
        BankFileError
            Another one is there now, or the folder was compacted since.
        OSError
            It cannot be opened.
        MemoryError
            The process may not map as much.
        """
        path = path or self.path
        engine = Engine(num_threads=num_threads)
        try:
            if self.sequence is None:
                return Bank._from_reference(path, self.fingerprint, engine)
            return LiveBank._open_at(path, self.fingerprint, self.sequence, engine)
        except (OSError, MemoryError) as error:
            limit, _ = resource.getrlimit(resource.RLIMIT_AS)
            if limit == resource.RLIM_INFINITY or (
                isinstance(error, OSError) and error.errno != errno.ENOMEM
            ):
                raise
            raise MemoryError(
                f"{path}: this process may have {limit:,} bytes of address space (RLIMIT_AS), "
                "which is too few to map the bank; in Spark raise or unset "
                "spark.executor.pyspark.memory: mapped pages are shared and need no such memory"
            ) from error


def reference_to(bank: str | os.PathLike[str] | Bank) -> tuple[BankReference, Bank]:
    """Return the reference to a bank, and the bank.

    Parameters
    ----------
    bank : path-like or Bank
        A bank has to be live, or that of a file, not changed since it was opened.

    Raises
    ------
    TypeError, ValueError
        It is something else, or no file holds it.
    """
    if isinstance(bank, (str, os.PathLike)):
        bank = Bank.open(bank)
    elif not isinstance(bank, Bank):
        raise InvalidTypeError(f"bank: expected a path or a Bank, got {bank!r:.80}")
    if isinstance(bank, LiveBank):
        return BankReference(bank.path, bank.identity, bank.sequence), bank
    reference = bank._reference()
    if reference is None:
        raise InvalidValueError(
            "bank: expected one that is in a file as it is, got one that was changed or made in "
            "memory; save it and give the path"
        )
    return BankReference(*reference), bank


class Opened:
    """The bank that this process has open, by reference: a worker opens it once."""

    def __init__(self) -> None:
        self._reference: BankReference | None = None
        self._bank: Bank | None = None

    def get(
        self, reference: BankReference, num_threads: int | None, find: Callable[[str], str]
    ) -> Bank:
        """Return the bank of a reference; `find` gives its path on this machine."""
        if self._bank is None or self._reference != reference:
            self._bank = None
            self._bank = reference.open(num_threads, find(reference.path))
            self._reference = reference
        return self._bank
