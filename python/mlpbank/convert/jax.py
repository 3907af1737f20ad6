"""Flax NNX: modules as parameter trees.

`_params` reads parameters of Flax Linen and modules of Equinox without JAX, as mappings, sequences
and dataclasses.
"""

from __future__ import annotations

from typing import Any

from flax import nnx


def nnx_state(module: Any) -> Any:
    """Return the variables of an NNX module as a nested mapping."""
    return nnx.state(module)
