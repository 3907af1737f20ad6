"""Graphs as exporters and optimisers write them give in a bank what they give in onnxruntime."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from convert_checks import silently, unsupported
from mlpbank import Bank, convert

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from onnx_graphs import answers, assert_as_onnxruntime, graph  # noqa: E402

RNG = np.random.default_rng(1)
W = RNG.normal(size=(4, 3)).astype(np.float32)
B = RNG.normal(size=3).astype(np.float32)
V = RNG.normal(size=(3, 2)).astype(np.float32)


@pytest.mark.slow  # its package is in the extra `test-all` alone
def test_both_exporters_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, end: Any) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)
            self.end = end
            self.register_buffer("mean", torch.arange(4.0))

        def forward(self, x: Any) -> Any:
            x = x.view(x.size(0), -1) - self.mean
            return self.end(
                self.two(nn.functional.gelu(self.norm(self.one(x)), approximate="tanh"))
            )

    for end in (
        lambda y: y.squeeze(),
        lambda y: y.view(-1),
        lambda y: 3.0 * torch.tanh(y[:, 0]) - 1.0,
        lambda y: torch.clamp(torch.exp(y), 0.5, 2.0),
        lambda y: y.reshape(y.shape[0], -1),
    ):
        net = Net(end).eval()
        net.norm.running_mean.fill_(0.3)
        net.norm.running_var.fill_(2.0)
        for rows in (1, 3):
            for free in (True, False):
                x = torch.ones(rows, 4)
                file = io.BytesIO()
                axes = {"x": {0: "n"}} if free else None
                with silently():
                    torch.onnx.export(
                        net, (x,), file, dynamo=False, dynamic_axes=axes, input_names=["x"]
                    )
                assert_as_onnxruntime(onnx.load_model_from_string(file.getvalue()), 4)
                if free and rows == 1:
                    continue  # torch.export takes one row for a fixed size
                with silently():
                    shapes = ({0: "n"},) if free else None
                    program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=shapes)
                assert_as_onnxruntime(program.model_proto, 4)


def test_what_tf2onnx_writes() -> None:
    """MatMul and Add with initializers, Identity, a Squeeze, weights behind a Cast."""
    nodes = [
        ("Cast", "w16", "w", {"to": TensorProto.FLOAT}),
        ("MatMul", "x w", "model/dense/MatMul:0"),
        ("Add", "model/dense/MatMul:0 b", "model/dense/BiasAdd:0"),
        ("Softplus", "model/dense/BiasAdd:0", "model/dense/Softplus:0"),
        ("Reshape", "v_flat v_shape", "v"),
        ("MatMul", "model/dense/Softplus:0 v", "h"),
        ("Identity", "h", "Identity:0"),
    ]
    constants = {
        "w16": W.astype(np.float16),
        "b": B,
        "v_flat": V.ravel(),
        "v_shape": np.array([3, 2]),
    }
    assert_as_onnxruntime(graph(nodes, constants, outputs=("Identity:0",), opset=13), 4)


def test_what_matlab_writes() -> None:
    """Rows as images of one pixel, a mean of four dimensions, layers as convolutions' shapes."""
    nodes = [
        ("Sub", "x mean", "zero_centred"),
        ("Div", "zero_centred deviation", "input"),
        ("Flatten", "input", "flat"),
        ("Gemm", "flat w b", "fc1", {"transB": 1}),
        ("BatchNormalization", "fc1 g b m v", "norm", {"epsilon": 1e-3}),
        ("LeakyRelu", "norm", "act", {"alpha": 0.1}),
        ("Gemm", "act u c", "fc2", {"transB": 1}),
        ("Softmax", "fc2", "y"),
    ]
    constants = {
        "mean": RNG.normal(size=(1, 4, 1, 1)),
        "deviation": RNG.uniform(1, 2, (1, 4, 1, 1)),
        "w": W.T,
        "b": B,
        **{name: RNG.uniform(0.5, 1, 3) for name in "gmv"},
        "u": V.T,
        "c": np.ones(2),
    }
    assert_as_onnxruntime(graph(nodes, constants, [("x", ("N", 4, 1, 1))], opset=13), 4)
    nodes[2:3] = [("GlobalAveragePool", "input", "mean1"), ("Squeeze", "mean1 s", "flat")]
    constants["s"] = np.array([2, 3])
    assert_as_onnxruntime(graph(nodes, constants, [("x", ("N", 4, 1, 1))], opset=13), 4)
    nodes[2:4] = [("ReduceMean", "input", "flat", {"axes": [2, 3], "keepdims": 0})]
    assert_as_onnxruntime(graph(nodes, constants, [("x", ("N", 4, 1, 1))], opset=13), 4)


