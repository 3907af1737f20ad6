"""ONNX graphs that are a chain of layers, read step by step from the input to the output."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlpbank.convert._chain import (
    Dense,
    Step,
    affine,
    batch_norm,
    prelu,
    require,
    unsupported,
)
from mlpbank.convert._onnx_activations import (
    ACTIVATIONS,
    ELEMENTWISE,
    FLOATS,
    activation,
    activation_of,
)
from mlpbank.convert._onnx_evaluate import evaluate
from mlpbank.convert._recognise import agrees
from mlpbank.errors import InvalidValueError

Array = npt.NDArray[Any]

_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
# The attributes of each operation that are read or change no result. Any other is refused.
_KNOWN: dict[str, set[str]] = {
    **{
        op: set()
        for op in (*_ARITHMETIC, "MatMul", "Relu", "Tanh", "Sigmoid", "Softplus", "Identity")
    },
    **{op: set() for op in ("Mish", "HardSwish", "Softsign", "PRelu")},
    **{op: {"alpha"} for op in ("LeakyRelu", "Elu", "Celu", "Swish")},
    "Selu": {"alpha", "gamma"},
    "HardSigmoid": {"alpha", "beta"},
    **{op: {"axis"} for op in ("Softmax", "Flatten")},
    "Gemm": {"transA", "transB", "alpha", "beta"},
    "Gelu": {"approximate"},
    "BatchNormalization": {"epsilon", "momentum", "training_mode", "spatial"},
    "Scaler": {"offset", "scale"},
    "Dropout": {"ratio", "seed"},
    "Cast": {"to", "saturate", "round_mode"},
    "Reshape": {"allowzero"},
    "Squeeze": {"axes"},
}
_LONGEST = 32  # nodes; no activation has nearly as many
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# Operations that exporters apply to weights inside the graph. None makes an array larger.
_ON_CONSTANTS = {
    "Transpose",
    "Identity",
    "Cast",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Neg",
    "Sqrt",
}


def load(model: Any) -> Any:
    """Return a ModelProto from a ModelProto, its bytes, or the path of an .onnx file.

    Raises
    ------
    ValueError
        The file or bytes are no ONNX model, or the path has another suffix.
    OSError
        The file cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    name, path = "bytes", None
    if not isinstance(model, (bytes, bytearray, memoryview)):
        path = Path(os.fspath(model))
        name = str(path)
        if path.suffix.lower() != ".onnx":
            raise InvalidValueError(f"{name}: expected the path of an .onnx file")
    try:
        return onnx.load_model_from_string(bytes(model)) if path is None else onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # of protobuf, or a check of external data
        raise InvalidValueError(
            f"{name}: expected an ONNX model, got {str(error) or type(error).__name__}"
        ) from error


def steps(model: Any) -> list[Step]:
    """Return the chain of steps that a ModelProto computes.

    Raises
    ------
    UnsupportedLayerError
        The graph is no such chain, or has an unsupported node. The message names it.
    ValueError
        The model is not valid.
    """
    try:
        return _Graph(model).steps()
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        # Files are untrusted: a node may lack an input or attribute, or have a wrong type.
        raise InvalidValueError(
            f"expected a valid ONNX graph, got {type(error).__name__}: {error}"
        ) from error


