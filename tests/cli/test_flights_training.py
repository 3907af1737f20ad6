"""Training of the flights example: deterministic, honest about what is held out, and worth it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cases import assert_same_bits, random_weights
from flight_tables import AIRPORTS, SPLIT, load, random_flights
from mlpbank import Architecture
from mlpbank.cli import demo

pytest.importorskip("pandas")
pytest.importorskip("tqdm")

LIMIT = 0.2


@pytest.fixture(scope="module")
def train() -> ModuleType:
    return load("train")


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    return load("networks")


@pytest.fixture(scope="module")
def fit(train: ModuleType) -> Callable[[Any], Any]:
    """Train quickly on the months before October; return parts, own and global weights."""

    def run(table: Any) -> Any:
        parts = train.Parts.of(load("flight_features").prepare(table, AIRPORTS), SPLIT)
        common = train.fit_global(parts, steps=300)
        start = train.fit_destinations(parts, common, 10.0)
        return parts, train.fit_own(parts, start, 10.0), common

    return run


def test_training_is_deterministic_and_beats_the_global_network(
    fit: Callable[[Any], Any], networks: ModuleType
) -> None:
    (parts, own, common), (again, own_again, _) = fit(random_flights()), fit(random_flights())
    assert parts.keys == again.keys == sorted(f"UA {i} BOS" for i in range(40))
    for name, array in own.items():
        assert array.shape[0] == 40
        assert_same_bits(array, own_again[name])
    one = np.zeros_like(parts.models)
    by_own = networks.predict(parts.raw(own), parts.features, parts.models)
    by_global = networks.predict(parts.raw(common), parts.features, one)
    assert parts.error(by_own) == pytest.approx(float(np.abs(by_own - parts.actual).mean()))
    assert parts.error(by_own) < 0.6 * parts.error(by_global)


def test_training_sees_nothing_of_the_held_out_part(fit: Callable[[Any], Any]) -> None:
    table = random_flights()
    later = table["month"] >= SPLIT.month
    changed = table.assign(
        air_time=table["air_time"].mask(later, 5000),
        arr_delay=table["arr_delay"].mask(later, 99),
        distance=table["distance"].mask(later, 1),
    )
    (first, own, _), (second, own_again, _) = fit(table), fit(changed)
    assert len(first.models) == len(second.models) == later.sum()
    assert (second.actual == 5000).all(), "every flight measured on is of the later part"
    for name, array in own.items():
        assert_same_bits(array, own_again[name])


def test_rare_flight_numbers_train_the_global_network_alone(train: ModuleType) -> None:
    table = random_flights()
    rare = (table["flight"] == 7) & (table.groupby("flight").cumcount() >= train.MIN_FLIGHTS - 1)
    prepared = load("flight_features").prepare(table[~rare], AIRPORTS)
    parts = train.Parts.of(prepared, SPLIT)
    assert "UA 7 BOS" not in parts.keys
    assert (parts.training["key"][parts.owner < 0] == "UA 7 BOS").all()
    assert (parts.owner < 0).any()
    assert not (parts.later["key"] == "UA 7 BOS").any()


def test_flight_numbers_start_from_their_destination(train: ModuleType) -> None:
    table = random_flights()
    table["dest"] = np.where(table["flight"] < 20, "BOS", "LAX")
    table["air_time"] += np.where(table["dest"] == "LAX", 200, 0)
    parts = train.Parts.of(load("flight_features").prepare(table, AIRPORTS), SPLIT)
    common = train.fit_global(parts, steps=50)
    start = train.fit_destinations(parts, common, 1.0)
    first = {key: start["layer_1.bias"][i].item() for i, key in enumerate(parts.keys)}
    assert len(first) == 40
    by_dest = {dest: {first[key] for key in first if key.endswith(dest)} for dest in ("BOS", "LAX")}
    assert len(by_dest["BOS"]) == len(by_dest["LAX"]) == 1
    assert by_dest["BOS"] != by_dest["LAX"]


def test_a_strong_pull_leaves_the_first_weights(train: ModuleType, networks: ModuleType) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 8)).astype(np.float32)
    y = rng.standard_normal(90).astype(np.float32)
    start = random_weights(train.ARCHITECTURE, 3, rng)
    owner = np.repeat([2, -1, 0, 1], [10, 5, 40, 35])
    moved = {}
    for pull in (1e-3, 1e5):
        own = networks.train_own(x, y, owner, start, pull, LIMIT)
        moved[pull] = max(float(np.abs(own[name] - start[name]).max()) for name in start)
        assert own["layer_0"].shape == (3, 8, 8)
    assert moved[1e-3] > 0.1
    assert moved[1e5] < 0.01


def test_networks_trained_together_do_not_see_each_other(
    train: ModuleType, networks: ModuleType
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((75, 8)).astype(np.float32)
    y = rng.standard_normal(75).astype(np.float32)
    start = random_weights(train.ARCHITECTURE, 2, rng)
    together = networks.train_own(x, y, np.repeat([0, 1], [40, 35]), start, 10.0, LIMIT)
    second = {name: array[1:] for name, array in start.items()}
    alone = networks.train_own(x[40:], y[40:], np.zeros(35, np.int64), second, 10.0, LIMIT)
    for name in start:
        np.testing.assert_allclose(together[name][1], alone[name][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("hidden", [(8,), (5, 4)])
def test_gradients_are_those_of_the_huber_loss(
    networks: ModuleType, hidden: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    shape = Architecture.mlp(6, *hidden, 1, activation="relu")
    weights = {k: v.astype(np.float64) for k, v in random_weights(shape, 2, rng).items()}
    x, y = rng.standard_normal((2, 6, 6)), rng.standard_normal((2, 6))
    mask = np.array([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    limit = float(np.float32(LIMIT))

    def loss() -> float:
        value = x
        for i in range(len(hidden) + 1):
            value = value @ weights[f"layer_{i}"] + weights[f"layer_{i}.bias"][:, None]
            value = np.maximum(value, 0) if i < len(hidden) else value
        r = np.abs(value[..., 0] - y)
        return float((np.where(r < limit, r * r / (2 * limit), r - limit / 2) * mask).sum())

    step = 1e-6
    for name, gradient in networks.gradients(weights, x, y, mask, LIMIT).items():
        assert gradient.shape == weights[name].shape
        for i in np.ndindex(gradient.shape):
            weights[name][i] += step
            above = loss()
            weights[name][i] -= 2 * step
            below = loss()
            weights[name][i] += step
            assert gradient[i] == pytest.approx((above - below) / (2 * step), abs=1e-6), (name, i)


@pytest.mark.parametrize("hidden", [(8,), (5, 4)])
def test_raw_units_give_the_same_minutes(networks: ModuleType, hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights(Architecture.mlp(8, *hidden, 1, activation="relu"), 3, rng)
    mean, deviation = rng.uniform(-500, 500, 8), rng.uniform(0.1, 100, 8)
    x, models = mean + deviation * rng.standard_normal((20, 8)), rng.integers(0, 3, 20)
    raw = networks.to_raw_units(weights, mean, deviation, 150.0, 40.0)
    assert {array.dtype for array in raw.values()} == {np.dtype(np.float32)}
    expected = networks.predict(weights, (x - mean) / deviation, models) * 40 + 150
    np.testing.assert_allclose(networks.predict(raw, x, models), expected, rtol=0, atol=0.02)


def test_prediction_in_chunks_is_that_of_one(networks: ModuleType) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights(Architecture.mlp(4, 3, 1, activation="relu"), 5, rng)
    x, models = rng.standard_normal((20, 4)), rng.integers(0, 5, 20)
    whole = networks.predict(weights, x, models)
    np.testing.assert_array_equal(networks.predict(weights, x, models, chunk=7), whole)
    alone = {name: array[models[3], None] for name, array in weights.items()}
    assert networks.predict(alone, x[3:4], models[3:4])[0] == pytest.approx(whole[3])


def test_sample_has_every_flight_number_and_few_flights_of_each(train: ModuleType) -> None:
    models = np.append(np.random.default_rng(1).integers(0, 50, 1000), 50)
    rows = train.sample_rows(models)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert np.bincount(models[rows]).tolist() == [train.SAMPLE] * 50 + [1]


def test_packaged_bank_is_what_the_example_writes(train: ModuleType) -> None:
    bank = demo.load_bank()
    assert bank.architecture == train.ARCHITECTURE
    assert tuple(bank.metadata["features"]) == load("flight_features").FEATURES
    assert bank.metadata["held_out"].startswith(str(train.HELD_OUT_FROM.date()))
    assert set(bank.metadata["pulls"]) <= set(train.PULLS)
    assert bank.metadata["minimum_flights"] == train.MIN_FLIGHTS
    tried = {train.name_of(hidden) for hidden in ((train.HIDDEN,), *train.WIDER)}
    assert set(bank.metadata["mean_absolute_error_minutes"]["global"]) == tried
