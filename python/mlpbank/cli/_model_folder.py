"""A folder of files of single models, for ``mlpbank convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlpbank._progress import on_terminal, progress_bar
from mlpbank.architecture import Architecture
from mlpbank.bank import Bank
from mlpbank.cli._tables import CommandError
from mlpbank.errors import MlpbankError
from mlpbank.typing import Key

SUFFIXES = (".onnx", ".pt", ".pth", ".ckpt", ".safetensors")  # in capitals, too
_SHOWN = 5  # names in a message


def read_folder(args: argparse.Namespace) -> Bank:
    """Return a bank of the models in a folder and the folders in it.

    A key is the path of a file within the folder, without suffix: ``shop-7`` or ``north/shop-7``.
    Files that are no models are named on standard error.
    """
    folder: Path = args.source
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    hidden = [path for path in found if _is_hidden(path.relative_to(folder))]
    files = [path for path in found if path.suffix.lower() in SUFFIXES and path not in hidden]
    if not files:
        raise CommandError(
            f"{folder}: expected files that end in {', '.join(SUFFIXES)}, got "
            f"{_shown(found, folder) or 'none'}"
        )
    paths: dict[str, Path] = {}
    for path in files:
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in paths:
            raise CommandError(
                f"{folder}: expected one file for each key, got several for {key!r}: "
                f"{paths[key].name} and {path.name}"
            )
        paths[key] = path
    architecture = _architecture(args, files)
    bar = on_terminal()
    models: dict[Key, Any] = {}
    for key, path in progress_bar(paths.items(), "reading", bar, total=len(paths)):
        try:
            models[key] = _read_model(path, architecture, args)
        except MlpbankError as error:
            text = str(error.args[0] if error.args else error)
            raise CommandError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    bank = Bank.from_models(models, architecture, progress=bar)
    if others := [path for path in found if path not in set(files)]:
        print(
            f"mlpbank: left out {len(others)} files, which are no models by their suffix: "
            f"{_shown(others, folder)}",
            file=sys.stderr,
        )
    return bank


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shown(paths: list[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) for path in paths[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(paths) > _SHOWN else "")


def _architecture(args: argparse.Namespace, files: list[Path]) -> Architecture | None:
    """Return the architecture that the options describe; None where all files are ONNX."""
    if args.sizes:
        try:
            sizes = [int(size) for size in args.sizes.split(",")]
        except ValueError:
            raise CommandError(
                f"--sizes: expected integers such as 32,64,1, got {args.sizes!r}"
            ) from None
        return Architecture.mlp(
            *sizes,
            activation=args.activation or "relu",
            output_activation=args.output_activation or "none",
        )
    if any(path.suffix.lower() != ".onnx" for path in files):
        raise CommandError(
            "--sizes: expected the layer sizes, since state dicts do not tell their activations, "
            "got none"
        )
    return None


def _read_model(path: Path, architecture: Architecture | None, args: argparse.Namespace) -> Any:
    """Return the model in a file, in a form that `mlpbank.convert` takes."""
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return path
    from mlpbank import convert
    from mlpbank.convert._checkpoints import state_dict_of
    from mlpbank.convert._model_files import load_safetensors, load_torch

    layout = args.weight_layout
    if suffix == ".safetensors":
        params = load_safetensors(path)
        if layout is None and _has_weights(params):
            layout = "out_in"
    else:
        params = state_dict_of(load_torch(path), args.checkpoint)
        if not isinstance(params, (Mapping, list, tuple)):
            raise CommandError(f"expected a state dict, got {type(params).__name__}")
    if architecture is None or "layer_0" in params:  # mlpbank's own form
        return params
    try:
        return convert.from_params(params, architecture, weight_layout=layout).weights
    except MlpbankError as error:
        text = str(error.args[0] if error.args else error)
        raise CommandError(text.replace("weight_layout=", "--weight-layout ")) from error


def _has_weights(arrays: Mapping[str, Any]) -> bool:
    """Return whether matrices have the name that PyTorch, MLX and Candle give theirs."""
    names = {name.rpartition(".")[2] for name in arrays}
    return names <= {"weight", "bias"}
