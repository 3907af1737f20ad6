"""Parts of an ONNX graph, computed with ONNX's reference evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

Array = npt.NDArray[Any]


def evaluate(
    nodes: Sequence[Any],
    result: str,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    opsets: Any,
) -> Array:
    """Return the tensor `result` that nodes compute from inputs and constants.

    With inputs, all floating-point numbers are float64.
    """
    from onnx.reference import ReferenceEvaluator

    given = dict(inputs)
    for node in nodes:
        given |= {name: constants[name] for name in node.input if name in constants}
    if inputs:
        given = {
            name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in given.items()
        }
    # A Cast to float32 would not match the float64 of the other values.
    kept = [_without_cast(node) for node in nodes] if inputs else nodes
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None)
        for n, a in given.items()
    ]
    out = helper.make_tensor_value_info(result, TensorProto.UNDEFINED, None)
    graph = helper.make_graph(kept, "part", values, [out])
    model = helper.make_model(graph, opset_imports=opsets)
    return np.asarray(ReferenceEvaluator(model).run(None, given)[0])


def _without_cast(node: Any) -> Any:
    return helper.make_node("Identity", node.input, node.output) if node.op_type == "Cast" else node
