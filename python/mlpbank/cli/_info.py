"""What `mlpbank info` says: how mlpbank was built, and what of this machine it uses and why."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import numpy as np

import mlpbank
from mlpbank import _core

_TEAMS = {
    "OpenMP": "an OpenMP team",
    "standard library": "threads of the standard library; built without OpenMP",
}


def lines() -> Iterator[str]:
    """Yield the lines.

    Raises
    ------
    ValueError
        A variable of the environment is wrong.
    """
    isa = mlpbank.Engine().isa
    budget = mlpbank.cpu_budget()
    python = platform.python_version()
    yield f"mlpbank {mlpbank.__version__}, Python {python}, NumPy {np.__version__}"
    yield f"compiler: {_core.compiler.strip()}"
    yield _instruction_set(isa, os.environ.get("MLPBANK_ISA", ""))
    yield f"helpers: {_TEAMS[_core.team_kind]}"
    limits = ", ".join(f"{name} {limit or 'none'}" for name, limit in budget.limits.items())
    yield f"threads: {budget.threads}, limited by {budget.reason} ({limits})"


def _instruction_set(isa: str, variable: str) -> str:
    here = mlpbank.available_isas()
    why = "limited by MLPBANK_ISA" if variable else "the fastest of this CPU"
    facts = [f"MLPBANK_ISA {variable or 'none'}", f"CPU {', '.join(here)}"]
    if lacking := [name for name in _core.compiled_isas() if name not in here]:
        facts.append(f"built, but not on this CPU: {', '.join(lacking)}")
    return f"instruction set: {isa}, {why} ({'; '.join(facts)})"
