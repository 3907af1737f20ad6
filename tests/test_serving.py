"""MicroBatcher: many tasks, one call; each gets its own answer or its own error, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

import mlpbank
from cases import one_model, random_weights
from mlpbank import Architecture, Bank, UnknownModelError
from mlpbank.serving import MicroBatcher, QueueFullError

T = TypeVar("T")
Float32Array = np.ndarray[Any, np.dtype[np.float32]]
ARCHITECTURE = Architecture.mlp(5, 8, 3, activation="tanh")
MODELS = 40


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or fail after a time that no loaded machine needs."""

    async def limited() -> T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(limited(), debug=False)


def make_bank(architecture: Architecture = ARCHITECTURE, seed: int = 0) -> Bank:
    weights = random_weights(architecture, MODELS, np.random.default_rng(seed))
    return Bank.from_stacked([f"model-{i}" for i in range(MODELS)], architecture, weights)


@pytest.fixture
def bank() -> Bank:
    return make_bank()


@pytest.fixture(params=["inline", "worker"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Compute in the thread of the event loop, or in the worker."""
    return {"inline_work": 2**40 if request.param == "inline" else 0}


class Gate:
    """Holds the predictions of a bank, which run in the worker, until it is opened."""

    def __init__(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.calls: list[list[str]] = []
        self._open = threading.Event()
        predict = bank.predict

        def held(keys: Any, x: Any, **options: Any) -> Any:
            self.calls.append(list(keys))
            self.entered.release()
            assert self._open.wait(60)
            return predict(keys, x, **options)

        monkeypatch.setattr(bank, "predict", held)

    async def someone_is_inside(self) -> None:
        await asyncio.to_thread(self.entered.acquire)

    def open(self) -> None:
        self._open.set()


def row(seed: int = 0, *shape: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((*shape, 5)).astype(np.float32)


async def outcomes(*awaitables: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


async def tick() -> None:
    """Let everything that is ready run a few times."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("shapes", [[()], [(), (1,), (7,), (), (0,), (300,)]], ids=["single", "any"])
def test_rows_of_all_models_in_one_batch_have_the_bits_of_predict(
    bank: Bank, options: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    asked = [(f"model-{i % MODELS}", row(i, *shapes[i % len(shapes)])) for i in range(200)]

    async def main() -> tuple[list[Any], int]:
        async with MicroBatcher(bank, max_batch=10**6, max_queue=10**6, max_wait=60, **options) as batcher:
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
            return await outcomes(*(batcher.predict(key, row()) for key in (20, np.int64(30), 99, "20", True)))

    *answers, of_str, of_bool = run(main())
    assert np.array_equal(answers, bank.predict([20, 30, 10], np.tile(row(), (3, 1))))
    assert isinstance(of_str, TypeError)
    assert isinstance(of_bool, TypeError)


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
        (None, row(), TypeError, "key: expected a str or an int"),
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


def test_requests_that_were_cancelled_are_not_computed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            first = asyncio.create_task(batcher.predict("model-0", row()))
            await gate.someone_is_inside()
            waiting = [asyncio.create_task(batcher.predict(f"model-{i}", row(i))) for i in range(1, 5)]
            await tick()
            assert batcher.statistics().waiting == 4
            waiting[1].cancel()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(batcher.predict("model-6", row()), 0.01)
            await tick()
            assert batcher.statistics().waiting == 3
            first.cancel()  # while it is computed
            gate.open()
            results = await outcomes(first, *waiting)
            assert [type(r) is asyncio.CancelledError for r in results] == [True, False, True, False, False]
            assert gate.calls == [["model-0"], ["model-1", "model-3", "model-4"]]
            assert np.array_equal(results[4], bank.predict("model-4", row(4)))
            statistics = batcher.statistics()
            assert (statistics.cancelled, statistics.waiting, statistics.failed) == (3, 0, 0)

    run(main())


def test_cancelling_just_after_the_answer_leaves_nothing_behind(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with MicroBatcher(bank, max_batch=2) as batcher:
            unlucky = asyncio.create_task(batcher.predict("nobody", row()))
            await asyncio.sleep(0)
            lucky = asyncio.create_task(batcher.predict("model-1", row()))
            asyncio.get_running_loop().call_soon(unlucky.cancel)  # runs after the batch, before the task hears of it
            assert (await lucky).shape == (3,)
            assert isinstance((await outcomes(unlucky))[0], asyncio.CancelledError)

    run(main())
    gc.collect()
    assert caplog.text == ""


def test_full_queue_refuses_until_there_is_room(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, max_queue=4, inline_work=0) as batcher:
            accepted = [asyncio.create_task(batcher.predict("model-0", row()))]
            await gate.someone_is_inside()
            accepted += [asyncio.create_task(batcher.predict(f"model-{i}", row(i, 2))) for i in (1, 2)]
            await tick()
            with pytest.raises(QueueFullError, match=r"^queue is full: 4 of at most 4 rows wait$"):
                await batcher.predict("model-3", row())
            accepted.pop().cancel()
            await tick()
            accepted += [asyncio.create_task(batcher.predict(f"model-{i}", row(i))) for i in (4, 5)]
            await tick()
            with pytest.raises(QueueFullError):
                await batcher.predict("model-6", row())
            gate.open()
            assert [y.shape for y in await asyncio.gather(*accepted)] == [(3,), (2, 3), (3,), (3,)]
            assert (await batcher.predict("model-3", row(0, 9))).shape == (9, 3)  # more than fits, but alone
            assert batcher.statistics().refused == 2

    run(main())


def test_batches_hold_at_most_max_batch_rows_and_keep_the_order(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)
    gate.open()
    rows = [3, 3, 4, 10, 1, 25, 9, 2]  # of requests, in this order

    async def main() -> None:
        async with MicroBatcher(bank, max_batch=10, inline_work=0, max_wait=60) as batcher:
            await asyncio.gather(*(batcher.predict(f"model-{i}", row(i, n)) for i, n in enumerate(rows)))
            assert batcher.statistics().batch_rows.max == 25

    run(main())
    assert [key for call in gate.calls for key in dict.fromkeys(call)] == [f"model-{i}" for i in range(len(rows))]
    for call in gate.calls:
        assert len(call) <= 10 or len(set(call)) == 1


def test_no_request_waits_for_ever_while_others_keep_coming(bank: Bank) -> None:
    """Each pass of the loop brings a request: only max_wait ends the wait."""

    async def main() -> None:
        async with MicroBatcher(bank, max_batch=10**6, max_wait=0.01, max_queue=10**6) as batcher:
            first = asyncio.create_task(batcher.predict("model-0", row()))
            others = []
            while not first.done():
                others.append(asyncio.create_task(batcher.predict("model-1", row())))
                await asyncio.sleep(0)
            await asyncio.gather(*others)
            assert batcher.statistics().batch_rows.max > 1

    run(main())


def test_closing_answers_what_was_accepted_and_refuses_the_rest(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        batcher = MicroBatcher(bank, max_batch=3, inline_work=0, max_wait=60)
        tasks = [asyncio.create_task(batcher.predict(f"model-{i}", row(i))) for i in range(11)]
        await gate.someone_is_inside()
        closing = [asyncio.create_task(batcher.aclose()) for _ in range(2)]
        await tick()
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.predict("model-0", row())
        gate.open()
        await asyncio.gather(*closing)
        answers = await asyncio.gather(*tasks)
        assert np.array_equal(answers, [bank.predict(f"model-{i}", row(i)) for i in range(11)])
        await batcher.aclose()

    run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mlpbank-batcher")]


def test_leaving_the_block_by_an_error_still_answers(bank: Bank, options: dict[str, Any]) -> None:
    async def main() -> Any:
        task = None
        with contextlib.suppress(KeyError):
            async with MicroBatcher(bank, max_wait=60, **options) as batcher:
                task = asyncio.create_task(batcher.predict("model-1", row()))
                await asyncio.sleep(0)
                raise KeyError("mine")
        assert task is not None
        return await task

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
    """Each answer is that of one of the two generations, or says that the model is unknown."""
    weights = [random_weights(ARCHITECTURE, MODELS, np.random.default_rng(seed)) for seed in (0, 1)]
    x = row(3)
    expected = []
    for stacked in weights:
        expected.append(Bank.from_stacked(bank.keys(), ARCHITECTURE, stacked).predict(bank.keys(), np.tile(x, (40, 1))))
    stop = threading.Event()

    def change() -> None:
        rng = np.random.default_rng(5)
        while not stop.is_set():
            i, generation = int(rng.integers(MODELS)), int(rng.integers(2))
            if rng.random() < 0.2 and f"model-{i}" in bank:
                del bank[f"model-{i}"]
            bank.add(f"model-{i}", one_model(weights[generation], i))

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


def test_statistics(bank: Bank) -> None:
    async def main() -> None:
        async with MicroBatcher(bank, max_batch=8) as batcher:
            nothing = batcher.statistics()
            assert (nothing.requests, nothing.batches, nothing.latency_seconds.max) == (0, 0, 0)
            for _ in range(1500):  # more requests than quantiles are taken from
                await asyncio.gather(*(batcher.predict(f"model-{i}", row()) for i in range(8)))
            await outcomes(batcher.predict("model-1", row(0, 3)), batcher.predict("nobody", row()))
            s = batcher.statistics()
            assert (s.requests, s.rows, s.failed, s.batches) == (12002, 12004, 1, 1501)
            assert (s.cancelled, s.refused, s.waiting) == (0, 0, 0)
            assert s.batch_rows == type(s.batch_rows)(8, 8, 8, 8)
            for q in (s.queue_seconds, s.latency_seconds, s.compute_seconds):
                assert 0 <= q.p50 <= q.p90 <= q.p99 <= q.max < 60
            assert s.latency_seconds.max >= s.queue_seconds.p50

    run(main())


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
def test_options_that_make_no_sense(bank: Bank, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{next(iter(options))}: expected"):
        MicroBatcher(**{"bank": bank, **options})
