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
    models = demo.load_flights()["model"]
    assert 14 <= len(lines) <= 20
    assert max(map(len, lines)) <= 100
    assert report.index("own networks err") < report.index("Speed"), "what they are worth is first"
    assert numbers(report, "networks")[0] == len(bank)
    assert "8-8-1" in report
    assert numbers(report, "flights")[:2] == [len(models), len(np.unique(models))]
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
    flights, metadata = demo.load_flights(), bank.metadata
    x, actual = flights["features"], flights["air_time"]
    inference = BatchedInference(len(bank), bank.architecture)
    inference.weights.load_stacked(bank.to_stacked().weights)
    own = inference.forward(x, models=flights["model"])[:, 0]
    common = inference.forward(x, models=np.full(len(x), list(bank).index("*")))[:, 0]
    whole = metadata["mean_absolute_error_minutes"]
    best = metadata["best_global"]
    for label, guess, error in (
        ("one network for each flight", own, whole["own"]),
        ("one for all, 8 wide", common, whole["global"]["8"]),
        (f"one for all, {best} wide", flights["best_global"], whole["global"][best]),
    ):
        expected = [float(np.abs(guess - actual).mean()), error]
        assert numbers(report, label) == pytest.approx(expected, abs=0.006)


def test_own_networks_are_worth_a_tenth_against_any_global_one(report: str, bank: Bank) -> None:
    flights = demo.load_flights()
    whole = bank.metadata["mean_absolute_error_minutes"]
    assert set(whole["global"]) >= {"16", "64-64", "256-256"}
    assert min(whole["global"].values()) == whole["global"][bank.metadata["best_global"]]
    assert whole["own"] <= 0.9 * min(whole["global"].values())
    assert f"{1 - whole['own'] / min(whole['global'].values()):.0%}" in report
    every = list(bank)
    own = bank.predict([every[i] for i in flights["model"]], flights["features"])[:, 0]
    here, best = (
        float(np.abs(guess - flights["air_time"]).mean()) for guess in (own, flights["best_global"])
    )
    assert here <= 0.9 * best


def test_bank_is_sound(bank: Bank) -> None:
    numbered = len(bank) - 1
    flights = demo.load_flights()
    x, actual, models = (flights[name] for name in ("features", "air_time", "model"))
    assert numbered >= 2000
    assert list(bank)[-1] == bank.fallback == "*"
    assert "UA 15 HNL" in bank
    assert bank.architecture == Architecture.mlp(len(bank.metadata["features"]), 8, 1)
    assert bank.metadata["licence"] == "CC0-1.0"
    assert x.shape == (len(models), bank.architecture.input_size)
    assert actual.shape == models.shape == flights["best_global"].shape
    assert (x.dtype, actual.dtype, models.dtype) == (np.float32, np.float32, np.int32)
    assert models.min() >= 0
    assert models.max() < numbered  # the global network belongs to no flight number
    assert np.bincount(models).max() == 5
    weights = bank.to_stacked().weights
    for array in (x, actual, *weights.values()):
        assert np.isfinite(array).all()
    assert len(np.unique(weights["layer_0"], axis=0)) == len(bank), (
        "each flight number has weights of its own"
    )


def test_bank_is_small(root: Path) -> None:
    size = sum(path.stat().st_size for path in (root / "python" / "mlpbank" / "data").iterdir())
    assert size <= 1_200_000
