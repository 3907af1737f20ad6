"""The benchmark: it refuses wrong numbers, computes ratios right, and says what it left out. Nothing here is timed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlpbank import Activation, _core, available_isas
from mlpbank.bench import _reference, command, machine, measure, peers, plot, report
from mlpbank.bench.cases import SUITE, Case, Problem, make_problem
from mlpbank.bench.contender import Contender, Settings, UnavailableError
from mlpbank.cli import main

TINY = Case(20, (3, 5, 2), 4)
SETTINGS = Settings(threads=1)
HIDDEN = [activation for activation in Activation if activation.value != "softmax"]  # that is for last layers
MODULES = {"torch": "torch", "torch-loop": "torch", "jax": "jax", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def bench(*arguments: str) -> int:
    return main(["bench", "--models", "20", "--sizes", "3,5,2", "--seconds", "0.01", *arguments])


def answering(problem: Problem, y: npt.ArrayLike) -> Contender:
    return Contender("it", lambda: None, lambda: y)


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WARM_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(TINY)


class TestCases:
    def test_bytes_and_flops_count_real_parameters(self) -> None:
        case = Case(10, (4, 8, 2), 3)
        assert case.nbytes == 10 * 4 * (4 * 8 + 8 + 8 * 2 + 2)
        assert case.flops == 2 * 10 * 3 * (4 * 8 + 8 * 2)

    def test_suite_has_nine_different_cases(self) -> None:
        assert len({str(case) for case in SUITE}) == len(SUITE) == 9

    def test_expected_is_the_reference(self, problem: Problem) -> None:
        model = {f"layer_{i}": w[7] for i, w in enumerate(problem.weights)}
        model |= {f"layer_{i}.bias": b[7, 0] for i, b in enumerate(problem.biases)}
        np.testing.assert_array_equal(
            problem.expected[7], _reference.forward(TINY.architecture, model, problem.x[7]), strict=True
        )

    def test_arrays_start_at_a_cache_line(self, problem: Problem) -> None:
        for array in (problem.x, *problem.weights, *problem.biases):
            assert array.ctypes.data % 64 == 0


class TestVerification:
    def test_right_numbers_pass(self, problem: Problem) -> None:
        assert measure.find_error(answering(problem, problem.expected.astype(np.float32)), problem) is None

    def test_one_wrong_output_is_named(self, problem: Problem) -> None:
        y = problem.expected.copy()
        y[3, 2, 1] += 1e-3
        error = measure.find_error(answering(problem, y), problem)
        assert error is not None
        assert error.startswith("model 3, row 2, output 1: expected ")

    def test_nan_is_wrong(self, problem: Problem) -> None:
        y = problem.expected.copy()
        y[19, 0, 0] = np.nan
        error = measure.find_error(answering(problem, y), problem)
        assert error is not None
        assert error.startswith("model 19, row 0, output 0")
        assert error.endswith("got nan")

    def test_wrong_shape_is_wrong(self, problem: Problem) -> None:
        assert measure.find_error(answering(problem, problem.expected[1:]), problem) is not None

    def test_wrong_contender_is_reported_and_not_timed(self) -> None:
        runs = []

        def build_wrong(problem: Problem, settings: Settings) -> Contender:
            y = problem.expected + 1
            return Contender("wrong", lambda: runs.append(1), lambda: y)

        builders = {"mlpbank": peers.build_mlpbank, "wrong": build_wrong, "numpy": peers.build_numpy}
        result = measure.run_case(TINY, builders, SETTINGS, seconds=0.01)
        assert len(runs) == 1, "it ran for its numbers, and never for its time"
        assert list(result.wrong) == ["wrong"]
        assert [timing.name for timing in result.timings] == ["mlpbank", "numpy"]
        assert "WRONG, not timed: model " in report.case_table(result)

    def test_wrong_mlpbank_times_nothing_and_fails(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(command, "build_mlpbank", lambda problem, _: answering(problem, -problem.expected))
        assert bench("--peers", "numpy") == 1
        assert "median" not in capsys.readouterr().out


class TestMeasuring:
    def test_ratios_are_of_medians(self) -> None:
        contenders = [Contender(name, lambda: None, lambda: ()) for name in ("mlpbank", "slow", "fast")]
        samples = [[2e-6, 1e-6, 9e-6], [8e-6, 8e-6, 1e-6], [3e-6, 3e-6, 3e-6]]
        timings = measure.summarise(contenders, samples, [1, 2, 3])
        assert [timing.median_us for timing in timings] == pytest.approx([2, 8, 3])
        assert [timing.speedup for timing in timings] == pytest.approx([1, 4, 1.5])
        result = measure.CaseResult(Case(1, (1, 1), 1), "avx2", 8, 2, timings, None)
        assert result.best_peer is timings[2]
        assert result.ratio == pytest.approx(1.5)

    @pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 3), (1000.0, 301)])
    def test_rounds_keep_to_the_time(self, seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]  # a clock that only calls move

        class Clock:
            perf_counter = staticmethod(lambda: now[0])
            perf_counter_ns = staticmethod(lambda: int(now[0] * 1e9))
            process_time = staticmethod(lambda: 0.0)
            sleep = staticmethod(lambda seconds: None)

        def call() -> None:
            now[0] += 0.01

        monkeypatch.setattr(measure, "time", Clock)
        contenders = [Contender(name, call, lambda: ()) for name in "ab"]
        samples, _ = measure.take_turns(contenders, None, seconds=seconds)
        assert [len(own) for own in samples] == [rounds, rounds]  # one sample in each, as a call takes so long

    def test_contenders_take_turns(self) -> None:
        log: list[str] = []
        contenders = [Contender(name, lambda name=name: log.append(name), lambda: ()) for name in "ab"]
        samples, calls = measure.take_turns(contenders, None, seconds=2.0)
        assert min(map(len, samples)) >= 11  # how many more depends on how long each took
        assert min(calls) > 1, "a call of a microsecond is repeated for one sample"
        turns = sum(before != after for before, after in itertools.pairwise(log))
        assert turns >= 10

    def test_share_is_of_the_limit_that_takes_longer(self) -> None:
        result = measure.run_case(TINY, {"mlpbank": peers.build_mlpbank}, SETTINGS, seconds=0.01)
        limits = result.limits
        assert limits is not None
        assert limits.read_us == pytest.approx(TINY.nbytes / limits.read_gb_per_s / 1e3)
        assert limits.fma_us == pytest.approx(TINY.flops / limits.fma_gflop_per_s[result.isa] / 1e3)
        assert limits.binding == ("read" if limits.read_us >= limits.fma_us else "fma")
        assert limits.share == pytest.approx(max(limits.read_us, limits.fma_us) / result.timings[0].median_us)
        assert set(limits.fma_gflop_per_s) <= set(available_isas())
        assert result.best_peer is None
        assert result.ratio is None

    def test_summary_names_the_fastest_peer_and_the_share(self) -> None:
        times = (("mlpbank", 1.0), ("slow", 9.0), ("fast", 4.0))
        timings = [measure.Timing(name, "", us, us, us, us, 1, 1, us) for name, us in times]
        limits = measure.Limits(1, {"avx2": 1}, 0.92, 0.1, "read", 0.92)
        result = measure.CaseResult(Case(1, (1, 1), 1), "avx2", 8, 2, timings, limits)
        row = report.summary_table([result]).splitlines()[2]
        assert [cell.strip() for cell in row.split("|")[3:6]] == ["fast 4.00 us", "4", "read 92%"]

    def test_disturbed_figures_are_marked(self) -> None:
        timings = [measure.Timing("mlpbank", "", 1, 1, 1, 1, 1, 1, 1)]
        quiet, disturbed = (
            measure.CaseResult(TINY, "avx2", 8, 2, timings, None, other_load=load) for load in (0.01, 0.6)
        )
        assert "Other processes" not in report.case_table(quiet)
        assert "Other processes took 60% of the CPUs" in report.case_table(disturbed)
        assert "disturbed 1 of 2 cases" in report.summary_table([quiet, disturbed])
        load = machine.OtherLoad()
        while (share := load.share()) is None:
            pass
        assert 0 <= share <= 1

    def test_limits_of_the_machine(self, isa: str) -> None:
        assert _core.fma_peak(isa, 1) > 0.1
        assert _core.read_bandwidth(1000, 1, 1) > 0.1

    @pytest.mark.parametrize("arguments", [(63, 1, 1), (-1, 1, 1), (4096, 1, 0), (4096, -1, 1)])
    def test_limits_refuse_nonsense(self, arguments: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="expected"):
            _core.read_bandwidth(*arguments)


class TestPeers:
    @pytest.mark.parametrize("activation", HIDDEN)
    def test_numpy_and_mlpbank_agree_with_the_reference(self, activation: Activation, isa: str, layout: str) -> None:
        problem = make_problem(Case(20, (3, 5, 2), 1, activation.value))
        settings = Settings(1, isa, layout)
        assert measure.find_error(peers.build_mlpbank(problem, settings), problem) is None
        with contextlib.suppress(UnavailableError):
            assert measure.find_error(peers.build_numpy(problem, settings), problem) is None

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("activation", HIDDEN)
    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "jax" else []) for name in MODULES]
    )
    def test_other_peers_agree_with_the_reference(self, name: str, activation: Activation) -> None:
        pytest.importorskip(MODULES[name])
        problem = make_problem(Case(20, (3, 5, 2), 4, activation.value))
        try:
            contender = peers.PEERS[name](problem, SETTINGS)
        except UnavailableError as error:
            pytest.skip(str(error))
        assert measure.find_error(contender, problem) is None

    @pytest.mark.filterwarnings("ignore")
    def test_torch_that_cannot_compile_is_skipped_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = pytest.importorskip("torch")

        def refuse(*_: object, **__: object) -> Any:
            def compiled(*_: object) -> None:
                raise RuntimeError("no C++ compiler\nand much more")

            return compiled

        monkeypatch.setattr(torch, "compile", refuse)
        builders = {"mlpbank": peers.build_mlpbank, "torch-compile": peers.PEERS["torch-compile"]}
        result = measure.run_case(TINY, builders, SETTINGS, seconds=0.01)
        assert result.left_out == {"torch-compile": "torch.compile failed: RuntimeError: no C++ compiler"}

    @pytest.mark.filterwarnings("ignore")
    def test_loop_over_many_models_is_skipped(self) -> None:
        pytest.importorskip("torch")
        problem = make_problem(Case(2001, (2, 1), 1))
        with pytest.raises(UnavailableError, match="2001"):
            peers.PEERS["torch-loop"](problem, SETTINGS)

    def test_missing_peer_is_named_and_skipped(self, capsys: pytest.CaptureFixture[str]) -> None:
        def build_missing(problem: Problem, settings: Settings) -> Contender:
            raise ModuleNotFoundError("No module named 'x'", name="x")

        result = measure.run_case(TINY, {"mlpbank": peers.build_mlpbank, "x": build_missing}, SETTINGS, seconds=0.01)
        assert result.left_out == {"x": "not installed (x)"}
        assert "skipped: not installed (x)" in report.case_table(result)


class TestCommand:
    def test_prints_a_table_and_writes_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "bench.json"
        assert (
            bench("--peers", "numpy", "--threads", "1", "--rows", "3", "--activation", "tanh", "--json", str(file)) == 0
        )
        out = capsys.readouterr().out
        assert "20 × 3-5-2, 3 rows: tanh" in out
        assert "What binds is" in out
        assert "of measuring (1 times --seconds 0.01)" in out.split("What binds")[0]
        results = json.loads(file.read_text(encoding="utf-8"))
        assert results["machine"]["cpu"]
        assert {"mlpbank", "numpy"} <= set(results["machine"]["versions"])
        assert results["threads"] == 1
        assert results["dtype"] == "float32"
        (case,) = results["cases"]
        assert case["case"]["sizes"] == [3, 5, 2]
        assert case["nbytes"] == 4 * 20 * 32
        assert [timing["name"] for timing in case["timings"]] == ["mlpbank", "numpy"]
        for timing in case["timings"]:
            assert timing["min_us"] <= timing["p10_us"] <= timing["median_us"] <= timing["p90_us"]
        ours, theirs = (timing["median_us"] for timing in case["timings"])
        assert case["ratio"] == pytest.approx(theirs / ours)
        assert case["best_peer"] == "numpy"
        assert {"read_gb_per_s", "fma_gflop_per_s", "binding", "share"} <= set(case["limits"])

    def test_runs_alone(self, isa: str, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert bench("--peers", "none", "--isa", isa, "--layout", layout) == 0
        assert f"{isa}, {layout} layout" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--peers", "numpy,cuda"], "--peers: expected 'numpy' or "),
            (["--sizes", "32"], "--sizes: expected at least two"),
            (["--sizes", "32,x"], "--sizes: expected a positive integer, got 'x'"),
            (["--sizes", "32,0"], "--sizes: expected a positive integer, got 0"),
            (["--models", "0"], "--models: expected a positive integer, got 0"),
            (["--rows", "-3"], "--rows: expected a positive integer, got -3"),
            (["--activation", "cosine"], "--activation: expected one of "),
            (["--dtype", "int4"], "--dtype: expected 'float32' or 'float16' or "),
            (["--threads", "1000000"], "--threads: expected 1 to "),
            (["--isa", "sse9"], "isa: expected one of "),
            (["--layout", "heap"], "--layout: expected 'auto' or "),
            (["--seconds", "nan"], "--seconds: expected a positive number, got 'nan'"),
            (["--suite", "--models", "5"], "--models: not together with --suite"),
            (["--suite", "ids,nonsense"], "--suite: expected 'cases' or 'ids' or "),
            (["--suite", "ids", "--plot", "picture.png"], "--plot: draws cases, which "),
            (["--json", "no/such/folder/file.json"], "--json: cannot write "),
            (["--plot", "picture.svg"], "--plot: expected a name that ends with .png"),
        ],
    )
    def test_wrong_arguments_take_one_line(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["bench", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"mlpbank bench: error: {message}")
        assert err.count("\n") == 1

    def test_names_variables_that_slow_numpy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
        monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
        notes = [line for line in machine.blas_notes([]) if line.startswith("Note: ")]
        assert len(notes) == 1
        assert "OPENBLAS_CORETYPE=Nehalem" in notes[0]

    def test_cpu_name(self, tmp_path: Path) -> None:
        file = tmp_path / "cpuinfo"
        file.write_text("processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R)  Gold\n\n")
        assert machine.cpu_name(file) == "Intel Xeon Gold (family 6, model 207)"
        assert machine.cpu_name(tmp_path / "none")


class TestFiles:
    @pytest.mark.parametrize("option", ["--json", "--plot"])
    def test_a_write_that_fails_leaves_the_old_file(
        self, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if option == "--plot":
            pytest.importorskip("matplotlib")
        file = tmp_path / ("b.json" if option == "--json" else "b-roofline.png")
        file.write_bytes(b"old")

        def fail(descriptor: int) -> None:
            raise OSError("no space")

        monkeypatch.setattr("mlpbank.files._atomic.os.fsync", fail)
        assert bench("--peers", "none", option, str(tmp_path / f"b{file.suffix}")) == 2
        assert file.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [file]

    def test_json_goes_through_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert bench("--peers", "none", "--json", str(tmp_path / "pipe")) == 0
            assert json.loads(os.read(reader, 1 << 20))["cases"]
        finally:
            os.close(reader)


class TestPlot:
    def test_draws_both_pictures(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        assert bench("--peers", "numpy", "--plot", str(tmp_path / "b.png")) == 0
        for name in ("b-roofline.png", "b-peers.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_without_peers_there_are_no_bars(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        assert bench("--peers", "none", "--plot", str(tmp_path / "b.png")) == 0
        assert [file.name for file in tmp_path.iterdir()] == ["b-roofline.png"]

    def test_labels_keep_their_distance_and_order(self) -> None:
        placed = plot.spread([5.0, 1.0, 1.1, 1.2], 1.0)
        assert sorted(range(4), key=placed.__getitem__) == [1, 2, 3, 0]
        gaps = np.diff(sorted(placed))
        assert gaps.min() >= 1.0 - 1e-12
        assert plot.spread([], 1.0) == []

    def test_cases_read_equally_fast_share_a_roof(self) -> None:
        cases = [{"nbytes": n, "limits": {"read_gb_per_s": speed}} for n, speed in ((9e6, 58), (2e5, 240), (7e6, 62))]
        assert plot.group_roofs(cases) == [(2e5, 2e5, 240), (7e6, 9e6, 62)]
