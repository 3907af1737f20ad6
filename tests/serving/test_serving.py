"""MicroBatcher: many tasks, one call. Each gets its own answer or its own error."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import mlpbank
from batching import ARCHITECTURE, MODELS, make_bank, outcomes, row, run
from cases import one_model, random_weights
from mlpbank import Architecture, Bank, UnknownModelError
from mlpbank.serving import MicroBatcher
from mlpbank.typing import Missing


@pytest.fixture
def bank() -> Bank:
    return make_bank()


@pytest.fixture(params=["inline", "worker"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Compute in the thread of the event loop, or in the worker."""
    return {"inline_work": 2**40 if request.param == "inline" else 0}


@pytest.mark.parametrize(
    "shapes", [[()], [(), (1,), (7,), (), (0,), (300,)]], ids=["single", "any"]
)
def test_rows_of_all_models_in_one_batch_have_the_bits_of_predict(
    bank: Bank, options: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    asked = [(f"model-{i % MODELS}", row(i, *shapes[i % len(shapes)])) for i in range(200)]

    async def main() -> tuple[list[Any], int]:
        async with MicroBatcher(
            bank, max_batch=10**6, max_queue=10**6, max_wait=60, **options
        ) as batcher:
            answers = await asyncio.gather(*(batcher.predict(key, x) for key, x in asked))
            return answers, batcher.statistics().batches

    answers, batches = run(main())
    assert batches == 1
    for (key, x), y in zip(asked, answers, strict=True):
        expected = bank.predict(key, x)
        assert y.dtype == np.float32
        assert y.shape == expected.shape
        assert np.array_equal(y, expected)


@pytest.mark.parametrize("x", [[1, 2, 3, 4, 5], (0.5,) * 5, np.arange(5), np.ones((2, 10))[:, ::2]])
def test_whatever_predict_takes(bank: Bank, x: Any) -> None:
    async def main() -> Any:
        async with MicroBatcher(bank) as batcher:
            return await batcher.predict("model-3", x)

    assert np.array_equal(run(main()), bank.predict("model-3", x))


def test_int_keys_and_fallback() -> None:
    weights = random_weights(ARCHITECTURE, 3, np.random.default_rng(0))
    bank = Bank.from_stacked([10, 20, 30], ARCHITECTURE, weights, fallback=10)

    async def main() -> list[Any]:
        async with MicroBatcher(bank) as batcher:
            keys: list[Any] = [20, np.int64(30), 99, "20", True]
            return await outcomes(*(batcher.predict(key, row()) for key in keys))

    *answers, of_str, of_bool = run(main())
    assert np.array_equal(answers, bank.predict([20, 30, 10], np.tile(row(), (3, 1))))
    assert isinstance(of_str, TypeError)
    assert isinstance(of_bool, TypeError)


@pytest.mark.parametrize("missing", [None, "error", "nan", "fallback"])
@pytest.mark.parametrize("with_fallback", [False, True])
@pytest.mark.parametrize("kind", [str, int])
def test_missing_means_what_it_means_to_the_bank(
    missing: Missing | None,
    with_fallback: bool,
    kind: type[str] | type[int],
    options: dict[str, Any],
) -> None:
    weights = random_weights(ARCHITECTURE, 3, np.random.default_rng(0))
    known = [kind(10), kind(20), kind(30)]
    fallback = known[1] if with_fallback else None
    bank = Bank.from_stacked(known, ARCHITECTURE, weights, fallback=fallback)
    asked: list[tuple[Any, Any]] = [
        (kind(10), row(0)),
        (kind(99), row(1)),
        (kind(98), row(2, 4)),
        (kind(97), row(3, 0)),
        (kind(30), row(4, 2)),
    ]

    def by_bank(key: Any, x: Any) -> Any:
        try:
            return bank.predict(key, x, missing=missing)
        except UnknownModelError as error:
            return error

    async def main() -> list[Any]:
        async with MicroBatcher(bank, **options) as batcher:
            return await outcomes(*(batcher.predict(key, x, missing=missing) for key, x in asked))

    for (key, x), answer in zip(asked, run(main()), strict=True):
        expected = by_bank(key, x)
        if isinstance(expected, UnknownModelError):
            assert isinstance(answer, UnknownModelError)
            assert answer.keys == expected.keys
        else:
            assert answer.dtype == np.float32
            assert np.array_equal(answer, expected, equal_nan=True)


def test_requests_of_one_batch_differ_in_missing(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = random_weights(ARCHITECTURE, 2, np.random.default_rng(0))
    bank = Bank.from_stacked([1, 2], ARCHITECTURE, weights, fallback=2)
    predict = bank.predict
    calls: list[tuple[list[int], Missing | None]] = []

    def noted(keys: Any, x: Any, *, missing: Missing | None = None, **options: Any) -> Any:
        calls.append((list(keys), missing))
        return predict(keys, x, missing=missing, **options)

    monkeypatch.setattr(bank, "predict", noted)

    async def main() -> list[Any]:
        async with MicroBatcher(bank, max_wait=60, **options) as batcher:
            return await outcomes(
                batcher.predict(7, row(0)),
                batcher.predict(7, row(0), missing="nan"),
                batcher.predict(8, row(1)),
                batcher.predict(7, row(0), missing="fallback"),
                batcher.predict(1, row(2), missing="nan"),
            )

    default, nan, other, fallback, known = run(main())
    assert calls == [([7, 8], None), ([7, 1], "nan"), ([7], "fallback")]
    assert np.array_equal(default, predict(2, row(0)))
    assert np.array_equal(fallback, default)
    assert np.isnan(nan).all()
    assert np.array_equal(other, predict(2, row(1)))
    assert np.array_equal(known, predict(1, row(2)))


def test_wrong_missing_fails_alone(bank: Bank, options: dict[str, Any]) -> None:
    wrong: list[Any] = ["ignore", "", 0, ["nan"]]

    async def main() -> list[Any]:
        async with MicroBatcher(bank, **options) as batcher:
            good = batcher.predict("model-1", row())
            return await outcomes(
                good, *(batcher.predict("model-1", row(), missing=value) for value in wrong)
            )

    answer, *errors = run(main())
    assert np.array_equal(answer, bank.predict("model-1", row()))
    for error, value in zip(errors, wrong, strict=True):
        with pytest.raises(ValueError, match="missing: expected one of 'error', 'nan', 'fallback'"):
            raise error
        assert repr(value) in str(error)


def test_bad_requests_fail_alone(bank: Bank, options: dict[str, Any]) -> None:
    bad: list[tuple[Any, Any, type[Exception], str]] = [
        ("nobody", row(), UnknownModelError, r"no such model: 'nobody' \(1 of 1 keys\)"),
        ("somebody", row(0, 2), UnknownModelError, "no such model: 'somebody'"),
        ("model-1", row()[:4], ValueError, r"x: expected shape \(5,\) or \(rows, 5\), got \(4,\)"),
        ("model-1", np.ones((2, 4)), ValueError, r"got \(2, 4\)"),
        ("model-1", np.ones((1, 1, 5)), ValueError, r"got \(1, 1, 5\)"),
        ("model-1", 3.0, ValueError, r"got \(\)"),
        ("model-1", ["a"] * 5, TypeError, "x: expected real numbers"),
        (7, row(), TypeError, "key: expected str"),
        (b"a", row(), TypeError, "key: expected a str, an int or a tuple of them"),
        (None, row(), UnknownModelError, "missing key"),
        ("\ud800", row(), Exception, "ud800"),
    ]

    async def main() -> tuple[list[Any], list[Any]]:
        async with MicroBatcher(bank, max_wait=60, **options) as batcher:
            good = [batcher.predict(f"model-{i}", row(i)) for i in range(20)]
            results = await outcomes(*(batcher.predict(key, x) for key, x, *_ in bad), *good)
            assert batcher.statistics().batches == 1
            return results[: len(bad)], results[len(bad) :]

    errors, answers = run(main())
    for error, (_, _, kind, message) in zip(errors, bad, strict=True):
        with pytest.raises(kind, match=message):
            raise error
    assert np.array_equal(answers, [bank.predict(f"model-{i}", row(i)) for i in range(20)])


def test_error_of_the_computation_itself_fails_alone(
    bank: Bank, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = bank.predict

    def poisoned(keys: Any, x: Any, **options: Any) -> Any:
        if "model-5" in keys:
            raise MemoryError("poison")
        return predict(keys, x, **options)

    monkeypatch.setattr(bank, "predict", poisoned)

    async def main() -> list[Any]:
        async with MicroBatcher(bank, **options) as batcher:
            return await outcomes(*(batcher.predict(f"model-{i}", row(i)) for i in range(10)))

    results = run(main())
    assert isinstance(results.pop(5), MemoryError)
    assert np.array_equal(results, [predict(f"model-{i}", row(i)) for i in range(10) if i != 5])


def test_without_a_thread_the_event_loop_computes(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> Any:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            monkeypatch.setattr(threading.Thread, "start", refuse)
            return await batcher.predict("model-1", row())

    assert np.array_equal(run(main()), bank.predict("model-1", row()))


def test_another_event_loop_is_refused(bank: Bank) -> None:
    batcher = MicroBatcher(bank)
    run(batcher.predict("model-0", row()))
    with pytest.raises(RuntimeError, match="one event loop"):
        run(batcher.predict("model-0", row()))


def test_bank_is_replaced_while_requests_come(bank: Bank, options: dict[str, Any]) -> None:
    other = make_bank(Architecture.mlp(5, 4, 3), seed=9)  # another architecture inside

    async def main() -> None:
        async with MicroBatcher(bank, **options) as batcher:
            before = await batcher.predict("model-7", row())
            batcher.bank = other
            after = await batcher.predict("model-7", row())
            assert batcher.bank is other
            assert np.array_equal(before, bank.predict("model-7", row()))
            assert np.array_equal(after, other.predict("model-7", row()))
            with pytest.raises(ValueError, match="bank: expected the input and output size"):
                batcher.bank = make_bank(Architecture.mlp(5, 2))
            with pytest.raises(TypeError, match="bank: expected a Bank"):
                batcher.bank = "bank"  # type: ignore[assignment]

    run(main())


def test_models_swapped_and_deleted_under_load(bank: Bank, options: dict[str, Any]) -> None:
    """Each answer is that of one of the two revisions, or says that the model is unknown."""
    weights = [random_weights(ARCHITECTURE, MODELS, np.random.default_rng(seed)) for seed in (0, 1)]
    x = row(3)
    expected = []
    for stacked in weights:
        expected.append(
            Bank.from_stacked(list(bank), ARCHITECTURE, stacked).predict(
                list(bank), np.tile(x, (40, 1))
            )
        )
    stop = threading.Event()

    def change() -> None:
        rng = np.random.default_rng(5)
        while not stop.is_set():
            i, revision = int(rng.integers(MODELS)), int(rng.integers(2))
            if rng.random() < 0.2 and f"model-{i}" in bank:
                del bank[f"model-{i}"]
            bank.add(f"model-{i}", one_model(weights[revision], i))

    async def client(batcher: MicroBatcher, seed: int) -> int:
        rng = np.random.default_rng(seed)
        unknown = 0
        for i in rng.integers(MODELS, size=50).tolist():
            (y,) = await outcomes(batcher.predict(f"model-{i}", x))
            if isinstance(y, UnknownModelError):
                assert y.keys == [f"model-{i}"]
                unknown += 1
            else:
                assert np.array_equal(y, expected[0][i]) or np.array_equal(y, expected[1][i])
        return unknown

    async def main() -> None:
        async with MicroBatcher(bank, **options) as batcher:
            counts = await asyncio.gather(*(client(batcher, seed) for seed in range(32)))
            statistics = batcher.statistics()
            assert statistics.requests == 32 * 50
            assert statistics.failed == sum(counts)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        run(main())
    finally:
        stop.set()
        changer.join()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_batch": 0}, ValueError),
        ({"max_batch": 1.5}, TypeError),
        ({"max_queue": 0}, ValueError),
        ({"max_wait": -1}, ValueError),
        ({"max_wait": float("nan")}, ValueError),
        ({"inline_work": -1}, ValueError),
        ({"bank": mlpbank}, TypeError),
    ],
)
def test_options_that_make_no_sense(
    bank: Bank, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{next(iter(options))}: expected"):
        MicroBatcher(**{"bank": bank, **options})


class Holder:
    """Gives its own array, as some containers do."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("kind", [np.asarray, memoryview, Holder])
def test_rows_may_be_changed_while_they_wait(
    bank: Bank, options: dict[str, Any], shape: Any, kind: Any
) -> None:
    """Callers share one buffer: each answer is of the rows at the time of its call."""
    rows = [row(i, *shape) for i in range(20)]

    async def main() -> list[Any]:
        buffer = np.empty_like(rows[0])
        view = kind(buffer)
        async with MicroBatcher(bank, max_batch=10**6, max_queue=10**6, **options) as batcher:
            waiting = []
            for x in rows:
                buffer[...] = x
                # Has not run yet when the buffer changes.
                waiting.append(asyncio.ensure_future(batcher.predict("model-1", view)))
            buffer[...] = np.nan
            return await asyncio.gather(*waiting)

    for x, y in zip(rows, run(main()), strict=True):
        assert np.array_equal(y, bank.predict("model-1", x))


@pytest.mark.parametrize("gap", [1, 2])
def test_times_of_a_clock_that_stands_still_in_between(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, gap: int
) -> None:
    """A request at 100, its batch at 100 + gap, its answer at 100 + 4 gap; max_wait is longer."""
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    predict = Bank.predict

    def slow(*args: Any, **options: Any) -> Any:
        nonlocal now
        now += 3 * gap
        return predict(*args, **options)

    async def main() -> Any:
        nonlocal now
        async with MicroBatcher(bank, max_wait=1000, inline_work=2**40) as batcher:
            first = asyncio.ensure_future(batcher.predict("model-1", row()))
            await asyncio.sleep(0)
            now += gap
            monkeypatch.setattr(Bank, "predict", slow)
            await first
            return batcher.statistics()

    statistics = run(main())
    assert statistics.queue_seconds.max == gap
    assert statistics.compute_seconds.max == 3 * gap
    assert statistics.latency_seconds.max == 4 * gap


def test_quantiles_are_those_of_the_latest_samples() -> None:
    from mlpbank.serving._statistics import _SAMPLES, Window

    for before in (0, 1, _SAMPLES - 3, _SAMPLES, 3 * _SAMPLES + 5):
        window = Window()
        window.add([-1.0] * (before % 1000))
        for i in range(before - before % 1000):
            window.add([float(-2 - i)])
        window.add(np.arange(10.0) + 1000)
        assert window.quantiles().max == 1009
        window.add(np.arange(_SAMPLES - 4) + 1.0)
        assert window.quantiles().max == max(1009, _SAMPLES - 4)
        window.add(np.full(_SAMPLES, 7.0))
        found = window.quantiles()
        assert (found.p50, found.max) == (7, 7)
