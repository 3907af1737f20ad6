"""SIGKILL of writers, compactors and followers at any moment and at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import LAYOUTS, RunProgram
from live_models import TIMES


@pytest.mark.parametrize(
    ("layout", "kind", "kills"),
    [
        ("panel", "str", 21),
        pytest.param("lane", "tuple", TIMES * 150, marks=pytest.mark.slow),
        pytest.param("panel", "int", TIMES * 150, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment(
    run_program: RunProgram, tmp_path: Path, layout: str, kind: str, kills: int
) -> None:
    run_program("live_kills", tmp_path, layout, kind, "any_moment", kills, 1, timeout=TIMES * 900)


@pytest.mark.parametrize(
    ("layout", "kind", "kills", "stride"),
    [
        ("lane", "int", 10, 150),
        pytest.param("panel", "tuple", TIMES * 60, 7, marks=pytest.mark.slow),
        pytest.param("lane", "str", TIMES * 60, 7, marks=pytest.mark.slow),
    ],
)
def test_killed_before_a_line(
    run_program: RunProgram, tmp_path: Path, layout: str, kind: str, kills: int, stride: int
) -> None:
    run_program(
        "live_kills", tmp_path, layout, kind, "every_line", kills, stride, timeout=TIMES * 900
    )


def test_killed_in_some_operations_on_files(run_under_faults: RunProgram, tmp_path: Path) -> None:
    run_under_faults("live_kills", tmp_path, "lane", "str", "every_operation", 10, 9)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_in_every_operation_on_files(
    run_under_faults: RunProgram, tmp_path: Path, layout: str
) -> None:
    run_under_faults("live_kills", tmp_path, layout, "int", "every_operation", TIMES * 50, 1)
