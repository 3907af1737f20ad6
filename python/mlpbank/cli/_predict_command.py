"""``mlpbank predict``: every row of a table through the model of its key, part by part."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mlpbank._progress import on_terminal, progress_of
from mlpbank.bank import Bank
from mlpbank.cli import _results
from mlpbank.cli._errors import CommandError, KeyColumnError
from mlpbank.cli._live_commands import open_bank
from mlpbank.cli._parts import Part, Table
from mlpbank.cli._read_keys import typed
from mlpbank.cli._results import open_results
from mlpbank.cli._tables import STDIN, open_table, suffix_of
from mlpbank.errors import MlpbankError, UnknownModelError
from mlpbank.typing import Float32Array, Missing

EXAMPLES = """mlpbank predict fleet.mlpbank --input rows.csv --key tailnum --output predictions.csv
  mlpbank predict fleet.mlpbank --input rows.parquet --key shop,item --output y.parquet
  zcat rows.csv.gz | mlpbank predict fleet.mlpbank --input - --key id | gzip > y.csv.gz"""


_SHOWN = 5  # unknown keys that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlpbank predict``."""
    parser.add_argument("file", type=Path, help="bank file, or folder of a live bank")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help=".csv, .csv.gz, .parquet, .npz, .npy with or without named fields, or - for standard "
        "input, whose format its beginning tells",
    )
    parser.add_argument(
        "--key",
        required=True,
        help="column of keys, or columns a,b where keys are tuples; for an .npy without names "
        "their numbers",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=".csv, .csv.gz, .parquet or .npy; a name without suffix gets the input's format "
        "(default: CSV on standard output)",
    )
    parser.add_argument(
        "--features",
        help="input columns a,b,c (default: those that the bank or its metadata names, or all "
        "others)",
    )
    about = "what to do about unknown keys (default: fallback if the bank has one, else error)"
    parser.add_argument("--missing", choices=get_args(Missing), help=about)


def predict_rows(args: argparse.Namespace) -> int:
    """Predict for the rows of a table, and write keys and predictions."""
    output = None if args.output is None or str(args.output) == "-" else args.output
    given = "" if output is None else suffix_of(output)
    if output is not None and (given or output.suffix):
        _expect_suffix(given, output)
    _expect_other_file(args.input, output)
    bank = open_bank(args.file)
    if args.missing == "fallback" and (bank.fallback is None or bank.fallback not in bank):
        got = "none" if bank.fallback is None else f"{bank.fallback!r:.80}, which has no model"
        raise CommandError(f"--missing: expected a bank with a fallback, got {got}")
    size = bank.architecture.output_size
    names = ["prediction"] if size == 1 else [f"prediction_{i}" for i in range(size)]
    key = _key_columns(args, bank)
    if clash := [column for column in key if column in names]:
        raise CommandError(
            f"--key: expected another name than that of the predictions, got {clash[0]!r}"
        )
    unknown = _Unknown(bank, args.missing)
    with open_table(
        args.input, key, lambda columns: _features(args, key, bank, columns), bank.key_type
    ) as (table, suffix):
        wanted = bank.architecture.input_size
        if table.width != wanted:  # only an array without column names has another width
            raise CommandError(f"--input: expected {wanted} columns beside keys, got {table.width}")
        if output is not None:
            suffix = given or suffix
            _expect_suffix(suffix, output)
        with (
            open_results(output, suffix, typed(key, bank.key_type), names) as write,
            closing(_with_bar(table, output)) as parts,
        ):
            try:
                for first, part in parts:
                    write(part, _predicted(bank, part, args.missing, table, first))
                    unknown.count(part)
            except KeyColumnError as error:
                if len(key) == 1:
                    raise
                order = f"--key lists columns in the order of the parts of keys, {bank.key_type}"
                raise CommandError(f"{error}; {order}") from error
            if output is None:
                sys.stdout.flush()
    unknown.tell()
    return 0


def _expect_suffix(suffix: str, output: Path) -> None:
    if suffix not in _results.SUFFIXES:
        expected = f"a name that ends in {', '.join(_results.SUFFIXES)}"
        raise CommandError(f"--output: expected {expected}, got {output}")


def _expect_other_file(source: Path, output: Path | None) -> None:
    """Refuse standard output that is the input. A file with a name is replaced at the end."""
    if output is not None:
        return
    if sys.stdout is None:
        raise CommandError("--output: expected a file, for standard output is closed")
    try:
        read = os.fstat(0) if str(source) in STDIN else source.stat()
        written = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # there is none, or none of the system
        return
    if stat.S_ISREG(read.st_mode) and os.path.samestat(read, written):
        raise CommandError("--input: expected another file than standard output; use --output")


def _with_bar(table: Table, output: Path | None) -> Generator[tuple[int, Part], None, None]:
    """Yield parts, each with the number of rows before it, and show a bar on a terminal."""
    rows = 0

    def parts() -> Iterator[tuple[int, Part]]:
        nonlocal rows
        for part in table.parts:
            yield rows, part
            rows += len(part)

    enabled = on_terminal() and (output is not None or not sys.stdout.isatty())
    position = table.position or (lambda: rows)
    options = {"unit": "row"} if table.position is None else {"unit": "B", "unit_divisor": 1024}
    return progress_of(
        parts(), "predicting", enabled, position, total=table.total, unit_scale=True, **options
    )


