"""Recent changes: what followers read in the head is what the index says, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live_folders import KEYS, X, change_index, live, open_live, some_bank, value, weights
from mlpbank import Bank, BankFileError, LiveBank
from mlpbank.files import _live_folder
from mlpbank.files._live_index import Index, Writing

PAGE, ENTRIES, ENTRY = 4096, 1024, 128


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """While this list has an item, reading an index fails."""
    is_on: list[str] = []
    read = Index.read

    def refuse(self: Index, *args: Any) -> Any:
        assert not is_on, "expected nothing to be read in the index"
        return read(self, *args)

    monkeypatch.setattr(Index, "read", refuse)
    return is_on


def all_of(bank: LiveBank) -> dict[str, Any]:
    """Return all that a bank knows of its models."""
    keys = list(bank)
    return {
        "sequence": bank.sequence,
        "keys": keys,
        "infos": [bank.info(key) for key in keys],
        "handles": bank.handles(keys).tolist(),
        "answers": bank.predict(keys, np.tile(X, (len(keys), 1))).tolist(),
    }


def two(folder: Path) -> tuple[LiveBank, LiveBank]:
    """Return a writer and a follower, which have taken over a first change."""
    writer, follower = open_live(folder, writable=True), open_live(folder)
    writer["a"] = weights(1)
    assert value(follower, "a") == 1
    return writer, follower


@pytest.mark.parametrize("kind", KEYS)
def test_changes_are_followed_without_the_index(
    tmp_path: Path, no_index: list[str], kind: str, layout: Any
) -> None:
    folder, (a, b, c, d) = tmp_path / "bank.live", KEYS[kind]
    some_bank(3, kind, layout=layout).save(folder, live=True)
    writer, follower = open_live(folder, writable=True), open_live(folder)
    no_index.append("")
    writer[a] = weights(1)
    assert value(follower, a) == 1
    writer.add(b, weights(2), version="zwei")
    assert value(follower, b) == 2
    with writer.transaction() as changes:
        del changes[c]
        changes[d] = weights(3)
        changes.add(a, weights(4), version="é" * 10)
    assert [value(follower, key) for key in (a, b, d)] == [4, 2, 3]
    assert c not in follower
    del writer[d]
    writer[c] = weights(5)
    seen = all_of(follower)
    no_index.clear()
    assert seen == all_of(open_live(folder)) == all_of(writer)


def test_new_segments_are_followed_without_the_index(
    tmp_path: Path, no_index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_folder, "_LEAST_SEGMENT", 4096)
    folder = tmp_path / "bank.live"
    some_bank(3, layout="panel").save(folder, live=True)
    writer, follower = open_live(folder, writable=True, sync="off"), open_live(folder)
    no_index.append("")
    for i in range(200):
        writer["a"] = weights(i)
        assert value(follower, "a") == i
    assert len(_live_folder.segments_of(folder)) > 3
    no_index.clear()
    assert all_of(follower) == all_of(open_live(folder))


def test_a_segment_of_another_folder_is_never_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is moved away and goes on there, and another one takes its place."""
    monkeypatch.setattr(_live_folder, "_LEAST_SEGMENT", 4096)
    path, moved = tmp_path / "bank.live", tmp_path / "moved.live"
    some_bank(3, layout="panel").save(path, live=True)
    follower = open_live(path)
    path.rename(moved)
    some_bank(3, layout="panel").save(path, live=True)
    with open_live(path, writable=True, sync="off") as other:
        for i in range(100):
            other["a"] = weights(-i)
    writer, first = open_live(moved, writable=True, sync="off"), open_live(moved)
    for i in range(100):
        writer["a"] = weights(i)
        assert value(first, "a") == i  # compares the blocks for all
    for _ in range(2):
        with pytest.raises(BankFileError, match="another one in its place"):
            value(follower, "a")


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_what_the_head_cannot_tell_is_read_in_the_index(tmp_path: Path, layout: Any) -> None:
    folder = tmp_path / "bank.live"
    some_bank(3, layout=layout).save(folder, live=True)
    writer, follower = open_live(folder, writable=True, sync="off"), open_live(folder)
    late = open_live(folder, refresh="manual")

    def check(change: Callable[[], object]) -> None:
        change()
        assert all_of(follower) == all_of(open_live(folder)) == all_of(writer)
        assert follower.metadata == writer.metadata
        assert follower.fallback == writer.fallback

    check(lambda: writer.add("a", weights(1)))
    check(lambda: writer.add("k" * 57, weights(2)))
    check(lambda: writer.add("a", weights(3), version="v" * 56))
    check(lambda: writer.update({f"many {i}": weights(i) for i in range(ENTRIES + 1)}))
    check(lambda: writer.update({f"many {i}": weights(-i) for i in range(3 * ENTRIES)}))
    check(lambda: setattr(writer, "metadata", {"note": 1}))
    check(lambda: setattr(writer, "fallback", "a"))
    check(lambda: writer.add("b", weights(4)))
    check(writer.compact)
    check(lambda: writer.add("b", weights(5)))
    check(writer.clear)
    check(lambda: writer.add("c", weights(6)))
    assert late.refresh() == writer.sequence
    assert all_of(late) == all_of(follower)


