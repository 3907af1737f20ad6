"""Predictions of ``mlpbank predict`` as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from mlpbank.cli._tables import Keys
from mlpbank.typing import Float32Array

_BATCH = 10_000  # rows written at once


class _Lines:
    """Writes rows that end with a line feed alone.

    The csv module quotes a carriage return in a key only if its own line terminator has one, so the
    writer ends rows with both, and this takes the carriage return away.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def write_csv(
    file: TextIO, key: Sequence[str], keys: Keys, names: Sequence[str], y: Float32Array
) -> None:
    """Write keys and predictions with a header. NaN and a missing key become an empty cell."""
    writer = csv.writer(_Lines(file), lineterminator="\r\n")
    writer.writerow([*key, *names])
    for first in range(0, len(y), _BATCH):
        part = y[first : first + _BATCH]
        cells = part.astype(str).astype(object)  # the fewest digits that restore the float32
        cells[np.isnan(part)] = ""
        rows = zip(keys[first : first + _BATCH], cells.tolist(), strict=True)
        writer.writerows([*k, *row] if isinstance(k, tuple) else [k, *row] for k, row in rows)
