"""ONNX graphs whose nodes change shapes, and leave rows apart, give what onnxruntime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert_checks import unsupported
from mlpbank import convert

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from onnx_graphs import assert_as_onnxruntime, graph

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3)).astype(np.float32)
B = RNG.normal(size=3).astype(np.float32)
W1 = RNG.normal(size=(4, 1)).astype(np.float32)
GEMM = ("Gemm", "f w b", "y")
WEIGHTS = {"w": W, "b": B}


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def dynamic(tail: Any, *middle: Any) -> Any:
    """Return nodes that reshape x to its own number of rows and `tail`, as PyTorch writes them."""
    return graph(
        [
            ("Shape", "x", "shape"),
            *middle,
            ("Gather", "shape zero", "n", {"axis": 0}),
            ("Unsqueeze", "n axes", "n1"),
            ("Concat", "n1 rest", "to", {"axis": 0}),
            ("Reshape", "x to", "f"),
            GEMM,
        ],
        {**WEIGHTS, "zero": np.array(0), "axes": integers(0), "rest": integers(*tail)},
        [("x", ("N", 2, 2))],
    )


RESHAPES: dict[str, Any] = {
    "fixed row": graph(
        [("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(1, -1)}, [("x", (1, 2, 2))]
    ),
    "fixed row by all sizes": graph(
        [("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(1, 4)}, [("x", (1, 2, 2))]
    ),
    "fixed rows": graph(
        [("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(3, -1)}, [("x", (3, 4, 1))]
    ),
    "row without a batch": graph(
        [("Reshape", "x s", "v"), ("MatMul", "v w", "y")],
        {**WEIGHTS, "s": integers(-1)},
        [("x", (1, 4))],
    ),
    "squeezed row": graph(
        [("Squeeze", "x", "v"), ("MatMul", "v w", "h"), ("Unsqueeze", "h s", "y")],
        {**WEIGHTS, "s": integers(0)},
        [("x", (1, 4))],
    ),
    "all but the rows": graph(
        [("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(-1, 4)}, [("x", ("N", 2, 2))]
    ),
    "rows kept by 0": graph(
        [("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(0, 4)}, [("x", ("N", 4, 1, 1))]
    ),
    "there and back": graph(
        [("Reshape", "x s", "c"), ("Squeeze", "c t", "f"), GEMM],
        {**WEIGHTS, "s": integers(-1, 4, 1, 1), "t": integers(2, 3)},
    ),
    "Shape, Gather, Unsqueeze, Concat": dynamic((-1,)),
    "with all sizes": dynamic((4,)),
    "cast as tf2onnx does": graph(
        [
            ("Shape", "x", "s64"),
            ("Cast", "s64", "s", {"to": TensorProto.INT32}),
            ("Slice", "s zero one zero", "n"),
            ("Concat", "n rest", "to32", {"axis": 0}),
            ("Cast", "to32", "to", {"to": TensorProto.INT64}),
            ("Reshape", "x to", "f"),
            GEMM,
        ],
        {
            **WEIGHTS,
            "zero": np.array([0], np.int32),
            "one": np.array([1], np.int32),
            "rest": np.array([4], np.int32),
        },
        [("x", ("N", 2, 2))],
    ),
    "product of the other sizes": graph(
        [
            ("Shape", "x", "n", {"start": 0, "end": 1}),
            ("Shape", "x", "others", {"start": 1}),
            ("ReduceProd", "others", "all", {"keepdims": 1}),
            ("Concat", "n all", "to", {"axis": 0}),
            ("Reshape", "x to", "f"),
            GEMM,
        ],
        WEIGHTS,
        [("x", ("N", 2, 2))],
    ),
    "flattened from the back": graph([("Flatten", "x", "f", {"axis": -1}), GEMM], WEIGHTS),
    "channels last": graph(
        [("Transpose", "x", "t", {"perm": [0, 2, 3, 1]}), ("Flatten", "t", "f"), GEMM],
        WEIGHTS,
        [("x", ("N", 4, 1, 1))],
    ),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_rows_are_kept_apart(name: str) -> None:
    assert_as_onnxruntime(RESHAPES[name], 4)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("Squeeze", "z", "y")], {}),
        ([("Squeeze", "z s", "y")], {"s": integers(-1)}),
        ([("Reshape", "z s", "y")], {"s": integers(-1)}),
        ([("Reshape", "z s", "y")], {"s": integers(-1, 1, 1)}),
        ([("Gather", "z s", "y", {"axis": 1})], {"s": np.array(0)}),
        ([("Gather", "z s", "y", {"axis": -1})], {"s": np.array(-1)}),
        ([("Slice", "z s e a", "y")], {"s": integers(0), "e": integers(1), "a": integers(1)}),
        ([("Flatten", "z", "y", {"axis": 0})], {}),
        ([("Transpose", "z", "y")], {}),
        ([("ReduceSum", "z s", "y", {"keepdims": 0})], {"s": integers(1)}),
        ([("ReduceMean", "z", "y", {"axes": [1], "keepdims": 0})], {}),
    ],
)
def test_a_single_output_may_lose_its_dimension(nodes: Any, constants: Any) -> None:
    chain = [("MatMul", "x w", "z"), *nodes]
    model = graph(chain, {"w": W1, **constants}, outputs=("y",))
    assert assert_as_onnxruntime(model, 4).output_size == 1


def test_a_squeeze_under_a_condition_on_the_shape() -> None:
    """PyTorch's older exporter writes squeeze(1) this way where it does not know the size."""

    def branch(name: str, op: str, *inputs: str) -> Any:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, inputs, [name])], name, [], [value])

    nodes = [
        ("MatMul", "x w", "z"),
        ("Shape", "z", "shape"),
        ("Gather", "shape one", "size", {"axis": 0}),
        ("Equal", "size one", "single"),
        (
            "If",
            "single",
            "v",
            {
                "then_branch": branch("a", "Squeeze", "z", "axis"),
                "else_branch": branch("b", "Identity", "z"),
            },
        ),
        ("Neg", "v", "y"),
    ]
    model = graph(nodes, {"w": W1, "one": np.array(1), "axis": integers(1)})
    assert_as_onnxruntime(model, 4)
    nodes[3] = ("Greater", "zero_of_x one", "single")
    nodes.insert(0, ("ReduceSum", "x", "zero_of_x", {"keepdims": 0}))
    model = graph(nodes, {"w": W1, "one": 1.0, "axis": integers(1)})
    del model.graph.node[2:4]
    with pytest.raises(convert.UnsupportedLayerError, match="ReduceSum over more than sizes of 1"):
        convert.convert(model)


