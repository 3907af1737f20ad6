"""Parameters of JAX, Flax and Equinox compute in a bank what they compute there."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from cases import PLAIN, Weights, one_model, raises, random_weights
from convert_checks import SQUARE, assert_computes, assert_same_models, elementwise, rows, silently
from mlpbank import Activation, Architecture, LayerSpec, convert

with silently():
    jax = pytest.importorskip("jax")
jnp = jax.numpy
pytestmark = pytest.mark.slow  # the extra `test` has none of the three

FUNCTIONS: dict[Activation, Any] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: jax.nn.relu,
    Activation.TANH: jnp.tanh,
    Activation.SIGMOID: jax.nn.sigmoid,
    Activation.LEAKY_RELU: jax.nn.leaky_relu,
    Activation.ELU: jax.nn.elu,
    Activation.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: jax.nn.gelu,
    Activation.SILU: jax.nn.silu,
    Activation.SOFTPLUS: jax.nn.softplus,
    Activation.CELU: jax.nn.celu,
    Activation.SELU: jax.nn.selu,
    Activation.MISH: jax.nn.mish,
    Activation.HARDSWISH: jax.nn.hard_silu,
    Activation.HARDSIGMOID: jax.nn.hard_sigmoid,
    Activation.RELU6: jax.nn.relu6,
    Activation.CLIP: lambda x: jnp.clip(x, -1, 2),
    Activation.SOFTSIGN: jax.nn.soft_sign,
    Activation.EXP: jnp.exp,
    Activation.EXPM1: jnp.expm1,
    Activation.SOFTMAX: jax.nn.softmax,
}


def stacked_weights(arch: Architecture, n: int = 1) -> Weights:
    return random_weights(arch, n, np.random.default_rng(0))


@pytest.mark.parametrize("activation", PLAIN)
def test_flax_linen(activation: Activation) -> None:
    linen = pytest.importorskip("flax.linen")
    sizes = [(5, 3), (6, 6, 6), (4, 7, 7, 7, 7, 2)][PLAIN.index(activation) % 3]
    arch = elementwise(Architecture.mlp(*sizes), activation)

    class Net(linen.Module):  # type: ignore[misc]
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for layer in arch.layers:
                x = FUNCTIONS[layer.activation](linen.Dense(layer.output_size)(x))
            return x

    x = rows(arch)
    params = Net().init(jax.random.key(0), x)
    assert_computes(convert.convert(params, arch), x, Net().apply(params, x), times=4)
    stacked = jax.vmap(lambda key: Net().init(key, x))(jax.random.split(jax.random.key(1), 3))
    weights = convert.from_stacked_params(stacked, arch)
    for i in range(3):
        one = jax.tree.map(lambda array, i=i: array[i], stacked)
        assert_computes(
            convert.Converted(arch, one_model(weights, i)), x, Net().apply(one, x), times=4
        )


def test_twelve_linen_layers_are_in_order_though_jax_sorts_names() -> None:
    arch = Architecture.mlp(*[3] * 13)
    weights = one_model(stacked_weights(arch), 0)
    params = {
        f"Dense_{i}": {"kernel": weights[f"layer_{i}"], "bias": weights[f"layer_{i}.bias"]}
        for i in range(12)
    }
    sorted_by_jax = jax.tree.map(jnp.asarray, {"params": params})
    assert list(sorted_by_jax["params"])[1:3] == ["Dense_1", "Dense_10"]
    assert_same_models(convert.convert(sorted_by_jax, arch), arch, weights)
    vector, _ = importlib.import_module("jax.flatten_util").ravel_pytree({"params": params})
    order = [name for i in sorted(range(12), key=str) for name in (f"layer_{i}.bias", f"layer_{i}")]
    flat = convert.from_flat(vector, arch, order=order, weight_layout="in_out")
    assert_same_models(convert.Converted(arch, flat), arch, weights)


def test_flax_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx")
    arch = Architecture([LayerSpec(6, 6, "relu"), LayerSpec(6, 6, "tanh"), LayerSpec(6, 2)])
    rngs = nnx.Rngs(0)

    class Net(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.fc1, self.fc2, self.fc3 = (
                nnx.Linear(a, b, rngs=rngs) for a, b in ((6, 6), (6, 6), (6, 2))
            )
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.fc3(jnp.tanh(self.fc2(jax.nn.relu(self.fc1(x)))))

    x = rows(arch)
    net = Net()
    for params in (
        net,
        nnx.state(net),
        nnx.split(net)[1],
        nnx.to_pure_dict(nnx.state(net, nnx.Param)),
    ):
        assert_computes(convert.convert(params, arch), x, net(x), times=4)
    chain = nnx.Sequential(net.fc1, jax.nn.relu, net.fc2, jnp.tanh, net.fc3)
    assert_computes(convert.convert(chain, arch), x, chain(x), times=4)
    with raises(
        ValueError,
        "architecture: needed for weights without activations (Net), got None; give one, "
        "or pass the module itself",
    ):
        convert.convert(net)
    norm = nnx.Sequential(nnx.Linear(6, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs))
    with pytest.raises(
        convert.UnsupportedLayerError,
        match=r"^layers\.1\.mean: is no weight or bias of a dense layer",
    ):
        convert.convert(norm, Architecture.mlp(6, 6))


@pytest.mark.parametrize("activation", PLAIN)
def test_equinox(activation: Activation) -> None:
    eqx = pytest.importorskip("equinox")
    arch = elementwise(SQUARE, activation)
    hidden, output = (FUNCTIONS[layer.activation] for layer in arch.layers)
    whole = (lambda y: y) if activation is not Activation.SOFTMAX else jax.nn.softmax
    if activation is Activation.SOFTMAX:  # Equinox would apply it to each output alone
        output = FUNCTIONS[Activation.NONE]
    keys = jax.random.split(jax.random.key(0), 3)

    def make(key: Any) -> Any:
        return eqx.nn.MLP(6, 6, 6, 1, hidden, output, key=key)

    x = rows(arch)
    models = [make(key) for key in keys]
    assert_computes(convert.convert(models[0], arch), x, whole(jax.vmap(models[0])(x)), times=4)
    ensemble = eqx.filter_vmap(make)(keys)
    weights = convert.from_stacked_params(ensemble, arch)
    assert convert.stack(dict(enumerate(models)), arch)[0] == [0, 1, 2]
    for i, model in enumerate(models):
        assert_computes(
            convert.Converted(arch, one_model(weights, i)), x, whole(jax.vmap(model)(x)), times=4
        )


def test_equinox_modules_with_more_than_layers() -> None:
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)
    arch = Architecture.mlp(3, 4, 2)

    class Net(eqx.Module):  # type: ignore[misc]
        head: Any
        body: Any
        rate: float = 0.1

    layers = eqx.nn.Linear(4, 2, key=key), eqx.nn.Linear(3, 4, use_bias=False, key=key)
    converted = convert.convert(Net(*layers), arch)  # sizes tell the order
    np.testing.assert_array_equal(converted.weights["layer_0"], np.asarray(layers[1].weight).T)
    chain = eqx.nn.Sequential(
        [layers[1], eqx.nn.Lambda(jax.nn.relu), eqx.nn.Dropout(0.5), layers[0]]
    )
    assert_same_models(convert.convert(chain, arch), arch, converted.weights)
    for module, message in (
        (
            eqx.nn.Sequential([layers[1], eqx.nn.LayerNorm(4)]),
            "layers.1: its weight has shape (4,) and it has a bias, as normalisation has",
        ),
        (eqx.nn.Conv1d(3, 4, 1, key=key), "expected a matrix of floating-point weights"),
    ):
        with pytest.raises(convert.UnsupportedLayerError) as caught:
            convert.convert(module, Architecture.mlp(3, 4))
        assert str(caught.value).startswith(message)


def test_bfloat16_and_tuples() -> None:
    weights = one_model(stacked_weights(SQUARE), 0)
    pairs = [
        (jnp.asarray(weights[f"layer_{i}"], "bfloat16"), jnp.asarray(weights[f"layer_{i}.bias"]))
        for i in (0, 1)
    ]
    converted = convert.from_params(pairs, SQUARE, weight_layout="in_out")
    np.testing.assert_array_equal(converted.weights["layer_0"], np.asarray(pairs[0][0], np.float32))


def test_modules_that_are_called_as_a_layer_of_equinox() -> None:
    eqx = pytest.importorskip("equinox")

    class Linear(eqx.Module):  # type: ignore[misc]
        """Computes ``x @ weight``, unlike Equinox' own."""

        weight: Any
        bias: Any

        def __call__(self, x: Any) -> Any:
            return x @ self.weight + self.bias

    class Turned(eqx.nn.Linear):  # type: ignore[misc]
        def __call__(self, x: Any, *, key: Any = None) -> Any:
            return x @ self.weight + self.bias

    class Same(eqx.nn.Linear):  # type: ignore[misc]
        pass

    key, arch = jax.random.key(0), Architecture.mlp(3, 3)
    same = Same(3, 3, key=key)
    np.testing.assert_array_equal(
        convert.convert(same, arch).weights["layer_0"], np.asarray(same.weight).T
    )
    ask = "nothing tells which way round this matrix is; pass weight_layout='in_out' "
    ask += "to convert.from_params if the layer computes x @ w, "
    for layer in (Linear(jnp.ones((3, 3)), jnp.ones(3)), Turned(3, 3, key=key)):
        with raises(ValueError, f": {ask}'out_in' if w @ x (its shape is (3, 3))"):
            convert.convert(layer, arch)
