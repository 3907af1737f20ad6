"""A live bank answers as a plain one with the same models does, to the last bit, in every call."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import DTYPES, LAYOUTS, assert_same_bits, random_weights
from live_folders import KEYS, live
from mlpbank import Architecture, Bank, LiveBank, MlpbankError, UnknownModelError
from mlpbank.serving import MicroBatcher

pytestmark = pytest.mark.usefixtures("followed")
ARCH = Architecture.mlp(3, 5, 2, activation="tanh")
X = np.random.default_rng(5).standard_normal((60, 3)).astype(np.float32)


class Twins:
    """A plain bank, and a live one that was given the same models in the same order.

    Some of the live one's models are in its base, some came by changes, some through another
    process's connection; one slot is free.
    """

    def __init__(self, folder: Path, kind: str, **how: Any) -> None:
        more = {
            "str": ["e", "ü" * 40, "g"],
            "int": [1, 2, 3],
            "tuple": [("é", 1), ("e", 2), ("", 3)],
        }
        self.keys: list[Any] = [*KEYS[kind], *more[kind]]
        self.unknown: Any = {"str": "none", "int": 99, "tuple": ("none", 9)}[kind]
        rng = np.random.default_rng(1)
        self.models = {
            key: {name: array[0] for name, array in random_weights(ARCH, 1, rng).items()}
            for key in self.keys
        }
        self.plain = Bank(ARCH, **how)
        for key in self.keys[:4]:
            self.plain.add(key, self.models[key], version="v1")
        self.plain.save(folder, live=True)
        self.live = live(Bank.open(folder))
        self.writer = live(Bank.open(folder, writable=True))
        for bank in (self.plain, self.writer):
            for key in self.keys[4:]:
                bank.add(key, self.models[key], version=None)
            bank.add(self.keys[0], self.models[self.keys[1]], version="v2")
            del bank[self.keys[2]]
        self.keys.pop(2)


@pytest.fixture(params=["str", "int", "tuple"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of keys."""
    return str(request.param)


@pytest.fixture
def twins(tmp_path: Path, kind: str, layout: str) -> Twins:
    """Twins of each kind of keys and each layout."""
    return Twins(tmp_path / "bank.live", kind, layout=layout)


def both(twins: Twins, call: Any) -> None:
    """Check that a call gives the same on both."""
    expected, actual = call(twins.plain), call(twins.live)
    if isinstance(expected, np.ndarray) and expected.dtype == np.float32:
        assert_same_bits(actual, expected)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected


def both_refuse(twins: Twins, call: Any) -> None:
    """Check that a call gives the same error on both."""
    errors = []
    for bank in (twins.plain, twins.live):
        with pytest.raises(MlpbankError) as caught:
            call(bank)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_predict_one_and_many(twins: Twins) -> None:
    keys = twins.keys
    picked = [keys[i % len(keys)] for i in range(60)]
    for key in keys:
        both(twins, lambda bank, key=key: bank.predict(key, X[0]))
        both(twins, lambda bank, key=key: bank.predict(key, X))
    both(twins, lambda bank: bank.predict(keys, X[: len(keys)]))
    both(twins, lambda bank: bank.predict(picked, X))
    both(twins, lambda bank: bank.predict(picked, X.astype(np.float64)))
    both(twins, lambda bank: bank.predict(picked, X.tolist()))
    both(twins, lambda bank: bank.predict(picked, X, num_threads=1))
    both(twins, lambda bank: bank.predict(picked[:20], X.reshape(20, 3, 3)))
    both(twins, lambda bank: bank.predict([], X[:0]))
    if type(keys[0]) is not tuple:
        both(twins, lambda bank: bank.predict(np.array(picked), X))
    out = np.full((60, 2), np.nan, np.float32)
    assert twins.live.predict(picked, X, out=out) is out
    assert_same_bits(out, twins.plain.predict(picked, X))


def test_missing(twins: Twins) -> None:
    keys = [twins.keys[0], twins.unknown, None, twins.keys[3]]

    def calls(check: Any, missing: Any) -> None:
        check(twins, lambda bank: bank.predict(keys, X[:4], missing=missing))
        check(twins, lambda bank: bank.predict(twins.unknown, X[0], missing=missing))
        check(twins, lambda bank: bank.predict(twins.unknown, X, missing=missing))

    calls(both_refuse, "error")
    calls(both_refuse, "fallback")
    calls(both_refuse, None)
    calls(both, "nan")
    for bank in (twins.plain, twins.writer):
        bank.fallback = twins.keys[3]
    both(twins, lambda bank: bank.fallback)
    both(twins, lambda bank: bank.sources(keys))
    calls(both_refuse, "error")
    calls(both, "fallback")
    calls(both, None)
    calls(both, "nan")
    for bank in (twins.plain, twins.writer):
        bank.fallback = None
    calls(both_refuse, None)


