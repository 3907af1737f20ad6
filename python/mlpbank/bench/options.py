"""The arguments of ``mlpbank bench``, checked before anything is computed."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from mlpbank.architecture import Architecture, positive_int
from mlpbank.bench.cases import DTYPES, SUITE, Case
from mlpbank.bench.contender import Settings
from mlpbank.bench.peers import PEERS
from mlpbank.inference import Engine

_LAYOUTS = ("auto", "panel", "lane")
_DEFAULTS = {"models": "1000", "sizes": "32,64,64,1", "rows": "1", "activation": "relu"}


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    cases: tuple[Case, ...]
    peers: tuple[str, ...]
    settings: Settings
    seconds: float
    json: Path | None
    plot: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options as text. `make_plan` checks them, with messages of one line."""
    what = parser.add_argument_group("what is computed")
    for name, help in (
        ("models", "number of models"),
        ("sizes", "layer sizes, input first"),
        ("rows", "rows per model"),
        ("activation", "of all layers but the last"),
    ):
        what.add_argument(f"--{name}", help=f"{help} (default {_DEFAULTS[name]})")
    what.add_argument(
        "--suite", nargs="?", const="cases", metavar="cases", help="nine cases instead of one"
    )
    who = parser.add_argument_group("who computes it, and how")
    who.add_argument(
        "--peers", metavar="A,B,...", help=f"some of {', '.join(PEERS)}, or none (default: all)"
    )
    add_settings(who)
    out = parser.add_argument_group("measuring and results")
    out.add_argument(
        "--seconds",
        metavar="S",
        default="15",
        help="measuring each case, shared by its contenders (default 15); set-up and verification "
        "come on top, and an estimate of all is printed first",
    )
    out.add_argument("--json", metavar="FILE", help="write everything that was measured")
    out.add_argument("--plot", metavar="FILE.png", help="draw FILE-limits.png and FILE-peers.png")


def add_settings(group: argparse._ActionsContainer) -> None:
    """Add the options that `make_settings` reads."""
    group.add_argument("--threads", metavar="N", help="of everyone (default: the CPU budget)")
    group.add_argument("--isa", help="instruction set of mlpbank (default: the fastest here)")
    group.add_argument("--layout", default="auto", help=f"of its weights: {', '.join(_LAYOUTS)}")
    group.add_argument("--dtype", default="float32", help=f"of its weights: {', '.join(DTYPES)}")


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the checked settings, or raise a ValueError that names the wrong argument."""
    threads = Engine().num_threads
    if args.threads is not None:
        wanted = _integer(args.threads, "--threads")
        if wanted > threads:
            raise ValueError(
                f"--threads: expected 1 to {threads}, the CPU budget here, got {wanted}"
            )
        threads = wanted
    Engine(threads, args.isa)  # knows the instruction sets and complains
    layout = _one_of(args.layout, _LAYOUTS, "--layout")
    return Settings(threads, args.isa, layout, _one_of(args.dtype, DTYPES, "--dtype"))


def make_plan(args: argparse.Namespace) -> Plan:
    """Return what to run, or raise a ValueError that names the wrong argument."""
    settings = make_settings(args)
    return Plan(
        _cases(args),
        _peers(args.peers),
        settings,
        checked_seconds(args.seconds),
        checked_output(args.json, "--json"),
        _picture(args.plot),
    )


def _cases(args: argparse.Namespace) -> tuple[Case, ...]:
    given = [name for name in _DEFAULTS if getattr(args, name) is not None]
    if args.suite is not None:
        _one_of(args.suite, ("cases",), "--suite")
        if given:
            raise ValueError(f"--{given[0]}: not together with --suite, which has its own cases")
        return SUITE
    text = {name: getattr(args, name) or default for name, default in _DEFAULTS.items()}
    sizes = tuple(_integer(size, "--sizes") for size in text["sizes"].split(","))
    try:
        Architecture.mlp(*sizes, activation=text["activation"])
    except ValueError as error:  # its message starts with "sizes" or "activation"
        raise ValueError(f"--{error}") from None
    models, rows = (_integer(text[name], f"--{name}") for name in ("models", "rows"))
    return (Case(models, sizes, rows, text["activation"]),)


def _peers(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(PEERS)
    names = [] if text == "none" else text.split(",")
    return tuple(dict.fromkeys(_one_of(name.strip(), tuple(PEERS), "--peers") for name in names))


def _integer(text: str, option: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{option}: expected a positive integer, got {text.strip()!r}") from None
    return positive_int(value, option)


def checked_seconds(text: str) -> float:
    """Return the argument of ``--seconds``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise ValueError(f"--seconds: expected a positive number, got {text!r}")
    return value


def _one_of(value: str, choices: tuple[str, ...], option: str) -> str:
    if value not in choices:
        raise ValueError(f"{option}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def checked_output(text: str | None, option: str) -> Path | None:
    """Return the path of a file to write, if any."""
    if text is None:
        return None
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{option}: cannot write {text}")
    return path


def _picture(text: str | None) -> Path | None:
    path = checked_output(text, "--plot")
    if path is not None:
        if path.suffix != ".png":
            raise ValueError(f"--plot: expected a name that ends with .png, got {text!r}")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise ValueError(
                "--plot: matplotlib is not installed; pip install 'mlpbank[bench]'"
            ) from None
    return path
