"""Many PyTorch modules of one class: each is read as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import one_model, raises
from convert_checks import SQUARE, assert_computes, rows, unsupported
from mlpbank import Architecture, LayerSpec, convert

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
from torch_nets import expected  # noqa: E402


def test_modules_of_one_class_may_differ() -> None:
    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self, act: str, shift: float | None = None) -> None:
            super().__init__()
            self.act, self.fc = act, nn.Linear(2, 2)
            if shift is not None:
                self.shift = torch.tensor(shift)

        def forward(self, x: Any) -> Any:
            x = self.fc(x)
            x = x + self.shift if hasattr(self, "shift") else x
            return torch.relu(x) if self.act == "relu" else torch.tanh(x)

    nets = {i: Net("relu", shift) for i, shift in enumerate((None, 1.0, 2.0, None))}
    keys, _, weights = convert.stack(nets)
    assert keys == [0, 1, 2, 3]
    shifts = [weights["layer_0.bias"][i] - nets[i].fc.bias.detach().numpy() for i in keys]
    np.testing.assert_allclose(np.mean(shifts, axis=1), [0, 1, 2, 0], atol=1e-6)
    models = {"a": Net("relu"), "b": Net("relu"), "c": Net("tanh"), "d": nn.Linear(2, 3)}
    message = "layer 0: expected 2 -> 2 with activation 'relu', got 2 -> 2 with activation 'tanh'"
    with raises(ValueError, f"models['c']: differs from models['a']: {message}"):
        convert.stack(models)
    with raises(
        ValueError,
        "models['d']: differs from the architecture: expected 2 layers (2 -> 3 none, 3 -> 3 none), "
        "got 1 (2 -> 3 none)",
    ):
        convert.stack({"d": nn.Linear(2, 3)}, Architecture([LayerSpec(2, 3), LayerSpec(3, 3)]))
    del models["c"], models["d"]
    models["e"] = nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2))
    with unsupported("models['e']: 1: GRU is not supported"):
        convert.stack(models)
    with raises(ValueError, "models: expected at least one, got none"):
        convert.stack({})


class Flexible(nn.Module):  # type: ignore[misc]
    """A module whose forward depends on everything that a module can have."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x: Any) -> Any:
        x = self.a(x)
        if hasattr(self, "sizes"):
            x = x * float(self.sizes[0])
        if hasattr(self, "function"):
            x = self.function(x)
        x = self.b(x)
        return F.linear(x, self.matrix, self.a.bias) if hasattr(self, "matrix") else x


def test_forwards_that_are_traced_once_are_those_of_the_same_kind() -> None:
    """Modules are traced anew where anything differs on which their forward could depend."""

    def shared() -> Any:
        module = Flexible()
        module.b = module.a
        return module

    def tied(own: bool) -> Any:
        module = Flexible()
        module.matrix = nn.Parameter(torch.randn(3, 3)) if own else module.a.weight
        return module

    def with_hook() -> Any:
        module = Wrapped()
        module.inner.register_forward_hook(lambda m, args, y: y * 2)
        return module

    class Inner(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(x)

    class Wrapped(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    class Making(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(x) * torch.arange(1, 4) - torch.tensor([[1.0, 2.0, 3.0]])

    groups = [
        [Making(), Making()],
        [shared(), Flexible(), shared(), Flexible(sizes=[1, 2]), Flexible(sizes=[3, 2])],
        [tied(False), tied(True), tied(False)],
        [Flexible(function=torch.relu), Flexible(function=torch.relu)],
        [Wrapped(), with_hook(), Wrapped()],
    ]
    for modules in groups:
        _, arch, weights = convert.stack(dict(enumerate(modules)))
        for i, module in enumerate(modules):
            own = convert.convert(module)
            for name, array in one_model(weights, i).items():
                np.testing.assert_array_equal(array, own.weights[name])
            assert_computes(own, rows(arch), expected(module, rows(arch)))
    assert not hasattr(groups[0][0], "_tensor_constant0")
    graph = torch.fx.symbolic_trace(groups[3][0])
    assert_computes(
        convert.convert(graph), rows(SQUARE)[:, :3], expected(graph, rows(SQUARE)[:, :3])
    )
