"""Results do not depend on the caller's floating-point mode, and that mode stays as it was."""

from __future__ import annotations

import platform

import pytest

from cases import RunProgram

pytestmark = [
    pytest.mark.threads,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the mode is set as x86-64 has it"),
]


@pytest.mark.parametrize(
    "check", ["forward", "loading_and_reading", "conversions", "trapped_exceptions"]
)
def test_float_mode(run_program: RunProgram, check: str) -> None:
    run_program("float_mode", check)
