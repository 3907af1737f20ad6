"""A child whose parent has a live bank open: live_forked.py FOLDER LAYOUT.

SQLite's connections must not be inherited: the parent closes its bank, and with it the index,
while the child uses the bank. What the child then changes has to be there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from children import fork, wait

from live_models import change, check_all, look, make_folder, opened
from mlpbank import InvalidStateError
from mlpbank.bank import _plan

path = make_folder(Path(sys.argv[1]) / "bank", sys.argv[2], "str", 1)
bank = opened(path, writable=True)
change(bank, "str", 0, 1)
to_child, to_parent = os.pipe(), os.pipe()


def child() -> None:
    change(bank, "str", 0, 2)
    os.write(to_parent[1], b"2")
    os.read(to_child[0], 1)
    change(bank, "str", 0, 3)
    assert look(bank, "str", 0) == 3


pid = fork(child)
os.read(to_parent[0], 1)
assert look(bank, "str", 0) == 2
bank.close()
with opened(path) as other:
    assert look(other, "str", 0) == 2
os.write(to_child[1], b"3")
wait(pid)
with opened(path) as other:
    assert look(other, "str", 0) == 3


# A signal handler that interrupts a change, and forks. The child is told what is wrong.


def refused() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with pytest.raises(InvalidStateError, match="forked inside a change"):
        opened(path)


def handler(*_: object) -> None:
    wait(fork(refused))


writer = opened(path, writable=True)
signal.signal(signal.SIGUSR1, handler)
rows = _plan.Plan.rows


def interrupted(*arguments: Any) -> Any:
    os.kill(os.getpid(), signal.SIGUSR1)
    return rows(*arguments)


with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_plan.Plan, "rows", interrupted)
    change(writer, "str", 0, 4)
assert check_all(writer, "str", 1) == [4]
with opened(path) as other:
    assert look(other, "str", 0) == 4
