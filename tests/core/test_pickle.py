"""Copies and pickles of inferences and engines, as multiprocessing and its kin make them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest

from cases import DTYPES, ISAS, RunProgram, architecture, assert_same_bits, case, one_model
from mlpbank import Activation, Architecture, BatchedInference, BatchedWeights, Engine, cpu_budget

T = TypeVar("T")


def pickled(value: T) -> T:
    copied = pickle.loads(pickle.dumps(value))
    assert type(copied) is type(value)
    return copied


@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy])
@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_gives_the_same_bits(
    layout: str, dtype: str, duplicate: Callable[[BatchedInference], BatchedInference]
) -> None:
    c = case(architecture((9, 33, 17), Activation.TANH), 40, 3)
    inference = BatchedInference.from_weights(c.batched_weights(layout, dtype), Engine(1, ISAS[-1]))
    expected = inference.forward(c.x)
    copied = duplicate(inference)
    assert_same_bits(copied.forward(c.x), expected)
    assert (copied.num_models, copied.architecture) == (
        inference.num_models,
        inference.architecture,
    )
    assert (copied.weights.layout, copied.weights.dtype) == (layout, dtype)
    assert (copied.engine.num_threads, copied.engine.isa) == (1, ISAS[-1])
    for model in range(40):
        for name, array in inference.weights.get(model).items():
            assert_same_bits(copied.weights.get(model)[name], array)
    # It has weights of its own.
    copied.load_weights(3, one_model({name: -array for name, array in c.weights.items()}, 3))
    copied.unload(4)
    copied.grow(2)
    assert_same_bits(inference.forward(c.x), expected)
    assert_same_bits(copied.forward(c.x[5:], models=np.arange(5, 40)), expected[5:])


def test_shallow_copy_shares_the_weights(layout: str) -> None:
    inference = BatchedInference(3, Architecture.mlp(2, 1), layout=layout)
    assert copy.copy(inference).weights is inference.weights
    weights = copy.copy(inference.weights)
    weights.load(0, {"layer_0": [1, 2]})
    assert not inference.weights.loaded.any()


def test_models_that_were_not_loaded_are_not(layout: str) -> None:
    c = case(architecture((9, 33, 17), Activation.TANH), 40, 3)
    weights = BatchedWeights(40, c.architecture, layout=layout)
    assert not pickled(weights).loaded.any()
    for model in (0, 17, 18, 39):
        weights.load(model, one_model(c.weights, model))
    weights.load(17, one_model(c.weights, 17))
    weights.load(20, one_model(c.weights, 20))
    weights.unload(20)
    copied = pickled(weights)
    assert np.array_equal(copied.loaded, weights.loaded)
    assert [copied.revision(model) for model in (0, 1, 17, 20)] == [1, 0, 1, 0]
    inferences = [BatchedInference.from_weights(w) for w in (weights, copied)]
    results = [inference.forward(c.x, missing="nan") for inference in inferences]
    assert np.array_equal(*results, equal_nan=True)
    for model in range(40):
        copied.load(model, one_model(c.weights, model))
    assert_same_bits(inferences[1].forward(c.x), c.inference(ISAS[0], layout).forward(c.x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_left_of_a_model_that_was_unloaded(layout: str, dtype: str) -> None:
    """Not even where its tile holds others: the pickle is as if the model had never been there."""
    c = case(architecture((9, 33, 17), Activation.TANH), 20, 3)
    weights, without = (
        BatchedWeights(20, c.architecture, layout=layout, dtype=dtype) for _ in range(2)
    )
    for model in range(20):
        weights.load(model, one_model(c.weights, model))
        if model not in (3, 18):
            without.load(model, one_model(c.weights, model))
    for model in (3, 18):
        weights.unload(model)
    assert pickle.dumps(weights) == pickle.dumps(without)


def test_damaged_pickle_is_refused(layout: str) -> None:
    restore, (models, arch, layout, dtype, blocks, loaded) = BatchedWeights(
        40, Architecture.mlp(3, 20, 2), layout=layout
    ).__reduce__()
    for wrong in [
        (blocks[:-1], loaded),
        (blocks[:0], loaded),
        (blocks, loaded[:-1]),
        (blocks, [*loaded, True]),
    ]:
        with pytest.raises(ValueError, match=r"^units: not of this version of mlpbank$"):
            restore(models, arch, layout, dtype, *wrong)


def test_engine_is_pickled_by_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "1")
    everything, many, one = (
        pickle.dumps(Engine(n, isa)) for n, isa in [(None, None), (1000, None), (1, ISAS[-1])]
    )
    monkeypatch.delenv("MLPBANK_NUM_THREADS")
    for data in (everything, many):
        assert pickle.loads(data).num_threads == cpu_budget().threads
    assert repr(pickle.loads(one)) == f"Engine(num_threads=1, isa={ISAS[-1]!r})"


def test_budget_can_be_pickled() -> None:
    assert pickled(cpu_budget()) == cpu_budget()


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods())))
def test_batched_inference_is_an_argument_of_processes(
    run_program: RunProgram, method: str
) -> None:
    run_program("pool_of_processes", method)
