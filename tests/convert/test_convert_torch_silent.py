"""PyTorch forwards that depend on more than the layers and rows are refused."""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import assert_computes, rows
from mlpbank import Architecture, convert
from mlpbank.convert import UnsupportedLayerError

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional
hooks = nn.modules.module
prune = importlib.import_module("torch.nn.utils.prune")

from torch_nets import Net  # noqa: E402

SAME = "it has to compute the same from the same rows each time it is called"


def counting(net: Any, x: Any) -> Any:
    net.calls += 1
    return x * net.calls


def remembering(net: Any, x: Any) -> Any:
    if isinstance(net.calls, int):
        net.calls = torch.ones(3)
    return x * net.calls


def in_place(net: Any, x: Any) -> Any:
    net.shift.add_(1)
    return x + net.shift


def by_operator(net: Any, x: Any) -> Any:
    shift = net.shift
    shift += 1
    return x + shift


def by_data(net: Any, x: Any) -> Any:
    net.shift.data = net.shift + 1
    return x + net.shift


def in_place_unseen(net: Any, x: Any) -> Any:
    with torch.no_grad():
        net._buffers["shift"].add_(1)
    return x


def swallowing(net: Any, x: Any) -> Any:
    try:
        return x + torch.randn(3)
    except Exception:
        return x


START = time.perf_counter()
CHANGING: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "randn": (
        lambda net, x: x + torch.randn(3),
        f"the forward of Net makes a tensor with aten.randn; {SAME}",
    ),
    "rand_like": (
        lambda net, x: x + torch.rand_like(net.shift),
        f"add: rand_like computes a constant with {{}}; {SAME}",
    ),
    "bernoulli": (
        lambda net, x: x * torch.bernoulli(torch.full((3,), 0.5)),
        f"the forward of Net makes a tensor with aten.bernoulli; {SAME}",
    ),
    "dropout of a constant": (
        lambda net, x: x * F.dropout(net.scale, 0.5, training=True),
        f"mul: dropout computes a constant with {{}}; {SAME}",
    ),
    "normal_": (
        lambda net, x: x + torch.zeros(3).normal_(),
        f"the forward of Net makes a tensor with aten.normal_; {SAME}",
    ),
    "empty": (
        lambda net, x: x + torch.empty(3),
        f"the forward of Net makes a tensor with aten.empty; {SAME}",
    ),
    "caught": (swallowing, f"the forward of Net makes a tensor with aten.randn; {SAME}"),
    "python": (
        lambda net, x: x * random.random(),
        f"the forward of Net draws random numbers; {SAME}",
    ),
    "numpy": (
        lambda net, x: x * np.random.rand(),  # noqa: NPY002
        f"the forward of Net draws random numbers; {SAME}",
    ),
    "generator": (
        lambda net, x: x * float(np.random.default_rng().random()),
        f"the forward of Net differs from call to call; {SAME}",
    ),
    "time": (
        lambda net, x: x * (time.perf_counter() - START),
        f"the forward of Net differs from call to call; {SAME}",
    ),
    "tensor of time": (
        lambda net, x: x * torch.tensor(time.perf_counter() - START, dtype=torch.float64),
        f"the forward of Net differs from call to call; {SAME}",
    ),
    "way": (
        lambda net, x: torch.relu(x) if next(WAYS) else torch.tanh(x),
        f"the forward of Net differs from call to call; {SAME}",
    ),
    "counter": (counting, f"the forward of Net changes 'calls' of the module; {SAME}"),
    "memory": (remembering, f"the forward of Net changes 'calls' of the module; {SAME}"),
    "buffer in place": (in_place, "add_: add_ changes a tensor of the module in place"),
    "buffer by operator": (by_operator, "iadd: iadd changes a tensor of the module in place"),
    "buffer by data": (by_data, "the forward of Net cannot be traced: data of a tensor is set"),
    "buffer in place unseen": (
        in_place_unseen,
        f"the forward of Net changes a tensor of the module; {SAME}",
    ),
    "into a buffer": (
        lambda net, x: net.shift.mul_(x),
        "the forward of Net cannot be traced: output with shape [3] doesn't match",
    ),
    "clamped parameter": (
        lambda net, x: x * net.scale.clamp_(0, 1),
        "clamp_: clamp_ changes a tensor of the module",
    ),
}
WAYS = iter([0, 1] * 100)


@pytest.mark.parametrize("name", CHANGING)
def test_forwards_that_depend_on_the_call(name: str) -> None:
    function, message = CHANGING[name]
    net = Net(function).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()} | {"calls": net.calls}
    for model, place in ((net, ""), (nn.Sequential(net), "0")):
        with pytest.raises(UnsupportedLayerError) as caught:
            convert.convert(model)
        start, _, end = message.partition("{}")
        separator = "." if place and start.split(":")[0].isidentifier() else ": " if place else ""
        assert str(caught.value).startswith(f"{place}{separator}{start}")
        assert str(caught.value).endswith(end)
        assert not [key for key in net.__dict__ if key.startswith("_tensor_constant")]
        assert net.calls is before["calls"]
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


SEEING: dict[str, Callable[[Any, Any], Any]] = {
    "isinstance": lambda net, x: x * 2 if isinstance(x, torch.Tensor) else x,
    "type": lambda net, x: x * 2 if type(x) is torch.Tensor else x,
    "attribute": lambda net, x: x if hasattr(x, "node") else torch.tanh(x),
    "gradients": lambda net, x: x * 2 if torch.is_grad_enabled() else x,
    "shape": lambda net, x: x if hasattr(x, "node") else x[:, :2],
}


