"""Threads that look at, change and compact a live bank, and forks: live_threads.py FOLDER LAYOUT.

Takes the number of forks as a third argument. Each child looks, changes and compacts as well, and
a bank is sent to new processes as a pickle.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from busy_threads import busy
from children import fork, wait

from live_models import (
    GROUP,
    ONES,
    Marks,
    check_all,
    keys_of,
    look,
    make_folder,
    opened,
    there,
    turn_of,
)
from mlpbank import Bank, LiveBank, UnknownModelError

folder, layout, forks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
GROUPS, CHILDREN = 4, 3  # the last group is that of the children
path = make_folder(folder / "bank", layout, "str", GROUPS)
marks = Marks(folder / "marks", GROUPS)


bank = opened(path, writable=True, sync="interval")
other = opened(path, writable=True, sync="off")
follower = opened(path)


def any_bank() -> LiveBank:
    return random.choice([bank, other, follower])


def predict() -> None:
    marks.look(any_bank(), "str", random.randrange(GROUPS))


def frame() -> None:
    group = random.randrange(GROUPS)
    df = pd.DataFrame(ONES, columns=["a", "b"]).assign(key=keys_of("str", group))
    least = int(marks.done[group])
    y = any_bank().predict_frame(df, key="key", features=["a", "b"], missing="nan")
    turn = turn_of(group, y.to_numpy(np.float32))
    assert least <= turn <= marks.begun[group]


def handles() -> None:
    one, group = any_bank(), random.randrange(GROUPS)
    for i, key in enumerate(keys_of("str", group)):
        try:
            found = one.handles([key])
            y = one.predict_handles(found, ONES[:1])
        except UnknownModelError:
            continue
        assert round(float(y[0, 0] / y[0, 3])) == group * GROUP + i


def info() -> None:
    one, group = any_bank(), random.randrange(GROUPS)
    least = int(marks.done[group])
    turn = int(str(one.info(keys_of("str", group)[0]).version))
    assert least <= turn <= marks.begun[group]


def keys() -> None:
    before = marks.done.copy()
    found = set(any_bank())
    for group in range(GROUPS):
        have = np.array([key in found for key in keys_of("str", group)])
        turns = range(int(before[group]), int(marks.begun[group]) + 1)
        assert any((have == there(group, turn)).all() for turn in turns), (group, have, turns)


def stacked() -> None:
    """All models of one moment, as arrays and as a file."""
    before = marks.done.copy()
    if random.random() < 0.5:
        plain = Bank.from_stacked(*any_bank().to_stacked())
    else:
        file = folder / f"saved {threading.get_ident()}"
        any_bank().save(file)
        plain = Bank.open(file)
    for group in range(GROUPS):
        assert before[group] <= look(plain, "str", group) <= marks.begun[group]


def change(which: LiveBank, group: int) -> None:
    marks.change(which, "str", group)


def child() -> None:
    for one in (bank, other, follower):
        for group in range(GROUPS):
            marks.look(one, "str", group)
    for one in (bank, other):
        marks.change(one, "str", CHILDREN)
        assert marks.look(follower, "str", CHILDREN) == marks.done[CHILDREN]
    bank.compact()
    info()
    handles()
    stacked()
    marks.look(follower, "str", 0)


LOOK = """
import pickle, sys
from live_models import check_all
bank = pickle.load(sys.stdin.buffer)
print(bank.path, check_all(bank, "str", 4))
"""

looks = [predict, predict, frame, handles, info, keys, stacked]
changes = [partial(change, bank, 0), partial(change, bank, 1), partial(change, other, 2)]
with busy(*looks, *changes, other.compact):
    for _ in range(forks):
        wait(fork(child))
assert check_all(bank, "str", GROUPS) == marks.done.tolist()
for one in (bank, follower):
    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=pickle.dumps(one), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"{path} {marks.done.tolist()}", done
print(marks.done.tolist())
assert min(marks.done) > 0
