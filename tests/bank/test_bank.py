"""Bank: keys, adding, replacing, removing, unknown keys, handles, data frames."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlpbank
from cases import Float32Array
from mlpbank import (
    Architecture,
    Bank,
    BatchedInference,
    Engine,
    InvalidValueError,
    UnknownModelError,
)

ARCHITECTURE = Architecture.mlp(3, 5, 2)
Weights = dict[str, Float32Array]


def weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    shapes = {"layer_0": (3, 5), "layer_0.bias": (5,), "layer_1": (5, 2), "layer_1.bias": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def alone(seed: int, rows: Any) -> Float32Array:
    """What one model answers, by an inference of its own."""
    inference = BatchedInference(1, ARCHITECTURE)
    inference.load_weights(0, weights(seed))
    return inference.forward(np.asarray(rows, np.float32)[None])[0]


def x(n: int, *rows: int) -> Float32Array:
    return np.random.default_rng(7).normal(size=(n, *rows, 3)).astype(np.float32)


@pytest.fixture(params=["str", "int", "stacked str", "stacked int"])
def keys(request: pytest.FixtureRequest) -> list[Any]:
    """Five keys."""
    return (
        ["a", "bb", "", "ü" * 40, "e"]
        if "str" in request.param
        else [7, -1, 0, 2**63 - 1, -(2**63)]
    )


@pytest.fixture
def bank(keys: list[Any], request: pytest.FixtureRequest) -> Bank:
    """A bank whose model i has the weights of seed i, filled at once or one by one."""
    if "stacked" in request.node.name:
        every = [weights(i) for i in range(len(keys))]
        return Bank.from_stacked(
            keys, ARCHITECTURE, {name: np.stack([w[name] for w in every]) for name in every[0]}
        )
    bank = Bank(ARCHITECTURE)
    for i, key in enumerate(keys):
        bank[key] = weights(i)
    return bank


def test_every_key_answers_with_its_model(bank: Bank, keys: list[Any]) -> None:
    order = [3, 0, 0, 4, 2, 1]
    inputs = x(len(order))
    y = bank.predict([keys[i] for i in order], inputs)
    for row, i in enumerate(order):
        np.testing.assert_array_equal(y[row], alone(i, inputs[row : row + 1])[0])


def test_several_rows_for_each_key(bank: Bank, keys: list[Any]) -> None:
    inputs = x(2, 4)
    y = bank.predict([keys[1], keys[2]], inputs)
    assert y.shape == (2, 4, 2)
    np.testing.assert_array_equal(y[1], alone(2, inputs[1]))


def test_one_key(bank: Bank, keys: list[Any]) -> None:
    inputs = x(4)
    np.testing.assert_array_equal(bank.predict(keys[1], inputs), alone(1, inputs))
    np.testing.assert_array_equal(bank.predict(keys[1], inputs[0]), alone(1, inputs[:1])[0])
    out = np.empty(2, np.float32)
    bank.predict(keys[1], inputs[0], out=out)
    np.testing.assert_array_equal(out, alone(1, inputs[:1])[0])


def test_no_keys(bank: Bank) -> None:
    assert bank.predict([], np.empty((0, 3))).shape == (0, 2)
    assert bank.handles([]).shape == (0,)


def test_like_a_mapping(bank: Bank, keys: list[Any]) -> None:
    assert len(bank) == 5
    assert bank.key_type is type(keys[0])
    assert Bank(ARCHITECTURE).key_type is None
    assert list(bank) == list(bank.keys()) == keys
    assert all(key in bank for key in keys)
    for absent in ("x", 5, 2**80, 1.5, None, b"a", True):
        assert absent not in bank
    for name, array in bank[keys[3]].items():
        np.testing.assert_array_equal(array, weights(3)[name])


def test_containers_of_keys(bank: Bank, keys: list[Any]) -> None:
    inputs = x(5)
    expected = bank.predict(keys, inputs)
    columns: list[Any] = [
        tuple(keys),
        np.array(keys),
        pd.Series(keys),
        pd.Series(keys).array,
        pd.Index(keys),
        iter(keys),
    ]
    if isinstance(keys[0], str):
        columns.append(np.array(keys, object))
    else:
        columns += [np.array(keys[:3], np.int8), np.array(keys[:4:3], np.uint64)]
        expected_of = {2: expected[[0, 3]], 3: expected[:3]}
    for column in columns:
        n = len(column) if hasattr(column, "__len__") else 5
        y = bank.predict(column, inputs[:n] if n != 2 else inputs[[0, 3]])
        np.testing.assert_array_equal(y, expected if n == 5 else expected_of[n])


def test_replace_and_delete(bank: Bank, keys: list[Any]) -> None:
    inputs = x(1)
    bank[keys[2]] = weights(50)
    np.testing.assert_array_equal(bank.predict([keys[2]], inputs), alone(50, inputs))
    assert bank.info(keys[2]).revision == 2
    del bank[keys[2]]
    assert len(bank) == 4
    assert keys[2] not in bank
    assert list(bank) == [key for key in keys if key != keys[2]]
    for call in (
        lambda: bank[keys[2]],
        lambda: bank.info(keys[2]),
        lambda: bank.predict([keys[2]], inputs),
    ):
        with pytest.raises(UnknownModelError):
            call()
    with pytest.raises(UnknownModelError):
        del bank[keys[2]]
    bank[keys[2]] = weights(51)
    assert bank.info(keys[2]).revision == 1
    np.testing.assert_array_equal(bank.predict([keys[2]], inputs), alone(51, inputs))


def test_places_of_deleted_models_are_used_again(bank: Bank, keys: list[Any]) -> None:
    before = bank.nbytes
    new = "new" if isinstance(keys[0], str) else 99
    bank[new] = weights(9)
    for seed in range(2000):
        del bank[new]
        bank[new] = weights(seed)
    np.testing.assert_array_equal(bank.predict(new, x(1)), alone(1999, x(1)))
    assert bank.nbytes < before + 200_000


def test_handles_are_refused_once_their_model_is_deleted(bank: Bank, keys: list[Any]) -> None:
    inputs = x(2)
    handles = bank.handles([keys[1], keys[3]])
    np.testing.assert_array_equal(
        bank.predict_handles(handles, inputs), bank.predict([keys[1], keys[3]], inputs)
    )
    del bank[keys[1]]
    with pytest.raises(UnknownModelError, match=r"1 of 2 handles"):
        bank.predict_handles(handles, inputs)
    bank["again" if isinstance(keys[0], str) else 12345] = weights(9)  # takes the place
    with pytest.raises(UnknownModelError):
        bank.predict_handles(handles, inputs)
    np.testing.assert_array_equal(
        bank.predict_handles(handles[1:], inputs[1:]), alone(3, inputs[1:])
    )
    new = bank.handles(["again" if isinstance(keys[0], str) else 12345])
    np.testing.assert_array_equal(bank.predict_handles(new, inputs[:1]), alone(9, inputs[:1]))
    for bad in ([-1], [10**6], [2**62]):
        with pytest.raises((IndexError, UnknownModelError)):
            bank.predict_handles(bad, inputs[:1])


def test_unknown_keys(bank: Bank, keys: list[Any]) -> None:
    absent = ["no", "nor"] if isinstance(keys[0], str) else [1000, 1001]
    asked = [absent[0], keys[1], absent[1], absent[0]]
    inputs = x(4)
    with pytest.raises(UnknownModelError) as caught:
        bank.predict(asked, inputs)
    assert isinstance(caught.value, KeyError)
    assert caught.value.keys == [absent[0], absent[1], absent[0]]
    assert (
        str(caught.value)
        == f"no such model: {absent[0]!r}, {absent[1]!r}, {absent[0]!r} (3 of 4 keys)"
    )
    assert pickle.loads(pickle.dumps(caught.value)).keys == caught.value.keys
    y = bank.predict(asked, inputs, missing="nan")
    assert np.isnan(y[[0, 2, 3]]).all()
    np.testing.assert_array_equal(y[1], alone(1, inputs[1:2])[0])
    out = np.zeros((4, 2), np.float32)
    assert bank.predict(asked, inputs, missing="nan", out=out) is out
    np.testing.assert_array_equal(out, y)
    with pytest.raises(UnknownModelError):
        bank.predict(asked, inputs, missing="fallback")
    bank.fallback = keys[4]
    y = bank.predict(asked, inputs)
    np.testing.assert_array_equal(y[[0, 2, 3]], alone(4, inputs[[0, 2, 3]]))
    np.testing.assert_array_equal(y[1], alone(1, inputs[1:2])[0])
    with pytest.raises(UnknownModelError):
        bank.predict(asked, inputs, missing="error")
    with pytest.raises(ValueError, match="missing"):
        bank.predict(asked, inputs, missing="none")


def test_a_long_list_of_unknown_keys_is_cut(bank: Bank, keys: list[Any]) -> None:
    many = [f"u{i}" for i in range(1000)] if isinstance(keys[0], str) else list(range(1000, 2000))
    with pytest.raises(UnknownModelError, match=r", \.\.\. \(1000 of 1000 keys\)"):
        bank.predict(many, x(1000))


def test_fallback_may_come_later() -> None:
    bank = Bank(ARCHITECTURE, fallback="all")
    with pytest.raises(UnknownModelError):
        bank.predict(["new"], x(1))
    bank["all"] = weights(1)
    np.testing.assert_array_equal(bank.predict(["new"], x(1)), alone(1, x(1)))


def test_wrong_keys(bank: Bank, keys: list[Any]) -> None:
    other: Any = 5 if isinstance(keys[0], str) else "five"
    for bad, message in (
        (other, "like the bank's"),
        (1.5, "expected a str, an int or a tuple"),
        (None, "expected a str, an int or a tuple"),
        (True, "expected a str, an int or a tuple"),
        (("a",), "like the bank's"),
    ):
        with pytest.raises(TypeError, match=message):
            bank[bad] = weights(0)
        with pytest.raises(UnknownModelError if bad is None else TypeError):
            bank.predict([bad], x(1))
    for lists in ([keys[0], None], [keys[0], other], 3.5, b"a", np.array([[1, 2]]), [float("nan")]):
        with pytest.raises((TypeError, ValueError, UnknownModelError)):
            bank.predict(lists, x(2))
    if isinstance(keys[0], str):
        with pytest.raises(ValueError, match="UTF-8"):
            bank["\ud800"] = weights(0)
    else:
        with pytest.raises(ValueError, match="64 bits"):
            bank[2**63] = weights(0)
    assert len(bank) == 5


def test_a_failed_load_changes_nothing(bank: Bank, keys: list[Any]) -> None:
    inputs = x(1)
    broken = weights(1) | {"layer_1": np.zeros((5, 3))}
    for key in (keys[0], "fresh" if isinstance(keys[0], str) else 77):
        with pytest.raises(ValueError, match="layer_1"):
            bank[key] = broken
        with pytest.raises(KeyError, match="layer_7"):
            bank[key] = weights(1) | {"layer_7": np.zeros(1)}
        with pytest.raises(ValueError, match="finite"):
            bank.add(key, weights(1) | {"layer_1": np.full((5, 2), np.nan)}, check_finite=True)
    assert list(bank) == keys
    assert bank.info(keys[0]).revision == 1
    np.testing.assert_array_equal(bank.predict(keys[0], inputs), alone(0, inputs))


def test_info(bank: Bank, keys: list[Any]) -> None:
    first = bank.info(keys[0])
    assert (first.key, first.version, first.revision) == (keys[0], None, 1)
    bank.add(keys[0], weights(3), version="2026-11-01")
    second = bank.info(keys[0])
    assert (second.version, second.revision) == ("2026-11-01", 2)
    assert second.loaded_at >= first.loaded_at
    assert second.loaded_at.tzinfo is not None
    with pytest.raises(TypeError, match="version"):
        bank.add(keys[0], weights(3), version=3)  # type: ignore[arg-type]


def test_errors_name_the_arguments_of_the_call(bank: Bank, keys: list[Any]) -> None:
    handles = bank.handles(keys[:2])
    for predict, entries in ((bank.predict, keys[:2]), (bank.predict_handles, handles)):
        name = "keys" if entries is not handles else "handles"
        with pytest.raises(ValueError, match=r"^x: expected last dimension 3, got 2$"):
            predict(entries, np.zeros((2, 2)))
        with pytest.raises(
            ValueError, match=rf"^x: expected first dimension 2 \(len\({name}\)\), got 3$"
        ):
            predict(entries, x(3))
        with pytest.raises(TypeError, match=r"^x: expected real numbers"):
            predict(entries, np.zeros((2, 3), complex))
    other = [1, 2] if isinstance(keys[0], str) else ["1", "2"]
    with pytest.raises(
        TypeError,
        match=rf"^keys: expected {type(keys[0]).__name__} like the bank's, got {other[0]!r}; use ",
    ):
        bank.predict(other, x(2))


def test_stacked_keys_have_to_differ() -> None:
    stacked = {name: np.stack([array] * 3) for name, array in weights(0).items()}
    with pytest.raises(ValueError, match=r"'a' again at position 2"):
        Bank.from_stacked(["a", "b", "a"], ARCHITECTURE, stacked)
    with pytest.raises(ValueError, match=r"-4 again at position 1"):  # the first of several
        Bank.from_stacked([-4, -4, 2, 2, -4], ARCHITECTURE, stacked)
    with pytest.raises(ValueError, match="expected shape"):
        Bank.from_stacked(["a", "b"], ARCHITECTURE, stacked)
    assert (
        Bank.from_stacked(["a", "b", "c"], ARCHITECTURE, stacked, version="v1").info("c").version
        == "v1"
    )


def test_pickle_and_copy_give_a_bank_of_its_own(bank: Bank, keys: list[Any]) -> None:
    bank.metadata = {"unit": "minutes"}
    for other in (pickle.loads(pickle.dumps(bank)), copy.deepcopy(bank)):
        assert other.metadata == bank.metadata
        np.testing.assert_array_equal(other.predict(keys, x(5)), bank.predict(keys, x(5)))
        other[keys[0]] = weights(60)
        np.testing.assert_array_equal(bank.predict(keys[0], x(1)), alone(0, x(1)))


def test_predict_in_an_event_loop(bank: Bank, keys: list[Any]) -> None:
    async def both() -> list[Float32Array]:
        return list(
            await asyncio.gather(
                bank.apredict(keys, x(5)), bank.apredict(keys[:2], x(2), num_threads=1)
            )
        )

    five, two = asyncio.run(both())
    np.testing.assert_array_equal(five, bank.predict(keys, x(5)))
    np.testing.assert_array_equal(two, bank.predict(keys[:2], x(2)))


def test_dtypes_and_engine() -> None:
    bank = Bank(
        ARCHITECTURE, dtype="int8", layout="lane", engine=Engine(num_threads=1, isa="portable")
    )
    assert (bank.dtype, bank.layout, bank.engine.isa) == ("int8", "lane", "portable")
    bank["a"] = weights(0)
    inference = BatchedInference(
        1, ARCHITECTURE, Engine(isa="portable"), dtype="int8", layout="lane"
    )
    inference.load_weights(0, weights(0))
    np.testing.assert_array_equal(bank.predict(["a"], x(1)), inference.forward(x(1)))
    assert repr(bank) == f"<Bank of 1: {ARCHITECTURE!r}, dtype='int8', layout='lane'>"


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="architecture"):
        Bank([3, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype"):
        Bank(ARCHITECTURE, dtype="float64")
    with pytest.raises(TypeError, match="key"):
        Bank(ARCHITECTURE, fallback=1.5)  # type: ignore[arg-type]
    bank = Bank(ARCHITECTURE)
    bank["a"] = weights(0)
    for inputs in (x(2), x(1)[:, :2], x(1)[0], np.full((1, 3), "s")):
        with pytest.raises((TypeError, ValueError)):
            bank.predict(["a"], inputs)
    assert issubclass(mlpbank.UnknownModelError, KeyError)


def test_an_error_leaves_out_as_it_was() -> None:
    bank = Bank(ARCHITECTURE)
    bank["a"] = weights(0)
    for missing in ("nan", "error", "fallback"):
        out = np.full((2, 2), 7, np.float32)
        with pytest.raises((ValueError, UnknownModelError)):
            bank.predict(["a", "none"], x(2), missing=missing, out=out, num_threads=0)
        assert (out == 7).all()


def test_pickles_keep_the_engine() -> None:
    bank = Bank(ARCHITECTURE, engine=Engine(num_threads=1, isa="portable"))
    bank["a"] = weights(0)
    copied = pickle.loads(pickle.dumps(bank))
    assert (copied.engine.num_threads, copied.engine.isa) == (1, "portable")


def test_scalers_of_one_model_and_of_each() -> None:
    """Added or stacked, with either scaler or both: a model answers in the units of its outputs."""
    every = [weights(i) for i in range(3)]
    stacked = {name: np.stack([w[name] for w in every]) for name in every[0]}
    rng = np.random.default_rng(5)
    before, after = ((rng.normal(size=(3, n)), rng.uniform(1, 2, size=(3, n))) for n in (3, 2))
    inputs = x(4)
    both = {"input_scaler": before, "output_scaler": after}
    for names in (["input_scaler"], ["output_scaler"], list(both)):
        scaled = {name: both[name] for name in names}
        bank = Bank.from_stacked([0, 1, 2], ARCHITECTURE, stacked, **scaled)
        for i in range(3):
            own = {name: (mean[i], scale[i]) for name, (mean, scale) in scaled.items()}
            bank.add(10 + i, every[i], **own)
            mean, scale = own.get("input_scaler", (0, 1))
            expected = alone(i, (inputs - mean) / scale)
            mean, scale = own.get("output_scaler", (0, 1))
            for key in (i, 10 + i):
                np.testing.assert_allclose(
                    bank.predict(key, inputs), expected * scale + mean, rtol=1e-4, atol=1e-4
                )


def test_int8_with_an_input_scaler_is_warned_of() -> None:
    bank = Bank(ARCHITECTURE, dtype="int8")
    with pytest.warns(UserWarning, match="int8 weights lose accuracy"):
        bank.add("a", weights(0), input_scaler=(0.0, [1.0, 100.0, 0.01]))


def test_missing_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="missing: expected one of"):
        Bank(Architecture.mlp(2, 1)).predict(["a"], [[1, 2]], missing=np.zeros(2))  # type: ignore[arg-type]
