"""Cases, verification and timing of the benchmark: wrong numbers are refused, ratios are right."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

import reference
from mlpbank.bench import command, limits, machine, measure, peers, report
from mlpbank.bench.cases import SUITE, Case, Problem, make_problem
from mlpbank.bench.contender import Contender, Settings
from mlpbank.bench.limits import Limits
from mlpbank.cli import main

TINY = Case(20, (3, 5, 2), 4)
SETTINGS = Settings(threads=1)


def answering(problem: Problem, y: npt.ArrayLike, ours: bool = False) -> Contender:
    return Contender("it", lambda: None, lambda: y, ours=ours)


def result_of(
    timings: list[measure.Timing], limits: Limits | None, other_load: float | None = None
) -> measure.CaseResult:
    return measure.CaseResult(
        timings,
        other_load=other_load,
        case=TINY,
        isa="avx2",
        nbytes=8,
        flops=2,
        limits=limits,
    )


@pytest.fixture(scope="module")
def tiny() -> Problem:
    return make_problem(TINY)


class TestCases:
    def test_bytes_and_flops_count_real_parameters(self) -> None:
        case = Case(10, (4, 8, 2), 3)
        assert case.nbytes == 10 * 4 * (4 * 8 + 8 + 8 * 2 + 2)
        assert case.flops == 2 * 10 * 3 * (4 * 8 + 8 * 2)

    def test_suite_has_nine_different_cases(self) -> None:
        assert len({str(case) for case in SUITE}) == len(SUITE) == 9

    def test_expected_is_the_reference(self, tiny: Problem) -> None:
        model = {f"layer_{i}": w[7] for i, w in enumerate(tiny.weights)}
        model |= {f"layer_{i}.bias": b[7, 0] for i, b in enumerate(tiny.biases)}
        np.testing.assert_array_equal(
            tiny.expected[7], reference.forward(TINY.architecture, model, tiny.x[7]), strict=True
        )

    def test_arrays_start_at_a_cache_line(self, tiny: Problem) -> None:
        for array in (tiny.x, *tiny.weights, *tiny.biases):
            assert array.ctypes.data % 64 == 0


class TestVerification:
    def test_right_numbers_pass(self, tiny: Problem) -> None:
        assert measure.find_error(answering(tiny, tiny.expected.astype(np.float32)), tiny) is None

    def test_one_wrong_output_is_named(self, tiny: Problem) -> None:
        y = tiny.expected.copy()
        y[3, 2, 1] += 1e-3
        error = measure.find_error(answering(tiny, y), tiny)
        assert error is not None
        assert error.startswith("model 3, row 2, output 1: expected ")

    def test_nan_is_wrong(self, tiny: Problem) -> None:
        y = tiny.expected.copy()
        y[19, 0, 0] = np.nan
        error = measure.find_error(answering(tiny, y), tiny)
        assert error is not None
        assert error.startswith("model 19, row 0, output 0")
        assert error.endswith("got nan")

    def test_wrong_shape_is_wrong(self, tiny: Problem) -> None:
        assert measure.find_error(answering(tiny, tiny.expected[1:]), tiny) is not None

    def test_wrong_contender_is_reported_and_not_timed(self) -> None:
        runs = []

        def build_wrong(problem: Problem, settings: Settings) -> Contender:
            y = problem.expected + 1
            return Contender("wrong", lambda: runs.append(1), lambda: y)

        builders = {
            "mlpbank": peers.build_mlpbank,
            "wrong": build_wrong,
            "numpy": peers.build_numpy,
        }
        result = measure.run_case(TINY, builders, SETTINGS, seconds=0.01)
        assert len(runs) == 1, "it ran for its numbers, and never for its time"
        assert list(result.wrong) == ["wrong"]
        assert not result.failed
        assert [timing.name for timing in result.timings] == ["mlpbank", "numpy"]
        assert "WRONG, not timed: model " in report.case_table(result)

    def test_wrong_numbers_of_ours_fail_whatever_the_name(self, tiny: Problem) -> None:
        right = {"first": lambda: answering(tiny, tiny.expected)}
        for ours in (False, True):
            found = measure.compare(
                {**right, "mlpbank": lambda ours=ours: answering(tiny, -tiny.expected, ours)},
                lambda contender: measure.find_error(contender, tiny),
                seconds=0.001,
            )
            assert found.failed == ours
            assert list(found.wrong) == ["mlpbank"]

    def test_wrong_mlpbank_times_nothing_and_fails(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def build(problem: Problem, settings: Settings) -> Contender:
            return answering(problem, -problem.expected, ours=True)

        monkeypatch.setattr(command, "build_mlpbank", build)
        arguments = ["--models", "20", "--sizes", "3,5,2", "--seconds", "0.01", "--peers", "numpy"]
        assert main(["bench", *arguments]) == 1
        assert "median" not in capsys.readouterr().out


class TestMeasuring:
    def test_ratios_are_of_medians(self) -> None:
        contenders = [
            Contender(name, lambda: None, lambda: ()) for name in ("mlpbank", "slow", "fast")
        ]
        samples = [[2e-6, 1e-6, 9e-6], [8e-6, 8e-6, 1e-6], [3e-6, 3e-6, 3e-6]]
        timings = measure.summarise(contenders, samples, [1, 2, 3])
        assert [timing.median_us for timing in timings] == pytest.approx([2, 8, 3])
        assert [timing.speedup for timing in timings] == pytest.approx([1, 4, 1.5])
        assert measure.Comparison(timings).best_peer is timings[2]

    @pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 3), (1000.0, 301)])
    def test_rounds_keep_to_the_time(
        self, seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]  # a clock that only calls move

        class Clock:
            perf_counter = staticmethod(lambda: now[0])
            perf_counter_ns = staticmethod(lambda: int(now[0] * 1e9))
            process_time = staticmethod(lambda: 0.0)
            sleep = staticmethod(lambda seconds: None)

        def call() -> None:
            now[0] += 0.01

        monkeypatch.setattr(measure, "time", Clock)
        monkeypatch.setattr(limits, "time", Clock)
        monkeypatch.setattr(measure, "_ROUNDS", (11, 301))
        contenders = [Contender(name, call, lambda: ()) for name in "ab"]
        samples, _ = measure.take_turns(contenders, seconds=seconds)
        assert [len(own) for own in samples] == [
            rounds,
            rounds,
        ]  # one sample in each, as a call takes so long

    def test_contenders_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measure, "_ROUNDS", (11, 11))
        monkeypatch.setattr(measure, "ENOUGH_ROUNDS", 11)
        log: list[str] = []
        contenders = [
            Contender(name, lambda name=name: log.append(name), lambda: ()) for name in "ab"
        ]
        samples, calls = measure.take_turns(contenders, seconds=0.01)
        assert min(map(len, samples)) >= 11
        assert min(calls) > 1, "a call of a microsecond is repeated for one sample"
        turns = sum(before != after for before, after in itertools.pairwise(log))
        assert turns >= 10

    def test_summary_names_the_fastest_peer_and_the_share(self) -> None:
        times = (("mlpbank", 1.0), ("slow", 9.0), ("fast", 4.0))
        timings = [measure.Timing(name, "", us, us, us, us, 1, 1, us) for name, us in times]
        result = result_of(timings, Limits(1, {"avx2": 1}, 0.92, 0.1, "read", 0.92, 1))
        row = report.summary_table([result]).splitlines()[2]
        assert [cell.strip() for cell in row.split("|")[3:6]] == ["fast 4.00 us", "4", "read 92%"]

    def test_disturbed_figures_are_marked(self) -> None:
        timings = [measure.Timing("mlpbank", "", 1, 1, 1, 1, 1, 1, 1)]
        quiet, disturbed = (result_of(timings, None, other_load=load) for load in (0.01, 0.6))
        assert "Other processes" not in report.case_table(quiet)
        assert "Other processes took 60% of the CPUs" in report.case_table(disturbed)
        assert "disturbed 1 of 2 cases" in report.summary_table([quiet, disturbed])
        load = machine.OtherLoad()
        while (share := load.share()) is None:
            pass
        assert 0 <= share <= 1
