"""Results are within derived bounds of float64, for every instruction set, layout and odd size."""

from __future__ import annotations

import numpy as np
import pytest

from cases import (
    ACTIVATIONS,
    DTYPES,
    ELEMENTWISE,
    MODELS,
    ROWS,
    SIZES,
    architecture,
    assert_same_bits,
    assert_within,
    case,
    size_triples,
    sweep,
)
from mlpbank import Activation, Architecture


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_two_sizes_meet(isa: str, layout: str, activation: Activation) -> None:
    for i, sizes in enumerate(size_triples()):
        c = case(architecture(sizes, activation), num_models=3, rows=ROWS[i % 4])
        assert_within(c.inference(isa, layout).forward(c.x), c, isa)


@pytest.mark.parametrize("part", sweep(range(4), every=4))
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float32"])
def test_every_two_sizes_meet_in_every_dtype(isa: str, layout: str, dtype: str, part: int) -> None:
    """Against the reference of the weights that were kept, dense and by slots."""
    rng = np.random.default_rng(3)
    for i, sizes in enumerate(size_triples()):
        if (i // len(SIZES) + i) % 4 != part:
            continue
        c = case(
            architecture(sizes, ELEMENTWISE[i % len(ELEMENTWISE)]),
            num_models=3,
            rows=ROWS[i % len(ROWS)],
        )
        kept = c.kept(dtype)
        # int8 is scaled after the sum: one rounding more than the weights that were kept have.
        slack = 4 if dtype == "int8" else 1
        inference = c.inference(isa, layout, dtype=dtype)
        y = inference.forward(c.x)
        bound = slack * kept.bound("portable" if dtype == "int8" else isa)
        assert (np.abs(y - kept.reference) <= bound).all(), c.architecture
        slots = rng.integers(0, 3, 5)
        assert_same_bits(inference.forward(c.x[slots], models=slots), y[slots])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("num_models", MODELS)
def test_numbers_of_models_and_rows(
    isa: str, layout: str, activation: Activation, num_models: int
) -> None:
    arch = architecture((7, 17, 5), activation)
    for rows in ROWS:
        c = case(arch, num_models, rows)
        assert_within(c.inference(isa, layout).forward(c.x), c, isa)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("num_layers", range(1, 6))
def test_numbers_of_layers(isa: str, layout: str, activation: Activation, num_layers: int) -> None:
    for sizes in [(17, 33, 9, 16, 31, 3), (1, 1, 2, 1, 3, 1), (65, 20, 48, 64, 15, 7)]:
        for rows in (1, 5, 50):
            c = case(architecture(sizes[: num_layers + 1], activation), num_models=18, rows=rows)
            assert_within(c.inference(isa, layout).forward(c.x), c, isa)


def test_layers_of_different_activations(isa: str, layout: str) -> None:
    for activation in ACTIVATIONS:
        for other in ACTIVATIONS:
            c = case(architecture((9, 10, 11), activation, output=other), num_models=4, rows=3)
            assert_within(c.inference(isa, layout).forward(c.x), c, isa)


def test_wide_layers(isa: str, layout: str) -> None:
    c = case(Architecture.mlp(300, 515, 2), num_models=2, rows=20)
    assert_within(c.inference(isa, layout).forward(c.x), c, isa)


def test_shared_rows(isa: str, layout: str) -> None:
    for num_models in MODELS:
        for rows in ROWS:
            c = case(architecture((5, 19, 3), Activation.TANH), num_models, rows)
            shared = type(c)(c.architecture, c.weights, np.broadcast_to(c.x[:1], c.x.shape))
            assert_within(c.inference(isa, layout).forward_shared(c.x[0]), shared, isa)


def test_missing_biases_are_zero(isa: str, layout: str) -> None:
    c = case(architecture((6, 18, 5), Activation.NONE), num_models=5, rows=4)
    inference = c.inference(isa, layout)
    without = {name: array for name, array in c.weights.items() if not name.endswith(".bias")}
    inference.weights.load_stacked(without)  # over biases that were there
    zero = {name: array * np.float32(name in without) for name, array in c.weights.items()}
    assert_within(inference.forward(c.x), type(c)(c.architecture, zero, c.x), isa)
