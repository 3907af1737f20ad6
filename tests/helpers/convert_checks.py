"""Helpers of the tests of mlpbank.convert: outputs of converted models, and their tolerances."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cases
from cases import Float32Array, Weights
from mlpbank import Activation, Architecture, BatchedInference
from mlpbank.convert import Converted, UnsupportedLayerError
from tolerance import error_bound

# Square layers: a matrix that is the wrong way round would fit.
SQUARE = Architecture.mlp(6, 6, 6, activation="tanh")


def outputs(architecture: Architecture, weights: Weights, x: Float32Array) -> Float32Array:
    """Return what one model makes of rows."""
    inference = BatchedInference(1, architecture)
    inference.load_weights(0, weights)
    return inference.forward(x[None])[0]


def assert_computes(
    converted: Converted, x: Float32Array, expected: npt.ArrayLike, times: float = 1
) -> None:
    """Check outputs against those of a framework.

    Against float64 results of a framework the bound is that of unfused arithmetic: that has one
    rounding per term more than ours, which is what rounding folded weights to float32 costs.
    Against float32 results `times` is 4: their own error is at most three times that bound if their
    activations are within 12 ULP, as bounds are linear in those.
    """
    expected = np.asarray(expected, np.float64)
    got = outputs(converted.architecture, converted.weights, x)
    assert got.shape == expected.shape
    stacked = {name: array[None] for name, array in converted.weights.items()}
    bound = times * error_bound(converted.architecture, stacked, x[None], fused=False)[0]
    excess = np.abs(got - expected) / bound
    assert excess.max() <= 1, f"{converted.architecture}: off by {excess.max():.3g} times the bound"


def rows(architecture: Architecture, seed: int = 0, count: int = 20) -> Float32Array:
    """Return inputs."""
    return (
        np.random.default_rng(seed)
        .standard_normal((count, architecture.input_size))
        .astype(np.float32)
    )


def assert_same_models(
    converted: Converted, architecture: Architecture, weights: dict[str, Any]
) -> None:
    """Check that a model is this one, to the bit."""
    assert converted.architecture == architecture
    assert list(converted.weights) == [
        f"layer_{i}{suffix}"
        for i, layer in enumerate(architecture.layers)
        for suffix in ("", ".bias", ".slope")
        if suffix != ".slope" or layer.activation is Activation.PRELU
    ]
    for name, array in converted.weights.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


@contextmanager
def unsupported(message: str) -> Iterator[None]:
    """Check that an UnsupportedLayerError comes, with exactly this message."""
    with pytest.raises(UnsupportedLayerError) as caught:
        yield
    assert str(caught.value) == message


@contextmanager
def silently() -> Iterator[None]:
    """Let a framework warn about what is none of our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def elementwise(architecture: Architecture, activation: Activation) -> Architecture:
    """Return an architecture with this activation on every layer where it may stand."""
    sizes = [architecture.input_size, *(layer.output_size for layer in architecture.layers)]
    return cases.architecture(tuple(sizes), activation)
