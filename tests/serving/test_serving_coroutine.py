"""What MicroBatcher.predict returns: a coroutine to its caller, a future to the caller's task."""

from __future__ import annotations

import asyncio
import asyncio.tasks
import collections.abc
import contextlib
import contextvars
import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from batching import Gate, make_bank, outcomes, row, run, tick
from mlpbank import Bank
from mlpbank.serving import MicroBatcher


@pytest.fixture
def bank() -> Bank:
    return make_bank()


async def in_thread(call: Coroutine[Any, Any, Any]) -> Any:
    future = asyncio.run_coroutine_threadsafe(call, asyncio.get_running_loop())
    return await asyncio.to_thread(future.result)


async def by_python(call: Coroutine[Any, Any, Any]) -> Any:
    """Asyncio's own task in Python, which others derive from."""
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    return await python_task(call, loop=asyncio.get_running_loop())


async def eagerly(call: Coroutine[Any, Any, Any]) -> Any:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    return await asyncio.create_task(call)


async def in_group(call: Coroutine[Any, Any, Any]) -> Any:
    if sys.version_info < (3, 11):
        return await call
    with contextlib.suppress(Exception):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call)
    return task.result()


async def itself(call: Coroutine[Any, Any, Any]) -> Any:
    return await call


@pytest.mark.parametrize(
    "wait",
    [
        itself,
        asyncio.create_task,
        asyncio.ensure_future,
        asyncio.shield,
        asyncio.gather,
        lambda call: asyncio.wait_for(call, 60),
        lambda call: asyncio.wait_for(asyncio.shield(call), 60),
        in_thread,
        by_python,
        eagerly,
        in_group,
    ],
)
@pytest.mark.parametrize("inline_work", [0, 2**40])
@pytest.mark.parametrize("x", [row(), [1, 2, 3, 4, 5]], ids=["direct", "list"])
def test_any_way_to_wait(bank: Bank, wait: Callable[..., Any], inline_work: int, x: Any) -> None:
    async def main() -> None:
        async with MicroBatcher(bank, inline_work=inline_work) as batcher:
            answers = await asyncio.gather(
                *(itself(wait(batcher.predict(f"model-{i}", x))) for i in range(3))
            )
            assert np.array_equal(
                np.reshape(answers, (3, 3)), [bank.predict(f"model-{i}", x) for i in range(3)]
            )
            failed = (await outcomes(wait(batcher.predict("nobody", x))))[0]
            assert isinstance(failed, KeyError)

    run(main())


def test_it_is_a_coroutine_and_not_yet_a_future(bank: Bank) -> None:
    call = MicroBatcher(bank).predict("model-1", row())
    assert isinstance(call, collections.abc.Coroutine)
    assert asyncio.iscoroutine(call)
    assert not asyncio.isfuture(call)
    call.close()


def test_a_task_shows_its_name(bank: Bank) -> None:
    async def main() -> None:
        async with MicroBatcher(bank) as batcher:
            task = asyncio.create_task(batcher.predict("model-1", row()))
            assert "coro=<MicroBatcher.predict()" in repr(task)
            assert task.get_stack() == []
            await task

    run(main())


def forget(call: Any) -> None:
    """Drop it."""


