"""What processes see of a bank that others change: tests/programs/live_observers.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import LAYOUTS, RunProgram
from live_models import KINDS, TIMES


@pytest.mark.parametrize(("layout", "kind"), [("panel", "tuple"), ("lane", "int")])
def test_observations(run_program: RunProgram, tmp_path: Path, layout: str, kind: str) -> None:
    run_program("live_observers", tmp_path, layout, kind, 30_000, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_observations(run_program: RunProgram, tmp_path: Path, layout: str, kind: str) -> None:
    run_program("live_observers", tmp_path, layout, kind, TIMES * 1_000_000, timeout=TIMES * 900)
