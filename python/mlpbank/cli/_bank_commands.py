"""``mlpbank inspect``, ``verify`` and ``predict``, and the parsers of all bank commands."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mlpbank._progress import on_terminal
from mlpbank.architecture import LayerSpec
from mlpbank.bank import Bank
from mlpbank.cli import _convert_command
from mlpbank.cli._results import write_csv
from mlpbank.cli._tables import CommandError, KeyColumnError, encoded, needs, read_table
from mlpbank.errors import BankFileError
from mlpbank.files import _mapped
from mlpbank.files._atomic import atomic_writer
from mlpbank.typing import Missing

Subparsers = Any  # argparse has no public name for its type


def add_commands(commands: Subparsers) -> None:
    """Add ``inspect``, ``verify``, ``convert`` and ``predict``."""
    inspect = _command(
        commands,
        "inspect",
        inspect_bank,
        "show what a bank file holds",
        "mlpbank inspect fleet.mlpbank",
    )
    inspect.add_argument("file", type=Path)

    verify = _command(
        commands,
        "verify",
        verify_bank,
        "check a bank file: checksums, keys, finite weights",
        "mlpbank verify fleet.mlpbank",
    )
    verify.add_argument("file", type=Path)

    convert = _command(
        commands,
        "convert",
        _convert_command.convert_bank,
        "between bank files, plain safetensors and ONNX; or a folder of models into one bank",
        _convert_command.EXAMPLES,
    )
    _convert_command.add_arguments(convert)

    predict = _command(
        commands,
        "predict",
        predict_rows,
        "send every row of a table through the model of its key",
        "mlpbank predict fleet.mlpbank --input rows.csv --key tailnum --output predictions.csv",
    )
    predict.add_argument("file", type=Path)
    predict.add_argument(
        "--input",
        type=Path,
        required=True,
        help=".csv, .csv.gz, .parquet, .npz, .npy with or without named fields, or - for standard "
        "input, whose format its beginning tells",
    )
    predict.add_argument(
        "--key",
        required=True,
        help="column of keys, or columns a,b where keys are tuples; for an .npy without names "
        "their numbers",
    )
    predict.add_argument(
        "--output", type=Path, help=".csv, .parquet or .npy (default: CSV on standard output)"
    )
    predict.add_argument(
        "--features",
        help="input columns a,b,c (default: those that the bank or its metadata names, or all "
        "others)",
    )
    about = "what to do about unknown keys (default: fallback if the bank has one, else error)"
    predict.add_argument("--missing", choices=get_args(Missing), help=about)


def _command(
    commands: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def inspect_bank(args: argparse.Namespace) -> int:
    """Print the contents of a bank file."""
    bank = open_bank(args.file)
    infos = [bank.info(key) for key in bank]
    sizes = [
        bank.architecture.input_size,
        *(layer.output_size for layer in bank.architecture.layers),
    ]
    rows = [
        ("file", f"{args.file}, {args.file.stat().st_size:,} bytes"),
        (
            "architecture",
            "-".join(map(str, sizes)) + f", {bank.architecture.num_parameters:,} parameters",
        ),
        ("activations", ", ".join(map(_activation, bank.architecture.layers))),
        ("models", f"{len(bank):,}"),
        ("dtype", bank.dtype),
        ("layout", bank.layout),
        ("weights", f"{bank.nbytes if len(bank) else 0:,} bytes"),
        ("fallback", "none" if bank.fallback is None else repr(bank.fallback)),
    ]
    if bank.input_shift is not None:
        rows.append(("input shift", ", ".join(f"{x:.12g}" for x in bank.input_shift.tolist())))
    if bank.feature_names is not None:
        rows.append(("features", ", ".join(bank.feature_names)))
    if bank.classes is not None:
        rows.append(("classes", ", ".join(map(repr, bank.classes))))
    if infos:
        shown = ", ".join(repr(info.key) for info in infos[:5])
        rows.append(("keys", shown + (", ..." if len(infos) > 5 else "")))
        versions = Counter(info.version for info in infos).most_common(6)
        listed = [
            f"{version if version is not None else '(none)'}: {count:,}"
            for version, count in versions[:5]
        ]
        rows.append(("versions", ", ".join(listed) + (", ..." if len(versions) > 5 else "")))
        first, last = (
            f(info.loaded_at for info in infos).isoformat(" ", "seconds") for f in (min, max)
        )
        rows.append(("loaded", first if first == last else f"{first} to {last}"))
    rows += [
        (f"metadata {name}", json.dumps(value, ensure_ascii=False))
        for name, value in bank.metadata.items()
    ]
    width = max(len(name) for name, _ in rows)
    with encoded("standard output"):
        for name, value in rows:
            print(f"{name:{width}}  {value}")
    return 0


def _activation(layer: LayerSpec) -> str:
    """Return an activation as ``--activation`` takes it."""
    options = ", ".join(f"{name}={value:g}" for name, value in layer.parameters.items())
    return f"{layer.activation.value}({options})" if options else layer.activation.value


def open_bank(path: Path) -> Bank:
    """Open a bank file, also where files cannot be mapped."""
    return Bank._from_contents(_mapped.open_somehow(path), None)


def verify_bank(args: argparse.Namespace) -> int:
    """Check a bank file, and raise for the first thing that is wrong with it."""
    try:
        contents = _mapped.open_somehow(args.file)
        _mapped.verify(contents, on_terminal())
    except BankFileError as error:
        text = str(error)
        raise BankFileError(
            text if text.startswith(str(args.file)) else f"{args.file}: {text}"
        ) from None
    with encoded("standard output"):
        print(f"{args.file}: {contents.models:,} models, checksums, keys and weights are sound")
    return 0


def predict_rows(args: argparse.Namespace) -> int:
    """Predict for the rows of a table, and write keys and predictions."""
    suffix = ".csv" if args.output is None else args.output.suffix
    if suffix not in (".csv", ".parquet", ".npy"):
        raise CommandError(
            f"--output: expected a name that ends in .csv, .parquet or .npy, got {args.output}"
        )
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
    try:
        keys, x = read_table(
            args.input, key, lambda columns: _features(args, key, bank, columns), bank.key_type
        )
    except KeyColumnError as error:
        if len(key) == 1:
            raise
        order = f"--key lists columns in the order of the parts of keys, {bank.key_type}"
        raise CommandError(f"{error}; {order}") from error
    wanted = bank.architecture.input_size
    if x.shape[1] != wanted:  # only an array without column names comes here with another width
        raise CommandError(f"--input: expected {wanted} columns beside keys, got {x.shape[1]}")
    y = bank.predict(keys, x, missing=args.missing)
    if args.missing != "error":
        _tell_unknown(bank, keys, args.missing)
    if args.output is None:
        with encoded("standard output"):
            write_csv(sys.stdout, key, keys, names, y)
        return 0
    with atomic_writer(args.output) as file:
        if suffix == ".npy":
            buffer = io.BytesIO()  # np.save goes back in files, which not every file system can
            np.save(buffer, y)
            file.write(buffer.getbuffer())
        elif suffix == ".parquet":
            with needs("writing .parquet", "pandas", "pyarrow"):
                import pandas

                parts = [keys] if len(key) == 1 else zip(*keys, strict=True)
                frame = pandas.DataFrame(
                    dict(zip(key, parts, strict=True))
                    | {name: y[:, i] for i, name in enumerate(names)}
                )
                with encoded(str(args.output)):
                    frame.to_parquet(file, index=False)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            with encoded(str(args.output)):
                write_csv(text, key, keys, names, y)
            text.detach()  # flushes without closing the file, which atomic_writer closes
    return 0


def _tell_unknown(bank: Bank, keys: Any, missing: Missing | None) -> None:
    """Say on standard error for how many rows the bank had no model."""
    unknown = np.flatnonzero(bank.sources(keys) != "model").tolist()
    if not unknown:
        return
    names = [int(key) if isinstance(key, np.integer) else key for key in (keys[i] for i in unknown)]
    empty = sum(name is None or (type(name) is tuple and None in name) for name in names)
    shown = list(dict.fromkeys(name for name in names if name is not None))
    text = f"mlpbank: no model for {len(unknown):,} of {len(keys):,} rows"
    text += ", which get NaN" if missing == "nan" else ", for which the fallback answers"
    if empty:
        text += f", {empty:,} of them without a key"
    if shown:
        text += f": {', '.join(map(repr, shown[:5]))}{', ...' if len(shown) > 5 else ''}"
        text += bank._slot_map.way_to_known(shown)
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
