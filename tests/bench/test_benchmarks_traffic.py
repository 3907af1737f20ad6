"""Requests for any models: they are what they say, and their answers are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks import peers_traffic, traffic

from mlpbank.bench import peers
from mlpbank.bench.cases import DTYPES, Problem
from mlpbank.bench.contender import Contender, Settings

SETTINGS = Settings(threads=1)


class TestTraffic:
    def test_subsets_have_no_repeats_and_differ(self, problem: Problem) -> None:
        requests = traffic.uniform(problem, 7, 5).requests
        assert all(len(set(request.slots.tolist())) == 7 for request in requests)
        assert len({tuple(request.slots.tolist()) for request in requests}) == 5

    def test_zipf(self, problem: Problem) -> None:
        (request,) = traffic.zipf(problem, 20_000).requests
        counts = np.sort(np.bincount(request.slots, minlength=20))[::-1]
        law = 20_000 / np.arange(1, 21) / sum(1 / k for k in range(1, 21))
        np.testing.assert_allclose(counts, law, rtol=0.2)
        assert (np.diff(request.slots) < 0).any()

    def test_huge_group_and_order(self, problem: Problem) -> None:
        (request,) = traffic.huge_group(problem, 300).requests
        assert sorted(np.bincount(request.slots).tolist()) == [1] * 19 + [300]
        (request,) = traffic.in_order(problem).requests
        assert request.slots.tolist() == list(range(20))

    def test_answer_is_that_of_each_entrys_model(self, problem: Problem) -> None:
        requests = traffic.uniform(problem, 7, 3)
        everything = replace(problem.case, rows=1)
        answers = requests.answer().reshape(3, 7, 2)
        for request, answer in zip(requests.requests, answers, strict=True):
            x = np.zeros((20, 1, 3), np.float32)
            x[request.slots, 0] = request.x
            whole = np.concatenate(
                [
                    traffic.reference(
                        everything.architecture,
                        [w[m : m + 1] for w in problem.weights],
                        [b[m : m + 1] for b in problem.biases],
                        [None, None],
                        x[m : m + 1],
                    )
                    for m in range(20)
                ]
            )
            np.testing.assert_allclose(answer, whole[request.slots, 0], rtol=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_mlpbank_is_right_and_a_wrong_entry_is_named(
        self, problem: Problem, dtype: str, layout: str
    ) -> None:
        requests = traffic.uniform(problem, 7, 3)
        inference = peers.make_inference(problem, Settings(1, layout=layout, dtype=dtype))
        verify = requests.verifier(dtype)
        right = traffic.answering("mlpbank", inference, requests)
        right.run()  # out of step with the requests: verification begins at the first
        assert verify(right) is None
        y = requests.answer(dtype)
        y[9, 0, 1] += 1
        error = verify(Contender("mlpbank", lambda: None, lambda: y, ours=True))
        assert error is not None
        assert error.startswith("entry 9, row 0, output 1: expected ")

    def test_requests_take_turns(self) -> None:
        asked: list[int] = []

        def answer(i: int) -> list[float]:
            asked.append(i)
            return [float(i)]

        contender = traffic.rotating("it", answer, 3)
        for _ in range(4):
            contender.run()
        assert asked == [0, 1, 2, 0]
        np.testing.assert_array_equal(np.asarray(contender.output()), [0, 1, 2])

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", ["build_index", "build_sort_loop", "build_padded"])
    def test_torch_is_right(self, problem: Problem, name: str) -> None:
        pytest.importorskip("torch")
        build = getattr(peers_traffic, name)
        for requests in (
            traffic.zipf(problem, 200),
            traffic.zipf(problem, 9),
            traffic.uniform(problem, 7, 3),
        ):
            assert requests.verifier("int8")(build(requests, SETTINGS)) is None

    def test_chunks_hold_similar_counts(self) -> None:
        counts = np.array([100, 60, 50, 49, 20, 9, 9, 9, 5, 4, 1, 1, 1, 1])
        chunks = peers_traffic._chunks(counts, 3)
        assert [begin for begin, _ in chunks] == [0, *(end for _, end in chunks[:-1])]
        assert chunks[-1][1] == len(counts)
        assert all(
            0 < end - begin <= 3 and counts[end - 1] >= counts[begin] // 2 for begin, end in chunks
        )
