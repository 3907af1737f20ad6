"""Activation, LayerSpec and Architecture: attributes, comparison and every error."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from unittest import mock

import numpy as np
import pytest

import mlpbank
from cases import OPTIONS, layer_spec, raises
from mlpbank import Activation, Architecture, LayerSpec

KNOWN = ", ".join(repr(a.value) for a in Activation)


@pytest.mark.parametrize("activation", Activation)
def test_activations_are_strings(activation: Activation) -> None:
    assert activation == activation.value
    assert str(activation) == f"{activation}" == activation.value
    assert Activation(activation.value) is activation
    options: Any = OPTIONS.get(activation.value, {})
    layer = LayerSpec(3, 4, activation.value, **options)  # type: ignore[arg-type]
    assert layer == layer_spec(3, 4, activation)
    assert layer.activation is activation


@pytest.mark.parametrize("wrong", ["RELU", "", "swish2", None, 1, b"relu", ["relu"]])
def test_unknown_activation(wrong: Any) -> None:
    message = f"activation: expected one of {KNOWN}, got {wrong!r}"
    with raises(ValueError, message):
        LayerSpec(3, 4, wrong)
    with raises(ValueError, message):
        Architecture.mlp(3, 4, 5, activation=wrong)
    with raises(ValueError, message):
        Architecture.mlp(3, 4, output_activation=wrong)


def test_layer_spec_properties() -> None:
    layer = LayerSpec(input_size=3, output_size=4, activation="relu")
    assert (layer.input_size, layer.output_size, layer.activation) == (3, 4, Activation.RELU)
    assert LayerSpec(3, 4).activation is Activation.NONE
    assert repr(layer) == "LayerSpec(3, 4, 'relu')"
    assert eval(repr(layer)) == layer
    assert pickle.loads(pickle.dumps(layer)) == copy.copy(layer) == copy.deepcopy(layer) == layer
    assert len({layer, LayerSpec(3, 4, "relu"), LayerSpec(3, 4), LayerSpec(4, 3)}) == 3
    with pytest.raises(AttributeError):
        layer.input_size = 5  # type: ignore[misc]


@pytest.mark.parametrize("number", [np.int8(5), np.int64(5), np.uint16(5)])
def test_numpy_integers_are_sizes(number: Any) -> None:
    layer = LayerSpec(number, number)
    assert layer == LayerSpec(5, 5)
    assert type(layer.input_size) is int
    assert Architecture.mlp(number, 1) == Architecture.mlp(5, 1)


@pytest.mark.parametrize(
    "wrong", [True, False, np.True_, 3.0, np.float32(3), "3", None, [3], 3 + 0j]
)
def test_sizes_that_are_no_integers(wrong: Any) -> None:
    with raises(TypeError, f"input_size: expected a positive integer, got {wrong!r}"):
        LayerSpec(wrong, 4)
    with raises(TypeError, f"output_size: expected a positive integer, got {wrong!r}"):
        LayerSpec(4, wrong)


@pytest.mark.parametrize("wrong", [0, -1, -(2**70)])
def test_sizes_that_are_not_positive(wrong: int) -> None:
    with raises(ValueError, f"input_size: expected a positive integer, got {wrong}"):
        LayerSpec(wrong, 4)
    with raises(ValueError, f"output_size: expected a positive integer, got {wrong}"):
        LayerSpec(4, wrong)


@pytest.mark.parametrize("wrong", [2**63, 2**64 + 1, 10**30])
def test_sizes_beyond_63_bits(wrong: int) -> None:
    with raises(OverflowError, f"input_size: too large, got {wrong}"):
        LayerSpec(wrong, 4)


@pytest.mark.parametrize(
    "sizes",
    [
        (2**63 - 1, 1),  # weights and bias are one more than that
        (2**32, 2**32),
        (1, 2**31, 2**32),
        (1, 2**62, 1),  # each layer alone would fit
        (2**29, 2**29),  # the parameters would fit, their bytes in a tile of 16 models would not
    ],
)
def test_number_of_parameters_overflows(sizes: tuple[int, ...]) -> None:
    with raises(OverflowError, "number of parameters: too large"):
        Architecture.mlp(*sizes)


def test_largest_architectures_exist() -> None:
    assert LayerSpec(2**63 - 1, 2**63 - 1).input_size == 2**63 - 1
    assert Architecture.mlp(2**27, 2**27).num_parameters == 2**54 + 2**27


def test_architecture_properties() -> None:
    layers = [LayerSpec(32, 64, "relu"), LayerSpec(64, 7, "tanh"), LayerSpec(7, 1)]
    arch = Architecture(layers)
    assert arch.layers == tuple(layers)
    assert (arch.input_size, arch.output_size) == (32, 1)
    assert arch.num_parameters == 33 * 64 + 65 * 7 + 8
    assert arch.validate() is None  # type: ignore[func-returns-value]
    assert (
        repr(arch) == "Architecture([LayerSpec(32, 64, 'relu'), LayerSpec(64, 7, 'tanh'), "
        "LayerSpec(7, 1, 'none')])"
    )
    for name in ("layers", "input_size", "output_size", "num_parameters"):
        with pytest.raises(AttributeError):
            setattr(arch, name, 1)


def test_any_iterable_of_layers_is_taken() -> None:
    layers = [LayerSpec(2, 3), LayerSpec(3, 1)]
    assert Architecture(iter(layers)) == Architecture(tuple(layers)) == Architecture(layers)
    arch = Architecture(layers)
    layers.clear()
    assert len(arch.layers) == 2


def test_mlp_is_shorthand() -> None:
    assert Architecture.mlp(5, 1) == Architecture([LayerSpec(5, 1)])
    assert Architecture.mlp(32, 64, 1) == Architecture(
        [LayerSpec(32, 64, "relu"), LayerSpec(64, 1)]
    )
    assert Architecture.mlp(
        2, 3, 4, 5, activation="tanh", output_activation="relu"
    ) == Architecture([LayerSpec(2, 3, "tanh"), LayerSpec(3, 4, "tanh"), LayerSpec(4, 5, "relu")])


@pytest.mark.parametrize("sizes", [(), (3,)])
def test_mlp_needs_two_sizes(sizes: tuple[int, ...]) -> None:
    with raises(
        ValueError, f"sizes: expected at least two, an input and an output size, got {len(sizes)}"
    ):
        Architecture.mlp(*sizes)


def test_equality_and_hash() -> None:
    arch = Architecture.mlp(3, 4, 1)
    same = Architecture([LayerSpec(3, 4, "relu"), LayerSpec(4, 1)])
    assert arch == same
    assert hash(arch) == hash(same)
    others = [
        Architecture.mlp(3, 4),
        Architecture.mlp(3, 5, 1),
        Architecture.mlp(3, 4, 1, activation="tanh"),
    ]
    assert all(arch != other for other in others)
    assert len({arch, same, *others}) == 4
    assert arch != "Architecture"
    assert arch != arch.layers
    assert arch == mock.ANY, "what is compared with may know better"


def test_copies() -> None:
    arch = Architecture.mlp(3, 4, 1)
    for clone in (
        *(
            pickle.loads(pickle.dumps(arch, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy(arch),
        copy.deepcopy(arch),
        eval(repr(arch)),
    ):
        assert clone == arch
        assert mlpbank.BatchedWeights(2, clone).architecture == arch  # usable, not only equal


def test_no_layers() -> None:
    with raises(ValueError, "layers: expected at least one layer, got none"):
        Architecture([])


@pytest.mark.parametrize("wrong", [(3, 4), None, "relu", LayerSpec])
def test_layers_of_another_type(wrong: Any) -> None:
    with raises(TypeError, f"layers[1]: expected a LayerSpec, got {wrong!r}"):
        Architecture([LayerSpec(3, 4), wrong])


def test_neighbours_that_do_not_fit() -> None:
    with raises(ValueError, "layer 1: expected input_size 4, the output_size of layer 0, got 5"):
        Architecture([LayerSpec(3, 4), LayerSpec(5, 1)])
    with raises(ValueError, "layer 2: expected input_size 1, the output_size of layer 1, got 3"):
        Architecture([LayerSpec(3, 4), LayerSpec(4, 1), LayerSpec(3, 1)])


def test_a_name_without_bounds_is_not_clip() -> None:
    way_out = (
        "'clip' needs bounds, which mlp does not take; "
        "give Architecture layers such as LayerSpec(8, 4, 'clip', low=0, high=1)"
    )
    with raises(ValueError, f"activation: {way_out}"):
        Architecture.mlp(3, 4, 5, activation="clip")
    with raises(ValueError, f"output_activation: {way_out}"):
        Architecture.mlp(3, 5, output_activation="clip")
    assert Architecture.mlp(3, 5, activation="clip") == Architecture.mlp(3, 5)


def test_softmax_on_a_hidden_layer() -> None:
    assert (
        Architecture.mlp(3, 4, 5, output_activation="softmax").layers[1].activation
        is Activation.SOFTMAX
    )
    with raises(ValueError, "layer 0: expected softmax on the last layer only, which is layer 1"):
        Architecture.mlp(3, 4, 5, activation="softmax")


def test_core_validates_by_itself() -> None:
    core = mlpbank._core
    with raises(ValueError, "layer 0: expected a positive input_size, got 0"):
        core.Architecture([(0, 3, "relu", 0, 0)])
    with raises(ValueError, "layer 1: expected a positive output_size, got -2"):
        core.Architecture([(1, 3, "relu", 0, 0), (3, -2, "none", 0, 0)])
    with raises(ValueError, f"activation: expected one of {KNOWN}, got 'swish2'"):
        core.Architecture([(1, 3, "swish2", 0, 0)])


@pytest.mark.parametrize("layers", [None, 5])
def test_layers_that_are_no_sequence(layers: object) -> None:
    with pytest.raises(TypeError, match=rf"^layers: expected LayerSpecs, got {layers}$"):
        Architecture(layers)  # type: ignore[arg-type]
