"""PyTorch forwards that give rows another shape, scale their ends, or return several results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

from cases import raises
from convert_checks import assert_computes, rows, silently
from mlpbank import Architecture, Bank, convert
from mlpbank.convert import UnsupportedLayerError

torch = pytest.importorskip("torch")
nn = torch.nn
X = rows(Architecture.mlp(3, 3))


class Net(nn.Module):  # type: ignore[misc]
    """A function of the module and of what its layers compute."""

    def __init__(self, function: Callable[[Any, Any], Any], outputs: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, outputs))
        self.value = nn.Linear(3, 2)
        self.register_buffer("low", torch.rand(outputs) - 2)
        self.limit, self.function = 2.5, function

    def forward(self, x: Any) -> Any:
        self_made = self.net(x.view(x.size(0), -1))
        return self.function(self, self_made)


def assert_reads(module: Any, **options: Any) -> Any:
    module = module.double()
    converted = convert.convert(module, **options)
    with torch.no_grad():
        got = module.eval()(torch.tensor(X).double())
    if "output" in options:
        name = options["output"]
        got = getattr(got, name) if isinstance(name, str) and hasattr(got, name) else got[name]
    outputs = converted.architecture.output_size
    assert_computes(converted, X, got.numpy().reshape(len(X), outputs), times=4)
    return converted


SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "squeeze": lambda net, y: torch.tanh(y.squeeze()),
    "view of a length": lambda net, y: y.view(len(y)),
    "view of a size": lambda net, y: y.view(y.shape[0]),
    "index": lambda net, y: y[..., -1],
    "slice": lambda net, y: y[:, 0:1][:, 0],
    "select": lambda net, y: torch.select(y, -1, 0),
    "narrow": lambda net, y: y.narrow(1, 0, 1).ravel(),
    "unbind": lambda net, y: y.unbind(-1)[0],
    "mean": lambda net, y: y.mean(dim=1),
    "sum": lambda net, y: y.sum(-1, keepdim=True).flatten(),
    "there and back": lambda net, y: torch.sigmoid(y.squeeze(-1)).unsqueeze(1)[:, None].view(-1, 1),
    "one of one": lambda net, y: torch.cat([y], dim=-1).reshape(-1),
    "constant": lambda net, y: y.squeeze(-1) * net.low,
}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_of_one_number_may_lose_their_dimension(name: str) -> None:
    assert assert_reads(Net(SHAPES[name])).architecture.output_size == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda net, y: y[:, 0],
            "getitem takes a part of the results, which no layer does",
        ),
        (lambda net, y: y.mean(1), "mean: mean computes one number of several"),
        (lambda net, y: y.view(-1), "view makes (2 n,) of (n, 2), so rows do not stay rows"),
        (lambda net, y: y.chunk(2, -1)[1], "chunk: chunk takes a part of the results"),
        (lambda net, y: torch.softmax(y[:, None], 1), "softmax of (n, 1, 2) does not run over"),
        (lambda net, y: y / len(y), "depends on the number of rows, as no layer does"),
        (lambda net, y: y if len(y) > 9 else -y, "computes something else for another number of"),
    ],
)
def test_rows_that_do_not_stay_rows(function: Any, message: str) -> None:
    with pytest.raises(UnsupportedLayerError) as caught:
        convert.convert(Net(function, 2))
    assert message in str(caught.value)


ENDS: dict[str, Callable[[Any, Any], Any]] = {
    "limit": lambda net, y: net.limit * torch.tanh(y),
    "bounds": lambda net, y: net.low + (3 - net.low) * torch.sigmoid(y),
    "complement": lambda net, y: 1 - torch.sigmoid(y),
    "reversed": lambda net, y: torch.rsub(torch.tanh(y), 0.5),
    "chain": lambda net, y: -(torch.tanh(y) / 4 - 1) * 3,
    "between": lambda net, y: torch.sigmoid(2 * torch.tanh(y) + net.low),
    "after another": lambda net, y: torch.tanh(torch.relu(y)),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_scale_after_an_activation_is_a_diagonal_layer(name: str) -> None:
    converted = assert_reads(Net(ENDS[name], 3))
    assert len(converted.architecture.layers) == 3
    last = converted.weights["layer_2"]
    np.testing.assert_array_equal(last, np.diag(np.diag(last)))


def test_an_activation_may_come_first() -> None:
    converted = assert_reads(nn.Sequential(nn.Tanh(), nn.Linear(3, 2)))
    np.testing.assert_array_equal(converted.weights["layer_0"], np.eye(3))


class Pair(NamedTuple):
    action: Any
    value: Any


@dataclass
class Record:
    action: Any
    value: Any


SEVERAL: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "dict": (lambda a, v: {"action": a, "value": v}, "action", "value"),
    "tuple": (lambda a, v: (a, v), 0, -1),
    "list": (lambda a, v: [a, v], -2, 1),
    "named tuple": (Pair, "action", "value"),
    "dataclass": (Record, "action", "value"),
}


class Heads(nn.Module):  # type: ignore[misc]
    def __init__(self, results: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.body, self.action = nn.Linear(3, 4), nn.Linear(4, 2)
        self.value, self.results = nn.Linear(4, 1), results

    def forward(self, x: Any) -> Any:
        hidden = torch.relu(self.body(x))
        return self.results(torch.tanh(self.action(hidden)), self.value(hidden))


@pytest.mark.parametrize("name", SEVERAL)
def test_one_result_of_several_is_picked(name: str) -> None:
    results, first, second = SEVERAL[name]
    for output, width in ((first, 2), (second, 1)):
        converted = assert_reads(Heads(results), output=output)
        assert converted.architecture.output_size == width
    bank = Bank.from_models({"a": Heads(results), "b": Heads(results)}, output=first)
    bank.add("c", Heads(results), output=first)
    assert bank.predict(["c"] * len(X), X).shape == (len(X), 2)
    with pytest.raises(UnsupportedLayerError, match=r"models\['a'\].* returns several results \("):
        Bank.from_models({"a": Heads(results)})
    with pytest.raises(UnsupportedLayerError, match=r"output='q': .* has no such result; it has "):
        convert.convert(Heads(results), output="q")


def test_output_of_a_model_with_one_result() -> None:
    for module in (nn.Linear(3, 1), Net(lambda net, y: y)):
        with pytest.raises(UnsupportedLayerError, match=r"^output='a': .* has one result"):
            convert.convert(module, output="a")


class Optional(Net):
    def forward(
        self, x: Any, mask: Any = None, training: bool = False, *, temperature: float = 2.0
    ) -> Any:
        assert x.ndim == 2
        assert x.shape[-1] == self.net[0].in_features, "features"
        x = x.to(self.low.device).to(self.low.dtype).contiguous()
        if x.dim() > 2:
            x = x.flatten(1)
        y = self.net(nn.functional.dropout(x) if training else x)
        return y / temperature if mask is None else y * mask


class Varargs(nn.Sequential):  # type: ignore[misc]
    def forward(self, *inputs: Any) -> Any:
        return super().forward(torch.cat([*inputs], -1))


def test_optional_arguments_and_asserts() -> None:
    assert_reads(Optional(lambda net, y: y))
    assert_reads(Varargs(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))


class Outer(nn.Module):  # type: ignore[misc]
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x).squeeze(-1)


def test_wrappers_wherever_they_stand() -> None:
    averaged = torch.optim.swa_utils.AveragedModel
    with silently():
        for wrap in (nn.DataParallel, averaged, lambda m: torch.compile(m, backend="eager")):
            for model in (
                wrap(Net(lambda net, y: y)),
                Outer(wrap(nn.Linear(3, 1))),
                nn.Sequential(wrap(nn.Linear(3, 2)), nn.Tanh()),
            ):
                assert_reads(model)


def test_what_is_exported_is_named_with_the_way_out() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    x = torch.tensor(X)
    with silently():
        program = torch.export.export(module, (x,))
        exported = [program, program.module(), torch.jit.trace(module, x), torch.jit.script(module)]
    for model in exported:
        with pytest.raises(UnsupportedLayerError, match=r"not read; pass the original module"):
            convert.convert(model)
    with raises(UnsupportedLayerError, "0: LSTM is not supported"):
        convert.convert(nn.Sequential(nn.LSTM(3, 3)))
