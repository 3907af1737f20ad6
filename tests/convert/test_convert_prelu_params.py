"""Slopes of PReLU in parameters without a model: taken where it is clear whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidValueError, LayerSpec, UnsupportedLayerError, convert

torch = pytest.importorskip("torch")
nn = torch.nn

PRELU = Architecture.mlp(4, 8, 8, 2, activation="prelu")
RELU = Architecture.mlp(4, 8, 8, 2)


def net(seed: int = 0, slopes: int = 1) -> Any:
    torch.manual_seed(seed)
    parts = [nn.Linear(4, 8), nn.PReLU(slopes), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 2)]
    module = nn.Sequential(*parts)
    nn.init.constant_(module[1].weight, 0.1 + seed)
    nn.init.constant_(module[3].weight, -0.3)
    return module


def check(weights: Any, module: Any) -> None:
    bank = Bank(PRELU)
    bank["a"] = weights
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(bank.predict(["a"] * 5, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("slopes", [1, 8])
def test_slopes_of_a_state_dict(slopes: int) -> None:
    module = net(slopes=slopes)
    check(module.state_dict(), module)
    check(convert.convert(module.state_dict(), PRELU).weights, module)


@pytest.mark.parametrize("slopes", [1, 8])
def test_slopes_of_stacked_parameters(slopes: int) -> None:
    modules = [net(seed, slopes) for seed in range(3)]
    params, _ = torch.func.stack_module_state(modules)
    weights = convert.from_stacked_params(params, PRELU)
    assert weights["layer_0.slope"].shape == (3,)
    for i, module in enumerate(modules):
        check({name: array[i] for name, array in weights.items()}, module)


def test_slopes_of_flat_vectors() -> None:
    module = net()
    vector = nn.utils.parameters_to_vector(module.parameters()).detach()
    for order in ("weight,bias,slope", [f"layer_{i}{s}" for i in (0, 1) for s in PARTS] + LAST):
        weights = convert.from_flat(vector, PRELU, order=order, weight_layout="out_in")
        check(weights, module)
    with pytest.raises(InvalidValueError, match="PyTorch has 'weight,bias,slope'"):
        convert.from_flat(vector, PRELU, order="weight,bias", weight_layout="out_in")
    with pytest.raises(InvalidValueError, match=r"\(32 of layer_0, 8 of layer_0.bias, 64 of"):
        convert.from_flat(vector, RELU, order="weight,bias", weight_layout="out_in")


PARTS = ("", ".bias", ".slope")
LAST = ["layer_2", "layer_2.bias"]


@pytest.mark.parametrize("name", ["negative_slope", "alpha", "negative_alpha"])
def test_slopes_of_other_frameworks(name: str) -> None:
    module = net()
    params: dict[str, Any] = {}
    for i, layer in enumerate((module[0], module[2], module[4])):
        kernel = layer.weight.detach().numpy().T
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": layer.bias.detach().numpy()}
    for i, act in enumerate((module[1], module[3])):
        params[f"PReLU_{i}"] = {name: act.weight.detach().numpy().reshape(())}
    check(convert.convert({"params": params}, PRELU).weights, module)


def test_names_that_do_not_tell_whose_they_are() -> None:
    module, parts = net(), ("enc", "a", "mid", "b", "head")
    state = {f"{parts[int(n[0])]}{n[1:]}": array for n, array in module.state_dict().items()}
    with pytest.raises(InvalidValueError, match=r"names \['a', 'b'\] do not tell the order"):
        convert.from_params(state, PRELU)
    check(convert.from_params(state, PRELU, layers=parts).weights, module)
    other = Architecture([LayerSpec(4, 8, "prelu"), LayerSpec(8, 8, "relu"), LayerSpec(8, 2)])
    with pytest.raises(UnsupportedLayerError, match=r"expected 1 PReLU, .*got 2 \(a, b\)"):
        convert.from_params(state, other, layers=parts)


def test_a_vector_is_told_what_it_may_be() -> None:
    with pytest.raises(UnsupportedLayerError) as refused:
        convert.convert(net().state_dict(), RELU)
    message = str(refused.value)
    assert message.startswith("1: its weights have shape (1,), as the slopes of PReLU")
    assert "pass the module itself" in message
    assert "LayerSpec(4, 8, 'prelu')" in message


def test_slopes_at_another_layer_are_refused() -> None:
    state = {name: array for name, array in net().state_dict().items() if name != "3.weight"}
    other = Architecture([LayerSpec(4, 8), LayerSpec(8, 8, "prelu"), LayerSpec(8, 2)])
    expected = "expected 'prelu' as activation of layer 0, behind which the parameters have 1, "
    with pytest.raises(InvalidValueError, match=expected + "got it for layer 1"):
        convert.convert(state, other)


def test_slopes_that_differ_are_refused() -> None:
    state = net(slopes=8).state_dict()
    state["1.weight"] = torch.arange(8.0)
    with pytest.raises(UnsupportedLayerError, match=r"1: expected one slope .* 8 that differ"):
        convert.convert(state, PRELU)
    state["1.weight"] = torch.ones(5)
    with pytest.raises(UnsupportedLayerError, match="1: expected 1 or 8 slopes"):
        convert.convert(state, PRELU)


def test_one_prelu_of_several_layers_is_refused() -> None:
    state = {name: array for name, array in net().state_dict().items() if name != "3.weight"}
    with pytest.raises(UnsupportedLayerError, match=r"share one PReLU.*pass the module itself"):
        convert.convert(state, PRELU)


def test_normalisation_is_no_prelu() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with pytest.raises(UnsupportedLayerError, match=r"1: .*as normalisation has; pass the module"):
        convert.convert(module.state_dict(), Architecture.mlp(4, 8, 2))


def test_the_layers_that_were_found_are_told() -> None:
    state = net().state_dict()
    del state["1.weight"], state["3.weight"]
    expected = r"3 layers, since the parameters have 0: 4 -> 8, 2: 8 -> 8, 4: 8 -> 2, got 2, 4 -> 9"
    with pytest.raises(InvalidValueError, match=f"{expected}.*pass the module itself"):
        convert.convert(state, Architecture.mlp(4, 9, 2))
    with pytest.raises(InvalidValueError, match=r"2: expected .* the parameters have 0: 4 -> 8, "):
        convert.convert(state, Architecture.mlp(4, 8, 9, 2))
    by_name = {"enc.weight": torch.ones(9, 4), "head.weight": torch.ones(2, 9)}
    with pytest.raises(InvalidValueError, match="expected layers enc: 4 -> 9, head: 9 -> 2"):
        convert.convert(by_name, Architecture.mlp(4, 8, 2))
    with pytest.raises(InvalidValueError, match=r"2 layers \(4 -> 8 relu, 8 -> 2 none\), got 3 \("):
        convert.convert(net(), Architecture.mlp(4, 8, 2))
