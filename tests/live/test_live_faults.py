"""A disk that is full or fails: tests/programs/live_faults.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cases import LAYOUTS, RunProgram
from live_models import change, check_all, look, make_folder, opened
from mlpbank.files import _live_folder, _mapped


def test_some_operations_fail(run_under_faults: RunProgram, tmp_path: Path) -> None:
    run_under_faults("live_faults", tmp_path, "lane", 7)


def test_a_change_that_is_made_is_no_error(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its process cannot look at it any more, such as without file descriptors."""
    path = make_folder(tmp_path / "bank", layout, "int", 1)
    bank = opened(path, writable=True)

    def refuse(*_: object, **how: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(_live_folder, "map_segment", refuse)
        change(bank, "int", 0, 1)
        with pytest.raises(OSError, match="Too many open files"):
            look(bank, "int", 0)
    assert check_all(bank, "int", 1) == [1]
    with monkeypatch.context() as patch:
        patch.setattr(_mapped, "open_file", refuse)
        bank.compact()
        with pytest.raises(OSError, match="Too many open files"):
            look(bank, "int", 0)
    assert check_all(bank, "int", 1) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_operation_fails(run_under_faults: RunProgram, tmp_path: Path, layout: str) -> None:
    run_under_faults("live_faults", tmp_path, layout, 1)
