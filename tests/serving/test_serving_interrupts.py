"""MicroBatcher with an exception between any two instructions: no request is lost or hangs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest

from batching import make_bank, row
from interrupts import interrupted_at
from mlpbank.serving import MicroBatcher, _answers, _batcher

BANK = make_bank()
ANSWERS = {i: BANK.predict(f"model-{i}", row(i)) for i in range(12)}


class Ordinary(Exception):
    pass


class Ending(KeyboardInterrupt):
    """Ends the run of the loop."""


async def requests(batcher: MicroBatcher, first: int, count: int) -> list[Any]:
    async def ask(i: int) -> Any:
        return await batcher.predict(f"model-{i}", row(i))

    tasks = [asyncio.create_task(ask(i)) for i in range(first, first + count)]
    _, pending = await asyncio.wait(tasks, timeout=20)
    assert not pending
    return [task.exception() or task.result() for task in tasks]


def check(results: list[Any], first: int, error: BaseException) -> int:
    """Check that each request has its answer or an error, and return the number of errors."""
    for i, result in enumerate(results, first):
        assert result is error or np.array_equal(result, ANSWERS[i]), (i, result)
    return sum(result is error for result in results)


def one_step(step: int, error: BaseException, **options: Any) -> list[str]:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # says what came into a callback
    batcher = MicroBatcher(BANK, max_batch=3, max_wait=0.001, **options)

    def run(coroutine: Any) -> Any:
        task = loop.create_task(coroutine)
        while not task.done():
            with contextlib.suppress(type(error)):
                loop.run_until_complete(task)
        return task.result()

    async def both() -> tuple[list[Any], list[Any]]:
        return await requests(batcher, 0, 5), await requests(batcher, 5, 1)

    with interrupted_at(step, error, _batcher, _answers) as where:
        some, one = run(both())
    assert check(some, 0, error) + check(one, 5, error) <= 1, where
    assert check(run(requests(batcher, 6, 4)), 6, error) == 0, where
    assert batcher.statistics().waiting == 0, where
    with (
        interrupted_at(step, error, _batcher, _answers) as closing,
        contextlib.suppress(type(error)),
    ):
        last = run(asyncio.wait_for(close(batcher), 20))
        assert check(last, 10, error) <= 1, closing
    run(asyncio.wait_for(batcher.aclose(), 20))
    run(loop.shutdown_default_executor())
    loop.close()
    return where


async def close(batcher: MicroBatcher) -> list[Any]:
    task = asyncio.create_task(requests(batcher, 10, 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await batcher.aclose()
    return await task


@pytest.mark.filterwarnings(
    "ignore:.*never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("inline_work", "error"), [(0, Ordinary), (2**40, Ending)], ids=["worker", "inline"]
)
def test_no_request_is_lost(inline_work: int, error: type[BaseException]) -> None:
    step = 0
    while one_step(step, error(), inline_work=inline_work):
        step += 3  # each instruction takes too long; what has to hold together is longer
    assert step > 400
