"""Threads that repeat calls while a program does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def busy(*functions: Callable[[], object]) -> Iterator[None]:
    """Call each function again and again, in a thread of its own, until the block ends."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(function: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors
