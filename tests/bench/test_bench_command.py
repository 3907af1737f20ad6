"""The command ``mlpbank bench``: arguments, what is printed and written, pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cases import RunPython
from mlpbank.bench import command, machine, options, plot
from mlpbank.bench.cases import SUITE, Case
from mlpbank.bench.contender import Settings
from mlpbank.cli import main

SMALL = Case(20, (3, 5, 2), 2)


def bench(*arguments: str) -> int:
    own = ["--models", "20", "--sizes", "3,5,2", "--seconds", "0.01"]
    return main(["bench", *own, *arguments])


class TestCommand:
    def test_prints_a_table_and_writes_json(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "bench.json"
        assert (
            bench(
                "--peers",
                "numpy",
                "--threads",
                "1",
                "--rows",
                "3",
                "--activation",
                "tanh",
                "--json",
                str(file),
            )
            == 0
        )
        out = capsys.readouterr().out
        assert "20 × 3-5-2, 3 rows: tanh" in out
        assert "Limits: reading takes " in out
        assert "This takes about " in out.split("Limits: ")[0]
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
        assert case["limit_disturbed"] is (case["limits"]["share"] > 1)
        assert case["ratio"] == pytest.approx(theirs / ours)
        assert case["best_peer"] == "numpy"
        assert {"read_gb_per_s", "fma_gflop_per_s", "binding", "share"} <= set(case["limits"])

    @pytest.mark.parametrize("arguments", [["--suite"]])
    def test_suite(
        self,
        arguments: list[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(options, "SUITE", (SMALL, Case(30, (2, 2), 1)))
        file = tmp_path / "suite.json"
        common = ["--peers", "none", "--seconds", "0.001", "--json", str(file)]
        assert main(["bench", *common, *arguments]) == 0
        assert len(json.loads(file.read_text(encoding="utf-8"))["cases"]) == 2
        assert "| models × sizes, rows per model | mlpbank" in capsys.readouterr().out

    def test_is_imported_when_it_is_asked_for(self, run_python: RunPython) -> None:
        script = """
            import sys
            from mlpbank.cli import main
            main(["info"])
            print([name for name in sys.modules if name.startswith("mlpbank.bench")])
        """
        assert run_python(script).splitlines()[-1] == "[]"

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
            (["--activation", "softmax"], "--activation: layer 0: expected softmax on the last "),
            (["--dtype", "int4"], "--dtype: expected 'float32' or 'float16' or "),
            (["--threads", "1000000"], "--threads: expected 1 to "),
            (["--isa", "sse9"], "isa: expected one of "),
            (["--layout", "heap"], "--layout: expected 'auto' or "),
            (["--seconds", "nan"], "--seconds: expected a positive number, got 'nan'"),
            (["--suite", "--models", "5"], "--models: not together with --suite"),
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
        numbers = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\n"
        file.write_text(numbers + "model name\t: Intel(R) Xeon(R)  Gold\n\n")
        assert machine.cpu_name(file) == "Intel Xeon Gold (family 6, model 207)"
        assert machine.cpu_name(tmp_path / "none")


class TestFiles:
    @pytest.mark.parametrize("option", ["--json", "--plot"])
    def test_a_write_that_fails_leaves_the_old_file(
        self, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if option == "--plot":
            pytest.importorskip("matplotlib")
        file = tmp_path / ("b.json" if option == "--json" else "b-limits.png")
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


class TestEstimate:
    """What is announced. Compared with long runs by hand: within a factor of 1.5 on two cores."""

    @staticmethod
    def plan(*names: str, seconds: float = 15, cases: tuple[Case, ...] = SUITE) -> options.Plan:
        return options.Plan(cases, names, Settings(2), seconds, None, None)

    def test_measuring_is_what_was_asked_for(self) -> None:
        assert command.estimate(self.plan())[0] == 9 * 15
        assert command.estimate(self.plan(cases=SUITE[:1], seconds=7))[0] == 7

    def test_three_rounds_take_their_time_however_short(self) -> None:
        alone, beside = (
            command.estimate(self.plan(*n, seconds=0.001))[0] for n in ((), ("numpy",))
        )
        assert beside == pytest.approx(2 * alone)
        assert alone > 9 * 0.001

    def test_set_up_counts_who_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = {"numpy", "torch"}
        monkeypatch.setattr(command, "find_spec", lambda name: name if name in there else None)
        without = command.estimate(self.plan("numpy"))[1]
        assert command.estimate(self.plan("numpy", "jax"))[1] == without
        compiled = command.estimate(self.plan("numpy", "torch-compile"))[1]
        assert compiled > without + 9 * 5

    def test_is_printed(self) -> None:
        line = command.announcement(self.plan())
        assert line.startswith("This takes about ")
        assert "2.2 min of measuring 9 cases" in line


class TestPlot:
    @pytest.fixture(autouse=True)
    def needs_matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_draws_both_pictures(self, tmp_path: Path) -> None:
        assert bench("--peers", "numpy", "--plot", str(tmp_path / "b.png")) == 0
        for name in ("b-limits.png", "b-peers.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_without_peers_there_is_one(self, tmp_path: Path) -> None:
        assert bench("--peers", "none", "--plot", str(tmp_path / "b.png")) == 0
        assert [file.name for file in tmp_path.iterdir()] == ["b-limits.png"]

    @pytest.mark.parametrize(
        ("binding", "share", "label"),
        [
            ("read", 0.87, "reading weights 87%"),
            ("fma", 0.05, "multiply-adds 5%"),
            ("fma", 1.0, "multiply-adds 100%"),
            ("read", 1.01, "reading weights: limit disturbed"),
        ],
    )
    def test_bars_name_their_limit(self, binding: str, share: float, label: str) -> None:
        limits = {"binding": binding, "share": share}
        assert plot.limit_label({"limits": limits, "limit_disturbed": share > 1}) == label

    def test_nothing_overlaps(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """All texts of both pictures, of nine cases with all kinds of shares."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figures: list[Any] = []
        save = Figure.savefig

        def keep(figure: Any, *arguments: Any, **options: Any) -> None:
            figures.append(figure)
            save(figure, *arguments, **options)

        monkeypatch.setattr(Figure, "savefig", keep)
        shares = [0.02, 0.2, 0.44, 0.46, 0.87, 0.93, 1.0, 1.3, 0.75]
        assert len(plot.draw(results(shares), tmp_path / "b.png")) == 2
        for figure in figures:
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            texts = set(figure.findobj(match=is_text)) - unseen(figure)
            boxes = [
                (text.get_text(), text.get_window_extent())
                for text in texts
                if text.get_visible() and text.get_text().strip()
            ]
            assert len(boxes) > 20
            width, height = canvas.get_width_height()
            for i, (text, box) in enumerate(boxes):
                assert box.x0 >= 0, text
                assert box.y0 >= 0, text
                assert box.x1 <= width, text
                assert box.y1 <= height, text
                for other, other_box in boxes[i + 1 :]:
                    assert not box.overlaps(other_box), (text, other)


def is_text(artist: Any) -> bool:
    return type(artist).__name__ in ("Text", "Annotation")


def unseen(figure: Any) -> set[Any]:
    """Return the labels of ticks outside the limits of their axes, which are not drawn."""
    found = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    found |= {tick.label1, tick.label2}
    return found


def results(shares: list[float]) -> dict[str, Any]:
    """Return a run of the suite with these shares."""
    peers = {"numpy": 2.5, "torch": 1.2, "torch-compile": 1.5, "jax": 3, "onnxruntime": 1.5}
    peers |= {"openvino": 1.4, "torch-loop": 3000}
    timings = [{"name": "mlpbank", "speedup": 1}]
    timings += [{"name": name, "speedup": speedup} for name, speedup in peers.items()]
    return {
        "machine": {"cpu": "Intel Xeon Processor (family 6, model 207)"},
        "threads": 2,
        "dtype": "float32",
        "cases": [
            {
                "case": {"num_models": c.num_models, "sizes": c.sizes, "rows": c.rows},
                "timings": timings,
                "limits": {"binding": "fma" if c.rows > 1 else "read", "share": share},
                "limit_disturbed": share > 1,
            }
            for c, share in zip(SUITE, shares, strict=True)
        ],
    }
