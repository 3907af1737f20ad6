"""models= chooses and repeats models; models without weights are an error, or NaN on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlpbank
from cases import MODELS, Case, architecture, assert_same_bits, case, one_model, raises
from mlpbank import Activation, BatchedInference, BatchedWeights, Engine, ModelNotLoadedError


@pytest.fixture
def c() -> Case:
    return case(architecture((3, 18, 2), Activation.TANH), 20, 4)


@pytest.fixture
def inference(c: Case, layout: str) -> BatchedInference:
    return BatchedInference.from_weights(c.batched_weights(layout))


@pytest.mark.parametrize(
    "slots",
    [
        [3],
        [0, 1, 2],
        [19, 0, 7],
        [5] * 40,
        [0, 19] * 30,
        list(range(20))[::-1],
        [15, 16, 15, 17, 16, 0, 15],
        np.array([3, 2], np.int8),
        np.array([3, 2], np.uint64),
        np.array([3, 2], ">i4"),
        np.array([3, 0, 2, 0, 1])[::2],
        range(4, 9),
        (True + 1, 2),
    ],
    ids=str,
)
def test_entries_go_through_their_models(inference: BatchedInference, c: Case, slots: Any) -> None:
    expected = inference.forward(c.x)
    chosen = np.asarray(slots).astype(int)
    assert_same_bits(inference.forward(c.x[chosen], models=slots), expected[chosen])
    assert_same_bits(inference.forward(c.x[chosen, 1], models=slots), expected[chosen, 1])


def test_slots_that_are_nearly_all_models_in_order(layout: str) -> None:
    """Models in order are not sorted by model; whatever differs from that anywhere must be."""
    n = 130
    inference = BatchedInference(n, mlpbank.Architecture.mlp(1, 1), layout=layout)
    inference.weights.load_stacked(
        {"layer_0": np.zeros((n, 1, 1)), "layer_0.bias": np.arange(n)[:, None]}
    )
    for count in (1, 2, 63, 64, 65, 127, 128, 129, 130):
        in_order = np.arange(count)
        for at in {0, count // 2, count - 1}:
            another, swapped = in_order.copy(), in_order.copy()
            another[at] = n - 1 - at
            swapped[[at, at - 1]] = swapped[[at - 1, at]]
            for slots in (in_order, another, swapped):
                np.testing.assert_array_equal(
                    inference.forward(np.zeros((count, 1)), models=slots)[:, 0], slots
                )


@pytest.mark.parametrize("num_models", [2048, 2049])
def test_model_numbers_of_one_digit_and_of_one_more(num_models: int) -> None:
    """Sorting by model takes 11 bits at a time: 2047 is the last number of one digit."""
    inference = BatchedInference(num_models, mlpbank.Architecture.mlp(1, 1))
    inference.weights.load_stacked(
        {"layer_0": np.zeros((num_models, 1)), "layer_0.bias": np.arange(num_models)[:, None]}
    )
    slots = np.array([num_models - 1, 0, num_models - 1, 1, num_models - 2, 0])
    np.testing.assert_array_equal(inference.forward(np.zeros((6, 1)), models=slots)[:, 0], slots)


@pytest.mark.parametrize("num_models", MODELS)
def test_many_entries_of_few_and_few_of_many(isa: str, layout: str, num_models: int) -> None:
    c = case(architecture((5, 17, 3), Activation.TANH), num_models, 3)
    inference = c.inference(isa, layout)
    expected = inference.forward(c.x)
    rng = np.random.default_rng(num_models)
    for entries in (1, 2, 17, 400, 3000):
        slots = rng.integers(0, num_models, entries)
        assert_same_bits(inference.forward(c.x[slots], models=slots), expected[slots])
        # One huge group beside small ones.
        skewed = np.where(rng.random(entries) < 0.9, num_models - 1, slots)
        assert_same_bits(inference.forward(c.x[skewed, 2], models=skewed), expected[skewed, 2])


def test_more_than_a_byte_of_models(layout: str) -> None:
    """Entries are sorted by model digit by digit; here there are three digits."""
    n = 70_000
    inference = BatchedInference(n, mlpbank.Architecture.mlp(1, 1), layout=layout)
    inference.weights.load_stacked(
        {"layer_0": np.ones((n, 1, 1)), "layer_0.bias": np.arange(n)[:, None]}
    )
    slots = np.random.default_rng(0).permutation(np.r_[0:n:7, 0:300, n - 300 : n, 65_000:66_000])
    x = np.random.default_rng(1).integers(0, 100, len(slots))
    np.testing.assert_array_equal(inference.forward(x[:, None], models=slots)[:, 0], slots + x)


@pytest.mark.parametrize(
    ("slots", "position", "value"),
    [([0, 20], 1, 20), ([-1], 0, -1), ([5, 3, 2**62], 2, 2**62), ([5, 3, -7, 20], 2, -7)],
)
def test_slots_out_of_range(
    inference: BatchedInference, slots: list[int], position: int, value: int
) -> None:
    with raises(IndexError, f"models[{position}]: expected 0 to 19, got {value}"):
        inference.forward(np.zeros((len(slots), 3)), models=slots)


def test_one_more_than_all_models_in_order(inference: BatchedInference) -> None:
    """No way around the check for slots that need no sorting."""
    for shape in [(21, 3), (21, 4, 3), (21, 0, 3)]:
        for options in ({}, {"missing": "nan"}, {"num_threads": 1}):
            with raises(IndexError, "models[20]: expected 0 to 19, got 20"):
                inference.forward(np.zeros(shape), models=range(21), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [2**63, 2**63 + 1, 2**64 - 1])
def test_slots_beyond_64_bits(inference: BatchedInference, number: int) -> None:
    for slots in ([1, number], [1, number, 2**64 - 1]):
        with raises(IndexError, f"models[1]: expected a model index, got {number}"):
            inference.forward(np.zeros((len(slots), 3)), models=np.array(slots, np.uint64))
    with raises(IndexError, f"models[1]: expected 0 to 19, got {2**63 - 1}"):
        inference.forward(np.zeros((2, 3)), models=np.array([1, 2**63 - 1], np.uint64))


def test_masked_slots_are_refused(inference: BatchedInference) -> None:
    """NumPy would drop the mask and hand over what lies below."""
    with raises(
        TypeError, "models: expected an array without mask, got a masked array; fill it first"
    ):
        inference.forward(np.zeros((2, 3)), models=np.ma.masked_equal([0, 1], 1))


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([0, 1.5], "dtype float64, models[0] = np.float64(0.0)"),
        (["0", "a"], "dtype <U1, models[0] = np.str_('0')"),
        ([True, False], "dtype bool, models[0] = np.True_"),
        ([0, None], "dtype object, models[1] = None"),
    ],
)
def test_slots_that_are_no_integers(inference: BatchedInference, slots: Any, message: str) -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":  # NumPy 1 shows its scalars as Python's
        message = (
            message.replace("np.float64(0.0)", "0.0")
            .replace("np.str_('0')", "'0'")
            .replace("np.True_", "True")
        )
    with raises(TypeError, f"models: expected integers, got {message}"):
        inference.forward(np.zeros((2, 3)), models=slots)


@pytest.mark.parametrize(("slots", "shape"), [(3, "()"), ([[0, 1]], "(1, 2)"), ([[]], "(1, 0)")])
def test_slots_of_other_dimensions(inference: BatchedInference, slots: Any, shape: str) -> None:
    with raises(ValueError, f"models: expected one dimension, got shape {shape}"):
        inference.forward(np.zeros((np.size(slots), 3)), models=slots)


def test_ragged_slots(inference: BatchedInference) -> None:
    with pytest.raises(ValueError, match=r"^models: "):
        inference.forward(np.zeros((2, 3)), models=[[0], [1, 2]])


# Models 4 and 17, in different tiles of the lane layout, stay without weights.
MISSING = (4, 17)
CALLS: dict[str, Callable[..., Any]] = {
    "forward": lambda inference, c, **options: inference.forward(c.x, **options),
    "models": lambda inference, c, **options: inference.forward(c.x, models=range(20), **options),
    "shared": lambda inference, c, **options: inference.forward_shared(c.x[0], **options),
}


def partly_loaded(c: Case, layout: str) -> BatchedInference:
    weights = BatchedWeights(20, c.architecture, layout=layout)
    for m in range(20):
        if m not in MISSING:
            weights.load(m, one_model(c.weights, m))
    return BatchedInference.from_weights(weights, Engine())


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_model_is_an_error_by_default(c: Case, layout: str, name: str) -> None:
    inference = partly_loaded(c, layout)
    out = np.full((20, 4, 2), 9, np.float32)
    for options in ({}, {"missing": "error"}):
        with raises(ModelNotLoadedError, "model 4: no weights were loaded"):
            CALLS[name](inference, c, out=out, **options)
    assert (out == 9).all()


@pytest.mark.parametrize("name", CALLS)
def test_missing_nan(c: Case, layout: str, name: str) -> None:
    full = CALLS[name](BatchedInference.from_weights(c.batched_weights(layout)), c)
    y = CALLS[name](partly_loaded(c, layout), c, missing="nan")
    present = np.setdiff1d(np.arange(20), MISSING)
    assert_same_bits(y[present], full[present])
    assert np.isnan(y[list(MISSING)]).all()


def test_missing_models_among_entries(c: Case, layout: str) -> None:
    full = BatchedInference.from_weights(c.batched_weights(layout)).forward(c.x)
    inference = partly_loaded(c, layout)
    slots = np.array([17, 3, 4, 3, 17, 5])
    with raises(ModelNotLoadedError, "model 17: no weights were loaded"):
        inference.forward(c.x[slots], models=slots)
    y = inference.forward(c.x[slots], models=slots, missing="nan")
    assert_same_bits(y[[1, 3, 5]], full[[3, 3, 5]])
    assert np.isnan(y[[0, 2, 4]]).all()
    # Models without weights that are not asked for do not matter.
    assert_same_bits(inference.forward(c.x[[3, 5]], models=[3, 5]), full[[3, 5]])


@pytest.mark.parametrize(
    ("slots", "first"), [([4, 17], 4), ([17, 4], 17), ([3, 17, 4, 4], 17), ([5, 4, 17], 4)]
)
def test_the_first_missing_model_of_the_call_is_named(
    c: Case, layout: str, slots: list[int], first: int
) -> None:
    """The first in the caller's order is named, in any order of computing, even without rows."""
    inference = partly_loaded(c, layout)
    for rows in (4, 1, 0):
        out = np.full((len(slots), rows, 2), 9, np.float32)
        with raises(ModelNotLoadedError, f"model {first}: no weights were loaded"):
            inference.forward(c.x[slots, :rows], models=slots, out=out)
        assert (out == 9).all()
        assert inference.forward(c.x[slots, :rows], models=slots, missing="nan").shape == out.shape


