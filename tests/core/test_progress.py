"""Progress bars: a bar with tqdm, one warning without it, and silent commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, convert
from mlpbank.cli import main

ARCHITECTURE = Architecture.mlp(2, 1)
MODELS = {"a": {"layer_0": np.ones((2, 1))}, "b": {"layer_0": np.zeros((2, 1))}}

CALLS: dict[str, Callable[[Path], Any]] = {
    "stack": lambda folder: convert.stack(MODELS, ARCHITECTURE, progress=True),
    "from_models": lambda folder: Bank.from_models(MODELS, ARCHITECTURE, progress=True),
    "save": lambda folder: Bank.from_models(MODELS, ARCHITECTURE).save(
        folder / "new.mlpbank", progress=True
    ),
}


@pytest.fixture
def no_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_without_tqdm_one_warning_says_what_to_install(
    call: Callable[[Path], Any], no_tqdm: None, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="progress=True needs tqdm: pip install tqdm") as found:
        call(tmp_path)
    assert [warning.filename for warning in found] == [__file__]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_with_tqdm_there_is_a_bar(
    call: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    call(tmp_path)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("with_tqdm", [False, True])
def test_commands_show_a_bar_on_a_terminal_and_never_warn(
    with_tqdm: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    source, target = tmp_path / "a.mlpbank", tmp_path / "b.mlpbank"
    Bank.from_models(MODELS, ARCHITECTURE).save(source)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["convert", str(source), str(target), "--dtype", "float16"]) == 0
        assert main(["verify", str(target)]) == 0
    errors = capsys.readouterr().err
    assert ("100%" in errors) if with_tqdm else errors == ""