def test_what_keras_writes_for_inputs_by_name() -> None:
    nodes = [
        ("Reshape", "age column", "a"),
        ("Unsqueeze", "height axis", "h"),
        ("Concat", "a h both", "x", {"axis": -1}),
        ("MatMul", "x w", "s"),
        ("Add", "s b", "y"),
    ]
    constants = {"column": np.array([-1, 1]), "axis": np.array([1]), "w": W, "b": B}
    inputs = [("age", ("N",)), ("both", ("N", 2)), ("height", ("N",))]
    model = graph(nodes, constants, inputs)
    # Rows are the inputs in the order of the graph: age, both, height.
    assert_as_onnxruntime(model, 4)


COLUMNS: dict[str, Any] = {
    "in another order": [("Concat", "c a d b", "x", {"axis": 1})],
    "scaled before": [
        ("Mul", "a two", "e"),
        ("Sub", "e two", "f"),
        ("Concat", "f b c d", "x", {"axis": 1}),
    ],
    "one of them twice": [("Concat", "a b a d", "x", {"axis": 1})],
    "in groups": [
        ("Concat", "d b", "p", {"axis": 1}),
        ("Mul", "p scales", "q"),
        ("Concat", "q c a", "x", {"axis": -1}),
    ],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_an_input_for_each_column(name: str) -> None:
    nodes = [*COLUMNS[name], ("Gemm", "x w b_", "h"), ("Relu", "h", "r"), ("MatMul", "r v", "y")]
    constants = {"w": W, "b_": B, "v": V, "two": 2.0, "scales": np.array([3.0, -1.0], np.float32)}
    model = graph(nodes, constants, [(column, ("N", 1)) for column in "abcd"])
    assert assert_as_onnxruntime(model, 4).input_size == 4
    assert convert.convert(model).feature_names == ("a", "b", "c", "d")


PICKED: dict[str, Any] = {
    "Gather": [("Gather", "x i", "p", {"axis": 1})],
    "Slice": [("Slice", "x s e a", "p")],
    "Slice backwards": [("Slice", "x last first a back", "p")],
    "Split": [("Split", "x sizes", "q p o", {"axis": 1})],
}


@pytest.mark.parametrize("name", PICKED)
def test_some_columns_of_an_input(name: str) -> None:
    constants = {
        "i": np.array([2, 0, -1]),
        **{k: np.array([v]) for k, v in {"s": 1, "e": 4, "a": 1, "last": -1, "back": -1}.items()},
        "first": np.array([-5]),
        "sizes": np.array([1, 3, 1]),
    }
    n = 5 if name == "Slice backwards" else 3
    constants["w"] = RNG.normal(size=(n, 2)).astype(np.float32)
    constants["m"] = RNG.normal(size=n).astype(np.float32)
    nodes = [*PICKED[name], ("Mul", "p m", "k"), ("MatMul", "k w", "y")]
    if name == "Slice backwards":
        constants["first"] = np.array([-(2**63)])
    model = graph(nodes, constants, [("x", ("N", 5))])
    assert assert_as_onnxruntime(model, 5).input_size == 5
    before = graph([*PICKED[name], ("Tanh", "p", "k"), ("MatMul", "k w", "y")], constants,
                   [("x", ("N", 5))])  # fmt: skip
    assert_as_onnxruntime(before, 5)


def test_some_results_of_a_layer() -> None:
    chain = [("MatMul", "x w", "h"), ("Tanh", "h", "t"), ("Mul", "t s", "u")]
    constants = {"w": W, "s": np.array([1.0, 2.0, 3.0]), "i": np.array([2, 0])}
    model = graph([*chain, ("Gather", "u i", "y", {"axis": 1})], constants)
    assert assert_as_onnxruntime(model, 4).output_size == 2
    chain[1] = ("Softmax", "h", "t")
    with pytest.raises(convert.UnsupportedLayerError, match="picks some outputs of a softmax"):
        convert.convert(graph([*chain[:2], ("Gather", "t i", "y", {"axis": 1})], constants))


@pytest.mark.parametrize("end", ["Tanh", "Sigmoid"])
def test_scales_and_bounds_behind_the_last_activation(end: str) -> None:
    chain = [("MatMul", "x w", "h"), (end, "h", "u")]
    constants = {
        "w": W,
        "low": np.array([-1.0, 5.0, 0.0]),
        "span": np.array([4.0, 0.5, 2.0]),
        "min": np.array(-0.5, np.float32),
        "max": np.array(5.2, np.float32),
    }
    scaled = [*chain, ("Mul", "u span", "v"), ("Add", "low v", "y")]
    assert_as_onnxruntime(graph(scaled, constants), 4)
    assert_as_onnxruntime(graph([*scaled[:-1], ("Add", "low v", "z"), ("Clip", "z min max", "y")],
                                constants), 4)  # fmt: skip
    bounded = [*chain, ("Max", "u min", "v"), ("Min", "v max", "y")]
    assert_as_onnxruntime(graph(bounded, constants), 4)


def test_functions_are_inlined() -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    silu = helper.make_function(
        "own",
        "Silu",
        ["a"],
        ["b"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])],
        opset[:1],
    )
    layer = helper.make_function(
        "own",
        "Layer",
        ["a", "m"],
        ["c"],
        [
            helper.make_node("MatMul", ["a", "m"], ["p"]),
            helper.make_node("Silu", ["p"], ["c"], domain="own"),
        ],
        opset,
    )
    nodes = [
        ("Layer", "x w", "h", {"domain": "own"}),
        ("Layer", "h v", "y", {"domain": "own"}),
    ]
    model = graph(nodes, {"w": W, "v": V}, functions=[silu, layer], domains=[("own", 1)])
    architecture = assert_as_onnxruntime(model, 4)
    assert [spec.activation.value for spec in architecture.layers] == ["silu", "silu"]


