"""PyTorch modules that are not called, or do not compute, as their class says are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cases import one_model, raises
from convert_checks import assert_computes, rows, silently
from mlpbank import Architecture, convert
from mlpbank.convert import UnsupportedLayerError

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
hooks = nn.modules.module
from torch_nets import Net, hooked_parametrization  # noqa: E402


@contextmanager
def installed(register: Any, hook: Any) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (hooks.register_module_forward_hook, "_global_forward_hooks"),
        (hooks.register_module_forward_pre_hook, "_global_forward_pre_hooks"),
        (hooks.register_module_full_backward_hook, "_global_backward_hooks"),
        (hooks.register_module_full_backward_pre_hook, "_global_backward_pre_hooks"),
    ],
)
def test_hooks_for_every_module(register: Any, name: str) -> None:
    with installed(register, lambda *args: None):
        for model in (nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)), Net()):
            with raises(
                UnsupportedLayerError,
                f"PyTorch has hooks for every module ({name}), which may do anything; "
                "remove them first",
            ):
                convert.convert(model)
        with pytest.raises(
            UnsupportedLayerError, match=r"^models\['a'\]: PyTorch has hooks for every module"
        ):
            convert.stack({"a": nn.Linear(3, 3)})
    assert convert.convert(nn.Linear(3, 3)).architecture.output_size == 3


class Called(nn.Linear):  # type: ignore[misc]
    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * 2


class CalledNet(Net):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * 2


class Backwards(nn.Sequential):  # type: ignore[misc]
    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


class Noisy(nn.Linear):  # type: ignore[misc]
    @property
    def weight(self) -> Any:
        return self.own + torch.randn(3, 3)

    @weight.setter
    def weight(self, value: Any) -> None:
        self.own = value


class Plain(nn.Linear):  # type: ignore[misc]
    """A subclass that computes what its base does."""

    def __init__(self) -> None:
        super().__init__(3, 3)

    def penalty(self) -> Any:
        return self.weight.abs().sum()


class Doubling(nn.Module):  # type: ignore[misc]
    def forward(self, weight: Any) -> Any:
        return weight * 2


class Sampling(nn.Module):  # type: ignore[misc]
    def forward(self, weight: Any) -> Any:
        return weight + torch.randn_like(weight)


def changed(model: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def hooked(register: str, model: Any = None) -> Any:
    model = nn.Linear(3, 3) if model is None else model
    getattr(model, register)(lambda *args: None)
    return model


def parametrized(function: Any) -> Any:
    layer = nn.Linear(3, 3)
    nn.utils.parametrize.register_parametrization(layer, "weight", function)
    return layer


def normed(change: Callable[[Any], Any]) -> Any:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    change(layer.parametrizations.weight[0])
    return layer


def compiled(**attributes: Any) -> Any:
    with silently():
        model = torch.compile(nn.Linear(3, 3), backend="eager")
    return changed(model, **attributes)


def noisy() -> Any:
    layer = nn.Module.__new__(Noisy)
    nn.Module.__init__(layer)
    layer.own, layer.bias = nn.Parameter(torch.ones(3, 3)), None
    return layer


HOOKED = "has a forward hook hooked.<locals>.<lambda>, which may do anything; call remove()"
PRE = HOOKED.replace("forward hook", "forward pre-hook")
OWN = "has a forward of its own set on the instance, which may do anything; define it in the class"
OWN_CALL = OWN.replace("forward", "_call_impl")
OTHERWISE: dict[str, tuple[Callable[[], Any], str]] = {
    "pre-hook": (lambda: hooked("register_forward_pre_hook"), f"Linear {PRE}"),
    "hook": (lambda: hooked("register_forward_hook"), f"Linear {HOOKED}"),
    "hook of a module": (lambda: hooked("register_forward_hook", Net()), f"Net {HOOKED}"),
    "pre-hook of a module": (lambda: hooked("register_forward_pre_hook", Net()), f"Net {PRE}"),
    "pre-hook inside": (
        lambda: changed(Net(), fc=hooked("register_forward_pre_hook")),
        f"fc: Linear {PRE}",
    ),
    "hook of what is compiled": (
        lambda: hooked("register_forward_hook", compiled()),
        f"OptimizedModule {HOOKED}",
    ),
    "forward of what is compiled": (
        lambda: compiled(forward=torch.relu),
        f"OptimizedModule {OWN}",
    ),
    "forward": (lambda: changed(nn.Linear(3, 3), forward=torch.relu), f"Linear {OWN}"),
    "forward of a module": (lambda: changed(Net(), forward=torch.relu), f"Net {OWN}"),
    "call": (lambda: Called(3, 3), "Called has a __call__ of its own, which may compute anything"),
    "call inside": (
        lambda: nn.Sequential(Called(3, 3)),
        "0: Called has a __call__ of its own, which may compute",
    ),
    "call of a module": (
        CalledNet,
        "CalledNet has a __call__ of its own, which may compute anything",
    ),
    "call replaced": (lambda: changed(Net(), _call_impl=torch.relu), f"Net {OWN_CALL}"),
    "layer's call replaced": (
        lambda: changed(nn.Linear(3, 3), _call_impl=torch.relu),
        f"Linear {OWN_CALL}",
    ),
    "weight": (noisy, "the forward of Noisy makes a tensor with aten.randn"),
    "parametrization": (
        lambda: parametrized(Doubling()),
        "the parametrization Doubling of weight may compute anything; "
        "torch.nn.utils.parametrize.remove_parametrizations makes it a parameter",
    ),
    "random parametrization": (
        lambda: parametrized(Sampling()),
        "the parametrization Sampling of weight may compute",
    ),
    "hook of a parametrization": (
        hooked_parametrization,
        "weight: ParametrizationList has a forward hook hooked_parametrization",
    ),
    "parametrization with a hook": (
        lambda: normed(lambda norm: hooked("register_forward_hook", norm)),
        f"weight: _WeightNorm {HOOKED}",
    ),
    "parametrization with a pre-hook": (
        lambda: normed(lambda norm: hooked("register_forward_pre_hook", norm)),
        f"weight: _WeightNorm {PRE}",
    ),
    "parametrization with a forward of its own": (
        lambda: normed(lambda norm: changed(norm, forward=norm.forward)),
        f"weight: _WeightNorm {OWN}",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_modules_that_are_not_called_as_their_class_says(name: str) -> None:
    make, message = OTHERWISE[name]
    with silently(), pytest.raises(UnsupportedLayerError) as caught:
        convert.convert(make())
    assert message in str(caught.value)


def test_a_call_put_in_place_of_a_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "__call__", lambda self, x: x * 2)
    with raises(
        UnsupportedLayerError, "1: the forward of ReLU was replaced by one that may do anything"
    ):
        convert.convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def test_a_forward_put_in_place_of_a_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    # The importer has seen PyTorch's own.
    assert convert.convert(nn.Linear(3, 3)).architecture.output_size == 3
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: torch.relu(x))
    with raises(
        UnsupportedLayerError, "0: the forward of Linear was replaced by one that may do anything"
    ):
        convert.convert(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize(
    "make",
    [
        Plain,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        lambda: hooked("register_full_backward_hook"),
        lambda: torch.fx.symbolic_trace(Net()),
        lambda: Backwards(nn.Linear(3, 3), nn.Tanh()),
    ],
)
def test_modules_that_compute_what_their_class_says(make: Any) -> None:
    module = make().double().eval()
    x = rows(Architecture.mlp(3, 3))
    with silently(), torch.no_grad():
        assert_computes(convert.convert(module), x, module(torch.tensor(x).double()), times=2)


def by_value(net: Any, x: Any) -> Any:
    return x * net._parameters["scale"].tolist()[0]


def test_what_is_traced_once_holds_no_values_of_one_model() -> None:
    """A forward that takes its tensors from PyTorch's own tables has their values in its graph."""
    for function in (
        by_value,
        lambda net, x: x * torch.exp(next(p for n, p in net.named_parameters() if n == "scale")),
        lambda net, x: x + net.state_dict()["shift"] * 2,
        lambda net, x: x * torch.exp(net.scale) + net.shift.sum(),
    ):
        nets = [Net(function) for _ in range(3)]
        _, arch, weights = convert.stack(dict(enumerate(nets)))
        for i, net in enumerate(nets):
            x = rows(arch)
            with torch.no_grad():
                expected = net.double()(torch.tensor(x).double())
            assert_computes(convert.Converted(arch, one_model(weights, i)), x, expected, times=4)


