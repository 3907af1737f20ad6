"""``python -m benchmarks``: tables, what is written, and the comparison of two results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import __main__ as runner
from benchmarks.compare import compare, figures, read
from benchmarks.sections import dtypes
from benchmarks.step import Step
from benchmarks.table import Factor, Microseconds, Share, Surplus, Table

from mlpbank import cli
from mlpbank.bench import measure


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


class TestRunner:
    @staticmethod
    def fake(monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
        def run(progress: measure.Progress) -> Table:
            progress(1.0, "done")
            return table

        monkeypatch.setattr(dtypes, "steps", lambda args: [Step("it", run)])

    TABLE = Table("A table", [{"": "mlpbank", "median": Microseconds(1.5)}])

    def test_writes_a_file_named_by_the_machine(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.fake(monkeypatch, self.TABLE)
        monkeypatch.setattr(runner, "RESULTS", tmp_path)
        assert runner.main(["dtypes", "--threads", "1"]) == 0
        (file,) = tmp_path.glob("*/*.json")
        assert file.name == "dtypes.json"
        written = read(file)
        assert file.parent.name == runner.machine_name(written["machine"])
        assert written["section"] == "dtypes"
        assert {"cpu", "cpus", "versions"} <= set(written["machine"])
        assert written["tables"][0]["rows"] == [{"": "mlpbank", "median": 1.5}]
        assert "A table\n" in capsys.readouterr().out

    def test_json_names_another_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.fake(monkeypatch, self.TABLE)
        file = tmp_path / "mine.json"
        assert runner.main(["dtypes", "--json", str(file)]) == 0
        assert file.exists()

    @pytest.mark.parametrize("failed", [False, True])
    def test_wrong_numbers_of_ours_fail(
        self, failed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.fake(monkeypatch, Table("", [], wrong={"x": "model 3"}, failed=failed))
        assert runner.main(["dtypes", "--json", str(tmp_path / "a.json")]) == int(failed)

    @pytest.mark.parametrize(
        "arguments", [["--threads", "0"], ["--seconds", "x"], ["--json", "no/such/folder/a.json"]]
    )
    def test_wrong_arguments(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert runner.main(["dtypes", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"benchmarks: error: {arguments[0]}: ")

    def test_machine_name_is_that_of_a_folder(self) -> None:
        about = {"cpu": "Intel Xeon (family 6, model 207)", "cpus": 2}
        assert runner.machine_name(about) == "intel-xeon-family-6-model-207-2-cpus"

    def test_runs_from_the_repository(self, root: Path) -> None:
        command = [sys.executable, "-m", "benchmarks", "--help"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        assert all(section in done.stdout for section in (*runner.SECTIONS, "compare"))

    def test_committed_results_can_be_read(self, root: Path) -> None:
        files = list((root / "benchmarks" / "results").glob("*/*.json"))
        assert files
        for file in files:
            assert figures(read(file)), file
            assert file.parent.name == runner.machine_name(read(file)["machine"])


class TestCompare:
    @staticmethod
    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        about = {"cpu": "C", "cpus": 2, "versions": {"mlpbank": "0.1.0"}}
        table = {"title": "T", "units": {"median": "us"}, "rows": rows}
        common = {"format": 1, "machine": about, "threads": 2, "dtype": "float32"}
        path.write_text(json.dumps({**common, "tables": [table]}))
        return path

    def test_ratios_of_what_both_have(self, tmp_path: Path) -> None:
        more = {"": "new", "median": 1.0}
        a = self.write(tmp_path / "a", [{"": "x", "median": 2.0, "how": "panel"}])
        b = self.write(tmp_path / "b", [{"": "x", "median": 3.0, "how": "lane"}, more])
        lines = compare(a, b).splitlines()
        assert lines[0] == "A: C, 2 of 2 CPUs, float32, mlpbank 0.1.0"
        assert lines[3].split() == ["T", "A", "B", "B", "/", "A"]
        assert lines[4].split() == ["x,", "median", "(us)", "2.00", "3.00", "1.500"]
        assert lines[-1] == "0 figures only in A, 1 only in B"

    def test_what_was_not_timed_is_left_out(self, tmp_path: Path) -> None:
        rows = [{"": "x", "median": None, "zero": 0}]
        a = self.write(tmp_path / "a", rows)
        assert figures(read(a)) == {("T", "x", "zero"): 0.0}
        assert compare(a, a).splitlines()[-1].split() == ["x,", "zero", "0.00", "0.00"]

    def test_reads_what_the_package_writes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(tmp_path / "bench.json")
        case = ["--models", "20", "--sizes", "3,5,2", "--seconds", "0.01", "--peers", "numpy"]
        assert cli.main(["bench", *case, "--json", file]) == 0
        capsys.readouterr()
        assert runner.main(["compare", file, file]) == 0
        out = capsys.readouterr().out
        assert "  mlpbank, median (us)" in out
        assert "  numpy, mlpbank is faster by" in out
        assert "  1.000" in out

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "expected JSON"),
            ("[]", "expected a result of a benchmark"),
            ('{"tables": [], "format": 7}', "expected format 1, got 7"),
        ],
    )
    def test_other_files_are_refused(
        self, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "a.json"
        file.write_text(text)
        assert runner.main(["compare", str(file), str(file)]) == 2
        assert message in capsys.readouterr().err

    def test_nothing_in_common(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a = self.write(tmp_path / "a", [{"": "x", "median": 2.0}])
        b = self.write(tmp_path / "b", [{"": "y", "median": 2.0}])
        assert runner.main(["compare", str(a), str(b)]) == 2
        assert "no figure in common" in capsys.readouterr().err
