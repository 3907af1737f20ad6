"""``mlpbank inspect``, ``verify``, ``convert`` and ``predict``: bank files on the command line."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlpbank._progress import progress_bar
from mlpbank.architecture import Activation, Architecture
from mlpbank.bank import Bank
from mlpbank.cli._tables import CommandError, encoded, foreign, needs, read_table, write_csv
from mlpbank.errors import BankFileError, MlpbankError
from mlpbank.files import _mapped, _plain, _schema
from mlpbank.files._atomic import atomic_writer
from mlpbank.typing import DtypeName, Key

DTYPES = ("float32", "float16", "bfloat16", "int8")
SUFFIXES = (".mlpbank", ".safetensors", ".onnx")
MODEL_SUFFIXES = (".onnx", ".pt", ".pth", ".safetensors")

Subparsers = Any  # argparse has no public name for it


def add_commands(commands: Subparsers) -> None:
    """Add the four commands to a parser's."""
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
        convert_bank,
        "between bank files, plain safetensors and ONNX; or a folder of models into one bank",
        """mlpbank convert fleet.mlpbank fleet16.mlpbank --dtype float16
  mlpbank convert fleet.mlpbank --to onnx
  mlpbank convert fleet.mlpbank fleet.safetensors
  mlpbank convert models/ fleet.mlpbank                       # models/N14228.onnx, ...: the names become the keys
  mlpbank convert states/ fleet.mlpbank --sizes 32,64,1       # PyTorch state dicts do not tell their activations""",
    )
    convert.add_argument(
        "source",
        type=Path,
        help="bank file, plain .safetensors, or folder of .onnx, .pt, .safetensors",
    )
    convert.add_argument("target", type=Path, nargs="?", help="beside the source by default")
    convert.add_argument(
        "--to",
        choices=[suffix[1:] for suffix in SUFFIXES],
        help="format; that of the target's name",
    )
    convert.add_argument(
        "--dtype", choices=DTYPES, help="of a bank file's weights; as it was by default"
    )
    convert.add_argument(
        "--sizes", metavar="IN,...,OUT", help="layer sizes of state dicts, such as 32,64,64,1"
    )
    activations = [activation.value for activation in Activation]
    convert.add_argument("--activation", choices=activations, help="of state dicts (default relu)")
    layouts = ["out_in", "in_out"]
    about = "of matrices in .safetensors: (out, in) as in PyTorch, the default, or (in, out)"
    convert.add_argument("--weight-layout", choices=layouts, help=about)
    convert.add_argument("--output-activation", choices=activations, help="likewise (default none)")
    about = (
        "convert a plain .safetensors without its further arrays (extra.*), which would be an error"
    )
    convert.add_argument("--drop-extra", action="store_true", help=about)

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
        help=".csv, .csv.gz, .parquet, .npz, .npy with or without named fields, or - for standard input, which is told "
        "by how it begins",
    )
    predict.add_argument(
        "--key", required=True, help="column of keys; of an .npy without names its number"
    )
    predict.add_argument(
        "--output", type=Path, help=".csv, .parquet or .npy; CSV on standard output by default"
    )
    predict.add_argument(
        "--features",
        help="input columns a,b,c; by default those the bank's metadata lists, or all others",
    )
    predict.add_argument("--missing", choices=["error", "nan", "fallback"], help="for unknown keys")


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
    """Print what a bank file holds."""
    bank = Bank.open(args.file)
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
        ("activations", ", ".join(layer.activation.value for layer in bank.architecture.layers)),
        ("models", f"{len(bank):,}"),
        ("dtype", bank.dtype),
        ("layout", bank.layout),
        ("weights", f"{bank.nbytes if len(bank) else 0:,} bytes"),
        ("fallback", "none" if bank.fallback is None else repr(bank.fallback)),
    ]
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


def verify_bank(args: argparse.Namespace) -> int:
    """Check a bank file; whatever is wrong is an error."""
    try:
        contents = _mapped.open_file(args.file, map_file=True)
        _mapped.verify(contents, sys.stderr.isatty())
    except BankFileError as error:
        text = str(error)
        raise BankFileError(
            text if text.startswith(str(args.file)) else f"{args.file}: {text}"
        ) from None
    with encoded("standard output"):
        print(f"{args.file}: {contents.models:,} models, checksums, keys and weights are sound")
    return 0