def test_tied_tensors_of_any_two_modules() -> None:
    class Tied(nn.Module):  # type: ignore[misc]
        def __init__(self, tied: bool, dtype: Any = torch.float32) -> None:
            super().__init__()
            self.a, self.b = (
                nn.Linear(3, 3, bias=False, dtype=dtype),
                nn.Linear(3, 3, bias=False, dtype=dtype),
            )
            if tied:
                self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return F.linear(F.linear(x, self.a.weight), self.b.weight)

    nets = [Tied(True), Tied(False), Tied(True), Tied(False, torch.float64)]
    for order in (nets, nets[::-1]):
        weights = convert.stack(dict(enumerate(order)))[2]
        for i, net in enumerate(order):
            np.testing.assert_array_equal(
                weights["layer_1"][i], net.b.weight.detach().numpy().T.astype(np.float32)
            )


def test_parameters_written_by_hand_say_which_way_round_they_are() -> None:
    arch = Architecture.mlp(3, 3)
    matrix, bias = torch.rand(3, 3), torch.rand(3)
    ask = "nothing tells which way round this matrix is; pass weight_layout='in_out' "
    ask += "to convert.from_params if the layer computes x @ w, "
    for params in (
        [(matrix, bias)],
        {"0": {"w": matrix, "b": bias}},
        {"0": {"W": matrix, "b": bias}},
    ):
        with raises(ValueError, f"0: {ask}'out_in' if w @ x (its shape is (3, 3))"):
            convert.convert(params, arch)
        weights = convert.from_params(params, arch, weight_layout="in_out").weights
        np.testing.assert_array_equal(weights["layer_0"], matrix.numpy())
    params = {"0": {"weight": matrix, "bias": bias}, "1": nn.Linear(3, 3)}
    with pytest.raises(ValueError, match=r"^checkpoint: '1' beside '0' may change what the model"):
        convert.convert(params, arch)
    with raises(
        UnsupportedLayerError, "1: expected arrays, got a module, Linear; give its state_dict"
    ):
        convert.from_params({"1": nn.Linear(3, 3)}, arch)