def _predicted(
    bank: Bank, part: Part, missing: Missing | None, table: Table, first: int
) -> Float32Array:
    try:
        return bank.predict(part.keys, part.inputs, missing=missing)
    except UnknownModelError as error:
        keys, total, kind, gap, way = error.args
        row = first + int(np.argmax(bank.sources(part.keys) != "model")) + 1
        try:
            is_all = next(table.parts, None) is None
        except (MlpbankError, OSError):  # of rows that come later
            is_all = False
        raise UnknownModelError(
            keys,
            first + total,
            kind if is_all else f"{kind} so far",
            None if gap is None else first + gap + 1,
            f"; the first is in row {row} of {table.name}{way}",
        ) from error


class _Unknown:
    """Counts rows for which the bank has no model, to tell about them at the end."""

    def __init__(self, bank: Bank, missing: Missing | None) -> None:
        self._bank = bank
        self._missing = missing
        self._total = self._rows = self._without_key = 0
        self._shown: dict[Any, None] = {}  # the first ones, and one more if there are more

    def count(self, part: Part) -> None:
        self._total += len(part)
        if self._missing == "error" or (self._missing is None and self._bank.fallback is None):
            return
        keys = part.keys
        for i in np.flatnonzero(self._bank.sources(keys) != "model").tolist():
            name = int(keys[i]) if isinstance(keys[i], np.integer) else keys[i]
            self._rows += 1
            self._without_key += name is None or (type(name) is tuple and None in name)
            if name is not None and len(self._shown) <= _SHOWN:
                self._shown[name] = None

    def tell(self) -> None:
        """Say on standard error for how many rows the bank had no model."""
        if not self._rows:
            return
        text = f"mlpbank: no model for {self._rows:,} of {self._total:,} rows"
        nan = self._missing == "nan"
        text += ", which get NaN" if nan else ", for which the fallback answers"
        if self._without_key:
            text += f", {self._without_key:,} of them without a key"
        if self._shown:
            shown = list(self._shown)
            names = ", ".join(map(repr, shown[:_SHOWN]))
            text += f": {names}{', ...' if len(shown) > _SHOWN else ''}"
            text += self._bank._slot_map.way_to_known(shown)
        print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr)


def _key_columns(args: argparse.Namespace, bank: Bank) -> list[str]:
    """Return the names of the columns of keys: one, or one for each part of tuples."""
    parts = getattr(bank.key_type, "__args__", None)
    if parts is None:
        return [args.key]
    key: list[str] = args.key.split(",")
    if len(key) != len(parts):
        raise CommandError(
            f"--key: expected {len(parts)} columns a,b,..., for the bank's keys are "
            f"{bank.key_type}, got {args.key!r}"
        )
    return key


def _features(
    args: argparse.Namespace, key: Sequence[str], bank: Bank, columns: Sequence[str]
) -> list[str]:
    """Return the names of the columns that are inputs."""
    if absent := [column for column in key if column not in columns]:
        raise CommandError(
            f"--key: expected one of {', '.join(columns)}, got {absent[0]!r}"
            f"{_way_to_column(absent[0], columns)}"
        )
    wanted = bank.architecture.input_size
    given: list[str] | None = args.features.split(",") if args.features else None
    listed = bank.metadata.get("features")
    if bank.feature_names is not None:
        features = list(_columns_of_bank(given, bank.feature_names, columns))
    elif given is not None:
        features = given
    elif isinstance(listed, list) and len(listed) == wanted and set(map(type, listed)) == {str}:
        features = listed
    else:
        features = [name for name in columns if name not in key]
    if absent := [name for name in features if name not in columns]:
        raise CommandError(
            f"--features: expected some of {', '.join(columns)}, got {absent[0]!r}"
            f"{_way_to_column(absent[0], columns)}"
        )
    if len(features) != wanted:
        got = f"{len(features)}: {', '.join(features)}"
        raise CommandError(f"--features: expected {wanted} columns, got {got}")
    return features


def _way_to_column(name: str, columns: Sequence[str]) -> str:
    """Return where a column is that is not there, as the end of a message."""
    if len(columns) == 1 and (mark := next((c for c in ";\t|" if c in columns[0]), None)):
        return (
            f"; the cells seem to be separated by {mark!r}, expected commas: pandas.read_csv(path, "
            f"sep={mark!r}).to_csv(path, index=False) changes that"
        )
    near = (other for other in columns if other.strip().casefold() == name.strip().casefold())
    return next((f"; there is {other!r}, spelled otherwise" for other in near), "")


def _columns_of_bank(
    given: list[str] | None, names: Sequence[str], columns: Sequence[str]
) -> Sequence[str]:
    """Return the names of a bank's features, if they are those of the option and of columns."""
    if given is not None and sorted(given) != sorted(names):
        raise CommandError(
            f"--features: expected those of the bank, {', '.join(names)}, got {', '.join(given)}"
        )
    if absent := [name for name in names if name not in columns]:
        raise CommandError(
            f"--input: expected columns of the bank's features, {', '.join(names)}, "
            f"got none {absent[0]!r} among {', '.join(columns)}"
            f"{_way_to_column(absent[0], columns)}"
        )
    return names
