"""What a bank knows of its models beside their weights, as columns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._keys import Table, encode, table_size


@dataclass(frozen=True)
class ModelColumns:
    """What is known of n models, at the positions that are their slots.

    Attributes
    ----------
    table : StringTable, IntTable or None
        Their keys; None if there never was one.
    generations : int64 array (n,)
    loaded_at : float64 array (n,)
        Seconds since 1970.
    version_offsets, version_bytes : uint64 array (n + 1,) and uint8 array
        Versions as UTF-8, empty for None.
    """

    table: Table | None
    generations: npt.NDArray[np.int64]
    loaded_at: npt.NDArray[np.float64]
    version_offsets: npt.NDArray[np.uint64]
    version_bytes: npt.NDArray[np.uint8]

    @classmethod
    def new(cls, table: Table | None, version: str | None = None) -> ModelColumns:
        """Return the records of models that have just been loaded."""
        n = 0 if table is None else table_size(table)
        check_version(version)
        encoded = np.frombuffer((version or "").encode(), np.uint8)
        offsets = np.arange(n + 1, dtype=np.uint64) * np.uint64(len(encoded))
        return cls(table, np.ones(n, np.int64), np.full(n, time.time()), offsets, np.tile(encoded, n))

    def version(self, i: int) -> str | None:
        """Return the version of one model."""
        begin, end = (int(offset) for offset in self.version_offsets[i : i + 2])
        return self.version_bytes[begin:end].tobytes().decode(errors="replace") or None


def check_version(version: Any) -> None:
    """Raise TypeError or ValueError if this could not be the version of a model."""
    if version is None:
        return
    if not isinstance(version, str):
        raise TypeError(f"version: expected a str, got {version!r}")
    encode(version, "version")
