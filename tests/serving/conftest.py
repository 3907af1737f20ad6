"""Fixtures of the tests of the example service."""

from __future__ import annotations

from pathlib import Path

import pytest

from service_bank import BANKS


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """The file that the service serves, with the first of the two banks."""
    path = tmp_path / "bank.mlpbank"
    BANKS[0].save(path)
    return path
