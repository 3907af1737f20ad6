"""Activations of ONNX graphs, as one node or as several nodes that form its expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from mlpbank.architecture import Activation
from mlpbank.convert import _expressions as e
from mlpbank.convert._chain import Activate, activate, require
from mlpbank.convert._expressions import Expression

ACTIVATIONS = {
    "Relu": Activation.RELU,
    "Tanh": Activation.TANH,
    "Sigmoid": Activation.SIGMOID,
    "LeakyRelu": Activation.LEAKY_RELU,
    "Elu": Activation.ELU,
    "Gelu": Activation.GELU,
    "Swish": Activation.SILU,
    "Softplus": Activation.SOFTPLUS,
    "Softmax": Activation.SOFTMAX,
    "Celu": Activation.CELU,
    "Selu": Activation.SELU,
    "Mish": Activation.MISH,
    "HardSigmoid": Activation.HARDSIGMOID,
    "HardSwish": Activation.HARDSWISH,
    "Softsign": Activation.SOFTSIGN,
}
# The parameters of operators and their defaults, which are not those of mlpbank.
_PARAMETERS: dict[str, dict[str, float]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}
# Those of Selu that mlpbank has; float32 has them to seven digits.
_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
_NAMED: tuple[str, ...] = (
    "Relu",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Erf",
    "Exp",
    "Log",
    "Greater",
    "Less",
    "Where",
)
_NAMED += ("Softsign", "Mish", "HardSwish", "Selu", "Abs")
_FOLDS: dict[str, Callable[..., Expression]] = {
    "Add": e.add,
    "Sum": e.add,
    "Mul": e.multiply,
    "Max": e.maximum,
    "Min": e.minimum,
}
_FUNCTIONS: dict[str, Callable[..., Expression]] = {
    "Sub": e.subtract,
    "Div": e.divide,
    "Neg": e.negative,
    "Reciprocal": e.reciprocal,
    "Pow": e.power,
    "Identity": lambda a: a,
    **{op: lambda *arguments, op=op: e.function(op.lower(), *arguments) for op in _NAMED},
}
_SIZES = {"Where": 3, **dict.fromkeys(("Sub", "Div", "Pow", "Greater", "Less"), 2)}
# Operations that may form an activation. They compute element by element.
ELEMENTWISE = {*_FOLDS, *_FUNCTIONS, *_PARAMETERS, "Clip", "Cast", "Sqrt"}
_CASTS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def activation(op: str, attributes: dict[str, Any], where: str) -> Activate:
    """Return the step of a node that is an activation by itself."""
    if op in _PARAMETERS:
        parameters = {name: attributes.get(name, v) for name, v in _PARAMETERS[op].items()}
        return activate(ACTIVATIONS[op], where, **parameters)
    if op == "Selu":
        for name, value in _SELU.items():
            if not np.isclose(attributes.get(name, value), value, rtol=1e-6):
                require(where, op, name, attributes[name], (value,))
    elif op == "Swish":
        require(where, op, "alpha", attributes.get("alpha", 1.0), (1.0,))
    elif op == "Softmax":
        require(where, op, "axis", attributes.get("axis", -1), (-1, 1))
    elif op == "Gelu":
        require(
            where,
            op,
            "approximate",
            form := attributes.get("approximate", b"none"),
            (b"none", b"tanh"),
        )
        if form == b"tanh":
            return Activate(Activation.GELU_TANH, where)
    return Activate(ACTIVATIONS[op], where)


def activation_of(
    nodes: list[Any], result: str, tensor: str, constants: Mapping[str, npt.NDArray[Any]]
) -> Activate | None:
    """Return the activation that nodes compute from a tensor, None if mlpbank does not have it."""
    known: dict[str, Expression] = {tensor: e.X}
    try:
        for node in nodes:
            if len(node.output) != 1 or node.output[0] in known or node.output[0] in constants:
                return None
            arguments = [_argument(name, known, constants) for name in node.input]
            known[node.output[0]] = _expression(node, arguments)
        return e.activation_of(known[result])
    except (e.Unknown, RecursionError):
        return None


def _argument(
    name: str, known: Mapping[str, Expression], constants: Mapping[str, npt.NDArray[Any]]
) -> Any:
    """Return the expression of an input of a node, None if the input is left out."""
    if not name or name in known:
        return known.get(name)
    value = constants[name]
    return e.number(_bounded(value.reshape(()).item()))


def _bounded(value: Any) -> float:
    return float(np.nan_to_num(float(value), nan=np.nan, posinf=3.5e38, neginf=-3.5e38))


def _expression(node: Any, arguments: list[Any]) -> Expression:
    op = node.op_type
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if op == "Cast":
        # A cast to integers would truncate.
        if attributes.get("to") not in _CASTS or len(arguments) != 1:
            raise e.Unknown
        return _given(arguments)[0]
    if op == "Clip":
        return _clip(attributes, arguments)
    if op in _PARAMETERS:
        values = [float(attributes.pop(name, v)) for name, v in _PARAMETERS[op].items()]
        (x,) = _given(arguments)
        if attributes:
            raise e.Unknown
        if op == "LeakyRelu":
            return e.leaky_relu(x, *values)
        return e.function(op.lower(), x, *map(e.number, values))
    if attributes or op not in {*_FOLDS, *_FUNCTIONS}:
        raise e.Unknown
    if op in _FUNCTIONS and len(arguments) != _SIZES.get(op, 1):
        raise e.Unknown
    return (_FOLDS.get(op) or _FUNCTIONS[op])(*_given(arguments))


def _clip(attributes: dict[str, Any], arguments: list[Any]) -> Expression:
    """Return the expression of Clip. Its bounds are attributes before opset 11, inputs since."""
    x, *bounds = arguments
    low, high = (None if b is None else e.constant(b) for b in [*bounds, None, None][:2])
    given = [b for b in bounds if b is not None]
    if (
        x is None
        or len(bounds) > 2
        or any(e.constant(b) is None for b in given)
        or not attributes.keys() <= {"min", "max"}
    ):
        raise e.Unknown
    if attributes and given:
        raise e.Unknown
    return e.clip(x, attributes.get("min", low), attributes.get("max", high))


def _given(arguments: list[Any]) -> list[Expression]:
    if not arguments or any(a is None for a in arguments):
        raise e.Unknown
    return arguments
