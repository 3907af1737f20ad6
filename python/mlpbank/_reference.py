"""What the operation means: one model's forward in plain NumPy and float64. The oracle of every test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation, Architecture

Float64Array = npt.NDArray[np.float64]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: Float64Array) -> Float64Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _elu(x: Float64Array) -> Float64Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def _times(x: Float64Array, share: Float64Array) -> Float64Array:
    """Return x * share, 0 where the share is, also for infinite x."""
    return np.where(share == 0, 0.0, x) * share


def _gelu(x: Float64Array) -> Float64Array:
    return _times(x, 0.5 * _erfc(-x / math.sqrt(2.0)))


def _gelu_tanh(x: Float64Array) -> Float64Array:
    return _times(x, _sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _softmax(x: Float64Array) -> Float64Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


ACTIVATIONS: dict[Activation, Callable[[Float64Array], Float64Array]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: lambda x: np.maximum(x, 0.0),
    Activation.TANH: np.tanh,
    Activation.SIGMOID: _sigmoid,
    Activation.LEAKY_RELU: lambda x: np.where(x > 0, x, 0.01 * x),
    Activation.ELU: _elu,
    Activation.GELU: _gelu,
    Activation.GELU_TANH: _gelu_tanh,
    Activation.SILU: lambda x: _times(x, _sigmoid(x)),
    Activation.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Activation.SOFTMAX: _softmax,
}


def forward(architecture: Architecture, weights: Mapping[str, Any], x: npt.ArrayLike) -> Float64Array:
    """Return one model's outputs in float64.

    Parameters
    ----------
    architecture : Architecture
        The model's layers.
    weights : mapping of str to array
        ``"layer_<N>"`` (input_size, output_size) and, optionally, ``"layer_<N>.bias"`` (output_size,).
    x : array_like
        (rows, input_size) or (input_size,).

    Returns
    -------
    float64 array
        (rows, output_size) or (output_size,).
    """
    y = np.asarray(x, np.float64)
    for i, layer in enumerate(architecture.layers):
        matrix = np.asarray(weights[f"layer_{i}"], np.float64).reshape(layer.input_size, layer.output_size)
        bias = np.asarray(weights.get(f"layer_{i}.bias", 0.0), np.float64)
        y = ACTIVATIONS[layer.activation](y @ matrix + bias)
    return y
