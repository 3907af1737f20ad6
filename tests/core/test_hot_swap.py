"""Loading, unloading and growing while others predict."""

from __future__ import annotations

import numpy as np
import pytest

from mlpbank import BatchedInference, ModelNotLoadedError
from swap_stress import ARCHITECTURE, Stress, weights_of

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("by_slots", [False, True], ids=["dense", "slots"])
@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_output_is_of_one_revision_and_not_an_old_one(
    layout: str, by_slots: bool, dtype: str
) -> None:
    stress = Stress(layout, by_slots, num_models=100, dtype=dtype)
    result = stress.run(observations=100_000)
    assert result.swaps > 0
    assert result.observations >= 100_000
    assert (result.mixed, result.stale) == (0, 0)


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_rows_shared_out_over_threads_see_one_revision(layout: str) -> None:
    result = Stress(layout, by_slots=False, rows=2000, num_models=3).run(observations=1500)
    assert result.swaps > 0
    assert (result.mixed, result.stale) == (0, 0)


@pytest.fixture(params=["panel", "lane"])
def inference(request: pytest.FixtureRequest) -> BatchedInference:
    inference = BatchedInference(20, ARCHITECTURE, layout=request.param)
    for i in range(20):
        inference.load_weights(i, weights_of(i))
    return inference


def outputs(inference: BatchedInference, **options: str) -> np.ndarray:
    return inference.forward(np.ones((inference.num_models, 2), np.float32), **options)[:, 0]


def test_memory_of_replaced_models_is_used_again(inference: BatchedInference) -> None:
    for i in range(200):
        inference.load_weights(i % 20, weights_of(1))
    before = inference.weights.nbytes
    for i in range(20_000):
        inference.load_weights(i % 20, weights_of(i % 1000))
    stacked = {name: np.stack([w] * 20) for name, w in weights_of(3).items()}
    for _ in range(3):
        inference.weights.load_stacked(stacked)
    grown = inference.weights.nbytes
    for _ in range(50):
        inference.weights.load_stacked(stacked)
    assert before < 200_000
    assert inference.weights.nbytes == grown, (
        "the third and later loads of everything need no new memory"
    )
    assert (outputs(inference) == 9 * 9 + 3).all()


def test_revision_counts_loads(inference: BatchedInference) -> None:
    assert [inference.revision(i) for i in (0, 19)] == [1, 1]
    inference.load_weights(7, weights_of(5))
    inference.weights.load_stacked({name: np.stack([w] * 20) for name, w in weights_of(2).items()})
    inference.unload(3)
    assert [inference.revision(i) for i in (3, 7, 8)] == [2, 3, 2]
    with pytest.raises(IndexError, match=r"^model_idx: expected 0 to 19, got 20$"):
        inference.revision(20)


def test_unloaded_models_are_missing_and_others_are_not(inference: BatchedInference) -> None:
    expected = outputs(inference)
    for i in (0, 7, 19):
        inference.unload(i)
        inference.unload(i)  # again: nothing happens
    with pytest.raises(ModelNotLoadedError, match=r"^model 0: no weights were loaded$"):
        outputs(inference)
    y = outputs(inference, missing="nan")
    assert np.flatnonzero(np.isnan(y)).tolist() == [0, 7, 19]
    assert np.flatnonzero(~inference.weights.loaded).tolist() == [0, 7, 19]
    kept = ~np.isnan(y)
    assert (y[kept] == expected[kept]).all()
    for i in (0, 7, 19):
        inference.load_weights(i, weights_of(i))
    assert (outputs(inference) == expected).all()


def test_growing_adds_unloaded_models_and_moves_no_other(inference: BatchedInference) -> None:
    expected = outputs(inference)
    address = inference.weights._core.address
    inference.grow(50)
    assert (inference.num_models, inference.weights.num_models, len(inference.weights.loaded)) == (
        70,
        70,
        70,
    )
    assert inference.weights._core.address == address
    assert not inference.weights.loaded[20:].any()
    assert (inference.forward(np.ones((20, 2)), models=np.arange(20))[:, 0] == expected).all()
    for i in range(20, 70):
        inference.load_weights(i, weights_of(i))
    codes = np.arange(70)
    assert (outputs(inference) == 9 * codes**2 + codes).all()
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=r"^count: expected a positive integer"):
            inference.grow(bad)  # type: ignore[arg-type]
    with pytest.raises((OverflowError, MemoryError)):
        inference.grow(2**62)
    assert inference.num_models == 70


class Grows:
    """A number of threads that lets the inference grow while arguments are looked at."""

    def __init__(self, inference: BatchedInference) -> None:
        self.inference = inference

    def __index__(self) -> int:
        self.inference.grow(self.inference.num_models)
        for i in range(self.inference.num_models):
            self.inference.load_weights(i, weights_of(i))
        return 1


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_growing_in_the_middle_of_a_call_does_not_move_rows_to_other_models(layout: str) -> None:
    inference = BatchedInference(4, ARCHITECTURE, layout=layout)
    for i in range(4):
        inference.load_weights(i, weights_of(i))
    codes = np.arange(4)
    expected = np.repeat(9 * codes**2 + codes, 2).reshape(4, 2)
    y = inference.forward(np.ones((4, 2, 2), np.float32), num_threads=Grows(inference))  # type: ignore[arg-type]
    assert (y[:, :, 0] == expected).all()
    models = inference.num_models
    shared = inference.forward_shared(np.ones(2), num_threads=Grows(inference))  # type: ignore[arg-type]
    assert shared.shape == (models, 2)
    codes = np.arange(models)
    assert (shared[:, 0] == 9 * codes**2 + codes).all()


class GrowsWhenChecked(np.ndarray):
    """An `out` that lets the inference grow when its memory is looked at."""

    inference: BatchedInference

    @property
    def flags(self) -> np.flagsobj:  # type: ignore[override]
        self.inference.grow(self.inference.num_models)
        return super().flags


@pytest.mark.parametrize("shared", [False, True])
def test_growing_while_out_is_checked_keeps_the_number_of_models(
    inference: BatchedInference, shared: bool
) -> None:
    out = np.zeros((20, 2), np.float32).view(GrowsWhenChecked)
    out.inference = inference
    x = np.ones((20, 2), np.float32)
    y = inference.forward_shared(x[0], out=out) if shared else inference.forward(x, out=out)
    assert y is out
    codes = np.arange(20)
    assert (y[:, 0] == 9 * codes**2 + codes).all()
    assert inference.num_models > 20
