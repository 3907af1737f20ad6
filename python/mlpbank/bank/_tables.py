"""What a Bank answers for tables: data frames, Arrow, and streams of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from mlpbank import _core
from mlpbank._frames import Frame, frame_of, frames_of
from mlpbank._given_keys import GivenKeys, Parts
from mlpbank._key_columns import to_find
from mlpbank._keys import encode, kind_name
from mlpbank._progress import progress_bar
from mlpbank.bank import _knowledge
from mlpbank.bank._reads import BankReads
from mlpbank.bank._state import Seen
from mlpbank.engine import as_threads
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Float32Array, Float64Array, Int64Array, Missing

# Rows are sorted by their slots, so that models and rows are read one after the other. Counting
# takes time and memory for all models of the bank, which few rows are not worth.
_MODELS_PER_ROW = 8
_MOST_SORTED = 2**32 - 1  # positions have 32 bits
_ROWS_PER_STEP = 1 << 18  # of a progress bar


class _Options(NamedTuple):
    """Arguments of `predict_frame`."""

    key: str | list[str]
    features: Any
    name: str
    missing: Missing | None
    num_threads: int | None
    progress: bool


class BankTables(BankReads):
    """The part of `Bank` that predicts for tables."""

    def predict_frame(
        self,
        df: Any,
        *,
        key: str | list[str],
        features: Sequence[str] | None = None,
        name: str = "prediction",
        missing: Missing | None = None,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Predict for every row of a data frame.

        Parameters
        ----------
        df : pandas or polars DataFrame, Arrow Table or RecordBatch
            Or what offers itself as an Arrow array or stream, such as a relation of DuckDB.
        key : str or list of str
            The column of keys, or those of the parts of keys that are tuples.
        features : sequence of str, optional
            The columns of inputs, input_size of them in order. A bank that knows `feature_names`
            needs none, takes columns by these, and refuses others.
        name : str
            Of the result; with several outputs ``<name>_0``, ``<name>_1``, ...
        missing, num_threads
            As for `predict`.
        progress : bool
            Show a progress bar.

        Returns
        -------
        column, or data frame where the models have several outputs
            Of the kind of `df`; in pandas with its index. For other libraries an Arrow array, of
            structs where there are several outputs, that ``numpy.asarray`` takes, too.

        Raises
        ------
        UnknownModelError, TypeError, ValueError
            As for `predict`; also where a column of inputs is not of numbers.
        KeyError
            A column is missing, or there are several of its name.
        """
        options = self._checked(_Options(key, features, name, missing, num_threads, progress))
        return self._predict_frame(frame_of(df), options)

    def predict_stream(
        self,
        batches: Any,
        *,
        key: str | list[str],
        features: Sequence[str] | None = None,
        name: str = "prediction",
        missing: Missing | None = None,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Predict for tables that come one after the other, such as the parts of a large file.

        While a table is computed, in a thread of its own, the next one is read, in that of the
        caller. At most two tables and two results are in memory.

        Parameters
        ----------
        batches : iterable of tables, or a stream
            Each as for `predict_frame`; or a RecordBatchReader or Table of pyarrow, or what offers
            itself as an Arrow stream, such as a relation of DuckDB.
        key, features, name, missing, num_threads, progress
            As for `predict_frame`. Errors are raised where the result would come that they prevent,
            after those of the tables before.

        Yields
        ------
        column or data frame
            For each table, in order, what `predict_frame` returns for it.

        Examples
        --------
        >>> import pandas as pd
        >>> from mlpbank import Architecture, Bank
        >>> bank = Bank(Architecture.mlp(1, 1))
        >>> bank["a"] = {"layer_0": [2]}
        >>> parts = (pd.DataFrame({"key": ["a"], "x": [i]}) for i in range(3))
        >>> [y.tolist() for y in bank.predict_stream(parts, key="key", features=["x"])]
        [[0.0], [2.0], [4.0]]
        """
        options = self._checked(_Options(key, features, name, missing, num_threads, False))
        return self._predict_frames(frames_of(batches), options, progress)

    def _checked(self, options: _Options) -> _Options:
        """Return options that later changes of the caller's lists do not reach."""
        if not isinstance(options.name, str):
            raise InvalidTypeError(f"name: expected a str, got {options.name!r:.80}")
        if b"\0" in encode(options.name, "name"):
            raise InvalidValueError(f"name: expected a str without NUL, got {options.name!r:.80}")
        key = list(options.key) if isinstance(options.key, list) else options.key
        features = _knowledge.columns_of(options.features, self.architecture.input_size)
        options = options._replace(key=key, features=features)
        self._chosen(options, self._known)
        self._checked_missing(options.missing)
        as_threads(options.num_threads)
        return options

    def _chosen(self, options: _Options, known: _knowledge.Known) -> Sequence[str]:
        wanted = self.architecture.input_size
        return _knowledge.chosen(options.features, known.feature_names, wanted)

    def _predict_frames(
        self, frames: Generator[Frame, None, None], options: _Options, progress: bool
    ) -> Iterator[Any]:
        from concurrent.futures import Future, ThreadPoolExecutor  # which takes long to import

        computed: Future[Any] | None = None
        with closing(frames), ThreadPoolExecutor(1, thread_name_prefix="mlpbank") as worker:
            coming = iter(progress_bar(frames, "predicting", progress, unit="table"))
            while True:
                error = frame = None
                try:
                    frame = next(coming, None)
                except Exception as caught:  # comes after the results of the tables before
                    error = caught
                result = None if computed is None else computed.result()
                has_result = computed is not None
                # Before the result is given away: its user works while this is computed.
                computed = (
                    None if frame is None else worker.submit(self._predict_frame, frame, options)
                )
                if has_result:
                    yield result
                if error is not None:
                    raise error
                if frame is None:
                    return

    def _predict_frame(self, frame: Frame, options: _Options) -> Any:
        while True:
            self._now()
            known = self._known
            columns = self._chosen(options, known)
            given = to_find(self._keys_of_frame(frame, options.key))
            sources = frame.sources(columns, "features")
            y = self._predict_columns(frame, given, sources, known.input_shift, options)
            if self._known is known:
                break  # else the bank's first model came meanwhile
        name = options.name
        names = [name] if len(y) == 1 else [f"{name}_{i}" for i in range(len(y))]
        return frame.with_results(names, y)

    def _predict_columns(
        self,
        frame: Frame,
        given: GivenKeys,
        sources: list[Any],
        shift: Float64Array | None,
        options: _Options,
    ) -> Float32Array:
        """Return the outputs of all rows, (outputs, rows)."""
        missing = self._checked_missing(options.missing)
        threads = self._threads_of(options.num_threads)

        def compute(seen: Seen, slots: Int64Array, unknown: int) -> Float32Array:
            if unknown and missing != "nan":
                slots = self._with_fallback(seen, given, "keys", slots, missing)
                unknown = 0
            models = seen.state.weights.num_models
            if models > _MODELS_PER_ROW * len(slots) or len(slots) > _MOST_SORTED:
                x = frame.rows(sources, shift, None, threads)
                if unknown:
                    y = self._answer_some(seen, given, "keys", slots, x, missing, None, threads)
                else:
                    y = seen.forward(x, slots, None, threads, "keys")
                return np.ascontiguousarray(y.T)
            order = _core.RowOrder(slots, models)
            x = frame.rows(sources, shift, order, threads)
            return order.restored(self._in_steps(seen, order.slots, x, threads, options), threads)

        return self._while_found(lambda slot_map: slot_map.find(given, threads), compute)

    def _in_steps(
        self, seen: Seen, slots: Int64Array, x: Float32Array, threads: int, options: _Options
    ) -> Float32Array:
        """Compute rows that are sorted by their slots, all of a model in one step."""
        y = np.empty((len(slots), self.architecture.output_size), np.float32)
        ends = [len(slots)]
        if options.progress:
            starts = np.searchsorted(slots, slots[_ROWS_PER_STEP::_ROWS_PER_STEP])
            ends = [*np.unique(starts[starts > 0]).tolist(), len(slots)]
        begin = 0
        for end in progress_bar(ends, "predicting", options.progress, unit="step"):
            here = slice(begin, end)
            seen.forward(x[here], slots[here], y[here], threads, "keys")
            begin = end
        return y

    def _keys_of_frame(self, frame: Frame, key: str | list[str]) -> Any:
        if not isinstance(key, list):
            return frame.column(key, "key")
        kind = self._slot_map.kind
        parts = getattr(kind, "__args__", None)
        if parts is None and kind is not None and len(key) == 1:  # no tuple, but as in group_by
            return frame.column(key[0], "key")
        if kind is not None and len(key) != len(parts or [kind]):
            wanted = "one column" if parts is None else f"{len(parts)} columns"
            raise InvalidValueError(
                f"key: expected {wanted}, for the bank's keys are {kind_name(kind)}, got {key!r}"
            )
        return Parts([frame.column(name, "key") for name in key])
