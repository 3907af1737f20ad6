"""PyTorch modules that compute something else than their layers say are refused."""

from __future__ import annotations

import importlib
import random
import time
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
prune = importlib.import_module("torch.nn.utils.prune")

SAME = "it has to compute the same from the same rows each time it is called"
HOOKED = "has forward hooks, or a forward of its own, that may do anything"


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
        "mul_: mul_ changes a tensor of the module in place",
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
        if name != "buffer in place unseen":
            assert net.calls is before["calls"]
            assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def caught_length(net: Any, x: Any) -> Any:
    try:
        return x * len(x)
    except RuntimeError:  # of what stands for the rows while they are traced
        return x


SEEING: dict[str, Callable[[Any, Any], Any]] = {
    "isinstance": lambda net, x: x * 2 if isinstance(x, torch.Tensor) else x,
    "type": lambda net, x: x * 2 if type(x) is torch.Tensor else x,
    "attribute": lambda net, x: x if hasattr(x, "node") else torch.tanh(x),
    "gradients": lambda net, x: x * 2 if torch.is_grad_enabled() else x,
    "length": caught_length,
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


def hooked_parametrization() -> Any:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    layer.parametrizations.weight.register_forward_hook(
        lambda module, args, output: output * torch.rand(())
    )
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
    "view of columns": (lambda net, x: x.view(x.size(1), -1), "view: view is not supported"),
    "view of one row": (lambda net, x: x.view(1, -1), "view: view is not supported"),
    "reshape of columns": (
        lambda net, x: x.reshape(x.shape[1], -1),
        "reshape: reshape is not supported",
    ),
    "softmax of squeezed rows": (
        lambda net, x: torch.softmax(F.linear(x, net.scale[None]).squeeze(-1), -1),
        "squeeze: squeeze is not supported",
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
    "layer of a constant": (
        lambda net, x: x * net.fc(net.scale),
        "mul: depends on its input in a way that no layer",
    ),
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


OTHERWISE: dict[str, tuple[Callable[[], Any], str]] = {
    "pre-hook": (lambda: hooked("register_forward_pre_hook"), f"Linear {HOOKED}"),
    "hook": (lambda: hooked("register_forward_hook"), f"Linear {HOOKED}"),
    "hook of a module": (lambda: hooked("register_forward_hook", Net()), f"Net {HOOKED}"),
    "pre-hook of a module": (lambda: hooked("register_forward_pre_hook", Net()), f"Net {HOOKED}"),
    "pre-hook inside": (
        lambda: changed(Net(), fc=hooked("register_forward_pre_hook")),
        f"fc: Linear {HOOKED}",
    ),
    "hook of what is compiled": (
        lambda: hooked("register_forward_hook", compiled()),
        f"OptimizedModule {HOOKED}",
    ),
    "forward of what is compiled": (
        lambda: compiled(forward=torch.relu),
        f"OptimizedModule {HOOKED}",
    ),
    "forward": (lambda: changed(nn.Linear(3, 3), forward=torch.relu), f"Linear {HOOKED}"),
    "forward of a module": (lambda: changed(Net(), forward=torch.relu), f"Net {HOOKED}"),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(3, 3), "weight", 2), f"Linear {HOOKED}"),
    "call": (lambda: Called(3, 3), "Called has a __call__ of its own, which may compute anything"),
    "call inside": (
        lambda: nn.Sequential(Called(3, 3)),
        "0: Called has a __call__ of its own, which may compute",
    ),
    "call of a module": (
        CalledNet,
        "CalledNet has a __call__ of its own, which may compute anything",
    ),
    "call replaced": (lambda: changed(Net(), _call_impl=torch.relu), f"Net {HOOKED}"),
    "layer's call replaced": (
        lambda: changed(nn.Linear(3, 3), _call_impl=torch.relu),
        f"Linear {HOOKED}",
    ),
    "order": (
        lambda: Backwards(nn.Linear(3, 3), nn.Tanh()),
        "1: expected a dense layer before the first activation",
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
    "hook of a parametrization": (hooked_parametrization, f"weight: ParametrizationList {HOOKED}"),
    **{
        f"parametrization with {name}": (make, "weight: _WeightNorm " + HOOKED)
        for name, make in {
            "a hook": lambda: normed(lambda norm: hooked("register_forward_hook", norm)),
            "a pre-hook": lambda: normed(lambda norm: hooked("register_forward_pre_hook", norm)),
            "a forward of its own": lambda: normed(
                lambda norm: changed(norm, forward=norm.forward)
            ),
        }.items()
    },
    "spectral norm in training": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))),
        "0: the parametrization _SpectralNorm of weight is in training mode; "
        "call model.eval() first",
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
    ask += "if the layer computes x @ w, "
    for params in (
        [(matrix, bias)],
        {"0": {"w": matrix, "b": bias}},
        {"0": {"W": matrix, "b": bias}},
    ):
        with raises(ValueError, f"0: {ask}'out_in' if w @ x"):
            convert.convert(params, arch)
        weights = convert.from_params(params, arch, weight_layout="in_out").weights
        np.testing.assert_array_equal(weights["layer_0"], matrix.numpy())
    params = {"0": {"weight": matrix, "bias": bias}, "1": nn.Linear(3, 3)}
    with raises(
        UnsupportedLayerError, "1: expected arrays, got a module, Linear; give its state_dict"
    ):
        convert.convert(params, arch)
