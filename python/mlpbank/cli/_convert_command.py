"""``mlpbank convert``: between bank files, safetensors and ONNX, or a folder into one bank."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from mlpbank._progress import on_terminal, progress_bar
from mlpbank.architecture import Activation, Architecture
from mlpbank.bank import Bank
from mlpbank.cli._tables import CommandError, encoded, foreign, needs
from mlpbank.errors import MlpbankError
from mlpbank.files import _plain, _schema
from mlpbank.files._atomic import atomic_writer
from mlpbank.typing import DtypeName, Key

SUFFIXES = (".mlpbank", ".safetensors", ".onnx")
MODEL_SUFFIXES = (".onnx", ".pt", ".pth", ".safetensors")
EXAMPLES = """\
mlpbank convert fleet.mlpbank fleet16.mlpbank --dtype float16
  mlpbank convert fleet.mlpbank --to onnx
  mlpbank convert fleet.mlpbank fleet.safetensors

folders: the names of the files become the keys; state dicts do not tell their activations
  mlpbank convert models/ fleet.mlpbank                   # models/N14228.onnx, ...
  mlpbank convert states/ fleet.mlpbank --sizes 32,64,1   # states/N14228.pt, ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source",
        type=Path,
        help="bank file, plain .safetensors, or folder of .onnx, .pt, .safetensors",
    )
    parser.add_argument("target", type=Path, nargs="?", help="default: beside the source")
    parser.add_argument(
        "--to",
        choices=[suffix[1:] for suffix in SUFFIXES],
        help="format of the target (default: by its name)",
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(DtypeName),
        help="dtype of weights in a bank file (default: the source's)",
    )
    parser.add_argument(
        "--sizes", metavar="IN,...,OUT", help="layer sizes of state dicts, such as 32,64,64,1"
    )
    activations = [activation.value for activation in Activation]
    about = "activation of all layers but the last of state dicts (default: relu)"
    parser.add_argument("--activation", choices=activations, help=about)
    about = "activation of the last layer of state dicts (default: none)"
    parser.add_argument("--output-activation", choices=activations, help=about)
    about = "orientation of matrices in .safetensors (default: out_in, as in PyTorch)"
    parser.add_argument("--weight-layout", choices=["out_in", "in_out"], help=about)
    about = "leave out further arrays (extra.*) of a plain .safetensors, which are an error else"
    parser.add_argument("--drop-extra", action="store_true", help=about)


def convert_bank(args: argparse.Namespace) -> int:
    """Convert a file, or a folder of models into one file."""
    target, suffix = _target(args)
    _check_folder_options(args)
    bank = _read_source(args)
    if suffix == ".mlpbank":
        dtype = args.dtype or bank.dtype
        if dtype != bank.dtype:
            bank = _with_dtype(bank, dtype)
        bank.save(target, progress=on_terminal())
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
    """Return the path to write, and the suffix of its format."""
    suffix = f".{args.to}" if args.to else args.target.suffix if args.target else None
    if suffix not in SUFFIXES:
        expected = f"a name that ends in {', '.join(SUFFIXES)}, or --to"
        raise CommandError(f"target: expected {expected}, got {args.target}")
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
    """Refuse options for files of single models where they would have no effect."""
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
    """Return the bank as a serialised graph with its metadata as properties of JSON text."""
    from mlpbank import convert

    metadata = _schema.copy_json(bank.metadata)
    model = convert.to_onnx(*bank.to_stacked()[1:])
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    return bytes(model.SerializeToString())


def _with_dtype(bank: Bank, dtype: DtypeName) -> Bank:
    """Return a bank of the same models and versions, stored in another dtype."""
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
    """Return a bank of the models in a folder. The names without suffix become the keys."""
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
            "--sizes: expected the layer sizes, since state dicts do not tell their activations, "
            "got none"
        )
    bar = on_terminal()
    models: dict[Key, Any] = {}
    for path in progress_bar(files, "reading", bar):
        try:
            models[path.stem] = _read_model(path, architecture, args.weight_layout or "out_in")
        except MlpbankError as error:
            raise CommandError(f"{path}: {error.args[0] if error.args else error}") from error
    return Bank.from_models(models, architecture, progress=bar)


def _read_model(path: Path, architecture: Architecture | None, weight_layout: str) -> Any:
    """Return the model in a file, in a form that `mlpbank.convert` takes."""
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
            # weights_only never runs code from the file.
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CommandError(
            "expected a state dict, got a file with other objects, whose loading would run code"
        ) from None
