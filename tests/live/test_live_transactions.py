"""Transactions of a live bank: all or nothing, seen when they are done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live_folders import (
    X,
    open_live,
    some_bank,
    value,
    weights,
)
from mlpbank import (
    InvalidStateError,
    InvalidTypeError,
    UnknownModelError,
)
from mlpbank.files import _live_folder

pytestmark = pytest.mark.usefixtures("followed")


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """A folder with the models a, b and c, in each layout."""
    some_bank(3, layout=layout).save(tmp_path / "bank.live", live=True)
    return tmp_path / "bank.live"


def test_sequence_and_revisions(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    assert writer.sequence == follower.sequence == 0
    writer["a"] = weights(1)
    assert (follower.info("a").revision, follower.sequence) == (2, 1)
    with writer.transaction() as changes:
        changes.update({"a": weights(2), "d": weights(2), "e": weights(2)})
        del changes["b"]
        assert len(changes) == 4
        assert changes.sequence is None
    assert changes.sequence == follower.sequence == writer.sequence == 5
    writer.metadata = {"note": 1}
    writer.fallback = "a"
    assert follower.sequence == 7
    writer.compact()
    assert follower.sequence == 8
    assert follower.refresh() == 8


def test_a_transaction_is_seen_when_it_is_done(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    before = follower.predict(["a", "b", "c"], [X] * 3)
    with writer.transaction() as changes:
        changes["a"] = weights(1)
        changes["new"] = weights(2)
        del changes["b"]
        assert "new" in changes
        assert "b" not in changes
        assert "c" in changes
        for bank in (writer, follower):
            np.testing.assert_array_equal(bank.predict(["a", "b", "c"], [X] * 3), before)
            assert "new" not in bank
    for bank in (writer, follower):
        assert (value(bank, "a"), value(bank, "new"), "b" in bank) == (1, 2, False)


def test_an_exception_undoes_a_transaction(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    files = sorted(path.name for path in folder.iterdir())

    def change(then: Callable[[Any], Any]) -> None:
        with writer.transaction() as changes:
            changes["a"] = weights(1)
            del changes["b"]
            then(changes)

    with pytest.raises(ZeroDivisionError):
        change(lambda _: 1 // 0)
    with pytest.raises(ValueError, match="layer_1"):
        change(lambda changes: changes.add("c", {**weights(1), "layer_1": np.zeros((9, 9))}))
    with pytest.raises(UnknownModelError):
        change(lambda changes: changes.__delitem__("none"))
    assert (writer.sequence, follower.sequence) == (0, 0)
    assert sorted(follower) == ["a", "b", "c"]  # type: ignore[type-var]
    assert sorted(path.name for path in folder.iterdir()) == files
    writer["a"] = weights(1)
    assert value(follower, "a") == 1


def test_a_mistake_that_was_caught_leaves_the_rest(folder: Path) -> None:
    writer = open_live(folder, writable=True)
    with writer.transaction() as changes:
        changes["a"] = weights(1)
        with pytest.raises(ValueError, match="layer_1"):
            changes["a"] = {**weights(2), "layer_1": np.zeros((9, 9))}
        with pytest.raises(UnknownModelError):
            del changes["none"]
        with pytest.raises(InvalidTypeError, match="key"):
            changes[7] = weights(3)
    assert (value(writer, "a"), len(writer), writer.sequence) == (1, 3, 1)


def test_one_key_many_times_in_a_transaction(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    handles = {key: follower.handles([key]) for key in "abc"}
    with writer.transaction() as changes:
        del changes["a"]  # and another model comes in its place
        changes["a"] = weights(1)
        changes["b"] = weights(2)  # goes after all
        del changes["b"]
        changes["new"] = weights(3)  # comes and goes
        del changes["new"]
        changes["c"] = weights(4)
        changes.add("c", weights(5), version="last")
        with pytest.raises(UnknownModelError):
            del changes["b"]
        assert "a" in changes
        assert "b" not in changes
        assert "new" not in changes
        assert len(changes) == 3
    assert (value(follower, "a"), value(follower, "c")) == (1, 5)
    assert sorted(follower) == ["a", "c"]  # type: ignore[type-var]
    assert (follower.info("a").revision, follower.info("c").revision) == (1, 2)
    assert follower.info("c").version == "last"
    for key in "ab":  # of models that were removed
        with pytest.raises(UnknownModelError):
            follower.predict_handles(handles[key], X[None])
    assert follower.predict_handles(handles["c"], X[None]).tolist() == [[5, 5]]
    again = open_live(folder)
    assert (value(again, "a"), value(again, "c"), len(again)) == (1, 5, 2)


def test_an_empty_transaction_changes_nothing(folder: Path) -> None:
    writer = open_live(folder, writable=True)
    writer["a"] = weights(1)
    with writer.transaction() as changes:
        pass
    assert (changes.sequence, writer.sequence) == (1, 1)
    with writer.transaction() as changes:
        changes["new"] = weights(1)
        del changes["new"]
    assert (len(changes), writer.sequence) == (0, 1)
    writer.update({})
    assert writer.sequence == 1


def test_a_transaction_is_for_one_block(folder: Path) -> None:
    writer = open_live(folder, writable=True)
    changes = writer.transaction()
    for call in (
        lambda: changes.add("a", weights(1)),
        lambda: changes.__delitem__("a"),
        lambda: changes.update({"a": weights(1)}),
    ):
        with pytest.raises(InvalidStateError, match="inside its with block"):
            call()
    with changes:
        changes["a"] = weights(1)
        with pytest.raises(InvalidStateError, match="a new one for each"), changes:
            pass
    with pytest.raises(InvalidStateError, match="a new one for each"), changes:
        pass
    with pytest.raises(InvalidStateError, match="inside its with block"):
        changes["a"] = weights(2)
    assert value(writer, "a") == 1


def test_transactions_inside_each_other_are_independent(folder: Path) -> None:
    """The inner one is done first; the outer one then wins where both change a model."""
    writer = open_live(folder, writable=True)
    with writer.transaction() as outer:
        outer["a"] = weights(1)
        outer["b"] = weights(1)
        with writer.transaction() as inner:
            inner["b"] = weights(2)
            inner["c"] = weights(2)
        assert (value(writer, "b"), value(writer, "c")) == (2, 2)
        writer["c"] = weights(3)
    assert [value(writer, key) for key in "abc"] == [1, 1, 3]

    def remove_twice() -> None:
        with writer.transaction() as outer:
            outer["a"] = weights(9)
            del outer["b"]
            del writer["b"]

    with pytest.raises(UnknownModelError, match="'b'"):
        remove_twice()
    assert (value(writer, "a"), "b" in writer) == (1, False)


def test_what_others_changed_meanwhile(folder: Path) -> None:
    one, other = open_live(folder, writable=True), open_live(folder, writable=True)
    with one.transaction() as changes:
        changes["new"] = weights(1)
        changes["a"] = weights(1)
        other["new"] = weights(2)
        del other["a"]
        other.compact()
    assert (value(other, "new"), value(other, "a")) == (1, 1)
    assert (other.info("new").revision, other.info("a").revision) == (2, 1)
    before = one.predict("c", X)

    def remove_twice() -> None:
        with one.transaction() as changes:
            changes["c"] = weights(5)
            del changes["b"]
            del other["b"]

    with pytest.raises(UnknownModelError, match="'b'"):
        remove_twice()
    np.testing.assert_array_equal(other.predict("c", X), before)


def used(folder: Path, number: int = 1) -> int:
    """Return up to where a segment has been written to; the rest is only set aside."""
    with (folder / f"blocks-{number:06d}.bin").open("rb") as segment:
        return os.lseek(segment.fileno(), 0, os.SEEK_HOLE)


@pytest.mark.parametrize(
    ("block", "base", "expected"),
    [
        (192, 0, 1 << 20),
        (1984, 0, 1 << 20),
        (2048, 0, 512 * 2048),
        (25_408, 25_408_000, 512 * 25_408),  # a thousand of 32-64-64-1
        (32_768, 0, 16 << 20),
        (32_832, 0, 1 << 20),
        (32_832, 400 << 20, 100 << 20),
        (192, 2000 << 20, 256 << 20),
        (300 << 20, 0, 300 << 20),
    ],
)
def test_segments_have_room_for_zeros_ahead(block: int, base: int, expected: int) -> None:
    size = _live_folder.segment_size(block, base)
    assert expected <= size < expected + 4096
    assert size % 4096 == 0


def test_small_transactions_that_wait_find_zeros(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 20
    monkeypatch.setattr(_live_folder, "_LEAST_SEGMENT", size)
    small = folder.with_name("small.live")
    open_live(folder).save(small, live=True)
    folder = small
    zeros: list[int] = []
    pwrite = os.pwrite

    def count(file: int, data: memoryview, offset: int) -> int:
        assert not any(data)
        zeros.append(len(data))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", count)
    monkeypatch.setattr(_live_folder, "_IN_PLACE", (_live_folder.file_system(folder),))
    follower = open_live(folder)
    with open_live(folder, writable=True, sync="off") as writer:
        writer["a"] = weights(1)
    tells = used(folder) < size  # else the file system says that all of it is used
    assert zeros == []
    with open_live(folder, writable=True) as writer:
        for i in range(2, 32):  # past a page, which a file system uses as a whole
            writer["b"] = weights(i)
            assert (value(follower, "a"), value(follower, "b")) == (1, i)
        assert used(folder) == size
        assert size // 2 < sum(zeros) < size if tells else zeros == []
        # Another writer goes on in what is filled.
        with open_live(folder, writable=True) as other:
            other["c"] = weights(7)
        writer["b"] = weights(5)
        assert sum(zeros) < size
        assert [value(follower, key) for key in "abc"] == [1, 5, 7]
        # Many models at once go to the next segment, which stays as it is.
        with writer.transaction() as changes:
            changes.update({f"{i}": weights(i) for i in range(12_000)})
    assert sum(zeros) < size
    with open_live(folder) as bank:
        assert [value(bank, key) for key in ("a", "b", "c", "9")] == [1, 5, 7, 9]


def test_other_file_systems_get_no_zeros(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live_folder, "_IN_PLACE", ("another",))
    monkeypatch.setattr(os, "pwrite", None)
    with open_live(folder, writable=True) as writer:
        for i in range(30):
            writer["a"] = weights(i)
    assert value(open_live(folder), "a") == 29
