"""PyTorch modules are read as in eval mode, whatever mode they are in, and left as they were."""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import assert_computes, rows, silently
from mlpbank import Architecture, convert
from mlpbank.convert import UnsupportedLayerError

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
prune = importlib.import_module("torch.nn.utils.prune")
X = rows(Architecture.mlp(3, 3))


class Branching(nn.Module):  # type: ignore[misc]
    """Shifts and drops in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("noise", torch.rand(4))

    def forward(self, x: Any) -> Any:
        x = self.norm(self.fc(x))
        if self.training:
            x = x + self.noise
        x = F.dropout(torch.relu(x), 0.5, self.training)
        return self.out(x if self.training else 2 * x)


def net(first: Any = None) -> Any:
    return nn.Sequential(first or nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def spectral(norm: Callable[..., Any]) -> Any:
    return net(norm(nn.Linear(3, 5)))


def pruned(*names: str, amount: float = 0.4) -> Any:
    module = net()
    for name in names:
        prune.random_unstructured(module[0], name, amount)
    return module


def pruned_inside() -> Any:
    module = Branching()
    prune.l1_unstructured(module.fc, "weight", 0.5)
    nn.utils.parametrizations.weight_norm(module.out)
    return module


MODULES: dict[str, Callable[[], Any]] = {
    "branches": Branching,
    "branches inside": lambda: nn.Sequential(Branching(), nn.Tanh(), nn.Linear(2, 1)),
    "normalised": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.9)),
    "spectral norm by hooks": lambda: spectral(nn.utils.spectral_norm),
    "spectral norm": lambda: spectral(nn.utils.parametrizations.spectral_norm),
    "orthogonal": lambda: spectral(nn.utils.parametrizations.orthogonal),
    "weight norm by hooks": lambda: spectral(nn.utils.weight_norm),
    "pruned": lambda: pruned("weight"),
    "pruned twice": lambda: pruned("weight", "weight", "bias"),
    "pruned inside": pruned_inside,
}


def state(module: Any) -> Any:
    return (
        [part.training for part in module.modules()],
        [sorted(part.__dict__) for part in module.modules()],
        [list(part._forward_pre_hooks.values()) for part in module.modules()],
        {name: value.clone() for name, value in module.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        [p._version for p in module.parameters()],
    )


def assert_untouched(module: Any, before: Any) -> None:
    after = state(module)
    assert after[:3] == before[:3]
    assert all(torch.equal(value, before[3][name]) for name, value in after[3].items())
    for gradient, was in zip(after[4], before[4], strict=True):
        assert gradient is was is None or torch.equal(gradient, was)
    assert after[5] == before[5]


def generators() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tobytes(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", MODULES)
def test_modules_in_training_mode_are_read_as_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    with silently():
        module = MODULES[name]()
    module.train()
    for _ in range(3):  # statistics, vectors of spectral norm and gradients of some training
        module(torch.rand(8, 3)).sum().backward()
    with torch.no_grad():  # as an optimizer would, so that what hooks keep is out of date
        next(iter(module.parameters())).mul_(1.5)
    before, drawn = state(module), generators()
    converted = convert.convert(module)
    assert_untouched(module, before)
    assert generators() == drawn
    with torch.no_grad():
        expected = copy_of(module).eval().double()(torch.tensor(X).double())
    assert_computes(converted, X, expected, times=4)


def copy_of(module: Any) -> Any:
    module.zero_grad(set_to_none=True)
    with torch.no_grad():
        module.eval()(torch.tensor(X))  # hooks of parameters leave results that cannot be copied
    return copy.deepcopy(module)


def test_parts_in_different_modes_keep_them() -> None:
    module = Branching().train()
    module.norm.eval()
    before = state(module)
    convert.stack({"a": module, "b": Branching().eval(), "c": Branching().train()})
    assert_untouched(module, before)


def refused(function: Callable[[Any, Any], Any]) -> Any:
    class Refused(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.log: list[int] = []

        def forward(self, x: Any) -> Any:
            return function(self, super().forward(x))

    return Refused().train()


def logs(module: Any, x: Any) -> Any:
    module.log.append(1)
    return x


def writes_unseen(module: Any, x: Any) -> Any:
    module._buffers["noise"].data.add_(1)
    return x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda module, x: x * x, "mul of two values that depend on the input"),
        (lambda module, x: x * torch.rand(()), "makes a tensor with aten.rand"),
        (lambda module, x: x * random.random(), "draws random numbers"),
        (lambda module, x: x * np.random.rand(), "draws random numbers"),  # noqa: NPY002
        (logs, "changes 'log' of the module"),
        (writes_unseen, "changes a tensor of the module"),
        (lambda module, x: 1 / 0, "cannot be traced: division by zero"),
    ],
)
def test_a_refusal_leaves_a_module_as_it_was(function: Any, message: str) -> None:
    module = refused(function)
    whole = nn.Sequential(nn.Linear(3, 3), module)
    before, drawn = state(module), generators()
    with pytest.raises(UnsupportedLayerError) as caught:
        convert.convert(whole)
    assert message in str(caught.value)
    assert_untouched(module, before)
    assert generators() == drawn
    assert module.log == []


def test_hooks_that_depend_on_each_other_are_named() -> None:
    with silently():
        layer = nn.utils.weight_norm(nn.Linear(3, 3))
    prune.random_unstructured(layer, "weight_g", 1)
    with pytest.raises(UnsupportedLayerError, match=r"^0: the hooks of Linear for"):
        convert.convert(nn.Sequential(layer))


class Merging(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def train(self, mode: bool = True) -> Any:
        if not mode:
            self.fc.weight.data *= 2
        return super().train(mode)

    def forward(self, x: Any) -> Any:
        return self.fc(x)


def test_a_train_of_its_own_may_do_anything() -> None:
    module = nn.Sequential(Merging())
    with raises(
        UnsupportedLayerError,
        "0: Merging has a train or eval of its own, so what it computes in eval mode is not known "
        "while it is in training mode; call model.eval() first",
    ):
        convert.convert(module)
    module.eval()
    with torch.no_grad():
        assert_computes(convert.convert(module), X, module.double()(torch.tensor(X).double()))


def test_dropout_that_is_active_in_eval_mode_too() -> None:
    module = refused(lambda module, x: F.dropout(x))
    with pytest.raises(UnsupportedLayerError, match=r"dropout is active in eval mode too; pass"):
        convert.convert(module)


def test_lazy_layers_have_to_have_seen_rows() -> None:
    for module, place in (
        (nn.Sequential(nn.LazyLinear(3)), "0"),
        (nn.Sequential(nn.Identity(), refused(lambda module, x: module.lazy(x))), "1.lazy"),
    ):
        if place == "1.lazy":
            module[1].lazy = nn.LazyLinear(2)
        with raises(
            UnsupportedLayerError,
            f"{place}: LazyLinear has no parameters yet; call the model with some rows first",
        ):
            convert.convert(module)
        module.eval()(torch.tensor(X))
        assert convert.convert(module).architecture.input_size == 3
