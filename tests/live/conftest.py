"""Fixtures of the tests of live banks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cases import RunProgram
from mlpbank.files import _live_folder


@pytest.fixture(scope="session")
def faults(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The value of LD_PRELOAD with which programs run under tests/programs/faults.c."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "expected a C compiler, as for the extension"
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    source = str(root / "tests/programs/faults.c")
    done = subprocess.run([*command, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(library))))


@pytest.fixture(params=["recent", "index"])
def followed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of both kinds: changes are read in the head, or all in the index."""
    if request.param == "index":
        monkeypatch.setattr(_live_folder, "HEAD_BYTES", 4096)


@pytest.fixture
def run_under_faults(run_program: RunProgram, faults: str) -> RunProgram:
    """`run_program`, under faults.c."""

    def run(name: str, *arguments: object, timeout: float = 600) -> str:
        return run_program(name, *arguments, timeout=timeout, LD_PRELOAD=faults)

    return run
