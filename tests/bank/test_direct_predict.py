"""The everyday call by key or handle is one step of the core, and answers as the careful way."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank

ARCH = Architecture.mlp(3, 5, 2)
KEYS: dict[str, list[Any]] = {
    "str": ["a", "bé", "", "d"],
    "int": [0, -7, 2**63 - 1, 3],
    "tuple": [("a", 1), ("a", 2), ("", -1), ("é", 1)],
}
RNG = np.random.default_rng(3)
ROWS = RNG.standard_normal((4, 2, 3)).astype(np.float32)


class Careful:
    """Takes no call."""

    def by_keys(self, *_: Any) -> None: ...

    by_handles = by_keys


def stacked() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    shapes = {"layer_0": (4, 3, 5), "layer_0.bias": (4, 5), "layer_1": (4, 5, 2)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def bank_of(kind: str, layout: Any = "auto", **more: Any) -> Bank:
    return Bank.from_stacked(KEYS[kind], ARCH, stacked(), layout=layout, **more)


def outcome(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, ...]:
    """Return dtype, shape and bytes of an answer, or type and text of an error."""
    try:
        y = call(*args, **options)
    except Exception as error:
        return type(error), str(error)
    return y.dtype, y.shape, y.tobytes()


def careful(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, ...]:
    """Return the outcome of a bank's method when nothing of it is one step."""
    bank: Any = call.__self__  # type: ignore[attr-defined]
    direct = bank._direct
    try:
        bank._direct = Careful()
        return outcome(call, *args, **options)
    finally:
        bank._direct = direct


@pytest.mark.parametrize("layout", ["panel", "lane"])
@pytest.mark.parametrize("kind", list(KEYS))
def test_the_everyday_calls_are_one_step(kind: str, layout: str) -> None:
    bank = bank_of(kind, layout)
    keys = KEYS[kind]
    xs = ROWS, np.ascontiguousarray(ROWS[:, 0]), ROWS[:, :0]
    calls = [(some, x) for some in (keys, [keys[2]] * 4, keys[::-1]) for x in xs]
    calls += [(key, x) for key in keys for x in (ROWS[1], ROWS[1, 0], ROWS[1, :0])]
    if kind == "int":
        calls.append((np.array(keys), ROWS))
    for some, x in calls:
        y = bank._direct.by_keys(some, x, None)
        assert y is not None
        assert (y.dtype, y.shape, y.tobytes()) == careful(bank.predict, some, x)
    handles = bank.handles(keys)
    for given, x in (handles, ROWS), (handles[[3, 0, 0]], ROWS[:3]), (handles[:0], ROWS[:0]):
        y = bank._direct.by_handles(given, x, None)
        assert y is not None
        assert (y.dtype, y.shape, y.tobytes()) == careful(bank.predict_handles, given, x)


class Text(str):
    """A str that is none of the core's."""


UNUSUAL_KEYS: list[Any] = [
    [],
    (),
    None,
    ["a", None, "d", "a"],
    ["a", "nobody", "d", "a"],
    "nobody",
    ["a", "d", "bé", 3],
    [("a", 1), ("a", 2), ("a", 1), ("a", 3)],
    ("a", 1),
    (1, "a"),
    ("a", 1, 2),
    ("a", "d", "bé", ""),
    [True, False, 3, 0],
    [0, 3, 3, 2**63],
    0,
    3.0,
    True,
    2**70,
    ["\ud800", "a", "a", "a"],
    "\ud800",
    [Text("a"), "d", "d", "d"],
    Text("d"),
    np.array([0, 3, 0, 3], np.int32),
    np.array([0, 3, 0, 99]),
    np.array([[0, 3], [0, 3]]),
    np.array([3, 0, 3, 0, 3, 0, 3, 0])[::2],
    np.array([0, 3, 0, 3], ">i8"),
    np.array(["a", "d", "bé", ""]),
    np.array([0.0, 3.0, np.nan, 3.0]),
]
UNUSUAL_ROWS: list[Any] = [
    ROWS,
    ROWS[:, 0],
    ROWS[0],
    ROWS[0, 0],
    ROWS[0, 0, 0],
    ROWS[:3],
    ROWS[..., :2],
    ROWS[None],
    ROWS[:, :0],
    ROWS.astype(np.float64),
    ROWS.astype(">f4"),
    ROWS[:, :1].view(np.recarray),
    np.asfortranarray(ROWS[:, 0]),
    ROWS.tolist(),
    np.full((4, 3), np.nan, np.float32),
    None,
]


