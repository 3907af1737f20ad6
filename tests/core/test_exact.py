"""Small integers make every sum exact in float32: there the tolerance is zero."""

from __future__ import annotations

import numpy as np
import pytest

from cases import (
    MODELS,
    ROWS,
    SIZES,
    Case,
    architecture,
    case,
    integer_weights,
    size_triples,
)
from mlpbank import Activation

# With integers: prelu's slopes are integers too, the bounds of clip as well.
EXACT = [
    Activation.NONE,
    Activation.RELU,
    Activation.RELU6,
    Activation.CLIP,
    Activation.PRELU,
]
EXACT_DTYPES = ["float32", "float16", "bfloat16"]


def test_no_partial_sum_can_be_inexact() -> None:
    """Inputs and biases up to 3, weights up to 1: two widest hidden layers stay below 2^24."""
    largest = 3
    for _ in range(3):
        largest = max(SIZES) * largest + 3
    assert largest < 2**24


@pytest.mark.parametrize("dtype", EXACT_DTYPES)
@pytest.mark.parametrize("activation", EXACT)
def test_every_two_sizes_meet(isa: str, layout: str, activation: Activation, dtype: str) -> None:
    for i, sizes in enumerate(size_triples()):
        c = case(architecture(sizes, activation), 17, ROWS[i % 6], integer_weights)
        np.testing.assert_array_equal(
            c.inference(isa, layout, dtype=dtype).forward(c.x), c.reference
        )


@pytest.mark.parametrize("dtype", EXACT_DTYPES)
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("num_models", MODELS)
def test_numbers_of_models_and_rows(
    isa: str, layout: str, activation: Activation, num_models: int, dtype: str
) -> None:
    for sizes in [(16, 31, 33, 2), (3, 1, 7, 1)]:
        for rows in ROWS:
            c = case(architecture(sizes, activation), num_models, rows, integer_weights)
            inference = c.inference(isa, layout, dtype=dtype)
            np.testing.assert_array_equal(inference.forward(c.x), c.reference)
            order = np.random.default_rng(rows).permutation(num_models)
            np.testing.assert_array_equal(
                inference.forward(c.x[order], models=order), c.reference[order]
            )


def test_int8_with_one_layer(isa: str, layout: str) -> None:
    """Where every output has a weight of 127 in magnitude the scale is 1."""
    for size in SIZES:
        for out in SIZES:
            c = case(architecture((size, out), Activation.NONE), 17, 9, integer_weights)
            weights = {**c.weights, "layer_0": c.weights["layer_0"] * 127}
            weights["layer_0"][:, 0] = 127
            exact = Case(c.architecture, weights, c.x)
            inference = exact.inference(isa, layout, dtype="int8")
            np.testing.assert_array_equal(inference.forward(c.x), exact.reference)
            np.testing.assert_array_equal(inference.forward(c.x[:, 0]), exact.reference[:, 0])
