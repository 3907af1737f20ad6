"""Models that are taken as they are, and those that are looked at with care."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, BatchedWeights, LayerSpec

ARCH = Architecture([LayerSpec(3, 4, "prelu"), LayerSpec(4, 2)])
RNG = np.random.default_rng(0)
MODEL = {
    "layer_0": RNG.standard_normal((3, 4)).astype(np.float32),
    "layer_0.bias": RNG.standard_normal(4).astype(np.float32),
    "layer_0.slope": np.array(0.25, np.float32),
    "layer_1": RNG.standard_normal((4, 2)).astype(np.float32),
    "layer_1.bias": RNG.standard_normal(2).astype(np.float32),
}


class Subclass(np.ndarray[Any, Any]):
    """An array that is none of NumPy's own."""


def changed(**values: Any) -> dict[str, Any]:
    """Return the model with other arrays, `...` takes one away."""
    named = {name.replace("_at_", "."): value for name, value in values.items()}
    return {k: v for k, v in {**MODEL, **named}.items() if v is not ...}


EQUAL = {  # to the model, but not as it is kept
    "a mapping": MappingProxyType(MODEL),
    "doubles": changed(layer_0=MODEL["layer_0"].astype(np.float64)),
    "lists": changed(layer_1=MODEL["layer_1"].tolist()),
    "Fortran order": changed(layer_0=np.asfortranarray(MODEL["layer_0"])),
    "flat": changed(layer_1=MODEL["layer_1"].ravel()),
    "big-endian": changed(layer_0=MODEL["layer_0"].astype(">f4")),
    "a subclass": changed(layer_0=MODEL["layer_0"].view(Subclass)),
    "a slope of one": changed(layer_0_at_slope=MODEL["layer_0.slope"].reshape(1)),
    "every second number": changed(layer_0_at_bias=np.repeat(MODEL["layer_0.bias"], 2)[::2]),
}
WRONG = {
    "no slope": changed(layer_0_at_slope=...),
    "no matrix": changed(layer_1=...),
    "one array more": {**MODEL, "layer_2": MODEL["layer_1"]},
    "a name that is no text": {**MODEL, 7: MODEL["layer_1"]},
    "another slope": {**MODEL, "layer_1.slope": MODEL["layer_0.slope"]},
    "other shapes": changed(layer_0=MODEL["layer_0"].T.copy()),
    "a bias too long": changed(layer_1_at_bias=np.zeros(3, np.float32)),
}


def stored(model: Any) -> dict[str, Any]:
    weights = BatchedWeights(2, ARCH)
    weights.load(1, model)
    return weights.get(1)


def expect_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_ready_model_is_not_copied() -> None:
    core = BatchedWeights(1, ARCH)._core
    found = core.ready_model(MODEL)
    assert found is not None
    weights, biases, slopes = found
    assert all(found is MODEL[f"layer_{i}"] for i, found in enumerate(weights))
    assert all(found is MODEL[f"layer_{i}.bias"] for i, found in enumerate(biases))
    assert slopes[0] is MODEL["layer_0.slope"]
    assert slopes[1] is None
    expect_equal(stored(MODEL), MODEL)


def test_biases_may_be_missing() -> None:
    for name in ("layer_0.bias", "layer_1.bias"):
        model = {k: v for k, v in MODEL.items() if k != name}
        assert BatchedWeights(1, ARCH)._core.ready_model(model) is not None
        expect_equal(stored(model), {**MODEL, name: np.zeros_like(MODEL[name])})


@pytest.mark.parametrize("name", EQUAL)
def test_others_are_converted(name: str) -> None:
    assert BatchedWeights(1, ARCH)._core.ready_model(EQUAL[name]) is None
    expect_equal(stored(EQUAL[name]), MODEL)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_are_refused(name: str) -> None:
    assert BatchedWeights(1, ARCH)._core.ready_model(WRONG[name]) is None
    with pytest.raises((KeyError, ValueError)):
        stored(WRONG[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_smaller_dtypes_are_looked_at(dtype: Any) -> None:
    """Whether they hold the weights."""
    weights = BatchedWeights(1, ARCH, dtype=dtype)
    assert weights._core.ready_model(MODEL) is None
    too_large = np.full((3, 4), np.inf if dtype == "int8" else 3.4e38, np.float32)
    with pytest.raises(ValueError, match="layer_0"):
        weights.load(0, changed(layer_0=too_large))
