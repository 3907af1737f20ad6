"""NaN, infinity, -0 and subnormals of a model, row or weight never reach a neighbour or padding."""

from __future__ import annotations

import numpy as np
import pytest

from cases import (
    ACTIVATIONS,
    Case,
    architecture,
    assert_same_bits,
    bits,
    case,
    integer_weights,
    layer_spec,
    random_weights,
    sweep,
)
from mlpbank import Activation, BatchedInference, BatchedWeights, Engine, LayerSpec
from mlpbank.architecture import Architecture

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40]
POISON = [np.nan, np.inf, -np.inf]
ODD = (1, 2, 3, 7, 15, 17, 31, 33)
WITH_NAN = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])  # int8 has none


@WITH_NAN
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7, 1), (17, 5, 15), (2, 33, 3)])
def test_a_models_weights_never_touch_another_model(
    isa: str, layout: str, dtype: str, sizes: tuple[int, ...]
) -> None:
    for num_models in ODD:
        c = case(architecture(sizes, Activation.TANH), num_models, 3)
        clean = c.inference(isa, layout, dtype=dtype).forward(c.x)
        for model in range(num_models):
            inference = c.inference(isa, layout, dtype=dtype)
            value = SPECIAL[(num_models + model) % len(SPECIAL)]
            inference.load_weights(
                model,
                {name: np.full_like(array[model], value) for name, array in c.weights.items()},
            )
            others = np.flatnonzero(np.arange(num_models) != model)
            assert_same_bits(inference.forward(c.x)[others], clean[others])
            assert_same_bits(inference.forward(c.x[others], models=others), clean[others])
            slots = np.repeat(np.arange(num_models), 2)[
                ::-1
            ]  # the poisoned model computed beside the others
            assert_same_bits(
                inference.forward(c.x[slots], models=slots)[slots != model],
                clean[slots[slots != model]],
            )


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 49])
def test_a_rows_inputs_never_touch_another_row(isa: str, layout: str, rows: int) -> None:
    for num_models in (1, 3, 16, 17):
        c = case(architecture((5, 19, 3), Activation.TANH), num_models, rows)
        inference = c.inference(isa, layout)
        clean = inference.forward(c.x)
        shared_clean = inference.forward_shared(c.x[0])
        for row in range(rows):
            model = row % num_models
            x = c.x.copy()
            x[model, row] = SPECIAL[row % len(SPECIAL)]
            mask = np.ones((num_models, rows), bool)
            mask[model, row] = False
            assert_same_bits(inference.forward(x)[mask], clean[mask])
            order = np.random.default_rng(row).permutation(num_models)
            assert_same_bits(
                inference.forward(x[order], models=order)[mask[order]], clean[order][mask[order]]
            )
            others = np.arange(rows) != row
            assert_same_bits(
                inference.forward_shared(x[0] if model == 0 else c.x[0])[:, others],
                shared_clean[:, others],
            )


@WITH_NAN
@pytest.mark.parametrize("value", POISON)
@pytest.mark.parametrize("out", sweep(ODD, every=3))
def test_a_weight_touches_its_own_output_only(
    isa: str, layout: str, dtype: str, out: int, value: float
) -> None:
    """Inputs are zero: a lane that multiplies infinity where it should not gives NaN."""
    for rows in (1, 5, 20, 48):
        c = case(architecture((3, out), Activation.NONE), 2, rows)
        x = np.zeros_like(c.x)
        for o in range(out):
            weights = {name: array.copy() for name, array in c.weights.items()}
            weights["layer_0"][0, 1, o] = value
            y = Case(c.architecture, weights, x).inference(isa, layout, dtype=dtype).forward(x)
            assert np.isnan(y[0, :, o]).all()
            y[0, :, o] = weights["layer_0.bias"][0, o]
            assert_same_bits(
                y, np.broadcast_to(weights["layer_0.bias"][:, None, :], y.shape).copy()
            )