def convert_bank(args: argparse.Namespace) -> int:
    """Convert a file or a folder."""
    target, suffix = _target(args)
    _check_folder_options(args)
    bank = _read_source(args)
    if suffix == ".mlpbank":
        dtype = args.dtype or bank.dtype
        if dtype != bank.dtype:
            bank = _with_dtype(bank, dtype)
        bank.save(target, progress=sys.stderr.isatty())
    elif suffix == ".onnx":
        model = _to_onnx(bank)
        with atomic_writer(target) as file:
            file.write(model)
    else:
        bank.to_safetensors(target)
    with encoded("standard output"):
        print(f"{target}: {len(bank):,} models, {target.stat().st_size:,} bytes")
    return 0


def _target(args: argparse.Namespace) -> tuple[Path, str]:
    """Return where to convert to, and the suffix of the format."""
    suffix = f".{args.to}" if args.to else args.target.suffix if args.target else None
    if suffix not in SUFFIXES:
        raise CommandError(
            f"target: expected a name that ends in {', '.join(SUFFIXES)}, or --to, got {args.target}"
        )
    if args.target is None and not args.source.name:
        raise CommandError(
            f"target: expected a name, since {args.source} has none of its own, got none"
        )
    target: Path = args.target or args.source.with_suffix(suffix)
    if target.suffix != suffix and target.suffix in (*SUFFIXES, *MODEL_SUFFIXES):
        raise CommandError(
            f"target: expected a name that ends in {suffix}, as --to has it, got {target}"
        )
    if os.path.realpath(target) == os.path.realpath(args.source) and suffix != ".mlpbank":
        raise CommandError(f"target: expected another name than {args.source}")
    if args.dtype and suffix != ".mlpbank":
        raise CommandError(f"--dtype: expected a bank file as target, got {target}")
    return target, suffix


def _check_folder_options(args: argparse.Namespace) -> None:
    """Refuse options about files of single models where they would say nothing."""
    given = [
        name
        for name in ("sizes", "activation", "output_activation", "weight_layout")
        if getattr(args, name)
    ]
    if given and not args.source.is_dir():
        option = given[0].replace("_", "-")
        raise CommandError(
            f"--{option}: expected a folder of state dicts as source, got {args.source}"
        )
    if given and not args.sizes and given[0] != "weight_layout":
        raise CommandError(f"--{given[0].replace('_', '-')}: expected --sizes beside it, got none")


def _to_onnx(bank: Bank) -> bytes:
    """Return the bank as a serialised graph, its metadata as properties whose values are JSON text."""
    from mlpbank import convert

    metadata = _schema.copy_json(bank.metadata)
    model = convert.to_onnx(*bank.to_stacked()[1:])
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    return bytes(model.SerializeToString())


def _with_dtype(bank: Bank, dtype: DtypeName) -> Bank:
    """Return the bank's models, with their versions, stored in another dtype."""
    versions = [bank.info(key).version for key in bank]
    result = Bank.from_stacked(
        *bank.to_stacked(), dtype=dtype, fallback=bank.fallback, version=versions
    )
    result.metadata = bank.metadata
    return result


def _read_source(args: argparse.Namespace) -> Bank:
    source: Path = args.source
    if source.is_dir():
        return _read_folder(args)
    if source.suffix == ".safetensors":
        plain = _plain.load_plain(source)
        if plain.extra and not args.drop_extra:
            names = ", ".join(f"extra.{name}" for name in plain.extra)
            raise CommandError(
                f"{source}: expected no further arrays, got {names}; --drop-extra leaves them out"
            )
        return Bank._from_plain(plain, "float32", "auto", None)
    return Bank.open(source)


