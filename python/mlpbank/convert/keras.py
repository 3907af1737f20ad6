"""Keras 3: Sequential and functional models that are a chain of layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation
from mlpbank.convert._chain import (
    Activate,
    Dense,
    Step,
    activate,
    affine,
    batch_norm,
    join,
    prelu,
    require,
    unsupported,
)
from mlpbank.convert._keras_functions import function_of, operation_of
from mlpbank.convert._native import as_array
from mlpbank.errors import InvalidValueError

_FUNCTIONS = {
    keras.activations.linear: Activation.NONE,
    keras.activations.relu: Activation.RELU,
    keras.activations.tanh: Activation.TANH,
    keras.activations.sigmoid: Activation.SIGMOID,
    keras.activations.elu: Activation.ELU,
    keras.activations.gelu: Activation.GELU,
    keras.activations.silu: Activation.SILU,
    keras.activations.softplus: Activation.SOFTPLUS,
    keras.activations.softmax: Activation.SOFTMAX,
    keras.activations.celu: Activation.CELU,
    keras.activations.selu: Activation.SELU,
    keras.activations.mish: Activation.MISH,
    keras.activations.hard_silu: Activation.HARDSWISH,
    keras.activations.hard_sigmoid: Activation.HARDSIGMOID,
    keras.activations.relu6: Activation.RELU6,
    keras.activations.softsign: Activation.SOFTSIGN,
    keras.activations.exponential: Activation.EXP,
}


def steps(model: Any, where: str = "", output: str | int | None = None) -> list[Step]:
    """Return the chain of steps that a model computes at inference.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    where : str
        Its place, for messages.
    output : str or int, optional
        The output to take, by name or number, of a functional model that has several.

    Raises
    ------
    UnsupportedLayerError
        The model is no such chain, or has an unsupported layer.
    ValueError
        The model is not built.
    """
    if not isinstance(model, keras.Model):
        if output is not None:
            raise _one_output(model, where, output)
        return _layer(model, where or model.name)
    chain: list[Step] = []
    flat = True
    for layer, place, node in _layers(model, where, output):
        if isinstance(layer, keras.layers.InputLayer):
            flat = len(layer.batch_shape) == 2
        elif isinstance(layer, keras.Model):
            chain += steps(layer, place)
        elif type(layer) is keras.layers.Reshape:
            _require_own_methods(layer, place)
            flat = _reshaped(layer, node, flat, place)
        elif type(layer) is keras.layers.Flatten:
            # Rows of a bank are flat, in the C order that Flatten gives them.
            if not flat and layer.data_format != "channels_last":
                raise unsupported(place, "Flatten with channels first, which moves features about")
            flat = True
        else:
            new = _layer(layer, place, node)
            if not flat and any(
                isinstance(s, Dense) or (not isinstance(s, Activate) and s.scale.ndim) for s in new
            ):
                name = type(layer).__name__
                raise unsupported(
                    place, f"{name} of inputs that are not flat; Flatten has to stand first"
                )
            chain += new
    return chain


def _reshaped(layer: Any, node: Any, flat: bool, where: str) -> bool:
    """Return whether rows are flat after a Reshape, which keeps their C order."""
    shape = tuple(node.outputs[0].shape)[1:]
    if not flat and len(shape) != 1:
        raise unsupported(where, f"Reshape to {shape} of inputs that are not flat")
    if flat and len(shape) > 1 and shape != (1,) * len(shape):
        raise unsupported(
            where, f"Reshape of flat rows to {shape}; the layers that follow would run over parts"
        )
    return True


def _one_output(model: Any, where: str, output: Any) -> Exception:
    return unsupported(
        where, f"output={output!r}: {type(model).__name__} has one output; leave output out"
    )


def _output(model: Any, where: str, output: str | int | None) -> Any:
    """Return the output tensor with this name or number."""
    names = list(getattr(model, "output_names", None) or range(len(model.outputs)))
    results = getattr(model, "_outputs_struct", None)
    if isinstance(results, dict) and all(
        any(value is tensor for tensor in model.outputs) for value in results.values()
    ):  # the names that the caller of the model sees
        names = [next(n for n, v in results.items() if v is tensor) for tensor in model.outputs]
    if len(model.outputs) == 1:
        if output is not None and output not in names:
            raise _one_output(model, where, output)
        return model.outputs[0]
    choices = ", ".join(map(repr, names))
    if output is None:
        raise unsupported(
            where,
            f"expected one output, got {len(names)} ({choices}); name the one to take with output=",
        )
    if isinstance(output, int) and -len(names) <= output < len(names):
        return model.outputs[output]
    if names.count(output) != 1:
        raise unsupported(where, f"output={output!r}: the model has the outputs {choices}")
    return model.outputs[names.index(output)]


def _layers(model: Any, where: str, output: str | int | None) -> Iterator[tuple[Any, str, Any]]:
    """Yield the layers of a model, first to last, each with its place and the node of its call."""
    if not model.built:
        raise InvalidValueError(
            f"{where + ': ' if where else ''}expected a built model, got one without weights"
        )
    kind = type(model)
    if not kind.__module__.startswith("keras.") or kind.__name__ not in (
        "Sequential",
        "Functional",
    ):
        raise unsupported(
            where,
            f"{kind.__name__} has a call of its own; Sequential and functional models are read, so "
            "build one of its layers, or pass its arrays with an architecture",
        )
    if len(model.inputs) != 1:
        names = ", ".join(repr(tensor.name) for tensor in model.inputs)
        raise unsupported(
            where,
            f"expected one input, got {len(model.inputs)} ({names}); a bank's rows are one array, "
            "so concatenate the inputs before the model",
        )
    _require_own_methods(model, where)
    found: list[tuple[Any, str, Any]] = []
    tensor, source = _output(model, where, output), model.inputs[0]
    while True:
        operation, index, _ = tensor._keras_history
        place = join(where, operation.name)
        node = operation._inbound_nodes[index]
        found.append((operation, place, node))
        if tensor is source or not node.input_tensors:
            break
        if len(node.input_tensors) != 1:
            raise unsupported(
                place,
                f"{type(operation).__name__} joins several results, and only chains are supported",
            )
        if isinstance(operation, keras.Layer):
            options = {**dict(enumerate(node.arguments.args[1:], 1)), **node.arguments.kwargs}
            for option, value in options.items():
                if value is not None and value is not False and value is not node.input_tensors[0]:
                    what = f"argument {option}" if isinstance(option, int) else option
                    raise unsupported(
                        place, f"{type(operation).__name__} is called with {what}={value}"
                    )
        tensor = node.input_tensors[0]
    yield from reversed(found)


def _layer(layer: Any, where: str, node: Any = None) -> list[Step]:
    kind = type(layer)
    read = _LAYERS.get(kind)
    if read is not None:
        _require_own_methods(layer, where)
        if not getattr(layer, "built", True):
            raise InvalidValueError(
                f"{where + ': ' if where else ''}expected a built layer, got one without weights"
            )
        return read(layer, where)
    if node is not None and not isinstance(layer, keras.Layer):  # keras.ops in a functional model
        return _known(operation_of(layer, node, node.input_tensors[0]), where, kind.__name__)
    raise unsupported(where, f"{kind.__name__} is not supported")


def _require_own_methods(layer: Any, where: str) -> None:
    """Raise if a layer or model replaces a method of Keras that computes."""
    for name in ("call", "__call__", "predict"):
        method = getattr(type(layer), name, None)
        if name in vars(layer) or (
            method is not None and not method.__module__.startswith("keras.")
        ):
            raise unsupported(
                where, f"{type(layer).__name__} has a {name} of its own, which may compute anything"
            )


def _dense(layer: Any, where: str) -> list[Step]:
    if getattr(layer, "quantization_mode", None) is not None:
        raise unsupported(where, f"a Dense quantized to {layer.quantization_mode} is not supported")
    bias = None if layer.bias is None else _array(layer.bias)
    return [Dense(_array(layer.kernel), bias, where), *_activation(layer, where)]


def _activation(layer: Any, where: str) -> list[Step]:
    function = layer.activation
    if function is None:
        return []
    if isinstance(function, Hashable) and function in _FUNCTIONS:
        return [Activate(_FUNCTIONS[function], where)]
    if isinstance(function, keras.Layer):
        return _layer(function, where)
    return _known(
        function_of(function), where, getattr(function, "__name__", type(function).__name__)
    )


def _known(activation: Activate | None, where: str, name: str) -> list[Step]:
    if activation is None:
        raise unsupported(
            where, f"{name} is no activation that mlpbank has, with the same parameters"
        )
    return [activation._replace(where=where)]


def _relu(layer: Any, where: str) -> list[Step]:
    require(where, "ReLU", "threshold", layer.threshold, (0,))
    slope = float(layer.negative_slope or 0.0)
    if layer.max_value is not None:
        require(where, "ReLU with max_value", "negative_slope", slope, (0,))
        return [activate(Activation.CLIP, where, low=0.0, high=float(layer.max_value))]
    return [activate(Activation.LEAKY_RELU, where, alpha=slope)]


def _leaky_relu(layer: Any, where: str) -> list[Step]:
    return [activate(Activation.LEAKY_RELU, where, alpha=float(layer.negative_slope))]


def _elu(layer: Any, where: str) -> list[Step]:
    return [activate(Activation.ELU, where, alpha=float(layer.alpha))]


def _prelu(layer: Any, where: str) -> list[Step]:
    return [prelu(_array(layer.alpha), where)]


def _softmax(layer: Any, where: str) -> list[Step]:
    require(where, "Softmax", "axis", layer.axis, (-1, 1))
    return [Activate(Activation.SOFTMAX, where)]


def _batch_normalization(layer: Any, where: str) -> list[Step]:
    require(where, "BatchNormalization", "axis", layer.axis, (-1, 1))
    gamma = _array(layer.gamma) if layer.scale else None
    beta = _array(layer.beta) if layer.center else None
    return [
        batch_norm(
            _array(layer.moving_mean),
            _array(layer.moving_variance),
            gamma,
            beta,
            layer.epsilon,
            where,
        )
    ]


def _normalization(layer: Any, where: str) -> list[Step]:
    if getattr(layer, "mean", None) is None:
        raise InvalidValueError(
            f"{where + ': ' if where else ''}expected an adapted Normalization, got one that is not"
        )
    mean = _array(layer.mean).astype(np.float64)
    # The layer computes this, not sqrt(variance + epsilon).
    deviation = np.maximum(
        np.sqrt(_array(layer.variance).astype(np.float64)), keras.config.epsilon()
    )
    mean, deviation = (
        part.reshape(-1) if part.size > 1 else part.reshape(()) for part in (mean, deviation)
    )
    return [
        affine(deviation, mean, where)
        if layer.invert
        else affine(1.0 / deviation, -mean / deviation, where)
    ]


def _rescaling(layer: Any, where: str) -> list[Step]:
    return [affine(layer.scale, layer.offset, where)]


def _nothing(layer: Any, where: str) -> list[Step]:
    return []


_LAYERS: dict[type, Callable[[Any, str], list[Step]]] = {
    keras.layers.Dense: _dense,
    keras.layers.Activation: _activation,
    keras.layers.ReLU: _relu,
    keras.layers.LeakyReLU: _leaky_relu,
    keras.layers.ELU: _elu,
    keras.layers.PReLU: _prelu,
    keras.layers.Softmax: _softmax,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Normalization: _normalization,
    keras.layers.Rescaling: _rescaling,
    **dict.fromkeys(
        (
            keras.layers.Identity,
            keras.layers.Dropout,
            keras.layers.AlphaDropout,
            keras.layers.GaussianDropout,
            keras.layers.GaussianNoise,
            keras.layers.ActivityRegularization,
        ),
        _nothing,
    ),
}


def _array(tensor: Any) -> npt.NDArray[Any]:
    # The value of any backend, because NumPy warns when it converts a Variable of Keras.
    array = as_array(getattr(tensor, "value", tensor), "weights")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