LEFT: dict[str, Any] = {
    "MatMul": graph(
        [
            ("Transpose", "x", "t"),
            ("MatMul", "m t", "u"),
            ("Add", "u c", "v"),
            ("Transpose", "v", "y"),
        ],
        {"m": W.T.copy(), "c": B[:, None]},
    ),
    "Gemm of both transposed": graph(
        [("Gemm", "m x c", "v", {"transA": 1, "transB": 1}), ("Transpose", "v", "y")],
        {"m": W, "c": B[:, None]},
    ),
    "Gemm of rows transposed before": graph(
        [("Transpose", "x", "t"), ("Gemm", "t w b", "y", {"transA": 1, "alpha": 2.0, "beta": 0.5})],
        WEIGHTS,
    ),
    "fixed row as a column": graph(
        [("Transpose", "x", "t"), ("MatMul", "m t", "u"), ("Reshape", "u s", "y")],
        {"m": W.T.copy(), "s": integers(1, 3)},
        [("x", (1, 4))],
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_weights_on_the_left(name: str) -> None:
    assert_as_onnxruntime(LEFT[name], 4)


def test_rows_in_the_last_dimension_are_no_result() -> None:
    model = graph([("Transpose", "x", "t"), ("MatMul", "m t", "y")], {"m": W.T.copy()})
    with unsupported(
        "y: its shape (3, rows) is not that of one vector for each row; Flatten or Transpose has "
        "to stand last"
    ):
        convert.convert(model)


MIXED: dict[str, Any] = {
    "rows joined": (
        graph([("Reshape", "x s", "f"), GEMM], {**WEIGHTS, "s": integers(1, -1)}),
        "Reshape to",
    ),
    "rows split": (
        graph(
            [("Reshape", "x s", "f"), ("MatMul", "f m", "y")], {"m": W[:2], "s": integers(-1, 2)}
        ),
        "Reshape to",
    ),
    "features turned": (
        graph(
            [("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("Flatten", "t", "f"), GEMM],
            WEIGHTS,
            [("x", ("N", 2, 2))],
        ),
        "changes the order of features",
    ),
    "mean of features": (
        graph([("ReduceMean", "x", "y", {"axes": [1]})]),
        "ReduceMean over more than sizes of 1",
    ),
    "mean of rows": (
        graph([("ReduceMean", "x", "y", {"axes": [0]})]),
        "ReduceMean over more than sizes of 1",
    ),
    "one row": (
        graph([("Gather", "x i", "y", {"axis": 0})], {"i": np.array(0)}),
        "Gather along the rows",
    ),
    "number of rows": (
        graph([("Shape", "x", "s"), ("Cast", "s", "f", {"to": 1}), ("Mul", "x f", "y")]),
        "expected 'f' to be a constant",
    ),
    "softmax over rows": (
        graph([("MatMul", "x w", "h"), ("Softmax", "h", "y", {"axis": 0})], {"w": W}),
        "Softmax: expected axis 1",
    ),
    "softmax over single features": (
        graph(
            [("MatMul", "x w", "h"), ("Unsqueeze", "h s", "u"), ("Softmax", "u", "y")],
            {"w": W, "s": integers(2)},
        ),
        "Softmax: expected axis 1",
    ),
    "bias for rows": (
        graph([("MatMul", "x w", "h"), ("Add", "h c", "y")], {"w": W, "c": np.ones((3, 1))}),
        "expected a constant for each feature",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_rows_is_refused(name: str) -> None:
    model, message = MIXED[name]
    with pytest.raises(convert.UnsupportedLayerError, match=message):
        convert.convert(model)
