"""Keras models give in a bank what they give in Keras, computed in float64 for tight bounds."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from cases import HIDDEN, PLAIN, Weights, one_model, raises, random_architecture, random_weights
from convert_checks import (
    SQUARE,
    assert_computes,
    assert_same_models,
    elementwise,
    rows,
    silently,
    unsupported,
)
from mlpbank import Activation, Architecture, LayerSpec, convert

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported
with silently():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
L = keras.layers
KERAS = {a: a.value for a in PLAIN} | {
    Activation.NONE: None,
    Activation.LEAKY_RELU: lambda x: keras.activations.leaky_relu(x, negative_slope=0.01),
    Activation.GELU_TANH: lambda x: keras.activations.gelu(x, approximate=True),
    Activation.HARDSWISH: "hard_silu",
    Activation.HARDSIGMOID: "hard_sigmoid",
    Activation.CLIP: lambda x: keras.ops.clip(x, -1.0, 2.0),
    Activation.EXP: "exponential",
    Activation.EXPM1: keras.ops.expm1,
}


def dense(weights: Weights, i: int, activation: Any = None, bias: bool = True) -> Any:
    """Return layer i, built."""
    matrix = weights[f"layer_{i}"]
    layer = L.Dense(matrix.shape[1], activation, use_bias=bias, dtype="float64")
    layer.build((None, matrix.shape[0]))
    layer.set_weights([matrix, weights[f"layer_{i}.bias"]][: 1 + bias])
    return layer


def batch_norm(size: int, rng: np.random.Generator) -> Any:
    """Return a BatchNormalization that has seen something, perhaps without scale or center."""
    layer = L.BatchNormalization(
        dtype="float64", scale=bool(rng.integers(2)), center=bool(rng.integers(2)), epsilon=1e-2
    )
    layer.build((None, size))
    layer.set_weights([rng.uniform(0.3, 2, size) for _ in layer.weights])
    return layer


def expected(model: Any, x: Any) -> Any:
    with silently():  # NumPy has something to say about how Keras converts tensors
        return keras.ops.convert_to_numpy(
            model(keras.ops.convert_to_tensor(x, dtype="float64"), training=False)
        )


def weights_of(arch: Architecture, seed: int = 0) -> Weights:
    return one_model(random_weights(arch, 1, np.random.default_rng(seed)), 0)


@pytest.mark.parametrize("seed", range(10))
def test_sequentials_of_any_architecture(seed: int) -> None:
    arch = random_architecture(np.random.default_rng(seed), activations=PLAIN)
    weights = weights_of(arch, seed)
    layers = [dense(weights, i, KERAS[spec.activation]) for i, spec in enumerate(arch.layers)]
    model = keras.Sequential([L.Input((arch.input_size,), dtype="float64"), *layers])
    assert_same_models(convert.convert(model), arch, weights)
    assert_computes(convert.convert(model), rows(arch), expected(model, rows(arch)))


@pytest.mark.parametrize("seed", range(10))
def test_functional_models_with_layers_that_fold_or_do_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arch = random_architecture(rng, 20, PLAIN)
    weights = weights_of(arch, seed)
    start = L.Input((arch.input_size,), dtype="float64")
    mean, variance = rng.normal(size=arch.input_size), rng.uniform(0.5, 2, arch.input_size)
    normalization = L.Normalization(dtype="float64", mean=mean, variance=variance)
    x = L.Flatten()(normalization(start))
    for i, spec in enumerate(arch.layers):
        x = dense(weights, i)(batch_norm(spec.input_size, rng)(x))
        x = L.Rescaling(0.5, offset=1, dtype="float64")(batch_norm(spec.output_size, rng)(x))
        x = L.Dropout(0.5)(L.Activation(KERAS[spec.activation] or "linear", dtype="float64")(x))
    model = keras.Model(start, x)
    converted = convert.convert(model)
    assert [spec.activation for spec in converted.architecture.layers] == [
        spec.activation for spec in arch.layers
    ]
    assert_computes(converted, rows(arch), expected(model, rows(arch)))


LAYERS: dict[Activation, Any] = {
    Activation.RELU: lambda: L.ReLU(dtype="float64"),
    Activation.LEAKY_RELU: lambda: L.LeakyReLU(negative_slope=0.01, dtype="float64"),
    Activation.ELU: lambda: L.ELU(dtype="float64"),
    Activation.SOFTMAX: lambda: L.Softmax(dtype="float64"),
}


@pytest.mark.parametrize("activation", PLAIN)
def test_every_activation_as_a_layer_and_as_an_operation(activation: Activation) -> None:
    arch = elementwise(Architecture.mlp(5, 5, 3), activation)
    weights = weights_of(arch)
    make = LAYERS.get(
        activation, lambda: L.Activation(KERAS[activation] or "linear", dtype="float64")
    )
    hidden = make if activation in HIDDEN else LAYERS[Activation.RELU]
    inner = keras.Sequential([dense(weights, 0), hidden()])
    model = keras.Sequential(
        [L.Input((5,), dtype="float64"), inner, dense(weights, 1, bias=False), make()]
    )
    weights["layer_1.bias"][:] = 0
    assert_same_models(convert.convert(model), arch, weights)
    assert_computes(convert.convert(model), rows(arch), expected(model, rows(arch)))
    if activation.value in ("relu", "tanh", "sigmoid", "elu", "gelu", "silu", "softplus"):
        start = L.Input((5,), dtype="float64")
        x = getattr(keras.ops, activation.value)(dense(weights, 0)(start))
        model = keras.Model(start, x)
        found = convert.convert(model).architecture.layers[0].activation
        # keras.ops.gelu is the approximation unless told otherwise.
        assert found is (Activation.GELU_TANH if activation is Activation.GELU else activation)


def test_square_layers_are_the_right_way_round() -> None:
    weights = weights_of(SQUARE)
    model = keras.Sequential(
        [
            L.Input((6,), dtype="float64"),
            dense(weights, 0, "tanh"),
            dense(weights, 1),
            L.LeakyReLU(0.01, dtype="float64"),
        ]
    )
    converted = convert.convert(model)
    assert_computes(converted, rows(SQUARE), expected(model, rows(SQUARE)))
    turned = {name: array.T for name, array in converted.weights.items()}
    with pytest.raises(AssertionError, match="times the bound"):
        assert_computes(
            convert.Converted(converted.architecture, turned),
            rows(SQUARE),
            expected(model, rows(SQUARE)),
        )


def test_images_are_flattened_in_c_order() -> None:
    weights = weights_of(Architecture.mlp(12, 2))
    model = keras.Sequential(
        [L.Input((2, 3, 2), dtype="float64"), L.Rescaling(0.1), L.Flatten(), dense(weights, 0)]
    )
    x = rows(Architecture.mlp(12, 2))
    assert_computes(convert.convert(model), x, expected(model, x.reshape(-1, 2, 3, 2)))


def test_adapted_normalization_and_its_inverse() -> None:
    rng = np.random.default_rng(0)
    weights = weights_of(Architecture.mlp(4, 4))
    data = rng.normal(size=(50, 4)) * 7 + 3
    before, after = L.Normalization(dtype="float64"), L.Normalization(invert=True, dtype="float64")
    before.adapt(data)
    after.adapt(data * 2)
    model = keras.Sequential([L.Input((4,), dtype="float64"), before, dense(weights, 0), after])
    assert_computes(
        convert.convert(model),
        rows(Architecture.mlp(4, 4)),
        expected(model, rows(Architecture.mlp(4, 4))),
    )


def sequential(*layers: Any, shape: tuple[int, ...] = (3,)) -> Any:
    return keras.Sequential([L.Input(shape), *layers])


class Own(L.Dense):  # type: ignore[misc]
    pass


class OwnModel(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


def branches() -> Any:
    start = L.Input((3,))
    return keras.Model(start, L.Add(name="sum")([L.Dense(3)(start), start]))


def dropping() -> Any:
    start = L.Input((3,))
    return keras.Model(start, L.Dropout(0.5, name="drop")(L.Dense(3)(start), training=True))


def own_model() -> Any:
    model = OwnModel()
    model.build((None, 3))
    return model


UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "layer": (lambda: sequential(L.Dense(2), L.PReLU(name="p")), "p: PReLU is not supported"),
    "nested": (
        lambda: sequential(keras.Sequential([L.LSTM(2, name="l")], name="in"), shape=(3, 2)),
        "in.l: LSTM is not",
    ),
    "slope": (
        lambda: sequential(L.Dense(2), L.LeakyReLU(name="l")),
        "l: LeakyReLU: expected negative_slope 0.01, got 0.3",
    ),
    "function": (
        lambda: sequential(L.Dense(2, "leaky_relu", name="d")),
        "d: leaky_relu is no activation that mlpbank has, with the same parameters",
    ),
    "relu6": (
        lambda: sequential(L.Dense(2), L.ReLU(6, name="r")),
        "r: ReLU: expected max_value None, got 6",
    ),
    "alpha": (
        lambda: sequential(L.Dense(2), L.ELU(2, name="e")),
        "e: ELU: expected alpha 1.0, got 2",
    ),
    "subclass": (lambda: sequential(Own(2, name="o")), "o: Own is not supported"),
    "model": (
        own_model,
        "OwnModel has a call of its own; Sequential and functional models are read",
    ),
    "branches": (branches, "sum: Add joins several results, and only chains are supported"),
    "training": (dropping, "drop: Dropout is called with training=True"),
    "not flat": (
        lambda: sequential(L.Dense(2, name="d"), shape=(4, 3)),
        "d: Dense of inputs that are not flat; Flatten has to stand first",
    ),
    "channels": (
        lambda: sequential(L.Flatten("channels_first", name="f"), L.Dense(2), shape=(4, 3)),
        "f: Flatten with channels first, which moves features about",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name: str) -> None:
    make, message = UNSUPPORTED[name]
    with pytest.raises(convert.UnsupportedLayerError) as caught:
        convert.convert(make())
    assert str(caught.value).startswith(message)


ops, activations = keras.ops, keras.activations
KNOWN_FUNCTIONS: dict[str, tuple[Any, Activation]] = {
    "max": (lambda x: ops.maximum(x, 0), Activation.RELU),
    "clip": (lambda x: ops.clip(x, 0, float("inf")), Activation.RELU),
    "where": (lambda x: ops.where(x > 0, x, 0.01 * x), Activation.LEAKY_RELU),
    "slope": (lambda x: activations.relu(x, negative_slope=0.01), Activation.LEAKY_RELU),
    "swish by hand": (lambda x: x / (1 + ops.exp(-x)), Activation.SILU),
    "gelu by hand": (lambda x: 0.5 * x * (1 + ops.erf(x / 2**0.5)), Activation.GELU),
    "softplus by hand": (lambda x: ops.logaddexp(x, 0.0), Activation.SOFTPLUS),
    "elu by hand": (lambda x: ops.where(x > 0, x, ops.expm1(x)), Activation.ELU),
    "nothing": (lambda x: x, Activation.NONE),
    "layer": (L.ReLU(), Activation.RELU),
    "softmax": (lambda x: activations.softmax(x), Activation.SOFTMAX),
}


@pytest.mark.parametrize("name", KNOWN_FUNCTIONS)
def test_functions_are_known_by_their_operations(name: str) -> None:
    function, activation = KNOWN_FUNCTIONS[name]
    assert (
        convert.convert(sequential(L.Dense(2, function))).architecture.layers[0].activation
        is activation
    )


UNKNOWN_FUNCTIONS: dict[str, Any] = {
    "relu to 20000": lambda x: activations.relu(x, max_value=20000),
    "relu from 1e-6": lambda x: activations.relu(x, threshold=1e-6),
    "relu with a slope of 1e-6": lambda x: activations.relu(x, negative_slope=1e-6),
    "clip": lambda x: ops.clip(x, 0, 20000),
    "minimum": lambda x: ops.minimum(ops.relu(x), 20000),
    "maximum": lambda x: ops.maximum(ops.silu(x), -0.2785),
    "slope": lambda x: activations.leaky_relu(x, negative_slope=0.0100001),
    "alpha": lambda x: activations.elu(x, alpha=1.00001),
    "swish": lambda x: x * ops.sigmoid(1.00001 * x),
    "random": lambda x: ops.relu(x) * keras.random.uniform(()),
    "far out": lambda x: ops.where(x > 20000, 20000.0, ops.relu(x)),
    "choosing": lambda x: (ops.relu, ops.tanh)[next(CHOICES)](x),
    "softmax over rows": lambda x: ops.softmax(x, axis=0),
    "of one element": lambda x: ops.relu(x - ops.max(x)),
}
CHOICES = iter([0, 1] * 100)


@pytest.mark.parametrize("name", UNKNOWN_FUNCTIONS)
def test_functions_that_differ_at_few_points(name: str) -> None:
    function = UNKNOWN_FUNCTIONS[name]
    with unsupported("d: <lambda> is no activation that mlpbank has, with the same parameters"):
        convert.convert(sequential(L.Dense(2, function, name="d")))


def test_operations_of_functional_models_are_known_with_their_options() -> None:
    for function, activation in (
        (lambda x: ops.clip(x, 0, float("inf")), Activation.RELU),
        (lambda x: ops.leaky_relu(x, 0.01), Activation.LEAKY_RELU),
        (lambda x: ops.gelu(x, approximate=False), Activation.GELU),
        (lambda x: ops.clip(x, 0, 20000), None),
        (lambda x: activations.relu(x, max_value=20000), None),
        (lambda x: ops.softmax(x, axis=0), None),
    ):
        start = L.Input((3,))
        model = keras.Model(start, function(L.Dense(2)(start)))
        if activation is not None:
            assert convert.convert(model).architecture.layers[0].activation is activation
        else:
            with pytest.raises(
                convert.UnsupportedLayerError, match="is no activation that mlpbank has"
            ):
                convert.convert(model)


class OwnSequential(keras.Sequential):  # type: ignore[misc]
    def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
        return 2 * super().call(x)


def test_methods_put_in_place_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "has a {} of its own, which may compute anything"
    for method in ("call", "predict"):
        model = sequential(L.Dense(2, name="d"))
        setattr(model, method, lambda x: x)
        with unsupported(f"Sequential {message.format(method)}"):
            convert.convert(model)
    model = sequential(L.Dense(2, name="d"))
    model.layers[0].call = lambda x: x
    with unsupported(f"d: Dense {message.format('call')}"):
        convert.convert(model)
    model = sequential(keras.Sequential([L.Dense(2)], name="inner"))
    model.layers[0].call = lambda x: x
    with unsupported(f"inner: Sequential {message.format('call')}"):
        convert.convert(model)
    with unsupported(
        "OwnSequential has a call of its own; Sequential and functional models are read"
    ):
        convert.convert(OwnSequential([L.Input((3,)), L.Dense(2)]))
    monkeypatch.setattr(L.Dense, "call", lambda self, x, training=None: x)
    with unsupported(f"d: Dense {message.format('call')}"):
        convert.convert(sequential(L.Dense(3, name="d")))


def test_what_layers_are_called_with() -> None:
    start = L.Input((3,))
    x = L.Dense(3)(start)
    model = keras.Model(start, L.Softmax(name="soft")(x, L.Lambda(lambda y: y > 0)(x)))
    with unsupported("soft: Softmax joins several results, and only chains are supported"):
        convert.convert(model)
    assert (
        convert.convert(
            keras.Model(start, L.Dropout(0.5)(x, training=False))
        ).architecture.output_size
        == 3
    )


def test_models_without_weights() -> None:
    with raises(ValueError, "expected a built model, got one without weights"):
        convert.convert(keras.Sequential([L.Dense(2)]))
    with raises(ValueError, "d: expected a built layer, got one without weights"):
        convert.convert(L.Dense(2, name="d"))


def test_many_models_become_stacked_arrays() -> None:
    arch = Architecture([LayerSpec(3, 4, "gelu"), LayerSpec(4, 2)])
    stacked = random_weights(arch, 3, np.random.default_rng(0))
    models = {
        i: sequential(dense(one_model(stacked, i), 0, "gelu"), dense(one_model(stacked, i), 1))
        for i in range(3)
    }
    keys, found, weights = convert.stack(models)
    assert (keys, found) == ([0, 1, 2], arch)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, stacked[name])
    models[1] = sequential(L.Dense(4, "gelu"), L.Dense(2, "tanh"))
    with raises(
        ValueError,
        "models[1]: differs from models[0]: layer 1: expected 4 -> 2 with activation 'none', "
        "got 4 -> 2 with activation 'tanh'",
    ):
        convert.stack(models)
    models[1] = sequential(L.Dense(4, "gelu"), L.PReLU(name="p"))
    with unsupported("models[1]: p: PReLU is not supported"):
        convert.stack(models)
