"""Changing a live bank: as a mapping, and what is known of all of its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import random_weights
from live_folders import (
    ARCHITECTURE,
    X,
    live,
    live_folder,
    open_live,
    some_bank,
    value,
    weights,
)
from mlpbank import (
    Architecture,
    Bank,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    UnknownKeyError,
    UnknownModelError,
)

pytestmark = pytest.mark.usefixtures("followed")


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """A folder with the models a, b and c, in each layout."""
    some_bank(3, layout=layout).save(tmp_path / "bank.live", live=True)
    return tmp_path / "bank.live"


def value_of(model: dict[str, Any]) -> float:
    return float(model["layer_1.bias"][0])


def test_a_mapping(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    assert value_of(writer.setdefault("new", weights(1))) == 1
    assert value_of(writer.setdefault("new", weights(2))) == 1
    assert value(follower, "new") == 1
    writer.update({"new": weights(3), "a": weights(4)}, b=weights(5))
    writer.update([("c", weights(6))])
    assert [value(follower, key) for key in ("new", "a", "b", "c")] == [3, 4, 5, 6]
    assert follower.info("new").revision == 2
    assert value_of(writer.pop("new")) == 3
    assert "new" not in follower
    assert writer.pop("new", None) is None
    with pytest.raises(UnknownModelError):
        writer.pop("new")
    key, found = writer.popitem()
    assert key not in follower
    assert set(found) == {"layer_0", "layer_0.bias", "layer_1", "layer_1.bias"}
    writer.clear()
    assert (len(follower), list(follower), bool(follower)) == (0, [], False)
    with pytest.raises(UnknownKeyError):
        writer.popitem()
    writer.clear()
    writer["a"] = weights(7)
    assert (value(follower, "a"), follower.info("a").revision) == (7, 1)
    writer.add("a", weights(8), version="v8")
    assert (follower.info("a").version, follower.info("a").revision) == ("v8", 2)


def test_clear_while_others_remove(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes what is there; a model that another process has removed is no error."""
    one, other = open_live(folder, writable=True), open_live(folder, writable=True)
    writing = one._writing

    def late(waits: bool) -> Any:
        other.pop("b", None)
        return writing(waits)

    monkeypatch.setattr(one, "_writing", late)
    one.clear()
    assert len(other) == 0


def test_keys_metadata_and_fallback_are_seen_by_all(folder: Path) -> None:
    writer, follower = open_live(folder, writable=True), open_live(folder)
    writer.metadata = {"unit": "°C", "list": [1, None, {"x": 2.5}]}
    assert follower.metadata == writer.metadata == {"unit": "°C", "list": [1, None, {"x": 2.5}]}
    for change in (
        lambda: writer.metadata.update(x=1),
        lambda: writer.metadata.pop("unit"),
        lambda: writer.metadata.__setitem__("x", 1),
        lambda: writer.metadata.clear(),
    ):
        with pytest.raises(InvalidStateError, match="set it as a whole"):
            change()
    writer.metadata = {**writer.metadata, "x": 1}
    assert follower.metadata["x"] == 1
    writer.fallback = "later"
    assert follower.fallback == "later"
    with pytest.raises(UnknownModelError):
        follower.predict("none", X)
    writer["later"] = weights(3)
    assert value(follower, "none") == 3
    assert follower.sources(["a", "none"]).tolist() == ["model", "fallback"]
    again = open_live(folder)
    assert (again.metadata, again.fallback) == (writer.metadata, "later")
    writer.fallback = None
    assert (follower.fallback, writer.fallback) == (None, None)


def test_what_the_first_model_decides_is_decided_for_all(tmp_path: Path) -> None:
    architecture = Architecture.mlp(3, 2)
    Bank(architecture).save(tmp_path / "bank.live", live=True)
    one, other = (open_live(tmp_path / "bank.live", writable=True) for _ in range(2))
    follower = open_live(tmp_path / "bank.live")
    assert (len(follower), follower.key_type, follower.input_shift) == (0, None, None)
    with pytest.raises(UnknownModelError):
        follower.predict("a", X)
    model = {"layer_0": np.ones((3, 2)), "input_shift": np.array([1e6, 0, 0])}
    one["a"] = model
    assert follower.key_type is str
    np.testing.assert_array_equal(follower.input_shift, [1e6, 0, 0])
    x = np.array([1e6 + 1, 2, 3])
    np.testing.assert_array_equal(follower.predict("a", x), [6, 6])
    np.testing.assert_array_equal(follower.predict("a", x), one.predict("a", x))
    with pytest.raises(InvalidTypeError, match="expected str"):
        other[7] = model
    other["b"] = {"layer_0": np.ones((3, 2)), "layer_0.bias": [7, 7]}
    np.testing.assert_allclose(follower.predict("b", x), [x.sum() + 7] * 2, rtol=1e-6)
    assert follower.info("b").revision == 1