FUSED: dict[str, Any] = {
    "Gemm and Relu": [("FusedGemm", "x w b", "y", {"activation": "Relu"})],
    "Gemm and LeakyRelu": [
        ("FusedGemm", "x m b", "y", {"activation": "LeakyRelu", "activation_alpha": 0.3,
                                     "transB": 1, "alpha": 0.5}),
    ],
    "MatMul": [("FusedMatMul", "x m", "y", {"transB": 1, "alpha": 3.0})],
    "Gelu": [("MatMul", "x w", "h"), ("Gelu", "h", "y")],
    "BiasGelu": [("MatMul", "x w", "h"), ("BiasGelu", "h b", "y")],
    "FastGelu": [("MatMul", "x w", "h"), ("FastGelu", "h b", "y")],
    "QuickGelu": [("MatMul", "x w", "h"), ("QuickGelu", "h", "y", {"alpha": 1.0})],
}  # fmt: skip


def fused(name: str) -> Any:
    nodes = [
        (op, *given[:2], {**(given[2] if given[2:] else {}), "domain": "com.microsoft"})
        if op != "MatMul"
        else (op, *given)
        for op, *given in FUSED[name]
    ]
    constants = {"w": W, "m": W.T.copy(), "b": B}
    return graph(nodes, constants, domains=[("com.microsoft", 1)])


@pytest.mark.parametrize("name", FUSED)
def test_what_the_optimiser_of_onnxruntime_fuses(name: str) -> None:
    assert_as_onnxruntime(fused(name), 4)


def test_fused_nodes_that_no_layer_computes() -> None:
    model = fused("QuickGelu")
    model.graph.node[1].attribute[0].f = 1.702
    with pytest.raises(
        convert.UnsupportedLayerError, match=r"Swish: expected alpha 1\.0, got 1\.7"
    ):
        convert.convert(model)
    model = fused("Gemm and Relu")
    model.graph.node[0].attribute[0].s = b"ThresholdedRelu"
    with unsupported("y: FusedGemm with activation ThresholdedRelu is not supported"):
        convert.convert(model)


