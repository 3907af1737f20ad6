"""Errors of the disk, under faults.c: live_faults.py FOLDER LAYOUT STRIDE.

At every STRIDE-th operation on a file, of those that change one: the error reaches the caller as
OSError, nothing has changed, and the bank goes on.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from live_models import change, check_all, look, make_folder, opened
from mlpbank.files import _live_folder

folder, layout, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
_live_folder._LEAST_SEGMENT = 4096  # so that segments end often
faults = ctypes.CDLL(None)
faults.faults_count.restype = ctypes.c_long
faults.faults_watch(os.fsencode(folder))
failures: Counter[tuple[str, str]] = Counter()


class Case:
    """A folder with banks of several processes' kinds."""

    def __init__(self, path: Path, sync: str) -> None:
        path.mkdir()
        self.path = make_folder(path / "bank", layout, "str", 1)
        self.turn = 0
        self.bank = opened(self.path, writable=True, sync=sync)
        self.other = opened(self.path, writable=True, sync="off")
        self.follower = opened(self.path)

    def change(self) -> None:
        change(self.bank, "str", 0, self.turn + 1)
        self.turn += 1

    def describe(self) -> None:
        self.bank.metadata = {"turn": self.turn}

    def compact(self) -> None:
        self.bank.compact()

    def save(self) -> None:
        self.bank.save(self.path.with_name("made"), live=True)

    def settle(self) -> None:
        """Check that all see the last change that returned, and that each can go on."""
        for bank in (self.bank, self.follower, self.other):
            assert check_all(bank, "str", 1) == [self.turn]
        for bank in (self.bank, self.other):
            self.turn += 1
            change(bank, "str", 0, self.turn)
            assert look(self.follower, "str", 0) == look(self.bank, "str", 0) == self.turn
        with opened(self.path) as fresh:
            assert check_all(fresh, "str", 1) == [self.turn]
            assert fresh.metadata == self.bank.metadata


def fail(case: Case, name: str, kinds: str, number: int) -> None:
    """Let every operation of some kinds fail with an error."""
    run: Callable[[], None] = getattr(case, name)
    step = 0
    while True:
        metadata, files = case.bank.metadata, set(os.listdir(case.path))
        faults.faults_only(kinds.encode())
        faults.faults_arm(ctypes.c_long(step), number)
        try:
            run()
        except OSError as error:
            failures[name, kinds] += 1
            failed: OSError | None = error
        else:
            # SQLite may do without: what it could not move out of its log stays there.
            failed = None
        finally:
            came = faults.faults_count() > step
            faults.faults_arm(ctypes.c_long(-1), 0)
        if failed is not None:
            # SQLite may tell no more than "unable to open": EACCES, or ENOENT where no file is.
            assert failed.errno in (number, errno.EIO, errno.EACCES, errno.ENOENT), failed
            assert case.bank.metadata == metadata
            new = set(os.listdir(case.path)) - files
            assert not [file for file in new if not file.startswith("blocks-")], new
            assert not case.path.with_name("made").exists()
        elif name == "save":
            with opened(case.path.with_name("made")) as made:
                assert check_all(made, "str", 1) == [case.turn]
            for file in case.path.with_name("made").iterdir():
                file.unlink()
            case.path.with_name("made").rmdir()
        case.settle()
        if not came:
            return
        step += stride


folders = (folder / str(i) for i in itertools.count())
for sync in ("commit", "off"):
    for name in ("change", "describe", "compact", "save"):
        for kinds, number in (("wf", errno.ENOSPC), ("wctfru", errno.EIO), ("s", errno.EIO)):
            fail(Case(next(folders), sync), name, kinds, number)
print({f"{name} {kinds}": count for (name, kinds), count in failures.items()})
assert len(failures) == 12
