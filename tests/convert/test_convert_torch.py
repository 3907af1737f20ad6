"""PyTorch models compute in a bank what they compute in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import PLAIN, Weights, one_model, raises, random_architecture, random_weights
from convert_checks import (
    SQUARE,
    assert_computes,
    assert_same_models,
    elementwise,
    rows,
    silently,
)
from mlpbank import Activation, Architecture, BatchedInference, LayerSpec, convert

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
from torch_nets import expected  # noqa: E402


class Exp(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return torch.exp(x)


class Expm1(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x.expm1()


MODULES: dict[Activation, Any] = {
    Activation.NONE: nn.Identity,
    Activation.RELU: nn.ReLU,
    Activation.TANH: nn.Tanh,
    Activation.SIGMOID: nn.Sigmoid,
    Activation.LEAKY_RELU: nn.LeakyReLU,
    Activation.ELU: nn.ELU,
    Activation.GELU: nn.GELU,
    Activation.GELU_TANH: lambda: nn.GELU(approximate="tanh"),
    Activation.SILU: nn.SiLU,
    Activation.SOFTPLUS: nn.Softplus,
    Activation.CELU: nn.CELU,
    Activation.SELU: nn.SELU,
    Activation.MISH: nn.Mish,
    Activation.HARDSWISH: nn.Hardswish,
    Activation.HARDSIGMOID: nn.Hardsigmoid,
    Activation.RELU6: nn.ReLU6,
    Activation.CLIP: lambda: nn.Hardtanh(-1.0, 2.0),
    Activation.SOFTSIGN: nn.Softsign,
    Activation.EXP: lambda: Exp(),
    Activation.EXPM1: lambda: Expm1(),
    Activation.SOFTMAX: lambda: nn.Softmax(dim=-1),
}
FUNCTIONS: dict[Activation, Any] = {
    Activation.NONE: lambda x: x.contiguous(),
    Activation.RELU: F.relu,
    Activation.TANH: torch.tanh,
    Activation.SIGMOID: torch.sigmoid,
    Activation.LEAKY_RELU: F.leaky_relu,
    Activation.ELU: F.elu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Activation.SILU: F.silu,
    Activation.SOFTPLUS: F.softplus,
    Activation.CELU: F.celu,
    Activation.SELU: F.selu,
    Activation.MISH: F.mish,
    Activation.HARDSWISH: F.hardswish,
    Activation.HARDSIGMOID: F.hardsigmoid,
    Activation.RELU6: F.relu6,
    Activation.CLIP: lambda x: x.clamp(-1, 2),
    Activation.SOFTSIGN: F.softsign,
    Activation.EXP: torch.exp,
    Activation.EXPM1: torch.expm1,
    Activation.SOFTMAX: lambda x: F.softmax(x, dim=-1),
}


def linear(weights: Weights, i: int) -> Any:
    """Return layer i as a module."""
    matrix = torch.tensor(weights[f"layer_{i}"])
    layer = nn.Linear(*matrix.shape)
    with torch.no_grad():
        layer.weight.copy_(matrix.T)
        layer.bias.copy_(torch.tensor(weights[f"layer_{i}.bias"]))
    return layer


def sequential(arch: Architecture, weights: Weights) -> Any:
    """Return a model as one nn.Sequential."""
    parts = [
        part
        for i, spec in enumerate(arch.layers)
        for part in (linear(weights, i), MODULES[spec.activation]())
    ]
    return nn.Sequential(*parts)


def batch_norm(size: int, rng: np.random.Generator, affine: bool = True) -> Any:
    """Return a BatchNorm1d that has seen something, in eval mode."""
    norm = nn.BatchNorm1d(size, affine=affine)
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor(rng.standard_normal(size)))
        norm.running_var.copy_(torch.tensor(rng.uniform(0.2, 3, size)))
        if affine:
            norm.weight.copy_(torch.tensor(rng.standard_normal(size)))
            norm.bias.copy_(torch.tensor(rng.standard_normal(size)))
    return norm.eval()


def weights_of(arch: Architecture, seed: int = 0) -> Weights:
    return one_model(random_weights(arch, 1, np.random.default_rng(seed)), 0)


@pytest.mark.parametrize("seed", range(40))
def test_sequentials_of_any_architecture(seed: int) -> None:
    arch = random_architecture(np.random.default_rng(seed), activations=PLAIN)
    weights = weights_of(arch, seed)
    module = sequential(arch, weights)
    converted = convert.convert(module)
    assert_same_models(converted, arch, weights)
    assert_computes(converted, rows(arch), expected(module, rows(arch)))


@pytest.mark.parametrize("seed", range(40))
def test_nested_sequentials_with_layers_that_fold_or_do_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arch = random_architecture(rng, 30, PLAIN)
    weights = weights_of(arch, seed)
    parts: list[Any] = [nn.Flatten(), nn.Identity()]
    last = len(arch.layers) - 1
    for i, spec in enumerate(arch.layers):
        before = batch_norm(spec.input_size, rng, affine=bool(rng.integers(2)))
        after = [batch_norm(spec.output_size, rng) for _ in range(rng.integers(3))]
        block = [before, linear(weights, i), *after, MODULES[spec.activation](), nn.Dropout(0.5)]
        if i == last and spec.activation is Activation.NONE:
            block.append(batch_norm(spec.output_size, rng))
        parts += [nn.Sequential(*block), nn.AlphaDropout()] if rng.integers(2) else block
    module = nn.Sequential(*parts).eval()
    converted = convert.convert(module)
    assert [spec.activation for spec in converted.architecture.layers] == [
        spec.activation for spec in arch.layers
    ]
    x = rows(arch)
    assert_computes(convert.convert(module.double()), x, expected(module, x))
    # Rounding of the float32 parameters to begin with is none: they are the same numbers in
    # float64.
    for name, array in convert.convert(module).weights.items():
        np.testing.assert_array_equal(array, converted.weights[name])


@pytest.mark.parametrize("activation", PLAIN)
def test_forwards_that_call_functions(activation: Activation) -> None:
    arch = elementwise(Architecture.mlp(5, 7, 7, 3), activation)
    function = FUNCTIONS[activation]

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = (
                linear(weights, 0),
                nn.ModuleList([linear(weights, 1), linear(weights, 2)]),
            )

        def forward(self, x: Any) -> Any:
            hidden = FUNCTIONS[arch.layers[0].activation]
            x = hidden(self.first(x))
            x = hidden(self.rest[0](x))
            return function(self.rest[1](x))

    weights = weights_of(arch)
    module = Net()
    assert_same_models(convert.convert(module), arch, weights)
    assert_computes(convert.convert(module), rows(arch), expected(module, rows(arch)))


class Arithmetic(nn.Module):  # type: ignore[misc]
    """A forward that does by hand what layers do elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.arange(6.0))
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6)[None])
        self.matrix = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
        self.net = nn.Sequential(linear(weights_of(SQUARE), 0), nn.Tanh())
        self.p = 0.5

    def forward(self, x: Any) -> Any:
        x = (x - self.mean) / torch.exp(self.scale)
        x = x.view(x.size(0), -1).reshape(-1, 6)
        x = F.dropout(x @ self.matrix.t() + 1, self.p, training=self.training)
        x = F.linear(self.net(x).clone(), self.matrix, self.mean).relu_()
        x = torch.flatten(x, 1).reshape(x.shape[0], -1).view(-1, 6)
        x = 3 - x * self.scale
        return (
            F.linear(-x, self.matrix)[None].squeeze(0)
            if self.p > 1
            else F.linear(-x, self.matrix[:1]).squeeze(-1)
        )


