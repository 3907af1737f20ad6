"""Every exception that mlpbank raises by itself: a `MlpbankError`, and the built-in one that fits."""

from __future__ import annotations

from typing import Any


class MlpbankError(Exception):
    """What mlpbank was given, or was asked to do, does not fit; the message says what was expected and what came.

    The base of all exceptions that mlpbank raises by itself. Each is one of Python's own kinds as
    well, so ``except ValueError`` catches those that are.
    """


class InvalidValueError(MlpbankError, ValueError):
    """An argument has a value that does not fit."""


class InvalidTypeError(MlpbankError, TypeError):
    """An argument is of a type that does not fit."""


class UnknownKeyError(MlpbankError, KeyError):
    """A mapping has a key too many, or one is missing."""


class OutOfRangeError(MlpbankError, IndexError):
    """There is no model of this index."""


class TooLargeError(MlpbankError, OverflowError):
    """A number is too large to compute with."""


class InvalidStateError(MlpbankError, RuntimeError):
    """A call comes when, or from where, it cannot be answered."""


class MissingPackageError(MlpbankError, ImportError):
    """A package is needed that is not installed."""


class BankFileError(MlpbankError, ValueError):
    """A file is not a valid bank file; the message has its path, what was expected and what came."""


class UnknownModelError(MlpbankError, KeyError):
    """A key, or an id, of no model of the bank.

    Attributes
    ----------
    keys : list
        All that are unknown, in the order of the call.
    """

    def __init__(self, keys: list[Any], total: int, kind: str = "keys") -> None:
        shown = ", ".join(f"{key!r:.80}" for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
        super().__init__(keys, total, kind)
        self.keys = keys
        self._message = f"no such model: {shown} ({len(keys)} of {total} {kind})"

    def __str__(self) -> str:
        return self._message


class ModelNotLoadedError(MlpbankError, RuntimeError):
    """A model whose weights were never loaded was asked for."""


class UnsupportedLayerError(MlpbankError, ValueError):
    """A model has a part that mlpbank cannot express; the message names the part and where it stands."""


class QueueFullError(MlpbankError, RuntimeError):
    """So many rows wait already that a request is refused: slow down, or try again later."""


__all__ = [
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
    globals()[_name].__module__ = "mlpbank"  # from where users import them


class KeyTypeError(InvalidTypeError):
    """A key is text where the bank's other keys are numbers, or the other way round; `Bank` says it in its words."""
