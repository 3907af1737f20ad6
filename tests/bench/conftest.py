"""Fixtures of the benchmark's tests. None of them depends on how long anything takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # for `benchmarks`, which is not installed

from benchmarks.sections import swap  # noqa: E402

from mlpbank.bench import measure  # noqa: E402
from mlpbank.bench.cases import Case, Problem, make_problem  # noqa: E402


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do little of everything."""
    monkeypatch.setattr(measure, "_WARM_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(measure, "_ROUNDS", (2, 2))
    monkeypatch.setattr(measure, "_LIMIT_ROUNDS", 2)
    monkeypatch.setattr(swap, "PERIOD", 0.02)
    monkeypatch.setattr(swap, "LOADS", (10, 3))


@pytest.fixture(scope="session")
def problem() -> Problem:
    """Return 20 models, one row each."""
    return make_problem(Case(20, (3, 5, 2), 1))
