"""The sections of the suite beside its cases: the right work is done, verified and reported. Nothing here is timed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlpbank.bench.contest import Step
from mlpbank.bench.table import Factor, Microseconds, Share, Surplus, Table

from mlpbank import BatchedInference, BatchedWeights, Engine
from mlpbank.bench import (
    command,
    dtypes,
    ids,
    measure,
    more,
    options,
    peers,
    peers_traffic,
    swap,
    traffic,
)
from mlpbank.bench.cases import DTYPES, Case, Problem, make_problem, round_weights, stored
from mlpbank.bench.contender import Contender, Settings
from mlpbank.cli import main

SMALL = Case(20, (3, 5, 2), 2)
SETTINGS = Settings(threads=1)
SECONDS = 1e-3


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WARM_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(measure, "_ROUNDS", (2, 2))
    monkeypatch.setattr(measure, "_LIMIT_ROUNDS", 2)
    monkeypatch.setattr(swap, "_PERIOD", 0.02)
    monkeypatch.setattr(swap, "_LOADS", (10, 3))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(Case(20, (3, 5, 2), 1))


def scaled(n: int) -> int:
    """Make the section ``ids`` a hundredth of what it is."""
    return max(2, n // 100)


def ran(steps: Sequence[Step]) -> list[Table]:
    """Run a section, and check what is true of all tables."""
    tables = []
    for step in steps:
        seen: list[float] = []
        tables.append(step.run(lambda fraction, doing, seen=seen: seen.append(fraction)))  # type: ignore[misc]
        assert seen
        assert min(seen) >= 0
        assert max(seen) <= 1 + 1e-9
    for table in tables:
        assert table.rows
        assert table.wrong == {}
        assert "nan" not in str(table)
        assert json.loads(json.dumps(table.as_json()))["rows"] == [dict(row) for row in table.rows]
    return tables


class TestTables:
    TABLE = Table(
        "Title",
        [
            {"": "a", "time": Microseconds(12.34), "share": Share(0.456)},
            {"": "bcd", "time": Microseconds(1234.5)},
        ],
        wrong={"x": "model 3"},
        left_out={"y": "not installed"},
        other_load=0.5,
    )

    def test_text_is_aligned_and_says_everything(self) -> None:
        assert str(self.TABLE).split("\n") == [
            "Title",
            "          time  share",
            "  a    12.3 us    46%",
            "  bcd  1234 us",
            "  x: WRONG, not timed: model 3",
            "  y: skipped: not installed",
            "  Other processes took 50% of the CPUs meanwhile: do not rely on these figures.",
        ]

    def test_json_keeps_numbers_and_units(self) -> None:
        written = json.loads(json.dumps(self.TABLE.as_json()))
        assert written["rows"] == [
            {"": "a", "time": 12.34, "share": 0.456},
            {"": "bcd", "time": 1234.5},
        ]
        assert written["units"]["time"] == "us"

    def test_nan_is_no_number_in_json(self) -> None:
        table = Table("", [{"median": Microseconds("nan")}])
        assert "nan us" in str(table)
        assert table.as_json()["rows"] == [{"median": None}]

    def test_quantities(self) -> None:
        assert [str(q) for q in (Factor(1.234), Share(0.5), Surplus(0.05), Surplus(-0.05))] == [
            "1.23 ×",
            "50%",
            "+5%",
            "-5%",
        ]


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
        result = measure.run_case(SMALL, builders, settings, seconds=SECONDS)
        assert result.wrong == {}
        assert [timing.name for timing in result.timings] == ["mlpbank", "numpy"]
        assert result.nbytes == SMALL.nbytes_as(dtype)

    def test_wrong_dtype_is_found(self, problem: Problem) -> None:
        contender = peers.build_mlpbank(problem, replace(SETTINGS, dtype="bfloat16"))
        assert measure.find_error(contender, stored(problem, "bfloat16")) is None
        assert measure.find_error(contender, problem) is not None

    def test_section(self) -> None:
        (table,) = ran(dtypes.steps(SETTINGS, SECONDS, (SMALL,)))
        assert [row[""] for row in table.rows] == list(DTYPES)
        assert table.rows[0]["as fast as float32"] == 1


class TestTraffic:
    def test_subsets_have_no_repeats_and_differ(self, problem: Problem) -> None:
        requests = traffic.uniform(problem, 7, 5).requests
        assert all(len(set(request.ids.tolist())) == 7 for request in requests)
        assert len({tuple(request.ids.tolist()) for request in requests}) == 5

    def test_zipf(self, problem: Problem) -> None:
        (request,) = traffic.zipf(problem, 20_000).requests
        counts = np.sort(np.bincount(request.ids, minlength=20))[::-1]
        law = 20_000 / np.arange(1, 21) / sum(1 / k for k in range(1, 21))
        np.testing.assert_allclose(counts, law, rtol=0.2)
        assert (np.diff(request.ids) < 0).any()

    def test_huge_group_and_order(self, problem: Problem) -> None:
        (request,) = traffic.huge_group(problem, 300).requests
        assert sorted(np.bincount(request.ids).tolist()) == [1] * 19 + [300]
        (request,) = traffic.in_order(problem).requests
        assert request.ids.tolist() == list(range(20))

    def test_answer_is_that_of_each_entrys_model(self, problem: Problem) -> None:
        requests = traffic.uniform(problem, 7, 3)
        everything = replace(problem.case, rows=1)
        answers = requests.answer().reshape(3, 7, 2)
        for request, answer in zip(requests.requests, answers, strict=True):
            x = np.zeros((20, 1, 3), np.float32)
            x[request.ids, 0] = request.x
            whole = np.concatenate(
                [
                    traffic.reference(
                        everything.architecture,
                        [w[m : m + 1] for w in problem.weights],
                        [b[m : m + 1] for b in problem.biases],
                        x[m : m + 1],
                    )
                    for m in range(20)
                ]
            )
            np.testing.assert_allclose(answer, whole[request.ids, 0], rtol=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_mlpbank_is_right_and_a_wrong_entry_is_named(
        self, problem: Problem, dtype: str, layout: str
    ) -> None:
        requests = traffic.uniform(problem, 7, 3)
        bank = peers.make_bank(problem, Engine(1), Settings(1, layout=layout, dtype=dtype))
        verify = requests.verifier(dtype)
        right = traffic.answering("mlpbank", bank, requests)
        right.run()  # out of step with the requests: verification begins at the first
        assert verify(right) is None
        y = requests.answer(dtype)
        y[9, 0, 1] += 1
        error = verify(Contender("mlpbank", lambda: None, lambda: y))
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


class TestSections:
    @pytest.mark.filterwarnings("ignore")
    def test_ids(self) -> None:
        pytest.importorskip("torch")
        tables = ran(ids.steps(SETTINGS, SECONDS, ("torch",), scaled))
        who = [[row[""] for row in table.rows] for table in tables]
        assert who[0] == ["mlpbank", "torch-index", "dense"]
        assert who[1] == ["mlpbank", "torch-sort-loop", "torch-padded"]
        assert who[2] == ["10 × 32-64-64-1", "100 × 32-64-64-1"]
        assert who[3] == ["random ids", "sorted ids"]
        assert tables[0].rows[2]["of dense"] == 1

    def test_ids_without_torch(self) -> None:
        tables = ran(ids.steps(replace(SETTINGS, dtype="int8"), SECONDS, (), scaled))
        assert [row[""] for row in tables[1].rows] == ["mlpbank"]

    def test_bytes_by_ids_are_those_of_the_models_that_were_asked_for(self) -> None:
        table = ran(ids.steps(SETTINGS, SECONDS, (), scaled)[:1])[0]
        by_ids, dense = table.rows
        per_model = Case(1, ids.SIZES, 1).nbytes
        for row, models in ((by_ids, 5), (dense, 100)):
            assert float(row["weights read"]) == pytest.approx(
                models * per_model / float(row["median"]) / 1e3
            )
        assert float(by_ids["of dense"]) == pytest.approx(
            float(by_ids["weights read"]) / float(dense["weights read"])
        )

    def test_swap(self) -> None:
        latency, loading = ran(swap.steps(SETTINGS, 0.1, replace(SMALL, rows=1)))
        assert latency.rows[0][""] == "without"
        assert str(latency.rows[1][""]).endswith("swaps a second")
        assert int(latency.rows[0]["calls"]) > 0
        assert float(latency.rows[2]["p99"]) == pytest.approx(
            float(latency.rows[1]["p99"]) / float(latency.rows[0]["p99"])
        )
        assert len(loading.rows) == 4
        assert loading.rows[3]["of the copy's speed"] == 1

    def test_swaps_replace_models_and_answers_stay_right(self) -> None:
        bank = swap.Bank(replace(SMALL, rows=1), SETTINGS)
        with swap.Swapper(bank, rate=100_000) as swapper:
            assert bank.models.generation(0) == 1
            swapper.active.set()
            while swapper.swaps < 40:
                bank.forward()
        assert sum(bank.models.generation(m) for m in range(20)) == 20 + swapper.swaps
        assert bank.wrong() == {}

    def test_instruction_sets(self) -> None:
        isa = Engine().isa
        settings = Settings(min(2, Engine().num_threads))
        step = Step(
            "", lambda progress: more.instruction_sets([SMALL], settings, SECONDS, progress)
        )
        (row,) = ran([step])[0].rows
        assert {isa, f"limit of {isa}"} <= set(row)
        assert ("1 thread" in row) == (settings.threads > 1)
        assert ("avx2" in row) == (isa in ("avx512", "avx2"))

    def test_other_steps_of_more(self) -> None:
        activated = replace(SMALL, num_models=3)

        def run(function: object, what: object) -> Table:
            step = Step("", lambda progress: function(what, SETTINGS, SECONDS, progress))  # type: ignore[operator]
            return ran([step])[0]

        assert [row[""] for row in run(more.other_sizes, [SMALL]).rows] == [str(SMALL)]
        assert [row[""] for row in run(more.growing, [SMALL, activated]).rows] == [
            str(SMALL),
            str(activated),
        ]
        table = run(more.activations, activated)
        assert table.rows[0]["more than relu"] == 0
        assert len(table.rows) == 10
        (row,) = run(more.odd_sizes, [3]).rows
        assert row[""] == "3 beside 16"
        flops = 2 * more.ODD_MODELS * more.ODD_ROWS * 2 * 3 * 3
        assert float(row["odd, per 1000 flops"]) == pytest.approx(float(row["odd"]) * 1e6 / flops)

    def test_one_model(self) -> None:
        (table,) = ran([Step("", lambda progress: more.one_model(SETTINGS, SECONDS, progress))])
        assert [row[""] for row in table.rows] == [
            "mlpbank",
            "mlpbank without out=",
            "numpy",
            "call",
        ]


class TestCommand:
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(options, "SUITE", (SMALL,))
        for module in (command.ids, command.dtypes, command.swap, command.more):
            monkeypatch.setattr(module, "steps", lambda *_: [Step("it", self.table)])

    @staticmethod
    def table(progress: measure.Progress) -> Table:
        progress(1.0, "done")
        return Table("A table", [{"": "mlpbank", "median": Microseconds(1.5)}])

    @pytest.mark.parametrize(
        ("arguments", "sections", "cases"),
        [
            ([], ["ids", "dtypes", "swap"], 1),
            (["more"], ["more"], 0),
            (["swap, ids,swap"], ["ids", "swap"], 0),
            (["cases"], [], 1),
        ],
    )
    def test_suite_runs_what_is_named(
        self,
        arguments: list[str],
        sections: list[str],
        cases: int,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.small(monkeypatch)
        file = tmp_path / "suite.json"
        assert (
            main(
                [
                    "bench",
                    "--peers",
                    "none",
                    "--seconds",
                    "0.001",
                    "--json",
                    str(file),
                    "--suite",
                    *arguments,
                ]
            )
            == 0
        )
        written = json.loads(file.read_text(encoding="utf-8"))
        assert list(written["sections"]) == sections
        assert len(written["cases"]) == cases
        tables = list(itertools.chain.from_iterable(written["sections"].values()))
        assert capsys.readouterr().out.count("A table\n") == len(tables)
        assert all(table["rows"] == [{"": "mlpbank", "median": 1.5}] for table in tables)

    @pytest.mark.parametrize(
        ("name", "status"), [("mlpbank", 1), ("1 thread", 1), ("torch-padded", 0)]
    )
    def test_wrong_numbers_of_our_own_fail(
        self, name: str, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = Table("A table", [], wrong={name: "model 3"})
        monkeypatch.setattr(command.swap, "steps", lambda *_: [Step("it", lambda progress: table)])
        assert main(["bench", "--peers", "none", "--suite", "swap"]) == status

    def test_a_wrong_bank_is_not_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forward(self: BatchedInference, x: object, *, out: Any = None, **_: object) -> Any:
            out = np.empty((1, 1)) if out is None else out
            out.fill(np.nan)
            return out

        monkeypatch.setattr(BatchedInference, "forward", forward)
        steps = [
            *swap.steps(SETTINGS, SECONDS, replace(SMALL, rows=1)),
            *ids.steps(SETTINGS, SECONDS, (), scaled)[:3],
            *dtypes.steps(SETTINGS, SECONDS, (SMALL,)),
            Step("", lambda progress: more.instruction_sets([SMALL], SETTINGS, SECONDS, progress)),
            Step("", lambda progress: more.growing([SMALL], SETTINGS, SECONDS, progress)),
            Step("", lambda progress: more.odd_sizes([3], SETTINGS, SECONDS, progress)),
            Step("", lambda progress: more.one_model(SETTINGS, SECONDS, progress)),
        ]
        for step in steps:
            table = step.run(lambda fraction, doing: None)
            assert table.wrong
            assert "WRONG, not timed" in str(table)
            assert not any(
                isinstance(cell, Microseconds) for row in table.rows for cell in row.values()
            )
