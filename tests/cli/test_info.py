"""`mlpbank info`: what is in use, and why."""

from __future__ import annotations

import pytest

from cases import ISAS
from mlpbank import _core
from mlpbank.cli import main


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLPBANK_ISA", raising=False)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return what the command says, by the words before the colons."""
    assert main(["info"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("mlpbank ")
    assert ", Python 3." in first
    assert ", NumPy " in first
    return dict(line.split(": ", 1) for line in others)


def test_fastest_instruction_set(capsys: pytest.CaptureFixture[str]) -> None:
    isas = ", ".join(ISAS)
    line = said(capsys)["instruction set"]
    assert line.startswith(f"{ISAS[0]}, the fastest of this CPU (MLPBANK_ISA none; CPU {isas}")


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_set_of_the_variable(
    isa: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPBANK_ISA", isa)
    line = said(capsys)["instruction set"]
    assert line.startswith(f"{isa}, limited by MLPBANK_ISA (MLPBANK_ISA {isa}; CPU ")


def test_instruction_sets_that_the_cpu_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "compiled_isas", lambda: ["avx9000", *ISAS])
    assert said(capsys)["instruction set"].endswith("; built, but not on this CPU: avx9000)")


def test_compiler_and_helpers(capsys: pytest.CaptureFixture[str]) -> None:
    info = said(capsys)
    name, version = info["compiler"].split(" ", 1)
    assert name in ("GCC", "Clang")
    assert int(version.split(".")[0]) >= {"GCC": 11, "Clang": 14}[name]
    openmp = {"OpenMP": "an OpenMP team", "standard library": "threads of the standard library"}
    assert info["helpers"].startswith(openmp[_core.team_kind])


def test_isas_of_this_cpu_were_compiled() -> None:
    compiled = _core.compiled_isas()
    assert [isa for isa in compiled if isa in ISAS] == list(ISAS)
    assert compiled[-1] == "portable"