@pytest.mark.parametrize("x", [row(), [1, 2, 3, 4, 5]], ids=["direct", "list"])
def test_a_call_that_nobody_awaits_warns(bank: Bank, x: Any) -> None:
    batcher = MicroBatcher(bank)
    with pytest.warns(RuntimeWarning, match=r"'MicroBatcher\.predict' was never awaited"):
        forget(batcher.predict("model-1", x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batcher.predict("model-1", x).close()


def test_it_is_awaited_once_by_one_task(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            call = batcher.predict("model-1", row())
            first = asyncio.create_task(itself(call))
            await gate.someone_is_inside()
            with pytest.raises(RuntimeError, match="expected to be awaited by one asyncio task"):
                await call
            gate.open()
            assert np.array_equal(await first, bank.predict("model-1", row()))
            with pytest.raises(RuntimeError, match="cannot await one call twice"):
                await call
            closed = batcher.predict("model-1", row())
            closed.close()
            with pytest.raises(RuntimeError, match="cannot await one call twice"):
                await closed

    run(main())


def test_outside_of_a_loop_it_says_so(bank: Bank) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        MicroBatcher(bank).predict("model-1", row()).send(None)


@pytest.mark.parametrize("when", ["before it runs", "in the queue", "in the batch", "answered"])
def test_cancelling_with_a_message(bank: Bank, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0, max_batch=1) as batcher:
            other = asyncio.create_task(batcher.predict("model-0", row()))
            if when == "in the queue":
                await gate.someone_is_inside()
            caught: list[BaseException] = []

            async def ask() -> None:
                try:
                    await batcher.predict("model-1", row())
                except asyncio.CancelledError as error:
                    caught.append(error)
                    raise

            if when == "in the batch":
                other.cancel()
            task = asyncio.create_task(ask())
            if when != "before it runs":
                await tick()
            if when in ("in the batch", "answered"):
                await gate.someone_is_inside()
            if when == "answered":
                gate.open()
            task.cancel("enough")
            assert isinstance((await outcomes(task))[0], asyncio.CancelledError)
            assert [error.args for error in caught] == [("enough",)] * (when != "before it runs")
            assert batcher.statistics().waiting == 0
            gate.open()
            await outcomes(other)

    run(main())


def test_a_coroutine_that_is_closed_leaves_the_queue(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(bank, monkeypatch)

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            first = asyncio.create_task(batcher.predict("model-0", row()))
            await gate.someone_is_inside()
            outer = itself(batcher.predict("model-1", row()))
            outer.send(None)
            assert batcher.statistics().waiting == 1
            outer.close()
            thrown = itself(batcher.predict("model-1", row()))
            thrown.send(None)
            with pytest.raises(LookupError, match="mine"):
                thrown.throw(LookupError("mine"))
            assert batcher.statistics().waiting == 0
            gate.open()
            await first
            assert batcher.statistics().cancelled == 0

    run(main())


def test_each_task_goes_on_in_its_own_context(bank: Bank) -> None:
    name: contextvars.ContextVar[int] = contextvars.ContextVar("name")
    batcher = MicroBatcher(bank)

    async def ask(i: int) -> int:
        name.set(i)
        await batcher.predict(f"model-{i}", row())
        before = name.get()
        name.set(-1)
        return before

    async def main() -> None:
        async with batcher:
            assert await asyncio.gather(*map(ask, range(9))) == list(range(9))
            assert name.get(None) is None

    run(main())


def test_an_interrupt_in_one_task_leaves_the_others_their_answers(bank: Bank) -> None:
    loop = asyncio.new_event_loop()
    batcher = MicroBatcher(bank)

    async def ask(i: int) -> Any:
        answer = await batcher.predict(f"model-{i}", row(i))
        if i % 4 == 1:
            raise KeyboardInterrupt
        return answer

    tasks = [loop.create_task(ask(i)) for i in range(12)]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(asyncio.wait(tasks))
    for i, task in enumerate(tasks):
        if i % 4 == 1:
            assert isinstance(task.exception(), KeyboardInterrupt)
        else:
            assert np.array_equal(task.result(), bank.predict(f"model-{i}", row(i)))
    loop.run_until_complete(batcher.aclose())
    loop.close()


def test_others_get_their_turn_between_full_batches(bank: Bank) -> None:
    """Each request is a batch, computed at once: its task still lets the loop go on."""
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask(batcher: MicroBatcher) -> None:
        for _ in range(50):
            await batcher.predict("model-1", row())
            await batcher.predict("model-2", row())

    async def main() -> None:
        watcher = asyncio.create_task(watch())
        async with MicroBatcher(bank, max_batch=2) as batcher:
            await asyncio.gather(*(ask(batcher) for _ in range(4)))
        watcher.cancel()

    run(main())
    assert turns > 20


def test_a_woken_task_may_cancel_others(bank: Bank) -> None:
    async def main() -> None:
        async with MicroBatcher(bank) as batcher:

            async def ask(i: int) -> None:
                await batcher.predict(f"model-{i}", row())
                for task in tasks[i + 1 :]:
                    task.cancel()

            tasks = [asyncio.create_task(ask(i)) for i in range(5)]
            first, *others = await outcomes(*tasks)
            assert first is None
            assert all(isinstance(error, asyncio.CancelledError) for error in others)
            assert batcher.statistics().cancelled == 4

    run(main())


def test_many_cancelled_requests_do_not_stay(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(bank, monkeypatch)

    class Named(str):
        """A key that says when it is gone."""

    gone = 0

    def count() -> None:
        nonlocal gone
        gone += 1

    async def main() -> None:
        async with MicroBatcher(bank, inline_work=0) as batcher:
            first = asyncio.create_task(batcher.predict("model-0", row()))
            await gate.someone_is_inside()
            stays = asyncio.create_task(batcher.predict("model-1", row()))
            for _ in range(1000):
                x = row()
                key = Named("model-2")
                weakref.finalize(x, count)
                task = asyncio.create_task(batcher.predict(key, [x]))
                await asyncio.sleep(0)
                task.cancel()
                await outcomes(task)
            assert batcher.statistics().waiting == 1
            assert batcher._queue.count == 1
            gate.open()
            await asyncio.gather(first, stays)

    run(main())
    assert gone == 1000


def test_nothing_is_left_of_a_batcher(bank: Bank) -> None:
    """Also if its loop was closed while requests waited, which are in a circle with their tasks."""

    async def main() -> MicroBatcher:
        batcher = MicroBatcher(bank, max_wait=60)
        for i in range(10):
            await asyncio.gather(
                *(batcher.predict(f"model-{i}", x) for x in (row(), [1.0] * 5, row(0, 3)))
            )
        waiting = asyncio.get_running_loop().create_task(batcher.predict("model-1", row()))
        waiting.add_done_callback(lambda task: None)
        call = itself(batcher.predict("model-2", row()))
        call.send(None)
        kept.append(call)
        await asyncio.sleep(0)
        return batcher

    kept: list[Any] = []
    batcher: MicroBatcher | None = run(main())
    seen = weakref.ref(batcher)
    del batcher
    kept.clear()
    gc.collect()
    assert seen() is None


def test_references_are_counted(bank: Bank) -> None:
    key, missing = "-".join(["model", "1"]), "".join(["n", "an"])
    kept: list[Any] = [key, missing, row(), row(0, 2), bank]

    async def main() -> None:
        async with MicroBatcher(bank, max_batch=3) as batcher:
            for _ in range(100):
                await outcomes(
                    batcher.predict(key, kept[2]),
                    batcher.predict(key, kept[2], missing=missing),  # type: ignore[arg-type]
                    batcher.predict(key, kept[3]),
                    batcher.predict("nobody", kept[2]),
                    batcher.predict(key, kept[2][:3]),
                )
                task = asyncio.create_task(batcher.predict(key, kept[2]))
                await asyncio.sleep(0)
                task.cancel()
                await outcomes(task)

    run(main())
    gc.collect()
    before = [sys.getrefcount(value) for value in kept]
    run(main())
    gc.collect()
    assert [sys.getrefcount(value) for value in kept] == before
