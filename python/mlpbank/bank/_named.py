"""What a Bank answers by names: data frames, labels, and who answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._frames import Frame, frame_of
from mlpbank._key_columns import as_keys, is_one
from mlpbank._keys import kind_name
from mlpbank.bank import _knowledge
from mlpbank.bank._reads import BankReads
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Missing


class BankNamed(BankReads):
    """The part of `Bank` that knows names of features and classes."""

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the inputs in their order, or None where they are not known.

        They are given to the bank, or are those of its first models. `predict_frame` takes columns
        by them, and `predict` those of a data frame.
        """
        return self._known.feature_names

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The classes that `predict_class` gives, of str, int, float or bool; None for others.

        One for each output, or two for one output, the probability of the second.
        """
        return self._known.classes

    def predict_frame(
        self,
        df: Any,
        *,
        key: str | list[str],
        features: Sequence[str] | None = None,
        name: str = "prediction",
        missing: Missing | None = None,
        num_threads: int | None = None,
    ) -> Any:
        """Predict for every row of a data frame.

        Parameters
        ----------
        df : pandas or polars DataFrame, Arrow Table or RecordBatch
            Or what offers itself as an Arrow stream, which needs pyarrow.
        key : str or list of str
            The column of keys, or those of the parts of keys that are tuples.
        features : sequence of str, optional
            The columns of inputs, input_size of them in order. A bank that knows `feature_names`
            needs none, takes columns by these, and refuses others.
        name : str
            Of the result; with several outputs ``<name>_0``, ``<name>_1``, ...
        missing, num_threads
            As for `predict`.

        Returns
        -------
        column, or data frame where the models have several outputs
            Of the kind of `df`; in pandas with its index. Of an Arrow stream: of a Table.

        Raises
        ------
        UnknownModelError, TypeError, ValueError
            As for `predict`; also where a column of inputs is not of numbers.
        KeyError
            A column is missing, or there are several of its name.
        """
        if not isinstance(name, str):
            raise InvalidTypeError(f"name: expected a str, got {name!r:.80}")
        known = self._known
        columns = _knowledge.chosen(features, known.feature_names, self.architecture.input_size)
        frame = frame_of(df)
        keys, inputs = self._keys_of_frame(frame, key), frame.numbers(columns, "features")
        y = self.predict(keys, inputs, missing=missing, num_threads=num_threads)
        if self._known is not known:  # the bank's first model came meanwhile
            return self.predict_frame(
                df, key=key, features=features, name=name, missing=missing, num_threads=num_threads
            )
        one = y.shape[1] == 1
        names = [name] if one else [f"{name}_{i}" for i in range(y.shape[1])]
        return frame.with_results({name: y[:, i] for i, name in enumerate(names)}, one)

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
        return frame.columns(key, "key")

    def predict_class(
        self,
        keys: Any,
        x: Any,
        *,
        missing: Missing | None = None,
        num_threads: int | None = None,
    ) -> npt.NDArray[Any]:
        """Return the label of every row, of `classes`, by the model of its key.

        Of several outputs the largest counts, the first of equal ones. One sigmoid output is the
        probability of the second of two classes, which it says if it is greater than 0.5.

        Parameters
        ----------
        keys, x, missing, num_threads
            As for `predict`.

        Returns
        -------
        array
            (n,) or (n, rows), of the dtype of the classes; for one key without the first dimension.
            With ``missing="nan"`` an array of objects, None where the outputs are NaN.

        Raises
        ------
        RuntimeError
            The bank does not know classes, as those of regressors, or its outputs do not tell one.
        ValueError
            Outputs are NaN, as those of features that are, and `missing` is another.
        UnknownModelError, TypeError
            As for `predict`; ValueError, too.
        """
        known = self._known
        _knowledge.checked_classes(known.classes, self.architecture)
        y = self.predict(keys, x, missing=missing, num_threads=num_threads)
        return _knowledge.labels(y, known.classes, self.architecture, missing == "nan")

    def sources(self, keys: Any) -> npt.NDArray[np.str_]:
        """Return who answers for each key now, as the fallback may.

        So a row that the fallback answered can be told from others, and a NaN of a missing model
        from one of a feature.

        Parameters
        ----------
        keys : sequence or column of n str, int or tuples, or one key
            As for `predict`.

        Returns
        -------
        array of str (n,)
            ``"model"``: the model of the key. ``"fallback"``: the key is unknown or missing, and
            the bank has a fallback. ``"missing"``: there is none. For one key a str.
        """
        if is_one(keys, self._slot_map.kind):
            one: Any = self.sources([keys])[0]
            return one  # type: ignore[no-any-return]
        given = as_keys(keys)
        guard = self._slot_map.core.enter()  # leaves with this frame, whatever happens
        try:
            slots, _ = self._slot_map.find(given)
            has_fallback = self._fallback is not None and self._slot_map.slot(self._fallback) >= 0
        finally:
            guard.leave()
        return np.where(slots >= 0, "model", "fallback" if has_fallback else "missing")
