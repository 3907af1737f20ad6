"""Tables of quantities: printed for people, written as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

QUIET = 0.05  # what other processes may take of the machine


def three_digits(value: float) -> str:
    """Return three digits, or all before the point: 1.23, 12.3, 1234."""
    if not math.isfinite(value):
        return str(float(value))
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"


class Quantity(float):
    """A number with a unit, which `json` writes as a number."""

    unit: ClassVar[str] = ""

    def __str__(self) -> str:
        return f"{three_digits(self)} {self.unit}".rstrip()


class Microseconds(Quantity):
    """A time of a call, as most are."""

    unit = "us"


class Nanoseconds(Quantity):
    """A time of a model or a row."""

    unit = "ns"


class GigabytesPerSecond(Quantity):
    """How fast memory is read or written."""

    unit = "GB/s"


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

    Parameters
    ----------
    title : str
        What was measured.
    rows : sequence of mapping of str to str, int or Quantity
        By column. Not every row has every column.
    wrong, left_out : dict of str to str
        Whose numbers were wrong, and who could not take part; and why.
    other_load : float, optional
        Share of all CPUs that other processes took meanwhile.
    """

    title: str
    rows: Sequence[Row]
    wrong: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    other_load: float | None = None

    @property
    def columns(self) -> list[str]:
        """All columns, in the order in which rows name them."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def __str__(self) -> str:
        columns = self.columns
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        # Text stands to the left of its column, numbers to the right of theirs.
        is_text = [all(isinstance(row.get(column, ""), str) for row in self.rows) for column in columns]

        def aligned(line: list[str]) -> str:
            cells = zip(line, widths, is_text, strict=True)
            return "  " + "  ".join(c.ljust(w) if text else c.rjust(w) for c, w, text in cells).rstrip()

        text = [self.title, *map(aligned, lines if self.rows else [])]
        text += [f"  {name}: WRONG, not timed: {why}" for name, why in self.wrong.items()]
        text += [f"  {name}: skipped: {why}" for name, why in self.left_out.items()]
        if (self.other_load or 0) > QUIET:
            text.append(
                f"  Other processes took {self.other_load:.0%} of the CPUs meanwhile: do not rely on these figures."
            )
        return "\n".join(text)

    def as_json(self) -> dict[str, Any]:
        """Return everything, of types that `json` writes."""
        units = {column: cell.unit for row in self.rows for column, cell in row.items() if isinstance(cell, Quantity)}
        return {
            "title": self.title,
            "units": units,
            # What was not timed is NaN, which JSON does not know.
            "rows": [{column: None if cell != cell else cell for column, cell in row.items()} for row in self.rows],
            "wrong": self.wrong,
            "left_out": self.left_out,
            "other_load": self.other_load,
        }
