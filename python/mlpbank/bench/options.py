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
from mlpbank.engine import Engine
from mlpbank.errors import InvalidValueError

_LAYOUTS = ("auto", "panel", "lane")
# Sections of the suite: what each one is about. The first four run where none is named.
SECTIONS = {
    "cases": "nine cases beside other libraries and the machine's limits",
    "ids": "any rows for any models",
    "dtypes": "weights of each precision",
    "swap": "models replaced while others predict",
    "more": "mlpbank beside itself: instruction sets, threads, sizes, activations",
}
_SUITE = ("cases", "ids", "dtypes", "swap")
_SECONDS_HELP = (
    "measuring for each case, warm-up included, shared by its contenders (default 15; parts of sections take from a "
    "fifteenth of it to all); set-up and verification come on top, and an estimate of all is printed first"
)
_DEFAULTS = {"models": "1000", "sizes": "32,64,64,1", "rows": "1", "activation": "relu"}


@dataclass(frozen=True)
class Plan:
    """What a run does: the cases first, then other sections of the suite."""

    cases: tuple[Case, ...]
    sections: tuple[str, ...]
    peers: tuple[str, ...]
    settings: Settings
    seconds: float
    json: Path | None
    plot: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options. All are read as text and checked by `make_plan`, which has one-line messages."""
    case = parser.add_argument_group("the case")
    case.add_argument("--models", metavar="N", help=f"number of models (default {_DEFAULTS['models']})")
    case.add_argument("--sizes", metavar="A,B,...", help=f"layer sizes, input first (default {_DEFAULTS['sizes']})")
    case.add_argument("--rows", metavar="N", help=f"rows per model (default {_DEFAULTS['rows']})")
    case.add_argument("--activation", help=f"of all layers but the last (default {_DEFAULTS['activation']})")
    sections = "; ".join(f"{name}: {what}" for name, what in SECTIONS.items())
    case.add_argument(
        "--suite",
        nargs="?",
        const=",".join(_SUITE),
        metavar="A,B,...",
        help=f"run sections of the suite instead, by default {', '.join(_SUITE)}. {sections}",
    )
    who = parser.add_argument_group("who computes it, and how")
    who.add_argument("--peers", metavar="A,B,...", help=f"some of {', '.join(PEERS)}, or none (default: all installed)")
    who.add_argument("--threads", metavar="N", help="threads of every contender (default: the CPU budget)")
    who.add_argument("--isa", help="instruction set of mlpbank (default: the fastest here)")
    who.add_argument("--layout", default="auto", help="layout of mlpbank's weights: auto, panel or lane")
    who.add_argument("--dtype", default="float32", help=f"precision of mlpbank's weights: {', '.join(DTYPES)}")
    out = parser.add_argument_group("measuring and results")
    out.add_argument("--seconds", metavar="S", default="15", help=_SECONDS_HELP)
    out.add_argument("--json", metavar="FILE", help="write everything that was measured")
    out.add_argument("--plot", metavar="FILE.png", help="draw FILE-roofline.png and FILE-peers.png")


def make_plan(args: argparse.Namespace) -> Plan:
    """Return what to run.

    Raises
    ------
    ValueError
        An argument is wrong; the message names it.
    """
    threads = Engine().num_threads
    if args.threads is not None:
        wanted = _integer(args.threads, "--threads")
        if wanted > threads:
            raise InvalidValueError(f"--threads: expected 1 to {threads}, the CPU budget here, got {wanted}")
        threads = wanted
    Engine(threads, args.isa)  # knows the instruction sets and complains
    layout, dtype = _one_of(args.layout, _LAYOUTS, "--layout"), _one_of(args.dtype, DTYPES, "--dtype")
    sections = _names(args.suite, tuple(SECTIONS), "--suite") if args.suite is not None else ()
    cases = _cases(args, sections)
    if args.plot is not None and not cases:
        raise InvalidValueError("--plot: draws cases, which --suite was not asked for")
    return Plan(
        cases=cases,
        sections=tuple(name for name in SECTIONS if name in sections and name != "cases"),
        peers=_peers(args.peers),
        settings=Settings(threads, args.isa, layout, dtype),
        seconds=_seconds(args.seconds),
        json=_output(args.json, "--json"),
        plot=_picture(args.plot),
    )


def _cases(args: argparse.Namespace, sections: tuple[str, ...]) -> tuple[Case, ...]:
    given = [name for name in _DEFAULTS if getattr(args, name) is not None]
    if sections:
        if given:
            raise InvalidValueError(f"--{given[0]}: not together with --suite, which has its own cases")
        return SUITE if "cases" in sections else ()
    text = {name: getattr(args, name) or default for name, default in _DEFAULTS.items()}
    sizes = tuple(_integer(size, "--sizes") for size in text["sizes"].split(","))
    try:
        Architecture.mlp(*sizes, activation=text["activation"])
    except ValueError as error:
        raise InvalidValueError(f"--{error}") from None  # the message starts with "sizes" or "activation"
    return (Case(_integer(text["models"], "--models"), sizes, _integer(text["rows"], "--rows"), text["activation"]),)


def _peers(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(PEERS)
    if text == "none":
        return ()
    return _names(text, tuple(PEERS), "--peers")


def _names(text: str, choices: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Return the comma-separated names, all of them among `choices`, each once."""
    return tuple(dict.fromkeys(_one_of(name.strip(), choices, option) for name in text.split(",")))


def _integer(text: str, option: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise InvalidValueError(f"{option}: expected a positive integer, got {text.strip()!r}") from None
    return positive_int(value, option)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise InvalidValueError(f"--seconds: expected a positive number, got {text!r}")
    return value


def _one_of(value: str, choices: tuple[str, ...], option: str) -> str:
    if value not in choices:
        raise InvalidValueError(f"{option}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def _output(text: str | None, option: str) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InvalidValueError(f"{option}: cannot write {text}")
    return path


def _picture(text: str | None) -> Path | None:
    path = _output(text, "--plot")
    if path is not None:
        if path.suffix != ".png":
            raise InvalidValueError(f"--plot: expected a name that ends with .png, got {text!r}")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise InvalidValueError("--plot: matplotlib is not installed; pip install 'mlpbank[bench]'") from None
    return path
