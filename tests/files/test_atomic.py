"""The one way in which files are written: complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlpbank.files._atomic import atomic_writer


def write(path: Path, data: bytes) -> None:
    with atomic_writer(path) as file:
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A written file."""
    path = tmp_path / "file"
    write(path, b"old")
    return path


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_breaks_off_leaves_the_old_file_and_nothing_else(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new" * 1000)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_file_and_folder_are_synced_around_the_rename(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    synced = b""

    def record_fsync(descriptor: int) -> None:
        nonlocal synced
        link = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(link):
            calls.append("fsync folder")
        else:
            calls.append("fsync file")
            # Through another descriptor, which does not see what waits in the file's buffer.
            synced = Path(link).read_bytes()
        fsync(descriptor)

    def record_replace(source: str, target: str) -> None:
        assert os.path.dirname(source) == os.path.dirname(target)
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write(path, b"new" * 1000)
    assert calls == ["fsync file", "fsync folder", "replace", "fsync folder"]
    assert synced == path.read_bytes()


def test_little_that_is_written_is_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes would stay in the file object's buffer; large writes go past it."""
    seen: list[bytes] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            seen.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with atomic_writer(tmp_path / "small") as file:
        file.write(b"few")
    assert seen == [b"few"]
    assert (tmp_path / "small").read_bytes() == b"few"


def test_saving_over_a_link_keeps_the_link(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "direct").symlink_to(path)
    (folder / "link").symlink_to("direct")
    (folder / "dangling").symlink_to(tmp_path / "new")
    for link, target in ((folder / "link", path), (folder / "dangling", tmp_path / "new")):
        with atomic_writer(link) as file:
            file.write(b"new")
        assert link.is_symlink()
        assert not target.is_symlink()
        assert target.read_bytes() == b"new"
    assert sorted(os.listdir(folder)) == ["dangling", "direct", "link"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(path: Path, mode: int) -> None:
    path.chmod(mode)
    with atomic_writer(path) as file:
        assert os.fstat(file.fileno()).st_mode & 0o7777 == mode  # before anything is in it
        file.write(b"new")
    assert path.stat().st_mode & 0o7777 == mode


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with (
            pytest.raises(OSError, match="expected a regular file to replace"),
            atomic_writer(tmp_path / name),
        ):
            pass
    for name in ("none/", "none/file"):
        with pytest.raises(FileNotFoundError), atomic_writer(f"{tmp_path}/{name}"):
            pass
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    "letter", ["b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{AIRPLANE}", "\N{GRINNING FACE}"]
)
def test_the_longest_names_can_be_saved(tmp_path: Path, letter: str) -> None:
    for size in (200, 240, 255):
        count, rest = divmod(size, len(letter.encode()))
        path = tmp_path / (letter * count + "x" * rest)
        assert len(os.fsencode(path.name)) == size
        for _ in range(2):
            write(path, b"new" * 1000)
        assert path.read_bytes() == b"new" * 1000


def test_a_new_file_has_the_permissions_of_any_other(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
