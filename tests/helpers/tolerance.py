"""Bounds on the error of a float32 forward, derived from sizes and magnitudes.

Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM 2002,
chapter 3. With the unit roundoff u = 2^-24 and gamma_n = n u / (1 - n u), a sum of products in
which no term passes through more than n roundings is off by at most gamma_n times the sum of the
terms' magnitudes (section 3.1). Starting from the bias, `in` fused multiply-adds round each term at
most `in` times; without fusing, each product is rounded once more.

Layer by layer, with e_x the bound on the error of the layer's inputs:

    e_z = e_x |W| + gamma_n ((|x| + e_x) |W| + |b|)      inputs' error, and roundings of the layer
    e_y = L e_z + own(|y| + L e_z)                       L: Lipschitz constant, own: its error

The reference has roundings too, of 2^-53; gamma_n exceeds n u by n^2 u^2 = n^2 2^-48, which covers
them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlpbank import Activation, Architecture, LayerSpec
from mlpbank._activations import activated

Float64Array = npt.NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-24
EPSILON = 2.0**-23
SMALLEST_SUBNORMAL = 2.0**-149
OWN_ULPS = (
    4  # what the package promises of every activation that is computed and not merely selected
)

# Upper bounds on |f'|, rounded up, with the default parameters; softmax's: see `activation_error`.
# tests/core/test_tolerance.py checks them.
LIPSCHITZ = {
    "none": 1.0,
    "relu": 1.0,
    "tanh": 1.0,
    "sigmoid": 0.25,
    "leaky_relu": 1.0,
    "elu": 1.0,
    "gelu": 1.13,
    "gelu_tanh": 1.13,
    "silu": 1.1,
    "softplus": 1.0,
    "celu": 1.0,
    "selu": 1.7581,
    "mish": 1.09,
    "hardswish": 1.5,
    "hardsigmoid": 0.1666667,
    "relu6": 1.0,
    "clip": 1.0,
    "softsign": 1.0,
    "prelu": 1.0,
    "softmax": 0.5,
}
EXACT = {"none", "relu", "relu6", "clip"}
# Near their zero and in their left tail these cancel: their error is OWN_ULPS epsilons absolute or
# relative.
ABSOLUTE = {"gelu", "gelu_tanh", "silu", "mish", "hardsigmoid"}


def gamma(n: int) -> float:
    """Return Higham's gamma_n for float32."""
    return n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF)


def own_error(activation: Activation, magnitude: Float64Array) -> Float64Array:
    """Return the error an activation may add of its own where the results have these magnitudes."""
    if activation.value in EXACT:
        return np.zeros_like(magnitude)
    if activation.value in ABSOLUTE:
        magnitude = np.maximum(magnitude, 1.0)
    # An ULP is at most EPSILON * |y| for normal y, and the smallest subnormal below.
    return OWN_ULPS * (EPSILON * magnitude + SMALLEST_SUBNORMAL)


def softmax_own_error(y: Float64Array) -> Float64Array:
    """Return the error a softmax may add of its own, y being its exact results over the last axis.

    Of y_i = exp(s_i) / sum exp(s_j) with s = x - max(x): the subtraction's rounding, at most u
    |s_i|, is the exponential's relative error; each exponential adds its own, the sum of n positive
    numbers at most gamma_(n-1), the division one rounding. Those of the denominator count by their
    share in it.
    """
    largest = y.max(axis=-1, keepdims=True)
    shift = np.log(largest / np.maximum(y, SMALLEST_SUBNORMAL))  # |s_i|
    denominator = (
        (y * shift).sum(axis=-1, keepdims=True) * UNIT_ROUNDOFF
        + OWN_ULPS * EPSILON
        + gamma(y.shape[-1])
    )
    relative = shift * UNIT_ROUNDOFF + OWN_ULPS * EPSILON + denominator + UNIT_ROUNDOFF
    bound: Float64Array = y * relative / (1 - relative) + OWN_ULPS * SMALLEST_SUBNORMAL
    return bound


def lipschitz(layer: LayerSpec, slope: npt.ArrayLike | None = None) -> float:
    """Return an upper bound on |f'| for a layer's parameters, or for any of the slopes of prelu."""
    if layer.activation.value in ("leaky_relu", "elu"):
        return max(1.0, abs(layer.parameters["alpha"]))
    if layer.activation.value == "hardsigmoid":
        return layer.parameters["alpha"]
    if slope is not None:
        return max(1.0, float(np.abs(slope).max()))
    return LIPSCHITZ[layer.activation.value]


def activation_error(
    layer: LayerSpec, slope: npt.ArrayLike | None, y: Float64Array, e_z: Float64Array
) -> Float64Array:
    """Return the bound after an activation: y its exact results, e_z the bound before it."""
    activation = layer.activation
    if activation.value == "softmax":
        # |dy_i| <= y_i (1 - y_i) (|dz_i| + max |dz_j|) <= max |dz_j| / 2
        carried = LIPSCHITZ["softmax"] * np.broadcast_to(e_z.max(axis=-1, keepdims=True), e_z.shape)
        # Its own error is that of the perturbed results; relative to them it stays below what |s_i|
        # = 104, from where on the exponential is 0, and n outputs make of it.
        return carried * (1 + 256 * UNIT_ROUNDOFF + gamma(y.shape[-1])) + softmax_own_error(y)
    if activation.value in ("exp", "expm1"):  # the slope at z is exp(z)
        carried = (y + (activation.value == "expm1")) * np.expm1(e_z)
    else:
        carried = lipschitz(layer, slope) * e_z
    return carried + own_error(activation, np.abs(y) + carried)


def error_bound(
    architecture: Architecture,
    weights: Mapping[str, npt.ArrayLike],
    x: npt.ArrayLike,
    *,
    fused: bool,
) -> Float64Array:
    """Return the bound for each output of a forward, by models.

    Parameters
    ----------
    architecture : Architecture
        The models' layers.
    weights : mapping of str to array
        Stacked: ``"layer_<N>"`` (models, input_size, output_size) and ``"layer_<N>.bias"`` (models,
        output_size).
    x : array_like
        (models, rows, input_size), exactly what the float32 forward gets.
    fused : bool
        Whether products and sums are rounded together.
    """
    y = np.asarray(x, np.float64)
    e_y = np.zeros_like(y)
    for i, layer in enumerate(architecture.layers):
        matrix = np.asarray(weights[f"layer_{i}"], np.float64)
        bias = np.asarray(weights[f"layer_{i}.bias"], np.float64)[:, None, :]
        n = layer.input_size if fused else layer.input_size + 1
        magnitude = (np.abs(y) + e_y) @ np.abs(matrix) + np.abs(bias)
        # 2n operations, each of which may underflow by half of the smallest subnormal.
        e_z = e_y @ np.abs(matrix) + gamma(n) * magnitude + n * SMALLEST_SUBNORMAL
        slope = weights.get(f"layer_{i}.slope")
        y = activated(layer, y @ matrix + bias, slope)
        e_y = activation_error(layer, slope, y, e_z)
    return e_y
