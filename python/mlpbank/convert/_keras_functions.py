"""Functions of Keras tensors that are activations, recognised by the operations they call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mlpbank.architecture import Activation
from mlpbank.convert import _expressions as e
from mlpbank.convert._chain import Activate
from mlpbank.convert._expressions import Expression
from mlpbank.convert._native import as_array
from mlpbank.convert._recognise import agrees

_NAMED = [
    *(
        "relu",
        "tanh",
        "sigmoid",
        "silu",
        "softplus",
        "softsign",
        "selu",
        "abs",
        "erf",
        "exp",
        "expm1",
        "log",
        "log1p",
        "logaddexp",
    ),
    *("greater", "less", "where"),
]
_FUNCTIONS: dict[str, Callable[..., Expression]] = {
    "Add": e.add,
    "Subtract": e.subtract,
    "Multiply": e.multiply,
    "Divide": e.divide,
    "TrueDivide": e.divide,
    "Power": e.power,
    "Negative": e.negative,
    "Reciprocal": e.reciprocal,
    "Square": lambda a: e.multiply(a, a),
    "Maximum": e.maximum,
    "Elu": lambda a, alpha: e.function("elu", a, e.number(alpha)),
    "Celu": lambda a, alpha: e.function("celu", a, e.number(alpha)),
    "Minimum": e.minimum,
    "Absolute": lambda a: e.function("abs", a),
    "Relu6": lambda a: e.clip(a, 0.0, 6.0),
    "HardTanh": lambda a: e.clip(a, -1.0, 1.0),
    "HardSigmoid": lambda a: e.function("hardsigmoid", a, e.number(1 / 6), e.number(0.5)),
    "HardSilu": lambda a: e.function("hardswish", a),
    "LeakyRelu": lambda a, negative_slope: e.leaky_relu(a, negative_slope),
    "Gelu": lambda a, approximate: e.function("gelu_tanh" if approximate else "gelu", a),
    "Clip": lambda a, x_min, x_max: e.clip(a, _number(x_min), _number(x_max)),
    "ReLU": lambda a, negative_slope, max_value, threshold: _relu(
        a, negative_slope, max_value, threshold
    ),
    **{
        name.capitalize(): lambda *arguments, name=name: e.function(name, *arguments)
        for name in _NAMED
    },
}


def function_of(function: Callable[[Any], Any]) -> Activate | None:
    """Return the activation that a function of a tensor computes, None if mlpbank has none."""
    try:
        first, second = _called(function), _called(function)
    except Exception:  # a function that fails for any reason is no activation
        return None
    # A function may compute something else in each call.
    if first is None or first != second:
        return None
    return (
        first
        if first.activation is Activation.SOFTMAX or agrees(lambda x: _computed(function, x), first)
        else None
    )


def _called(function: Callable[[Any], Any]) -> Activate | None:
    """Return the activation that one call of a function computes."""
    tensor = keras.KerasTensor((None, 3), dtype="float32")
    result = function(tensor)
    if result is tensor:
        return Activate(Activation.NONE, "")
    operation, index, _ = result._keras_history
    return operation_of(operation, operation._inbound_nodes[index], tensor)


def operation_of(operation: Any, node: Any, tensor: Any) -> Activate | None:
    """Return the activation that a node's operation and those before it compute from a tensor."""
    if type(operation).__name__ == "Softmax" and _is_known(operation, {"axis"}):
        alone = len(node.arguments.args) == 1 and node.arguments.args[0] is tensor
        usual = alone and operation.axis in (-1, 1)
        return Activate(Activation.SOFTMAX, "") if usual else None
    try:
        return e.activation_of(_expression(operation, node, {id(tensor): e.X}))
    except (e.Unknown, RecursionError):
        return None


def _expression(operation: Any, node: Any, known: dict[int, Expression]) -> Expression:
    name = type(operation).__name__
    options = list(inspect.signature(type(operation).__init__).parameters)
    options = [
        option for option in options if option not in ("self", "name", "dtype", "args", "kwargs")
    ]
    if name not in _FUNCTIONS or not _is_known(operation, set(options)) or node.arguments.kwargs:
        raise e.Unknown
    arguments = [_argument(value, known) for value in node.arguments.args]
    try:
        return _FUNCTIONS[name](
            *arguments, **{option: getattr(operation, option) for option in options}
        )
    except TypeError:  # another version of Keras has another option
        raise e.Unknown from None


def _is_known(operation: Any, options: set[str]) -> bool:
    """Return whether an operation is Keras' own and has these options."""
    kind = type(operation)
    own = kind.__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    return (
        own
        and "call" not in vars(operation)
        and all(hasattr(operation, option) for option in options)
    )


def _argument(value: Any, known: dict[int, Expression]) -> Expression:
    if isinstance(value, keras.KerasTensor):
        if id(value) not in known:
            operation, index, _ = value._keras_history
            known[id(value)] = _expression(operation, operation._inbound_nodes[index], known)
        return known[id(value)]
    return e.number(_value(value))


def _value(value: Any) -> float:
    array = as_array(value, "a constant")
    if array.dtype.kind not in "fiu" or array.size != 1:
        raise e.Unknown
    return float(array.reshape(()))


def _number(value: Any) -> float | None:
    return None if value is None else _value(value)


def _relu(a: Expression, negative_slope: Any, max_value: Any, threshold: Any) -> Expression:
    if threshold != 0 or (max_value is not None and negative_slope != 0):
        raise e.Unknown
    if max_value is not None:
        return e.clip(a, 0.0, max_value)
    return e.leaky_relu(a, negative_slope)


def _computed(function: Callable[[Any], Any], x: Any) -> Any:
    result = function(keras.ops.convert_to_tensor(x.astype(np.float32)[:, None]))
    return as_array(getattr(result, "value", result), "a result")[:, 0]
