"""Training of many networks of one architecture at once, in NumPy.

Weights are dicts of arrays as `BatchedWeights.load_stacked` takes them, with a leading dimension
N: one network each. Hidden layers are relu. Networks compute in standard units: inputs of mean 0
and deviation 1, outputs as `train.py` scales them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]


def gradients(weights: Weights, x: Array, y: Array, mask: Array, limit: float) -> Weights:
    """Return the gradient of each network's sum of Huber losses.

    Parameters
    ----------
    weights : dict of float32 arrays
        Of N networks.
    x : float32 array, (N, rows, inputs)
        Standardised features.
    y, mask : float32 arrays, (N, rows)
        Targets; 0 where a row is padding, else 1.
    limit : float
        Errors up to it count by their square, larger ones linearly.
    """
    layers = len(weights) // 2
    inputs = [x]
    for i in range(layers):
        x = x @ weights[f"layer_{i}"] + weights[f"layer_{i}.bias"][:, None, :]
        if i < layers - 1:
            inputs.append(np.maximum(x, 0, out=x))
    d = (np.clip((x[:, :, 0] - y) / np.float32(limit), -1, 1) * mask)[:, :, None]
    result = {}
    for i in reversed(range(layers)):
        result[f"layer_{i}"] = inputs[i].swapaxes(1, 2) @ d
        result[f"layer_{i}.bias"] = d.sum(axis=1)
        if i > 0:
            d = d @ weights[f"layer_{i}"].swapaxes(1, 2) * (inputs[i] > 0)
    return result


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
    x: Array,
    y: Array,
    hidden: Sequence[int],
    limit: float,
    *,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
) -> Weights:
    """Train one network, from random weights, on all flights.

    Parameters
    ----------
    x, y : float32 arrays, (flights, inputs) and (flights,)
        In standard units.
    hidden : sequence of int
        Sizes of the hidden layers.
    limit : float
        See `gradients`.
    seed : int
        Of the first weights, and of the flights that are drawn.
    steps, batch, rate : int, int, float
        Steps of Adam, flights drawn for each (with replacement), first rate.

    Returns
    -------
    dict of float32 arrays
        With N = 1.
    """
    rng = np.random.default_rng(seed)
    sizes = [x.shape[1], *hidden, 1]
    start: Weights = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        deviation = math.sqrt((1 if i == 0 else 2) / inputs)
        start[f"layer_{i}"] = rng.normal(0, deviation, (1, inputs, outputs)).astype(np.float32)
        start[f"layer_{i}.bias"] = np.zeros((1, outputs), np.float32)
    mask = np.ones((1, batch), np.float32)
    name = "-".join(map(str, hidden))
    with tqdm(total=steps, desc=f"global network, {name} wide", unit="step") as progress:

        def gradient(weights: Weights) -> Weights:
            progress.update()
            rows = rng.integers(len(x), size=batch)
            found = gradients(weights, x[None, rows], y[None, rows], mask, limit)
            return {key: g / np.float32(batch) for key, g in found.items()}

        return adam(start, gradient, steps, rate)


def train_own(
    x: Array,
    y: Array,
    owner: npt.NDArray[np.int64],
    start: Weights,
    pull: float,
    limit: float,
    *,
    steps: int = 100,
    block: int = 64,
    rate: float = 0.01,
) -> Weights:
    """Train a network for each owner, from one that is given and pulled toward it.

    Each minimises (sum of its rows' losses) + pull / 2 * |weights - first weights|^2: a network
    moves as far as the number of its rows warrants.

    Parameters
    ----------
    x, y : float32 arrays, (rows, inputs) and (rows,)
        In standard units.
    owner : int64 array, (rows,)
        Whose row: 0 to N - 1, all present, or -1 for none of them.
    start : dict of float32 arrays
        The first weights of the N networks.
    pull : float
        Strength of that pull; the more rows an owner has, the less it counts.
    limit : float
        See `gradients`.
    steps, block, rate : int, int, float
        Steps of Adam; networks trained together; first rate. Those of a block have about as many
        rows, so padding is little.

    Returns
    -------
    dict of float32 arrays
        Of N networks.
    """
    by_owner = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    counts = np.bincount(owner[by_owner])
    first = np.cumsum(counts) - counts
    result = {key: value.copy() for key, value in start.items()}
    by_count = np.argsort(counts, kind="stable")
    for low in tqdm(
        range(0, len(counts), block), desc=f"{len(counts)} networks, pull {pull:g}", unit="block"
    ):
        members = by_count[low : low + block]
        slots = np.arange(counts[members[-1]])
        mask = (slots < counts[members, None]).astype(np.float32)
        rows = by_owner[np.where(mask > 0, first[members, None] + slots, 0)]
        x_block, y_block = x[rows], y[rows]
        origin = {key: value[members] for key, value in start.items()}

        def gradient(
            weights: Weights,
            x: Array = x_block,
            y: Array = y_block,
            mask: Array = mask,
            origin: Weights = origin,
        ) -> Weights:
            return {
                key: g + pull * (weights[key] - origin[key])
                for key, g in gradients(weights, x, y, mask, limit).items()
            }

        for key, value in adam(origin, gradient, steps, rate).items():
            result[key][members] = value
    return result


def to_raw_units(
    weights: Weights,
    mean: npt.NDArray[np.float64],
    deviation: npt.NDArray[np.float64],
    target_mean: float,
    target_scale: float,
) -> Weights:
    """Fold scales into the weights: the networks take raw features and give minutes.

    ((x - mean) / deviation) @ W + b  is  x @ (W / deviation) + (b - (mean / deviation) @ W), and
    the last layer is multiplied by `target_scale`, plus `target_mean`: all in float64.
    """
    wide = {key: value.astype(np.float64) for key, value in weights.items()}
    wide["layer_0.bias"] = wide["layer_0.bias"] - (mean / deviation) @ wide["layer_0"]
    wide["layer_0"] = wide["layer_0"] / deviation[:, None]
    last = f"layer_{len(weights) // 2 - 1}"
    wide[last] = wide[last] * target_scale
    wide[f"{last}.bias"] = wide[f"{last}.bias"] * target_scale + target_mean
    return {key: value.astype(np.float32) for key, value in wide.items()}


def predict(
    weights: Weights, x: npt.NDArray[Any], models: npt.NDArray[np.int64], *, chunk: int = 4096
) -> npt.NDArray[np.float64]:
    """Return the outputs (float64): row i through network ``models[i]``."""
    layers = len(weights) // 2
    result = np.empty(len(x))
    for low in range(0, len(x), chunk):
        part = slice(low, low + chunk)
        value = x[part, None].astype(np.float64)
        for i in range(layers):
            w, b = weights[f"layer_{i}"], weights[f"layer_{i}.bias"]
            if len(w) == 1:  # the same network for all
                value = value @ w.astype(np.float64) + b[:, None].astype(np.float64)
            else:
                own = models[part]
                value = value @ w[own].astype(np.float64) + b[own, None].astype(np.float64)
            if i < layers - 1:
                value = np.maximum(value, 0)
        result[part] = value[:, 0, 0]
    return result
