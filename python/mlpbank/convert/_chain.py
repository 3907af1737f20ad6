"""The chain of steps that every converter makes of a model, and its layers.

Folding computes in float64 and rounds to float32 once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import PARAMETERS, Activation, Architecture, LayerSpec, parameters_of
from mlpbank.convert._columns import Select, spread
from mlpbank.errors import InvalidTypeError, InvalidValueError, UnsupportedLayerError
from mlpbank.typing import Float32Array, Float64Array, Weights

FloatArray = npt.NDArray[np.floating[Any]]


def unsupported(where: str, what: str) -> UnsupportedLayerError:
    """Return the error for the part at `where` ("" for the model itself)."""
    return UnsupportedLayerError(f"{where}: {what}" if where else what)


def join(where: str, name: str) -> str:
    """Return the place of the part `name` within the part at `where`."""
    return f"{where}.{name}" if where else name


def require(where: str, layer: str, option: str, got: Any, allowed: tuple[Any, ...]) -> None:
    """Raise if an option of a layer has a value that mlpbank does not support."""
    if not any(got is value if value is None else got == value for value in allowed):
        raise unsupported(
            where, f"{layer}: expected {option} {' or '.join(map(repr, allowed))}, got {got!r}"
        )


# NamedTuples and not dataclasses, because thousands of models are read and these are made faster.
class Dense(NamedTuple):
    """``x @ weight + bias``, where weight is (in, out)."""

    weight: FloatArray
    bias: FloatArray | None
    where: str


class Activate(NamedTuple):
    """An activation with all its parameters in order; see `activate`. prelu has a slope too."""

    activation: Activation
    where: str
    parameters: tuple[float, ...] = ()
    slope: FloatArray | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function in float64 takes behind x."""
        return self.parameters if self.slope is None else (self.slope,)


class Affine(NamedTuple):
    """``x * scale + shift``, element by element. Each is one number or one for each feature."""

    scale: Float64Array
    shift: Float64Array
    where: str


Step = Dense | Activate | Affine


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


def activate(activation: Activation, where: str, **parameters: Any) -> Activate:
    """Return the step of an activation; parameters that are not given have their defaults.

    Where two names mean the same, there is one that all converters use: ``relu`` for a clip at 0,
    ``relu6`` for one to 0 and 6, ``relu`` for a slope of 0.

    Raises
    ------
    UnsupportedLayerError
        mlpbank does not have the activation with these parameters.
    """
    if activation is Activation.CLIP:
        bounds = (float(parameters.get("low", -np.inf)), float(parameters.get("high", np.inf)))
        name = _CLIPS.get(bounds)
        if name is not None:
            return Activate(name, where)
    try:
        values = parameters_of(activation, parameters)
    except (InvalidValueError, InvalidTypeError) as error:
        raise unsupported(where, str(error.args[0])) from None
    if activation is Activation.LEAKY_RELU and values == (0.0,):
        return Activate(Activation.RELU, where)
    return Activate(activation, where, values)


_CLIPS = {
    (0.0, np.inf): Activation.RELU,
    (0.0, 6.0): Activation.RELU6,
    (-np.inf, np.inf): Activation.NONE,
}


def prelu(slope: FloatArray, where: str) -> Activate:
    """Return the step of a leaky relu with a learned slope.

    Raises
    ------
    UnsupportedLayerError
        There are several slopes, and they differ.
    """
    if slope.size == 0 or (slope != slope.flat[0]).any():
        raise unsupported(
            where,
            f"expected one slope for all outputs, got {slope.size} that differ; mlpbank has prelu "
            "with one slope for each layer",
        )
    return Activate(Activation.PRELU, where, (), slope.reshape(-1)[0:1].reshape(()))


def affine(scale: npt.ArrayLike, shift: npt.ArrayLike, where: str) -> Affine:
    """Return the step in float64."""
    return Affine(np.asarray(scale, np.float64), np.asarray(shift, np.float64), where)


def batch_norm(
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    beta: npt.ArrayLike | None,
    epsilon: float,
    where: str,
) -> Affine:
    """Return ``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` as one step."""
    scale = 1.0 / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    if gamma is not None:
        scale = scale * np.asarray(gamma, np.float64)
    shift = -np.asarray(mean, np.float64) * scale
    if beta is not None:
        shift = shift + np.asarray(beta, np.float64)
    return Affine(scale, shift, where)


