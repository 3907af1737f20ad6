"""Normalisation that models begin with: its means may be large in every framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import command_line
from mlpbank import Architecture, Bank, convert

Rows = np.ndarray[Any, np.dtype[np.float64]]


def years() -> Rows:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(2015, 2026, 200), 1e5 + rng.integers(0, 9, 200)], axis=1) * 1.0


def truth(x: Rows, weights: Any) -> Rows:
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    hidden = np.maximum(z @ weights["layer_0"], 0)
    return np.asarray(hidden @ weights["layer_1"])


def random_weights() -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    return {"layer_0": rng.standard_normal((2, 8)), "layer_1": rng.standard_normal((8, 1))}


def assert_near(y: Any, right: Rows) -> None:
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)


def test_torch_modules_that_begin_with_batch_normalisation() -> None:
    torch = pytest.importorskip("torch")
    x, weights = years(), random_weights()
    net = torch.nn.Sequential(
        torch.nn.BatchNorm1d(2, eps=0.0, affine=False),
        torch.nn.Linear(2, 8, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 1, bias=False),
    ).double()
    with torch.no_grad():
        net[0].running_mean[:] = torch.tensor(x.mean(axis=0))
        net[0].running_var[:] = torch.tensor(x.var(axis=0))
        net[1].weight[:] = torch.tensor(weights["layer_0"].T)
        net[3].weight[:] = torch.tensor(weights["layer_1"].T)
    bank = Bank.from_models({"a": net.eval(), "b": net})
    assert_near(bank.predict("b", x), truth(x, weights))
    assert_near(bank.predict("b", x.astype(np.float32)), truth(x, weights))  # whole numbers


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_normalization() -> None:
    keras = pytest.importorskip("keras")
    x, weights = years(), random_weights()
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Normalization(mean=x.mean(axis=0), variance=x.var(axis=0)),
            keras.layers.Dense(8, "relu", use_bias=False),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    model.layers[-2].set_weights([weights["layer_0"]])
    model.layers[-1].set_weights([weights["layer_1"]])
    bank = Bank.from_models({"a": model})
    np.testing.assert_allclose(bank.predict("a", x), model.predict(x, verbose=0), atol=3e-3)
    assert bank.input_shift is not None


def shifted_bank() -> tuple[Bank, Rows]:
    x = years()
    bank = Bank(Architecture.mlp(2, 8, 1), fallback="a")
    bank.add("a", random_weights(), input_scaler=(x.mean(axis=0), x.std(axis=0)))
    bank.add("b", random_weights(), input_scaler=(x.mean(axis=0) + 3, x.std(axis=0)))
    assert bank.input_shift is not None
    return bank, x


def test_an_onnx_graph_subtracts_in_float64() -> None:
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    bank, x = shifted_bank()
    model = convert.to_onnx(*bank.to_stacked()[1:])
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"input": np.stack([x, x])})
    assert_near(y[0], truth(x, random_weights()))
    assert_near(y, bank.predict(["a", "b"], np.stack([x, x])))


def test_columns_of_an_onnx_graph_keep_the_digits() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx_graphs import graph

    x, weights = years(), random_weights()
    wide = np.stack([x[:, 1], np.zeros(len(x)), x[:, 0]], axis=1)
    constants = {
        "columns": np.array([2, 0]),
        "mean": x.mean(axis=0),
        "scale": x.std(axis=0),
        **weights,
    }
    nodes = [
        ("Gather", "x columns", "picked", {"axis": 1}),
        ("Sub", "picked mean", "centred"),
        ("Div", "centred scale", "z"),
        ("MatMul", "z layer_0", "hidden"),
        ("Relu", "hidden", "active"),
        ("MatMul", "active layer_1", "y"),
    ]
    model = graph(nodes, constants, [("x", ("N", 3))], dtype=onnx.TensorProto.DOUBLE)
    bank = Bank.from_models({"a": model})
    assert bank.input_shift is not None
    assert_near(bank.predict(["a"] * len(x), wide), truth(x, weights))


def test_commands_keep_the_digits(tmp_path: Path) -> None:
    bank, x = shifted_bank()
    bank.save(tmp_path / "bank.mlpbank")
    lines = ["who,year,count", *(f"a,{year:.0f},{count:.0f}" for year, count in x.tolist())]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    np.savez(tmp_path / "x.npz", who=np.full(len(x), "b"), year=x[:, 0], count=x[:, 1])
    right = bank.predict(["a", "b"], np.stack([x, x]))
    for file, expected in (("x.csv", right[0]), ("x.npz", right[1])):
        command_line.run(
            "predict",
            tmp_path / "bank.mlpbank",
            "--input",
            tmp_path / file,
            "--key",
            "who",
            "--output",
            tmp_path / "y.npy",
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    command_line.run("convert", tmp_path / "bank.mlpbank", tmp_path / "bank.safetensors")
    command_line.run(
        "convert", tmp_path / "bank.safetensors", tmp_path / "half.mlpbank", "--dtype", "float16"
    )
    half = Bank.open(tmp_path / "half.mlpbank")
    np.testing.assert_array_equal(half.input_shift, bank.input_shift)
    assert "input shift" in command_line.run("inspect", tmp_path / "half.mlpbank").stdout
