"""Opening and closing live banks: arguments, what a change waits for, and refresh."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live_folders import (
    ARCHITECTURE,
    X,
    open_live,
    some_bank,
    value,
    weights,
)
from mlpbank import (
    Bank,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    LiveBank,
)


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """A folder with the models a, b and c, in each layout."""
    some_bank(3, layout=layout).save(tmp_path / "bank.live", live=True)
    return tmp_path / "bank.live"


def test_following_alone_cannot_change(folder: Path) -> None:
    follower = open_live(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if "-" not in path.name}
    calls: list[Callable[[], Any]] = [
        lambda: follower.__setitem__("a", weights(1)),
        lambda: follower.add("a", weights(1)),
        lambda: follower.__delitem__("a"),
        lambda: follower.update({"a": weights(1)}),
        lambda: follower.pop("a"),
        lambda: follower.popitem(),
        lambda: follower.clear(),
        lambda: follower.setdefault("new", weights(1)),
        lambda: follower.transaction(),
        lambda: follower.compact(),
        lambda: setattr(follower, "fallback", "a"),
        lambda: setattr(follower, "metadata", {}),
    ]
    for call in calls:
        with pytest.raises(InvalidStateError, match="writable=True"):
            call()
    assert sorted(follower) == ["a", "b", "c"]  # type: ignore[type-var]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if "-" not in path.name}
    assert after == before


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"sync": "never"}, InvalidValueError, "sync: expected one of"),
        ({"sync": True}, InvalidValueError, "sync: expected one of"),
        ({"refresh": "often"}, InvalidValueError, "refresh: expected one of"),
        ({"writable": 1}, InvalidTypeError, "writable: expected a bool"),
        ({"mmap": False}, InvalidValueError, "a live bank is mapped"),
    ],
)
def test_arguments_of_open(folder: Path, how: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        Bank.open(folder, **how)


def test_arguments_that_only_a_folder_takes(tmp_path: Path) -> None:
    some_bank(3).save(tmp_path / "bank.mlpbank")
    with pytest.raises(InvalidValueError, match="writable: expected the folder of a live bank"):
        Bank.open(tmp_path / "bank.mlpbank", writable=True)
    with pytest.raises(InvalidStateError, match=r"Bank\.open\(folder\) opens one"):
        LiveBank(ARCHITECTURE)


@pytest.mark.parametrize("sync", ["commit", "interval", "off"])
def test_sync(folder: Path, sync: Any) -> None:
    """What each promises when the process ends: all of it."""
    follower = open_live(folder)
    with open_live(folder, writable=True, sync=sync) as writer:
        for i in range(5):
            writer["a"] = weights(i)
            assert value(follower, "a") == i
        with writer.transaction() as changes:
            changes.update({f"{i}": weights(i) for i in range(50)})
        assert value(follower, "49") == 49
    about = follower._follower.index.read(lambda about: about.sequence)[0]
    assert about.sequence == 55
    assert about.synced == (0 if sync == "off" else 55)
    again = open_live(folder, writable=True)
    assert (len(again), value(again, "a"), value(again, "7")) == (53, 4, 7)


def test_changes_by_interval_reach_the_disk_without_another_call(folder: Path) -> None:
    writer = open_live(folder, writable=True, sync="interval")
    writer["a"] = weights(1)
    timer = writer._timer
    assert timer is not None
    timer.join(60)
    about = writer._follower.index.read(lambda about: about.sequence)[0]
    assert (about.synced, writer._timer) == (1, None)


def test_manual_refresh(folder: Path) -> None:
    writer, manual = open_live(folder, writable=True), open_live(folder, refresh="manual")
    handles = manual.handles(["a", "b"])
    before = manual.predict(["a", "b"], [X, X])
    writer["a"] = weights(1)
    writer["new"] = weights(2)
    del writer["b"]
    writer.fallback = "a"
    for _ in range(3):
        np.testing.assert_array_equal(manual.predict(["a", "b"], [X, X]), before)
        np.testing.assert_array_equal(manual.predict_handles(handles, [X, X]), before)
        assert (sorted(manual), manual.sequence) == (["a", "b", "c"], 0)  # type: ignore[type-var]
        assert (manual.fallback, manual.info("a").revision) == (None, 1)
    assert manual.refresh() == 4
    assert (value(manual, "a"), value(manual, "new"), value(manual, "none")) == (1, 2, 1)
    assert sorted(manual) == ["a", "c", "new"]  # type: ignore[type-var]


def test_manual_refresh_of_a_writer(folder: Path) -> None:
    """It sees its own changes at once, and with them what came before from others."""
    one = open_live(folder, writable=True, refresh="manual")
    other = open_live(folder, writable=True)
    other["b"] = weights(1)
    assert one.sequence == 0
    one["a"] = weights(2)
    assert (value(one, "a"), value(one, "b"), one.sequence) == (2, 1, 2)


def test_closing(folder: Path) -> None:
    with open_live(folder, writable=True) as writer:
        writer["a"] = weights(1)
    writer.close()
    follower = open_live(folder)
    direct = follower.predict
    follower.close()
    calls: list[Callable[[], Any]] = [
        lambda: direct("a", X),
        lambda: follower.predict("a", X),
        lambda: follower.predict(["a"], [X]),
        lambda: follower.predict_handles([0], [X]),
        lambda: follower.handles(["a"]),
        lambda: follower["a"],
        lambda: len(follower),
        lambda: list(follower),
        lambda: "a" in follower,
        lambda: follower.info("a"),
        lambda: follower.sequence,
        lambda: follower.refresh(),
        lambda: follower.metadata,
        lambda: follower.fallback,
        lambda: follower.to_stacked(),
        lambda: follower.nbytes,
        lambda: writer.__setitem__("a", weights(2)),
        lambda: writer.__delitem__("a"),
        lambda: writer.transaction(),
        lambda: writer.compact(),
        lambda: setattr(writer, "metadata", {}),
    ]
    for call in calls:
        with pytest.raises(InvalidStateError, match="closed; open it again"):
            call()
    assert repr(writer) == f"<LiveBank {folder}: closed>"
    assert value(open_live(folder), "a") == 1


def test_a_transaction_of_a_bank_that_was_closed(folder: Path) -> None:
    writer = open_live(folder, writable=True)
    changes = writer.transaction()

    def change() -> None:
        with changes:
            changes["a"] = weights(1)
            writer.close()

    with pytest.raises(InvalidStateError, match="closed"):
        change()
    assert open_live(folder).sequence == 0


def test_an_exception_in_a_with_block_closes_the_bank(folder: Path) -> None:
    writer = open_live(folder, writable=True)
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError
    assert "closed" in repr(writer)


def test_closing_while_others_predict(folder: Path) -> None:
    bank = open_live(folder)
    expected = bank.predict(["a", "b"], [X, X])
    errors: list[BaseException] = []
    began = threading.Barrier(5)

    def predict() -> None:
        began.wait()
        try:
            while True:
                np.testing.assert_array_equal(bank.predict(["a", "b"], [X, X]), expected)
        except InvalidStateError:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    began.wait()
    bank.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
