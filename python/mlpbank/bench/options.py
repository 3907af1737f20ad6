"""The arguments of ``mlpbank bench``, and their checks before a run."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_args

from mlpbank.architecture import positive_int
from mlpbank.bench.cases import DTYPES, SUITE, Case
from mlpbank.bench.contender import Settings
from mlpbank.bench.peers import PEERS
from mlpbank.engine import Engine
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Layout

T = TypeVar("T")

_LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_CASE = {  # option: default, help
    "models": ("1000", "number of models"),
    "sizes": ("32,64,64,1", "layer sizes, input first"),
    "rows": ("1", "rows per model"),
    "activation": ("relu", "of all layers but the last; the bounds of clip are -1 and 1"),
}
_SECONDS = "of measuring each case, shared by its contenders (default 15); set-up comes on top"


@dataclass(frozen=True)
class Plan:
    """The cases, peers and files of a run."""

    cases: tuple[Case, ...]
    peers: tuple[str, ...]
    settings: Settings
    seconds: float
    json: Path | None
    plot: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options as text. `make_plan` checks them with errors of one line."""
    add = parser.add_argument
    for name, (default, help) in _CASE.items():
        add(f"--{name}", help=f"{help} (default {default})")
    add("--suite", action="store_true", help="nine cases instead of one")
    add("--peers", metavar="A,B,...", help=f"some of {', '.join(PEERS)}, or none (default: all)")
    add_settings(parser)
    add("--seconds", metavar="S", default="15", help=_SECONDS)
    add("--json", metavar="FILE", help="write everything that was measured")
    add("--plot", metavar="FILE.png", help="draw FILE-limits.png and FILE-peers.png")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `make_settings` reads."""
    add = parser.add_argument
    add("--threads", metavar="N", help="threads of every contender (default: the CPU budget)")
    add("--isa", help="instruction set of mlpbank (default: the fastest here)")
    add("--layout", default="auto", help=f"layout of mlpbank's weights: {', '.join(_LAYOUTS)}")
    add("--dtype", default="float32", help=f"dtype of mlpbank's weights: {', '.join(DTYPES)}")


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the checked settings, or raise a ValueError that names the wrong argument."""
    threads = Engine().num_threads
    if args.threads is not None:
        budget, threads = threads, _integer(args.threads, "--threads")
        if threads > budget:
            raise InvalidValueError(
                f"--threads: expected 1 to {budget}, the CPU budget, got {threads}"
            )
    Engine(threads, args.isa)  # raises for an unknown instruction set
    layout = _one_of(args.layout, _LAYOUTS, "--layout")
    return Settings(threads, args.isa, layout, _one_of(args.dtype, DTYPES, "--dtype"))


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the checked plan, or raise a ValueError that names the wrong argument."""
    settings, cases, peers = make_settings(args), _cases(args), tuple(PEERS)
    if args.peers is not None:
        names = [] if args.peers == "none" else args.peers.split(",")
        peers = tuple(dict.fromkeys(_one_of(name.strip(), peers, "--peers") for name in names))
    seconds, json = checked_seconds(args.seconds), checked_output(args.json, "--json")
    plot = checked_output(args.plot, "--plot")
    if plot is not None and plot.suffix != ".png":
        raise InvalidValueError(f"--plot: expected a name that ends with .png, got {args.plot!r}")
    if plot is not None and find_spec("matplotlib") is None:
        raise InvalidValueError("--plot: matplotlib is not installed; pip install 'mlpbank[bench]'")
    return Plan(cases, peers, settings, seconds, json, plot)


def _cases(args: argparse.Namespace) -> tuple[Case, ...]:
    given = [name for name in _CASE if getattr(args, name) is not None]
    if args.suite:
        if given:
            raise InvalidValueError(
                f"--{given[0]}: not together with --suite, which has its own cases"
            )
        return SUITE
    text = {name: getattr(args, name) or default for name, (default, _) in _CASE.items()}
    sizes = tuple(_integer(size, "--sizes") for size in text["sizes"].split(","))
    try:
        Case(1, sizes, 1, text["activation"]).architecture  # noqa: B018
    except ValueError as error:
        about = "" if str(error).startswith(("sizes:", "activation:")) else "activation: "
        raise InvalidValueError(f"--{about}{error}") from None
    models, rows = (_integer(text[name], f"--{name}") for name in ("models", "rows"))
    return (Case(models, sizes, rows, text["activation"]),)


def _integer(text: str, option: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise InvalidValueError(
            f"{option}: expected a positive integer, got {text.strip()!r}"
        ) from None
    return positive_int(value, option)


def _one_of(value: Any, choices: tuple[T, ...], option: str) -> T:
    if value not in choices:
        raise InvalidValueError(
            f"{option}: expected {' or '.join(map(repr, choices))}, got {value!r}"
        )
    return choices[choices.index(value)]


def checked_seconds(text: str) -> float:
    """Return the argument of ``--seconds``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise InvalidValueError(f"--seconds: expected a positive number, got {text!r}")
    return value


def checked_output(text: str | None, option: str) -> Path | None:
    """Return the path of a file to write, None if there is none."""
    path = None if text is None else Path(text)
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise InvalidValueError(f"{option}: cannot write {text}")
    return path
