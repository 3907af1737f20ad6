"""Results as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlpbank.bench.contender import Settings
from mlpbank.bench.limits import Limits
from mlpbank.bench.measure import CaseResult
from mlpbank.engine import Engine
from mlpbank.files._atomic import atomic_writer

FORMAT = 1  # of the JSON file
QUIET = 0.05  # share of the CPUs that other processes may take without a warning
_LIMIT_NAMES = {"read": "reading the parameters", "fma": "multiply-adds"}


def three_digits(value: float) -> str:
    """Return a number with three digits, or all before the point: 1.23, 12.3, 1234, and 0.012."""
    if not math.isfinite(value):
        return str(float(value))
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"


def microseconds(value: float) -> str:
    """Return a time in microseconds with its unit."""
    return f"{three_digits(value)} us"


def head(about: dict[str, Any], settings: Settings) -> str:
    """Return the lines above the results of a run: the machine and the versions."""
    engine = Engine(settings.threads, settings.isa)
    threads = f"{engine.num_threads} of {about['cpus']} CPUs"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['cpu']}, {threads}, {engine.isa}, {settings.dtype}\n{versions}"


def load_note(other_load: float | None) -> list[str]:
    """Return a line that warns of other processes if they took much CPU time."""
    if (other_load or 0) <= QUIET:
        return []
    took = f"  Other processes took {other_load:.0%} of the CPUs meanwhile"
    return [f"{took}: do not rely on these figures."]


def case_table(result: CaseResult) -> str:
    """Return the contenders, limits and share of a case as lines of text."""
    megabytes, megaflop = result.nbytes / 1e6, result.flops / 1e6
    lines = [
        f"{result.case}: {result.case.activation}, "
        f"{megabytes:.3g} MB of parameters, {megaflop:.3g} MFLOP"
    ]
    if result.timings:
        lines.append(f"  {'':14}{'median':>12}{'p10':>12}{'p90':>12}   mlpbank is faster by")
    for timing in result.timings:
        times = (timing.median_us, timing.p10_us, timing.p90_us)
        figures = "".join(f"{microseconds(t):>12}" for t in times)
        ratio = "" if timing is result.timings[0] else f"{timing.speedup:.3g}"
        lines.append(f"  {timing.name:14}{figures}   {ratio:<9}{timing.detail}".rstrip())
    lines += [f"  {name:14}WRONG, not timed: {why}" for name, why in result.wrong.items()]
    lines += [f"  {name:14}skipped: {why}" for name, why in result.left_out.items()]
    if limits := result.limits:
        fma = limits.fma_gflop_per_s[result.isa]
        lines += [
            f"  Limits: reading takes {microseconds(limits.read_us)} at "
            f"{limits.read_gb_per_s:.1f} GB/s, multiply-adds {microseconds(limits.fma_us)} at "
            f"{fma:.0f} GFLOP/s ({result.isa}).",
            _share_line(limits),
        ]
    return "\n".join(lines + load_note(result.other_load))


def _share_line(limits: Limits) -> str:
    name = _LIMIT_NAMES[limits.binding]
    if limits.disturbed:
        return (
            f"  mlpbank was faster than the limit of {name} ({limits.share:.1%} of it), also after "
            f"{limits.measured} measurements: that limit was disturbed, and its share says nothing."
        )
    return f"  What binds is {name}; mlpbank reaches {limits.share:.0%} of it."


def summary_table(results: Sequence[CaseResult]) -> str:
    """Return a Markdown table of all cases."""
    header = ("models × sizes, rows per model", "mlpbank", "fastest peer", "faster by", "share of")
    table = [header, *(_summary_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, tuple("-" * width for width in widths))
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    beaten = sum(result.limits is not None and result.limits.disturbed for result in results)
    if beaten:
        lines.append(f"\nThe limits of {beaten} of {len(results)} cases were disturbed: no share.")
    loaded = sum((result.other_load or 0) > QUIET for result in results)
    if loaded:
        lines.append(f"\nOther processes disturbed {loaded} of {len(results)} cases: see there.")
    return "\n".join(lines)


def _summary_row(result: CaseResult) -> tuple[str, ...]:
    limits, peer = result.limits, result.best_peer
    share = ""
    if limits:
        share = f"{limits.binding} {'disturbed' if limits.disturbed else f'{limits.share:.0%}'}"
    return (
        str(result.case),
        microseconds(result.timings[0].median_us) if result.timings else "wrong",
        f"{peer.name} {microseconds(peer.median_us)}" if peer else "",
        f"{peer.speedup:.3g}" if peer else "",
        share,
    )


def as_json(
    about: dict[str, Any],
    blas: list[dict[str, Any]],
    settings: Settings,
    results: Sequence[CaseResult],
) -> dict[str, Any]:
    """Return all results of a run, in types that `json` writes."""
    return {
        "format": FORMAT,
        "machine": about,
        "blas": blas,
        "threads": settings.threads,
        "dtype": settings.dtype,
        "cases": [_case_as_json(result) for result in results],
    }


def _case_as_json(result: CaseResult) -> dict[str, Any]:
    peer = result.best_peer
    return {
        **dataclasses.asdict(result),
        "label": str(result.case),
        "best_peer": peer.name if peer else None,
        "ratio": peer.speedup if peer else None,
        "limit_disturbed": bool(result.limits and result.limits.disturbed),
    }


def write_json(path: Path, everything: dict[str, Any]) -> None:
    """Write a file atomically, or write into a pipe."""
    data = (json.dumps(everything, indent=1, ensure_ascii=False) + "\n").encode()
    if path.exists() and not path.is_file():  # a pipe or /dev/stdout
        path.write_bytes(data)
        return
    with atomic_writer(path) as file:
        file.write(data)
