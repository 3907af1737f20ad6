"""Flax NNX: modules as parameter trees. Other trees of JAX are mappings, sequences and dataclasses: `_params` reads them."""

from __future__ import annotations

from typing import Any

from flax import nnx


def nnx_state(module: Any) -> Any:
    """Return the variables of an NNX module as a nested mapping."""
    return nnx.state(module)
