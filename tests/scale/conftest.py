"""What tests of engines share: the bank of flights, and rows for it."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

import pytest

from mlpbank import Bank

# Workers of the engines are to import this mlpbank.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a bank of some 2,000 models."""
    path = tmp_path_factory.mktemp("bank") / "flights.mlpbank"
    path.write_bytes((resources.files("mlpbank") / "data/flights.mlpbank").read_bytes())
    return path


@pytest.fixture(scope="session")
def columns(flights: Path) -> list[str]:
    """Names of the features."""
    return [f"x{i}" for i in range(Bank.open(flights).architecture.input_size)]