def outs() -> list[Any]:
    wide = np.zeros((4, 2, 3), np.float32)
    locked = np.zeros((4, 2), np.float32)
    locked.flags.writeable = False
    return [None, np.zeros((4, 2), np.float32), wide[..., :2], locked, np.zeros((2, 4)), [0]]


@pytest.mark.parametrize("more", ["nothing", "fallback", "shift"])
@pytest.mark.parametrize("kind", list(KEYS))
def test_all_other_calls_end_as_in_the_careful_way(kind: str, more: str) -> None:
    options: dict[str, Any] = {
        "nothing": {},
        "fallback": {"fallback": KEYS[kind][0]},
        "shift": {"input_scaler": ([1e9] * 3, [1] * 3)},
    }[more]
    bank = bank_of(kind, **options)
    for keys, x, missing in itertools.product(
        UNUSUAL_KEYS + KEYS[kind], UNUSUAL_ROWS, [None, "nan", "fallback", 3, ["nan"]]
    ):
        given = keys, x
        assert outcome(bank.predict, *given, missing=missing) == careful(
            bank.predict, *given, missing=missing
        ), (given, missing)
        if isinstance(keys, np.ndarray):
            assert outcome(bank.predict_handles, *given, missing=missing) == careful(
                bank.predict_handles, *given, missing=missing
            ), (given, missing)


@pytest.mark.parametrize("kind", list(KEYS))
@pytest.mark.parametrize("i", range(len(outs())))
def test_the_result_goes_where_the_careful_way_puts_it(i: int, kind: str) -> None:
    bank = bank_of(kind)
    for keys, x in (KEYS[kind], ROWS[:, 0]), (KEYS[kind][0], ROWS[0]), (KEYS[kind], ROWS):
        one, other = outs()[i], outs()[i]
        assert outcome(bank.predict, keys, x, out=one) == careful(bank.predict, keys, x, out=other)
        assert repr(one) == repr(other)


def test_out_over_x_is_refused() -> None:
    bank = Bank.from_stacked(["a", "b"], Architecture.mlp(2, 2), {"layer_0": np.ones((2, 2, 2))})
    x = np.ones((2, 2), np.float32)
    for keys, rows in (["a", "b"], x), ("a", x[0]):
        with pytest.raises(ValueError, match="out: expected memory of its own"):
            bank.predict(keys, rows, out=rows)


def test_deleted_models_are_unknown() -> None:
    bank = bank_of("str")
    handles = bank.handles(["a", "d"])
    del bank["d"]
    for call in (
        lambda: bank.predict("d", ROWS[0]),
        lambda: bank.predict(["a", "d"], ROWS[:2]),
        lambda: bank.predict_handles(handles, ROWS[:2]),
    ):
        with pytest.raises(KeyError, match="no such model"):
            call()
    assert bank._direct.by_handles(handles[:1], ROWS[:1], None) is not None
    assert np.isnan(bank.predict(["d", "a"], ROWS[:2], missing="nan")[0]).all()


def test_the_first_model_decides_that_rows_are_shifted() -> None:
    bank = Bank(Architecture.mlp(1, 1))
    big = 2.0**30
    bank.add("a", {"layer_0": [[1.0]]}, input_scaler=([big], [1.0]))
    assert bank.input_shift is not None
    x = np.array([[big + 128]], np.float32)
    assert bank._direct.by_keys(["a"], x, None) is None
    assert bank.predict(["a"], x) == 128


def test_a_bank_that_was_opened_or_copied_takes_direct_calls(tmp_path: Path) -> None:
    bank = bank_of("int")
    bank.save(tmp_path / "bank.mlpbank")
    opened, pickled = Bank.open(tmp_path / "bank.mlpbank"), pickle.loads(pickle.dumps(bank))
    for other in (opened, pickled, copy.deepcopy(bank)):
        y = other._direct.by_keys([3, 0], ROWS[:2], None)
        assert y is not None
        assert y.tobytes() == bank.predict([3, 0], ROWS[:2]).tobytes()