@pytest.mark.parametrize("name", SEEING)
def test_forwards_that_see_that_they_are_traced(name: str) -> None:
    net = Net(SEEING[name]).eval()
    wanted = f"the forward of Net computes something else when it is not traced; {SAME}"
    with raises(UnsupportedLayerError, wanted):
        convert.convert(net)
    with raises(UnsupportedLayerError, f"1: {wanted}"):
        convert.convert(nn.Sequential(nn.Linear(3, 3), net))


def test_numbers_leave_a_module_as_it_was() -> None:
    class Dropping(Net):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)

        def forward(self, x: Any) -> Any:
            return self.drop(self.fc(x))

    net = Dropping().train()
    state = torch.get_rng_state()
    convert.convert(net)
    assert net.drop.training
    assert torch.equal(state, torch.get_rng_state())
    assert net.drop(torch.ones(100)).max() > 5


class Tripled(torch.Tensor):  # type: ignore[misc]
    """Layers triple what they compute with it."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 3 if function is F.linear else result


class Named(torch.Tensor):  # type: ignore[misc]
    """Changes nothing."""


def of_class(kind: Any) -> Any:
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(kind))
    return layer


def test_tensors_of_a_class_of_their_own() -> None:
    with raises(
        UnsupportedLayerError, "Tripled has a __torch_function__ of its own, which may do anything"
    ):
        convert.convert(of_class(Tripled))
    plain = of_class(Named)
    assert np.array_equal(
        convert.convert(plain).weights["layer_0"], plain.weight.detach().numpy().T
    )


class Optional(Net):
    def forward(
        self, x: Any, hidden: Any = None, *more: Any, scale: float = 2.0, **options: Any
    ) -> Any:
        x = self.fc(x)
        return torch.relu(x) * scale if hidden is None else torch.tanh(x)


class Two(Net):
    def forward(self, x: Any, y: Any) -> Any:
        return self.fc(x)


def test_other_parameters_of_a_forward_have_their_defaults() -> None:
    net = nn.Sequential(Optional(), nn.Linear(3, 3)).double()
    x = rows(Architecture.mlp(3, 3))
    with torch.no_grad():
        assert_computes(convert.convert(net), x, net(torch.tensor(x).double()))
    with pytest.raises(
        UnsupportedLayerError, match=r"^the forward of Two cannot be traced: Two\.forward"
    ):
        convert.convert(Two())


SHAPES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "view of columns": (lambda net, x: x.view(x.size(1), -1), "view: view makes (3, n) of (n, 3)"),
    "view of one row": (
        lambda net, x: x.view(1, -1),
        "view: view makes (1, 3 n) of (n, 3)",
    ),
    "reshape of columns": (
        lambda net, x: x.reshape(x.shape[1], -1),
        "reshape: reshape makes (3, n) of (n, 3)",
    ),
    "softmax of squeezed rows": (
        lambda net, x: torch.softmax(F.linear(x, net.scale[None]).squeeze(-1), -1),
        "softmax: softmax of (n,) does not run over the features of a row",
    ),
    "option": (lambda net, x: F.relu(x, some=True), "the forward of Net cannot be traced: "),
    "relu6": (lambda net, x: F.relu6(x), "relu6: relu6 is not supported"),
    "clamp": (lambda net, x: torch.clamp(x, 0, 20000), "clamp: clamp is not supported"),
    "clamp_min": (lambda net, x: x.clamp_min(0), "clamp_min: clamp_min is not supported"),
    "hardtanh": (lambda net, x: F.hardtanh(x, 0, 20000), "hardtanh: hardtanh is not supported"),
    "threshold": (lambda net, x: F.threshold(x, 0, 0), "_threshold: _threshold is not supported"),
    "linear by a vector": (
        lambda net, x: F.linear(x, net.scale),
        "linear: expected a matrix of weights, got shape (3,)",
    ),
    "complex": (lambda net, x: x * 1j, "mul: mul of a complex number is not supported"),
    "two arguments": (lambda net, x: nn.Identity()(x, x), "the forward of Net cannot be traced: "),
}


@pytest.mark.parametrize("name", SHAPES)
def test_functions_that_look_like_others(name: str) -> None:
    function, message = SHAPES[name]
    with pytest.raises(UnsupportedLayerError) as caught:
        convert.convert(Net(function))
    assert str(caught.value).startswith(message)


def test_softmax_after_a_squeeze_runs_over_rows() -> None:
    net = Net(lambda net, x: F.linear(x, net.scale[None]).squeeze(-1))
    assert convert.convert(net).architecture.output_size == 1
    with raises(UnsupportedLayerError, "1: softmax after a squeeze runs over rows"):
        convert.convert(nn.Sequential(net, nn.Softmax(-1)))


def test_the_number_of_rows_may_be_written_in_three_ways() -> None:
    for function in (
        lambda net, x: x.view(x.size(0), -1),
        lambda net, x: x.reshape(x.shape[0], -1),
        lambda net, x: x.view(x.size()[0], -1),
        lambda net, x: F.relu(input=x),
    ):
        assert convert.convert(Net(function)).architecture.output_size == 3
