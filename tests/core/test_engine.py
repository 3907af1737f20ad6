"""Engine: which instruction set computes, how many threads, and what MLPBANK_ISA may do."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

import mlpbank
from cases import FUSED_ISAS, ISAS, Case, RunPython, architecture, assert_same_bits, case, raises
from mlpbank import Activation, BatchedInference, Engine

QUOTED = ", ".join(repr(isa) for isa in ISAS)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLPBANK_ISA", "MLPBANK_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_available_isas_are_in_order_of_preference() -> None:
    order = ["avx512", "avx2", "neon", "portable"]
    assert list(ISAS) == [isa for isa in order if isa in ISAS]
    assert ISAS[-1] == "portable"


def test_available_isas_are_those_of_the_cpu() -> None:
    if platform.machine() == "aarch64":
        assert ISAS == ("neon", "portable")
        return
    with open("/proc/cpuinfo") as file:
        flags = next((line.split(":")[1].split() for line in file if line.startswith("flags")), [])
    assert ("avx2" in ISAS) == {"avx2", "fma"}.issubset(flags)
    assert ("avx512" in ISAS) == {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"}.issubset(
        flags
    )
    assert "neon" not in ISAS


def test_the_fastest_is_the_default() -> None:
    assert Engine().isa == ISAS[0]
    assert Engine(isa=None).isa == ISAS[0]


def test_the_forced_one_is_used(isa: str) -> None:
    assert Engine(isa=isa).isa == isa
    assert Engine(1, isa).isa == isa
    assert repr(Engine(1, isa)) == f"Engine(num_threads=1, isa={isa!r})"


@pytest.mark.skipif(not FUSED_ISAS, reason="this CPU has no other instruction set than portable")
def test_the_forced_kernel_is_the_one_that_ran() -> None:
    """A fused multiply-add keeps the last bit of x * x - 1 at x = 1 + 2^-12."""
    x = np.float32(1 + 2.0**-12)
    for isa in ISAS:
        inference = BatchedInference(1, mlpbank.Architecture.mlp(1, 1), Engine(isa=isa))
        inference.load_weights(0, {"layer_0": [x], "layer_0.bias": [-1.0]})
        exact = 2.0**-11 + 2.0**-24
        fused = inference.forward([[x]]).item() == exact
        assert fused == (isa != "portable")


@pytest.mark.parametrize("name", ["AVX2", "sse9", "avx2 ", ""])
def test_unknown_isa(name: str) -> None:
    with raises(ValueError, f"isa: expected one of {QUOTED}, got {name!r}"):
        Engine(isa=name)


@pytest.mark.parametrize("wrong", [2, b"avx2", ["avx2"], True])
def test_isa_of_another_type(wrong: Any) -> None:
    with raises(TypeError, f"isa: expected a string, got {wrong!r}"):
        Engine(isa=wrong)


@pytest.mark.parametrize("bound", ISAS)
def test_variable_lowers_the_choice(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_ISA", bound)
    assert Engine().isa == bound
    for isa in ISAS[ISAS.index(bound) :]:
        assert Engine(isa=isa).isa == isa
    for isa in ISAS[: ISAS.index(bound)]:
        message = (
            f"isa: expected '{bound}' or a lesser one, since MLPBANK_ISA is set to it, got '{isa}'"
        )
        with raises(ValueError, message):
            Engine(isa=isa)


def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_ISA", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert Engine().isa == ISAS[0]


def test_unknown_name_in_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_ISA", "AVX2")
    message = f"MLPBANK_ISA: expected one of {QUOTED}, got 'AVX2'"
    for isa in (None, "portable"):
        with raises(ValueError, message):
            Engine(isa=isa)
    with raises(ValueError, message):
        BatchedInference(1, mlpbank.Architecture.mlp(1, 1))


def test_import_does_not_depend_on_the_variables(run_python: RunPython) -> None:
    """A wrong one is an error where an engine is made, not a package that cannot be imported."""
    script = """
        import mlpbank
        for make in (mlpbank.Engine, lambda: mlpbank.Engine(isa="portable")):
            try:
                make()
            except ValueError as error:
                print(str(error).split(":")[0])
    """
    assert run_python(script, MLPBANK_ISA="nonsense").split() == ["MLPBANK_ISA"] * 2
    assert run_python(script, MLPBANK_NUM_THREADS="nonsense").split() == ["MLPBANK_NUM_THREADS"] * 2


def test_variable_set_before_the_start(run_python: RunPython) -> None:
    script = "import mlpbank; print(mlpbank.Engine().isa, ','.join(mlpbank.available_isas()))"
    for isa in ISAS:
        assert run_python(script, MLPBANK_ISA=isa) == f"{isa} {','.join(ISAS)}"


def test_no_threads_are_started_by_import_or_by_small_work(run_python: RunPython) -> None:
    script = """
        import os
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's own
        import numpy as np
        before = len(os.listdir("/proc/self/task"))
        import mlpbank
        inference = mlpbank.BatchedInference(4, mlpbank.Architecture.mlp(4, 8, 2))
        stacked = {"layer_0": np.ones((4, 4, 8)), "layer_1": np.ones((4, 8, 2))}
        inference.weights.load_stacked(stacked)
        inference.forward(np.ones((4, 4)))
        print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run_python(script) == "0"


def test_number_of_threads_is_capped_by_the_budget() -> None:
    budget = mlpbank.cpu_budget().threads
    assert Engine().num_threads == Engine(None).num_threads == budget
    assert Engine(1).num_threads == 1
    assert Engine(np.int64(1)).num_threads == 1
    for more in (budget, budget + 1, 10_000, 2**31, 2**62):
        assert Engine(more).num_threads == budget


@pytest.fixture
def c() -> Case:
    return case(architecture((3, 18, 2), Activation.TANH), 5, 4)


WRONG_TYPES = [1.0, "2", True, b"1", [1]]


@pytest.mark.parametrize("wrong", WRONG_TYPES)
def test_numbers_of_threads_that_are_no_integers(c: Case, wrong: Any) -> None:
    message = f"num_threads: expected a positive integer, got {wrong!r}"
    with raises(TypeError, message):
        Engine(wrong)
    inference = c.inference(ISAS[0], "panel")
    with raises(TypeError, message):
        inference.forward(c.x, num_threads=wrong)
    with raises(TypeError, message):
        inference.forward_shared(c.x[0], num_threads=wrong)


@pytest.mark.parametrize("wrong", [0, -3])
def test_numbers_of_threads_that_are_not_positive(c: Case, wrong: int) -> None:
    message = f"num_threads: expected a positive integer, got {wrong}"
    with raises(ValueError, message):
        Engine(wrong)
    inference = c.inference(ISAS[0], "panel")
    with raises(ValueError, message):
        inference.forward(c.x, num_threads=wrong)
    with raises(ValueError, message):
        inference.forward(c.x, models=range(5), num_threads=wrong)


def test_any_number_of_threads_per_call(c: Case) -> None:
    inference = c.inference(ISAS[0], "panel", 1)
    expected = inference.forward(c.x)
    for threads in (1, 2, 10_000, 2**31, 2**62):
        assert_same_bits(inference.forward(c.x, num_threads=threads), expected)
