"""Results do not depend on the floating-point mode of the thread that calls, and that mode stays as it was."""

from __future__ import annotations

import platform

import pytest

from cases import RunPython

pytestmark = [
    pytest.mark.threads,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the mode is set as x86-64 has it"),
]

SET_MODE = """
import ctypes, numpy as np
from mlpbank import Architecture, Bank, BatchedInference, Engine
libm = ctypes.CDLL("libm.so.6")
state = (ctypes.c_uint32 * 8)()  # fenv_t: the last word is MXCSR

def mode():
    libm.fegetenv(state)
    return state[7]

def set_mode(mxcsr):
    libm.fegetenv(state)
    state[7] = mxcsr
    libm.fesetenv(state)

DEFAULT, FLAGS = 0x1F80, 0x3F
MODES = {"flush": 0x9FC0, "up": 0x5F80, "down": 0x3F80, "to zero": 0x7F80}

rng = np.random.default_rng(0)
arch = Architecture.mlp(32, 64, 64, 1)
n = 1000
weights = {f"layer_{i}": rng.standard_normal((n, s.input_size, s.output_size), np.float32)
           for i, s in enumerate(arch.layers)}
weights["layer_0"] *= np.float32(1e-20)
weights["layer_1"] *= np.float32(1e-19)
weights["layer_2"] *= np.float32(0.1)
x = rng.standard_normal((n, 32), np.float32)
"""


def test_forward(run_python: RunPython) -> None:
    """Subnormal outputs and rounding, on one thread and on several, dense, shared, by ids and by keys."""
    run_python(
        SET_MODE
        + """
for layout in ("panel", "lane"):
    bi = BatchedInference(n, arch, layout=layout)
    bi.weights.load_stacked(weights)
    bank = Bank.from_stacked(np.arange(n), arch, weights, layout=layout)
    ids = np.arange(n)[::-1].copy()
    calls = {
        "dense": lambda: bi.forward(x),
        "one thread": lambda: bi.forward(x, num_threads=1),
        "one row": lambda: bi.forward(x[:1], models=[3]),
        "by handles": lambda: bi.forward(x, models=ids),
        "shared": lambda: bi.forward_shared(x[0]),
        "bank": lambda: bank.predict(ids, x),
    }
    expected = {name: call() for name, call in calls.items()}
    assert (np.abs(expected["dense"]) < 1.2e-38).mean() > 0.3
    for mode_name, wanted in MODES.items():
        for name, call in calls.items():
            set_mode(wanted)
            got = [call() for _ in range(5)]
            after = mode()
            set_mode(DEFAULT)
            assert after & ~FLAGS == wanted & ~FLAGS, (mode_name, name, hex(after))
            for y in got:
                assert y.tobytes() == expected[name].tobytes(), (layout, mode_name, name)
"""
    )


def test_loading_and_reading(run_python: RunPython) -> None:
    """What is stored in few bits is rounded to nearest, and read back exactly."""
    run_python(
        SET_MODE
        + """
one = {name: array[0] for name, array in weights.items()}
for layout in ("panel", "lane"):
    for dtype in ("float16", "bfloat16", "int8"):
        bi = BatchedInference(n, arch, layout=layout, dtype=dtype)
        bi.weights.load_stacked(weights)
        bi.load_weights(5, one)
        expected = [bi.weights.get(m) for m in (5, 6, n - 1)]
        for wanted in MODES.values():
            other = BatchedInference(n, arch, layout=layout, dtype=dtype)
            set_mode(wanted)
            other.weights.load_stacked(weights)
            other.load_weights(5, one)
            got = [other.weights.get(m) for m in (5, 6, n - 1)]
            after = mode()
            set_mode(DEFAULT)
            assert after & ~FLAGS == wanted & ~FLAGS
            for a, b in zip(expected, got):
                for name in a:
                    assert a[name].tobytes() == b[name].tobytes(), (layout, dtype, name)
"""
    )


