"""A bank as one batched ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from mlpbank.architecture import Activation, Architecture, LayerSpec
from mlpbank.convert._native import unflattened
from mlpbank.errors import InvalidValueError

# The nodes of each activation in opset 20, from x to y. Parameters of the layer are added to them.
_NODES: dict[Activation, list[tuple[str, list[str], str, dict[str, Any]]]] = {
    Activation.RELU: [("Relu", ["x"], "y", {})],
    Activation.TANH: [("Tanh", ["x"], "y", {})],
    Activation.SIGMOID: [("Sigmoid", ["x"], "y", {})],
    Activation.LEAKY_RELU: [("LeakyRelu", ["x"], "y", {})],
    Activation.ELU: [("Elu", ["x"], "y", {})],
    Activation.GELU: [("Gelu", ["x"], "y", {"approximate": "none"})],
    Activation.GELU_TANH: [("Gelu", ["x"], "y", {"approximate": "tanh"})],
    Activation.SILU: [("Sigmoid", ["x"], "share", {}), ("Mul", ["x", "share"], "y", {})],
    Activation.SOFTPLUS: [("Softplus", ["x"], "y", {})],
    Activation.CELU: [("Celu", ["x"], "y", {})],
    Activation.SELU: [("Selu", ["x"], "y", {})],
    Activation.MISH: [("Mish", ["x"], "y", {})],
    Activation.HARDSWISH: [("HardSwish", ["x"], "y", {})],
    Activation.HARDSIGMOID: [("HardSigmoid", ["x"], "y", {})],
    Activation.RELU6: [("Clip", ["x", "low", "high"], "y", {})],
    Activation.CLIP: [("Clip", ["x", "low", "high"], "y", {})],
    Activation.SOFTSIGN: [("Softsign", ["x"], "y", {})],
    Activation.EXP: [("Exp", ["x"], "y", {})],
    # ONNX has no expm1. Near 0 this is less exact than mlpbank.
    Activation.EXPM1: [("Exp", ["x"], "exp", {}), ("Sub", ["exp", "one"], "y", {})],
    Activation.PRELU: [("PRelu", ["x", "slope"], "y", {})],
    Activation.SOFTMAX: [("Softmax", ["x"], "y", {"axis": -1})],
}
_LARGEST = 2**31 - 2**20  # the limit of protobuf is 2 GiB; the rest is room for the nodes


def _constants(layer: LayerSpec, slopes: Any) -> dict[str, npt.NDArray[np.float32] | None]:
    """Return the inputs of an activation's nodes that are constants; None where there is none."""
    low, high = (0.0, 6.0) if layer.activation is Activation.RELU6 else (layer.low, layer.high)
    return {
        "low": None if low is None or np.isinf(low) else np.array(low, np.float32),
        "high": None if high is None or np.isinf(high) else np.array(high, np.float32),
        "one": np.array(1.0, np.float32),
        "slope": None if slopes is None else slopes[:, None, None],
    }


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
        constants = _constants(layer, arrays.get(f"{name}.slope"))
        attributes_of = {} if layer.activation is Activation.CLIP else layer.parameters
        for op, inputs, output, attributes in _NODES.get(layer.activation, ()):
            names = {"x": f"{name}.sum", "y": f"{name}.output"}
            given = []
            for part in inputs:
                if part in constants:
                    constant = constants[part]
                    if constant is not None:
                        initializers.append(numpy_helper.from_array(constant, f"{name}.{part}"))
                    given.append("" if constant is None else f"{name}.{part}")
                else:
                    given.append(names.get(part, f"{name}.{part}"))
            options = {**attributes, **attributes_of}
            to = names.get(output, f"{name}.{output}")
            nodes.append(helper.make_node(op, given, [to], f"{name}.{op}", **options))
            x = names["y"]
    nodes.append(helper.make_node("Identity", [x], ["output"], "output"))
    rows = helper.make_tensor_value_info(
        "input", TensorProto.FLOAT, [n, "rows", architecture.input_size]
    )
    result = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, [n, "rows", architecture.output_size]
    )
    graph = helper.make_graph(nodes, "mlpbank", [rows], [result], initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="mlpbank"
    )
    return model
