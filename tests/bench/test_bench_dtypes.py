"""Weights of other dtypes in the benchmark: verified against weights that NumPy rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlpbank import BatchedWeights
from mlpbank.bench import measure, peers
from mlpbank.bench.cases import DTYPES, Case, Problem, make_problem, round_weights, stored
from mlpbank.bench.contender import Settings

SMALL = Case(20, (3, 5, 2), 2)
SETTINGS = Settings(threads=1)


class TestDtypes:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_weights_are_rounded_as_a_bank_rounds_them(self, dtype: str, layout: str) -> None:
        case = Case(20, (17, 33, 5), 1)
        problem = make_problem(case)
        weights = BatchedWeights(20, case.architecture, layout=layout, dtype=dtype)
        weights.load_stacked(peers.stacked_weights(problem))
        for layer, w in enumerate(problem.weights):
            kept = np.stack([weights.get(m)[f"layer_{layer}"] for m in range(20)])
            np.testing.assert_array_equal(round_weights(w, dtype), kept)

    def test_answer_belongs_to_rounded_weights(self, problem: Problem) -> None:
        assert stored(problem, "float32") is problem
        own = stored(problem, "int8")
        assert np.abs(own.expected - problem.expected).max() > problem.tolerance.max()
        assert own.x is problem.x

    def test_bytes(self) -> None:
        case = Case(10, (4, 8, 2), 1)
        weights, biases = 4 * 8 + 8 * 2, 8 + 2
        assert [case.nbytes_as(dtype) for dtype in DTYPES] == [
            10 * n
            for n in (
                4 * weights + 4 * biases,
                *2 * (2 * weights + 4 * biases,),
                weights + 8 * biases,
            )
        ]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_case_is_verified_in_its_dtype_and_peers_in_float32(
        self, dtype: str, layout: str
    ) -> None:
        settings = Settings(1, layout=layout, dtype=dtype)
        builders = {"mlpbank": peers.build_mlpbank, "numpy": peers.build_numpy}
        result = measure.run_case(SMALL, builders, settings, seconds=0.001)
        assert result.wrong == {}
        assert [timing.name for timing in result.timings] == ["mlpbank", "numpy"]
        assert result.nbytes == SMALL.nbytes_as(dtype)

    def test_wrong_dtype_is_found(self, problem: Problem) -> None:
        contender = peers.build_mlpbank(problem, replace(SETTINGS, dtype="bfloat16"))
        assert measure.find_error(contender, stored(problem, "bfloat16")) is None
        assert measure.find_error(contender, problem) is not None
