"""Constants of an ONNX graph, and what depends on them only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from mlpbank.convert._chain import unsupported
from mlpbank.errors import InvalidValueError, MlpbankError

Array = npt.NDArray[Any]

STANDARD = ("", "ai.onnx")
_BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Greater"}
_BINARY |= {"GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Sum", "Mean", "Where"}
_UNARY = {"Abs", "Ceil", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Round", "Sign", "Sqrt"}
_UNARY |= {"Erf", "Relu", "Sigmoid", "Tanh", "Softplus", "Clip", "Identity", "Cast", "Softmax"}
_SHAPES = {"Concat", "Flatten", "Gather", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze"}
_SHAPES |= {
    "Transpose",
    "Unsqueeze",
    "Expand",
    "Tile",
    "Range",
    "ConstantOfShape",
    "GatherElements",
}
_SUMS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"}
_SUMS |= {"ReduceL2", "CumSum", "LpNormalization"}
_PRODUCTS = {"MatMul", "Gemm", "DequantizeLinear", "QuantizeLinear"}
_FOLDED = _BINARY | _UNARY | _SHAPES | _SUMS | _PRODUCTS
_MOST = 2**27  # elements of one constant: 512 MiB of float32, far above any model of a bank


def to_array(tensor: Any) -> Array:
    """Return the array of a TensorProto. Half precision becomes float32, which holds it exactly.

    Raises
    ------
    ValueError
        The data is in a file beside the model, or does not fit the shape.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise InvalidValueError(
            f"{tensor.name}: expected data inside the model, got a reference to a file; "
            "pass the path"
        )
    try:
        return _single(numpy_helper.to_array(tensor))
    except Exception as error:  # the data is untrusted
        raise InvalidValueError(f"{tensor.name}: expected a tensor, got {error}") from error


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def where_of(node: Any) -> str:
    """Return the place of a node in messages."""
    return str(node.name or (node.output[0] if node.output else node.op_type))


def fold(node: Any, constants: Mapping[str, Array], opsets: Any) -> dict[str, Array] | None:
    """Return the results of a node whose inputs all are constants, None for any other node.

    Raises
    ------
    UnsupportedLayerError, ValueError
        The results cannot be computed, or are too large.
    """
    if node.domain not in STANDARD:
        return None
    if node.op_type == "Constant":
        return {node.output[0]: _constant(node)}
    if node.op_type not in _FOLDED or any(name and name not in constants for name in node.input):
        return None
    where = where_of(node)
    try:
        if _largest(node, [constants[name] for name in node.input if name]) > _MOST:
            raise unsupported(where, f"{node.op_type} makes a constant of more than {_MOST} values")
        names = [name for name in node.output if name]
        if node.op_type == "DequantizeLinear":  # the evaluator has it from opset 19 on only
            return {names[0]: _dequantized(node, [constants[name] for name in node.input if name])}
        results = _evaluate([node], names, {}, constants, opsets)
    except MlpbankError:
        raise
    except Exception as error:  # of the evaluator, for a node or inputs that are not valid
        raise InvalidValueError(
            f"{where}: {node.op_type} of constants cannot be computed: {error}"
        ) from error
    return {name: _single(np.asarray(a)) for name, a in zip(names, results, strict=True)}


def _dequantized(node: Any, arrays: list[Array]) -> Array:
    """Return ``(x - zero_point) * scale``, each for all values or for each along one axis."""
    x, scale, *zeros = arrays
    attributes = attributes_of(node)
    if attributes.get("block_size", 0) or scale.ndim > 1:
        raise unsupported(where_of(node), "DequantizeLinear by blocks is not supported")
    shape = [1] * x.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[attributes.get("axis", 1)] = scale.size
    wide = x.astype(np.float32)
    if zeros:
        wide = wide - zeros[0].astype(np.float32).reshape(shape)
    return wide * scale.astype(np.float32).reshape(shape)


def _constant(node: Any) -> Array:
    kind, value = next(iter(attributes_of(node).items()), ("nothing", None))
    if kind == "value":
        return to_array(value)
    if kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise unsupported(where_of(node), f"Constant of {kind} is not supported")
    return np.asarray(value, np.float32 if "float" in kind else np.int64)


def _largest(node: Any, arrays: list[Array]) -> float:
    """Return a bound of how many values a node makes, before it makes them."""
    op = node.op_type
    sizes = [float(a.size) for a in arrays]
    if op == "ConstantOfShape":
        return math.prod(map(float, arrays[0].ravel().tolist()))
    if op == "Expand":
        return max(sizes[0], 1.0) * math.prod(max(1.0, float(v)) for v in arrays[1].ravel())
    if op == "Tile":
        return sizes[0] * math.prod(map(float, arrays[1].ravel().tolist()))
    if op == "Range":
        start, limit, delta = (float(a) for a in arrays)
        return abs((limit - start) / delta) if delta else math.inf
    if op in _BINARY:
        return float(math.prod(np.broadcast_shapes(*(a.shape for a in arrays))))
    if op in ("MatMul", "Gemm"):
        shared = max(1, min(max(a.shape, default=1) for a in arrays[:2]))
        return math.prod(sizes[:2]) / shared
    if op == "Gather":
        return math.prod(sizes)
    return sum(sizes)


def evaluate(
    nodes: Sequence[Any],
    result: str,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    opsets: Any,
) -> Array:
    """Return the tensor `result` that nodes compute from inputs and constants, all in float64."""
    wide = {name: a.astype(np.float64) for name, a in inputs.items()}
    for node in nodes:
        for name in node.input:
            if name in constants:
                a = constants[name]
                wide[name] = a.astype(np.float64) if a.dtype.kind == "f" else a
    # A Cast to float32 would not match the float64 of the other values.
    kept = [_without_cast(node) for node in nodes]
    return np.asarray(_evaluate(kept, [result], wide, {}, opsets)[0])


def _without_cast(node: Any) -> Any:
    return helper.make_node("Identity", node.input, node.output) if node.op_type == "Cast" else node


def _evaluate(
    nodes: Sequence[Any],
    results: Sequence[str],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    opsets: Any,
) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    given = dict(inputs)
    for node in nodes:
        given |= {name: constants[name] for name in node.input if name in constants}
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None)
        for n, a in given.items()
    ]
    outs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results]
    model = helper.make_model(helper.make_graph(nodes, "part", values, outs), opset_imports=opsets)
    return list(ReferenceEvaluator(model).run(None, given))
