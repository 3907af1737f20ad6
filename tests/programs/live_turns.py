"""Two writers of a live bank, one of which is killed: live_turns.py FOLDER LAYOUT KILLS.

They take turns on one group, and change groups of their own at the same time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from children import fork

from live_models import Marks, make_folder, opened

folder, layout, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
SHARED = 2  # the group of both; the others are their own
path = make_folder(folder / "bank", layout, "int", 3)
marks = Marks(folder / "marks", 3, numbers=2)
wanted = marks.counts  # of each writer, 1 and the group that it is to change; 0: it has done it


def write(number: int) -> None:
    bank = opened(path, writable=True, sync=("commit", "off")[number])
    while True:
        if wanted[number]:
            group = int(wanted[number]) - 1
            marks.change(bank, "int", group)
            assert marks.look(bank, "int", group) == marks.done[group]
            wanted[number] = 0
        time.sleep(50e-6)


def wait(number: int) -> None:
    end = time.monotonic() + 20  # much less than a writer waits for its turn
    while wanted[number]:
        assert time.monotonic() < end, f"writer {number} hangs"
        time.sleep(50e-6)


random.seed(1)
pids = [fork(partial(write, number), 3600) for number in range(2)]
follower = opened(path)
try:
    for turn in range(kills):
        for number in (0, 1, 0, 1):  # in turns, each seeing the other's changes
            wanted[number] = SHARED + 1
            wait(number)
            assert marks.look(follower, "int", SHARED) == marks.done[SHARED]
        killed = turn % 2
        other = 1 - killed
        wanted[killed] = (SHARED, killed)[turn % 4 // 2] + 1
        wanted[other] = other + 1
        time.sleep(random.random() * 0.004)
        os.kill(pids[killed], signal.SIGKILL)
        assert os.waitpid(pids[killed], 0)[1] == signal.SIGKILL
        wanted[killed] = 0
        wait(other)
        wanted[other] = SHARED + 1  # goes on where the other has ended
        wait(other)
        marks.settle(follower, "int")
        pids[killed] = fork(partial(write, killed), 3600)
finally:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
print(marks.done.tolist())
assert min(marks.done) > 0
