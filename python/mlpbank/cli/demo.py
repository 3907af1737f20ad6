"""``python -m mlpbank demo``: air time of real flights, with a network for each flight number.

examples/flights/train.py made the bank in data/flights.mlpbank; the README there says how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from mlpbank._activations import activated
from mlpbank.architecture import Architecture
from mlpbank.bank import Bank

Arrays = Sequence[npt.NDArray[Any]]


def load_bank() -> Bank:
    """Return the bank in the package. Keys are like "UA 15 HNL"; "*" is the model of all others."""
    with resources.as_file(resources.files("mlpbank") / "data" / "flights.mlpbank") as path:
        return Bank.open(path)


def load_flights() -> dict[str, npt.NDArray[Any]]:
    """Return flights that no network was trained on.

    Returns
    -------
    dict of str to array
        ``features`` (flights, inputs) float32; ``air_time`` (flights,) float32, in minutes;
        ``model`` (flights,) int32, the position of the flight's number among the bank's keys;
        ``best_global`` (flights,) float32, what the best single network predicts.
    """
    with resources.as_file(resources.files("mlpbank") / "data" / "flights.safetensors") as path:
        return load_file(path)


def numpy_forward(
    architecture: Architecture, weights: Arrays, biases: Arrays, x: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the outputs of a network for x (rows, in), or of N stacked ones for (N, rows, in)."""
    for layer, matrix, bias in zip(architecture.layers, weights, biases, strict=True):
        x = activated(layer, x @ matrix + bias)
    return x


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median duration of a call in seconds, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def main() -> int:
    """Predict held-out flights with the network of their flight number, and print a report."""
    bank, flights = load_bank(), load_flights()
    architecture, metadata = bank.architecture, bank.metadata
    features, actual, models = (flights[name] for name in ("features", "air_time", "model"))
    every = list(bank)
    keys = [every[i] for i in models]

    predicted = bank.predict(keys, features)[:, 0]  # the one call

    # The same in float64. Every flight has its own copy of its network.
    stacked = bank.to_stacked().weights
    weights = [stacked[f"layer_{i}"] for i in range(len(architecture.layers))]
    biases = [stacked[f"layer_{i}.bias"] for i in range(len(architecture.layers))]
    exact = numpy_forward(
        architecture,
        [w[models].astype(np.float64) for w in weights],
        [b[models, None].astype(np.float64) for b in biases],
        features[:, None].astype(np.float64),
    )[:, 0, 0]
    difference = np.abs(predicted - exact).max()

    # The same as a loop over flight numbers. Weights and rows are looked up beforehand.
    numbers = np.unique(models)
    work = [
        ([w[m] for w in weights], [b[m] for b in biases], features[models == m]) for m in numbers
    ]

    def loop() -> None:
        for w, b, x in work:
            numpy_forward(architecture, w, b, x)

    call_seconds = median_seconds(lambda: bank.predict(keys, features), 101)
    loop_seconds = median_seconds(loop, 9)

    sizes = "-".join(
        str(size)
        for size in (architecture.input_size, *(s.output_size for s in architecture.layers))
    )
    ratio = loop_seconds / call_seconds
    whole, best = metadata["mean_absolute_error_minutes"], metadata["best_global"]
    gain = 1 - whole["own"] / whole["global"][best]
    print("Minutes in the air of flights from New York, predicted before departure")
    print(f"Trained on {metadata['trained_on']}, held out {metadata['held_out']}")
    print(
        "Mean absolute error, in minutes       here  "
        f"all {metadata['held_out_flights']} held-out flights"
    )
    common = bank.predict([bank.fallback] * len(models), features)[:, 0]
    small = "-".join(str(s.output_size) for s in architecture.layers[:-1])
    guesses = {small: common, best: flights["best_global"]}
    for name, guess, error in (
        ("one network for each flight", predicted, whole["own"]),
        *((f"one for all, {h} wide", guess, whole["global"][h]) for h, guess in guesses.items()),
    ):
        print(f"  {name:31s} {np.abs(guess - actual).mean():8.2f} {error:8.2f}")
    print(
        f"  own networks err {gain:.0%} less than the best one for all "
        f"(of {', '.join(whole['global'])} wide)"
    )
    print("Speed")
    print(
        f"  networks                        {len(bank):8d}     "
        f"{sizes}, one for each flight number and one for all"
    )
    print(
        f"  flights                         {len(models):8d}     "
        f"of {len(numbers)} flight numbers, none was trained on"
    )
    print(f"  one call for all flights        {call_seconds * 1e3:8.3f} ms  {bank.engine!r}")
    print(
        f"  loop, one NumPy forward each    {loop_seconds * 1e3:8.3f} ms  {ratio:.0f} times as long"
    )
    print(f"  largest difference from float64 {difference:8.1e} minutes")
    print("Some of the flights     distance  predicted  in the air (minutes)")
    miles = features[:, metadata["features"].index("distance")]
    for i in np.linspace(0, len(models) - 1, 4).astype(int):
        print(f"  {keys[i]:18s} {miles[i]:8.0f} mi {predicted[i]:10.0f} {actual[i]:11.0f}")
    return 0
