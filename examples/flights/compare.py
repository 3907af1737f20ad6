"""Compare the networks of train.py with models that know more, or are of other kinds.

    pip install 'mlpbank[examples]' scikit-learn
    python examples/flights/compare.py

Prints mean absolute errors of the held-out months: the second table of README.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from flight_features import load_tables, prepare
from networks import Weights, predict, train_own
from sklearn.ensemble import HistGradientBoostingRegressor
from train import (
    HELD_OUT_FROM,
    HUBER,
    SEED,
    TARGET_SCALE,
    WIDER,
    Parts,
    fit_destinations,
    fit_global,
    fit_own,
)

from mlpbank.cli.demo import load_bank


def with_own_median(parts: Parts) -> Parts:
    """Add an input that tells the flight number: its median air time in the training part.

    Rare flight numbers have the median of their route.
    """
    known = parts.training[parts.owner >= 0]
    of_key = known.groupby("key")["air_time"].median()

    def medians(flights: pd.DataFrame) -> np.ndarray:
        of_route = flights.join(parts.medians, on=["origin", "dest"])["route_median"]
        return np.asarray(flights["key"].map(of_key).fillna(of_route), float)[:, None]

    before, after = medians(parts.training), medians(parts.later)
    mean, deviation = before.mean(), before.std()
    return replace(
        parts,
        mean=np.append(parts.mean, mean),
        deviation=np.append(parts.deviation, deviation),
        x=np.hstack([parts.x, ((before - mean) / deviation).astype(np.float32)]),
        features=np.hstack([parts.features, after.astype(np.float32)]),
    )


def by_group(parts: Parts, names: list[str], common: Weights, pull: float) -> tuple[int, float]:
    """Return how many networks, one for each value of these columns, there are, and their error."""
    before, after = (part[names].agg(" ".join, axis=1) for part in (parts.training, parts.later))
    index = {key: i for i, key in enumerate(sorted(set(before)))}
    start = {name: np.repeat(value, len(index), axis=0) for name, value in common.items()}
    owner = before.map(index).to_numpy(np.int64)
    limit = HUBER / TARGET_SCALE
    own = train_own(parts.x, parts.y, owner, start, pull, limit, steps=200, block=4)
    models = after.map(index).to_numpy(np.int64)
    return len(index), parts.error(predict(parts.raw(own), parts.features, models))


def boosted(parts: Parts) -> float:
    """Return the error of gradient-boosted trees: 600 of up to 31 leaves, absolute loss."""
    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=600, learning_rate=0.1, random_state=SEED
    )
    return parts.error(
        model.fit(parts.x, parts.y).predict(scaled(parts)) * TARGET_SCALE + parts.target_mean
    )


def scaled(parts: Parts) -> np.ndarray:
    """Return the later flights' features in standard units."""
    return ((parts.features - parts.mean) / parts.deviation).astype(np.float32)


def main() -> None:
    """Print the errors."""
    pulls = load_bank().metadata["pulls"]  # what train.py chose
    parts = Parts.of(prepare(*load_tables()), HELD_OUT_FROM)
    identified = with_own_median(parts)
    one = np.zeros_like(parts.models)

    def report(name: str, error: float) -> None:
        print(f"{name:60s} {error:6.2f}", flush=True)

    route = parts.later.join(parts.medians, on=["origin", "dest"])["route_median"]
    report("median of the route", parts.error(route.fillna(parts.target_mean).to_numpy()))
    report("gradient-boosted trees", boosted(parts))
    report("gradient-boosted trees with the flight number's median", boosted(identified))
    for hidden, rate in WIDER.items():
        wide = identified.raw(fit_global(identified, hidden, rate=rate))
        error = parts.error(predict(wide, identified.features, one))
        report(f"global network {hidden} with the flight number's median", error)
    common = fit_global(parts)
    for names in (["origin", "dest"], ["dest"]):
        count, error = by_group(parts, names, common, pulls[0])
        report(f"{count} networks, one for each {' and '.join(names)}", error)
    own = parts.raw(fit_own(parts, fit_destinations(parts, common, pulls[0]), pulls[1]))
    error = parts.error(predict(own, parts.features, parts.models))
    report(f"{len(parts.keys)} networks, one for each flight number", error)


if __name__ == "__main__":
    main()
