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
        "by ids": lambda: bi.forward(x, models=ids),
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
