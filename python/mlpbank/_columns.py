"""What a bank knows about its models beside their weights, in columns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._key_tables import Table
from mlpbank._keys import encode
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Int64Array, Key


@dataclass(frozen=True)
class ModelInfo:
    """What a bank knows about one model beside its weights.

    Attributes
    ----------
    key : str, int or tuple
    version : str or None
        The version given with the last load.
    revision : int
        How often a model was loaded under this key.
    loaded_at : datetime
        When it was last loaded, in UTC.
    """

    key: Key
    version: str | None
    revision: int
    loaded_at: datetime


@dataclass(frozen=True)
class ModelColumns:
    """What a bank knows about n models, one column for each fact. Row i describes slot i.

    Attributes
    ----------
    table : StringTable, TupleTable, IntTable or None
        The keys, or None if there never was one.
    revisions : int64 array (n,)
    loaded_at : float64 array (n,)
        Seconds since 1970.
    version_offsets, version_bytes : uint64 array (n + 1,) and uint8 array
        Versions in UTF-8; an empty one means None.
    reuse_counts : uint32 array (n,) or None
        How many models each slot has lost; None: all 0.
    """

    table: Table | None
    revisions: Int64Array
    loaded_at: npt.NDArray[np.float64]
    version_offsets: npt.NDArray[np.uint64]
    version_bytes: npt.NDArray[np.uint8]
    reuse_counts: npt.NDArray[np.uint32] | None = None

    @classmethod
    def new(
        cls, table: Table | None, version: str | Sequence[str | None] | None = None
    ) -> ModelColumns:
        """Return the columns of newly loaded models, with one version for all or one for each.

        Raises
        ------
        TypeError, ValueError
            A version is not a str, or there is not one for each model.
        """
        n = 0 if table is None else len(table)
        if version is None or isinstance(version, str):
            check_version(version)
            encoded = [(version or "").encode()] * n
        else:
            if not isinstance(version, (list, tuple)):
                raise InvalidTypeError(
                    f"version: expected a str or a list of one for each model, got {version!r:.80}"
                )
            if len(version) != n:
                raise InvalidValueError(
                    f"version: expected one for each of {n} models, got {len(version)}"
                )
            for i, one in enumerate(version):
                check_version(one, f"version[{i}]")
            encoded = [(one or "").encode() for one in version]
        offsets = np.zeros(n + 1, np.uint64)
        np.cumsum(np.fromiter(map(len, encoded), np.uint64, n), out=offsets[1:])
        data = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(table, np.ones(n, np.int64), np.full(n, time.time()), offsets, data)

    @property
    def key_type(self) -> Any:
        """The type of the keys, None if there never was one."""
        return None if self.table is None else self.table.key_type

    @property
    def vacant(self) -> list[int]:
        """Slots that have no model."""
        return [] if self.table is None else self.table.vacant

    def version(self, i: int) -> str | None:
        """Return the version of the model in slot i."""
        begin, end = (int(offset) for offset in self.version_offsets[i : i + 2])
        return self.version_bytes[begin:end].tobytes().decode(errors="replace") or None


def check_version(version: Any, name: str = "version") -> None:
    """Raise TypeError or ValueError if `version` cannot be the version of a model."""
    if version is None:
        return
    if not isinstance(version, str):
        raise InvalidTypeError(f"{name}: expected a str, got {version!r}")
    encode(version, name)
