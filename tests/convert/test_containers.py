"""What models are held in: taken with its keys, or refused with the way out."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, convert

ARCH = Architecture.mlp(2, 1)
ONE = np.array([1.0, 10.0], np.float32)


def weights(a: float) -> dict[str, Any]:
    return {"layer_0": [[a], [0]], "layer_0.bias": [0]}


def answers(models: Any, architecture: Architecture | None = ARCH) -> dict[Any, float]:
    bank = Bank.from_models(models, architecture)
    return {key: round(float(bank.predict(key, ONE)[0]), 4) for key in bank}


def test_mappings_and_pairs_of_every_kind() -> None:
    models = {"b": weights(2), "a": weights(1)}
    containers: list[Callable[[], Any]] = [
        lambda: models,
        lambda: OrderedDict(models),
        lambda: MappingProxyType(models),
        lambda: models.items(),
        lambda: list(models.items()),
        lambda: [list(pair) for pair in models.items()],
        lambda: iter(models.items()),
        lambda: zip(["b", "a"], models.values(), strict=True),
        lambda: ((key, models[key]) for key in models),
    ]
    for container in containers:
        assert answers(container()) == {"b": 2, "a": 1}
        assert convert.stack(container(), ARCH)[0] == ["b", "a"]
        bank = Bank(ARCH)
        bank.update(container())
        assert list(bank) == ["b", "a"]
    assert answers(enumerate(models.values())) == {0: 2, 1: 1}
    bank.update([("c", weights(3))], d=weights(4))
    assert list(bank) == ["b", "a", "c", "d"]


def test_a_series_of_models() -> None:
    pd = pytest.importorskip("pandas")
    assert answers(pd.Series({"b": weights(2), "a": weights(1)})) == {"b": 2, "a": 1}
    index = pd.MultiIndex.from_tuples([("A", 1), ("A", 2)])
    assert answers(pd.Series([weights(1), weights(2)], index)) == {("A", 1): 1, ("A", 2): 2}
    twice = pd.Series([weights(1), weights(2)], ["a", "a"])
    with pytest.raises(ValueError, match=r"^models: expected different keys, got 'a' twice"):
        Bank.from_models(twice, ARCH)


def test_modules_of_torch() -> None:
    torch = pytest.importorskip("torch")
    nets = [torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)) for _ in range(2)]
    wanted = [round(float(net(torch.tensor(ONE)).detach()), 4) for net in nets]
    for names in (("x", "y"), ("pump-1", "pump-2"), ("0", "1")):
        modules = torch.nn.ModuleDict(dict(zip(names, nets, strict=True)))
        found = answers(modules, None)
        assert list(found) == list(names)
        np.testing.assert_allclose(list(found.values()), wanted, atol=2e-4)
    for several in (torch.nn.ModuleList(nets), nets, tuple(nets), (net for net in nets)):
        with pytest.raises(TypeError, match=r"models without keys; dict\(enumerate\(models\)\)"):
            Bank.from_models(several)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got one model, a Sequential; give it a key"):
        Bank.from_models(nets[0])
    with pytest.raises(TypeError, match=r"got the parameters of one model; give it a key"):
        Bank.from_models(nets[0].state_dict(), Architecture.mlp(2, 3, 1))
    with pytest.raises(TypeError, match=r"got a model before its key at position 0"):
        Bank.from_models([(nets[0], "x")])


def test_ensembles_say_how_to_get_at_their_members() -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import BaggingRegressor, VotingRegressor
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    net = MLPRegressor(hidden_layer_sizes=(3,), max_iter=5, random_state=0)
    bagging = BaggingRegressor(net, 2, random_state=0)
    voting = VotingRegressor([("p", net), ("q", net)])
    multi = MultiOutputRegressor(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations
        bagging.fit(x, y)
        voting.fit(x, y)
        multi.fit(x, np.stack([y, -y], 1))
    for model, way, members in (
        (bagging, "dict(enumerate(model.estimators_))", dict(enumerate(bagging.estimators_))),
        (multi, "dict(enumerate(model.estimators_))", dict(enumerate(multi.estimators_))),
        (voting, "model.named_estimators_", voting.named_estimators_),
    ):
        for given in (model, {"a": model}, [("a", model)]):
            with pytest.raises((TypeError, ValueError)) as caught:
                Bank.from_models(given)
            assert f"for the models that it holds pass {way}" in str(caught.value)
        bank = Bank.from_models(members)
        for key, member in members.items():
            np.testing.assert_allclose(bank.predict(key, x)[:, 0], member.predict(x), atol=1e-5)


def test_weights_without_keys() -> None:
    models = [weights(1), weights(2)]
    for several in (models, {"a": models[0]}.values(), np.array(models, object)):
        with pytest.raises(TypeError, match=r"models without keys; dict\(enumerate\(models\)\)"):
            Bank.from_models(several, ARCH)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [5, None, 1.5, object(), print])
def test_what_is_no_container(wrong: Any) -> None:
    for call in (Bank.from_models, convert.stack, Bank(ARCH).update):
        with pytest.raises(
            TypeError, match=r"^models: expected a mapping of keys to models, or pai"
        ):
            call(wrong)


def test_keys_are_checked_before_any_model_is_converted() -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            if name in ("__class__", "dtype", "shape", "__dict__"):
                return object.__getattribute__(self, name)
            raise AssertionError(f"looked at {name}")

    model = Untouchable()
    for keys, message in (
        (["a", None], r"keys\[1\]: .* a missing key"),
        ([1, "a"], r"keys\[1\]: expected an int, like the keys before, got 'a'"),
        ([1.0, 2.0], r"keys\[0\]: .*use int\(key\)"),
        (
            [("a", 1), ("a", "b")],
            r"keys\[1\]: expected a tuple\[str, int\], like the keys before, got",
        ),
        ([b"a", b"b"], r"keys\[0\]: .*use key.decode\(\)"),
    ):
        with pytest.raises(TypeError, match=message):
            Bank.from_models([(key, model) for key in keys])
    with pytest.raises(TypeError, match=r"^fallback: expected str like"):
        Bank.from_models({"a": model}, fallback=3)
    with pytest.raises(TypeError, match=r"models: expected keys of str, int or tuples of them"):
        Bank.from_models([([1], model)])
    bank = Bank(ARCH)
    with pytest.raises(TypeError, match=r"a missing key"):
        bank.update([("a", weights(1)), (None, model)])
    assert len(bank) == 0


def test_a_model_inside_of_something_is_named() -> None:
    linear = pytest.importorskip("torch").nn.Linear
    model = linear(2, 1)
    for value, way in (((model, 0.5), "model[0]"), ({"net": model, "loss": 1}, "model['net']")):
        with pytest.raises(
            TypeError, match=rf"'a'\]: .* with one, a Linear, .* pass that: {re.escape(way)}"
        ):
            Bank.from_models({"a": value})
    with pytest.raises(TypeError, match="got the class Linear"):
        Bank.from_models({"a": linear})


def test_matrices_that_are_the_other_way_round() -> None:
    bank = Bank(Architecture.mlp(3, 1))
    with pytest.raises(ValueError, match=r"got \(1, 3\); it is \(out, in\): give its transpose"):
        bank["a"] = {"layer_0": np.ones((1, 3))}
