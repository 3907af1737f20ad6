"""Errors of commands: what is wrong with an argument or an input, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlpbank.errors import InvalidValueError, MlpbankError


class CommandError(InvalidValueError):
    """An argument or input of a command is wrong. The message is one line."""


class KeyColumnError(CommandError):
    """A column holds other keys than those of the bank."""


@contextmanager
def foreign(expected: str, *others: type[Exception]) -> Iterator[None]:
    """Turn any exception of another library's reader into a CommandError, except for `others`.

    An OSError without a number is the library's own, and not one of the system.
    """
    try:
        yield
    except Exception as error:
        of_system = isinstance(error, OSError) and error.errno is not None
        if of_system or isinstance(error, (MlpbankError, MemoryError, *others)):
            raise
        raise CommandError(f"{expected}, got {str(error) or type(error).__name__}") from error


@contextmanager
def encoded(name: str) -> Iterator[None]:
    """Turn a UnicodeEncodeError into a CommandError that names the output and the character."""
    try:
        yield
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise CommandError(
            f"{name}: expected text that {error.encoding} can hold, got {character!a}"
        ) from None


@contextmanager
def needs(purpose: str, *packages: str) -> Iterator[None]:
    """Turn an ImportError into a CommandError that names the packages to install."""
    try:
        yield
    except ImportError as error:
        names = " ".join(packages)
        raise CommandError(
            f"{purpose} needs {' and '.join(packages)}: pip install {names} ({error})"
        ) from error
