"""MicroBatcher: requests of many asyncio tasks, for different models, computed in one call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from mlpbank._arrays import as_float32
from mlpbank.architecture import positive_int
from mlpbank.bank import Bank
from mlpbank.errors import (
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    QueueFullError,
    UnknownModelError,
)
from mlpbank.serving._statistics import Quantiles, Statistics, Window
from mlpbank.typing import Float32Array, Key

__all__ = ["MicroBatcher", "Quantiles", "QueueFullError", "Statistics"]


class _Request(NamedTuple):
    """What waits for an answer."""

    key: Key
    x: Float32Array  # (input_size,) or (rows, input_size)
    rows: int
    arrived: float


@dataclass(eq=False)
class _Batch:
    """What is computed at once."""

    requests: dict[asyncio.Future[Float32Array], _Request]
    rows: int
    began: float
    answers: Sequence[Float32Array | BaseException] | None = None
    job: Future[None] | None = None  # where the worker computes it


@dataclass(eq=False)
class _Look:
    """A look at the queue that is to come."""

    waiting: int  # rows in the queue when it was asked for
    deadline: float


class MicroBatcher:
    """Combines the requests of many asyncio tasks into few calls, whichever models they are for.

    Parameters
    ----------
    bank : Bank
        It may change while this runs, and may be replaced by another: ``batcher.bank =
        Bank.open(...)``.
    max_batch : int
        Rows of a batch. Only a request that has more by itself makes a larger one.
    max_wait : float
        Seconds that a request waits, at most, for others to come. It waits only as long as each
        pass of the event loop brings further requests: if the loop has nothing else to do, waiting
        would make nothing faster.
    max_queue : int
        Rows that may wait; a request beyond raises `QueueFullError`.
    inline_work : int
        Batches of up to this many multiply-adds are computed in the event loop's thread, larger
        ones in a worker thread, one at a time, while the loop goes on. The default takes the loop
        some half a millisecond; 0 leaves all to the worker.

    Notes
    -----
    A request that cannot be answered, be it that its model is unknown or that its rows do not fit,
    fails alone. Results have the same bits as those of `Bank.predict`. All calls have to come from
    one event loop.

    For single rows and models of a few thousand weights, ``bank.predict(key, x)`` in the event loop
    takes microseconds, less than any hand-over; docs/serving.md says from where on batching pays.

    Examples
    --------
    >>> import asyncio, mlpbank
    >>> bank = mlpbank.Bank(mlpbank.Architecture.mlp(2, 1))
    >>> bank["sum"], bank["difference"] = {"layer_0": [1, 1]}, {"layer_0": [1, -1]}
    >>> async def main():
    ...     async with MicroBatcher(bank) as batcher:
    ...         return await asyncio.gather(batcher.predict("sum", [5, 3]), batcher.predict("difference", [5, 3]))
    >>> asyncio.run(main())
    [array([8.], dtype=float32), array([2.], dtype=float32)]
    """

    def __init__(
        self,
        bank: Bank,
        max_batch: int = 1024,
        max_wait: float = 0.001,
        max_queue: int = 16384,
        *,
        inline_work: int = 4_000_000,
    ) -> None:
        if not max_wait >= 0:
            raise InvalidValueError(f"max_wait: expected seconds, got {max_wait!r}")
        if not isinstance(inline_work, int) or inline_work < 0:
            raise InvalidValueError(
                f"inline_work: expected a number of multiply-adds, got {inline_work!r}"
            )
        self._bind(bank)
        self._max_batch = positive_int(max_batch, "max_batch")
        self._max_wait = max_wait
        self._max_queue = positive_int(max_queue, "max_queue")
        self._inline_work = inline_work

        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: dict[asyncio.Future[Float32Array], _Request] = {}  # in the order of arrival
        self._waiting = 0  # rows in the queue
        # An exception of a signal handler may come between any two lines, and before the first line
        # of what the loop calls. So a request leaves the queue only for the batch, the batch is
        # there until all is answered, the loop calls everything twice, and what was done before
        # does nothing.
        self._batch: _Batch | None = None
        self._look: _Look | None = None  # None: no call of _check is to come
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None

        self._requests = self._rows = self._batches = self._failed = self._cancelled = (
            self._refused
        ) = 0
        self._batch_rows, self._queue_seconds, self._latency, self._compute = (
            Window() for _ in range(4)
        )

    def _bind(self, bank: Bank) -> None:
        if not isinstance(bank, Bank):
            raise InvalidTypeError(f"bank: expected a Bank, got {bank!r}")
        self._bank = bank
        self._row_shape = (bank.architecture.input_size,)
        self._row_work = sum(
            layer.input_size * layer.output_size for layer in bank.architecture.layers
        )
        self._key_type = bank.key_type

    @property
    def bank(self) -> Bank:
        """The bank that answers. Another of the same input and output size may take its place at any time."""
        return self._bank

    @bank.setter
    def bank(self, bank: Bank) -> None:
        old = self._bank.architecture
        if isinstance(bank, Bank):
            new = bank.architecture
            if (new.input_size, new.output_size) != (old.input_size, old.output_size):
                raise InvalidValueError(
                    f"bank: expected the input and output size of {old!r}, got {new!r}"
                )
        self._bind(bank)

    def predict(self, key: Key, x: Any) -> Coroutine[Any, Any, Float32Array]:
        """Send rows through the model of a key, together with what other tasks ask for.

        Parameters
        ----------
        key : str or int
        x : array_like of real numbers
            (input_size,) or (rows, input_size). Copied at once: it may change as soon as this
            returns, before the answer is awaited.

        Returns
        -------
        coroutine
            Of a float32 array, (output_size,) or (rows, output_size). What follows is raised when
            it is awaited.

        Raises
        ------
        UnknownModelError
            There is no such model.
        QueueFullError
            Too many rows wait already.
        TypeError, ValueError
            An argument does not fit; the message says what was expected and what came.
        RuntimeError
            The batcher is closed, or belongs to another event loop.
        """
        try:
            rows = as_float32(x, "x")
            if type(x) is not list:  # whose array is new; that of any other object may be its own
                rows = rows.copy()
        except Exception as error:
            return self._predict(key, error)
        return self._predict(key, rows)

    async def _predict(self, key: Key, x: Float32Array | Exception) -> Float32Array:
        if type(key) is not self._key_type:
            self._bank._slot_map.check(key)
        if isinstance(x, Exception):
            raise x
        shape, rows = x.shape, 1
        if shape != self._row_shape:
            if len(shape) != 2 or shape[1:] != self._row_shape:
                size = self._row_shape[0]
                raise InvalidValueError(
                    f"x: expected shape ({size},) or (rows, {size}), got {shape}"
                )
            rows = shape[0]
            if rows == 0:
                return self._bank.predict(key, x)
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._closed or self._waiting + rows > self._max_queue:
            self._admit(loop, rows)
        future: asyncio.Future[Float32Array] = loop.create_future()
        now = time.perf_counter()
        try:
            self._queue[future] = _Request(key, x, rows, now)
            self._waiting += rows
            if self._look is None:
                self._look_soon(now + self._max_wait)
            if self._waiting >= self._max_batch and self._batch is None:
                self._start_batch()
            return await future
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._cancelled += 1
            if (request := self._queue.pop(future, None)) is not None:
                self._waiting -= request.rows
            if not future.cancel() and not future.cancelled():
                # The error came just before the cancellation: nobody will ask for it
                future.exception()
            raise

    def _admit(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        """Raise if a request must not wait."""
        if self._closed:
            raise InvalidStateError("MicroBatcher: closed")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidStateError(
                "MicroBatcher: expected calls from one event loop, got one from another"
            )
        if not self._queue:
            self._waiting = 0
        # A request larger than the whole queue is taken if nothing else waits: otherwise it never
        # would be.
        if self._waiting and self._waiting + rows > self._max_queue:
            self._refused += 1
            raise QueueFullError(
                f"queue is full: {self._waiting} of at most {self._max_queue} rows wait"
            )

    def _look_soon(self, deadline: float) -> None:
        """Let `_check` run in the next pass of the loop."""
        assert self._loop is not None
        look = _Look(self._waiting, deadline)
        self._loop.call_soon(self._check, look)
        self._loop.call_soon(self._check, look)
        self._look = look  # last: without both calls it is not to come

    def _check(self, look: _Look) -> None:
        """Start a batch if this pass of the loop brought nothing new, or the time is over; otherwise look again."""
        if self._look is not look:
            return
        if self._batch is not None and self._batch.job is None:
            self._take_back(self._batch)
        if self._queue and self._batch is None:
            late = self._waiting <= look.waiting or time.perf_counter() >= look.deadline
            if late or self._waiting >= self._max_batch:
                self._start_batch()
        if self._queue and self._batch is None:
            self._look_soon(look.deadline)
        else:
            self._look = None  # nothing to do, or _finish will see to it

    def _start_batch(self) -> None:
        """Take the oldest requests, as many as fit a batch, and compute them here or in the worker."""
        taken: dict[asyncio.Future[Float32Array], _Request] = {}
        rows = 0
        if self._waiting <= self._max_batch:
            taken, rows = self._queue, self._waiting
            self._batch = batch = _Batch(taken, rows, time.perf_counter())
            self._queue = {}
            self._waiting = 0
        else:
            for future, request in self._queue.items():
                if taken and rows + request.rows > self._max_batch:
                    break
                taken[future] = request
                rows += request.rows
            self._batch = batch = _Batch(taken, rows, time.perf_counter())
            for future in taken:
                del self._queue[future]
            self._waiting -= rows
        if rows * self._row_work > self._inline_work:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "mlpbank-batcher")
            with contextlib.suppress(RuntimeError):  # no thread to be had: compute here
                batch.job = self._executor.submit(self._work, self._bank, batch)
                return
        batch.answers = _predict(self._bank, list(taken.values()))
        self._answer(batch)

    def _work(self, bank: Bank, batch: _Batch) -> None:
        """Compute a batch in the worker, where no signal handler runs."""
        assert self._loop is not None
        try:
            batch.answers = _predict(bank, list(batch.requests.values()))
        except BaseException as error:
            batch.answers = [error] * len(batch.requests)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._finish, batch)
            self._loop.call_soon_threadsafe(self._finish, batch)

    def _finish(self, batch: _Batch) -> None:
        """Hand out what the worker computed, and go on with what came meanwhile."""
        if self._batch is not batch:
            return
        if self._queue and self._look is None:
            self._look_soon(time.perf_counter() + self._max_wait)
        self._answer(batch)

    def _take_back(self, batch: _Batch) -> None:
        """Put what is not answered into the queue again: an exception came before it was."""
        both = batch.requests | self._queue
        self._queue = {future: request for future, request in both.items() if not future.done()}
        self._waiting = sum(request.rows for request in self._queue.values())
        self._batch = None

    def _answer(self, batch: _Batch) -> None:
        assert batch.answers is not None
        failed = 0
        for future, answer in zip(batch.requests, batch.answers, strict=True):
            if future.done():  # cancelled while it was computed
                continue
            if isinstance(answer, BaseException):
                failed += 1
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._batch = None
        ended = time.perf_counter()
        arrived = np.array([request.arrived for request in batch.requests.values()])
        self._failed += failed
        self._requests += len(batch.requests)
        self._rows += batch.rows
        self._batches += 1
        self._batch_rows.add([batch.rows])
        self._queue_seconds.add(batch.began - arrived)
        self._latency.add(ended - arrived)
        self._compute.add([ended - batch.began])

    @property
    def batches(self) -> int:
        """How many batches were computed."""
        return self._batches

    def statistics(self) -> Statistics:
        """Return what happened so far; it takes some hundred microseconds."""
        return Statistics(
            requests=self._requests,
            rows=self._rows,
            batches=self._batches,
            failed=self._failed,
            cancelled=self._cancelled,
            refused=self._refused,
            waiting=self._waiting,
            batch_rows=self._batch_rows.quantiles(),
            queue_seconds=self._queue_seconds.quantiles(),
            latency_seconds=self._latency.quantiles(),
            compute_seconds=self._compute.quantiles(),
        )

    async def aclose(self) -> None:
        """Refuse new requests, answer those that were accepted, and end the worker. Calling it again is harmless."""
        self._closed = True
        while self._queue or self._batch is not None:
            batch = self._batch
            if batch is None:
                self._start_batch()
            elif batch.job is None:
                self._take_back(batch)
            elif batch.job.done():
                self._finish(batch)
            else:
                await asyncio.wait([asyncio.wrap_future(batch.job)], timeout=1)
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    async def __aenter__(self) -> MicroBatcher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _predict(bank: Bank, requests: list[_Request]) -> list[Float32Array | Exception]:
    """Return the answer to each request, or its error."""
    try:
        if all(request.x.ndim == 1 for request in requests):
            x = np.concatenate([request.x for request in requests]).reshape(len(requests), -1)
            return list(bank.predict([request.key for request in requests], x))
        keys = [request.key for request in requests for _ in range(request.rows)]
        y = bank.predict(keys, np.concatenate([np.atleast_2d(request.x) for request in requests]))
        parts = np.split(y, np.cumsum([request.rows for request in requests[:-1]]))
        return [
            part[0] if request.x.ndim == 1 else part
            for part, request in zip(parts, requests, strict=True)
        ]
    except UnknownModelError as error:
        unknown = set(error.keys)
        known = [request for request in requests if request.key not in unknown]
        answers = iter(_predict(bank, known) if known else [])
        return [
            UnknownModelError([request.key], 1) if request.key in unknown else next(answers)
            for request in requests
        ]
    except Exception as error:
        if len(requests) == 1:
            return [error]
        return [_predict(bank, [request])[0] for request in requests]
