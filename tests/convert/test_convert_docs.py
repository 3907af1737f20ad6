"""The examples of docs/converting.md run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cases import RunPython

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$",
    (Path(__file__).resolve().parents[2] / "docs/converting.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=str(i), marks=[pytest.mark.slow] if "import jax" in block else [])
        for i, block in enumerate(BLOCKS)
    ],
)
def test_examples_run(block: str, run_python: RunPython) -> None:
    for module in re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"could not find {module}")
    run_python(block)
