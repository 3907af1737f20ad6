"""A folder of files of single models, for ``mlpbank convert``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlpbank._progress import on_terminal, progress_bar
from mlpbank.architecture import Activation, Architecture, LayerSpec, parameters_of
from mlpbank.bank import Bank
from mlpbank.cli._errors import CommandError
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
            f"{_shown(found, folder) or 'none'}{way_for(found)}"
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
            f"{_shown(others, folder)}{way_for(others)}",
            file=sys.stderr,
        )
    if assumed := _assumed(args):
        print(
            f"mlpbank: assumed {assumed}, which files of weights do not tell; --activation and "
            "--output-activation say otherwise",
            file=sys.stderr,
        )
    return bank


# What to do about files that are not read here, by their suffixes.
_WAYS = {
    (".pkl", ".pickle", ".joblib", ".dill"): "run code when they are loaded: load those you trust "
    "in Python and use Bank.from_models({key: model}).save(path)",
    (".keras", ".h5", ".hdf5"): "are read by Keras: keras.models.load_model in Python, then "
    "Bank.from_models({key: model}).save(path)",
    (".npz", ".npy", ".bin"): "hold arrays whose form is not known: use convert.from_params in "
    "Python",
}


def way_for(paths: list[Path]) -> str:
    """Return how to bring in files that are not read here, as the end of a message."""
    there = {path.suffix.lower() for path in paths}
    return "".join(
        f"; files that end in {' and '.join(sorted(there & set(suffixes)))} {way}"
        for suffixes, way in _WAYS.items()
        if there & set(suffixes)
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shown(paths: list[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) for path in paths[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(paths) > _SHOWN else "")


def _architecture(args: argparse.Namespace, files: list[Path]) -> Architecture | None:
    """Return the architecture that the options describe; None where all files are ONNX."""
    arrays = [path for path in files if path.suffix.lower() != ".onnx"]
    if args.sizes:
        return _architecture_of_options(args)
    if not arrays:
        return None
    has = ""
    with suppress(MlpbankError, OSError):  # the message does without
        from mlpbank.convert._params import layers_in

        params = _params_in(arrays[0], args)
        has = f" (it has {layers_in(params, _layout_of(arrays[0], params, args))})"
    raise CommandError(
        f"--sizes: expected the layer sizes, such as 32,64,1, and --activation beside them, since "
        f"{arrays[0]} holds weights{has}, which tell neither their activations nor whether they "
        "are all layers; got none"
    )


def _assumed(args: argparse.Namespace) -> str:
    """Return the activations that no option gives, in words; "" where all are given."""
    assumed = []
    if args.sizes and args.activation is None and args.sizes.count(",") > 1:
        assumed.append("relu in all layers but the last")
    if args.sizes and args.output_activation is None:
        assumed.append("no activation in the last layer")
    return " and ".join(assumed)


def _architecture_of_options(args: argparse.Namespace) -> Architecture:
    """Return the architecture of ``--sizes``, ``--activation`` and ``--output-activation``."""
    try:
        sizes = [int(size) for size in args.sizes.split(",")]
    except ValueError:
        raise CommandError(
            f"--sizes: expected integers such as 32,64,1, got {args.sizes!r}"
        ) from None
    if len(sizes) < 2:
        raise CommandError(
            f"--sizes: expected an input and an output size at least, got {args.sizes!r}"
        )
    kinds = [_activation(args.activation or "relu", "--activation")] * (len(sizes) - 2)
    kinds.append(_activation(args.output_activation or "none", "--output-activation"))
    layers = zip(sizes, sizes[1:], kinds, strict=False)
    return Architecture(LayerSpec(i, o, kind, **options) for i, o, (kind, options) in layers)


_WITH_OPTIONS = re.compile(r"\s*(\w+)\s*(?:\((.*)\)\s*)?")


def _activation(text: str, name: str) -> tuple[Activation, dict[str, float]]:
    """Return an activation and its parameters, as in ``leaky_relu(alpha=0.2)``."""
    match = _WITH_OPTIONS.fullmatch(text)
    known = [activation.value for activation in Activation]
    if match is None or match[1] not in known:
        raise CommandError(
            f"{name}: expected one of {', '.join(known)}, with parameters such as "
            f"'leaky_relu(alpha=0.2)', got {text!r}"
        )
    kind, options = Activation(match[1]), {}
    for option in filter(None, map(str.strip, (match[2] or "").split(","))):
        parameter, _, value = option.partition("=")
        try:
            options[parameter.strip()] = float(value)
        except ValueError:
            raise CommandError(
                f"{name}: expected parameters as in 'leaky_relu(alpha=0.2)', got {option!r}"
            ) from None
    try:
        parameters_of(kind, options)
    except MlpbankError as error:
        raise CommandError(f"{name}: {error}") from error
    return kind, options


def _read_model(path: Path, architecture: Architecture | None, args: argparse.Namespace) -> Any:
    """Return the model in a file, in a form that `mlpbank.convert` takes."""
    if path.suffix.lower() == ".onnx":
        return path
    from mlpbank import convert

    params = _params_in(path, args)
    if architecture is None or "layer_0" in params:  # mlpbank's own form
        return params
    layout = _layout_of(path, params, args)
    try:
        return convert.from_params(params, architecture, weight_layout=layout).weights
    except MlpbankError as error:
        text = str(error.args[0] if error.args else error)
        for python, option in _OPTIONS.items():
            text = text.replace(python, option)
        text = re.sub("an architecture with 'prelu' as activation.*", "--activation prelu", text)
        raise CommandError(text) from error


# What messages about Python's arguments say here.
_OPTIONS = {
    " to convert.from_params": "",
    "weight_layout=": "--weight-layout ",
    "architecture: expected": "--sizes: expected",
    "; give an architecture of these layers, or pass the module itself, which tells them": "",
    "so check the sizes of the architecture": "so check --sizes",
    "pass the module itself": "export the module to ONNX",
    "pass layers=[...]": "use from_params(..., layers=[...]) in Python",
}


def _params_in(path: Path, args: argparse.Namespace) -> Any:
    """Return the parameters in a file that is none of ONNX."""
    from mlpbank.convert._checkpoints import state_dict_of
    from mlpbank.convert._model_files import load_safetensors, load_torch

    if path.suffix.lower() == ".safetensors":
        return load_safetensors(path)
    params = state_dict_of(load_torch(path), args.checkpoint)
    if not isinstance(params, (Mapping, list, tuple)):
        raise CommandError(f"expected a state dict, got {type(params).__name__}")
    return params


def _layout_of(path: Path, params: Any, args: argparse.Namespace) -> str | None:
    """Return the orientation of matrices, None where their names or types tell it."""
    layout: str | None = args.weight_layout
    if layout is None and path.suffix.lower() == ".safetensors" and _has_weights(params):
        return "out_in"
    return layout


def _has_weights(arrays: Mapping[str, Any]) -> bool:
    """Return whether matrices have the name that PyTorch, MLX and Candle give theirs."""
    names = {name.rpartition(".")[2] for name in arrays}
    return names <= {"weight", "bias"}
