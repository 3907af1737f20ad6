"""A bank as one batched ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mlpbank.architecture import Activation, Architecture
from mlpbank.convert import _shift
from mlpbank.convert._native import unflattened
from mlpbank.errors import InvalidValueError

# The nodes of each activation in opset 20, from x to y.
_NODES: dict[Activation, list[tuple[str, list[str], str, dict[str, Any]]]] = {
    Activation.RELU: [("Relu", ["x"], "y", {})],
    Activation.TANH: [("Tanh", ["x"], "y", {})],
    Activation.SIGMOID: [("Sigmoid", ["x"], "y", {})],
    Activation.LEAKY_RELU: [("LeakyRelu", ["x"], "y", {"alpha": 0.01})],
    Activation.ELU: [("Elu", ["x"], "y", {"alpha": 1.0})],
    Activation.GELU: [("Gelu", ["x"], "y", {"approximate": "none"})],
    Activation.GELU_TANH: [("Gelu", ["x"], "y", {"approximate": "tanh"})],
    Activation.SILU: [("Sigmoid", ["x"], "share", {}), ("Mul", ["x", "share"], "y", {})],
    Activation.SOFTPLUS: [("Softplus", ["x"], "y", {})],
    Activation.SOFTMAX: [("Softmax", ["x"], "y", {"axis": -1})],
}
_LARGEST = 2**31 - 2**20  # the limit of protobuf is 2 GiB; the rest is room for the nodes


def export(architecture: Architecture, weights: Mapping[str, Any]) -> Any:
    """Return stacked models as one graph, as `mlpbank.convert.to_onnx` describes it."""
    arrays, _ = unflattened(weights, architecture, stacked=True)
    n = len(arrays["layer_0"])
    if (size := sum(array.nbytes for array in arrays.values())) > _LARGEST:
        raise InvalidValueError(
            f"weights: expected at most 2 GiB, as an ONNX file can hold, got {size / 2**30:.1f} GiB"
        )
    nodes, initializers = [], []
    x = "input"
    shift = _shift.of_weights(weights, architecture.input_size)
    if shift is not None:  # in float64, as a bank does
        initializers.append(numpy_helper.from_array(shift, "input_shift"))
        nodes.append(helper.make_node("Sub", ["input", "input_shift"], ["shifted"], "shift"))
        nodes.append(helper.make_node("Cast", ["shifted"], ["rows"], "cast", to=TensorProto.FLOAT))
        x = "rows"
    for i, layer in enumerate(architecture.layers):
        name = f"layer_{i}"
        for key, array in (
            (f"{name}.weight", arrays[name]),
            (f"{name}.bias", arrays[f"{name}.bias"][:, None, :]),
        ):
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), key))
        nodes.append(
            helper.make_node("MatMul", [x, f"{name}.weight"], [f"{name}.product"], f"{name}.MatMul")
        )
        nodes.append(
            helper.make_node(
                "Add", [f"{name}.product", f"{name}.bias"], [f"{name}.sum"], f"{name}.Add"
            )
        )
        x = f"{name}.sum"
        for op, inputs, output, attributes in _NODES.get(layer.activation, ()):
            names = {"x": f"{name}.sum", "y": f"{name}.output", "share": f"{name}.share"}
            given = [names[part] for part in inputs]
            nodes.append(helper.make_node(op, given, [names[output]], f"{name}.{op}", **attributes))
            x = names["y"]
    nodes.append(helper.make_node("Identity", [x], ["output"], "output"))
    rows = helper.make_tensor_value_info(
        "input",
        TensorProto.FLOAT if shift is None else TensorProto.DOUBLE,
        [n, "rows", architecture.input_size],
    )
    result = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, [n, "rows", architecture.output_size]
    )
    graph = helper.make_graph(nodes, "mlpbank", [rows], [result], initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="mlpbank"
    )
    return model
