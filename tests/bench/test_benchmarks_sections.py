"""The sections of benchmarks/: the right work is done, verified and reported. Nothing is timed."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.sections import (
    activation_errors,
    convert,
    dtypes,
    edge,
    ids,
    keys,
    live,
    microbatcher,
    more,
    precision,
    swap,
    threads,
)
from benchmarks.sections import open as open_section
from benchmarks.step import Step
from benchmarks.table import Microseconds, Table

from mlpbank import Activation, BatchedInference, Engine
from mlpbank.bench.cases import DTYPES, Case
from mlpbank.bench.contender import Settings

SMALL = Case(20, (3, 5, 2), 2)
SETTINGS = Settings(threads=1)
SECONDS = 1e-3


def arguments(**own: Any) -> Namespace:
    return Namespace(settings=SETTINGS, seconds=SECONDS, **own)


def ran(steps: Sequence[Step]) -> list[Table]:
    """Run a section, and check what is true of all tables."""
    tables = []
    for step in steps:
        seen: list[float] = []
        progress = lambda fraction, doing, seen=seen: seen.append(fraction)  # noqa: E731
        tables.append(step.run(progress))
        assert seen
        assert min(seen) >= 0
        assert max(seen) <= 1 + 1e-9
    for table in tables:
        assert table.rows
        assert table.wrong == {}
        assert not table.failed
        assert "nan" not in str(table)
        assert json.loads(json.dumps(table.as_json()))["rows"] == [dict(row) for row in table.rows]
    return tables


def step_of(function: Callable[..., Table], what: Any, settings: Settings = SETTINGS) -> Step:
    return Step("it", lambda progress: function(what, settings, SECONDS, progress))


def names(table: Table) -> list[object]:
    return [row[""] for row in table.rows]


class TestIds:
    @pytest.mark.filterwarnings("ignore")
    def test_tables(self) -> None:
        pytest.importorskip("torch")
        tables = ran(ids.steps(arguments(no_torch=False, divide=100))[:7])
        assert names(tables[0]) == ["mlpbank", "torch-index", "dense"]
        assert names(tables[1]) == ["mlpbank", "torch-sort-loop", "torch-padded"]
        assert names(tables[2]) == ["10 × 32-64-64-1", "100 × 32-64-64-1"]
        assert names(tables[3]) == ["random slots", "sorted slots"]
        assert names(tables[4]) == ["mlpbank, 1 thread"]
        assert tables[0].rows[2]["of dense"] == 1
        peers = {"numpy-loop", "torch-sort-loop"}
        for many, mixtures in zip(tables[5::2], tables[6::2], strict=True):
            assert len(many.rows) == 4
            assert len(mixtures.rows) == 32
            assert all(peers <= set(row) for row in many.rows)
            for row in [*many.rows, *mixtures.rows]:
                better = min(float(row["panel"]), float(row["lane"]))
                assert float(row["auto / better"]) == pytest.approx(float(row["auto"]) / better)

    def test_without_torch(self) -> None:
        args = arguments(no_torch=True, divide=100)
        args.settings = replace(SETTINGS, dtype="int8")
        assert names(ran(ids.steps(args)[:2])[1]) == ["mlpbank"]

    def test_bytes_are_those_of_the_models_that_were_asked_for(self) -> None:
        table = ran(ids.steps(arguments(no_torch=True, divide=100))[:1])[0]
        by_slots, dense = table.rows
        per_model = Case(1, ids.SIZES, 1).nbytes
        for row, models in ((by_slots, 5), (dense, 100)):
            speed = models * per_model / float(row["median"]) / 1e3
            assert float(row["weights read"]) == pytest.approx(speed)
        ratio = float(by_slots["weights read"]) / float(dense["weights read"])
        assert float(by_slots["of dense"]) == pytest.approx(ratio)


class TestEdge:
    def test_tables(self) -> None:
        for package in ("pandas", "polars", "pyarrow"):
            pytest.importorskip(package)
        one_row, few, tables = ran(edge.steps(arguments(divide=10**6)))
        assert names(one_row)[0] == "forward, the one model alone"
        assert one_row.rows[0]["forward's time"] == 1
        assert len(one_row.rows) == 6
        assert names(few) == ["1 key", "10 keys", "100 keys"]
        assert names(tables)[:2] == ["predict_handles, ready arrays", "pandas, str"]
        assert len(tables.rows) == 7


class TestDtypes:
    def test_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dtypes, "CASES", (SMALL,))
        (table,) = ran(dtypes.steps(arguments()))
        assert names(table) == list(DTYPES)
        assert table.rows[0]["as fast as float32"] == 1


class TestSwap:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(swap, "CASE", replace(SMALL, rows=1))

    def test_tables(self) -> None:
        latency, loading = ran(swap.steps(arguments()))
        without, beside, ratio = latency.rows
        assert names(latency) == ["without", "with swaps", "as long"]
        assert int(without["calls"]) > 0
        assert float(without["swaps"]) == 0
        assert float(ratio["p99"]) == pytest.approx(float(beside["p99"]) / float(without["p99"]))
        assert len(loading.rows) == 4
        assert loading.rows[3]["of the copy's speed"] == 1

    def test_swaps_replace_models_and_answers_stay_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded: list[int] = []
        load = BatchedInference.load_weights

        def count(self: BatchedInference, model: int, weights: Any) -> None:
            loaded.append(model)
            load(self, model, weights)

        monkeypatch.setattr(BatchedInference, "load_weights", count)
        models = swap.Swapped(replace(SMALL, rows=1), SETTINGS)
        with swap.Swapper(models, rate=100_000) as swapper:
            swapper.active.set()
            while swapper.swaps < 40:
                models.forward()
        assert len(loaded) == swapper.swaps
        assert set(loaded) == set(range(20))
        assert models.wrong() == {}


class TestMore:
    def test_instruction_sets(self) -> None:
        isa = Engine().isa
        settings = Settings(min(2, Engine().num_threads))
        (table,) = ran([step_of(more.instruction_sets, [SMALL], settings)])
        (row,) = table.rows
        assert {isa, f"limit of {isa}"} <= set(row)
        assert ("1 thread" in row) == (settings.threads > 1)
        assert ("avx2" in row) == (isa in ("avx512", "avx2"))

    def test_other_tables(self) -> None:
        activated = replace(SMALL, num_models=3)
        steps = [
            step_of(more.other_sizes, [SMALL]),
            step_of(more.growing, [SMALL, activated]),
            step_of(more.activations, activated),
            step_of(more.odd_sizes, [3]),
            Step("", lambda progress: more.one_model(SETTINGS, SECONDS, progress)),
        ]
        sizes, growing, activations, odd, one = ran(steps)
        assert names(sizes) == [str(SMALL)]
        assert names(growing) == [str(SMALL), str(activated)]
        assert activations.rows[0]["more than relu"] == 0
        assert len(activations.rows) == len(Activation) - 1  # softmax is not between layers
        assert names(odd) == ["3 beside 16"]
        flops = 2 * more.ODD_MODELS * more.ODD_ROWS * 2 * 3 * 3
        per_flop = float(odd.rows[0]["odd"]) * 1e6 / flops
        assert float(odd.rows[0]["odd, per 1000 flops"]) == pytest.approx(per_flop)
        assert names(one) == ["mlpbank", "mlpbank without out=", "numpy", "call"]

    def test_steps(self) -> None:
        assert len(more.steps(arguments())) == 6


class TestThreads:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("SHAPES", (SMALL,)), ("LARGE", SMALL), ("IDLE", SMALL)):
            monkeypatch.setattr(threads, name, value)
        monkeypatch.setattr(threads, "ROUNDS", 1)
        monkeypatch.setattr(threads, "FORWARDS", 2)
        monkeypatch.setattr(threads, "FORWARD_SECONDS", 1e-3)
        monkeypatch.setattr(threads, "CALLERS", 2)

    def test_tables(self) -> None:
        args = arguments(imports=False)
        args.seconds = 0.02
        callers, beside, idle = ran(threads.steps(args))
        assert names(callers) == [str(SMALL)]
        assert names(beside) == ["num_threads=1"]
        assert {"loop lag p50", "loop lag p99", "Python's rate"} <= set(beside.rows[0])
        assert names(idle) == ["idle"]

    def test_imports_are_left_out_where_a_library_is_missing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads.importlib.util, "find_spec", lambda name: None)
        step = threads.steps(arguments(imports=True))[-1]
        table = step.run(lambda fraction, doing: None)
        assert "not installed (torch, " in table.left_out["import orders"]


class TestServing:
    def test_microbatcher(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(microbatcher, "NETWORKS", {(3, 2): 20})
        monkeypatch.setattr(microbatcher, "TASKS", (2,))
        monkeypatch.setattr(microbatcher, "ROWS", (1, 3))
        monkeypatch.setattr(microbatcher, "ASKED", 60)
        args = arguments(repeats=1)
        args.seconds = 0.02
        network, blocking = ran(microbatcher.steps(args))
        (row,) = network.rows
        factor = float(row["MicroBatcher"]) / float(row["to_thread"])
        assert float(row["times to_thread"]) == pytest.approx(factor)
        assert set(blocking.rows[0]) == {"", "1 rows", "3 rows"}

    def test_service(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("fastapi", "uvicorn", "torch", "matplotlib"):
            pytest.importorskip(name)
        from benchmarks.sections import service

        monkeypatch.setattr(service, "WORKLOADS", ((1, 2), (3, 2)))
        monkeypatch.setattr(service, "BANKS", {"small": service._made((3, 2), 20)})
        args = arguments(repeats=1, plot=tmp_path / "load.png")
        args.seconds = 0.1
        (table,) = ran(service.steps(args))
        expected = {"MicroBatcher, rows per request: 1"}
        for who in ("blocking predict", service.TORCH):
            expected |= {f"{who}, rows per request: {rows}" for rows in (1, 3)}
        assert set(names(table)) == expected
        assert all(float(row["requests"]) > 0 for row in table.rows)
        assert (tmp_path / "load.png").exists()


class TestOthers:
    def test_activation_errors_are_those_of_the_documentation(self) -> None:
        args = arguments(activations="relu,clip,prelu,tanh", step=1 << 12)
        args.settings = Settings(threads=1)
        relu, clip, prelu, tanh = ran(activation_errors.steps(args))
        assert relu.rows[0]["ULP"] == clip.rows[0]["ULP"] == 0
        assert float(prelu.rows[0]["ULP"]) <= 0.5
        assert 0.5 < float(tanh.rows[0]["ULP"]) < 3

    def test_an_error_is_counted_in_both_units(self) -> None:
        y = np.array([1.0, 2.0, np.nan, np.inf, np.nan], np.float32)
        truth = np.array([1.0 + 2.0**-23, 2.0, np.nan, np.inf, 1.0])
        ulp, eps = activation_errors.errors(y, truth)
        assert ulp.tolist() == [1, 0, 0, 0, np.inf]
        assert eps[:4] == pytest.approx([1, 0, 0, 0])

    def test_precision(self) -> None:
        (table,) = ran(precision.steps(arguments()))
        assert names(table) == list(DTYPES)
        differences = [float(row["mean difference from float32"]) for row in table.rows]
        assert differences == pytest.approx([0, 0.018, 0.14, 6.0], rel=0.05, abs=1e-3)
        sizes = [int(row["bytes"]) for row in table.rows]
        assert sizes == sorted(sizes, reverse=True)

    @pytest.mark.filterwarnings("ignore")
    def test_convert(self) -> None:
        pytest.importorskip("torch")
        (table,) = ran(convert.steps(arguments(modules=3)))
        assert names(table) == ["nn.Sequential", "a forward of its own"]

    def test_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pandas")
        monkeypatch.setattr(keys, "CHANGES", 20)
        (table,) = ran(keys.steps(arguments(models=[50], keys=300)))
        columns = ["list", "NumPy", "NumPy, object", "pandas, category"]
        assert names(table) == [
            *(f"{kind}, {column}" for kind in ("str", "int") for column in columns),
            "tuple, list",
        ]
        assert all(float(row["after 20 changes"]) > 0 for row in table.rows)
        assert {"dict"} < set(table.rows[0])

    def test_open(self, tmp_path: Path) -> None:
        args = arguments(models=2000, keys=10, folder=tmp_path)
        (table,) = ran(open_section.steps(args))
        assert names(table)[2:4] == ["Bank.open", "first predict of 10 keys"]
        assert names(table)[5] == "first call of all models"
        assert float(table.rows[0]["size"]) > 0
        assert list(tmp_path.iterdir()) == []


class TestLive:
    """Each part alone, with few models. Followers are processes of their own."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "LARGE": (3, 5, 2),
            "TRANSACTIONS": (1, 3),
            "CHANGES": (0, 5, 2500),
            "OPENED": 1000,
            "OPENINGS": 1,
            "FOLLOWED": {(3, 5, 2): 300},
            "FOLLOWERS": 2,
            "PERIOD": 0.2,
        }.items():
            monkeypatch.setattr(live, name, value)

    def table(self, part: str, folder: Path) -> Table:
        (table,) = ran(live.steps(arguments(parts=part, folder=folder)))
        assert list(folder.iterdir()) == []
        return table

    def test_check(self, tmp_path: Path) -> None:
        table = self.table("check", tmp_path)
        assert names(table) == ["4-8-2, one row", "3-5-2, one row"]

    def test_latency(self, tmp_path: Path) -> None:
        table = self.table("latency", tmp_path)
        assert len(table.rows) == 6
        for row in table.rows:
            assert 0 < float(row["p50"]) <= float(row["p99"])

    def test_rate(self, tmp_path: Path) -> None:
        table = self.table("rate", tmp_path)
        assert names(table)[:3] == [
            'sync="commit", transactions of 1',
            'sync="commit", transactions of 3',
            'sync="interval", transactions of 1',
        ]
        assert [bool(row.get("of its speed")) for row in table.rows] == [True] * 2 + [False] * 4

    @pytest.mark.slow
    def test_open(self, tmp_path: Path) -> None:
        table = self.table("open", tmp_path)
        assert names(table) == [
            *(f"{n} changes since the base" for n in (0, 5, 2500)),
            "compacted",
        ]

    @pytest.mark.slow
    def test_memory(self, tmp_path: Path) -> None:
        table = self.table("memory", tmp_path)
        assert names(table) == ["300 keys of 3-5-2 changed", "300 keys of 3-5-2 changed once more"]

    @pytest.mark.slow
    def test_followers(self, tmp_path: Path) -> None:
        table = self.table("followers", tmp_path)
        assert names(table) == [
            f"{pace}, {what} changes" if what != "as long" else what
            for pace in live.PACES
            for what in ("no", "with", "as long")
        ]
        for without, changing in (table.rows[0:2], table.rows[3:5]):
            assert int(without["calls"]) > 0 < int(changing["calls"])
            assert float(without["changes"]) == 0 < float(changing["changes"])

    def test_parts(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match="--parts: expected some of check, latency"):
            live.steps(arguments(parts="check,speed", folder=tmp_path))


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: BatchedInference, x: object, *, out: Any = None, **_: object) -> Any:
        out = np.empty((1, 1)) if out is None else out
        out.fill(np.nan)
        return out

    monkeypatch.setattr(BatchedInference, "forward", forward)
    monkeypatch.setattr(dtypes, "CASES", (SMALL,))
    monkeypatch.setattr(swap, "CASE", replace(SMALL, rows=1))
    monkeypatch.setattr(threads, "SHAPES", (SMALL,))
    steps = [
        *swap.steps(arguments()),
        *ids.steps(arguments(no_torch=True, divide=100))[:3],
        *dtypes.steps(arguments()),
        *threads.steps(arguments(imports=False))[:1],
        step_of(more.instruction_sets, [SMALL]),
        step_of(more.growing, [SMALL]),
        step_of(more.odd_sizes, [3]),
        Step("", lambda progress: more.one_model(SETTINGS, SECONDS, progress)),
    ]
    for step in steps:
        table = step.run(lambda fraction, doing: None)
        assert table.wrong
        assert table.failed
        assert "WRONG, not timed" in str(table)
        cells = [cell for row in table.rows for cell in row.values()]
        assert not any(isinstance(cell, Microseconds) for cell in cells)
