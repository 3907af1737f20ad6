"""Tables of quantities: printed for people, written as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlpbank.bench.report import load_note, three_digits


class Quantity(float):
    """A number with a unit. `json` writes the number."""

    unit: ClassVar[str] = ""

    def __str__(self) -> str:
        return f"{three_digits(self)} {self.unit}".rstrip()


class Microseconds(Quantity):
    """A time of a call, as most are."""

    unit = "us"


class Milliseconds(Quantity):
    """A time of what users wait for."""

    unit = "ms"


class Seconds(Quantity):
    """A time of a long job."""

    unit = "s"


class PerSecond(Quantity):
    """How often something happens in a second."""

    unit = "/s"


class Mebibytes(Quantity):
    """A size of memory."""

    unit = "MiB"


class Nanoseconds(Quantity):
    """A time of a model or a row."""

    unit = "ns"


class GigabytesPerSecond(Quantity):
    """How fast memory is read or written."""

    unit = "GB/s"


class MegabytesPerSecond(Quantity):
    """How fast a disk is written."""

    unit = "MB/s"


class Factor(Quantity):
    """How many times as fast, or as long."""

    unit = "×"


class Share(Quantity):
    """A part of a whole, from 0 to 1 or somewhat more."""

    def __str__(self) -> str:
        return f"{float(self):.0%}"


class Surplus(Quantity):
    """How much more than something else, as a part of it."""

    def __str__(self) -> str:
        return f"{float(self):+.0%}"


Cell = str | int | Quantity
Row = Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """What one part of a run found.

    Rows are by column. Not every row has every column.
    """

    title: str
    rows: Sequence[Row]
    wrong: dict[str, str] = field(default_factory=dict)  # what is wrong with whose numbers
    left_out: dict[str, str] = field(default_factory=dict)  # why a contender was not timed
    failed: bool = False  # one of those that are wrong is ours
    other_load: float | None = None  # share of all CPUs that other processes took meanwhile

    @property
    def columns(self) -> list[str]:
        """All columns, in the order in which rows name them."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def __str__(self) -> str:
        columns = self.columns
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        # Text stands to the left of its column, numbers to the right of theirs.
        is_text = [
            all(isinstance(row.get(column, ""), str) for row in self.rows) for column in columns
        ]

        def aligned(line: list[str]) -> str:
            cells = zip(line, widths, is_text, strict=True)
            return (
                "  "
                + "  ".join(c.ljust(w) if text else c.rjust(w) for c, w, text in cells).rstrip()
            )

        text = [self.title, *map(aligned, lines if self.rows else [])]
        text += [f"  {name}: WRONG, not timed: {why}" for name, why in self.wrong.items()]
        text += [f"  {name}: skipped: {why}" for name, why in self.left_out.items()]
        return "\n".join(text + load_note(self.other_load))

    def as_json(self) -> dict[str, Any]:
        """Return everything, of types that `json` writes."""
        cells = [(column, cell) for row in self.rows for column, cell in row.items()]
        units = {column: cell.unit for column, cell in cells if isinstance(cell, Quantity)}
        return {
            "title": self.title,
            "units": units,
            "rows": [{c: _finite(cell) for c, cell in row.items()} for row in self.rows],
            "wrong": self.wrong,
            "left_out": self.left_out,
            "failed": self.failed,
            "other_load": self.other_load,
        }


def _finite(cell: Cell) -> Cell | None:
    """Return None for a NaN, which JSON does not know: what was not timed."""
    return None if cell != cell else cell
