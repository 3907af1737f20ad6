"""``mlpbank inspect`` and ``verify``, and the parsers of all commands about banks."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlpbank._progress import on_terminal
from mlpbank.architecture import LayerSpec
from mlpbank.bank import LiveBank, _live_verify
from mlpbank.cli import _convert_command, _live_commands, _predict_command, _split_command
from mlpbank.cli._errors import encoded
from mlpbank.errors import BankFileError
from mlpbank.files import _mapped

Subparsers = Any  # argparse has no public name for its type


def add_commands(commands: Subparsers) -> None:
    """Add all commands that take a bank file or the folder of a live bank."""
    inspect = _command(
        commands,
        "inspect",
        inspect_bank,
        "show what a bank file or the folder of a live bank holds",
        "mlpbank inspect fleet.mlpbank\n  mlpbank inspect fleet.live",
    )
    inspect.add_argument("file", type=Path)

    verify = _command(
        commands,
        "verify",
        verify_bank,
        "check a bank file or a live folder: checksums, keys, finite weights",
        "mlpbank verify fleet.mlpbank\n  mlpbank verify fleet.live       # also while it is used",
    )
    verify.add_argument("file", type=Path)

    convert = _command(
        commands,
        "convert",
        _convert_command.convert_bank,
        "between bank files, live folders, safetensors and ONNX; or a folder of models into a bank",
        _convert_command.EXAMPLES,
    )
    _convert_command.add_arguments(convert)

    split = _command(
        commands,
        "split",
        _split_command.split_bank,
        "write one bank file for each part of the keys, for several machines",
        _split_command.EXAMPLES,
    )
    _split_command.add_arguments(split)

    predict = _command(
        commands,
        "predict",
        _predict_command.predict_rows,
        "send every row of a table through the model of its key",
        _predict_command.EXAMPLES,
    )
    _predict_command.add_arguments(predict)

    for name, run, text, examples, add in (
        (
            "create",
            _live_commands.create_folder,
            "make the folder of a live bank, of a bank file or of another such folder",
            _live_commands.CREATE_EXAMPLES,
            _live_commands.add_create,
        ),
        (
            "log",
            _live_commands.show_log,
            "list the changes of a live bank since its base",
            _live_commands.LOG_EXAMPLES,
            _live_commands.add_log,
        ),
        (
            "compact",
            _live_commands.compact_folder,
            "write all models of a live bank into a new base, and remove what it replaces",
            _live_commands.COMPACT_EXAMPLES,
            _live_commands.add_compact,
        ),
    ):
        add(_command(commands, name, run, text, examples))


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
    """Print the contents of a bank file or of a live folder."""
    bank = _live_commands.open_bank(args.file)
    infos = [bank.info(key) for key in bank]
    sizes = [
        bank.architecture.input_size,
        *(layer.output_size for layer in bank.architecture.layers),
    ]
    rows = (
        _live_commands.folder_rows(args.file, bank)
        if isinstance(bank, LiveBank)
        else [("file", f"{args.file}, {args.file.stat().st_size:,} bytes")]
    )
    rows += [
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


def verify_bank(args: argparse.Namespace) -> int:
    """Check a bank file or live folder, and raise for the first thing that is wrong with it."""
    if args.file.is_dir():
        return _verify_folder(args.file)
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


def _verify_folder(folder: Path) -> int:
    found = _live_verify.verify(folder, on_terminal())
    lines = [
        f"{folder}: {found.models:,} models, the base, {found.changes:,} changes since, checksums, "
        "keys and weights are sound"
    ]
    if found.is_head_behind:
        lines.append(
            f"{folder}: the head does not tell of change {found.sequence} yet: a writer is about "
            "to, or was stopped; the next change does"
        )
    if found.left_over:
        lines.append(f"{folder}: not in use: {', '.join(found.left_over)}")
    with encoded("standard output"):
        print("\n".join(lines))
    return 0
