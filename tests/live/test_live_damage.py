"""Damaged live folders: a clear error at once, nothing lost, and banks that run go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from live_folders import (
    BASE,
    HEAD,
    REFUSED,
    flipped,
    index,
    live_folder,
    open_live,
    remove,
    rewrite,
    rows,
    weights,
)
from mlpbank import Bank, BankFileError
from mlpbank.bank import _live_verify

X = np.random.default_rng(3).standard_normal((3, 3)).astype(np.float32)
KEYS = ["b", "c", "d"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files but for SQLite's own two, which change with every reader."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_found_when_a_folder_is_opened(tmp_path: Path, name: str) -> None:
    damage, text = REFUSED[name]
    folder = live_folder(tmp_path / "bank.live")
    running = open_live(folder)
    expected = running.predict(KEYS, X)
    damage(folder)
    before = contents(folder)
    for how in ({}, {"writable": True}, {"refresh": "manual"}):
        with pytest.raises((BankFileError, FileNotFoundError)) as caught:
            Bank.open(folder, **how)
        assert str(folder) in str(caught.value)
        assert text in str(caught.value)
        assert len(str(caught.value)) < 600
    with pytest.raises((BankFileError, FileNotFoundError)):
        _live_verify.verify(folder)
    assert contents(folder) == before
    np.testing.assert_array_equal(running.predict(KEYS, X), expected)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        pytest.param(rewrite(BASE, flipped(5000)), "expected CRC-32", id="weights of the base"),
        pytest.param(rows("revision = 0"), "change 3: revision", id="revision"),
        pytest.param(rows("loaded_at = 1e300"), "change 3: loaded_at", id="loaded_at"),
        pytest.param(rows("last = 99"), "change 3: last", id="last of the future"),
        pytest.param(rows("last = 2"), "change 3: last", id="last of the past"),
        pytest.param(rows("last = 3"), "change 3: last", id="last of another transaction"),
        pytest.param(
            index("UPDATE changes SET kind = 'other' WHERE kind = 'describe'"),
            "change 5: kind: expected one of load, remove",
            id="kind",
        ),
        pytest.param(
            index("UPDATE changes SET slot = 1 WHERE kind = 'describe'"),
            "change 5: slot: expected none",
            id="slot of a description",
        ),
        pytest.param(
            index("UPDATE changes SET checksum = 1 WHERE sequence = 1"),
            "the weights of change 1",
            id="block that was replaced since",
        ),
    ],
)
def test_verify_finds_what_opening_does_not(tmp_path: Path, damage: object, text: str) -> None:
    folder = live_folder(tmp_path / "bank.live", layout="lane")
    assert _live_verify.verify(folder).changes == 6
    damage(folder)  # type: ignore[operator]
    with pytest.raises(BankFileError) as caught:
        _live_verify.verify(folder)
    assert text in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("sequence", [1, 3, 6])
def test_a_change_that_is_not_there(tmp_path: Path, sequence: int) -> None:
    folder = live_folder(tmp_path / "bank.live")
    index(f"DELETE FROM changes WHERE sequence = {sequence}")(folder)
    for call in (Bank.open, _live_verify.verify):
        with pytest.raises(BankFileError, match=r"expected (changes|6)|sequence: expected"):
            call(folder)


def test_verify_finds_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    with open_live(folder, writable=True) as writer:
        writer["c"] = weights(np.inf)
    with pytest.raises(BankFileError, match="finite ones, got others in model 'c'"):
        _live_verify.verify(folder)
    with open_live(folder, writable=True) as writer:
        writer["c"] = weights(1)
    assert _live_verify.verify(folder).models == 3


def test_verify_looks_at_the_head(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    assert not _live_verify.verify(folder).is_head_behind
    head = (folder / HEAD).read_bytes()
    (folder / HEAD).write_bytes(head[:16] + (5).to_bytes(8, "little") + head[24:])
    assert _live_verify.verify(folder).is_head_behind
    (folder / HEAD).write_bytes(head[:16] + (7).to_bytes(8, "little") + head[24:])
    with pytest.raises(BankFileError, match=r"expected a number up to 6, .* got 7; opening"):
        _live_verify.verify(folder)
    open_live(folder, writable=True).close()
    assert not _live_verify.verify(folder).is_head_behind


def test_verify_names_what_is_not_in_use(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    assert _live_verify.verify(folder).left_over == []
    names = ["base-000002.mlpbank", "blocks-000007.bin", ".mlpbank.0123456789abcdef.tmp", "notes"]
    for name in names:
        (folder / name).write_bytes(b"x")
    assert _live_verify.verify(folder).left_over == sorted(names)


@pytest.mark.parametrize("name", ["no base", "no segment", "half a segment", "no index"])
def test_a_bank_that_runs_does_not_need_its_files(tmp_path: Path, name: str) -> None:
    """What a bank has mapped it keeps."""
    folder = live_folder(tmp_path / "bank.live")
    follower = open_live(folder)
    expected = follower.predict(KEYS, X)
    REFUSED[name][0](folder)
    np.testing.assert_array_equal(follower.predict(KEYS, X), expected)
    follower.close()


def change_segment(folder: Path) -> None:
    """Change a bit of the block of the last change; once more changes it back."""
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        (offset,) = connection.execute("SELECT max(offset) FROM changes").fetchone()
    with open(folder / "blocks-000001.bin", "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("recent", [True, False])
def test_a_bank_that_runs_keeps_what_it_has(tmp_path: Path, recent: bool) -> None:
    """A change whose block is damaged: an error with every call, until it is put right."""
    folder = live_folder(tmp_path / "bank.live", recent=recent)
    follower, writer = open_live(folder), open_live(folder, writable=True)
    manual = open_live(folder, refresh="manual")
    expected = follower.predict(KEYS, X)
    writer["c"] = weights(9)
    change_segment(folder)
    for _ in range(3):
        with pytest.raises(BankFileError, match=r"blocks-000001\.bin: damaged: the weights of 'c'"):
            follower.predict(KEYS, X)
        with pytest.raises(BankFileError):
            manual.refresh()
        np.testing.assert_array_equal(manual.predict(KEYS, X), expected)
    change_segment(folder)
    assert follower.predict("c", X[0]).tolist() == [9, 9]
    np.testing.assert_array_equal(manual.predict(KEYS, X), expected)
    assert manual.refresh() == 7
    assert manual.predict("c", X[0]).tolist() == [9, 9]


def test_nothing_is_written_into_a_folder_that_is_damaged(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    writer = open_live(folder, writable=True)
    remove("blocks-000001.bin")(folder)
    index("UPDATE bank SET description = 'x', sequence = sequence + 1")(folder)
    index("INSERT INTO changes (sequence, last, kind) VALUES (7, 7, 'describe')")(folder)
    before = contents(folder)
    with pytest.raises(BankFileError):
        writer["c"] = weights(1)
    assert contents(folder) == before
