"""Measure one section, or compare two results. Run it from the repository.

python -m benchmarks SECTION [options]
python -m benchmarks compare A.json B.json
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import compare
from benchmarks.table import Table
from mlpbank.bench import machine, report
from mlpbank.bench.options import (
    add_settings,
    checked_output,
    checked_seconds,
    make_settings,
)
from mlpbank.bench.progress import ProgressBar

RESULTS = Path(__file__).parent / "results"
# Each is a module in `sections` with `steps(args)` and, if it has options, `add_arguments(parser)`.
SECTIONS = {
    "ids": "any rows for any models, beside PyTorch",
    "edge": "calls by key: one row, few keys, tables",
    "dtypes": "weights of each precision",
    "swap": "models replaced while others predict; loading",
    "more": "mlpbank beside itself: instruction sets, threads, sizes, activations",
    "threads": "many callers, Python and an event loop beside, imports (docs/threads.md)",
    "microbatcher": "single rows from many asyncio tasks (docs/serving.md)",
    "service": "load on the example service (docs/serving.md)",
    "activation_errors": "the largest error of each activation (docs/activations.md)",
    "precision": "accuracy of the flights in each precision (docs/precision.md)",
    "convert": "reading PyTorch modules",
    "keys": "looking up keys, beside a dict and pandas",
    "scale": "Spark and Ray Data, beside what people write by hand (docs/scale.md)",
    "open": "memory and pages when a bank file is opened",
    "live": "a bank in a folder that processes change and follow (docs/live.md)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0; 1 where numbers of mlpbank were wrong; 2 for wrong arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="SECTION", dest="section")
    for name, help in SECTIONS.items():
        section = commands.add_parser(name, help=help, description=help)
        if arguments[:1] == [name]:
            _add_arguments(section, import_module(f"benchmarks.sections.{name}"))
    files = commands.add_parser("compare", help="print the ratios of two results")
    files.add_argument("a", metavar="A.json", type=Path)
    files.add_argument("b", metavar="B.json", type=Path)
    args = parser.parse_args(arguments)
    try:
        if args.section == "compare":
            print(compare.compare(args.a, args.b))
            return 0
        args.settings = make_settings(args)
        args.seconds = checked_seconds(args.seconds)
        args.json = checked_output(args.json, "--json")
    except (OSError, ValueError, TypeError, OverflowError) as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    return run(args)


def _add_arguments(parser: argparse.ArgumentParser, module: Any) -> None:
    add_settings(parser)
    parser.add_argument(
        "--seconds", metavar="S", default="15", help="of a comparison (default %(default)s)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="instead of benchmarks/results/MACHINE/SECTION.json"
    )
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure a section, print its tables and write them."""
    about = machine.describe()
    blas = machine.limit_blas(args.settings.threads)
    print(report.head(about, args.settings))
    steps = import_module(f"benchmarks.sections.{args.section}").steps(args)
    tables: list[Table] = []
    with ProgressBar(len(steps)) as bar:
        for step in steps:
            tables.append(step.run(bar.part(step.label)))
            gc.collect()  # the contenders: gigabytes, in cycles
            bar.print(f"\n{tables[-1]}")
    everything = {
        "format": report.FORMAT,
        "section": args.section,
        "machine": about,
        "blas": blas,
        "threads": args.settings.threads,
        "dtype": args.settings.dtype,
        "tables": [table.as_json() for table in tables],
    }
    path = args.json
    if path is None:
        path = RESULTS / machine_name(about) / f"{args.section}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
    report.write_json(path, everything)
    print(f"\nwrote {path}")
    return int(any(table.failed for table in tables))


def machine_name(about: dict[str, Any]) -> str:
    """Return the machine's name as that of a folder."""
    text = f"{about['cpu']} {about['cpus']} cpus".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


if __name__ == "__main__":
    sys.exit(main())