def test_bad_arguments_are_refused_alike(twins: Twins) -> None:
    other: Any = 5 if isinstance(twins.keys[0], str) else "text"
    both_refuse(twins, lambda bank: bank.predict(other, X[0]))
    both_refuse(twins, lambda bank: bank.predict([other], X[:1]))
    both_refuse(twins, lambda bank: bank.predict(1.5, X[0]))
    both_refuse(twins, lambda bank: bank.predict(twins.keys[:2], X[:3]))
    both_refuse(twins, lambda bank: bank.predict(twins.keys[0], X[:, :2]))
    both_refuse(twins, lambda bank: bank.predict(twins.keys[0], X[0], missing="maybe"))
    both_refuse(twins, lambda bank: bank.predict_handles(["x"], X[:1]))
    both_refuse(twins, lambda bank: bank.predict_handles([2**62], X[:1]))
    both_refuse(twins, lambda bank: bank.handles([twins.unknown]))
    both_refuse(twins, lambda bank: bank.info(twins.unknown))
    both_refuse(twins, lambda bank: bank[twins.unknown])
    before = twins.writer.sequence
    right = twins.models[twins.keys[0]]
    wrong = {"layer_0": np.zeros((3, 5)), "layer_1": np.zeros((9, 2))}

    def set_to(name: str, value: Any) -> Any:
        return lambda bank: setattr(bank, name, value)

    changes = [
        lambda bank: bank.__setitem__(other, right),
        lambda bank: bank.__setitem__(twins.keys[0], wrong),
        lambda bank: bank.update({other: right}),
        lambda bank: bank.update({twins.keys[0]: wrong}),
        lambda bank: bank.update(Bank(Architecture.mlp(3, 5, 2))),
        lambda bank: bank.add(twins.keys[0], right, version=7),
        lambda bank: bank.add(
            twins.keys[0], {**right, "layer_1.bias": [np.inf, 0]}, check_finite=True
        ),
        set_to("fallback", other),
        set_to("metadata", {"x": math.nan}),
        set_to("metadata", "text"),
        lambda bank: bank.__delitem__(twins.unknown),
        lambda bank: bank.pop(twins.unknown),
    ]
    twins.live, follower = twins.writer, twins.live
    for change in changes:
        both_refuse(twins, change)
    assert twins.writer.sequence == follower.sequence == before
    both(twins, lambda bank: bank.predict(twins.keys, X[: len(twins.keys)]))


def test_handles(twins: Twins) -> None:
    keys = [*twins.keys, *twins.keys]
    handles = twins.live.handles(keys)
    x = X[: len(keys)]
    expected = twins.plain.predict(keys, x)
    assert_same_bits(twins.live.predict_handles(handles, x), expected)
    assert_same_bits(
        twins.live.predict_handles(handles[:1], X[None]), twins.plain.predict(keys[:1], X[None])
    )
    out = np.empty_like(expected)
    assert twins.live.predict_handles(handles, x, out=out, num_threads=1) is out
    assert_same_bits(out, expected)
    np.testing.assert_array_equal(twins.writer.handles(keys), handles)
    with pytest.raises(UnknownModelError):
        twins.live.handles([twins.unknown])


def test_tables(twins: Twins) -> None:
    if isinstance(twins.keys[0], tuple):
        columns = {"k": [key[0] for key in twins.keys], "l": [key[1] for key in twins.keys]}
    else:
        columns = {"k": twins.keys}
    key: Any = list(columns) if len(columns) > 1 else "k"
    n = len(twins.keys)
    data = {**columns, **{f"x{i}": X[:n, i] for i in range(3)}}
    features = ["x0", "x1", "x2"]
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(data)
    for table in (frame, polars.DataFrame(data), arrow.table(data)):
        results = [
            bank.predict_frame(table, key=key, features=features)
            for bank in (twins.plain, twins.live)
        ]
        expected, actual = (np.asarray(result) for result in results)
        np.testing.assert_array_equal(actual, expected)
        assert type(results[0]) is type(results[1])
    parts = [frame[:2], frame[2:]]
    expected, actual = (
        np.concatenate(
            [np.asarray(y) for y in bank.predict_stream(iter(parts), key=key, features=features)]
        )
        for bank in (twins.plain, twins.live)
    )
    np.testing.assert_array_equal(actual, expected)


def test_a_stream_sees_changes_between_its_tables(twins: Twins) -> None:
    pandas = pytest.importorskip("pandas")
    if isinstance(twins.keys[0], tuple):
        return
    key = twins.keys[0]
    frame = pandas.DataFrame({"k": [key], "x0": [1.0], "x1": [2.0], "x2": [3.0]})

    def tables() -> Any:
        yield frame
        yield frame
        twins.writer[key] = twins.models[twins.keys[3]]
        yield frame

    results = [
        np.asarray(y)
        for y in twins.live.predict_stream(tables(), key="k", features=["x0", "x1", "x2"])
    ]
    assert len(results) == 3
    np.testing.assert_array_equal(results[2], [twins.plain.predict(twins.keys[3], [1.0, 2.0, 3.0])])


