"""MicroBatcher: the queue of requests, and when a batch of them is computed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from mlpbank._arrays import as_float32, as_real
from mlpbank.architecture import positive_int
from mlpbank.bank import Bank
from mlpbank.bank._knowledge import by_name
from mlpbank.errors import InvalidStateError, InvalidTypeError, InvalidValueError, QueueFullError
from mlpbank.serving._answers import Request, answers_of
from mlpbank.serving._statistics import Statistics, Window
from mlpbank.typing import Float32Array, Key, Missing


@dataclass(eq=False)
class _Batch:
    """Requests that are computed together."""

    requests: dict[asyncio.Future[Float32Array], Request]
    rows: int
    began: float
    answers: Sequence[Float32Array | BaseException] | None = None
    job: Future[None] | None = None  # set if the worker computes it


@dataclass(eq=False)
class _Look:
    """A scheduled look at the queue."""

    waiting: int  # rows in the queue when it was scheduled
    deadline: float


class MicroBatcher:
    """Combines the requests of many asyncio tasks, for any models, into few calls.

    Parameters
    ----------
    bank : Bank
        It may change while the batcher runs. Another bank may replace it: ``batcher.bank =
        Bank.open(...)``.
    max_batch : int
        The most rows of a batch. A single request with more rows is a batch of its own.
    max_wait : float
        The most seconds that a request waits for others. It waits only while each pass of the event
        loop brings new requests: in an idle loop, waiting would gain nothing.
    max_queue : int
        The most rows that wait. A further request raises `QueueFullError`.
    inline_work : int
        Batches of up to this many multiply-adds are computed in the thread of the event loop. A
        worker thread computes larger ones, one at a time, while the loop goes on. The default takes
        about half a millisecond of the loop; 0 gives all batches to the worker.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.

    Notes
    -----
    A request that cannot be answered fails alone: an unknown model, rows of a wrong shape. Results
    are bit-identical to those of `Bank.predict`. All calls must come from one event loop.

    For single rows and models of a few thousand weights, ``bank.predict(key, x)`` in the event loop
    takes microseconds, less than a hand-over. docs/serving.md says when batching pays.

    Examples
    --------
    >>> import asyncio, mlpbank
    >>> bank = mlpbank.Bank(mlpbank.Architecture.mlp(2, 1))
    >>> bank["sum"], bank["difference"] = {"layer_0": [1, 1]}, {"layer_0": [1, -1]}
    >>> async def main():
    ...     async with MicroBatcher(bank) as batcher:
    ...         calls = [batcher.predict(key, [5, 3]) for key in ("sum", "difference")]
    ...         return await asyncio.gather(*calls)
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
        self._queue: dict[asyncio.Future[Float32Array], Request] = {}  # in the order of arrival
        self._waiting = 0  # rows in the queue
        # A signal handler may raise between any two lines, also before the first line of a callback
        # of the loop. So a request leaves the queue only for the batch, and the batch stays until
        # all its requests are answered. Every callback is scheduled twice, and does nothing if its
        # work is done already.
        self._batch: _Batch | None = None
        self._look: _Look | None = None  # None if no call of _check is scheduled
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
        """The bank that answers. It may be replaced by one of the same input and output size."""
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

    def predict(
        self, key: Key, x: Any, *, missing: Missing | None = None
    ) -> Coroutine[Any, Any, Float32Array]:
        """Send rows through the model of a key, together with the requests of other tasks.

        Parameters
        ----------
        key : str, int or tuple of them
            None, NaN and NA are missing keys, which no model has.
        x : array_like of real numbers
            (input_size,) or (rows, input_size). Copied at once: it may change as soon as this
            method returns, before the answer is awaited.
        missing : {"error", "nan", "fallback"}, optional
            What to do about an unknown key, as for `Bank.predict`: raise, return NaN, or use the
            fallback model, which is the default if the bank has one. Requests with different
            values are computed in different calls.

        Returns
        -------
        coroutine
            Of a float32 array, (output_size,) or (rows, output_size). It raises the errors below
            when it is awaited.

        Raises
        ------
        UnknownModelError
            There is no such model.
        QueueFullError
            Too many rows wait already.
        TypeError, ValueError
            An argument does not fit.
        RuntimeError
            The batcher is closed, or belongs to another event loop.
        """
        try:
            # The bank subtracts a shift in float64, and another bank may have another one.
            known = self._bank._known
            x = by_name(x, known.feature_names)
            rows = as_float32(x, "x") if known.input_shift is None else as_real(x, "x")
            if type(x) is not list:  # the array of a list is new, others may share memory with x
                rows = rows.copy()
        except Exception as error:
            return self._predict(key, error, missing)
        return self._predict(key, rows, missing)

    async def _predict(
        self, key: Key, x: Float32Array | Exception, missing: Missing | None
    ) -> Float32Array:
        asked = key if type(key) is self._key_type else self._bank._slot_map.asked(key)
        if isinstance(x, Exception):
            raise x
        if missing is not None:
            self._bank._checked_missing(missing)
        shape, rows = x.shape, 1
        if shape != self._row_shape:
            if len(shape) != 2 or shape[1:] != self._row_shape:
                size = self._row_shape[0]
                raise InvalidValueError(
                    f"x: expected shape ({size},) or (rows, {size}), got {shape}"
                )
            rows = shape[0]
            if rows == 0:
                return self._bank.predict(asked, x, missing=missing)
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._closed or self._waiting + rows > self._max_queue:
            self._admit(loop, rows)
        future: asyncio.Future[Float32Array] = loop.create_future()
        now = time.perf_counter()
        try:
            self._queue[future] = Request(asked, x, rows, now, missing)
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
                # The future has an error, which asyncio would report as never retrieved.
                future.exception()
            raise

    def _admit(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        """Raise if the batcher cannot take a request of so many rows."""
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
        # A request larger than the whole queue is taken if no other waits. Else it never would be.
        if self._waiting and self._waiting + rows > self._max_queue:
            self._refused += 1
            raise QueueFullError(
                f"queue is full: {self._waiting} of at most {self._max_queue} rows wait"
            )

    def _look_soon(self, deadline: float) -> None:
        """Schedule `_check` for the next pass of the loop."""
        assert self._loop is not None
        look = _Look(self._waiting, deadline)
        self._loop.call_soon(self._check, look)
        self._loop.call_soon(self._check, look)
        self._look = look  # last, because it says that both calls are scheduled

    def _check(self, look: _Look) -> None:
        """Start a batch if no new request came or the deadline has passed, else look again."""
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
            self._look = None  # the queue is empty, or _finish will look again

    def _start_batch(self) -> None:
        """Take the oldest requests that fit a batch, and compute them here or in the worker."""
        taken: dict[asyncio.Future[Float32Array], Request] = {}
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
            with contextlib.suppress(RuntimeError):  # the system gives no thread: compute here
                batch.job = self._executor.submit(self._work, self._bank, batch)
                return
        batch.answers = answers_of(self._bank, list(taken.values()))
        self._answer(batch)

    def _work(self, bank: Bank, batch: _Batch) -> None:
        """Compute a batch in the worker, where no signal handler runs."""
        assert self._loop is not None
        try:
            batch.answers = answers_of(bank, list(batch.requests.values()))
        except BaseException as error:
            batch.answers = [error] * len(batch.requests)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._finish, batch)
            self._loop.call_soon_threadsafe(self._finish, batch)

    def _finish(self, batch: _Batch) -> None:
        """Deliver the answers of the worker, and look at the requests that came meanwhile."""
        if self._batch is not batch:
            return
        if self._queue and self._look is None:
            self._look_soon(time.perf_counter() + self._max_wait)
        self._answer(batch)

    def _take_back(self, batch: _Batch) -> None:
        """Return unanswered requests to the queue after an exception interrupted their batch."""
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
        """Number of batches computed so far."""
        return self._batches

    def statistics(self) -> Statistics:
        """Return counts and latencies so far. It takes about a hundred microseconds."""
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
        """Refuse new requests, answer the accepted ones, and end the worker.

        Further calls do nothing.
        """
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
