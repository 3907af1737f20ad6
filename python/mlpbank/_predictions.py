"""The reading side of a Bank: from keys and rows to predictions."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._arrays import Float32Array, as_float32, as_ids, check_out
from mlpbank._directory import Directory, UnknownModelError
from mlpbank._keys import Ids, Key, as_keys
from mlpbank.architecture import Architecture
from mlpbank.inference import BatchedInference, Engine
from mlpbank.weights import BatchedWeights

_MISSING = ("error", "nan", "fallback")


class Predictions:
    """What a bank answers with. Nothing here waits for a change."""

    _weights: BatchedWeights
    _inference: BatchedInference
    _directory: Directory
    _fallback: Key | None

    @property
    def architecture(self) -> Architecture:
        """The architecture that all models share."""
        return self._weights.architecture

    @property
    def dtype(self) -> str:
        """How weights are stored."""
        return self._weights.dtype

    @property
    def layout(self) -> str:
        """``"panel"`` or ``"lane"``."""
        return self._weights.layout

    @property
    def engine(self) -> Engine:
        """The engine that predictions are computed with."""
        return self._inference.engine

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, those of a mapped file included."""
        return self._weights.nbytes

    def index(self, keys: Any) -> Ids:
        """Return the ids of keys, which `predict_ids` takes: look up once, predict often.

        Parameters
        ----------
        keys : sequence or column of str or int

        Returns
        -------
        int64 array (n,)
            An id stays that of its key until the key is deleted; from then on it is refused.

        Raises
        ------
        UnknownModelError
            Some keys are unknown.
        """
        keys, kind = as_keys(keys)
        ids, unknown = self._directory.find_ids(keys, kind)
        if unknown:
            raise _unknown_of(keys, ids)
        return ids

    def predict_ids(
        self, ids: Any, x: Any, *, out: Float32Array | None = None, num_threads: int | None = None
    ) -> Float32Array:
        """Send every row through the model of its id.

        Parameters
        ----------
        ids : int array (n,)
            From `index`.
        x, out, num_threads
            As for `predict`.

        Raises
        ------
        UnknownModelError
            The model of an id was deleted.
        IndexError
            An id never was one.
        """
        # The caller's own code may run in here, so it comes before there is a reader.
        ids, x = as_ids(ids, "ids"), as_float32(x, "x")
        reader = self._directory.core.enter()  # leaves with this frame, whatever happens
        try:
            slots = self._directory.slots_of(ids)
            return self._inference._forward(x, slots, out, num_threads, "error", ("x", "ids"))
        except _core.ModelNotLoadedError as error:  # removed in this moment
            raise UnknownModelError(ids[~self._weights.loaded[slots]].tolist(), len(ids), "ids") from error
        finally:
            reader.leave()

    def predict(
        self,
        keys: Any,
        x: Any,
        *,
        missing: str | None = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
    ) -> Float32Array:
        """Send every row through the model of its key.

        Parameters
        ----------
        keys : sequence or column of n str or int, or one key
            In any order, repeats allowed: a list, a tuple, a NumPy array, a pandas or polars column.
        x : array_like of real numbers
            (n, input_size) or (n, rows, input_size); for one key (input_size,) or (rows, input_size).
        missing : {"error", "nan", "fallback"}, optional
            What to do about unknown keys: raise, answer NaN, or let the fallback model answer, which is the default if
            the bank has one.
        out : float32 array, optional
            Where the result is written, C-contiguous and not overlapping the inputs.
        num_threads : int, optional
            Lowers the engine's number of threads for this call.

        Returns
        -------
        float32 array
            (n, output_size), or (n, rows, output_size); for one key without the first dimension.

        Raises
        ------
        UnknownModelError
            Keys are unknown; a KeyError that lists the first few and has all in `keys`.
        TypeError, ValueError
            An argument does not fit; the message says what was expected and what came.
        """
        if isinstance(keys, (str, int, np.integer)):
            rows = as_float32(x, "x")
            if out is not None and not isinstance(out, np.ndarray):
                raise TypeError(f"out: expected a float32 NumPy array, got {type(out).__name__}")
            one = None if out is None else out[None]
            y: Float32Array = self.predict([keys], rows[None], missing=missing, out=one, num_threads=num_threads)[0]
            return y if out is None else out
        if missing is None:
            missing = "error" if self._fallback is None else "fallback"
        elif missing not in _MISSING:
            raise ValueError(f"missing: expected one of 'error', 'nan', 'fallback', got {missing!r}")
        # The caller's own code may run in here, so it comes before there is a reader.
        keys, kind = as_keys(keys)
        rows = as_float32(x, "x")
        reader = self._directory.core.enter()  # leaves with this frame, whatever happens
        try:
            before = None
            while True:
                slots, unknown = self._directory.find(keys, kind)
                try:
                    if unknown == 0:
                        return self._inference._forward(rows, slots, out, num_threads, "error", ("x", "keys"))
                    return self._predict_some(keys, slots, rows, missing, out, num_threads)
                except _core.ModelNotLoadedError:  # removed while this call had its slot: it is unknown now
                    if before is not None and np.array_equal(slots, before):
                        raise
                    before = slots
        finally:
            reader.leave()

    def _predict_some(
        self, keys: Any, slots: Ids, x: Float32Array, missing: str, out: Float32Array | None, num_threads: int | None
    ) -> Float32Array:
        """Predict where some slots are -1."""
        if missing == "fallback":
            fallback = -1 if self._fallback is None else self._directory.slot(self._fallback)
            if fallback < 0:
                raise _unknown_of(keys, slots)
            slots = np.where(slots < 0, fallback, slots)
            return self._inference._forward(x, slots, out, num_threads, "error", ("x", "keys"))
        if missing == "error":
            raise _unknown_of(keys, slots)
        known = slots >= 0
        if x.ndim not in (2, 3) or x.shape[0] != len(slots):
            raise ValueError(f"x: expected shape ({len(slots)}, ...), one entry for each key, got {x.shape}")
        shape = (*x.shape[:-1], self.architecture.output_size)
        y = np.empty(shape, np.float32) if out is None else check_out(out, shape, x)
        # First, so that an error leaves `out` as it was.
        found = self._inference._forward(x[known], slots[known], None, num_threads, "error", ("x", "keys"))
        y[~known] = np.nan
        y[known] = found
        return y

    async def apredict(self, keys: Any, x: Any, **options: Any) -> Float32Array:
        """Predict in a worker thread, so that the event loop goes on meanwhile; arguments as for `predict`.

        Handing over takes some 50 microseconds, more than predicting for a few small models does.
        """
        return await asyncio.to_thread(self.predict, keys, x, **options)

    def predict_frame(self, df: Any, *, key: str, features: list[str], name: str = "prediction", **options: Any) -> Any:
        """Predict for every row of a data frame.

        Parameters
        ----------
        df : pandas or polars DataFrame
        key : str
            The column of keys.
        features : list of str
            The columns of inputs, input_size of them in order.
        name : str
            Of the result; with several outputs ``<name>_0``, ``<name>_1``, ...
        **options
            As for `predict`.

        Returns
        -------
        column, or data frame where the models have several outputs
            Of the kind of `df`; in pandas with its index.
        """
        wanted = self.architecture.input_size
        if isinstance(features, str) or len(features) != wanted:
            raise ValueError(f"features: expected {wanted} columns, got {features!r}")
        kind = type(df).__module__.split(".")[0]
        if kind not in ("pandas", "polars"):
            raise TypeError(f"df: expected a pandas or polars DataFrame, got {type(df).__name__}")
        library = sys.modules[kind]
        inputs = []
        for column in features:
            values = df[column].to_numpy() if kind == "polars" else _pandas_numbers(df[column])
            if values.dtype.kind not in "fiub":
                raise TypeError(f"features: expected numbers, got column {column!r} of {df[column].dtype}")
            inputs.append(as_float32(values, f"column {column!r}"))
        y = self.predict(df[key], np.stack(inputs, axis=1), **options)
        columns = {name: y[:, 0]} if y.shape[1] == 1 else {f"{name}_{i}": y[:, i] for i in range(y.shape[1])}
        result = library.DataFrame(columns) if kind == "polars" else library.DataFrame(columns, index=df.index)
        return result[name] if y.shape[1] == 1 else result


def _pandas_numbers(column: Any) -> Any:
    """Return a pandas column as an array, NaN where a nullable one has nothing."""
    return column.to_numpy(np.float64, na_value=np.nan) if column.dtype.kind in "fiub" else column.to_numpy()


def _unknown_of(keys: Any, ids: Ids) -> UnknownModelError:
    """Return the error for the keys whose id is -1."""
    unknown = [keys[i] for i in np.flatnonzero(ids < 0)]
    return UnknownModelError([key if isinstance(key, str) else int(key) for key in unknown], len(ids))
