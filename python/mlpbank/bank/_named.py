"""What a Bank answers by names: labels, and who answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._key_columns import as_keys, is_one
from mlpbank.bank import _knowledge
from mlpbank.bank._tables import BankTables
from mlpbank.typing import Missing


class BankNamed(BankTables):
    """The part of `Bank` that knows names of features and classes."""

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the inputs in their order, or None where they are not known.

        They are given to the bank, or are those of its first models. `predict_frame` takes columns
        by them, and `predict` those of a data frame.
        """
        self._now()
        return self._known.feature_names

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The classes that `predict_class` gives, of str, int, float or bool; None for others.

        One for each output, or two for one output, the probability of the second.
        """
        self._now()
        return self._known.classes

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
        self._now()
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
        slot_map, fallback = self._now().slot_map, self._fallback
        guard = slot_map.core.enter()  # leaves with this frame, whatever happens
        try:
            slots, _ = slot_map.find(given)
            has_fallback = fallback is not None and slot_map.slot(fallback) >= 0
        finally:
            guard.leave()
        return np.where(slots >= 0, "model", "fallback" if has_fallback else "missing")
