"""Saving and opening where the file system cannot do what a local disk can."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from bank_files import make_bank
from mlpbank import Bank, BankFileError
from mlpbank.cli import main
from mlpbank.files._atomic import atomic_writer


def failing(code: int, folders: bool | None = None) -> Any:
    """Return an os.fsync that fails for folders, for files or for both."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        if folders is None or folders == is_folder:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    return fsync


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bank"
    path.write_bytes(b"old")
    return path


def save(path: Path, data: bytes = b"new") -> None:
    with atomic_writer(path) as file:
        file.write(data)


@pytest.mark.parametrize(
    "code",
    ["EINVAL", "EOPNOTSUPP", "EPERM", "EACCES", "EBADF", "ENOSYS", "EISDIR", "EROFS"],
)
def test_a_folder_that_cannot_be_synced(
    path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, code), folders=True))
    save(path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("code", ["EINVAL", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_sync(path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, code)))
    save(path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("folders", [False, True])
def test_lost_data_is_an_error_with_the_path_and_the_old_file(
    path: Path, code: str, folders: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, code), folders))
    with pytest.raises(OSError, match=str(path)) as caught:
        save(path)
    assert caught.value.errno == getattr(errno, code)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_nothing_fails_after_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        monkeypatch.setattr(os, "fsync", failing(errno.EIO))

    monkeypatch.setattr(os, "replace", replace)
    save(path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["fchmod", "fchown"])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL])
def test_mode_and_owner_are_kept_where_that_is_possible(
    path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.chmod(0o600)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, refuse)
    if name == "fchown" and os.getuid() == 0:
        os.chown(path, 12345, 12345)
    save(path)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o077 == 0  # never open to more than before


def test_root_keeps_the_owner(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user without other processes")
    os.chown(path, 12345, 54321)
    save(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
def test_a_file_that_is_mounted_by_itself(
    path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="mount its folder instead") as caught:
        save(path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_an_error_tells_the_users_path_and_not_that_of_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError) as caught:
        save(tmp_path / "new")
    assert caught.value.filename == str(tmp_path / "new")


class Sequential:
    """A file on a mount where going back fails."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> Sequential:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("seek", "truncate"):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return getattr(self._file, name)


def test_files_are_written_from_the_beginning_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, real = make_bank(30, 0), open

    def sequential(name: Any, mode: str = "r", **options: Any) -> Any:
        file = real(name, mode, **options)
        return Sequential(file) if mode == "xb" else file

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", sequential)
        bank.save(tmp_path / "bank")
        bank.to_safetensors(tmp_path / "plain")
    assert list(Bank.open(tmp_path / "bank")) == list(bank)
    assert list(Bank.from_safetensors(tmp_path / "plain")) == list(bank)
    assert main(["verify", str(tmp_path / "bank")]) == 0


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_map(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, path = make_bank(5, 0), tmp_path / "bank"
    bank.save(path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="mmap=False") as caught:
        Bank.open(path)
    assert caught.value.filename == str(path)
    assert list(Bank.open(path, mmap=False)) == list(bank)
    assert main(["inspect", str(path)]) == 0  # the command line reads it
    assert "models" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"\x93NUMPY\1\0" + bytes(100), "NumPy"),
        (b"\x80\x04\x95" + b"\xff" * 100, "pickle"),
        (b"", "empty file"),
        ("hello, Größe".encode(), "text that begins with 'hello, Größe'"),
        (bytes(5000), "zeros"),
        (
            b'\x3a\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            "safetensors",
        ),
    ],
)
def test_what_is_no_bank_is_told_in_words(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bank"
    path.write_bytes(data)
    with pytest.raises(BankFileError, match=words) as caught:
        Bank.open(path)
    assert str(caught.value).startswith(f"{path}: expected a bank file, got ")