def test_forwards_that_calculate() -> None:
    module = Arithmetic().eval()
    converted = convert.convert(module)
    assert converted.architecture == Architecture(
        [LayerSpec(6, 6), LayerSpec(6, 6, "tanh"), LayerSpec(6, 6, "relu"), LayerSpec(6, 1)]
    )
    assert_computes(converted, rows(SQUARE), expected(module, rows(SQUARE))[:, None])


def test_square_layers_are_the_right_way_round() -> None:
    weights = weights_of(SQUARE)
    module = sequential(SQUARE, weights)
    x = rows(SQUARE)
    truth = expected(module, x)
    assert_computes(convert.convert(module), x, truth)
    assert_computes(convert.convert(module.state_dict(), SQUARE), x, truth)
    turned = {name: array.T for name, array in convert.convert(module).weights.items()}
    with pytest.raises(AssertionError, match="times the bound"):
        assert_computes(convert.Converted(SQUARE, turned), x, truth)


def test_state_dicts_with_an_architecture() -> None:
    arch = Architecture.mlp(4, 5, 6, 1)
    weights = weights_of(arch)
    module = sequential(arch, weights)
    assert_same_models(convert.convert(module.state_dict(), arch), arch, weights)
    named = {
        f"_orig_mod.net.{name}": tensor for name, tensor in reversed(module.state_dict().items())
    }
    assert_same_models(convert.convert(named, arch), arch, weights)
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in weights.items()}
    assert_same_models(convert.convert(tensors, arch), arch, weights)
    with raises(
        ValueError,
        "architecture: needed for weights without activations (OrderedDict), got None; give one, "
        "or pass the module itself",
    ):
        convert.convert(module.state_dict())
    with raises(
        ValueError,
        "0: expected an (in, out) matrix (4, 6) for layer 0, got (4, 5); the parameters have "
        "0: 4 -> 5, 2: 5 -> 6, 4: 6 -> 1, so check the sizes of the architecture",
    ):
        convert.convert(module.state_dict(), Architecture.mlp(4, 6, 6, 1))


