"""MicroBatcher's queue: waiting, refusing, the contents of a batch, closing and counts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any

import numpy as np
import pytest

from batching import Gate, make_bank, outcomes, row, run, tick
from mlpbank import Bank
from mlpbank.serving import MicroBatcher, QueueFullError


@pytest.fixture
def bank() -> Bank:
    return make_bank()


def test_requests_that_were_cancelled_are_not_computed(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            first = asyncio.create_task(batcher.predict("model-0", row()))
            await gate.someone_is_inside()
            waiting = [
                asyncio.create_task(batcher.predict(f"model-{i}", row(i))) for i in range(1, 5)
            ]
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
            assert [type(r) is asyncio.CancelledError for r in results] == [
                True,
                False,
                True,
                False,
                False,
            ]
            assert gate.calls == [["model-0"], ["model-1", "model-3", "model-4"]]
            assert np.array_equal(results[4], bank.predict("model-4", row(4)))
            statistics = batcher.statistics()
            assert (statistics.cancelled, statistics.waiting, statistics.failed) == (3, 0, 0)

    run(main())


def test_cancelling_just_after_the_answer_leaves_nothing_behind(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with MicroBatcher(bank, max_batch=2) as batcher:
            unlucky = asyncio.create_task(batcher.predict("nobody", row()))
            lucky = asyncio.create_task(batcher.predict("model-1", row()))  # fills the batch
            # Runs after the batch and before the task gets its answer.
            asyncio.get_running_loop().call_soon(unlucky.cancel)
            assert (await lucky).shape == (3,)
            assert isinstance((await outcomes(unlucky))[0], asyncio.CancelledError)

    run(main())
    gc.collect()
    assert caplog.text == ""


def test_full_queue_refuses_until_there_is_room(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, max_queue=4, inline_work=0) as batcher:
            accepted = [asyncio.create_task(batcher.predict("model-0", row()))]
            await gate.someone_is_inside()
            accepted += [
                asyncio.create_task(batcher.predict(f"model-{i}", row(i, 2))) for i in (1, 2)
            ]
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
            # More than fits, but alone.
            assert (await batcher.predict("model-3", row(0, 9))).shape == (9, 3)
            assert batcher.statistics().refused == 2

    run(main())


def test_batches_hold_at_most_max_batch_rows_and_keep_the_order(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(bank, monkeypatch)
    gate.open()
    rows = [3, 3, 4, 10, 1, 25, 9, 2]  # of requests, in this order

    async def main() -> None:
        async with MicroBatcher(bank, max_batch=10, inline_work=0, max_wait=60) as batcher:
            await asyncio.gather(
                *(batcher.predict(f"model-{i}", row(i, n)) for i, n in enumerate(rows))
            )
            assert batcher.statistics().batch_rows.max == 25

    run(main())
    assert [key for call in gate.calls for key in dict.fromkeys(call)] == [
        f"model-{i}" for i in range(len(rows))
    ]
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


def test_closing_answers_what_was_accepted_and_refuses_the_rest(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("mlpbank-batcher")
    ]


@pytest.mark.parametrize("inline_work", [0, 2**40])
def test_leaving_the_block_by_an_error_still_answers(bank: Bank, inline_work: int) -> None:
    async def main() -> Any:
        task = None
        with contextlib.suppress(KeyError):
            async with MicroBatcher(bank, max_wait=60, inline_work=inline_work) as batcher:
                task = asyncio.create_task(batcher.predict("model-1", row()))
                await asyncio.sleep(0)
                raise KeyError("mine")
        assert task is not None
        return await task

    assert np.array_equal(run(main()), bank.predict("model-1", row()))


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