def test_weights_that_are_computed_from_constants() -> None:
    quantised = np.clip(np.round(W / 0.02), -128, 127).astype(np.int8)
    nodes = [
        ("Constant", "", "scale", {"value": numpy_helper.from_array(np.float32(0.02), "s")}),
        ("DequantizeLinear", "q scale zero", "w"),
        ("Shape", "w", "shape"),
        ("Gather", "shape one", "outputs", {"axis": 0}),
        ("Unsqueeze", "outputs first", "size"),
        (
            "ConstantOfShape",
            "size",
            "b",
            {"value": numpy_helper.from_array(np.float32([0.5]), "f")},
        ),
        ("Range", "start limit step", "ramp"),
        ("Gemm", "x w b", "h"),
        ("Mul", "h ramp", "y"),
    ]
    constants = {
        "q": quantised,
        "zero": np.array(1, np.int8),
        "one": np.array(1),
        "first": np.array([0]),
        "start": 1.0,
        "limit": 4.0,
        "step": 1.0,
    }
    assert_as_onnxruntime(graph(nodes, constants), 4)


def test_constants_that_do_not_fit_memory_are_refused() -> None:
    nodes = [("ConstantOfShape", "size", "w"), ("MatMul", "x w", "y")]
    with pytest.raises(convert.UnsupportedLayerError, match="w: ConstantOfShape makes a constant"):
        convert.convert(graph(nodes, {"size": np.array([4, 2**40])}))
    nodes = [("Expand", "one size", "w"), ("MatMul", "x w", "y")]
    with pytest.raises(convert.UnsupportedLayerError, match="w: Expand makes a constant"):
        convert.convert(graph(nodes, {"one": 1.0, "size": np.array([4, 2**40])}))


def test_half_and_double_precision() -> None:
    """A bank computes in float32, so a graph in half precision agrees to that precision."""
    nodes = [
        ("Cast", "x", "x16", {"to": TensorProto.FLOAT16}),
        ("Gemm", "x16 w b", "h"),
        ("Relu", "h", "r"),
        ("Cast", "r", "y", {"to": TensorProto.FLOAT}),
    ]
    half = graph(nodes, {"w": W.astype(np.float16), "b": B.astype(np.float16)})
    x = RNG.uniform(-1, 1, (5, 4)).astype(np.float32)
    got = Bank.from_models({"a": half}).predict(["a"] * 5, x)
    np.testing.assert_allclose(got, answers(half, x), atol=5e-3)
    np.testing.assert_array_equal(
        convert.convert(half).weights["layer_0"], W.astype(np.float16).astype(np.float32)
    )
    wide = graph(
        [("Gemm", "x w b", "h"), ("Cast", "h", "y", {"to": TensorProto.FLOAT})],
        {"w": W.astype(np.float64), "b": B.astype(np.float64)},
        dtype=TensorProto.DOUBLE,
    )
    wide.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert_as_onnxruntime(wide, 4)


def test_a_cast_to_the_type_of_another_tensor() -> None:
    nodes = [("CastLike", "x one", "z"), ("MatMul", "z w", "h"), ("CastLike", "h x", "y")]
    assert_as_onnxruntime(graph(nodes, {"w": W, "one": np.float32(1)}), 4)
    with unsupported("z: CastLike to anything but floating point is not supported"):
        convert.convert(graph(nodes, {"w": W, "one": np.int64(1)}))


def test_a_linear_regressor_is_a_layer() -> None:
    attributes = {
        "coefficients": W.T.ravel().tolist(),
        "intercepts": B.tolist(),
        "targets": 3,
        "domain": "ai.onnx.ml",
    }
    model = graph([("LinearRegressor", "x", "y", attributes)], domains=[("ai.onnx.ml", 1)])
    assert_as_onnxruntime(model, 4)
    model = graph([("LinearClassifier", "x", "label y", {"domain": "ai.onnx.ml"})])
    with unsupported(
        "label: ai.onnx.ml.LinearClassifier is not supported; its scores are no layer's; pass the "
        "classifier itself, or its weights"
    ):
        convert.convert(model)
