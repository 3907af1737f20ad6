"""Fork while other threads predict and change a live bank: live_fork.py FOLDER SYNC.

Parent and child go on with the bank that the parent has opened; each sees what the other changes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from busy_threads import busy
from children import fork, wait
from numpy.testing import assert_array_equal

from live_folders import open_live, some_bank, value, weights
from mlpbank import InvalidStateError, UnknownModelError

folder = Path(sys.argv[1]) / "bank.live"
sync: Any = sys.argv[2]
X = np.ones((4, 3), np.float32)
KEYS = ["b", "c", "b", "c"]

some_bank(4).save(folder, live=True)
writer = open_live(folder, writable=True, sync=sync)
follower = open_live(folder)
manual = open_live(folder, refresh="manual")
closed = open_live(folder)
closed.close()
CONSTANT = follower.predict(KEYS, X)
turn = 0


def change() -> None:
    global turn
    turn += 1
    writer["a"] = weights(turn)
    with writer.transaction() as changes:
        if "d" in writer:
            del changes["d"]
        changes["e"] = weights(turn)
    if turn % 10 == 0:
        writer.compact()


def predict() -> None:
    for bank in (writer, follower, manual):
        assert_array_equal(bank.predict(KEYS, X), CONSTANT)
    assert value(follower, "e") <= value(follower, "a")


def child(number: int) -> None:
    """Use all banks of the parent, which goes on meanwhile."""
    for bank in (writer, follower, manual):
        assert_array_equal(bank.predict(KEYS, X), CONSTANT)
    key = f"child {number}"
    handles = follower.handles(["b"])
    for i in range(10):
        writer[key] = weights(i)
        assert value(writer, key) == value(follower, key) == i
        assert manual.get(key) is None
    assert manual.refresh() > 0
    assert value(manual, key) == 9
    writer.compact()
    assert_array_equal(follower.predict_handles(handles, X[None, :1]), [CONSTANT[:1]])
    del writer[key]
    try:
        follower.predict(key, X)
        raise AssertionError(f"expected {key!r} to be gone")
    except UnknownModelError:
        pass
    try:
        closed.predict("b", X)
        raise AssertionError("expected a closed bank")
    except InvalidStateError:
        pass
    writer[f"last {number}"] = weights(number)
    writer.close()
    follower.close()


change()
with busy(change, predict, predict):
    for number in range(20):
        wait(fork(lambda number=number: child(number)))  # type: ignore[misc]
        assert value(follower, f"last {number}") == number
before = turn
change()
assert turn == before + 1
assert value(follower, "a") == turn
writer.close()
again = open_live(folder, writable=True)
assert sorted(again) == sorted(["a", "b", "c", "e", *(f"last {i}" for i in range(20))])
print("done")
