"""The demo: what it prints, and that the bank it comes with says the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BatchedInference
from mlpbank.cli import demo
from tolerance import error_bound


@pytest.fixture(scope="module")
def bank() -> Bank:
    return demo.load_bank()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``python -m mlpbank demo`` prints, run as a user does, away from the source tree."""
    command = [sys.executable, "-m", "mlpbank", "demo"]
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def numbers(report: str, label: str) -> list[float]:
    """Return the numbers of the line that starts with this label."""
    (line,) = [line for line in report.splitlines() if line.strip().startswith(label)]
    return [
        float(word) for word in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", line.replace(label, ""))
    ]


def test_report_is_short_and_complete(report: str, bank: Bank) -> None:
    lines = report.splitlines()
    assert 12 <= len(lines) <= 16
    assert max(map(len, lines)) <= 100
    assert numbers(report, "networks")[0] == len(bank)
    assert "10-8-1" in report
    assert numbers(report, "flights")[:2] == [
        len(demo.load_flights()["model"]),
        len(np.unique(demo.load_flights()["model"])),
    ]
    call, loop = (
        numbers(report, "one call for all flights")[0],
        numbers(report, "loop, one NumPy forward each"),
    )
    assert call > 0
    assert loop[1] == pytest.approx(loop[0] / call, rel=0.05, abs=1)


def test_difference_from_float64_is_within_what_float32_may_do(report: str, bank: Bank) -> None:
    models = demo.load_flights()["model"]
    weights = {name: array[models] for name, array in bank.to_stacked().weights.items()}
    bound = error_bound(
        bank.architecture, weights, demo.load_flights()["features"][:, None], fused=False
    )
    (printed,) = numbers(report, "largest difference from float64")
    assert 0 < printed <= bound.max() * 1.05  # printed with two digits
    assert bound.max() < 0.01, "minutes; a larger bound would prove nothing"


def test_printed_errors_are_those_of_the_bank(report: str, bank: Bank) -> None:
    x, actual = demo.load_flights()["features"], demo.load_flights()["arrival_delay"]
    inference = BatchedInference(len(bank), bank.architecture)
    inference.weights.load_stacked(bank.to_stacked().weights)
    own = inference.forward(x, models=demo.load_flights()["model"])[:, 0]
    common = inference.forward(x, models=np.full(len(x), list(bank).index("*")))[:, 0]
    departure_delay = x[:, bank.metadata["features"].index("departure_delay")]
    whole = bank.metadata["mean_absolute_error_minutes"]
    errors = {}
    for label, guess, method in (
        ("one network for each aircraft", own, "aircraft"),
        ("one network for all of them", common, "global"),
        ("the departure delay", departure_delay, "departure_delay"),
    ):
        errors[method] = float(np.abs(guess - actual).mean())
        assert numbers(report, label) == pytest.approx([errors[method], whole[method]], abs=0.006)
    for e in (errors, whole):
        assert e["aircraft"] < 0.9 * e["departure_delay"]
        assert e["aircraft"] < 1.01 * e["global"], "networks of aircraft overfit"


def test_bank_is_sound(bank: Bank) -> None:
    aircraft = len(bank) - 1
    x, actual, models = (
        demo.load_flights()[name] for name in ("features", "arrival_delay", "model")
    )
    assert aircraft >= 2000
    assert list(bank)[-1] == bank.fallback == "*"
    assert bank.architecture == Architecture.mlp(len(bank.metadata["features"]), 8, 1)
    assert bank.metadata["licence"] == "CC0-1.0"
    assert x.shape == (len(models), bank.architecture.input_size)
    assert actual.shape == models.shape
    assert (x.dtype, actual.dtype, models.dtype) == (np.float32, np.float32, np.int32)
    assert models.min() >= 0
    assert models.max() < aircraft  # the global network belongs to no aircraft
    assert np.bincount(models).max() == 2
    weights = bank.to_stacked().weights
    for array in (x, actual, *weights.values()):
        assert np.isfinite(array).all()
    assert len(np.unique(weights["layer_0"], axis=0)) == len(bank), (
        "each aircraft has weights of its own"
    )


def test_bank_is_small(root: Path) -> None:
    size = sum(path.stat().st_size for path in (root / "python" / "mlpbank" / "data").iterdir())
    assert size <= 1_500_000
