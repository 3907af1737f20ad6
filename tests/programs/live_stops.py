"""Stop a follower while a live bank is changed: live_stops.py FOLDER LAYOUT CHANGES.

After so many changes and two compactions it goes on, and sees the last of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from children import fork

from live_models import Marks, check_all, make_folder, opened

folder, layout, changes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
path = make_folder(folder / "bank", layout, "str", 2)
marks = Marks(folder / "marks", 2, numbers=2)


def follow() -> None:
    bank = opened(path)
    while True:
        for group in range(2):
            marks.counts[group] = marks.look(bank, "str", group)


def wait_for_follower() -> None:
    end = time.monotonic() + 60
    while (marks.counts != marks.done).any():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the follower has ended"
        assert time.monotonic() < end
        time.sleep(0.001)


pid = fork(follow, 3600)
writer = opened(path, writable=True, sync="off")
for turn in range(3):
    for group in range(2):
        marks.change(writer, "str", group)
    wait_for_follower()
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    first = writer.sequence
    while writer.sequence < first + changes // 3:
        for group in range(2):
            marks.change(writer, "str", group)
    if turn > 0:
        writer.compact()
        marks.change(writer, "str", 0)
    os.kill(pid, signal.SIGCONT)
    wait_for_follower()
os.kill(pid, signal.SIGKILL)
assert os.waitpid(pid, 0)[1] == signal.SIGKILL
assert check_all(writer, "str", 2) == marks.done.tolist()
print(writer.sequence)
