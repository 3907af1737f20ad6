"""Every activation in float64: the definition, which converters compare functions with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation

Float64Array = npt.NDArray[np.float64]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: Float64Array) -> Float64Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _elu(x: Float64Array) -> Float64Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def _times(x: Float64Array, share: Float64Array) -> Float64Array:
    """Return x * share, and 0 where `share` is 0 even if x is infinite."""
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