def test_two_first_models_at_once(tmp_path: Path) -> None:
    """A transaction that began when nothing was decided is placed anew, or refused."""
    architecture = Architecture.mlp(3, 2)
    Bank(architecture).save(tmp_path / "bank.live", live=True)
    one, other = (open_live(tmp_path / "bank.live", writable=True) for _ in range(2))
    plain = {"layer_0": np.ones((3, 2)), "layer_0.bias": [7, 7]}
    shifted = {"layer_0": np.ones((3, 2)), "input_shift": np.array([1e6, 0, 0])}
    with one.transaction() as changes:
        changes["b"] = plain
        other["a"] = shifted
    x = np.array([1e6 + 1, 2, 3])
    for bank in (one, other, open_live(tmp_path / "bank.live")):
        np.testing.assert_array_equal(bank.input_shift, [1e6, 0, 0])
        np.testing.assert_array_equal(bank.predict("a", x), [6, 6])
        np.testing.assert_allclose(bank.predict("b", x), [x.sum() + 7] * 2, rtol=1e-6)
    Bank(architecture).save(tmp_path / "keys.live", live=True)
    one, other = (open_live(tmp_path / "keys.live", writable=True) for _ in range(2))

    def decide_at_once() -> None:
        with one.transaction() as changes:
            changes[5] = plain
            other["a"] = plain

    with pytest.raises(InvalidTypeError, match="key"):
        decide_at_once()
    assert (list(other), other.key_type) == (["a"], str)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_names_and_classes(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.neural_network")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(60, 3)), columns=["x", "y", "z"])

    def fitted(names: list[str], classes: list[str]) -> Any:
        labels = [classes[i % len(classes)] for i in range(60)]
        return sklearn.MLPClassifier((4,), max_iter=3, random_state=0).fit(frame[names], labels)

    models = [
        fitted(["x", "y", "z"], ["n", "o", "p"]),
        fitted(["z", "x", "y"], ["n", "o", "p"]),
    ]
    other = fitted(["x", "y", "z"], ["n", "o", "q"])
    plain = Bank.from_models({"a": models[0]})
    Bank(plain.architecture).save(tmp_path / "bank.live", live=True)
    writer, follower = (
        open_live(tmp_path / "bank.live", writable=True),
        open_live(tmp_path / "bank.live"),
    )
    assert (follower.feature_names, follower.classes) == (None, None)
    for key, model in zip("ab", models, strict=True):
        writer[key] = model
        plain[key] = model
    assert follower.feature_names == plain.feature_names == ("x", "y", "z")
    assert follower.classes == plain.classes == ("n", "o", "p")
    x = frame.to_numpy()[:2]
    for bank in (writer, follower, open_live(tmp_path / "bank.live")):
        np.testing.assert_array_equal(bank.predict(["a", "b"], x), plain.predict(["a", "b"], x))
        np.testing.assert_array_equal(
            bank.predict_class(["a", "b"], x), plain.predict_class(["a", "b"], x)
        )
    before = writer.sequence
    with pytest.raises(ValueError, match="classes"):
        writer["c"] = other
    assert (writer.sequence, len(follower)) == (before, 2)


def test_scalers(tmp_path: Path) -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    x = rng.normal(1e5, 2, size=(50, 3))
    scaler = preprocessing.StandardScaler().fit(x)
    model = {name: a[0] for name, a in random_weights(ARCHITECTURE, 1, rng).items()}
    plain = Bank(ARCHITECTURE)
    plain.save(tmp_path / "bank.live", live=True)
    writer, follower = (
        open_live(tmp_path / "bank.live", writable=True),
        open_live(tmp_path / "bank.live"),
    )
    for bank in (plain, writer):
        bank.add("a", model, input_scaler=scaler)
    np.testing.assert_array_equal(follower.predict("a", x), plain.predict("a", x))
    np.testing.assert_array_equal(follower.input_shift, plain.input_shift)


def test_another_architecture(tmp_path: Path) -> None:
    folder = live_folder(tmp_path / "bank.live")
    writer = open_live(folder, writable=True)
    before = writer.sequence
    other = Bank(Architecture.mlp(3, 4, 2, activation="tanh"))
    other["a"] = weights(1)
    with pytest.raises(InvalidValueError, match="same architecture"):
        writer.update(other)
    with pytest.raises(InvalidValueError, match="same architecture"), writer.transaction() as t:
        t.update(other)
    with pytest.raises((TypeError, ValueError, KeyError)):
        writer["a"] = {"layer_0": np.zeros((3, 4))}
    with pytest.raises((TypeError, ValueError)):
        writer["a"] = object()
    assert writer.sequence == before
    assert live(Bank.open(folder)).sequence == before
