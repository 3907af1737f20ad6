"""The command line: ``python -m mlpbank`` and the ``mlpbank`` script."""

from mlpbank.cli._main import main

__all__ = ["main"]
