"""The command line: ``python -m mlpbank`` and the ``mlpbank`` script."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlpbank.cli._bank_commands import add_commands
from mlpbank.errors import MlpbankError, UnknownKeyError


def _demo(_: argparse.Namespace) -> int:
    from mlpbank.cli import demo

    return demo.main()


def _bench(args: argparse.Namespace) -> int:
    from mlpbank.bench import command

    return command.run(args)


def _info(_: argparse.Namespace) -> int:
    from mlpbank.cli import _info

    print("\n".join(_info.lines()))
    return 0


class _Version(argparse.Action):
    """Prints the version. Looking it up is slow, so no other command does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import mlpbank

        print(f"mlpbank {mlpbank.__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name. Those of the process by default.

    Returns
    -------
    int
        0, or what the command returned; 2 for wrong input; 1 for a bug; 130 after Ctrl-C, 143 after
        SIGTERM; 141 if the reader of the output has gone.
    """
    parser = argparse.ArgumentParser(
        prog="mlpbank", description="Many small neural networks in one call, on CPUs."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_commands(commands)
    demo = commands.add_parser(
        "demo", help="predict the air time of real flights, one network per flight number"
    )
    demo.set_defaults(run=_demo)
    bench = commands.add_parser(
        "bench", help="measure speed here, against other libraries and the machine's limits"
    )
    if (sys.argv[1:] if argv is None else argv)[:1] == ["bench"]:
        from mlpbank.bench.options import add_arguments  # only here: it imports the benchmark

        add_arguments(bench)
    bench.set_defaults(run=_bench)
    info = commands.add_parser(
        "info", help="show version, compiler, instruction set, threads, and why"
    )
    info.set_defaults(run=_info)
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    args = parser.parse_args(argv)
    try:
        with _terminated_like_interrupted():
            code: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that a broken pipe is caught below
    except BrokenPipeError:
        _drop_output()  # The reader of it has gone (`| head`), which is no error.
        return 128 + signal.SIGPIPE  # as a shell has it
    except KeyboardInterrupt as error:
        if os.environ.get("MLPBANK_DEBUG"):
            raise
        number: int = error.args[0] if error.args else signal.SIGINT
        print(f"mlpbank: stopped by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number
    except (MlpbankError, OSError, MemoryError) as error:  # wrong input, or too small a machine
        if os.environ.get("MLPBANK_DEBUG"):
            raise
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # a full disk
            _drop_output()
        # The str of a KeyError is the repr of its message.
        text = error.args[0] if isinstance(error, UnknownKeyError) else error
        print(
            f"mlpbank: error: {' '.join(str(text).split()) or type(error).__name__}",
            file=sys.stderr,
        )
        return 2
    except Exception:
        if os.environ.get("MLPBANK_DEBUG"):
            raise
        traceback.print_exc()
        print(
            "mlpbank: this is a bug in mlpbank; please report it with the lines above",
            file=sys.stderr,
        )
        return 1
    return code


def _drop_output() -> None:
    """Go on with another stdout: Python would complain when it closes one that takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that no temporary file stays behind."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    try:
        is_ours = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if is_ours:
            signal.signal(signal.SIGTERM, stop)
    except ValueError:  # in another thread than the main one
        is_ours = False
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
