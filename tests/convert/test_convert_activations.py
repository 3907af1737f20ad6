"""Activations with parameters and learned slopes, as each framework has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import Float32Array
from convert_checks import assert_computes, rows, silently
from mlpbank import Architecture, Bank, InvalidValueError, LayerSpec, UnknownKeyError, convert
from mlpbank.convert import UnsupportedLayerError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torch_nets import expected  # noqa: E402


def network(activation: Any) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), activation, nn.Linear(4, 3)).eval()


def first_layer(converted: convert.Converted) -> LayerSpec:
    return converted.architecture.layers[0]


TORCH = [
    (nn.LeakyReLU(0.2), LayerSpec(5, 4, "leaky_relu", alpha=0.2)),
    (nn.LeakyReLU(1.5), LayerSpec(5, 4, "leaky_relu", alpha=1.5)),
    (nn.LeakyReLU(-0.3), LayerSpec(5, 4, "leaky_relu", alpha=-0.3)),
    (nn.LeakyReLU(0.0), LayerSpec(5, 4, "relu")),
    (nn.ELU(0.4), LayerSpec(5, 4, "elu", alpha=0.4)),
    (nn.CELU(1.3), LayerSpec(5, 4, "celu", alpha=1.3)),
    (nn.Hardtanh(), LayerSpec(5, 4, "clip", low=-1, high=1)),
    (nn.Hardtanh(-0.5, 0.25), LayerSpec(5, 4, "clip", low=-0.5, high=0.25)),
    (nn.Hardtanh(0.0, 6.0), LayerSpec(5, 4, "relu6")),
]


@pytest.mark.parametrize(("module", "spec"), TORCH, ids=lambda value: repr(value))
def test_torch_modules(module: Any, spec: LayerSpec) -> None:
    model = network(module)
    converted = convert.convert(model)
    assert first_layer(converted) == spec
    assert_computes(converted, rows(converted.architecture), expected(model, _rows()), times=4)


def _rows() -> Float32Array:
    return rows(Architecture.mlp(5, 3))


FUNCTIONS = {
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), {"alpha": 0.3}),
    "elu": (lambda x: F.elu(x, alpha=0.7, inplace=True), {"alpha": 0.7}),
    "celu": (lambda x: torch.celu(x, 0.6), {"alpha": 0.6}),
}
CLIPS = {
    "clamp": (lambda x: torch.clamp(x, -0.4, 0.9), {"low": -0.4, "high": 0.9}),
    "clip": (lambda x: x.clip(max=0.9), {"high": 0.9}),
    "clamp_min": (lambda x: x.clamp_min(-0.1), {"low": -0.1}),
    "hardtanh": (lambda x: F.hardtanh(x, -2.0, 0.1), {"low": -2.0, "high": 0.1}),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLIPS])
def test_torch_functions(name: str) -> None:
    function, options = (FUNCTIONS | CLIPS)[name]

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.b(function(self.a(x)))

    model = Net()
    converted = convert.convert(model)
    activation = "clip" if name in CLIPS else name
    assert first_layer(converted) == LayerSpec(5, 4, activation, **options)
    assert_computes(converted, _rows(), expected(model, _rows()), times=4)


@pytest.mark.parametrize("learned", [0.37, -0.2])
def test_a_slope_is_learned_by_each_model(learned: float) -> None:
    models = {}
    for key, slope in (("a", learned), ("b", 0.9)):
        model = network(nn.PReLU(1 if key == "a" else 4))
        with torch.no_grad():
            model[1].weight.fill_(slope)
        models[key] = model
    bank = Bank.from_models(models)
    assert bank.architecture.layers[0] == LayerSpec(5, 4, "prelu")
    x = np.stack([_rows()] * 2)
    y = bank.predict(["a", "b"], x)
    for i, model in enumerate(models.values()):
        np.testing.assert_allclose(y[i], expected(model, _rows()), rtol=1e-5, atol=1e-5)
    assert bank["a"]["layer_0.slope"] == np.float32(learned)
    bank.update({"a": models["b"]})
    np.testing.assert_array_equal(bank.predict(["a"], x[:1]), bank.predict(["b"], x[:1]))


def test_slopes_that_differ_between_outputs_are_refused() -> None:
    module = nn.PReLU(4)
    with torch.no_grad():
        module.weight[2] = 0.5
    with pytest.raises(
        UnsupportedLayerError, match=r"^1: expected one slope for all outputs, got 4"
    ):
        convert.convert(network(module))


def test_a_bound_that_is_no_number_is_refused() -> None:
    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 4)
            self.register_buffer("low", torch.zeros(4))

        def forward(self, x: Any) -> Any:
            return torch.clamp(self.a(x), self.low)

    with pytest.raises(UnsupportedLayerError, match="clamp: min: expected one number"):
        convert.convert(Net())


def graph(*nodes: Any, constants: dict[str, Any]) -> Any:
    """Return a graph of a dense layer, x to z, and these nodes, z to y."""
    rng = np.random.default_rng(3)
    constants = {"w": rng.standard_normal((5, 4)), "b": rng.standard_normal(4), **constants}
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), *nodes],
            "g",
            [value("x", onnx.TensorProto.FLOAT, [None, 5])],
            [value("y", onnx.TensorProto.FLOAT, [None, 4])],
            [
                numpy_helper.from_array(np.asarray(array, np.float32), name)
                for name, array in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


node = helper.make_node
ONNX: list[tuple[list[Any], dict[str, Any], LayerSpec]] = [
    ([node("LeakyRelu", ["z"], ["y"], alpha=0.2)], {}, LayerSpec(5, 4, "leaky_relu", alpha=0.2)),
    ([node("Elu", ["z"], ["y"], alpha=0.2)], {}, LayerSpec(5, 4, "elu", alpha=0.2)),
    ([node("Celu", ["z"], ["y"], alpha=2.0)], {}, LayerSpec(5, 4, "celu", alpha=2)),
    ([node("HardSigmoid", ["z"], ["y"])], {}, LayerSpec(5, 4, "hardsigmoid", alpha=0.2)),
    (
        [node("HardSigmoid", ["z"], ["y"], alpha=0.3, beta=0.4)],
        {},
        LayerSpec(5, 4, "hardsigmoid", alpha=0.3, beta=0.4),
    ),
    ([node("Clip", ["z", "l"], ["y"])], {"l": -0.5}, LayerSpec(5, 4, "clip", low=-0.5)),
    ([node("Clip", ["z", "", "h"], ["y"])], {"h": 0.5}, LayerSpec(5, 4, "clip", high=0.5)),
    ([node("Min", ["z", "h"], ["y"])], {"h": 0.5}, LayerSpec(5, 4, "clip", high=0.5)),
    ([node("PRelu", ["z", "s"], ["y"])], {"s": [0.4]}, LayerSpec(5, 4, "prelu")),
    ([node("PRelu", ["z", "s"], ["y"])], {"s": [0.4] * 4}, LayerSpec(5, 4, "prelu")),
    (
        [
            node("Softplus", ["z"], ["p"]),
            node("Tanh", ["p"], ["t"]),
            node("Mul", ["z", "t"], ["y"]),
        ],
        {},
        LayerSpec(5, 4, "mish"),
    ),
    (
        [node("Abs", ["z"], ["a"]), node("Add", ["a", "o"], ["s"]), node("Div", ["z", "s"], ["y"])],
        {"o": 1.0},
        LayerSpec(5, 4, "softsign"),
    ),
    (
        [
            node("Add", ["z", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["z", "c"], ["m"]),
            node("Div", ["m", "six"], ["y"]),
        ],
        {"three": 3.0, "zero": 0.0, "six": 6.0},
        LayerSpec(5, 4, "hardswish"),
    ),
    (
        [node("Mul", ["z", "k"], ["m"]), node("Max", ["m", "z"], ["y"])],
        {"k": 0.35},
        LayerSpec(5, 4, "leaky_relu", alpha=0.35),
    ),
]


@pytest.mark.parametrize(("nodes", "constants", "spec"), ONNX, ids=lambda value: repr(value)[:40])
def test_onnx_nodes(nodes: list[Any], constants: dict[str, Any], spec: LayerSpec) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = graph(*nodes, constants=constants)
    onnx.checker.check_model(model, full_check=True)
    converted = convert.convert(model)
    assert first_layer(converted) == spec
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert_computes(converted, _rows(), session.run(None, {"x": _rows()})[0], times=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (node("ThresholdedRelu", ["z"], ["y"], alpha=0.5), "ThresholdedRelu is not supported"),
        (node("Selu", ["z"], ["y"], alpha=1.0), "Selu: expected alpha 1.67"),
        (node("Celu", ["z"], ["y"], alpha=-1.0), "alpha: expected 1e-06 to 1e"),
        (node("PRelu", ["z", "s"], ["y"]), "expected one slope for all outputs, got 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.op_type,
)
def test_onnx_nodes_that_are_refused(given: Any, message: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=message):
        convert.convert(graph(given, constants={"s": [0.1, 0.2, 0.3, 0.4]}))


@pytest.mark.parametrize("slope", [0.25, [0.1, 0.2, 0.7]])
def test_weights_in_our_form_have_slopes(slope: Any) -> None:
    arch = Architecture([LayerSpec(3, 2, "prelu"), LayerSpec(2, 1)])
    weights = {
        "layer_0": np.ones((3, 3, 2)),
        "layer_1": np.ones((3, 2, 1)),
        "layer_0.slope": np.broadcast_to(slope, 3),
    }
    bank = Bank.from_stacked(["a", "b", "c"], arch, weights)
    y = bank.predict(["a", "b", "c"], np.full((3, 1, 3), -1.0))
    np.testing.assert_allclose(y[:, 0, 0], -6 * np.broadcast_to(slope, 3), rtol=1e-6)
    del weights["layer_0.slope"]
    with pytest.raises(UnknownKeyError, match=r"missing key 'layer_0\.slope', which 'prelu' has"):
        Bank.from_stacked(["a", "b", "c"], arch, weights)
    weights["layer_0.slope"] = np.zeros(2)
    with pytest.raises(InvalidValueError, match=r"layer_0\.slope: expected shape \(3,\)"):
        Bank.from_stacked(["a", "b", "c"], arch, weights)


@pytest.fixture(name="keras")
def imported_keras() -> Any:
    with silently():
        return pytest.importorskip("keras")


class TestKeras:
    @pytest.mark.parametrize(
        ("name", "spec"),
        [
            ("leaky_relu", LayerSpec(5, 4, "leaky_relu", alpha=0.2)),  # not the 0.3 of the layer
            ("hard_tanh", LayerSpec(5, 4, "clip", low=-1, high=1)),
            ("hard_swish", LayerSpec(5, 4, "hardswish")),
            ("exponential", LayerSpec(5, 4, "exp")),
        ],
    )
    def test_names(self, keras: Any, name: str, spec: LayerSpec) -> None:
        self.check(keras, [keras.layers.Dense(4, name)], spec)

    @pytest.mark.parametrize(
        ("layer", "options", "spec"),
        [
            ("LeakyReLU", {}, LayerSpec(5, 4, "leaky_relu", alpha=0.3)),
            ("LeakyReLU", {"negative_slope": 0.1}, LayerSpec(5, 4, "leaky_relu", alpha=0.1)),
            ("ReLU", {"negative_slope": 0.4}, LayerSpec(5, 4, "leaky_relu", alpha=0.4)),
            ("ReLU", {"max_value": 6.0}, LayerSpec(5, 4, "relu6")),
            ("ReLU", {"max_value": 0.5}, LayerSpec(5, 4, "clip", low=0, high=0.5)),
            ("ELU", {"alpha": 0.3}, LayerSpec(5, 4, "elu", alpha=0.3)),
            ("PReLU", {"shared_axes": [1]}, LayerSpec(5, 4, "prelu")),
        ],
    )
    def test_layers(self, keras: Any, layer: str, options: Any, spec: LayerSpec) -> None:
        made = getattr(keras.layers, layer)(**options)
        self.check(keras, [keras.layers.Dense(4), made], spec)

    def test_functions(self, keras: Any) -> None:
        for function, spec in (
            (lambda x: keras.activations.elu(x, 0.6), LayerSpec(5, 4, "elu", alpha=0.6)),
            (lambda x: keras.ops.clip(x, -0.3, 0.8), LayerSpec(5, 4, "clip", low=-0.3, high=0.8)),
            (
                lambda x: keras.ops.maximum(0.15 * x, x),
                LayerSpec(5, 4, "leaky_relu", alpha=0.15),
            ),
            (lambda x: keras.ops.exp(x) - 1, LayerSpec(5, 4, "expm1")),
        ):
            self.check(keras, [keras.layers.Dense(4, function)], spec)

    def check(self, keras: Any, layers: list[Any], spec: LayerSpec) -> None:
        model = keras.Sequential([keras.layers.Input((5,)), *layers, keras.layers.Dense(2)])
        for variable in model.variables:
            if variable.name == "alpha":
                variable.assign(np.full(variable.shape, 0.35))
        converted = convert.convert(model)
        assert first_layer(converted) == spec
        with silently():
            y = keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(_rows())))
        assert_computes(converted, _rows(), y, times=4)
