"""ONNX models give in a bank what they give in onnxruntime, and so do banks written as ONNX."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import ACTIVATIONS, Weights, one_model, raises, random_architecture, random_weights
from convert_checks import (
    SQUARE,
    assert_computes,
    assert_same_models,
    elementwise,
    rows,
    silently,
    unsupported,
)
from mlpbank import Activation, Architecture, BatchedInference, LayerSpec, _activations, convert
from tolerance import error_bound

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from onnx_graphs import Builder, add_gelu, run, unary, weights_of  # noqa: E402

NODES: dict[Activation, list[tuple[str, dict[str, Any]]]] = {
    Activation.NONE: [("Identity", {})],
    Activation.RELU: [("Relu", {})],
    Activation.TANH: [("Tanh", {})],
    Activation.SIGMOID: [("Sigmoid", {})],
    Activation.LEAKY_RELU: [("LeakyRelu", {}), ("LeakyRelu", {"alpha": 0.01})],
    Activation.ELU: [("Elu", {}), ("Elu", {"alpha": 1.0})],
    Activation.GELU: [("Gelu", {}), ("Gelu", {"approximate": "none"})],
    Activation.GELU_TANH: [("Gelu", {"approximate": "tanh"})],
    Activation.SILU: [("silu", {})],
    Activation.SOFTPLUS: [("Softplus", {})],
    Activation.CELU: [("Celu", {}), ("Celu", {"alpha": 1.0})],
    Activation.SELU: [("Selu", {}), ("Selu", {"alpha": 1.6732632, "gamma": 1.050701})],
    Activation.MISH: [("Mish", {})],
    Activation.HARDSWISH: [("HardSwish", {})],
    Activation.HARDSIGMOID: [("HardSigmoid", {"alpha": 1 / 6})],
    Activation.RELU6: [("Clip", {"low": 0, "high": 6})],
    Activation.CLIP: [("Clip", {"low": -1, "high": 2})],
    Activation.SOFTSIGN: [("Softsign", {})],
    Activation.EXP: [("Exp", {})],
    Activation.SOFTMAX: [("Softmax", {}), ("Softmax", {"axis": 1})],
}
IN_ONNX = tuple(NODES)  # has no expm1


def add_layer(builder: Builder, weights: Weights, i: int, rng: np.random.Generator) -> None:
    """Append layer i in a form that exporters write. None changes a bit of the weights."""
    matrix, bias = weights[f"layer_{i}"], weights[f"layer_{i}.bias"]
    kind = rng.integers(4)
    if kind == 0:
        builder.add("Gemm", builder.constant(matrix.T), builder.constant(bias), transB=1)
    elif kind == 1:
        builder.add(
            "Gemm",
            builder.constant(matrix * 2),
            builder.constant(bias[None] / 4),
            alpha=0.5,
            beta=4.0,
        )
    elif kind == 2:
        builder.add("MatMul", builder.constant(matrix))
        builder.add("Add", builder.constant(bias), first=bool(rng.integers(2)))
    else:
        turned = helper.make_node("Transpose", [builder.constant(matrix.T)], [f"w{i}"])
        builder.nodes.append(turned)
        builder.add("MatMul", f"w{i}")
        builder.add("Sub", builder.constant(-bias[None]))


def add_activation(builder: Builder, activation: Activation, rng: np.random.Generator) -> None:
    op, attributes = NODES[activation][rng.integers(len(NODES[activation]))]
    if op == "silu":
        x = builder.x
        share = builder.add("Sigmoid")
        builder.x = x
        builder.add("Mul", share)
    elif op == "Clip":
        builder.add(op, *map(builder.constant, attributes.values()))
    else:
        builder.add(op, **attributes)


@pytest.mark.parametrize("seed", range(30))
def test_chains_of_any_architecture(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    arch = random_architecture(rng, activations=IN_ONNX)
    weights = weights_of(arch, seed)
    builder = Builder()
    builder.add("Flatten")
    for i, spec in enumerate(arch.layers):
        add_layer(builder, weights, i, rng)
        add_activation(builder, spec.activation, rng)
        builder.add("Dropout" if rng.integers(2) else "Identity")
    model = builder.model(arch.input_size, arch.output_size)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    for given in (model, model.SerializeToString(), path, str(path)):
        assert_same_models(convert.convert(given), arch, weights)
    assert_computes(convert.convert(model), rows(arch), run(model, rows(arch)), times=4)


def add_norms(builder: Builder, truth: Any, rng: np.random.Generator) -> Any:
    """Append a normalisation and some arithmetic, and return what they make of rows in float64."""
    gamma, beta, mean, variance = (
        rng.uniform(0.3, 2, (4, truth.shape[1])).astype(np.float32).astype(np.float64)
    )
    builder.add(
        "BatchNormalization", *map(builder.constant, (gamma, beta, mean, variance)), epsilon=0.25
    )
    builder.add("Mul", builder.constant([2.0]))
    builder.add("Div", builder.constant(gamma))
    builder.add("Sub", builder.constant(beta), first=False)
    return beta - ((truth - mean) / np.sqrt(variance + 0.25) * gamma + beta) * 2 / gamma


@pytest.mark.parametrize("seed", range(10))
def test_what_folds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arch = random_architecture(rng, 20, IN_ONNX)
    weights = weights_of(arch, seed)
    builder = Builder()
    truth: Any = rows(arch).astype(np.float64)
    for i, spec in enumerate(arch.layers):
        truth = add_norms(builder, truth, rng)
        add_layer(builder, weights, i, rng)
        truth = truth @ weights[f"layer_{i}"].astype(np.float64) + weights[f"layer_{i}.bias"]
        truth = add_norms(builder, truth, rng)
        add_activation(builder, spec.activation, rng)
        truth = _activations.activated(spec, truth)
    model = builder.model(arch.input_size, arch.output_size)
    onnx.checker.check_model(model, full_check=True)
    converted = convert.convert(model)
    assert [spec.activation for spec in converted.architecture.layers] == [
        spec.activation for spec in arch.layers
    ]
    assert_computes(converted, rows(arch), truth)


@pytest.mark.parametrize(
    "form", ["erf", "halved first", "tanh", "softplus", "leaky_relu", "clip", "swish by hand"]
)
def test_activations_made_of_several_nodes(form: str) -> None:
    weights = weights_of(SQUARE)
    builder = Builder(13)
    builder.add(
        "Gemm", builder.constant(weights["layer_0"]), builder.constant(weights["layer_0.bias"])
    )
    x = builder.x
    if form == "softplus":
        builder.add("Exp")
        builder.add("Add", builder.constant(1.0))
        builder.add("Log")
    elif form == "leaky_relu":
        builder.add("Mul", builder.constant(0.01))
        builder.add("Max", x)
    elif form == "clip":
        builder.add("Clip", builder.constant(0.0))
    elif form == "swish by hand":
        builder.add("Neg")
        builder.add("Exp")
        builder.add("Add", builder.constant(1.0))
        builder.add("Div", x, first=False)
    else:
        add_gelu(builder, form)
    builder.add(
        "Gemm", builder.constant(weights["layer_1"]), builder.constant(weights["layer_1.bias"])
    )
    model = builder.model(6, 6)
    converted = convert.convert(model)
    expected = {
        "softplus": "softplus",
        "leaky_relu": "leaky_relu",
        "clip": "relu",
        "tanh": "gelu_tanh",
        "swish by hand": "silu",
    }
    arch = Architecture.mlp(6, 6, 6, activation=expected.get(form, "gelu"))
    assert_same_models(converted, arch, weights)
    assert_computes(converted, rows(arch), run(model, rows(arch)), times=4)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_what_pytorch_exports(opset: int) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    parts = [nn.BatchNorm1d(3), nn.Linear(3, 5)]
    for activation in (
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.LeakyReLU(),
        nn.ELU(),
        nn.Softplus(),
        nn.Dropout(),
    ):
        parts += [activation, nn.Linear(5, 5, bias=opset != 17)]
    module = nn.Sequential(*parts, nn.Softmax(-1)).eval()
    file = io.BytesIO()
    with silently():
        torch.onnx.export(module, (torch.ones(1, 3),), file, dynamo=False, opset_version=opset)
    converted = convert.convert(file.getvalue())
    assert converted.architecture == convert.convert(module).architecture
    with torch.no_grad():
        truth = module.double()(torch.tensor(rows(converted.architecture)).double())
    assert_computes(converted, rows(converted.architecture), truth, times=2)


def test_what_skl2onnx_makes_of_scalers() -> None:
    weights = weights_of(Architecture.mlp(2, 2))
    builder = Builder()
    builder.add("Scaler", domain="ai.onnx.ml", offset=[1.0, -2.0], scale=[0.5, 4.0])
    builder.add("MatMul", builder.constant(weights["layer_0"]))
    builder.add("Cast", to=TensorProto.FLOAT)
    builder.add("Add", builder.constant(weights["layer_0.bias"]))
    builder.add("Reshape", builder.constant([-1, 2], np.int64))
    x = rows(Architecture.mlp(2, 2))
    truth = (x.astype(np.float64) - [1, -2]) * [0.5, 4] @ weights["layer_0"] + weights[
        "layer_0.bias"
    ]
    assert_computes(convert.convert(builder.model(2, 2)), x, truth)


def test_square_layers_are_the_right_way_round() -> None:
    weights = weights_of(SQUARE)
    builder = Builder()
    builder.add(
        "Gemm",
        builder.constant(weights["layer_0"].T),
        builder.constant(weights["layer_0.bias"]),
        transB=1,
    )
    builder.add("Tanh")
    builder.add(
        "Gemm", builder.constant(weights["layer_1"]), builder.constant(weights["layer_1.bias"])
    )
    model = builder.model(6, 6)
    assert_computes(convert.convert(model), rows(SQUARE), run(model, rows(SQUARE)), times=4)
    turned = {name: array.T for name, array in weights.items()}
    with pytest.raises(AssertionError, match="times the bound"):
        assert_computes(
            convert.Converted(SQUARE, turned), rows(SQUARE), run(model, rows(SQUARE)), times=4
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_banks_as_one_batched_graph(activation: Activation) -> None:
    arch = elementwise(Architecture.mlp(5, 7, 7, 3), activation)
    weights = random_weights(arch, 6, np.random.default_rng(0))
    model = convert.to_onnx(arch, weights)
    onnx.checker.check_model(model, full_check=True)
    for count in (1, 4):
        x = np.random.default_rng(1).standard_normal((6, count, 5)).astype(np.float32)
        inference = BatchedInference(6, arch)
        inference.weights.load_stacked(weights)
        got = run(model, x)
        assert got.dtype == np.float32
        assert got.shape == (6, count, 3)
        assert (
            np.abs(got - inference.forward(x)) <= 4 * error_bound(arch, weights, x, fused=False)
        ).all()


@pytest.mark.parametrize("seed", range(8))
def test_banks_of_any_architecture_as_one_batched_graph(seed: int) -> None:
    arch = random_architecture(np.random.default_rng(seed))
    weights = random_weights(arch, 3, np.random.default_rng(seed))
    x = np.random.default_rng(1).standard_normal((3, 5, arch.input_size)).astype(np.float32)
    inference = BatchedInference(3, arch)
    inference.weights.load_stacked(weights)
    flat = {name: array.reshape(3, -1) for name, array in weights.items()}
    got = run(convert.to_onnx(arch, flat), x)
    assert (
        np.abs(got - inference.forward(x)) <= 4 * error_bound(arch, weights, x, fused=False)
    ).all()


def test_banks_that_no_onnx_file_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlpbank.convert import _onnx_export

    monkeypatch.setattr(_onnx_export, "_LARGEST", 100)
    with raises(
        ValueError, "weights: expected at most 2 GiB, as an ONNX file can hold, got 0.0 GiB"
    ):
        convert.to_onnx(SQUARE, random_weights(SQUARE, 2, np.random.default_rng(0)))


def test_weights_in_files_beside_the_model(tmp_path: Path) -> None:
    weights = weights_of(SQUARE)
    builder = Builder()
    builder.add("MatMul", builder.constant(weights["layer_0"]))
    model = builder.model(6, 6)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    np.testing.assert_array_equal(convert.convert(path).weights["layer_0"], weights["layer_0"])
    with raises(
        ValueError, "c0: expected data inside the model, got a reference to a file; pass the path"
    ):
        convert.convert(path.read_bytes())


def test_many_files_become_stacked_arrays(tmp_path: Path) -> None:
    stacked = random_weights(Architecture.mlp(3, 2), 3, np.random.default_rng(0))
    models = {}
    for i in range(3):
        builder = Builder()
        one = one_model(stacked, i)
        builder.add("Gemm", builder.constant(one["layer_0"]), builder.constant(one["layer_0.bias"]))
        models[f"m{i}"] = builder.model(3, 2).SerializeToString()
    keys, arch, weights = convert.stack(models)
    assert (keys, arch) == (["m0", "m1", "m2"], Architecture([LayerSpec(3, 2)]))
    for name, array in weights.items():
        np.testing.assert_array_equal(array, stacked[name])
    models["m3"] = unary("Sin").SerializeToString()
    with unsupported(
        "models['m3']: n1_Sin: Sin is not supported; onnx.utils.extract_model cuts it off where it "
        "stands first or last"
    ):
        convert.stack(models)
