"""Kill writers, compactors and followers: live_kills.py FOLDER LAYOUT KEYS HOW KILLS STRIDE.

HOW is any_moment, every_line or every_operation, of which the last needs faults.c preloaded.
KILLS is the least number of them; STRIDE kills at every so-manieth line or operation. Afterwards
all that returned is there, what did not return is there as a whole or not at all, followers that
ran meanwhile saw nothing else, and the folder can be used.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from children import fork

from live_models import ARCH, Marks, check_all, key_of, look, make_folder, opened, weights_of
from mlpbank import Bank

folder, layout, kind, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
least_kills, stride = int(sys.argv[5]), int(sys.argv[6])
GROUPS = 3
FILES = ("_live", "_follower", "_plan", "_transaction", "_atomic", "_mapped")
path = make_folder(folder / "bank", layout, kind, GROUPS)
marks = Marks(folder / "marks", GROUPS)
kills: Counter[str] = Counter()


def ends(pid: int, name: str) -> bool:
    """Return whether a child came to its end instead of being killed."""
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), f"{name}: status {status}"
    kills[name] += status != 0
    return status == 0


def settle() -> None:
    """Look at what is left, and go on from there."""
    for name in os.listdir(folder):
        assert name in ("bank", "marks") or name.startswith(".mlpbank."), name
    with opened(path) as bank:
        marks.settle(bank, kind)
    with opened(path, writable=True, sync="off") as bank, opened(path) as follower:
        group = random.randrange(GROUPS)
        marks.change(bank, kind, group)
        assert look(follower, kind, group) == marks.done[group]
        marks.settle(follower, kind)


# --- At any moment.


def write_forever(seed: int) -> None:
    rng = random.Random(seed)
    bank = opened(path, writable=True, sync=rng.choice(["commit", "interval", "off"]))
    while True:
        marks.change(bank, kind, rng.randrange(GROUPS))


def compact_forever(seed: int) -> None:
    rng = random.Random(seed)
    bank = opened(path, writable=True)
    while True:
        bank.compact()
        time.sleep(rng.random() * 0.002)


def follow_forever(seed: int) -> None:
    rng = random.Random(seed)
    bank = opened(path)
    last = [0] * GROUPS
    while True:
        group = rng.randrange(GROUPS)
        turn = marks.look(bank, kind, group)
        assert turn >= last[group], f"group {group}: saw {turn} after {last[group]}"
        last[group] = turn


def any_moment() -> None:
    random.seed(1)
    runs = {"writer": write_forever, "compactor": compact_forever, "follower": follow_forever}
    turn = 0
    while sum(kills.values()) < least_kills:
        turn += 1
        pids = {name: fork(partial(run, turn)) for name, run in runs.items()}
        for name in random.sample(list(pids), 3):
            time.sleep(random.random() * 0.02)
            os.kill(pids[name], signal.SIGKILL)
            assert not ends(pids[name], name)
        settle()


# --- At every step of one operation.


def change_one(sync: Any) -> Callable[[], object]:
    bank = opened(path, writable=True, sync=sync)
    return lambda: marks.change(bank, kind, 1)


def compact() -> Callable[[], object]:
    return opened(path, writable=True, sync="off").compact


def follow() -> Callable[[], object]:
    bank, writer = opened(path), opened(path, writable=True, sync="off")
    marks.change(writer, kind, 1)
    return lambda: check_all(bank, kind, GROUPS)


def follow_to_new_base() -> Callable[[], object]:
    bank, writer = opened(path), opened(path, writable=True, sync="off")
    writer.compact()
    return lambda: check_all(bank, kind, GROUPS)


def describe() -> Callable[[], object]:
    bank = opened(path, writable=True)
    bank.metadata = {"before": 1, "after": 1}

    def run() -> None:
        bank.metadata = {"after": 2, "before": 2}

    return run


def open_and_close() -> Callable[[], object]:
    return lambda: opened(path, writable=True).close()


def create() -> Callable[[], object]:
    bank = Bank(ARCH, layout=layout)  # type: ignore[arg-type]
    bank[key_of(kind, 0, 0)] = weights_of(0, 0, 7)
    made = folder / ".mlpbank.made.tmp"
    if made.exists():
        again = Bank.open(made)  # it is whole
        assert len(again) == 1
        shutil.rmtree(made)
    return lambda: bank.save(made, live=True)


OPERATIONS: dict[str, Callable[[], Callable[[], object]]] = {
    "change": partial(change_one, "commit"),
    "change without waiting": partial(change_one, "off"),
    "compact": compact,
    "follow": follow,
    "follow to a new base": follow_to_new_base,
    "describe": describe,
    "open and close": open_and_close,
    "create": create,
}


def kill_at_line(step: int, run: Callable[[], object]) -> None:
    """Run, and be killed before the given line. Each is counted the first two times it runs."""
    left = step
    runs: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        name = Path(frame.f_code.co_filename).name
        if not name.startswith(FILES):
            return None
        if event == "line":
            runs[name, frame.f_lineno] += 1
            left -= runs[name, frame.f_lineno] <= 2
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    run()
    sys.settrace(None)


def kill_at_operation(half: bool, step: int, run: Callable[[], object]) -> None:
    """Run, and be killed before the given operation on a file, or in the middle of writing."""
    faults = ctypes.CDLL(None)
    faults.faults_watch(os.fsencode(folder))
    faults.faults_only(b"w" if half else b"")
    faults.faults_arm(ctypes.c_long(step), -1 if half else -2)
    run()
    faults.faults_arm(ctypes.c_long(-1), 0)


def every(kill_at: Callable[[int, Callable[[], object]], None]) -> None:
    for name, operation in OPERATIONS.items():
        step = random.randrange(stride)
        while not ends(fork(lambda: kill_at(step, operation())), name):  # noqa: B023
            settle()
            step += stride
        settle()
        print(name, step, "steps", file=sys.stderr)


def every_line() -> None:
    every(kill_at_line)


def every_operation() -> None:
    every(partial(kill_at_operation, False))
    every(partial(kill_at_operation, True))


globals()[how]()
print(dict(kills))
assert sum(kills.values()) >= least_kills
assert how == "any_moment" or len(kills) >= len(OPERATIONS) - 2