@pytest.mark.parametrize("position", range(17))
def test_a_special_input_reaches_every_output_of_its_row(
    isa: str, layout: str, position: int
) -> None:
    c = case(architecture((17, 7, 3), Activation.NONE), 2, 20)
    for row in range(20):
        x = c.x.copy()
        x[1, row, position] = np.nan
        y = c.inference(isa, layout).forward(x)
        assert np.isnan(y[1, row]).all()
        assert np.isnan(y).sum() == 3


def test_missing_models_beside_others_leave_them_alone(isa: str, layout: str) -> None:
    c = case(architecture((5, 18, 3), Activation.TANH), 33, 4)
    clean = c.inference(isa, layout).forward(c.x)
    for missing in range(33):
        weights = BatchedWeights(33, c.architecture, layout=layout)
        for m in range(33):
            if m != missing:
                weights.load(m, {name: array[m] for name, array in c.weights.items()})
        y = BatchedInference.from_weights(weights, Engine(isa=isa)).forward(c.x, missing="nan")
        others = np.arange(33) != missing
        assert np.isnan(y[missing]).all()
        assert_same_bits(y[others], clean[others])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_comes_through_every_activation(isa: str, layout: str, activation: Activation) -> None:
    """A model that is broken must say so; relu(NaN) is NaN too."""
    arch = Architecture([layer_spec(3, 5, activation)])
    for rows in (1, 6, 48):
        c = Case(
            arch,
            random_weights(arch, 2, np.random.default_rng(0)),
            np.full((2, rows, 3), np.nan, np.float32),
        )
        assert np.isnan(c.inference(isa, layout).forward(c.x)).all()


def test_infinity_follows_ieee_arithmetic(isa: str, layout: str) -> None:
    arch = Architecture([LayerSpec(2, 3)])
    weights = {"layer_0": np.array([[[1, -1, 1], [1, 1, -1]]], np.float32)}
    inference = BatchedInference(1, arch, Engine(isa=isa), layout=layout)
    inference.weights.load_stacked(weights)
    y = inference.forward(np.array([[[np.inf, 2], [np.inf, np.inf], [-np.inf, 0]]]))[0]
    np.testing.assert_array_equal(
        y, [[np.inf, -np.inf, np.inf], [np.inf, np.nan, np.nan], [-np.inf, np.inf, -np.inf]]
    )


def test_overflow_gives_infinity(isa: str, layout: str) -> None:
    inference = BatchedInference(1, Architecture([LayerSpec(2, 1)]), Engine(isa=isa), layout=layout)
    inference.load_weights(0, {"layer_0": [3e38, 3e38]})
    assert inference.forward([[1.0, 1.0]]).item() == np.inf
    assert inference.forward([[-1.0, -1.0]]).item() == -np.inf
    assert inference.forward([[1.0, -1.0]]).item() == 0


def test_subnormals_are_computed_and_not_flushed_to_zero(isa: str, layout: str) -> None:
    """Integer multiples of the smallest subnormal are exact, so the expected result is too."""
    tiny = np.float32(2.0**-149)
    c = case(architecture((7, 17), Activation.NONE), 17, 20, integer_weights)
    weights = {name: array * tiny for name, array in c.weights.items()}
    small = Case(c.architecture, weights, c.x)
    y = small.inference(isa, layout).forward(small.x)
    expected = (c.inference(isa, layout).forward(c.x) * tiny).astype(np.float32)
    assert (expected != 0).any()
    np.testing.assert_array_equal(y, expected)


def test_minus_zero_keeps_its_sign(isa: str, layout: str) -> None:
    """-0 + (-0 * 1) is -0 only if the sum starts at the bias and not at 0."""
    for out in (1, 3, 17):
        inference = BatchedInference(
            2, Architecture([LayerSpec(2, out)]), Engine(isa=isa), layout=layout
        )
        minus_zero = np.full(out, -0.0, np.float32)
        for model in range(2):
            inference.load_weights(
                model, {"layer_0": np.ones((2, out)), "layer_0.bias": minus_zero}
            )
        for rows in (1, 6, 48):
            y = inference.forward(np.full((2, rows, 2), -0.0, np.float32))
            assert (bits(y) == 0x80000000).all()
