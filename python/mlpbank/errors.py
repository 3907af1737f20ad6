"""The exceptions of mlpbank. Each is a `MlpbankError` and the built-in exception that fits."""

from __future__ import annotations

from typing import Any


class MlpbankError(Exception):
    """Base of all exceptions that mlpbank raises.

    The message says what was expected and what was given. Each exception also derives from the
    built-in one that fits, so ``except ValueError`` catches an `InvalidValueError`.
    """


class InvalidValueError(MlpbankError, ValueError):
    """An argument has a wrong value."""


class InvalidTypeError(MlpbankError, TypeError):
    """An argument has a wrong type."""


class UnknownKeyError(MlpbankError, KeyError):
    """A mapping has an unknown key, or lacks one."""


class OutOfRangeError(MlpbankError, IndexError):
    """No model has this index."""


class TooLargeError(MlpbankError, OverflowError):
    """A number is too large to compute with."""


class InvalidStateError(MlpbankError, RuntimeError):
    """The object cannot answer this call now, or not from this thread or event loop."""


class MissingPackageError(MlpbankError, ImportError):
    """A package that this call needs is not installed."""


class BankFileError(MlpbankError, ValueError):
    """A file is not a valid bank file. The message names the file and what is wrong with it."""


class BankBusyError(MlpbankError, TimeoutError):
    """Another process has been changing a live bank for too long. Nothing was changed here."""


class UnknownModelError(MlpbankError, KeyError):
    """The bank has no model for a key or handle.

    Attributes
    ----------
    keys : list
        All unknown keys or handles, in the order of the call; None where a key is missing.
    """

    def __init__(
        self,
        keys: list[Any],
        total: int,
        kind: str = "keys",
        gap: int | None = None,
        way: str = "",
    ) -> None:
        shown = ", ".join(f"{key!r:.80}" for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
        super().__init__(keys, total, kind, gap, way)
        self.keys = keys
        self._message = f"no such model: {shown} ({len(keys)} of {total} {kind})"
        if gap is not None:
            self._message += f"; missing key at row {gap}: there is None, NaN or NA"
        self._message += way

    def __str__(self) -> str:
        return self._message


class ModelNotLoadedError(MlpbankError, RuntimeError):
    """The weights of a model were never loaded."""


class UnsupportedLayerError(MlpbankError, ValueError):
    """A model has a part that mlpbank cannot express. The message names the part and its place."""


class QueueFullError(MlpbankError, RuntimeError):
    """Too many rows wait already, so a request is refused. Slow down, or try again later."""


__all__ = [
    "BankBusyError",
    "BankFileError",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingPackageError",
    "MlpbankError",
    "ModelNotLoadedError",
    "OutOfRangeError",
    "QueueFullError",
    "TooLargeError",
    "UnknownKeyError",
    "UnknownModelError",
    "UnsupportedLayerError",
]

for _name in __all__:
    globals()[_name].__module__ = "mlpbank"  # where users import it from


class KeyTypeError(InvalidTypeError):
    """A key is text where the bank's other keys are numbers, or the other way round.

    `Bank` raises it again with a message of its own.
    """