@pytest.mark.parametrize("num_models", [15, 16, 17, 32])
def test_each_model_of_a_tile_can_be_the_missing_one(layout: str, num_models: int) -> None:
    c = case(architecture((3, 18, 2), Activation.TANH), num_models, 4)
    weights = c.batched_weights(layout)
    inference, full = (
        BatchedInference.from_weights(weights),
        c.inference(Engine().isa, layout).forward(c.x),
    )
    for model in range(num_models):
        weights.unload(model)
        others = np.delete(np.arange(num_models), model)
        for slots in (None, np.arange(num_models), np.arange(num_models)[::-1]):
            order = np.arange(num_models) if slots is None else slots
            out = np.full(full.shape, 9, np.float32)
            with raises(ModelNotLoadedError, f"model {model}: no weights were loaded"):
                inference.forward(c.x[order], models=slots, out=out)
            assert (out == 9).all()
            inference.forward(c.x[order], models=slots, out=out, missing="nan")
            assert np.isnan(out[order == model]).all()
            assert_same_bits(out[order != model], full[order[order != model]])
        assert_same_bits(inference.forward(c.x[others], models=others), full[others])
        weights.load(model, one_model(c.weights, model))


def test_nan_for_models_of_which_nothing_was_ever_loaded(layout: str) -> None:
    """Into memory that holds something else, by every way of asking."""
    c = case(architecture((3, 18, 2), Activation.TANH), 40, 4)
    inference = BatchedInference(40, c.architecture, layout=layout)
    for call in (
        lambda out: inference.forward(c.x, out=out, missing="nan"),
        lambda out: inference.forward(c.x, models=range(40), out=out, missing="nan"),
        lambda out: inference.forward(c.x, models=[*range(1, 40), 0], out=out, missing="nan"),
        lambda out: inference.forward_shared(c.x[0], out=out, missing="nan"),
    ):
        assert np.isnan(call(np.zeros((40, 4, 2), np.float32))).all()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_nan_in_all_rows_of_a_missing_model_and_in_no_others(layout: str, num_threads: int) -> None:
    """So many rows that threads share them out piece by piece."""
    c = case(architecture((3, 18, 2), Activation.TANH), 3, 2000)
    weights = c.batched_weights(layout)
    inference = BatchedInference.from_weights(weights)
    full, shared = inference.forward(c.x), inference.forward_shared(c.x[0])
    weights.unload(1)
    slots = [2, 1, 0]
    for expected, y in (
        (full, inference.forward(c.x, missing="nan", num_threads=num_threads)),
        (shared, inference.forward_shared(c.x[0], missing="nan", num_threads=num_threads)),
        (
            full,
            inference.forward(c.x[slots], models=slots, missing="nan", num_threads=num_threads)[
                slots
            ],
        ),
    ):
        assert np.isnan(y[1]).all()
        assert_same_bits(y[[0, 2]], expected[[0, 2]])


