"""What sections are made of: steps, each of which measures and returns a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.table import Factor, Microseconds, Row, Table
from mlpbank.bench.measure import Comparison, Progress


@dataclass(frozen=True)
class Step:
    """One table of a section. `run` is given what it reports its progress to."""

    label: str
    run: Callable[[Progress], Table]


def rows_of(comparison: Comparison) -> list[Row]:
    """Return a row for each contender, compared with the first."""
    first = comparison.timings[0].name if comparison.timings else ""
    return [
        {
            "": timing.name,
            "median": Microseconds(timing.median_us),
            "p10": Microseconds(timing.p10_us),
            "p90": Microseconds(timing.p90_us),
            f"{first} is faster by": Factor(timing.speedup) if timing.name != first else "",
            "how": timing.detail,
        }
        for timing in comparison.timings
    ]


def table_of(title: str, rows: list[Row], *comparisons: Comparison) -> Table:
    """Return a table of `rows`, with what else there is to say about the comparisons behind it."""
    wrong = {name: why for found in comparisons for name, why in found.wrong.items()}
    left_out = {name: why for found in comparisons for name, why in found.left_out.items()}
    loads = [found.other_load for found in comparisons if found.other_load is not None]
    failed = any(found.failed for found in comparisons)
    return Table(title, rows, wrong, left_out, failed, max(loads, default=None))


def part_of(progress: Progress, index: int, parts: Sequence[object], name: str) -> Progress:
    """Return what part `index` of `parts` reports its progress to."""
    return lambda fraction, doing: progress((index + fraction) / len(parts), f"{name}: {doing}")
