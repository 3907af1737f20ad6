"""A user who may only read a live folder: live_reader_only.py FOLDER none|before|after|refused.

A writer of another user comes never, before the reader opens the folder, or after that.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import fork, wait

from live_folders import open_live, value, weights
from mlpbank import Bank
from mlpbank.bank import _live_verify

folder, how = Path(sys.argv[1]), sys.argv[2]
X = np.ones(3, np.float32)
to_reader, to_writer = os.pipe(), os.pipe()
signal.alarm(60)  # if the other ends too early
# Modules that are found only before the user changes.
b"x".decode("unicode_escape")


def tell(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")


def await_told(pipe: tuple[int, int]) -> None:
    assert os.read(pipe[0], 1) == b"x"


def denied(call: Callable[[], object]) -> None:
    with pytest.raises(PermissionError, match=re.escape(str(folder))):
        call()


def read() -> None:
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    before = sorted(path.name for path in folder.iterdir()) if how != "refused" else []
    if how == "refused":
        denied(lambda: Bank.open(folder))
        return
    denied(lambda: Bank.open(folder, writable=True))
    bank = open_live(folder)
    assert not bank.writable
    assert value(bank, "b") == (5 if how == "before" else 4)
    by_handle = bank.predict_handles(bank.handles(["b"]), X[None])
    assert by_handle.tolist() == [bank.predict("b", X).tolist()]
    assert _live_verify.verify(folder).models == 3
    if how == "none":
        assert sorted(path.name for path in folder.iterdir()) == before
        return
    for i in range(6, 9):
        tell(to_writer)
        await_told(to_reader)
        assert value(bank, "b") == i, (value(bank, "b"), i)
    again = open_live(folder)
    assert value(again, "b") == 8
    tell(to_writer)


def write() -> None:
    with open_live(folder, writable=True) as bank:
        for i in range(6, 9):
            await_told(to_writer)
            bank["b"] = weights(i)
            if i == 7:
                bank.compact()
            tell(to_reader)
        await_told(to_writer)
        bank["b"] = weights(9)


if how == "before":
    with open_live(folder, writable=True) as first:
        first["b"] = weights(5)
        child = fork(read, 60)
        write()
        wait(child)
else:
    child = fork(read, 60)
    if how == "after":
        write()
    wait(child)
print("done")
