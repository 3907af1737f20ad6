"""ONNX models for the tests of mlpbank.convert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import Weights, one_model, random_weights
from mlpbank import Architecture, Bank, convert

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


class Builder:
    """Puts a graph together: nodes in a row, each taking the result of the one before."""

    def __init__(self, opset: int = 20) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.opset, self.x = opset, "x"

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op: str, *others: str, first: bool = True, **attributes: Any) -> str:
        """Append a node that takes the last result and other inputs."""
        y = f"t{len(self.nodes)}"
        inputs = [self.x, *others] if first else [*others, self.x]
        self.nodes.append(
            helper.make_node(op, inputs, [y], f"n{len(self.nodes)}_{op}", **attributes)
        )
        self.x = y
        return y

    def model(self, inputs: Any, outputs: int) -> Any:
        shape = [None, inputs] if isinstance(inputs, int) else inputs
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info(self.x, TensorProto.FLOAT, [None, outputs])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )


def run(model: Any, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def answers(model: Any, x: Any, output: int = 0) -> Any:
    """Return what onnxruntime makes of rows, which the inputs of the graph share out.

    A graph with a fixed batch gets so many rows at a time. A list of maps from labels, as ZipMap
    makes it, becomes an array.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Optimised, products with dequantised weights would round the rows to 8 bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    first = inputs[0].type.tensor_type.shape.dim
    step = first[0].dim_value or len(x)
    results = []
    for begin in range(0, len(x), step):
        at, given = 0, {}
        for value in inputs:
            sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
            width = int(np.prod(sizes))
            part = x[begin : begin + step, at : at + width].reshape(-1, *sizes)
            at += width
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            given[value.name] = part.astype(dtype)
        result = session.run(None, given)[output]
        if isinstance(result, list):
            result = np.array([list(labels.values()) for labels in result])
        results.append(np.asarray(result).reshape(step, -1))
    return np.concatenate(results)


def assert_as_onnxruntime(
    model: Any, width: int, output: int = 0, choice: str | int | None = None
) -> Architecture:
    """Check that a bank of the model computes its output, and return the architecture."""
    x = np.random.default_rng(5).uniform(-2, 2, (6, width)).astype(np.float32)
    expected = answers(model, x, output)
    got = Bank.from_models({"a": model}, output=choice).predict(["a"] * len(x), x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    return convert.convert(model, output=choice).architecture


def graph(
    nodes: Any,
    constants: Any = None,
    inputs: Any = (("x", ("N", 4)),),
    outputs: Any = ("y",),
    opset: int = 17,
    functions: Any = (),
    domains: Any = (),
    dtype: int = TensorProto.FLOAT,
) -> Any:
    """Return a model of nodes (operator, inputs, outputs, attributes) and constants by name."""
    made = []
    for op, given, results, *rest in nodes:
        attributes = dict(rest[0]) if rest else {}
        made.append(helper.make_node(op, given.split(), results.split(), **attributes))
    arrays = {
        name: np.asarray(a, np.float32) if dtype == TensorProto.FLOAT and wide else np.asarray(a)
        for name, a in (constants or {}).items()
        for wide in [np.asarray(a).dtype == np.float64]
    }
    return helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs],
            [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
            [numpy_helper.from_array(a, name) for name, a in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid(*o) for o in (("", opset), *domains)],
        ir_version=9,
        functions=functions,
    )


def weights_of(arch: Architecture, seed: int = 0) -> Weights:
    return one_model(random_weights(arch, 1, np.random.default_rng(seed)), 0)


def add_gelu(builder: Builder, form: str) -> None:
    """Append what exporters write where the opset has no Gelu."""
    x = builder.x
    if form == "tanh":
        builder.add("Pow", builder.constant(3.0))
        builder.add("Mul", builder.constant(0.044715))
        builder.add("Add", x)
        builder.add("Mul", builder.constant(0.7978845608028654))
        builder.add("Tanh")
    else:
        builder.add("Div", builder.constant(1.4142135623730951))
        builder.add("Erf")
    share = builder.add("Add", builder.constant(1.0))
    if form == "halved first":
        builder.x = x
        builder.add("Mul", builder.constant(0.5))
        builder.add("Mul", share)
    else:
        builder.add("Mul", x)
        builder.add("Mul", builder.constant(0.5))


def unary(op: str, opset: int = 20, **attributes: Any) -> Any:
    """Return a dense layer and a node."""
    builder = Builder(opset)
    builder.add("MatMul", builder.constant(np.eye(3)))
    builder.add(op, **attributes)
    return builder.model(3, 3)