def test_order_of_layers_is_never_guessed() -> None:
    weights = weights_of(Architecture.mlp(6, 6, 6, 6))
    state = {}
    for i, name in enumerate(("encoder", "middle", "head")):
        state |= {
            f"{name}.{key}": tensor for key, tensor in linear(weights, i).state_dict().items()
        }
    arch = Architecture.mlp(6, 6, 6, 6)
    names = "['encoder', 'middle', 'head']"
    with raises(
        ValueError,
        f"layers: the names {names} do not tell the order of the layers; pass layers=[...] to "
        "convert.from_params",
    ):
        convert.convert(state, arch)
    assert_same_models(
        convert.from_params(state, arch, layers=["encoder", "middle", "head"]), arch, weights
    )
    with raises(ValueError, f"layers: expected each of {names} once, got ['encoder', 'head']"):
        convert.from_params(state, arch, layers=["encoder", "head"])
    # Sizes tell it where no two layers have the same.
    arch = Architecture.mlp(2, 3, 4, 5)
    weights = weights_of(arch)
    state = {}
    for i, name in ((2, "head"), (0, "encoder"), (1, "middle")):
        state |= {
            f"{name}.{key}": tensor for key, tensor in linear(weights, i).state_dict().items()
        }
    assert_same_models(convert.convert(state, arch), arch, weights)


def test_layers_are_ordered_by_number_not_by_text() -> None:
    arch = Architecture.mlp(*[3] * 13)
    weights = weights_of(arch)
    state = {}
    for i in reversed(range(12)):
        state |= {f"fc{i}.{key}": tensor for key, tensor in linear(weights, i).state_dict().items()}
    assert_same_models(convert.convert(state, arch), arch, weights)


@pytest.mark.parametrize("seed", range(5))
def test_stack_module_state(seed: int) -> None:
    arch = random_architecture(np.random.default_rng(seed), 20)
    stacked = random_weights(arch, 4, np.random.default_rng(seed))
    modules = [sequential(arch, one_model(stacked, i)) for i in range(4)]
    params, _ = torch.func.stack_module_state(modules)
    for name, array in convert.from_stacked_params(params, arch).items():
        np.testing.assert_array_equal(array, stacked[name])


def test_flat_vectors_of_torch() -> None:
    stacked = random_weights(SQUARE, 3, np.random.default_rng(0))
    modules = [sequential(SQUARE, one_model(stacked, i)) for i in range(3)]
    vectors = torch.stack(
        [nn.utils.parameters_to_vector(module.parameters()) for module in modules]
    )
    weights = convert.from_flat(vectors, SQUARE, order="weight,bias", weight_layout="out_in")
    for name, array in weights.items():
        np.testing.assert_array_equal(array, stacked[name])


def test_converted_weights_are_copies() -> None:
    arch = Architecture.mlp(1, 3, 1)
    weights = weights_of(arch)
    module = sequential(arch, weights)
    vector = nn.utils.parameters_to_vector(module.parameters()).detach()
    flat = convert.from_flat(vector, arch, order="weight,bias", weight_layout="out_in")
    all_converted = [
        convert.convert(module),
        convert.convert(module.state_dict(), arch),
        convert.convert(convert.convert(module)),
        convert.Converted(arch, convert.stack({"a": module})[2]),
        convert.Converted(arch, flat),
    ]
    with torch.no_grad():
        vector.zero_()
        for parameter in module.parameters():
            parameter.zero_()
    for converted in all_converted:
        for name, array in converted.weights.items():
            np.testing.assert_array_equal(array.reshape(weights[name].shape), weights[name])
            assert array.flags.writeable
            assert array.flags.owndata


def test_layers_of_other_dtypes_and_kinds() -> None:
    arch = Architecture.mlp(3, 4, 2)
    module = sequential(arch, weights_of(arch))
    assert convert.convert(module.to(torch.bfloat16)).weights["layer_0"].dtype == np.float32
    module = sequential(arch, weights_of(arch))
    truth = expected(module, rows(arch))
    module.float()[0] = nn.utils.parametrizations.weight_norm(module[0])
    assert_computes(convert.convert(module), rows(arch), truth, times=2)
    assert_computes(convert.convert(nn.DataParallel(module)), rows(arch), truth, times=2)
    with silently():
        compiled = torch.compile(module, backend="eager")
    assert_computes(convert.convert(compiled), rows(arch), truth, times=2)
    unbiased = nn.Sequential(nn.Linear(3, 2, bias=False))
    assert not convert.convert(unbiased).weights["layer_0.bias"].any()
    with raises(ValueError, "layer_0: expected values that float32 can hold, got 1e+300"):
        convert.convert(
            nn.Linear(1, 1).double().requires_grad_(False).apply(lambda m: m.weight.fill_(1e300))
        )


def test_many_models_become_stacked_arrays() -> None:
    arch = Architecture.mlp(3, 5, 2, activation="silu")
    stacked = random_weights(arch, 6, np.random.default_rng(0))
    models = {f"m{i}": sequential(arch, one_model(stacked, i)) for i in range(6)}
    keys, found, weights = convert.stack(models, progress=True)
    assert keys == list(models)
    assert found == arch
    inference = BatchedInference(6, found)
    inference.weights.load_stacked(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, stacked[name])