def test_looking(twins: Twins) -> None:
    both(twins, lambda bank: sorted(bank))
    both(twins, lambda bank: len(bank))
    both(twins, lambda bank: sorted(bank.keys()))
    for key in [*twins.keys, twins.unknown]:
        both(twins, lambda bank, key=key: key in bank)
        both(twins, lambda bank, key=key: bank.get(key) is None)
    for key in twins.keys:
        both(twins, lambda bank, key=key: {n: a.tolist() for n, a in bank[key].items()})
        infos = [bank.info(key) for bank in (twins.plain, twins.live)]
        assert len({(info.key, info.version, info.revision) for info in infos}) == 1
        assert twins.live.info(key) == twins.writer.info(key)
    for name in ("architecture", "dtype", "layout", "key_type", "metadata", "input_shift"):
        both(twins, lambda bank, name=name: getattr(bank, name))
    for name in ("feature_names", "classes"):
        both(twins, lambda bank, name=name: getattr(bank, name))
    assert twins.live.nbytes > 0
    assert repr(twins.live).startswith(f"<LiveBank of {len(twins.keys)} at {twins.live.sequence}: ")
    assert isinstance(twins.live, LiveBank)
    assert twins.live != twins.writer


def test_keeping(twins: Twins, tmp_path: Path) -> None:
    twins.live.save(tmp_path / "bank.mlpbank")
    twins.live.to_safetensors(tmp_path / "bank.safetensors")
    twins.live.save(tmp_path / "copy.live", live=True)
    made = [
        Bank.open(tmp_path / "bank.mlpbank"),
        Bank.open(tmp_path / "copy.live"),
        Bank.from_stacked(*twins.live.to_stacked(), layout=twins.live.layout),
        Bank.from_safetensors(tmp_path / "bank.safetensors"),
        Bank(ARCH, layout=twins.live.layout),
    ]
    made[-1].update(twins.live)
    for bank in made:
        assert sorted(bank) == sorted(twins.keys)  # type: ignore[type-var]
        x = X[: len(twins.keys)]
        assert_same_bits(bank.predict(twins.keys, x), twins.plain.predict(twins.keys, x))
    for bank in made[:2]:
        for key in twins.keys:
            assert bank.info(key) == twins.live.info(key)


def test_asyncio(twins: Twins) -> None:
    async def main() -> None:
        x = X[: len(twins.keys)]
        expected = twins.plain.predict(twins.keys, x)
        assert_same_bits(await twins.live.apredict(twins.keys, x), expected)
        async with MicroBatcher(twins.live) as batcher:
            calls = [batcher.predict(key, row) for key, row in zip(twins.keys, x, strict=True)]
            assert_same_bits(np.stack(await asyncio.gather(*calls)), expected)
            first = twins.keys[0]
            twins.writer[first] = twins.models[twins.keys[3]]
            assert_same_bits(
                await batcher.predict(first, X[0]), twins.plain.predict(twins.keys[3], X[0])
            )
            del twins.writer[first]
            with pytest.raises(UnknownModelError):
                await batcher.predict(first, X[0])

    asyncio.run(main())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype(tmp_path: Path, dtype: Any, layout: Any) -> None:
    twins = Twins(tmp_path / "bank.live", "str", dtype=dtype, layout=layout)
    x = X[: len(twins.keys)]
    for _ in range(2):
        both(twins, lambda bank: bank.predict(twins.keys, x))
        both(twins, lambda bank: bank.predict(twins.keys[0], X))
        for key in twins.keys:
            both(twins, lambda bank, key=key: {n: a.tolist() for n, a in bank[key].items()})
        both(twins, lambda bank: bank.dtype)
        twins.writer.compact()
    twins.live.save(tmp_path / "bank.mlpbank")
    assert_same_bits(
        Bank.open(tmp_path / "bank.mlpbank").predict(twins.keys, x),
        twins.plain.predict(twins.keys, x),
    )


def test_after_compaction_and_after_opening_again(twins: Twins) -> None:
    x = X[: len(twins.keys)]
    handles = twins.live.handles(twins.keys)
    expected = twins.plain.predict(twins.keys, x)
    twins.writer.compact()
    again = Bank.open(twins.live.path)
    for bank in (twins.live, twins.writer, again):
        assert_same_bits(bank.predict(twins.keys, x), expected)
        assert_same_bits(bank.predict_handles(handles, x), expected)
        assert sorted(bank) == sorted(twins.keys)  # type: ignore[type-var]
        for key in twins.keys:
            assert bank.info(key) == twins.writer.info(key)
