"""BatchedWeights: every error of its arguments, and failed loads, which change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import Weights, assert_same_bits, one_model, raises, random_weights
from mlpbank import Architecture, BatchedInference, BatchedWeights, ModelNotLoadedError

ARCH = Architecture.mlp(3, 18, 2)


def stacked(num_models: int = 5) -> Weights:
    return random_weights(ARCH, num_models, np.random.default_rng(1))


def _replaced(key: str, value: Any) -> Callable[[Weights], dict[str, Any]]:
    return lambda weights: {**weights, key: value(weights[key]) if callable(value) else value}


def _without(key: str) -> Callable[[Weights], dict[str, Any]]:
    return lambda weights: {name: array for name, array in weights.items() if name != key}


def _with_element(key: str, value: float) -> Callable[[Weights], dict[str, Any]]:
    def change(weights: Weights) -> dict[str, Any]:
        array = weights[key].copy()
        array[..., -1] = value
        return {**weights, key: array}

    return change


# What is wrong with a mapping; the error; its message for one model, {N} standing for "5, " in
# stacked shapes.
WRONG: list[tuple[Callable[[Weights], Any], type[Exception], str]] = [
    (_without("layer_1"), KeyError, "weights: missing key 'layer_1'"),
    (
        lambda w: {**w, "layer_0.biass": w["layer_0.bias"]},
        KeyError,
        "weights: unknown key 'layer_0.biass', expected 'layer_0' to 'layer_1', "
        "each also with '.bias'",
    ),
    (
        lambda w: {**w, 3: w["layer_0"]},
        KeyError,
        "weights: unknown key 3, expected 'layer_0' to 'layer_1', each also with '.bias'",
    ),
    (
        lambda w: list(w.items()),
        TypeError,
        "weights: expected a mapping of names to arrays, got list",
    ),
    (
        _replaced("layer_1", lambda a: a[..., :1]),
        ValueError,
        "layer_1: expected shape ({N}18, 2) or ({N}36{C}), got ({N}18, 1)",
    ),
    (
        _replaced("layer_1", lambda a: np.swapaxes(a, -1, -2)),
        ValueError,
        "layer_1: expected shape ({N}18, 2) or ({N}36{C}), got ({N}2, 18); "
        "it is (out, in): give its transpose, (in, out)",
    ),
    (
        _replaced("layer_1.bias", lambda a: a[..., :1]),
        ValueError,
        "layer_1.bias: expected shape ({N}2{C}), got ({N}1{C})",
    ),
    (_replaced("layer_1.bias", 1.0), ValueError, "layer_1.bias: expected shape ({N}2{C}), got ()"),
    (
        _replaced("layer_0", lambda a: a.astype(complex)),
        TypeError,
        "layer_0: expected real numbers, got dtype complex128",
    ),
    (
        _replaced("layer_0", lambda a: a.astype(object)),
        TypeError,
        "layer_0: expected real numbers, got dtype object",
    ),
    (
        _replaced("layer_0", "weights.npy"),
        TypeError,
        "layer_0: expected real numbers, got dtype <U11",
    ),
    (
        _replaced("layer_1.bias", None),
        TypeError,
        "layer_1.bias: expected real numbers, got dtype object",
    ),
    (
        _replaced("layer_0", np.ma.masked_invalid),
        TypeError,
        "layer_0: expected an array without mask, got a masked array; fill it first",
    ),
]


WRONG_NAMES = (
    "missing unknown unknown-int list narrow transposed "
    "bias bias-scalar complex object string none masked"
)


@pytest.fixture(params=zip(WRONG, WRONG_NAMES.split(), strict=True), ids=lambda p: p[1])
def wrong(request: pytest.FixtureRequest) -> Any:
    return request.param[0]


def check_load_changes_nothing(layout: str, load: Callable[[BatchedWeights], None]) -> None:
    """Run a load that fails where models 0 to 3 are loaded, and check that nothing changes."""
    weights = BatchedWeights(5, ARCH, layout=layout)
    for m in range(4):
        weights.load(m, one_model(stacked(), m))
    load(weights)
    assert weights.loaded.tolist() == [True] * 4 + [False]
    for m in range(4):
        for name, array in weights.get(m).items():
            assert_same_bits(array, stacked()[name][m])


def test_failed_load_changes_nothing(layout: str, wrong: Any) -> None:
    change, error, message = wrong
    new = one_model(random_weights(ARCH, 1, np.random.default_rng(2)), 0)

    def load(weights: BatchedWeights) -> None:
        for model in (0, 4):
            with raises(error, message.format(N="", C=",")):
                weights.load(model, change(new))

    check_load_changes_nothing(layout, load)


def test_failed_stacked_load_changes_nothing(layout: str, wrong: Any) -> None:
    change, error, message = wrong
    new = random_weights(ARCH, 5, np.random.default_rng(2))

    def load(weights: BatchedWeights) -> None:
        with raises(error, message.format(N="5, ", C="")):
            weights.load_stacked(change(new))

    check_load_changes_nothing(layout, load)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("key", "where"), [("layer_0", (0, 17)), ("layer_1.bias", (1,))])
def test_check_finite(layout: str, value: float, key: str, where: tuple[int, ...]) -> None:
    change = _with_element(key, value)
    new = random_weights(ARCH, 5, np.random.default_rng(2))

    def load(weights: BatchedWeights) -> None:
        with raises(ValueError, f"{key}: expected finite values, got {value} at {where}"):
            weights.load(0, change(one_model(new, 0)), check_finite=True)
        with raises(ValueError, f"{key}: expected finite values, got {value} at {(0, *where)}"):
            weights.load_stacked(change(new), check_finite=True)

    check_load_changes_nothing(layout, load)
    weights = BatchedWeights(5, ARCH, layout=layout)
    weights.load_stacked(new, check_finite=True)
    weights.load(0, change(one_model(new, 0)))  # off unless asked for
    assert_same_bits(weights.get(0)[key], change(one_model(new, 0))[key])


@pytest.mark.parametrize("model", [-1, 5, 2**62])
def test_model_index_out_of_range(layout: str, model: int) -> None:
    def load(weights: BatchedWeights) -> None:
        with raises(IndexError, f"model_idx: expected 0 to 4, got {model}"):
            weights.load(model, one_model(stacked(), 0))
        for call in (weights.get, weights.unload, weights.revision):
            with raises(IndexError, f"model_idx: expected 0 to 4, got {model}"):
                call(model)

    check_load_changes_nothing(layout, load)


@pytest.mark.parametrize("model", [1.0, "1", None, True])
def test_model_index_of_another_type(layout: str, model: Any) -> None:
    def load(weights: BatchedWeights) -> None:
        with raises(TypeError, f"model_idx: expected an integer, got {model!r}"):
            weights.load(model, one_model(stacked(), 0))
        for call in (weights.get, weights.unload, weights.revision):
            with raises(TypeError, f"model_idx: expected an integer, got {model!r}"):
                call(model)

    check_load_changes_nothing(layout, load)


def test_model_index_beyond_64_bits() -> None:
    weights = BatchedWeights(5, ARCH)
    with raises(IndexError, f"model_idx: expected 0 to 4, got {2**64}"):
        weights.load(2**64, one_model(stacked(), 0))
    for call in (weights.get, weights.unload, weights.revision):
        for model in (2**63, 2**64, -(2**64)):
            with raises(IndexError, f"model_idx: expected 0 to 4, got {model}"):
                call(model)


def test_get_of_a_model_without_weights(layout: str) -> None:
    weights = BatchedWeights(5, ARCH, layout=layout)
    weights.load(1, one_model(stacked(), 1))
    with raises(ModelNotLoadedError, "model 2: no weights were loaded"):
        weights.get(2)


def test_unknown_key_of_a_single_layer() -> None:
    with raises(
        KeyError, "weights: unknown key 'layer_1', expected 'layer_0', each also with '.bias'"
    ):
        BatchedWeights(1, Architecture.mlp(2, 1)).load(0, {"layer_0": [1, 2], "layer_1": [1]})


def test_ragged_lists() -> None:
    with pytest.raises(
        ValueError, match=r"^layer_0: expected numbers that form an array, got .*inhomogeneous"
    ):
        BatchedWeights(1, Architecture.mlp(2, 2)).load(0, {"layer_0": [[1, 2], [3]]})


@pytest.mark.parametrize("wrong_number", [True, 2.0, "2", None])
def test_number_of_models_of_another_type(wrong_number: Any) -> None:
    for make in (BatchedWeights, BatchedInference):
        with raises(TypeError, f"num_models: expected a positive integer, got {wrong_number!r}"):
            make(wrong_number, ARCH)


@pytest.mark.parametrize("wrong_number", [0, -1])
def test_number_of_models_not_positive(wrong_number: int) -> None:
    for make in (BatchedWeights, BatchedInference):
        with raises(ValueError, f"num_models: expected a positive integer, got {wrong_number}"):
            make(wrong_number, ARCH)


def test_too_many_models(layout: str) -> None:
    with raises(OverflowError, f"num_models: too large, got {2**63}"):
        BatchedWeights(2**63, ARCH, layout=layout)
    with raises(OverflowError, "num_models x parameters: too large"):
        BatchedWeights(2**60, ARCH, layout=layout)
    with pytest.raises(MemoryError):  # more than the address space holds
        BatchedWeights(2**50, ARCH, layout=layout)


@pytest.mark.parametrize("wrong_layout", ["rows", "", "Panel"])
def test_unknown_layout(wrong_layout: str) -> None:
    for make in (BatchedWeights, BatchedInference):
        with raises(
            ValueError, f"layout: expected one of 'auto', 'panel', 'lane', got '{wrong_layout}'"
        ):
            make(2, ARCH, layout=wrong_layout)


@pytest.mark.parametrize("wrong_layout", [None, b"panel", 1, ["panel"]])
def test_layout_of_another_type(wrong_layout: Any) -> None:
    for make in (BatchedWeights, BatchedInference):
        with raises(TypeError, f"layout: expected a string, got {wrong_layout!r}"):
            make(2, ARCH, layout=wrong_layout)


def test_architecture_of_another_type() -> None:
    for make in (BatchedWeights, BatchedInference):
        with raises(TypeError, "architecture: expected an Architecture, got [3, 18, 2]"):
            make(2, [3, 18, 2])
