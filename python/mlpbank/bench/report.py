"""Results as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlpbank.bench.measure import CaseResult, Timing
from mlpbank.bench.table import QUIET, Microseconds, Table

_BINDING = {"read": "reading the parameters", "fma": "multiply-adds"}


def microseconds(value: float) -> str:
    """Return three digits or all before the point: 1.23 us, 12.3 us, 1234 us."""
    return str(Microseconds(value))


def case_table(result: CaseResult) -> str:
    """Return one case's contenders, limits and share, in lines of text."""
    case = result.case
    lines = [f"{case}: {case.activation}, {result.nbytes / 1e6:.3g} MB of parameters, {result.flops / 1e6:.3g} MFLOP"]
    if result.timings:
        lines.append(f"  {'':14}{'median':>12}{'p10':>12}{'p90':>12}   mlpbank is faster by")
    for timing in result.timings:
        figures = "".join(f"{microseconds(v):>12}" for v in (timing.median_us, timing.p10_us, timing.p90_us))
        ratio = "" if timing is result.timings[0] else f"{timing.speedup:.3g}"
        lines.append(f"  {timing.name:14}{figures}   {ratio:<9}{timing.detail}".rstrip())
    for name, why in result.wrong.items():
        lines.append(f"  {name:14}WRONG, not timed: {why}")
    for name, why in result.left_out.items():
        lines.append(f"  {name:14}skipped: {why}")
    if limits := result.limits:
        lines.append(
            f"  Limits: reading takes {microseconds(limits.read_us)} at {limits.read_gb_per_s:.1f} GB/s, "
            f"multiply-adds {microseconds(limits.fma_us)} at {limits.fma_gflop_per_s[result.isa]:.0f} GFLOP/s "
            f"({result.isa})."
        )
        lines.append(f"  What binds is {_BINDING[limits.binding]}; mlpbank reaches {limits.share:.0%} of it.")
    if (result.other_load or 0) > QUIET:
        lines.append(
            f"  Other processes took {result.other_load:.0%} of the CPUs meanwhile: do not rely on these figures."
        )
    return "\n".join(lines)


def summary_table(results: Sequence[CaseResult]) -> str:
    """Return a Markdown table of all cases."""
    header = ("models × sizes, rows per model", "mlpbank", "fastest peer", "faster by", "share of")
    table = [header, *(_summary_row(result) for result in results)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    disturbed = [result for result in results if (result.other_load or 0) > QUIET]
    if disturbed:
        lines.append(
            f"\nOther processes disturbed {len(disturbed)} of {len(results)} cases: do not rely on their figures."
        )
    return "\n".join(lines)


def _summary_row(result: CaseResult) -> tuple[str, ...]:
    case, limits, peer = result.case, result.limits, result.best_peer
    return (
        str(case),
        microseconds(result.timings[0].median_us) if result.timings else "wrong",
        f"{peer.name} {microseconds(peer.median_us)}" if peer else "",
        f"{peer.speedup:.3g}" if peer else "",
        f"{limits.binding} {limits.share:.0%}" if limits else "",
    )


def as_json(
    machine: dict[str, Any],
    blas: list[dict[str, Any]],
    threads: int,
    dtype: str,
    results: Sequence[CaseResult],
    sections: Mapping[str, Sequence[Table]],
) -> dict[str, Any]:
    """Return everything a run found, of types that `json` writes."""
    return {
        "format": 1,
        "machine": machine,
        "blas": blas,
        "threads": threads,
        "dtype": dtype,
        "cases": [_case_as_json(result) for result in results],
        "sections": {name: [table.as_json() for table in tables] for name, tables in sections.items()},
    }


def _case_as_json(result: CaseResult) -> dict[str, Any]:
    best: Timing | None = result.best_peer
    return {
        **dataclasses.asdict(result),
        "label": str(result.case),
        "best_peer": best.name if best else None,
        "ratio": result.ratio,
    }
