"""Results in other floating-point modes of the calling thread: float_mode.py CHECK."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, BatchedInference, convert

libm = ctypes.CDLL("libm.so.6")
state = (ctypes.c_uint32 * 8)()  # fenv_t: the last word is MXCSR

DEFAULT, FLAGS = 0x1F80, 0x3F
MODES = {"flush": 0x9FC0, "up": 0x5F80, "down": 0x3F80, "to zero": 0x7F80}
LAYOUTS: Any = ("panel", "lane")
NARROW: Any = ("float16", "bfloat16", "int8")

# Small enough that outputs are subnormal.
rng = np.random.default_rng(0)
N = 1000
ARCH = Architecture.mlp(32, 64, 64, 1)
WEIGHTS = {
    f"layer_{i}": rng.standard_normal((N, s.input_size, s.output_size), np.float32)
    for i, s in enumerate(ARCH.layers)
}
WEIGHTS["layer_0"] *= np.float32(1e-20)
WEIGHTS["layer_1"] *= np.float32(1e-19)
WEIGHTS["layer_2"] *= np.float32(0.1)
X = rng.standard_normal((N, 32), np.float32)


def get_mode() -> int:
    libm.fegetenv(state)
    return state[7]


def set_mode(mxcsr: int) -> None:
    libm.fegetenv(state)
    state[7] = mxcsr
    libm.fesetenv(state)


def in_mode(mode: int, call: Callable[[], Any]) -> Any:
    """Return the result of a call in a mode, which must be as it was after the call."""
    set_mode(mode)
    try:
        return call()
    finally:
        after = get_mode()
        set_mode(DEFAULT)
        assert after & ~FLAGS == mode & ~FLAGS, hex(after)


def joined(arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in arrays.values())


def five_times(call: Callable[[], Any]) -> list[Any]:
    return [call() for _ in range(5)]


def check_forward(layout: Any) -> None:
    inference = BatchedInference(N, ARCH, layout=layout)
    inference.weights.load_stacked(WEIGHTS)
    bank = Bank.from_stacked(np.arange(N), ARCH, WEIGHTS, layout=layout)
    slots = np.arange(N)[::-1].copy()
    calls: dict[str, Callable[[], np.ndarray]] = {
        "dense": lambda: inference.forward(X),
        "one thread": lambda: inference.forward(X, num_threads=1),
        "one row": lambda: inference.forward(X[:1], models=[3]),
        "by slots": lambda: inference.forward(X, models=slots),
        "shared": lambda: inference.forward_shared(X[0]),
        "bank": lambda: bank.predict(slots, X),
    }
    expected = {name: call() for name, call in calls.items()}
    assert (np.abs(expected["dense"]) < 1.2e-38).mean() > 0.3
    for mode_name, mode in MODES.items():
        for name, call in calls.items():
            for y in in_mode(mode, partial(five_times, call)):
                assert y.tobytes() == expected[name].tobytes(), (layout, mode_name, name)


def forward() -> None:
    """Subnormal outputs and rounding, by every call that predicts."""
    for layout in LAYOUTS:
        check_forward(layout)


def loaded_and_read(inference: BatchedInference) -> list[bytes]:
    inference.weights.load_stacked(WEIGHTS)
    inference.load_weights(5, {name: array[0] for name, array in WEIGHTS.items()})
    return [joined(inference.weights.get(slot)) for slot in (5, 6, N - 1)]


def loading_and_reading() -> None:
    """Narrow weights are rounded to nearest and read back exactly."""
    for layout in LAYOUTS:
        for dtype in NARROW:
            expected = loaded_and_read(BatchedInference(N, ARCH, layout=layout, dtype=dtype))
            for mode in MODES.values():
                other = BatchedInference(N, ARCH, layout=layout, dtype=dtype)
                actual = in_mode(mode, partial(loaded_and_read, other))
                assert actual == expected, (layout, dtype)


def conversions() -> None:
    """Weights, rows and scalers in float64 are rounded to nearest, and subnormals stay."""
    arch = Architecture.mlp(3, 2)
    x = np.array([[1 / 3, 1e-40, 2e-39], [0.1, -1e-41, 0.7]])
    weight = np.array([[1 / 3, 1e-40], [0.1, 0.7], [1e-41, -0.2]])
    bias = np.array([1e-40, 0.3])
    w = {"layer_0": weight, "layer_0.bias": bias}
    one = {name: array[None] for name, array in w.items()}
    scalers: dict[str, Any] = {
        "input_scaler": ([0.1, 0.2, 0.3], [3.0, 7.0, 0.01]),
        "output_scaler": ([0.1, 1e-40], [3.0, 1 / 3]),
    }
    flat = np.concatenate([weight.ravel(), bias])
    params = {"fc.weight": weight, "fc.bias": bias}
    in_out: Any = {"weight_layout": "in_out"}

    def stored(weights: Any, dtype: Any = "float32", **options: Any) -> bytes:
        bank = Bank(arch, dtype=dtype)
        bank.add("a", weights, **options)
        return joined(bank["a"])

    bank = Bank(arch)
    bank["a"] = {"layer_0": [[1, 0], [0, 1], [0, 0]]}
    calls: dict[str, Callable[[], bytes]] = {
        "arrays": lambda: stored(w),
        "lists": lambda: stored({name: array.tolist() for name, array in w.items()}),
        "bfloat16": lambda: stored(w, "bfloat16"),
        "int8": lambda: stored(w, "int8"),
        "scalers": lambda: stored(w, **scalers),
        "stacked": lambda: joined(Bank.from_stacked(["a"], arch, one, **scalers)["a"]),
        "rows": lambda: bank.predict("a", x).tobytes(),
        "rows as lists": lambda: bank.predict("a", x.tolist()).tobytes(),
        "handles": lambda: bank.predict_handles(bank.handles(["a", "a"]), x).tobytes(),
        "convert": lambda: joined(convert.convert(w, arch).weights),
        "from_params": lambda: joined(convert.from_params(params, arch, **in_out).weights),
        "from_flat": lambda: joined(convert.from_flat(flat, arch, order="weight,bias", **in_out)),
        "stack": lambda: joined(convert.stack({"a": w}, arch)[2]),
    }
    for name, call in calls.items():
        expected = call()
        for mode_name, mode in MODES.items():
            assert in_mode(mode, call) == expected, (name, mode_name)
    with pytest.raises(ValueError, match="scale"):
        in_mode(MODES["up"], lambda: convert.fold_scalers(arch, w, ([1], [0])))


def trapped_exceptions() -> None:
    """Traps of the caller are not sprung by infinite weights, and its flags stay."""
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    weights["layer_0"][:] = np.inf
    weights["layer_1"][:] = -np.inf
    inference = BatchedInference(N, ARCH)
    inference.weights.load_stacked(weights)
    expected = inference.forward(X)
    y = np.empty_like(expected)
    trapping = DEFAULT & ~0x80 & ~0x400 & ~0x200  # invalid operation, overflow, division by zero
    set_mode(trapping)
    inference.forward(X, out=y)
    after = get_mode()
    set_mode(DEFAULT)
    assert after & ~FLAGS == trapping
    assert np.isnan(y).all()
    assert np.isnan(expected).all()


globals()[sys.argv[1]]()