def test_conversions_before_the_core(run_python: RunPython) -> None:
    """What is given as float64 is rounded to nearest, be it weights, rows or scalers, and subnormal numbers stay."""
    run_python(
        SET_MODE
        + """
from mlpbank import convert
arch = Architecture.mlp(3, 2)
x = np.array([[1 / 3, 1e-40, 2e-39], [0.1, -1e-41, 0.7]])
w = {"layer_0": np.array([[1 / 3, 1e-40], [0.1, 0.7], [1e-41, -0.2]]), "layer_0.bias": np.array([1e-40, 0.3])}
scalers = {"input_scaler": ([0.1, 0.2, 0.3], [3.0, 7.0, 0.01]), "output_scaler": ([0.1, 1e-40], [3.0, 1 / 3])}
flat = np.concatenate([w["layer_0"].ravel(), w["layer_0.bias"]])
params = {"fc.weight": w["layer_0"], "fc.bias": w["layer_0.bias"]}

def stored(weights, dtype="float32", **options):
    bank = Bank(arch, dtype=dtype)
    bank.add("a", weights, **options)
    return b"".join(array.tobytes() for array in bank["a"].values())

def of(arrays):
    return b"".join(array.tobytes() for array in arrays.values())

bank = Bank(arch)
bank["a"] = {"layer_0": [[1, 0], [0, 1], [0, 0]]}
calls = {
    "arrays": lambda: stored(w),
    "lists": lambda: stored({name: array.tolist() for name, array in w.items()}),
    "bfloat16": lambda: stored(w, "bfloat16"),
    "int8": lambda: stored(w, "int8"),
    "scalers": lambda: stored(w, **scalers),
    "stacked": lambda: of(Bank.from_stacked(["a"], arch, {n: a[None] for n, a in w.items()}, **scalers)["a"]),
    "rows": lambda: bank.predict("a", x).tobytes(),
    "rows as lists": lambda: bank.predict("a", x.tolist()).tobytes(),
    "by handles": lambda: bank.predict_handles(bank.handles(["a", "a"]), x).tobytes(),
    "convert": lambda: of(convert.convert(w, arch).weights),
    "from_params": lambda: of(convert.from_params(params, arch, weight_layout="in_out").weights),
    "from_flat": lambda: of(convert.from_flat(flat, arch, order="weight,bias", weight_layout="in_out")),
    "stack": lambda: of(convert.stack({"a": w}, arch)[2]),
}
for name, call in calls.items():
    expected = call()
    for mode_name, wanted in MODES.items():
        set_mode(wanted)
        got = call()
        after = mode()
        set_mode(DEFAULT)
        assert after & ~FLAGS == wanted & ~FLAGS, (name, mode_name, hex(after))
        assert got == expected, (name, mode_name)
set_mode(MODES["up"])
try:
    convert.fold_scalers(arch, w, ([1], [0]))
except ValueError:
    after = mode()
set_mode(DEFAULT)
assert after & ~FLAGS == MODES["up"] & ~FLAGS
"""
    )


def test_exceptions_that_the_caller_lets_interrupt(run_python: RunPython) -> None:
    """A caller that traps invalid operations and overflow is not interrupted by infinite weights; its flags stay."""
    run_python(
        SET_MODE
        + """
weights["layer_0"][:] = np.inf
weights["layer_1"][:] = -np.inf
bi = BatchedInference(n, arch)
bi.weights.load_stacked(weights)
expected = bi.forward(x)
y = np.empty_like(expected)
trapping = DEFAULT & ~0x80 & ~0x400 & ~0x200  # invalid operation, overflow, division by zero
set_mode(trapping)
bi.forward(x, out=y)
after = mode()
set_mode(DEFAULT)
assert after & ~FLAGS == trapping
assert np.isnan(y).all() and np.isnan(expected).all()
"""
    )
