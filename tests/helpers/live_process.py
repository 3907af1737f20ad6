"""A live bank in a process of its own, asked from a test."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from live_folders import open_live


class Remote:
    """A folder opened in another process, which calls methods of its bank.

    Parameters
    ----------
    folder : Path
    **how
        As for `Bank.open`.
    """

    def __init__(self, folder: Path, **how: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, how), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method, or give an attribute; raise what it raises."""
        self._ours.send((name, args, options))
        return self._answer()

    def _answer(self) -> Any:
        assert self._ours.poll(60), "no answer within a minute"
        is_right, value = self._ours.recv()
        if not is_right:
            raise value
        return value

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ours.send(None)
        self._process.join(60)
        assert self._process.exitcode == 0
        self._process.close()
        self._ours.close()


def _serve(connection: Connection, folder: Path, how: dict[str, Any]) -> None:
    bank: Any = open_live(folder, **how)
    connection.send((True, None))
    while (call := connection.recv()) is not None:
        name, args, options = call
        try:
            value = getattr(bank, name)
            connection.send((True, value(*args, **options) if callable(value) else value))
        except Exception as error:
            connection.send((False, error))
