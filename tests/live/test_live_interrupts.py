"""Exceptions where a signal's handler may raise one: a change is done or not, locks are free."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cases import LAYOUTS
from interrupts import interrupted_at
from live_models import TIMES, change, check_all, look, make_folder, opened
from mlpbank.bank import _compaction, _follower, _in_folder, _live, _plan, _state, _transaction
from mlpbank.files import _live_folder, _live_index

MODULES = (
    *(_compaction, _follower, _in_folder, _live, _plan, _state, _transaction),
    *(_live_folder, _live_index),
)


class Ordinary(Exception):
    pass


class Ending(KeyboardInterrupt):
    pass


class Interrupted:
    """A bank with an operation that is interrupted, and other processes' banks."""

    def __init__(self, path: Path, layout: str, kind: str) -> None:
        self.kind = kind
        self.path = make_folder(path, layout, self.kind, 2)
        self.bank = opened(path, writable=True, sync="off")
        self.other = opened(path, writable=True, sync="off")
        self.follower = opened(path)
        self.turn = 0

    def add(self) -> int:
        """Change a group, and return how far it may have come."""
        change(self.bank, self.kind, 0, self.turn + 1)
        return 1

    def commit(self) -> int:
        before, self.bank._sync = self.bank._sync, "commit"
        try:
            return self.add()
        finally:
            self.bank._sync = before

    def compact(self) -> int:
        self.bank.compact()
        return 0

    def describe(self) -> int:
        self.bank.metadata = {"turn": self.turn, "again": self.turn}
        return 0

    def refresh(self) -> int:
        self.bank.refresh()
        return 0

    def predict(self) -> int:
        look(self.bank, self.kind, 1)
        return 0

    def open(self) -> int:
        opened(self.path, writable=True).close()
        return 0

    def settle(self) -> None:
        """Check that nothing is half or held, and that all banks see the same."""
        turn = look(self.bank, self.kind, 0)
        assert turn in (self.turn, self.turn + 1)
        notes = self.bank.metadata
        assert notes.get("turn") == notes.get("again")
        assert check_all(self.follower, self.kind, 2) == [turn, self.turn // 10]
        assert self.follower.metadata == notes
        self.turn = turn + 1
        for bank in (self.other, self.bank):  # each can still change
            change(bank, self.kind, 0, self.turn)
            change(bank, self.kind, 1, self.turn // 10)
            assert check_all(self.bank, self.kind, 2) == [self.turn, self.turn // 10]
        with opened(self.path) as fresh:
            assert check_all(fresh, self.kind, 2) == [self.turn, self.turn // 10]
            assert fresh.metadata == notes


def run(
    path: Path, layout: str, kind: str, name: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setattr(_live_index, "_WAIT", 3)
    it = Interrupted(path, layout, kind)
    operation: Callable[[], int] = getattr(it, name)
    places: list[str] = []
    step = 0
    it.settle()
    while True:
        error = (Ordinary, Ending)[step // stride % 2]()
        change(it.other, kind, 0, it.turn)  # which `bank` has to take over
        with (
            contextlib.suppress(Ordinary, Ending),
            interrupted_at(step, error, *MODULES, anywhere=False) as where,
        ):
            operation()
        error.__traceback__ = None
        if not where:
            return places
        places += where
        step += stride
        try:
            it.settle()
        except BaseException as failure:
            raise AssertionError(f"after {where}") from failure


OPERATIONS = ("add", "commit", "compact", "describe", "refresh", "predict", "open")


# An exception between `open` and its `with` leaves the file to the garbage collector.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@LEFT_OPEN
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path / "bank", "lane", "str", name, 29, monkeypatch)


@LEFT_OPEN
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["str", "int"])
@pytest.mark.parametrize(
    ("name", "layout"), [(name, LAYOUTS[i % 2]) for i, name in enumerate(OPERATIONS)]
)
def test_interrupted_in_more_places(
    tmp_path: Path, layout: str, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With int keys changes are read in the index; else a call reads most in C++ alone."""
    places = run(tmp_path / "bank", layout, kind, name, max(1, 5 // TIMES), monkeypatch)
    assert len(places) > (1 if (name, kind) == ("predict", "str") else 10)