def _read_folder(args: argparse.Namespace) -> Bank:
    """Return one bank of a folder's models; their names without suffix become the keys."""
    files = sorted(path for path in args.source.iterdir() if path.suffix in MODEL_SUFFIXES)
    if not files:
        raise CommandError(
            f"{args.source}: expected files that end in {', '.join(MODEL_SUFFIXES)}, got none"
        )
    if double := [
        stem for stem, count in Counter(path.stem for path in files).items() if count > 1
    ]:
        raise CommandError(
            f"{args.source}: expected one file for each key, got several for {double[0]!r}"
        )
    architecture = None
    if args.sizes:
        try:
            sizes = [int(size) for size in args.sizes.split(",")]
        except ValueError:
            raise CommandError(
                f"--sizes: expected integers such as 32,64,1, got {args.sizes!r}"
            ) from None
        architecture = Architecture.mlp(
            *sizes,
            activation=args.activation or "relu",
            output_activation=args.output_activation or "none",
        )
    elif any(path.suffix != ".onnx" for path in files):
        raise CommandError(
            "--sizes: expected the layer sizes, since state dicts do not tell their activations, got none"
        )
    bar = sys.stderr.isatty()
    models: dict[Key, Any] = {}
    for path in progress_bar(files, "reading", bar):
        try:
            models[path.stem] = _read_model(path, architecture, args.weight_layout or "out_in")
        except MlpbankError as error:
            raise CommandError(f"{path}: {error.args[0] if error.args else error}") from error
    return Bank.from_models(models, architecture, progress=bar)


def _read_model(path: Path, architecture: Architecture | None, weight_layout: str) -> Any:
    """Return what `mlpbank.convert` takes."""
    if path.suffix == ".onnx":
        return path
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from mlpbank import convert

        try:
            with foreign("expected arrays of NumPy's dtypes", SafetensorError):
                arrays = load_file(path)
        except SafetensorError as error:
            raise CommandError(str(error)) from error
        if architecture is None or "layer_0" in arrays:  # mlpbank's own form
            return arrays
        return convert.from_params(arrays, architecture, weight_layout=weight_layout).weights
    import pickle

    with needs(f"reading {path.suffix}", "torch"):
        import torch
    try:
        with foreign("expected a state dict", pickle.UnpicklingError):
            return torch.load(
                path, map_location="cpu", weights_only=True
            )  # never runs code from the file
    except pickle.UnpicklingError:
        raise CommandError(
            "expected a state dict, got a file with other objects, whose loading would run code"
        ) from None


def predict_rows(args: argparse.Namespace) -> int:
    """Predict for a table and write keys and predictions."""
    suffix = ".csv" if args.output is None else args.output.suffix
    if suffix not in (".csv", ".parquet", ".npy"):
        raise CommandError(
            f"--output: expected a name that ends in .csv, .parquet or .npy, got {args.output}"
        )
    bank = Bank.open(args.file)
    size = bank.architecture.output_size
    names = ["prediction"] if size == 1 else [f"prediction_{i}" for i in range(size)]
    if args.key in names:
        raise CommandError(
            f"--key: expected another name than that of the predictions, got {args.key!r}"
        )
    keys, x = read_table(
        args.input, args.key, lambda columns: _features(args, bank, columns), bank.key_type
    )
    if x.shape[1] != bank.architecture.input_size:  # of an array without names
        raise CommandError(
            f"--input: expected {bank.architecture.input_size} columns beside keys, got {x.shape[1]}"
        )
    y = bank.predict(keys, x, missing=args.missing)
    if args.output is None:
        with encoded("standard output"):
            write_csv(sys.stdout, args.key, keys, names, y)
        return 0
    with atomic_writer(args.output) as file:
        if suffix == ".npy":
            np.save(file, y)
        elif suffix == ".parquet":
            with needs("writing .parquet", "pandas", "pyarrow"):
                import pandas

                frame = pandas.DataFrame(
                    {args.key: keys} | {name: y[:, i] for i, name in enumerate(names)}
                )
                with encoded(str(args.output)):
                    frame.to_parquet(file, index=False)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            with encoded(str(args.output)):
                write_csv(text, args.key, keys, names, y)
            text.detach()  # flushes; the writer closes the file
    return 0


def _features(args: argparse.Namespace, bank: Bank, columns: Sequence[str]) -> list[str]:
    """Return which columns of a table are the inputs."""
    if args.key not in columns:
        raise CommandError(f"--key: expected one of {', '.join(columns)}, got {args.key!r}")
    listed = bank.metadata.get("features")
    if args.features:
        features: list[str] = args.features.split(",")
    elif isinstance(listed, list) and all(name in columns for name in listed):
        features = listed
    else:
        features = [name for name in columns if name != args.key]
    if absent := [name for name in features if name not in columns]:
        raise CommandError(f"--features: expected some of {', '.join(columns)}, got {absent[0]!r}")
    if len(features) != bank.architecture.input_size:
        raise CommandError(
            f"--features: expected {bank.architecture.input_size} columns, got {len(features)}: {', '.join(features)}"
        )
    return features
