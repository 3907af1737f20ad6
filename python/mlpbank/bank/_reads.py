"""What a Bank answers: from keys and rows to predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._arrays import as_float32, as_int64, as_real, as_shifted, check_out
from mlpbank._given_keys import GivenKeys
from mlpbank._key_columns import is_one, to_find
from mlpbank._names import shown
from mlpbank.architecture import Architecture
from mlpbank.bank import _knowledge
from mlpbank.bank._slot_map import SlotMap
from mlpbank.bank._state import Seen, State
from mlpbank.engine import Engine, as_threads
from mlpbank.errors import (
    InvalidTypeError,
    InvalidValueError,
    ModelNotLoadedError,
    UnknownModelError,
)
from mlpbank.typing import DtypeName, Float32Array, Float64Array, Int64Array, Key, Missing
from mlpbank.weights import BatchedWeights

Find = Callable[[SlotMap], tuple[Int64Array, int]]
Compute = Callable[[Seen, Int64Array, int], Float32Array]


class BankReads:
    """The part of `Bank` that reads. Nothing here waits for a change."""

    _state: State
    _direct: _core.DirectPredict  # that of the state
    _fallback: Key | None
    _known: _knowledge.Known

    def _now(self) -> State:
        """Return the models as a call that starts now has to see them."""
        return self._state

    @property
    def _weights(self) -> BatchedWeights:
        return self._state.weights

    @property
    def _slot_map(self) -> SlotMap:
        return self._state.slot_map

    @property
    def architecture(self) -> Architecture:
        """The architecture that all models share."""
        return self._weights.architecture

    @property
    def dtype(self) -> DtypeName:
        """How weights are stored."""
        return self._weights.dtype

    @property
    def layout(self) -> str:
        """``"panel"`` or ``"lane"``."""
        return self._weights.layout

    @property
    def input_shift(self) -> Float64Array | None:
        """What is subtracted from every row, in float64, before it becomes float32; or None.

        A bank has it where features have means that are large beside their deviations, such as
        timestamps. The weights of its models take ``x - input_shift``.
        """
        self._now()
        return self._known.input_shift

    @property
    def engine(self) -> Engine:
        """The engine that predictions are computed with."""
        return self._state.inference.engine

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, those of a mapped file included.

        Without copies that calls by key have made of small models, see `BatchedWeights.nbytes`.
        """
        return self._weights.nbytes

    def handles(self, keys: Any) -> Int64Array:
        """Return the handles of keys, which `predict_handles` takes: look up once, predict often.

        Parameters
        ----------
        keys : sequence or column of n str, int or tuples

        Returns
        -------
        int64 array (n,)
            A handle is an opaque number: the slot of the model and how often that slot was used
            again (a generational index). It stays valid until its key is deleted; from then on it
            is refused. It means nothing to another bank, nor to the same one opened again.

        Raises
        ------
        UnknownModelError
            Some keys are unknown.
        """
        given = to_find(keys)
        handles, unknown = self._now().slot_map.find_handles(given)
        if unknown:
            raise self._unknown_of(given, handles, "keys")
        return handles

    def predict_handles(
        self,
        handles: Any,
        x: Any,
        *,
        missing: Missing | None = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
    ) -> Float32Array:
        """Send every row through the model of its handle.

        Parameters
        ----------
        handles : int array (n,)
            From `handles`.
        x : array_like of real numbers
            (n, input_size) or (n, rows, input_size).
        missing, out, num_threads
            As for `predict`; what is missing are the models that were deleted since.

        Returns
        -------
        float32 array
            (n, output_size) or (n, rows, output_size).

        Raises
        ------
        UnknownModelError
            The model of a handle was deleted.
        IndexError
            A number never was a handle.
        TypeError, ValueError
            An argument does not fit.
        """
        if num_threads is None and (missing is None or _is_missing(missing)):
            y: Float32Array | None = self._direct.by_handles(handles, x, out)
            if y is not None:
                return y
        self._now()
        missing = self._checked_missing(missing)
        # The caller's own code may run in here, so it comes before there is a guard.
        handles, x = as_int64(handles, "handles"), self._as_rows(x)
        return self._answer(
            handles,
            "handles",
            lambda slot_map: slot_map.slots_of(handles),
            x,
            missing,
            out,
            num_threads,
        )

    def predict(
        self,
        keys: Any,
        x: Any,
        *,
        missing: Missing | None = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
    ) -> Float32Array:
        """Send every row through the model of its key.

        Parameters
        ----------
        keys : sequence or column of n str, int or tuples, or one key
            In any order, repeats allowed: a list, a tuple, a NumPy array, a column of pandas,
            polars or pyarrow. Keys that are tuples may also be given as a MultiIndex or a data
            frame of their parts. None, NaN and NA are missing keys, and floats that are whole
            numbers are these: columns of int become float where they have gaps.
        x : array_like of real numbers
            (n, input_size) or (n, rows, input_size); for one key (input_size,) or (rows,
            input_size). A bank with an `input_shift` subtracts it in float64, so give it float64:
            float32 has lost the digits already. Where the bank knows `feature_names`, columns of a
            data frame are taken by these, in whatever order they are, and so is a pandas Series.
        missing : {"error", "nan", "fallback"}, optional
            What to do about unknown and missing keys: raise, answer NaN, or let the fallback model
            answer, which is the default if the bank has one.
        out : float32 array, optional
            Where the result is written, C-contiguous and not overlapping x.
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
        if num_threads is None and (missing is None or _is_missing(missing)):
            y: Float32Array | None = self._direct.by_keys(keys, x, out)
            if y is not None:
                return y
        self._now()
        known = self._known
        shift = known.input_shift
        given_x = x
        if type(x) is not np.ndarray:
            x = _knowledge.by_name(x, known.feature_names)
        if is_one(keys, self._slot_map.kind):
            x = as_float32(x, "x") if shift is None else as_real(x, "x")
            if out is not None and not isinstance(out, np.ndarray):
                raise InvalidTypeError(
                    f"out: expected a float32 NumPy array, got {type(out).__name__}"
                )
            one = None if out is None else out[None]
            y = self.predict([keys], x[None], missing=missing, out=one, num_threads=num_threads)
            return y[0] if out is None else out
        missing = self._checked_missing(missing)
        # The caller's own code may run in here, so it comes before there is a guard.
        given = to_find(keys)
        rows = as_float32(x, "x") if shift is None else as_shifted(x, shift, "x")
        threads = self._threads_of(num_threads)
        y = self._answer(
            given,
            "keys",
            lambda slot_map: slot_map.find(given, threads),
            rows,
            missing,
            out,
            num_threads,
        )
        if self._known is not known:  # the bank's first model came meanwhile
            return self.predict(keys, given_x, missing=missing, out=out, num_threads=num_threads)
        return y

    def _threads_of(self, num_threads: int | None) -> int:
        """Return how many threads a call uses at most."""
        most = self.engine.num_threads
        return min(as_threads(num_threads) or most, most)

    def _as_rows(self, x: Any) -> Float32Array:
        """Return rows as the models take them."""
        known = self._known
        x = _knowledge.by_name(x, known.feature_names)
        shift = known.input_shift
        return as_float32(x, "x") if shift is None else as_shifted(x, shift, "x")

    def _checked_missing(self, missing: Missing | None) -> Missing:
        if missing is None:
            return "error" if self._fallback is None else "fallback"
        if not _is_missing(missing):
            raise InvalidValueError(
                f"missing: expected one of 'error', 'nan', 'fallback', got {missing!r}"
            )
        return missing

    def _answer(
        self,
        given: Any,
        name: str,
        find: Find,
        x: Float32Array,
        missing: Missing,
        out: Float32Array | None,
        num_threads: int | None,
    ) -> Float32Array:
        """Predict for keys or handles. `find` gives slots (-1: unknown) and counts unknown ones."""

        def compute(seen: Seen, slots: Int64Array, unknown: int) -> Float32Array:
            try:
                if unknown == 0:
                    return seen.forward(x, slots, out, num_threads, name)
                return self._answer_some(seen, given, name, slots, x, missing, out, num_threads)
            except InvalidValueError as error:
                names = self._known.feature_names
                if names is None or x.shape[-1:] == (len(names),):
                    raise
                raise InvalidValueError(
                    f"{error}; the bank's features are {shown(names)}"
                ) from None

        return self._while_found(find, compute)

    def _while_found(self, find: Find, compute: Compute) -> Float32Array:
        """Compute with slots that stay those of their models until it is done."""
        state = self._now()
        guard = state.slot_map.core.enter()  # leaves with this frame, whatever happens
        try:
            before = None
            while True:
                slots, unknown = find(state.slot_map)
                try:
                    return compute(Seen(state), slots, unknown)
                except ModelNotLoadedError:
                    # It was removed while this call had its slot, and is unknown now.
                    if before is not None and np.array_equal(slots, before):
                        raise
                    before = slots
        finally:
            guard.leave()

    def _answer_some(
        self,
        seen: Seen,
        given: Any,
        name: str,
        slots: Int64Array,
        x: Float32Array,
        missing: Missing,
        out: Float32Array | None,
        num_threads: int | None,
    ) -> Float32Array:
        """Predict where some slots are -1."""
        if missing != "nan":
            slots = self._with_fallback(seen, given, name, slots, missing)
            return seen.forward(x, slots, out, num_threads, name)
        known = slots >= 0
        if x.ndim not in (2, 3) or x.shape[0] != len(slots):
            entry = name.removesuffix("s")
            raise InvalidValueError(
                f"x: expected shape ({len(slots)}, ...), one entry for each {entry}, got {x.shape}"
            )
        shape = (*x.shape[:-1], self.architecture.output_size)
        y = np.empty(shape, np.float32) if out is None else check_out(out, shape, x)
        # First, so that an error leaves `out` as it was.
        found = seen.forward(x[known], slots[known], None, num_threads, name)
        y[~known] = np.nan
        y[known] = found
        return y

    def _with_fallback(
        self, seen: Seen, given: Any, name: str, slots: Int64Array, missing: Missing
    ) -> Int64Array:
        """Return slots with that of the fallback for -1; UnknownModelError if there is none."""
        if missing == "error":
            raise self._unknown_of(given, slots, name)
        key = self._fallback
        fallback = -1 if key is None else seen.state.slot_map.slot(key)
        if fallback < 0:
            raise self._unknown_of(given, slots, name, self._no_fallback())
        return np.where(slots < 0, fallback, slots)

    def _no_fallback(self) -> str:
        if self._fallback is None:
            return "; missing='fallback' needs a fallback, set bank.fallback to the key of a model"
        return f"; the fallback {self._fallback!r:.80} has no model itself"

    def _unknown_of(
        self, given: Any, slots: Int64Array, name: str, way: str = ""
    ) -> UnknownModelError:
        """Return the error for the keys or handles whose slot is -1."""
        unknown = np.flatnonzero(slots < 0).tolist()
        if not isinstance(given, GivenKeys):
            return UnknownModelError([int(given[i]) for i in unknown], len(slots), name, way=way)
        keys = [given[i] for i in unknown]
        gap = next((i for i, key in zip(unknown, keys, strict=True) if key is None), None)
        way = way or self._slot_map.way_to_known(keys)
        return UnknownModelError(keys, len(slots), name, gap, way)

    async def apredict(
        self,
        keys: Any,
        x: Any,
        *,
        missing: Missing | None = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
    ) -> Float32Array:
        """Predict in a worker thread while the event loop goes on; all as for `predict`.

        Handing over takes longer than predicting for a few small models; docs/serving.md has
        figures.
        """
        import asyncio  # only here: it takes longer than all other imports together

        return await asyncio.to_thread(
            self.predict, keys, x, missing=missing, out=out, num_threads=num_threads
        )


def _is_missing(missing: Any) -> bool:
    return isinstance(missing, str) and missing in ("error", "nan", "fallback")
