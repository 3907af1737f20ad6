"""``mlpbank convert``: between bank files, live folders, safetensors and ONNX, or of a folder."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import get_args

from mlpbank._progress import on_terminal
from mlpbank.architecture import Activation
from mlpbank.bank import Bank
from mlpbank.cli import _model_folder
from mlpbank.cli._errors import CommandError, encoded
from mlpbank.errors import BankFileError
from mlpbank.files import _described, _live_folder, _plain
from mlpbank.files._atomic import atomic_writer
from mlpbank.typing import DtypeName

SUFFIXES = (".mlpbank", ".live", ".safetensors", ".onnx")
_BANKS = (".mlpbank", ".live")  # whose weights have a dtype
EXAMPLES = """\
mlpbank convert fleet.mlpbank fleet16.mlpbank --dtype float16
  mlpbank convert fleet.mlpbank --to onnx
  mlpbank convert fleet.mlpbank fleet.safetensors
  mlpbank convert fleet.live fleet.mlpbank                # of a live bank as it is now
  mlpbank convert fleet.safetensors fleet.live            # a new live bank

folders: the paths in them become the keys; state dicts do not tell their activations
  mlpbank convert models/ fleet.mlpbank                   # models/N14228.onnx, ...
  mlpbank convert states/ fleet.mlpbank --sizes 32,64,1 --activation relu
                                     # states/north/N14228.pt has the key north/N14228
  mlpbank convert runs/ fleet.mlpbank --sizes 32,64,1 --activation 'leaky_relu(alpha=0.2)'
  mlpbank convert runs/ fleet.mlpbank --sizes 32,64,1 --activation tanh --checkpoint model_ema
  mlpbank convert flax/ fleet.mlpbank --sizes 32,64,1 --activation relu --weight-layout in_out

A checkpoint may hold its state dict under any name (state_dict, model_state_dict, model, ...)
beside an optimizer and the like; where it holds several, --checkpoint chooses."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source",
        type=Path,
        help="bank file, folder of a live bank, plain .safetensors, or folder of .onnx, .pt, .pth, "
        ".ckpt, .safetensors, also in folders within it",
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
        help="dtype of weights in a bank file or live bank (default: the source's)",
    )
    parser.add_argument(
        "--sizes", metavar="IN,...,OUT", help="layer sizes of state dicts, such as 32,64,64,1"
    )
    about = "activation of all layers but the last of state dicts (default: relu, "
    about += "which is said): one of "
    about += ", ".join(activation.value for activation in Activation)
    about += "; with parameters in parentheses, as in 'clip(low=0, high=1)'"
    parser.add_argument("--activation", metavar="NAME", help=about)
    about = "activation of the last layer of state dicts (default: none)"
    parser.add_argument("--output-activation", metavar="NAME", help=about)
    about = "orientation of matrices (default: out_in for `weight`, in_out for `kernel`)"
    parser.add_argument("--weight-layout", choices=["out_in", "in_out"], help=about)
    about = "the entry of training checkpoints to take, where they hold several models"
    parser.add_argument("--checkpoint", metavar="NAME", help=about)
    about = "leave out further arrays (extra.*) of a plain .safetensors, which are an error else"
    parser.add_argument("--drop-extra", action="store_true", help=about)


def convert_bank(args: argparse.Namespace) -> int:
    """Convert a bank, or a folder of models into one."""
    target, suffix = _target(args)
    _check_folder_options(args)
    bank = _read_source(args)
    if suffix in _BANKS:
        dtype = args.dtype or bank.dtype
        if dtype != bank.dtype:
            bank = _with_dtype(bank, dtype)
        bank.save(target, live=suffix == ".live", progress=on_terminal())
    elif suffix == ".onnx":
        model = _to_onnx(bank)
        with atomic_writer(target) as file:
            file.write(model)
    else:
        bank.to_safetensors(target)
    with encoded("standard output"):
        print(f"{target}: {len(bank):,} models, {_live_folder.bytes_on_disk(target):,} bytes")
    return 0


def _target(args: argparse.Namespace) -> tuple[Path, str]:
    """Return the path to write, and the suffix of its format."""
    suffix = f".{args.to}" if args.to else args.target.suffix if args.target else None
    if suffix not in SUFFIXES:
        expected = f"a name that ends in {', '.join(SUFFIXES)}, or --to"
        raise CommandError(f"target: expected {expected}, got {args.target or 'none'}")
    if args.target is None and not args.source.name:
        raise CommandError(
            f"target: expected a name, since {args.source} has none of its own, got none"
        )
    target: Path = args.target or args.source.with_suffix(suffix)
    if target.suffix != suffix and target.suffix in (*SUFFIXES, *_model_folder.SUFFIXES):
        raise CommandError(
            f"target: expected a name that ends in {suffix}, as --to has it, got {target}"
        )
    if os.path.realpath(target) == os.path.realpath(args.source) and suffix != ".mlpbank":
        raise CommandError(f"target: expected another name than {args.source}")
    if args.dtype and suffix not in _BANKS:
        raise CommandError(f"--dtype: expected a bank file or live bank as target, got {target}")
    return target, suffix


def _check_folder_options(args: argparse.Namespace) -> None:
    """Refuse options for files of single models where they would have no effect."""
    given = [
        name
        for name in ("sizes", "activation", "output_activation", "weight_layout", "checkpoint")
        if getattr(args, name)
    ]
    if given and (not args.source.is_dir() or _live_folder.is_live(args.source)):
        option = given[0].replace("_", "-")
        raise CommandError(
            f"--{option}: expected a folder of state dicts as source, got {args.source}"
        )
    if given and not args.sizes and given[0] not in ("weight_layout", "checkpoint"):
        raise CommandError(f"--{given[0].replace('_', '-')}: expected --sizes beside it, got none")


def _to_onnx(bank: Bank) -> bytes:
    """Return the bank as a serialised graph; metadata, names and keys as properties of JSON text.

    The keys are in the order of the first dimension of inputs and outputs.
    """
    from mlpbank import convert

    names = _described.described_names(bank.feature_names, bank.classes)
    keys, architecture, weights = bank.to_stacked()
    metadata = _described.copy_json(bank.metadata | names | {"keys": keys})
    model = convert.to_onnx(architecture, weights)
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    return bytes(model.SerializeToString())


def _with_dtype(bank: Bank, dtype: DtypeName) -> Bank:
    """Return a bank of the same models and versions, stored in another dtype."""
    versions = [bank.info(key).version for key in bank]
    result = Bank.from_stacked(
        *bank.to_stacked(),
        dtype=dtype,
        fallback=bank.fallback,
        version=versions,
        feature_names=bank.feature_names,
        classes=bank.classes,
    )
    result.metadata = bank.metadata
    return result


def _read_source(args: argparse.Namespace) -> Bank:
    source: Path = args.source
    if _live_folder.is_live(source):
        return Bank.open(source, refresh="manual")
    if source.is_dir():
        return _model_folder.read_folder(args)
    if source.suffix.lower() == ".safetensors":
        plain = _plain.load_plain(source)
        if plain.extra and not args.drop_extra:
            names = ", ".join(f"extra.{name}" for name in plain.extra)
            raise CommandError(
                f"{source}: expected no further arrays, got {names}; --drop-extra leaves them out"
            )
        return Bank._from_plain(plain, "float32", "auto", None)
    try:
        return Bank.open(source)
    except BankFileError as error:
        way = _model_folder.way_for([source])
        if source.suffix.lower() in _model_folder.SUFFIXES:
            way = "; files of single models are converted with their folder as source"
        raise BankFileError(f"{error}{way}") from error
