"""Every activation in float64: the definition, which converters compare functions with.

Parameters come behind x, in the order of `architecture.PARAMETERS`; the slope of prelu too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation, LayerSpec

Float64Array = npt.NDArray[np.float64]


def _float32(value: float) -> float:
    """Return a parameter as kernels have it."""
    return float(np.float32(value))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: Float64Array) -> Float64Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _leaky_relu(x: Float64Array, alpha: float = 0.01) -> Float64Array:
    return np.where(x < 0, _float32(alpha) * x, x)


def _elu(x: Float64Array, alpha: float = 1.0) -> Float64Array:
    return np.where(x < 0, _float32(alpha) * np.expm1(np.minimum(x, 0.0)), x)


def _celu(x: Float64Array, alpha: float = 1.0) -> Float64Array:
    a = _float32(alpha)
    return np.where(x < 0, a * np.expm1(np.minimum(x, 0.0) / a), x)


def _selu(x: Float64Array) -> Float64Array:
    # The constants of Klambauer et al., "Self-normalizing neural networks", 2017.
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def _mish(x: Float64Array) -> Float64Array:
    return _times(x, np.tanh(np.logaddexp(x, 0.0)))


def _hardsigmoid(x: Float64Array, alpha: float = 1 / 6, beta: float = 0.5) -> Float64Array:
    return np.clip(_float32(alpha) * x + _float32(beta), 0.0, 1.0)


def _hardswish(x: Float64Array) -> Float64Array:
    return _times(x, np.clip(x + 3.0, 0.0, 6.0) / 6.0)


def _clip(x: Float64Array, low: float = -math.inf, high: float = math.inf) -> Float64Array:
    return np.clip(x, _float32(low), _float32(high))


def _softsign(x: Float64Array) -> Float64Array:
    return np.where(np.isinf(x), np.sign(x), x / (1.0 + np.where(np.isinf(x), 0.0, np.abs(x))))


def _prelu(x: Float64Array, slope: npt.ArrayLike = 0.25) -> Float64Array:
    """Return leaky relu; `slope` is one number or has one for each leading dimension of x."""
    slopes = np.asarray(slope, np.float64)
    return np.where(x < 0, slopes.reshape(slopes.shape + (1,) * (x.ndim - slopes.ndim)) * x, x)


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


ACTIVATIONS: dict[Activation, Callable[..., Float64Array]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: lambda x: np.maximum(x, 0.0),
    Activation.TANH: np.tanh,
    Activation.SIGMOID: _sigmoid,
    Activation.LEAKY_RELU: _leaky_relu,
    Activation.ELU: _elu,
    Activation.GELU: _gelu,
    Activation.GELU_TANH: _gelu_tanh,
    Activation.SILU: lambda x: _times(x, _sigmoid(x)),
    Activation.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Activation.CELU: _celu,
    Activation.SELU: _selu,
    Activation.MISH: _mish,
    Activation.HARDSWISH: _hardswish,
    Activation.HARDSIGMOID: _hardsigmoid,
    Activation.RELU6: lambda x: np.clip(x, 0.0, 6.0),
    Activation.CLIP: _clip,
    Activation.SOFTSIGN: _softsign,
    Activation.EXP: np.exp,
    Activation.EXPM1: np.expm1,
    Activation.PRELU: _prelu,
    Activation.SOFTMAX: _softmax,
}


def activated(
    layer: LayerSpec, x: Float64Array, slope: npt.ArrayLike | None = None
) -> Float64Array:
    """Return the activation of a layer with its parameters; `slope` is that of prelu."""
    given = layer.parameters.values() if slope is None else (slope,)
    return ACTIVATIONS[layer.activation](x, *given)
