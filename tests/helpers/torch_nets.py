"""PyTorch modules for the tests of mlpbank.convert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


def expected(module: Any, x: Any) -> Any:
    """Return a module's outputs in float64."""
    with torch.no_grad():
        return module.double()(torch.tensor(x, dtype=torch.float64)).numpy()


class Net(nn.Module):  # type: ignore[misc]
    """A dense layer, and a function of the module and what the layer computes."""

    def __init__(self, function: Callable[[Any, Any], Any] = lambda net, x: x) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.rand(3) + 1)
        self.calls: Any = 0
        self.register_buffer("shift", torch.rand(3))
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, self.fc(x))


def hooked_parametrization() -> Any:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    layer.parametrizations.weight.register_forward_hook(
        lambda module, args, output: output * torch.rand(())
    )
    return layer
