"""Look at a live bank that others change: live_observers.py FOLDER LAYOUT KEYS OBSERVATIONS.

Four processes with two threads each observe, two write, one compacts. What a call sees must be of
one transaction, not older than what had returned or was seen by any process before the call, and
not newer than what had begun. An observation is one model's answer.

    mkdir /tmp/look
    PYTHONPATH=tests/helpers python tests/programs/live_observers.py /tmp/look lane str 10000000
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from live_models import (
    GROUP,
    ONES,
    Marks,
    key_of,
    keys_of,
    make_folder,
    opened,
    there,
    turn_of,
    turn_of_0,
)
from mlpbank import LiveBank, UnknownModelError

folder, layout, kind, observations = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
GROUPS, PROCESSES, THREADS = 20, 4, 2
path = make_folder(folder / "bank", layout, kind, GROUPS)
marks = Marks(folder / "marks", GROUPS, numbers=PROCESSES * THREADS * (GROUPS + 1) + 3)
# Of each thread, the last transaction that it saw of each group, and how many models it saw.
seen = marks.counts[: PROCESSES * THREADS * GROUPS].reshape(PROCESSES * THREADS, GROUPS)
observed = marks.counts[PROCESSES * THREADS * GROUPS :][: PROCESSES * THREADS]
stop, compactions, retries = (marks.counts[i : i + 1] for i in (-3, -2, -1))
KEYS = [keys_of(kind, group) for group in range(GROUPS)]
FIRST = [key_of(kind, group, 0) for group in range(GROUPS)]  # is always there


class Observer:
    """A thread that looks, in all ways there are."""

    def __init__(self, bank: LiveBank, number: int) -> None:
        self.bank, self.number = bank, number
        self.random = random.Random(number)

    def run(self) -> None:
        ways = [self.groups, self.groups, self.firsts, self.one, self.handles, self.keys]
        while not stop[0]:
            self.random.choice(ways)()

    def look(self, groups: Sequence[int], turns: Callable[[], Sequence[int]], models: int) -> None:
        """Compare the transactions that a call has seen with what it had to see."""
        least = [max(int(marks.done[g]), int(seen[:, g].max())) for g in groups]
        got = turns()
        for group, turn, floor in zip(groups, got, least, strict=True):
            most = int(marks.begun[group])
            assert floor <= turn <= most, f"group {group}: saw {turn}, not {floor} to {most}"
            seen[self.number, group] = turn
        observed[self.number] += models

    def groups(self) -> None:
        """Whole groups in one call: 1, or so many keys that they do not go the direct way."""
        groups = self.random.sample(range(GROUPS), self.random.choice([1, 2, GROUPS]))
        keys = [key for group in groups for key in KEYS[group]]
        order = np.array(self.random.sample(range(len(keys)), len(keys)))
        shuffled = [keys[i] for i in order.tolist()]
        x = np.tile(ONES, (len(groups), 1))

        def turns() -> list[int]:
            y = np.empty((len(keys), 4), np.float32)
            y[order] = self.bank.predict(shuffled, x, missing="nan")
            parts = zip(groups, y.reshape(len(groups), GROUP, 4), strict=True)
            return [turn_of(group, part) for group, part in parts]

        self.look(groups, turns, len(keys))

    def firsts(self) -> None:
        """One model of each of some groups, which go the direct way."""
        groups = self.random.sample(range(GROUPS), 3)
        keys = [FIRST[group] for group in groups for _ in range(5)]

        def turns() -> list[int]:
            y = self.bank.predict(keys, ONES[:15]).reshape(3, 5, 4)
            assert (y == y[:, :1]).all(), f"one call, one key, two answers: {y}"
            return [turn_of_0(group, part[0]) for group, part in zip(groups, y, strict=True)]

        self.look(groups, turns, len(keys))

    def one(self) -> None:
        group = self.random.randrange(GROUPS)
        key = FIRST[group]
        self.look([group], lambda: [turn_of_0(group, self.bank.predict(key, ONES[0]))], 1)

    def handles(self) -> None:
        """Handles that are looked up once; those of models that are removed are refused."""
        group = self.random.randrange(GROUPS)
        handle = self.bank.handles([FIRST[group]])
        other = self.random.randrange(1, GROUP)
        try:
            others = self.bank.handles([KEYS[group][other]])
        except UnknownModelError:
            others = handle[:0]
        for _ in range(20):
            self.look(
                [group],
                lambda: [turn_of_0(group, self.bank.predict_handles(handle, ONES[:1])[0])],
                1,
            )
            y = self.bank.predict_handles(others, ONES[: len(others)], missing="nan")
            if len(y) and not np.isnan(y).any():
                assert round(float(y[0, 0] / y[0, 3])) == group * GROUP + other, y

    def keys(self) -> None:
        """The keys, each group as some transaction has left it."""
        before = marks.done.copy()
        keys = set(self.bank)
        begun = marks.begun.copy()
        for group in range(GROUPS):
            have = np.array([key in keys for key in KEYS[group]])
            turns = range(int(before[group]), min(int(begun[group]), int(before[group]) + 4) + 1)
            assert any((have == there(group, turn)).all() for turn in turns), (group, have, turns)


def observe(process: int) -> None:
    bank = opened(path)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            Observer(bank, number).run()
        except BaseException as error:
            traceback.print_exc()
            errors.append(error)
            stop[0] = 1

    threads = [threading.Thread(target=run, args=[process * THREADS + i]) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def write(number: int) -> None:
    rng = random.Random(number)
    bank = opened(path, writable=True, sync="off")
    while not stop[0]:
        marks.change(bank, kind, rng.randrange(number, GROUPS, 2))
        if rng.random() < 0.01:
            time.sleep(0.05)


def compact() -> None:
    bank = opened(path, writable=True, sync="off")
    while not stop[0]:
        bank.compact()
        compactions[0] += 1
        time.sleep(0.02)


def child(run: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            stop[0] = 1
        finally:
            os._exit(1)
    return pid


begin = time.monotonic()
runs: list[Callable[[], object]] = [partial(observe, i) for i in range(PROCESSES)]
runs += [partial(write, 0), partial(write, 1), compact]
pids = [child(run) for run in runs]
while not stop[0] and (
    observed.sum() < observations or marks.done.sum() <= GROUPS or compactions[0] == 0
):
    time.sleep(0.05)
stop[0] = 1
statuses = [os.waitpid(pid, 0)[1] for pid in pids]
assert statuses == [0] * len(pids), statuses
with opened(path) as bank:
    marks.settle(bank, kind)
print(
    f"{observed.sum()} observations, {marks.done.sum()} transactions, "
    f"{compactions[0]} compactions, {time.monotonic() - begin:.0f} s"
)
assert observed.min() > 0
assert marks.done.sum() > GROUPS
assert compactions[0] > 0