def fold(steps: Iterable[Step | Select]) -> list[Layer]:
    """Return layers that compute the same as the steps.

    An affine step is folded into the layer before it if that has no activation yet, else into the
    layer after it. Where neither is there, as after the last activation or between two activations,
    it becomes a diagonal layer of its own. So does an activation that follows another, or that
    comes before the first layer. An affine step before all layers is kept in the first one's
    `before`. A selection of columns, which stands first, makes the first layer take all columns.

    Raises
    ------
    UnsupportedLayerError
        The steps form no layers of mlpbank.
    """
    chain = list(steps)
    first = next((step for step in chain if isinstance(step, Dense)), None)
    if first is None:
        raise UnsupportedLayerError("expected at least one dense layer, got none")
    inputs = first.weight.shape[0]
    select = chain.pop(0) if isinstance(chain[0], Select) else None
    layers: list[Layer] = []
    pending: Affine | None = None
    for step in chain:
        if isinstance(step, Dense):
            layers.append(_dense(step, pending, layers))
            pending = None
        elif isinstance(step, Affine):
            last = layers[-1] if layers else None
            if last is not None and last.activation is Activation.NONE:
                layers[-1] = _scale_outputs(last, step)
            else:
                if last is not None:
                    _require_no_softmax(last, step.where)
                pending = step if pending is None else _compose(pending, step)
        elif isinstance(step, Select):
            raise unsupported(step.where, "picks columns of results; it has to be the first step")
        elif step.activation is not Activation.NONE:
            last = layers[-1] if layers else None
            if pending is not None or last is None or last.activation is not Activation.NONE:
                _append_diagonal(layers, inputs, pending, step.where)
                pending = None
            # Activations made without parameters have the defaults.
            values = step.parameters or tuple(PARAMETERS.get(step.activation, {}).values())
            layers[-1] = layers[-1]._replace(
                activation=step.activation, parameters=values, slope=step.slope
            )
    if pending is not None:
        _append_diagonal(layers, inputs, pending, pending.where)
    if isinstance(select, Select):
        layers[0] = _selecting(layers[0], select)
    return layers


def _selecting(layer: Layer, select: Select) -> Layer:
    if len(layer.weight) != len(select.columns):
        raise unsupported(
            select.where, f"picks {len(select.columns)} columns for {len(layer.weight)} inputs"
        )
    before = layer.before
    scale, shift = (None, None) if before is None else (before.scale, before.shift)
    weight, bias, scale, shift = spread(layer.weight, layer.bias, scale, shift, select)
    if scale is not None and shift is not None:
        before = Affine(scale, shift, select.where)
    return layer._replace(weight=weight, bias=bias, before=before)


def _append_diagonal(layers: list[Layer], inputs: int, step: Affine | None, where: str) -> None:
    """Append the layer of an affine step, or of none, that changes each feature by itself."""
    size = inputs
    if layers:
        _require_no_softmax(layers[-1], where)
        size = layers[-1].weight.shape[1]
    one = Layer(np.eye(size, dtype=np.float32), None, Activation.NONE)
    if step is None:
        layers.append(one)
        return
    scale = _per_feature(step.scale, size, step.where)
    shift = _per_feature(step.shift, size, step.where)
    if layers:
        layers.append(one._replace(weight=np.diag(scale), bias=shift))
    else:
        layers.append(one._replace(before=Affine(scale, shift, step.where)))


def _require_no_softmax(layer: Layer, where: str) -> None:
    if layer.activation is Activation.SOFTMAX:
        raise unsupported(
            where,
            "stands after a softmax, which can be the last step only; "
            "convert the model without what follows it, and apply that to the results",
        )


def _dense(step: Dense, pending: Affine | None, layers: list[Layer]) -> Layer:
    weight, bias = step.weight, step.bias
    if bias is not None and bias.shape != weight.shape[1:]:
        bias = _per_feature(bias, weight.shape[1], step.where)
    if layers:
        before = layers[-1]
        _require_no_softmax(before, step.where)
        if before.weight.shape[1] != weight.shape[0]:
            raise unsupported(
                step.where, f"expected {before.weight.shape[1]} inputs, got {weight.shape[0]}"
            )
    if pending is None:
        return Layer(weight, bias, Activation.NONE)
    scale, shift = (
        _per_feature(values, weight.shape[0], pending.where)
        for values in (pending.scale, pending.shift)
    )
    if not layers:
        return Layer(weight, bias, Activation.NONE, before=Affine(scale, shift, pending.where))
    return Layer(*with_affine(weight, bias, scale, shift), Activation.NONE)


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


def _scale_outputs(layer: Layer, step: Affine) -> Layer:
    size = layer.weight.shape[1]
    scale, shift = (
        _per_feature(step.scale, size, step.where),
        _per_feature(step.shift, size, step.where),
    )
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return layer._replace(weight=layer.weight * scale, bias=bias)


def _compose(first: Affine, then: Affine) -> Affine:
    return Affine(first.scale * then.scale, first.shift * then.scale + then.shift, then.where)


def _per_feature(values: FloatArray, size: int, where: str) -> Any:
    if values.shape not in ((), (1,), (size,)):
        raise unsupported(
            where, f"expected one value for each of {size} features, got shape {values.shape}"
        )
    return np.broadcast_to(values, (size,))


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
