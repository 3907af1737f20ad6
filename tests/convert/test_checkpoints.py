"""Training checkpoints around a state dict; lists and names of layers as frameworks give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidValueError, UnsupportedLayerError, convert

torch = pytest.importorskip("torch")

ARCHITECTURE = Architecture.mlp(2, 3, 3, 1, activation="tanh")


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    layer = torch.nn.Linear
    return torch.nn.Sequential(
        layer(2, 3), torch.nn.Tanh(), layer(3, 3), torch.nn.Tanh(), layer(3, 1)
    )


def check(params: Any, module: Any, **options: Any) -> None:
    bank = Bank(ARCHITECTURE)
    bank["a"] = convert.from_params(params, ARCHITECTURE, **options)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    y = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(bank.predict(["a"] * 5, x), y, rtol=1e-5, atol=1e-6)


def trained() -> dict[str, Any]:
    """What training code keeps beside a model, with an optimizer that has seen a step."""
    module = net()
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    adam.step()
    return {
        "optimizer_state_dict": adam.state_dict(),
        "lr_schedulers": [{"last_epoch": 3, "base_lrs": [0.1]}],
        "epoch": 7,
        "val_loss": torch.tensor(0.25),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "hyper_parameters": {"hidden": [3, 3], "lr": 1e-3},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "pytorch-lightning_version": "2.5.0",
    }


@pytest.mark.parametrize("name", ["state_dict", "model", "net", "weights", "policy", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.net."])
def test_the_model_of_a_checkpoint(name: str, prefix: str) -> None:
    module = net()
    state = {prefix + key: value for key, value in module.state_dict().items()}
    check({name: state} | trained(), module)
    check(trained() | {name: {"state_dict": state, "step": 3}}, module)


def test_several_models_are_told_and_not_chosen_from() -> None:
    for names in (("model", "model_ema"), ("actor", "critic"), ("model", "teacher")):
        checkpoint = trained() | {name: net(i).state_dict() for i, name in enumerate(names)}
        with pytest.raises(InvalidValueError, match=rf"one model, got '{names[0]}', '{names[1]}'"):
            convert.convert(checkpoint, ARCHITECTURE)
        check(checkpoint[names[1]], net(1))
    with pytest.raises(InvalidValueError, match="one model"):
        convert.convert({"model": net(0).state_dict(), "ema": net(1).state_dict()}, ARCHITECTURE)


@pytest.mark.parametrize(
    "beside",
    [
        {"x_mean": 3.5},
        {"scaler": {"mean_": np.ones(2), "scale_": np.ones(2)}},
        {"normalizer": {"mean": [1.0, 2.0]}},
        {"feature_stats": [[0.5, 2.0], [0.1, 1.0]]},
    ],
)
def test_what_may_belong_to_the_model_is_not_left_out(beside: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=f"{next(iter(beside))!r} beside 'model' may"):
        convert.convert({"model": net().state_dict(), "epoch": 3} | beside, ARCHITECTURE)


def test_a_tree_of_layers_is_no_checkpoint() -> None:
    """Also where a layer is called like the model of a checkpoint."""
    state = net().state_dict()
    tree = {
        name: {part: state[f"{i}.{part}"] for part in ("weight", "bias")}
        for i, name in ((0, "model"), (2, "hidden"), (4, "head"))
    }
    check(tree, net(), layers=["model", "hidden", "head"])


def arrays() -> list[Any]:
    return [tensor.numpy().T.copy() for tensor in net().state_dict().values()]


def test_a_flat_list_of_matrices_and_biases() -> None:
    check(arrays(), net(), weight_layout="in_out")
    with pytest.raises(InvalidValueError, match="weight_layout='in_out'"):
        convert.from_params(arrays(), ARCHITECTURE)
    with pytest.raises(UnsupportedLayerError, match=r"each with its bias.*\(3,\), \(3,\)"):
        convert.from_params([*arrays()[:2], np.ones(3), np.ones(3)], ARCHITECTURE)


@pytest.mark.parametrize("stem", ["dense", "linear", "mlp/~/linear", "fc"])
def test_frameworks_number_layers_from_the_second_on(stem: str) -> None:
    layers = [arrays()[i : i + 2] for i in (0, 2, 4)]
    tree = {
        f"{stem}_{i}" if i else stem: {"kernel": layers[i][0], "bias": layers[i][1]}
        for i in (2, 0, 1)
    }
    check(tree, net())
    square = Architecture.mlp(3, 3, 3)
    for names in (("fc1", "fc"), ("dense", "dense_2"), ("dense", "head")):
        with pytest.raises(InvalidValueError, match="do not tell the order"):
            convert.from_params({name: {"kernel": np.ones((3, 3))} for name in names}, square)


def test_the_orientation_is_known_for_names_that_a_framework_defines_alone() -> None:
    square = Architecture.mlp(3, 3)
    matrix = np.arange(9, dtype=np.float32).reshape(3, 3)
    for name, array in (("w", matrix), ("W", matrix), ("weight", matrix)):
        with pytest.raises(InvalidValueError, match="which way round"):
            convert.from_params({name: array}, square)
    with pytest.raises(InvalidValueError, match="which way round"):
        convert.from_params({"kernel": torch.from_numpy(matrix)}, square)
    for name, array, expected in (
        ("kernel", matrix, matrix),
        ("weight", torch.from_numpy(matrix), matrix.T),
    ):
        one = convert.from_params({name: array}, square)
        np.testing.assert_array_equal(one.weights["layer_0"], expected)


def test_a_shape_that_fits_the_other_way_round_is_told() -> None:
    with pytest.raises(InvalidValueError, match="fits with weight_layout='out_in'"):
        convert.from_params({"w": np.ones((3, 2))}, Architecture.mlp(2, 3), weight_layout="in_out")
    with pytest.raises(InvalidValueError, match="fits with weight_layout='out_in'"):
        convert.from_params({"kernel": np.ones((3, 2))}, Architecture.mlp(2, 3))


def test_layers_of_ensembles() -> None:
    """Biases (E, 1, out), as ``torch.baddbmm`` takes them."""
    rng = np.random.default_rng(3)
    architecture = Architecture.mlp(2, 3, 1)
    shapes = ((4, 2, 3), (4, 1, 3), (4, 3, 1), (4, 1, 1))
    w0, b0, w1, b1 = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    x = rng.normal(size=(4, 6, 2)).astype(np.float32)
    y = np.maximum(x @ w0 + b0, 0) @ w1 + b1
    params = {"l0": {"w": w0, "b": b0}, "l1": {"w": w1, "b": b1}}
    stacked = convert.from_stacked_params(params, architecture, weight_layout="in_out")
    own = {"layer_0": w0, "layer_0.bias": b0, "layer_1": w1, "layer_1.bias": b1}
    for weights in (stacked, own):
        bank = Bank.from_stacked(list("abcd"), architecture, weights)
        np.testing.assert_allclose(bank.predict(list("abcd"), x), y, rtol=1e-5, atol=1e-6)
