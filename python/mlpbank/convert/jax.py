"""Flax NNX: modules as parameter trees.

Parameters of Flax Linen and modules of Equinox are mappings, sequences and dataclasses, which
`_params` reads as such.
"""

from __future__ import annotations

from typing import Any

from flax import nnx


def nnx_state(module: Any) -> Any:
    """Return the variables of an NNX module as a nested mapping."""
    return nnx.state(module)
