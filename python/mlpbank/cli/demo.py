"""``python -m mlpbank demo``: delays of real flights, with a network for each aircraft.

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
    """Return the bank in the package. Keys are tail numbers; "*" is the model for all others."""
    with resources.as_file(resources.files("mlpbank") / "data" / "flights.mlpbank") as path:
        return Bank.open(path)


def load_flights() -> dict[str, npt.NDArray[Any]]:
    """Return flights that no network was trained on.

    Returns
    -------
    dict of str to array
        ``features`` (flights, inputs) float32; ``arrival_delay`` (flights,) float32, in minutes;
        ``model`` (flights,) int32, the position of the flight's aircraft among the bank's keys.
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
    """Predict every held-out flight with its aircraft's network, and print a report."""
    bank, flights = load_bank(), load_flights()
    architecture = bank.architecture
    features, actual, models = (flights[name] for name in ("features", "arrival_delay", "model"))
    departure_delay = features[:, bank.metadata["features"].index("departure_delay")]
    keys = list(bank)
    tailnums = [keys[i] for i in models]

    predicted = bank.predict(tailnums, features)[:, 0]  # the one call
    by_global = bank.predict([bank.fallback] * len(models), features)[:, 0]

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

    # The same as a loop over aircraft. Weights and rows are looked up beforehand.
    aircraft = np.unique(models)
    work = [
        ([w[m] for w in weights], [b[m] for b in biases], features[models == m]) for m in aircraft
    ]

    def loop() -> None:
        for w, b, x in work:
            numpy_forward(architecture, w, b, x)

    call_seconds = median_seconds(lambda: bank.predict(tailnums, features), 101)
    loop_seconds = median_seconds(loop, 9)

    sizes = "-".join(
        str(size)
        for size in (architecture.input_size, *(s.output_size for s in architecture.layers))
    )
    ratio = loop_seconds / call_seconds
    whole = bank.metadata["mean_absolute_error_minutes"]
    print("Arrival delay of flights that left New York in December 2013, predicted at departure")
    print(
        f"  networks                        {len(bank):8d}     "
        f"{sizes}, one for each aircraft and one for all"
    )
    print(
        f"  flights                         {len(models):8d}     "
        f"of {len(aircraft)} aircraft, none was trained on"
    )
    print(f"  one call for all flights        {call_seconds * 1e3:8.3f} ms  {bank.engine!r}")
    print(
        f"  loop, one NumPy forward each    {loop_seconds * 1e3:8.3f} ms  {ratio:.0f} times as long"
    )
    print(f"  largest difference from float64 {difference:8.1e} minutes")
    print(
        "Mean absolute error, in minutes       here  "
        f"all {bank.metadata['held_out_flights']} flights of that month"
    )
    for name, guess, method in (
        ("one network for each aircraft", predicted, "aircraft"),
        ("one network for all of them", by_global, "global"),
        ("the departure delay", departure_delay, "departure_delay"),
    ):
        print(f"  {name:31s} {np.abs(guess - actual).mean():8.2f} {whole[method]:8.2f}")
    print("Some of the flights  left late by  predicted  arrived late by (minutes)")
    for i in np.linspace(0, len(models) - 1, 4).astype(int):
        print(
            f"  {tailnums[i]:18s} {departure_delay[i]:12.0f} {predicted[i]:10.0f} {actual[i]:16.0f}"
        )
    return 0
