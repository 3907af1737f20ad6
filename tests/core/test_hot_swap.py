"""Loading, unloading and growing while others predict."""

from __future__ import annotations

import numpy as np
import pytest

from mlpbank import BatchedInference, ModelNotLoadedError
from swap_stress import ARCHITECTURE, Stress, weights_of

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("by_ids", [False, True], ids=["dense", "ids"])
@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_output_is_of_one_generation_and_not_an_old_one(
    layout: str, by_ids: bool, dtype: str
) -> None:
    stress = Stress(layout, by_ids, num_models=100, dtype=dtype)
    result = stress.run(observations=100_000)
    assert result.swaps > 0
    assert result.observations >= 100_000
    assert (result.mixed, result.stale) == (0, 0)


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_rows_shared_out_over_threads_see_one_generation(layout: str) -> None:
    result = Stress(layout, by_ids=False, rows=2000, num_models=3).run(observations=1500)
    assert result.swaps > 0
    assert (result.mixed, result.stale) == (0, 0)


@pytest.fixture(params=["panel", "lane"])
def bank(request: pytest.FixtureRequest) -> BatchedInference:
    bank = BatchedInference(20, ARCHITECTURE, layout=request.param)
    for i in range(20):
        bank.load_weights(i, weights_of(i))
    return bank


def outputs(bank: BatchedInference, **options: str) -> np.ndarray:
    return bank.forward(np.ones((bank.num_models, 2), np.float32), **options)[:, 0]


def test_memory_of_replaced_models_is_used_again(bank: BatchedInference) -> None:
    for i in range(200):
        bank.load_weights(i % 20, weights_of(1))
    before = bank.weights.nbytes
    for i in range(20_000):
        bank.load_weights(i % 20, weights_of(i % 1000))
    stacked = {name: np.stack([w] * 20) for name, w in weights_of(3).items()}
    for _ in range(3):
        bank.weights.load_stacked(stacked)
    grown = bank.weights.nbytes
    for _ in range(50):
        bank.weights.load_stacked(stacked)
    assert before < 200_000
    assert bank.weights.nbytes == grown, (
        "the third and later loads of everything need no new memory"
    )
    assert (outputs(bank) == 9 * 9 + 3).all()


def test_generation_counts_loads(bank: BatchedInference) -> None:
    assert [bank.revision(i) for i in (0, 19)] == [1, 1]
    bank.load_weights(7, weights_of(5))
    bank.weights.load_stacked({name: np.stack([w] * 20) for name, w in weights_of(2).items()})
    bank.unload(3)
    assert [bank.revision(i) for i in (3, 7, 8)] == [2, 3, 2]
    with pytest.raises(IndexError, match=r"^model_idx: expected 0 to 19, got 20$"):
        bank.revision(20)


def test_unloaded_models_are_missing_and_others_are_not(bank: BatchedInference) -> None:
    expected = outputs(bank)
    for i in (0, 7, 19):
        bank.unload(i)
        bank.unload(i)  # again: nothing happens
    with pytest.raises(ModelNotLoadedError, match=r"^model 0: no weights were loaded$"):
        outputs(bank)
    y = outputs(bank, missing="nan")
    assert np.flatnonzero(np.isnan(y)).tolist() == [0, 7, 19]
    assert np.flatnonzero(~bank.weights.loaded).tolist() == [0, 7, 19]
    kept = ~np.isnan(y)
    assert (y[kept] == expected[kept]).all()
    for i in (0, 7, 19):
        bank.load_weights(i, weights_of(i))
    assert (outputs(bank) == expected).all()


def test_growing_adds_unloaded_models_and_moves_no_other(bank: BatchedInference) -> None:
    expected = outputs(bank)
    address = bank.weights._core.address
    bank.grow(50)
    assert (bank.num_models, bank.weights.num_models, len(bank.weights.loaded)) == (70, 70, 70)
    assert bank.weights._core.address == address
    assert not bank.weights.loaded[20:].any()
    assert (bank.forward(np.ones((20, 2)), models=np.arange(20))[:, 0] == expected).all()
    for i in range(20, 70):
        bank.load_weights(i, weights_of(i))
    codes = np.arange(70)
    assert (outputs(bank) == 9 * codes**2 + codes).all()
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=r"^count: expected a positive integer"):
            bank.grow(bad)  # type: ignore[arg-type]
    with pytest.raises((OverflowError, MemoryError)):
        bank.grow(2**62)
    assert bank.num_models == 70


class Grows:
    """A number of threads that lets the bank grow while the arguments of a call are looked at."""

    def __init__(self, bank: BatchedInference) -> None:
        self.bank = bank

    def __index__(self) -> int:
        self.bank.grow(self.bank.num_models)
        for i in range(self.bank.num_models):
            self.bank.load_weights(i, weights_of(i))
        return 1


@pytest.mark.parametrize("layout", ["panel", "lane"])
def test_growing_in_the_middle_of_a_call_does_not_move_rows_to_other_models(layout: str) -> None:
    bank = BatchedInference(4, ARCHITECTURE, layout=layout)
    for i in range(4):
        bank.load_weights(i, weights_of(i))
    codes = np.arange(4)
    expected = np.repeat(9 * codes**2 + codes, 2).reshape(4, 2)
    y = bank.forward(np.ones((4, 2, 2), np.float32), num_threads=Grows(bank))  # type: ignore[arg-type]
    assert (y[:, :, 0] == expected).all()
    models = bank.num_models
    shared = bank.forward_shared(np.ones(2), num_threads=Grows(bank))  # type: ignore[arg-type]
    assert shared.shape == (models, 2)
    codes = np.arange(models)
    assert (shared[:, 0] == 9 * codes**2 + codes).all()


class GrowsWhenChecked(np.ndarray):
    """An `out` that lets a bank grow when its memory is looked at."""

    bank: BatchedInference

    @property
    def flags(self) -> np.flagsobj:  # type: ignore[override]
        self.bank.grow(self.bank.num_models)
        return super().flags


@pytest.mark.parametrize("shared", [False, True])
def test_growing_while_out_is_checked_keeps_the_number_of_models(
    bank: BatchedInference, shared: bool
) -> None:
    out = np.zeros((20, 2), np.float32).view(GrowsWhenChecked)
    out.bank = bank
    x = np.ones((20, 2), np.float32)
    y = bank.forward_shared(x[0], out=out) if shared else bank.forward(x, out=out)
    assert y is out
    codes = np.arange(20)
    assert (y[:, 0] == 9 * codes**2 + codes).all()
    assert bank.num_models > 20