def test_a_change_that_was_not_committed_is_not_seen(
    tmp_path: Path, no_index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is there, until that of the change which is made instead."""
    folder = tmp_path / "bank.live"
    some_bank(3).save(folder, live=True)
    writer, follower = two(folder)
    other = open_live(folder, writable=True)
    value(other, "a")

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Writing, "commit_now", property(lambda self: fail))
        with pytest.raises(OSError, match="disk I/O error"):
            writer.update({"a": weights(7), "b": weights(8), "new": weights(9)})
    head = (folder / "head").read_bytes()
    assert int.from_bytes(head[PAGE + 2 * ENTRY :][:8], "little") == 2
    assert value(follower, "a") == value(writer, "a") == 1
    no_index.append("")
    other["b"] = weights(2)
    assert [value(follower, key) for key in ("a", "b")] == [1, 2]
    assert "new" not in follower
    assert follower.sequence == 2
    no_index.clear()
    other.metadata = {"in place of": "the second"}
    assert value(follower, "b") == 2
    assert (follower.sequence, follower.metadata) == (3, {"in place of": "the second"})


def test_an_entry_that_is_damaged_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "bank.live"
    some_bank(3).save(folder, live=True)
    writer = open_live(folder, writable=True, sync="off")
    writer["a"] = weights(0)
    rng = np.random.default_rng(2)
    for i in range(60):
        follower = open_live(folder)
        writer["a"] = weights(i)
        with open(folder / "head", "r+b") as file:
            file.seek(PAGE + writer.sequence % ENTRIES * ENTRY + int(rng.integers(64)))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ int(rng.integers(1, 256))]))
        assert value(follower, "a") == i
        follower.close()


def test_a_block_is_compared_by_one_process_for_all(tmp_path: Path) -> None:
    """Damage that comes before is found by all."""
    folder = tmp_path / "bank.live"
    some_bank(3).save(folder, live=True)
    writer = open_live(folder, writable=True)
    followers = [open_live(folder) for _ in range(2)]
    writer["a"] = weights(0)
    assert [value(follower, "a") for follower in followers] == [0, 0]

    def is_checked() -> bool:
        entry = (folder / "head").read_bytes()[PAGE + writer.sequence % ENTRIES * ENTRY :]
        return int.from_bytes(entry[64:72], "little") == writer.sequence

    writer["a"] = weights(1)
    assert not is_checked()
    assert value(followers[0], "a") == 1
    assert is_checked()
    assert value(followers[1], "a") == 1
    writer["a"] = weights(2)
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        (offset,) = connection.execute("SELECT max(offset) FROM changes").fetchone()
    with open(folder / "blocks-000001.bin", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    for follower in followers:
        with pytest.raises(BankFileError, match="do not have CRC-32"):
            value(follower, "a")
    assert not is_checked()


def test_nothing_is_believed_of_a_time_before(tmp_path: Path) -> None:
    """What is in the head when a folder is opened may be of changes that were lost."""
    folder, other = tmp_path / "bank.live", tmp_path / "other.live"
    for place in (folder, other):
        some_bank(3).save(place, live=True)
    with open_live(other, writable=True) as writer:
        for i in range(20):
            writer.update({"a": weights(100 + i), "lost": weights(200 + i)})
    with open_live(folder, writable=True) as writer:
        writer["b"] = weights(1)
        writer["b"] = weights(2)
    page = (folder / "head").read_bytes()[:PAGE]
    (folder / "head").write_bytes(page + (other / "head").read_bytes()[PAGE:])
    follower, writer = open_live(folder), open_live(folder, writable=True)
    assert "lost" not in follower
    for i in range(3, 30):
        before = follower.predict("a", X)
        writer["b"] = weights(i)
        assert value(follower, "b") == i
        np.testing.assert_array_equal(follower.predict("a", X), before)
    assert all_of(follower) == all_of(open_live(folder))


def test_a_look_at_the_index_that_is_late_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take over recent changes while a thread reads the index."""
    folder = tmp_path / "bank.live"
    some_bank(3).save(folder, live=True)
    writer, follower = two(folder)
    about_of = Index._about

    def late(self: Index, connection: Any) -> Any:
        about = about_of(self, connection)
        if self is follower._follower.index:
            writer.update({"b": weights(2), "new": weights(3)})
            assert value(follower, "b") == 2
        return about

    with monkeypatch.context() as patch:
        patch.setattr(Index, "_about", late)
        assert follower.refresh() == writer.sequence == 3
    assert all_of(follower) == all_of(open_live(folder))


@pytest.mark.parametrize("size", [0, 24, 4095, 4097, PAGE + ENTRIES * ENTRY - 1, 200_000])
def test_heads_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "bank.live"
    some_bank(3).save(folder, live=True)
    path = folder / "head"
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    with pytest.raises(BankFileError, match=r"head: expected 135168 bytes \(or 4096"):
        Bank.open(folder)


def test_a_folder_without_room_is_followed_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_folder, "HEAD_BYTES", PAGE)
    some_bank(3).save(tmp_path / "bank.live", live=True)
    assert (tmp_path / "bank.live" / "head").stat().st_size == PAGE
    monkeypatch.undo()
    writer, follower = (
        open_live(tmp_path / "bank.live", writable=True),
        open_live(tmp_path / "bank.live"),
    )
    for i in range(5):
        writer["a"] = weights(i)
        assert value(follower, "a") == i
    copy = live(Bank.open(tmp_path / "bank.live"))
    copy.save(tmp_path / "copy.live", live=True)
    assert (tmp_path / "copy.live" / "head").stat().st_size == PAGE + ENTRIES * ENTRY
    change_index(tmp_path / "bank.live", "DELETE FROM changes WHERE sequence = 5")
    with pytest.raises(BankFileError):
        Bank.open(tmp_path / "bank.live")
