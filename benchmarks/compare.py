"""The ratios of two results, of ``python -m benchmarks`` or of ``mlpbank bench --json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlpbank.bench.report import FORMAT, three_digits

Key = tuple[str, str, str]  # table, row, column
_CASE_COLUMNS = {"median_us": "median (us)", "speedup": "mlpbank is faster by"}


def read(path: Path) -> dict[str, Any]:
    """Return a result, or raise a ValueError that says why the file is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from None
    if not isinstance(result, dict) or not {"cases", "tables"} & set(result):
        raise ValueError(f"{path}: expected a result of a benchmark")
    if result.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {result.get('format')}")
    return result


def figures(result: dict[str, Any]) -> dict[Key, float]:
    """Return all numbers of a result."""
    found: dict[Key, float] = {}
    for key, value in (*_of_cases(result), *_of_tables(result)):
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def _of_cases(result: dict[str, Any]) -> Iterator[tuple[Key, Any]]:
    for case in result.get("cases", ()):
        for i, timing in enumerate(case["timings"]):
            for name, column in list(_CASE_COLUMNS.items())[: 1 if i == 0 else 2]:
                yield (case["label"], timing["name"], column), timing[name]
        limits = case["limits"] or {}
        if limits and not case["limit_disturbed"]:
            yield (case["label"], "mlpbank", "share of the limit"), limits["share"]


def _of_tables(result: dict[str, Any]) -> Iterator[tuple[Key, Any]]:
    for table in result.get("tables", ()):
        for row in table["rows"]:
            for column, value in row.items():
                unit = table["units"].get(column, "")
                yield (
                    (table["title"], row.get("", ""), f"{column} ({unit})" if unit else column),
                    value,
                )


def compare(a: Path, b: Path) -> str:
    """Return a line for each number that both files have: both values and B / A."""
    results = [read(path) for path in (a, b)]
    first, second = map(figures, results)
    both = [key for key in first if key in second]
    if not both:
        raise ValueError(f"{a} and {b} have no figure in common")
    lines = [f"{name}: {_origin(result)}" for name, result in zip("AB", results, strict=True)]
    title = ""
    for key in both:
        if key[0] != title:
            title = key[0]
            lines += ["", f"{title:56}{'A':>10}{'B':>10}{'B / A':>10}"]
        x, y = first[key], second[key]
        ratio = f"{y / x:.3f}" if x else ""
        label = f"  {key[1]}, {key[2]}" if key[1] else f"  {key[2]}"
        lines.append(f"{label:56}{three_digits(x):>10}{three_digits(y):>10}{ratio:>10}")
    alone = [len(own) - len(both) for own in (first, second)]
    if any(alone):
        lines += ["", f"{alone[0]} figures only in A, {alone[1]} only in B"]
    return "\n".join(lines)


def _origin(result: dict[str, Any]) -> str:
    about = result["machine"]
    threads = f"{result['threads']} of {about['cpus']} CPUs"
    version = about["versions"].get("mlpbank", "?")
    return f"{about['cpu']}, {threads}, {result['dtype']}, mlpbank {version}"
