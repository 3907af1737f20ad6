"""Saves that end too early, by a full disk or a kill, leave the old or the new file, whole."""

from __future__ import annotations

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bank_files import make_bank, to_bytes
from cases import RunProgram
from mlpbank.files import _mapped


class FullDisk:
    """A file for which there is room for some bytes only."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        written: int = self.file.write(memoryview(data).cast("B")[: max(self.room, 0)])
        self.room -= size
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("exists", [True, False])
def test_no_room_for_all_of_a_file(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank"
    bank = make_bank(40, 1)
    if exists:
        make_bank(30, 0).save(path)
    before = path.read_bytes() if exists else b""
    size = len(to_bytes(bank))
    real = open
    monkeypatch.setattr(_mapped, "_WRITE_BYTES", 1000)
    rooms = np.linspace(0, size - 1, 60).astype(int).tolist()
    for room in rooms:

        def full(name: Any, mode: str = "r", *, left: int = room, **options: Any) -> Any:
            file = real(name, mode, **options)
            return FullDisk(file, left) if mode == "xb" else file

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", full)
            with pytest.raises(OSError, match="No space left on device"):
                bank.save(path)
        assert os.listdir(tmp_path) == (["bank"] if exists else [])
        assert not exists or path.read_bytes() == before
    bank.save(path)
    assert path.read_bytes() == to_bytes(bank)


@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank"
    if exists:
        make_bank(30, 0).save(path)
    before = path.read_bytes() if exists else b""

    def interrupted(file: Any, *_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_mapped, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_bank(40, 1).save(path)
    assert os.listdir(tmp_path) == (["bank"] if exists else [])
    assert not exists or path.read_bytes() == before


def test_writes_that_the_system_refuses(tmp_path: Path, run_program: RunProgram) -> None:
    run_program("refused_writes", tmp_path)


@pytest.mark.parametrize("when", ["any_moment", pytest.param("every_step", marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, run_program: RunProgram, when: str) -> None:
    run_program("killed_saves", tmp_path, when, timeout=600)