class _Graph:
    """A graph that is walked from its input to its output."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        if graph.sparse_initializer:
            raise unsupported("", "sparse initializers are not supported")
        self.opsets = model.opset_import
        old = [o.version for o in self.opsets if o.domain in ("", "ai.onnx") and o.version < 7]
        if old:
            raise unsupported(
                "",
                f"opset {old[0]} is not supported; onnx.version_converter makes a later one of it",
            )
        if own := [f.name for f in model.functions if f.domain in _DOMAINS]:
            raise unsupported(
                "", f"{own[0]} is a function of the model's own, which may compute anything"
            )
        self.constants: dict[str, Array] = {t.name: _to_array(t) for t in graph.initializer}
        self.nodes: list[Any] = []  # all but the nodes of constants
        for node in graph.node:
            if not self._fold_constant(node):
                self.nodes.append(node)
        inputs = [v for v in graph.input if v.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise unsupported(
                "", f"expected one input and one output, got {len(inputs)} and {len(graph.output)}"
            )
        self.input, self.output = inputs[0].name, graph.output[0].name
        tensor = inputs[0].type.tensor_type
        # Rows of a bank are flat. A model with other inputs may begin with Flatten, which keeps
        # their order.
        self.flat = not tensor.HasField("shape") or len(tensor.shape.dim) == 2
        self.whole = tensor.elem_type not in (
            *FLOATS,
            TensorProto.FLOAT16,
            TensorProto.BFLOAT16,
            TensorProto.UNDEFINED,
        )
        # Features of a row; 0 if unknown.
        self.width = math.prod(dim.dim_value for dim in tensor.shape.dim[1:])

    def _fold_constant(self, node: Any) -> bool:
        """Compute a node if all its inputs are constants, and return whether they are."""
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            attributes = _attributes(node)
            kind, value = next(iter(attributes.items()), ("nothing", None))
            if kind == "value":
                value = _to_array(value)
            elif kind not in ("value_float", "value_floats", "value_int", "value_ints"):
                raise unsupported(_where(node), f"Constant of {kind} is not supported")
            self.constants[node.output[0]] = (
                np.asarray(value, np.float32) if "float" in kind else np.asarray(value)
            )
            return True
        if node.op_type in _ON_CONSTANTS and all(
            name in self.constants for name in node.input if name
        ):
            self.constants[node.output[0]] = evaluate(
                [node], node.output[0], {}, self.constants, self.opsets
            )
            return True
        return False

    def steps(self) -> list[Step]:
        chain: list[Step] = []
        tensor = self.input
        seen = set()
        while tensor != self.output:
            users = [node for node in self.nodes if tensor in node.input]
            # A valid graph has no circle, but files are untrusted.
            if tensor in seen or not users:
                raise unsupported(
                    tensor, "leads nowhere: the output does not depend on the input through a chain"
                )
            seen.add(tensor)
            node = users[0]
            if node.domain not in _DOMAINS or (node.domain == "ai.onnx.ml") != (
                node.op_type == "Scaler"
            ):
                raise unsupported(_where(node), f"{node.domain}.{node.op_type} is not supported")
            if len(users) == 1 and list(node.input).count(tensor) == 1:
                found = self._node(node, tensor)
                if found is not None:
                    chain += found
                    tensor = node.output[0]
                    continue
            step, tensor = self._region(tensor, users)
            chain.append(step)
        return chain

    def _node(self, node: Any, tensor: str) -> list[Step] | None:
        """Return the steps of one node, or None if only several nodes together are known."""
        where, attributes = _where(node), _attributes(node)
        op = node.op_type
        if unknown := sorted(attributes.keys() - _KNOWN.get(op, attributes.keys())):
            raise unsupported(where, f"{op} with {unknown[0]} is not supported")
        if self.whole and op not in ("Cast", "Scaler", "Identity", "Flatten", "Reshape"):
            raise unsupported(
                where, f"{op} of whole numbers is not supported; Cast to float has to stand first"
            )
        self.whole &= op not in ("Cast", "Scaler")
        if op in ("Gemm", "MatMul"):
            if not self.flat:
                raise unsupported(
                    where, f"{op} of inputs that are not flat; Flatten has to stand first"
                )
            return self._product(node, tensor, attributes, where)
        if op in _ARITHMETIC:
            return self._arithmetic(node, tensor, where)
        if op in ACTIVATIONS:
            return [activation(op, attributes, where)]
        if op == "PRelu":
            return [prelu(self._constant(node.input[1], where), where)]
        if op == "BatchNormalization":
            require(where, op, "spatial", attributes.get("spatial", 1), (1,))
            # Before opset 14, further outputs mean training mode.
            if attributes.get("training_mode", 0) or any(node.output[1:]):
                raise unsupported(where, "BatchNormalization is in training mode")
            gamma, beta, mean, variance = (self._constant(name, where) for name in node.input[1:5])
            return [batch_norm(mean, variance, gamma, beta, attributes.get("epsilon", 1e-5), where)]
        if op == "Scaler":
            return [_scaler(attributes, where)]
        if op == "Dropout":
            if len(node.input) > 2 and node.input[2] and self._constant(node.input[2], where).any():
                raise unsupported(where, "Dropout is in training mode")
            return []
        if op in ("Identity", "Cast"):
            if op == "Cast" and attributes["to"] not in FLOATS:
                raise unsupported(where, "Cast to anything but float or double is not supported")
            return []
        if op == "Flatten":
            require(where, "Flatten", "axis", attributes.get("axis", 1), (1,))
            self.flat = True
            return []
        if op == "Reshape":
            shape = self._constant(node.input[1], where).tolist()
            require(where, op, "allowzero", attributes.get("allowzero", 0), (0,))
            known = (self.width, -1) if self.width else range(-1, 2**62)
            if (
                len(shape) != 2
                or shape[0] not in (-1, 0)
                or shape[1] not in known
                or shape == [-1, -1]
                or not shape[1]
            ):
                raise unsupported(where, f"Reshape to {shape} does more than flatten rows")
            self.flat = True
            return []
        # At the end, Squeeze drops the dimension of a single output.
        if op == "Squeeze" and node.output[0] == self.output:
            axes = attributes.get("axes") or (
                self._constant(node.input[1], where).tolist() if node.input[1:] else None
            )
            require(where, "Squeeze", "axes", axes, ([-1], [1]))
            return []
        if op in ELEMENTWISE:
            return None
        raise unsupported(where, f"{op} is not supported")

    def _product(
        self, node: Any, tensor: str, attributes: dict[str, Any], where: str
    ) -> list[Step]:
        if node.input[0] != tensor:
            raise unsupported(where, f"{node.op_type} with the rows on its right is not supported")
        weight = self._constant(node.input[1], where)
        if weight.ndim != 2:
            raise unsupported(where, f"expected a matrix, got a constant of shape {weight.shape}")
        if weight.dtype.kind != "f":
            raise unsupported(where, f"expected floating-point weights, got {weight.dtype}")
        bias = None
        if node.op_type == "Gemm":
            require(where, "Gemm", "transA", attributes.get("transA", 0), (0,))
            if attributes.get("transB", 0):
                weight = weight.T
            alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
            if alpha != 1:
                weight = weight.astype(np.float64) * alpha
            if len(node.input) > 2 and node.input[2]:
                bias = _row(self._constant(node.input[2], where), where)
                if bias.size not in (1, weight.shape[1]):
                    raise unsupported(
                        where,
                        f"expected a bias for each of {weight.shape[1]} outputs, got {bias.size}",
                    )
                bias = np.broadcast_to(
                    bias if beta == 1 else bias.astype(np.float64) * beta, weight.shape[1:]
                )
        if self.width and weight.shape[0] != self.width:
            raise unsupported(where, f"expected {self.width} inputs, got {weight.shape[0]}")
        self.width = weight.shape[1]
        return [Dense(weight, bias, where)]

    def _arithmetic(self, node: Any, tensor: str, where: str) -> list[Step] | None:
        first = node.input[0] == tensor
        other = node.input[1 if first else 0]
        if other not in self.constants:
            return None
        value = _row(self.constants[other], where).astype(np.float64)
        if node.op_type == "Add":
            return [affine(1.0, value, where)]
        if node.op_type == "Mul":
            return [affine(value, 0.0, where)]
        if node.op_type == "Sub":
            return [affine(1.0, -value, where) if first else affine(-1.0, value, where)]
        if first and not value.all():
            raise unsupported(where, "a division by 0 is not supported")
        return [affine(1.0 / value, 0.0, where)] if first else None

    def _region(self, tensor: str, users: list[Any]) -> tuple[Step, str]:
        """Return the activation that several nodes form, and the name of their result.

        Opsets below 20 have no Gelu, and silu is x * Sigmoid(x), so exporters write several nodes.
        Of several regions the longest counts: exp(x) begins log(1 + exp(x)).
        """
        best: tuple[Step, str] | None = None
        region: list[Any] = []
        names = {tensor}
        for node in self.nodes:
            data = [name for name in node.input if name not in self.constants and name]
            if not data or not all(name in names for name in data):
                continue
            if (
                len(region) == _LONGEST
                or node.op_type not in ELEMENTWISE
                or node.domain not in ("", "ai.onnx")
            ):
                break
            if any(self.constants[name].size != 1 for name in node.input if name in self.constants):
                break
            region.append(node)
            names.add(node.output[0])
            inside = [id(n) for n in region]
            later = [n for n in self.nodes if id(n) not in inside]
            live = {
                name for name in names if name == self.output or any(name in n.input for n in later)
            }
            if live == {node.output[0]}:  # all paths of the region join here
                result = node.output[0]
                found = activation_of(region, result, tensor, self.constants)
                compute = partial(self._computed, region, result, tensor)
                if found is not None and agrees(compute, found):
                    best = found._replace(where=_where(node)), result
        if best is not None:
            return best
        where = _where(users[0])
        op = users[0].op_type
        if len(users) == 1 and region:
            raise unsupported(
                where, f"{op} is not supported, or not part of an activation mlpbank has"
            )
        raise unsupported(
            where,
            f"{op} begins what is neither a chain of layers nor an activation mlpbank has",
        )

    def _computed(self, region: list[Any], result: str, tensor: str, x: Array) -> Array:
        return evaluate(region, result, {tensor: x}, self.constants, self.opsets)

    def _constant(self, name: str, where: str) -> Array:
        if name not in self.constants:
            raise unsupported(where, f"expected {name!r} to be a constant, got a computed value")
        return self.constants[name]


def _where(node: Any) -> str:
    return str(node.name or node.output[0])


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _to_array(tensor: Any) -> Array:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise InvalidValueError(
            f"{tensor.name}: expected data inside the model, got a reference to a file; "
            "pass the path"
        )
    array: Array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def _row(array: Array, where: str) -> Array:
    """Return a constant for each feature, without leading dimensions of size 1."""
    if any(size != 1 for size in array.shape[:-1]):
        raise unsupported(where, f"expected a constant for each feature, got shape {array.shape}")
    return array.reshape(array.shape[-1:])


def _scaler(attributes: dict[str, Any], where: str) -> Step:
    """Return the step of a scaler as skl2onnx writes it: (x - offset) * scale."""
    scale = np.asarray(attributes.get("scale", [1.0]), np.float64)
    return affine(scale, -np.asarray(attributes.get("offset", [0.0]), np.float64) * scale, where)
