"""The same row through the same model gives the same bits in every call and on every engine.

100 random configurations run by default, 500 with --slow; with MLPBANK_TEST_CONFIGS=10000 pytest
--slow tests/core/test_bits.py runs more. More threads than this machine has CPUs are tested in
tests/cpp/core_test.cpp, since Engine keeps to the CPU budget.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from cases import (
    DTYPES,
    FUSED_ISAS,
    LAYOUTS,
    ROWS,
    Case,
    Float32Array,
    architecture,
    assert_same_bits,
    case,
    random_architecture,
    random_weights,
    sweep,
)
from mlpbank import Activation, BatchedInference, BatchedWeights, Engine

CONFIGS = int(os.environ.get("MLPBANK_TEST_CONFIGS", "500"))
BLOCK = 100
# Those whose results must agree. Without a fused multiply-add, portable rounds differently.
GROUPS = [group for group in (FUSED_ISAS, ("portable",)) if group]
THREADS = (1, 2, 3, 4)
# Keeps one configuration to milliseconds: multiply-adds of one dense call.
MAX_WORK = 3_000_000


def random_case(rng: np.random.Generator) -> Case:
    arch = random_architecture(rng)
    num_models = int(
        rng.choice([1, 2, 15, 16, 17, 33]) if rng.random() < 0.5 else rng.integers(1, 60)
    )
    most = max(1, min(300, MAX_WORK // (num_models * arch.num_parameters)))
    rows = min(most, int(rng.choice(ROWS)) if rng.random() < 0.5 else int(rng.integers(1, 301)))
    x = rng.standard_normal((num_models, rows, arch.input_size)).astype(np.float32)
    return Case(arch, random_weights(arch, num_models, rng), x)


def engines(
    group: tuple[str, ...], weights: dict[str, BatchedWeights], threads: int
) -> Iterator[BatchedInference]:
    for isa in group:
        for layout in LAYOUTS:
            yield BatchedInference.from_weights(weights[layout], Engine(threads, isa))


def check_calls(
    inference: BatchedInference, x: Float32Array, y: Float32Array, rng: np.random.Generator
) -> None:
    """Check that every way to ask for rows of x gives the bits of y."""
    num_models, rows = y.shape[:2]
    threads = int(rng.choice(THREADS))
    assert_same_bits(inference.forward(x, num_threads=threads), y)

    # Some slots are left out, some repeated, in any order.
    slots = rng.integers(0, num_models, rng.integers(1, 2 * num_models + 1))
    assert_same_bits(inference.forward(x[slots], models=slots, num_threads=threads), y[slots])
    order = rng.permutation(num_models)
    assert_same_bits(inference.forward(x[order], models=order, num_threads=threads), y[order])

    first = int(rng.integers(rows))
    last = int(rng.integers(first, rows)) + 1
    assert_same_bits(inference.forward(x[:, first:last], num_threads=threads), y[:, first:last])
    assert_same_bits(inference.forward(x[:, first]), y[:, first])  # one row for each model

    # Single rows in one ragged call: row `picked` of model `slots`.
    picked = rng.integers(0, rows, len(slots))
    assert_same_bits(
        inference.forward(x[slots, picked], models=slots, num_threads=threads), y[slots, picked]
    )

    model = int(rng.integers(num_models))
    every = np.arange(num_models)
    same = inference.forward(np.broadcast_to(x[model], x.shape), models=every)
    assert_same_bits(same[model], y[model])
    assert_same_bits(inference.forward_shared(x[model], num_threads=threads), same)
    assert_same_bits(inference.forward_shared(x[model, first], num_threads=threads), same[:, first])


def check_configuration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = random_case(rng)
    dtype = "float32" if rng.random() < 0.5 else str(rng.choice(DTYPES))
    weights = {layout: c.batched_weights(layout, dtype) for layout in LAYOUTS}
    for group in GROUPS:
        expected = BatchedInference.from_weights(weights["panel"], Engine(1, group[0])).forward(c.x)
        for inference in engines(group, weights, threads=4):
            try:
                check_calls(inference, c.x, expected, rng)
            except AssertionError as error:
                raise AssertionError(
                    f"configuration {seed}: {inference!r}, {dtype}, x {c.x.shape}: {error}"
                ) from error


@pytest.mark.parametrize("first", sweep(range(0, CONFIGS, BLOCK), every=5))
def test_random_configurations(first: int) -> None:
    for seed in range(first, min(first + BLOCK, CONFIGS)):
        check_configuration(seed)


@pytest.mark.parametrize("group", GROUPS, ids=" and ".join)
def test_every_number_of_rows(group: tuple[str, ...]) -> None:
    """1 to 300 rows run through different tiles; each row must come out as it does alone."""
    c = case(architecture((13, 21, 6), Activation.TANH), num_models=3, rows=300)
    weights = {layout: c.batched_weights(layout) for layout in LAYOUTS}
    alone = BatchedInference.from_weights(weights["panel"], Engine(1, group[0]))
    expected = np.stack([alone.forward(c.x[:, row]) for row in range(300)], axis=1)
    for inference in engines(group, weights, threads=2):
        for rows in range(1, 301):
            assert_same_bits(inference.forward(c.x[:, :rows]), expected[:, :rows])
            assert_same_bits(inference.forward(c.x[:, 300 - rows :]), expected[:, 300 - rows :])


@pytest.mark.parametrize("group", GROUPS, ids=" and ".join)
def test_every_number_of_threads_when_there_is_enough_to_share(group: tuple[str, ...]) -> None:
    """Work far above the grain below which one thread does everything."""
    for num_models, rows in [(2000, 1), (40, 60), (1, 3000)]:
        c = case(architecture((20, 33, 17), Activation.TANH), num_models, rows)
        weights = {layout: c.batched_weights(layout) for layout in LAYOUTS}
        expected = BatchedInference.from_weights(weights["panel"], Engine(1, group[0])).forward(c.x)
        slots = np.random.default_rng(rows).permutation(num_models)
        for threads in THREADS:
            for inference in engines(group, weights, threads):
                assert_same_bits(inference.forward(c.x), expected)
                assert_same_bits(inference.forward(c.x[slots], models=slots), expected[slots])
