"""Parameters as JAX, Flax and Equinox hand them over, in NumPy arrays and stand-ins."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from cases import one_model, random_weights
from convert_checks import assert_same_models
from mlpbank import Architecture, convert

ARCHITECTURE = Architecture.mlp(3, 4, 2)
WEIGHTS = one_model(random_weights(ARCHITECTURE, 1, np.random.default_rng(0)), 0)


def layers() -> list[tuple[Any, Any]]:
    return [(WEIGHTS[f"layer_{i}"], WEIGHTS[f"layer_{i}.bias"]) for i in range(2)]


def test_variables_of_flax_linen_are_nested_mappings() -> None:
    params = {
        f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(layers())
    }
    converted = convert.convert({"params": params}, ARCHITECTURE)
    assert_same_models(converted, ARCHITECTURE, WEIGHTS)


def test_a_module_of_flax_nnx_is_read_by_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Flax, which the slow tests of test_convert_jax.py have itself."""
    kind = type("Module", (), {"__module__": "flax.nnx.module"})
    module = kind()
    state = {
        f"fc{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(layers())
    }
    flax = types.ModuleType("flax")
    flax.nnx = types.SimpleNamespace(state=lambda of: {module: state}[of])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flax", flax)
    monkeypatch.delitem(sys.modules, "mlpbank.convert.jax", raising=False)
    monkeypatch.delattr(convert, "jax", raising=False)  # read by another test, with the real Flax
    assert_same_models(convert.convert(module, ARCHITECTURE), ARCHITECTURE, WEIGHTS)