def test_a_missing_model_is_an_error_even_without_rows(c: Case, layout: str) -> None:
    inference = partly_loaded(c, layout)
    for call in (
        lambda: inference.forward(np.empty((20, 0, 3), np.float32)),
        lambda: inference.forward(np.empty((20, 0, 3)), num_threads=1),
        lambda: inference.forward(np.empty((20, 0, 3)), models=range(20)),
        lambda: inference.forward_shared(np.empty((0, 3))),
    ):
        with raises(ModelNotLoadedError, "model 4: no weights were loaded"):
            call()


def test_loading_ends_being_missing(c: Case, layout: str) -> None:
    inference = partly_loaded(c, layout)
    for m in MISSING:
        inference.load_weights(m, one_model(c.weights, m))
    assert_same_bits(
        inference.forward(c.x),
        BatchedInference.from_weights(c.batched_weights(layout)).forward(c.x),
    )


@pytest.mark.parametrize("value", ["zero", "", "Error", None, True, ["error"], b"nan"])
def test_unknown_option_for_missing(inference: BatchedInference, c: Case, value: Any) -> None:
    for call in CALLS.values():
        with raises(ValueError, f"missing: expected 'error' or 'nan', got {value!r}"):
            call(inference, c, missing=value)


def test_error_class_is_public_and_a_runtime_error() -> None:
    assert issubclass(ModelNotLoadedError, RuntimeError)
    assert ModelNotLoadedError.__module__ == "mlpbank"
    assert mlpbank.ModelNotLoadedError is ModelNotLoadedError
