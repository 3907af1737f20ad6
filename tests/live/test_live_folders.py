"""Where a live folder may lie, under which names, and what happens when it moves."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from live_folders import ARCHITECTURE, X, live_folder, open_live, some_bank, value, weights
from mlpbank import Bank, BankFileError, InvalidValueError
from mlpbank.bank import _live_verify
from mlpbank.files import _live_folder

NAMES = [
    "with spaces",
    "100%",
    "a%20b%3Fc",
    "x#y",
    "what?",
    "a&b=c;d",
    "ünïcödé 漢字 🙂",
    "-dash",
    "'quotes' and \"more\"",
    "back\\slash",
    "new\nline",
    "file:name",
    "index.sqlite",
    "x" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "bank.live"
    folder.parent.mkdir()
    some_bank(3).save(folder, live=True)
    with open_live(folder, writable=True) as writer:
        follower = open_live(str(folder))
        writer["a"] = weights(1)
        writer.compact()
        writer["b"] = weights(2)
        assert (value(follower, "a"), value(follower, "b")) == (1, 2)
        assert follower.path == str(folder)
        assert value(pickle.loads(pickle.dumps(follower)), "b") == 2
    assert _live_verify.verify(folder).left_over == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.live"))
    some_bank(3).save(folder, live=True)
    with open_live(folder, writable=True) as writer:
        writer["a"] = weights(1)
        assert value(open_live(folder), "a") == 1


def test_a_relative_path_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    some_bank(3).save("bank.live", live=True)
    writer, follower = open_live(Path("bank.live"), writable=True), open_live(Path("bank.live"))
    monkeypatch.chdir(tmp_path / "there")
    writer["a"] = weights(1)
    writer.compact()
    writer["b"] = weights(2)
    assert (value(follower, "a"), value(follower, "b")) == (1, 2)
    assert value(pickle.loads(pickle.dumps(follower)), "a") == 1
    assert os.listdir(tmp_path / "there") == []
    assert os.path.isabs(follower.path)


@pytest.mark.parametrize("form", [str, Path])
def test_forms_of_a_path(tmp_path: Path, form: Any) -> None:
    some_bank(3).save(form(tmp_path / "bank.live"), live=True)
    with Bank.open(form(tmp_path / "bank.live"), writable=True) as bank:  # type: ignore[attr-defined]
        bank["a"] = weights(1)
        assert value(bank, "a") == 1


def test_symbolic_links(tmp_path: Path) -> None:
    """Two ways to one folder are one bank."""
    folder = tmp_path / "real" / "bank.live"
    folder.parent.mkdir()
    some_bank(3).save(folder, live=True)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "above").symlink_to(folder.parent)
    ways = [folder, tmp_path / "link", tmp_path / "above" / "bank.live"]
    banks = [open_live(way, writable=True) for way in ways]
    for i, bank in enumerate(banks):
        bank["a"] = weights(i)
        assert [value(other, "a") for other in banks] == [i] * 3
    banks[1].compact()
    banks[2]["b"] = weights(9)
    assert [value(other, "b") for other in banks] == [9] * 3
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        Bank.open(tmp_path / "broken")
    with pytest.raises(FileExistsError):
        some_bank(3).save(tmp_path / "link", live=True)


def test_what_is_no_live_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(BankFileError, match=r"got a folder without index\.sqlite"):
        Bank.open(tmp_path / "empty")
    with pytest.raises(BankFileError, match="expected a bank file"):
        Bank.open(tmp_path / "file")
    for how in ({}, {"writable": True}):
        with pytest.raises((FileNotFoundError, InvalidValueError)):
            Bank.open(tmp_path / "none", **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_where_a_folder_is_made(tmp_path: Path) -> None:
    bank = some_bank(3)
    (tmp_path / "empty").mkdir()
    bank.save(tmp_path / "empty", live=True)
    assert len(Bank.open(tmp_path / "empty")) == 3
    bank.save(tmp_path / "slash/", live=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    bank.save(tmp_path / "bank.mlpbank")
    for name, what in (
        ("full", "something else"),
        ("file", "something else"),
        ("bank.mlpbank", "something else"),
        ("empty", "a live bank"),
    ):
        with pytest.raises(FileExistsError, match=f"expected a new folder, there is {what}"):
            bank.save(tmp_path / name, live=True)
    with pytest.raises(FileNotFoundError, match="none"):
        bank.save(tmp_path / "none" / "bank.live", live=True)
    with pytest.raises(OSError, match="regular file"):
        bank.save(tmp_path / "empty")  # a file in the place of the folder
    assert len(Bank.open(tmp_path / "empty")) == 3
    assert (tmp_path / "full" / "notes").read_text() == "mine"
    names = ["bank.mlpbank", "empty", "file", "full", "slash"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_folder_that_is_moved_or_replaced(tmp_path: Path) -> None:
    """Nothing goes into the folder that now has the name, and nothing is lost without an error."""
    folder, other = live_folder(tmp_path / "bank.live"), live_folder(tmp_path / "other.live")
    writer, follower = open_live(folder, writable=True), open_live(folder)
    manual = open_live(folder, refresh="manual")
    writer["b"] = weights(5)
    assert value(follower, "b") == 5
    folder.rename(tmp_path / "moved")
    for call in (
        lambda: writer.__setitem__("b", weights(6)),
        lambda: setattr(writer, "metadata", {}),
        writer.compact,
        follower.refresh,
    ):
        with pytest.raises(FileNotFoundError, match=r"bank\.live"):
            call()
    assert value(follower, "b") == 5  # what it had taken over before
    other.rename(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for call in (
        lambda: writer.__setitem__("b", weights(6)),
        lambda: setattr(writer, "metadata", {}),
        writer.compact,
        follower.refresh,
        manual.refresh,
    ):
        with pytest.raises(BankFileError, match="got another one in its place; open it again"):
            call()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert value(open_live(tmp_path / "moved"), "b") == 5
    with open_live(folder, writable=True) as again:
        again["b"] = weights(7)
    folder.rename(tmp_path / "other.live")
    (tmp_path / "moved").rename(folder)
    writer["b"] = weights(8)
    assert (value(follower, "b"), value(open_live(tmp_path / "other.live"), "b")) == (8, 7)


def test_a_folder_that_is_removed(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    writer, follower = open_live(folder, writable=True), open_live(folder)
    shutil.rmtree(folder)
    assert value(follower, "b") == 4
    with pytest.raises(FileNotFoundError):
        writer["b"] = weights(1)
    with pytest.raises(FileNotFoundError):
        follower.refresh()
    assert not folder.exists()


def test_a_copy_is_a_bank_of_its_own(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    with open_live(folder, writable=True):
        pass
    shutil.copytree(folder, tmp_path / "copy.live")
    one, copy = open_live(folder, writable=True), open_live(tmp_path / "copy.live", writable=True)
    one["b"], copy["b"] = weights(1), weights(2)
    assert (value(one, "b"), value(copy, "b")) == (1, 2)
    assert _live_verify.verify(tmp_path / "copy.live").changes == 7


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw
30 22 0:40 / {root}/nfs rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
31 22 0:41 / {root}/with\\040space rw,relatime - cifs //server/share rw
32 30 8:2 / {root}/nfs/local rw,relatime - xfs /dev/sdb1 rw
33 22 0:42 / {root}/fuse rw shared:7 master:1 - fuse.sshfs host:/ rw
34 22 0:43 / {root}/twice rw - nfs server:/x rw
35 22 8:3 / {root}/twice rw - ext4 /dev/sdc1 rw
36 22 0:44 / {root}/9 rw - 9p share rw
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which some places are said to be on file systems of the network."""
    root = tmp_path / "root"
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(root=root))
    for name in ("nfs", "with space", "nfs/local", "fuse", "twice", "9", "nfsx"):
        (root / name).mkdir(parents=True)
    real = _live_folder.file_system
    monkeypatch.setattr(_live_folder, "file_system", lambda path: real(path, str(table)))
    return root


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("nfs", "nfs4"),
        ("nfs/local", None),
        ("nfsx", None),  # only its name begins so
        ("with space", "cifs"),
        ("fuse", "fuse.sshfs"),
        ("twice", None),  # of two mounts on one place the last is there
        ("9", "9p"),
        (".", None),
    ],
)
def test_network_file_systems_are_refused(
    tmp_path: Path, mounts: Path, place: str, kind: str | None
) -> None:
    made = live_folder(tmp_path / "made.live")
    folder = mounts / place / "bank.live"
    if kind is None:
        some_bank(3).save(folder, live=True)
        assert len(Bank.open(folder)) == 3
        return
    for call in (
        lambda: some_bank(3).save(folder, live=True),
        lambda: Bank(ARCHITECTURE).save(folder, live=True),
    ):
        with pytest.raises(InvalidValueError, match=f"expected a local file system .* got {kind}"):
            call()
    assert not folder.exists()
    shutil.copytree(made, folder)
    (tmp_path / "link").symlink_to(folder)
    for way in (folder, tmp_path / "link"):
        for how in ({}, {"writable": True}, {"refresh": "manual"}):
            with pytest.raises(InvalidValueError, match="mlpbank create"):
                Bank.open(way, **how)
    from mlpbank.cli import main

    assert main(["create", str(folder), str(tmp_path / "local.live")]) == 0
    with open_live(tmp_path / "local.live", writable=True) as local:
        assert value(local, "b") == 4
    assert main(["verify", str(folder)]) == 0
    assert main(["compact", str(folder)]) == 2


def test_without_a_table_of_mounts_a_folder_is_taken_as_local(tmp_path: Path) -> None:
    assert _live_folder.file_system(tmp_path, str(tmp_path / "none")) == ""
    (tmp_path / "table").write_text("no\nsuch table - at all\n\n")
    assert _live_folder.file_system(tmp_path, str(tmp_path / "table")) == ""
    assert _live_folder.file_system(Path("/proc")) == "proc"


def test_a_running_bank_asks_for_nothing_new(tmp_path: Path) -> None:
    """Files of other names in a folder do not matter, and stay."""
    folder = live_folder(tmp_path / "bank.live")
    for name in ("notes.txt", "base-x.mlpbank", "blocks-1.bin", ".hidden"):
        (folder / name).write_text("mine")
    (folder / "subfolder").mkdir()
    with open_live(folder, writable=True) as writer:
        writer.compact()
        assert value(writer, "b") == 4
        assert writer.predict("b", X).tolist() == [4, 4]
    for name in ("notes.txt", "base-x.mlpbank", "blocks-1.bin", ".hidden", "subfolder"):
        assert (folder / name).exists()
