"""Errors of the operating system with the path that the user gave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(path: str | os.PathLike[str], *others: str | os.PathLike[str]) -> Iterator[None]:
    """Give every OSError in the block that has no path, or one of `others`, the path `path`.

    Reads and writes of open files, maps, and libraries in other languages raise such errors.
    """
    try:
        yield
    except BrokenPipeError:  # of a progress bar: the reader of the output has gone
        raise
    except OSError as error:
        name, hidden = os.fspath(path), (None, *(os.fspath(other) for other in others))
        if error.filename not in hidden or name in str(error):
            raise
        if error.errno is None:
            raise OSError(f"{name}: {error}") from error
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), name) from error
