"""Layers as folding leaves them: their shapes, and arrays in mlpbank's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import PARAMETERS, Activation, Architecture, LayerSpec
from mlpbank.convert._chain import Affine, FloatArray
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Float32Array, Float64Array, Weights


class Layer(NamedTuple):
    """One layer after folding. Arrays that nothing was folded into are the model's own.

    `before` is what a first layer does to its inputs. `_shift` folds it, when it knows the shift.
    """

    weight: FloatArray
    bias: FloatArray | None
    activation: Activation
    parameters: tuple[float, ...] = ()
    slope: FloatArray | None = None
    before: Affine | None = None


# (input size, output size, activation, parameters) of each layer. Models of one bank have the same.
Shape = tuple[tuple[int, int, Activation, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Converted:
    """A model in mlpbank's form.

    Attributes
    ----------
    architecture : Architecture
        The layers.
    weights : dict of str to float32 array
        ``"layer_<i>"`` (in, out) and ``"layer_<i>.bias"`` (out,) of every layer, as
        `BatchedWeights.load` takes them; ``"layer_<i>.slope"`` () of those with prelu. Where a
        feature's mean is more than 128 times its scale, also ``"input_shift"`` (in,) float64: the
        weights take ``x - input_shift``. A `Bank` takes them, `BatchedWeights`, which subtracts
        nothing, refuses them.
    feature_names : tuple of str, optional
        Names of the inputs in their order, where the model was fitted to a data frame.
    classes : tuple of str, int, float or bool, optional
        The label of each output, where the model is a classifier that tells them.
    """

    architecture: Architecture
    weights: Weights
    feature_names: tuple[str, ...] | None = None
    classes: tuple[Any, ...] | None = None


def with_affine(
    weight: FloatArray, bias: FloatArray | None, scale: Float64Array | None, shift: Float64Array
) -> tuple[FloatArray, FloatArray | None]:
    """Return weight and bias that take x where the given ones take ``x * scale + shift``.

    Parameters
    ----------
    weight : float array (..., in, out)
    bias : float array (..., out), optional
    scale : float64 array (..., in), optional
        1 by default, which leaves `weight` as it is.
    shift : float64 array (..., in)
    """
    wide = weight.astype(np.float64)
    if shift.any():
        moved = (shift[..., None, :] @ wide)[..., 0, :]
        bias = moved if bias is None else moved + bias
    return (weight if scale is None else scale[..., :, None] * wide), bias


def shape_of(layers: list[Layer]) -> Shape:
    """Return sizes and activations of layers."""
    return tuple(
        (layer.weight.shape[0], layer.weight.shape[1], layer.activation, layer.parameters)
        for layer in layers
    )


def architecture_of(layers: list[Layer]) -> Architecture:
    """Return the architecture of layers."""
    return Architecture(
        LayerSpec(
            inputs,
            outputs,
            activation,
            **dict(zip(PARAMETERS.get(activation, ()), values, strict=True)),
        )
        for inputs, outputs, activation, values in shape_of(layers)
    )


def shape_of_architecture(architecture: Architecture) -> Shape:
    """Return the result of `shape_of` for models of an architecture."""
    return tuple(
        (
            layer.input_size,
            layer.output_size,
            layer.activation,
            tuple(layer.parameters.values()),
        )
        for layer in architecture.layers
    )


def difference(expected: Shape, got: Shape) -> str:
    """Return the first difference in words, all layers where their number differs."""
    if len(expected) != len(got):
        return (
            f"expected {len(expected)} layers ({_listed(expected)}), got {len(got)} "
            f"({_listed(got)})"
        )
    pairs = zip(expected, got, strict=True)
    i, a, b = next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)
    return f"layer {i}: expected {_in_words(a)}, got {_in_words(b)}"


def _listed(shape: Shape) -> str:
    layers = [f"{inputs} -> {outputs} {kind.value}" for inputs, outputs, kind, _ in shape]
    return ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")


def _in_words(layer: tuple[int, int, Activation, tuple[float, ...]]) -> str:
    inputs, outputs, activation, values = layer
    names = PARAMETERS.get(activation, ())
    options = "".join(f", {name}={value:g}" for name, value in zip(names, values, strict=True))
    return f"{inputs} -> {outputs} with activation {activation.value!r}{options}"


def to_float32(array: npt.NDArray[Any], name: str) -> Float32Array:
    """Return a copy rounded to float32, in C order. Later training of the model does not change it.

    Raises
    ------
    ValueError
        A finite value rounds to infinity.
    """
    with np.errstate(over="ignore"):
        rounded = np.array(array, np.float32, order="C")
    if array.dtype != np.float32 and (bad := np.isinf(rounded) & np.isfinite(array)).any():
        raise InvalidValueError(
            f"{name}: expected values that float32 can hold, got {array[bad][0]:g}"
        )
    return rounded


def weights_of(layers: list[Layer]) -> Weights:
    """Return the arrays of layers in mlpbank's form, with zeros for missing biases."""
    weights: Weights = {}
    for i, layer in enumerate(layers):
        name = f"layer_{i}"
        weights[name] = to_float32(layer.weight, name)
        bias = np.zeros(layer.weight.shape[1], np.float32) if layer.bias is None else layer.bias
        weights[f"{name}.bias"] = to_float32(bias, f"{name}.bias")
        if layer.slope is not None:
            weights[f"{name}.slope"] = to_float32(layer.slope, f"{name}.slope")
    return weights
