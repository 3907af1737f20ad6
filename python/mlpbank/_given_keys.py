"""Keys to look up, as the core takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._keys import asked_key
from mlpbank.typing import Key


@dataclass(slots=True)
class GivenKeys:
    """Keys to look up, as the core takes them.

    Attributes
    ----------
    values : list, int64 array, array of text or ArrowKeys, (n,)
        str or tuples, with None where a key is missing, or ints; or Arrow columns of any of these.
        Of `to_find` also an array of objects, of which the first is a str.
    kind : type or None
        Of the keys that are there; None if none is.
    gaps : bool array (n,) or None
        Where an int is missing.
    from_floats : bool
        Whether ints were floats that are whole numbers.
    codes : int array (m,) or None
        The m keys are values[codes], missing where the code is -1: those of a column of categories.
    """

    values: list[Any] | npt.NDArray[Any] | _core.ArrowKeys
    kind: Any
    gaps: npt.NDArray[np.bool_] | None = None
    from_floats: bool = False
    codes: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.values if self.codes is None else self.codes)

    def __getitem__(self, i: Any) -> Key | None:
        if self.codes is not None:
            i = int(self.codes[i])
            if i < 0:
                return None
        if isinstance(self.values, list):
            return self.values[i]  # type: ignore[no-any-return]
        if isinstance(self.values, _core.ArrowKeys):
            return self.values.between(i, i + 1)[0]  # type: ignore[no-any-return]
        if self.values.dtype.kind == "O":
            return asked_key(self.values[i], f"keys[{i}]")
        gap = self.gaps is not None and self.gaps[i]
        return None if gap else self.values[i].item()

    def to_list(self) -> list[Key | None]:
        """Return the keys, None where one is missing."""
        values = self.values
        if isinstance(values, _core.ArrowKeys):
            return values.between(0, len(values))
        if not isinstance(values, list) and values.dtype.kind == "O":
            return [asked_key(value, f"keys[{i}]") for i, value in enumerate(values)]
        found: list[Key | None] = values if isinstance(values, list) else values.tolist()
        for i in [] if self.gaps is None else np.flatnonzero(self.gaps).tolist():
            found[i] = None
        if self.codes is not None:
            return [None if code < 0 else found[code] for code in self.codes.tolist()]
        return found


@dataclass(slots=True)
class Parts:
    """Columns of one length, of any library, with the parts of keys that are tuples."""

    columns: list[Any]
