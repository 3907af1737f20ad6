"""MicroBatcher: the queue of requests, and when a batch of them is computed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mlpbank import _core
from mlpbank._arrays import as_float32, as_real
from mlpbank.architecture import positive_int
from mlpbank.bank import Bank
from mlpbank.bank._knowledge import by_name
from mlpbank.errors import InvalidStateError, InvalidTypeError, InvalidValueError, QueueFullError
from mlpbank.serving._answers import Answers, Request, answers_of
from mlpbank.serving._statistics import Counts, Statistics
from mlpbank.typing import Float32Array, Key, Missing


@dataclass(eq=False)
class _Batch:
    """Requests that are computed together."""

    began: float
    rows: int = 0
    answers: Answers = ()
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
        self._max_batch = positive_int(max_batch, "max_batch")
        self._max_wait = max_wait
        self._max_queue = positive_int(max_queue, "max_queue")
        self._inline_work = inline_work
        # A signal handler may raise between any two lines, also before the first line of a callback
        # of the loop. So each change of the queue is one step: a request leaves it only for the
        # batch, and the batch stays until all its requests are answered. Every callback is
        # scheduled twice, and does nothing if its work is done already.
        self._queue = _core.RequestQueue(
            time.perf_counter, min(self._max_batch, sys.maxsize), min(self._max_queue, sys.maxsize)
        )
        self._bind(bank)
        self._executor: ThreadPoolExecutor | None = None
        self._refused = 0
        self._counts = Counts()

    def _bind(self, bank: Bank) -> None:
        if not isinstance(bank, Bank):
            raise InvalidTypeError(f"bank: expected a Bank, got {bank!r}")
        self._bank = bank
        self._row_work = sum(
            layer.input_size * layer.output_size for layer in bank.architecture.layers
        )
        self._queue.input_size = bank.architecture.input_size
        self._queue.key_type = bank.key_type

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
            when it is awaited, once, by a task of asyncio.

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
        request = self._queue.direct(self, key, x, missing)
        return self._careful(key, x, missing) if request is None else request

    def _careful(self, key: Key, x: Any, missing: Missing | None) -> Request:
        """Return a request of whatever the bank takes, or one that raises the error."""
        try:
            # The bank subtracts a shift in float64, and another bank may have another one.
            self._bank._now()
            known = self._bank._known
            x = by_name(x, known.feature_names)
            rows = as_float32(x, "x") if known.input_shift is None else as_real(x, "x")
            # The queue copies what it takes; what it leaves may share memory with x.
            request = self._queue.direct(self, key, rows, missing)
            if request is not None:
                return request
            rows = rows.copy()
        except Exception as error:
            return self._queue.request(self, key, error, missing)
        return self._queue.request(self, key, rows, missing)

    def _prepared(self, request: Request) -> Float32Array | None:
        """Check a request that is not just a row and a key. Return its answer if it has no rows."""
        if type(request.key) is not self._queue.key_type:
            request.key = self._bank._slot_map.asked(request.key)
            self._queue.key_type = self._bank.key_type  # None before the bank's first model
        x, missing = request.x, request.missing
        if isinstance(x, Exception):
            raise x
        if missing is not None:
            self._bank._checked_missing(missing)
        size = self._queue.input_size
        if x.ndim not in (1, 2) or x.shape[-1] != size:
            raise InvalidValueError(f"x: expected shape ({size},) or (rows, {size}), got {x.shape}")
        if x.ndim == 2:
            request.rows = len(x)
            if len(x) == 0:
                return self._bank.predict(request.key, x, missing=missing)
        return None

    def _admit(self, loop: asyncio.AbstractEventLoop, request: Request) -> None:
        """Raise if the queue cannot take a request."""
        queue = self._queue
        if queue.is_closed:
            raise InvalidStateError("MicroBatcher: closed")
        if queue.loop is None:
            queue.loop = loop
        elif queue.loop is not loop:
            raise InvalidStateError(
                "MicroBatcher: expected calls from one event loop, got one from another"
            )
        # A request larger than the whole queue is taken if no other waits. Else it never would be.
        if queue.waiting and queue.waiting + request.rows > self._max_queue:
            self._refused += 1
            raise QueueFullError(
                f"queue is full: {queue.waiting} of at most {self._max_queue} rows wait"
            )

    def _arrived(self, request: Request) -> None:
        """See to a request that is the first in the queue, or the last that fits a batch."""
        queue = self._queue
        if queue.look is None:
            self._look_soon(request.arrived + self._max_wait)
        if queue.waiting >= self._max_batch and queue.batch is None:
            self._start_batch()

    def _look_soon(self, deadline: float) -> None:
        """Schedule `_check` for the next pass of the loop."""
        queue = self._queue
        look = _Look(queue.waiting, deadline)
        queue.loop.call_soon(self._check, look)
        queue.loop.call_soon(self._check, look)
        queue.look = look  # last, because it says that both calls are scheduled

    def _check(self, look: _Look) -> None:
        """Start a batch if no new request came or the deadline has passed, else look again."""
        queue = self._queue
        if queue.look is look:
            if queue.batch is not None and queue.batch.job is None:
                queue.take_back()  # an exception interrupted the batch
            if queue.count and queue.batch is None:
                late = queue.waiting <= look.waiting or time.perf_counter() >= look.deadline
                if late or queue.waiting >= self._max_batch:
                    self._start_batch()
            if queue.count and queue.batch is None:
                self._look_soon(look.deadline)
            else:
                queue.look = None  # the queue is empty, or _finish will look again
        queue.wake()

    def _start_batch(self) -> None:
        """Take the oldest requests that fit a batch, and compute them here or in the worker.

        The queue's `wake` has to be called afterwards, outside of all tasks.
        """
        batch = _Batch(time.perf_counter())
        before = self._queue.waiting
        requests = self._queue.take(batch)
        batch.rows = before - self._queue.waiting
        if batch.rows * self._row_work > self._inline_work:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "mlpbank-batcher")
            with contextlib.suppress(RuntimeError):  # the system gives no thread: compute here
                batch.job = self._executor.submit(self._work, self._bank, batch, requests)
                return
        batch.answers = answers_of(self._bank, requests)
        self._answer(batch)

    def _work(self, bank: Bank, batch: _Batch, requests: list[Request]) -> None:
        """Compute a batch in the worker, where no signal handler runs."""
        try:
            batch.answers = answers_of(bank, requests)
        except BaseException as error:
            batch.answers = [error] * len(requests)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._queue.loop.call_soon_threadsafe(self._finish, batch)
            self._queue.loop.call_soon_threadsafe(self._finish, batch)

    def _finish(self, batch: _Batch) -> None:
        """Deliver the answers of the worker, and look at the requests that came meanwhile."""
        self._answer_finished(batch)
        self._queue.wake()

    def _answer_finished(self, batch: _Batch) -> None:
        queue = self._queue
        if queue.batch is not batch:
            return
        if queue.count and queue.look is None:
            self._look_soon(time.perf_counter() + self._max_wait)
        self._answer(batch)

    def _answer(self, batch: _Batch) -> None:
        failed, arrived = self._queue.answer(batch.answers)
        self._counts.add(arrived, batch.rows, failed, batch.began, time.perf_counter())

    @property
    def batches(self) -> int:
        """Number of batches computed so far."""
        return self._counts.batches

    def statistics(self) -> Statistics:
        """Return counts and latencies so far. It takes about a hundred microseconds."""
        queue = self._queue
        return self._counts.statistics(queue.cancelled, self._refused, queue.waiting)

    async def aclose(self) -> None:
        """Refuse new requests, answer the accepted ones, and end the worker.

        Further calls do nothing.
        """
        queue = self._queue
        queue.is_closed = True
        while queue.count or queue.batch is not None:
            queue.loop.call_soon(queue.wake)  # after the answers: nothing is awaited before
            queue.loop.call_soon(queue.wake)
            batch = queue.batch
            if batch is None:
                self._start_batch()
            elif batch.job is None:
                queue.take_back()
            elif batch.job.done():
                self._answer_finished(batch)
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
