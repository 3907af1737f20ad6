"""What scikit-learn's models know besides weights: names of features, and classes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cases import raises
from convert_checks import outputs, silently
from mlpbank import Architecture, Bank, InvalidValueError, convert
from mlpbank.convert import Converted, _converted, _shift, _stacked
from mlpbank.convert._knowledge import NOTHING, Knowledge, knowledge_of

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

RNG = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {
        "price": RNG.normal(3, 2, 90),
        "stamp": RNG.normal(1.7e9, 3600, 90),
        "discount": RNG.uniform(0, 1, 90),
        "stock": RNG.normal(-40, 5, 90),
    }
)
COLUMNS = list(FRAME)
TARGET = FRAME.price - 3 * FRAME.discount + (FRAME.stamp - 1.7e9) / 3600
ANY_SHIFT = _shift.where_needed(_shift.LIMIT)


def regressor(columns: list[str], *steps: Any, seed: int = 0) -> Any:
    network = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation="tanh", max_iter=20, random_state=seed
    )
    with silently():  # it has not converged
        return make_pipeline(*(steps or (StandardScaler(),)), network).fit(FRAME[columns], TARGET)


def classifier(labels: Any, x: Any = FRAME, seed: int = 0, hidden: Any = (6,)) -> Any:
    network = MLPClassifier(hidden, max_iter=15, random_state=seed)
    with silently():
        return make_pipeline(StandardScaler(), network).fit(x, labels)


def stacked(models: Any, known: Knowledge = NOTHING, align: bool = False) -> Any:
    return _stacked(models, None, False, ANY_SHIFT, None, known, align)


def converted(model: Any, known: Knowledge = NOTHING, align: bool = False) -> Converted:
    return _converted(model, None, ANY_SHIFT, None, known, align)


def predictions(architecture: Architecture, weights: Any, i: int, x: Any) -> Any:
    """Return what model i of stacked weights makes of rows in float64."""
    x = np.asarray(x, np.float64) - weights.get("input_shift", 0)
    one = {name: array[i] for name, array in weights.items() if name != "input_shift"}
    return outputs(architecture, one, x.astype(np.float32))


ORDERS = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0], [2, 0, 3, 1]]


def test_columns_in_another_order_are_reordered_with_their_scalers_and_the_shift() -> None:
    models = {
        f"m{i}": regressor([COLUMNS[j] for j in order], seed=i) for i, order in enumerate(ORDERS)
    }
    _, architecture, weights, known = stacked(models)
    assert known == Knowledge(tuple(COLUMNS), None)
    assert abs(weights["input_shift"][1] - 1.7e9) < 1e4
    for i, model in enumerate(models.values()):
        truth = model.predict(FRAME[list(model.feature_names_in_)])
        got = predictions(architecture, weights, i, FRAME)[:, 0]
        np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-4)
    same = convert.stack(models)[2]
    assert all((same[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("order", ORDERS[1:], ids=str)
def test_one_model_takes_the_order_that_the_bank_knows(order: list[int]) -> None:
    model = regressor([COLUMNS[j] for j in order])
    one = converted(model, Knowledge(tuple(COLUMNS)))
    assert one.feature_names == tuple(COLUMNS)
    stack = {name: array[None] for name, array in one.weights.items() if name != "input_shift"}
    stack["input_shift"] = one.weights["input_shift"]
    truth = model.predict(FRAME[[COLUMNS[j] for j in order]])
    got = predictions(one.architecture, stack, 0, FRAME)[:, 0]
    np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-4)


def test_what_is_converted_keeps_what_it_knows() -> None:
    one = convert.convert(classifier(np.where(TARGET > 0, "up", "down")))
    assert one.feature_names == tuple(COLUMNS)
    assert one.classes == ("down", "up")
    assert knowledge_of(one) == (one.feature_names, one.classes)
    x = (FRAME[COLUMNS[::-1]] / [5, 1, 1e9, 1])[["stock", "price"]]
    with silently():
        ahead, back = (
            MLPRegressor(hidden_layer_sizes=(3,), max_iter=5, random_state=0).fit(x[order], TARGET)
            for order in (["stock", "price"], ["price", "stock"])
        )
    _, architecture, weights, known = stacked({1: convert.convert(ahead), 2: convert.convert(back)})
    assert known.feature_names == ("stock", "price")
    got = predictions(architecture, weights, 1, x)[:, 0]
    np.testing.assert_allclose(got, back.predict(x[["price", "stock"]]), rtol=1e-4, atol=1e-4)


def test_other_columns_are_refused_with_key_and_both_lists() -> None:
    models = {"a": regressor(["price", "stock"]), "b": regressor(["price", "discount"])}
    message = (
        "models['b']: feature names: expected those of models['a'], in any order: "
        "['price', 'stock'], got ['price', 'discount'] (without ['stock'], with ['discount']); "
        "fit the model on the same columns, or put it into a bank of its own; names that mean "
        "nothing can be dropped: dataclasses.replace(convert.convert(model), feature_names=None)"
    )
    with raises(InvalidValueError, message):
        stacked(models)
    with raises(InvalidValueError, message):
        Bank.from_models(models)
    with pytest.raises(InvalidValueError, match=r"^feature names: expected those of the bank"):
        converted(models["a"], Knowledge(("Price", "stock")))


def test_long_lists_are_cut_but_the_difference_is_named() -> None:
    wide = pd.DataFrame(RNG.normal(size=(30, 40)), columns=[f"f{i}" for i in range(40)])
    with silently():
        one, two = (
            MLPRegressor(hidden_layer_sizes=(2,), max_iter=2).fit(x, wide.f0)
            for x in (wide, wide.rename(columns={"f33": "g33"}))
        )
    with pytest.raises(InvalidValueError, match=r"40 in all.*without \['f33'\], with \['g33'\]"):
        stacked({"one": one, "two": two})


def test_names_twice_cannot_be_reordered() -> None:
    base = convert.convert(regressor(["price", "stock", "discount"]))
    one, same, other = (
        Converted(base.architecture, base.weights, tuple(names)) for names in ("aab", "aab", "baa")
    )
    assert stacked({1: one, 2: same})[3].feature_names == ("a", "a", "b")
    with pytest.raises(InvalidValueError, match=r"models\[2\].*several features are called 'a'"):
        stacked({1: one, 2: other})


def test_models_without_names_are_taken_as_they_are() -> None:
    named, bare = regressor(["stock", "price"]), regressor(["price", "stock"])
    with silently():
        bare = bare.fit(FRAME[["price", "stock"]].to_numpy(), TARGET)
    _, architecture, weights, known = stacked({1: bare, 2: named})
    assert known.feature_names == ("stock", "price")
    x = FRAME[["price", "stock"]].to_numpy()
    truth = bare.predict(x)
    got = predictions(architecture, weights, 0, x)[:, 0]
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-4)


def test_a_scaler_beside_models_has_the_order_of_the_bank() -> None:
    columns = ["stock", "price", "discount"]
    scaler = StandardScaler().fit(FRAME[columns])
    z = pd.DataFrame(scaler.transform(FRAME[columns]), columns=columns)
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=9, random_state=1)
    with silently():
        same, back = (clone(network).fit(z[order], TARGET) for order in (columns, columns[::-1]))
    bank = Bank.from_models({"back": back, "same": same}, input_scaler=scaler)
    bank.add("added", back, input_scaler=scaler)
    for key, model in (("back", back), ("same", same), ("added", back)):
        truth = model.predict(z[list(model.feature_names_in_)])
        got = bank.predict([key] * 90, FRAME[columns])[:, 0]
        np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-4)
    pair = (scaler.mean_, scaler.scale_)
    with pytest.raises(InvalidValueError, match=r"^input_scaler: .* since models\['same'\] has"):
        Bank.from_models({"back": back, "same": same}, input_scaler=pair)
    with pytest.raises(InvalidValueError, match=r"input_scaler: .* since the model has"):
        bank.add("pair", back, input_scaler=pair)
    other = StandardScaler().fit(FRAME[columns[::-1]])
    with pytest.raises(InvalidValueError, match=r"input_scaler: .* in this order, got \['disc"):
        bank.add("other", same, input_scaler=other)
    weights = bank["same"]
    with pytest.raises(InvalidValueError, match=r"input_scaler: .* in this order, got \['disc"):
        bank.add("weights", weights, input_scaler=other)
    empty = Bank(bank.architecture)
    empty.add("weights", weights, input_scaler=scaler)
    assert empty.feature_names == tuple(columns)
    plain = bank.to_stacked()
    made = Bank.from_stacked(*plain, input_scaler=scaler)
    assert made.feature_names == tuple(columns)
    with pytest.raises(InvalidValueError, match=r"^input_scaler: .* in this order, got \['disc"):
        Bank.from_stacked(*plain, input_scaler=other, feature_names=columns)


def test_names_are_those_of_the_columns_and_not_of_results() -> None:
    columns = ["stock", "price"]
    renamed = Pipeline([("identity", FunctionTransformer()), ("scale", MinMaxScaler())])
    frames = StandardScaler().set_output(transform="pandas")
    for steps in ((renamed,), ("passthrough", frames), (frames, MinMaxScaler())):
        assert knowledge_of(regressor(columns, *steps)).feature_names == tuple(columns)
    with silently():
        unnamed = make_pipeline(frames, MLPRegressor(hidden_layer_sizes=(2,), max_iter=2))
        unnamed.fit(FRAME[columns].to_numpy(), TARGET)
        assert unnamed[-1].feature_names_in_.tolist() == ["x0", "x1"]
        target = TransformedTargetRegressor(regressor(columns), transformer=StandardScaler())
        search = GridSearchCV(target, {"regressor__mlpregressor__alpha": [0.1, 1]}, cv=2)
        search.fit(FRAME[columns], TARGET)
        choice = GridSearchCV(classifier(TARGET > 0), {"mlpclassifier__alpha": [0.1, 1]}, cv=2)
        choice.fit(FRAME, TARGET > 0)
    assert knowledge_of(unnamed) == NOTHING
    assert knowledge_of(search) == Knowledge(tuple(columns), None)
    assert knowledge_of(choice) == Knowledge(tuple(COLUMNS), (False, True))


LABELS = {
    "int": [10, -3, 7],
    "str": ["red", "amber", "green"],
    "numpy str": np.array(["b", "a", "c"]),
    "object": np.array(["b", "a", "c"], object),
    "bool": [True, False],
}


@pytest.mark.parametrize("kind", LABELS)
def test_classes_are_built_in_values_in_the_order_of_outputs(kind: str) -> None:
    labels = np.resize(np.array(LABELS[kind]), 90)
    model = classifier(labels)
    classes = convert.convert(model).classes
    assert classes is not None
    assert classes == tuple(model.classes_.tolist())
    assert {type(label) for label in classes} <= {int, str, bool}


def test_several_labels_at_once_have_no_classes() -> None:
    many = np.stack([TARGET > 0, FRAME.price > 3, FRAME.stock > -40], axis=1).astype(int)
    assert convert.convert(classifier(many)).classes is None
    assert convert.convert(regressor(COLUMNS)).classes is None


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (["no", "yes"], ["no", "maybe"]),
        (["no", "yes"], ["yes"]),
        ([0, 1], [False, True]),
        ([1, 2], [1.0, 2.0]),
        ([1, 2], ["1", "2"]),
        ([1, 2], [1, 2, 3]),
    ],
    ids=str,
)
def test_other_classes_are_refused_with_key_and_both(one: list[Any], two: list[Any]) -> None:
    models = {k: classifier(np.resize(np.array(v), 90)) for k, v in (("p", one), ("q", two))}
    message = (
        f"models['q']: classes: expected those of models['p'], {sorted(one)}, got {sorted(two)}; "
    )
    way = (
        "with align_classes=True, Bank.from_models and bank.add give classes that a model has not "
    )
    if type(one[0]) is not type(two[0]):
        way = f"they are {' and '.join(sorted({type(one[0]).__name__, type(two[0]).__name__}))}: "
        way += "fit all models to labels of one type"
    for call in (stacked, convert.stack):
        with pytest.raises(InvalidValueError) as refused:
            call(models)
        assert str(refused.value).startswith(message + way)
        assert ("y.astype(int)" in str(refused.value)) == (type(two[0]) is float)


def test_one_class_only_is_refused_unless_aligned() -> None:
    x = FRAME[["price", "stock"]]
    model = classifier(np.full(90, "no"), x)
    assert model.predict_proba(x).shape == (90, 2)  # though there is one class
    with pytest.raises(InvalidValueError, match=r"^classes: expected at least two, got \['no'\]"):
        convert.convert(model)
    one = converted(model, Knowledge(None, ("no", "yes")), align=True)
    assert one.classes == ("no", "yes")
    assert (outputs(one.architecture, one.weights, x.to_numpy(np.float32)) == [1, 0]).all()
    _, architecture, _, known = stacked({1: model, 2: model}, align=True)
    assert known.classes == ("no",)
    assert architecture.output_size == 1


PALETTES: dict[str, list[Any]] = {
    "int": [4, -2, 9, 1],
    "str": ["d", "a", "c", "b"],
    "bool": [True, False],
    "float": [5.0, -1.0, 2.0],
}


@pytest.mark.parametrize("kind", PALETTES)
@pytest.mark.parametrize("hidden", [(), (6,)], ids=str)
def test_aligned_outputs_are_those_of_each_model(kind: str, hidden: Any) -> None:
    palette = np.array(PALETTES[kind])
    rng = np.random.default_rng(len(kind))
    models, seen = {}, set()
    for i in range(20):  # groups with one class only among them
        some = rng.permutation(palette)[: 1 + i % len(palette)]
        seen |= set(some.tolist())
        order = [COLUMNS[j] for j in ORDERS[i % 4]]
        models[i] = classifier(rng.choice(some, 90), FRAME[order], seed=i, hidden=hidden)
    _, architecture, weights, known = stacked(models, align=True)
    assert known.classes == tuple(sorted(seen))
    for i, model in models.items():
        truth = np.zeros((90, len(seen)))
        own = model.classes_.tolist()
        x = FRAME[list(model.feature_names_in_)]
        if len(own) == 1:
            truth[:, known.classes.index(own[0])] = 1
        else:
            truth[:, [known.classes.index(label) for label in own]] = model.predict_proba(x)
        got = predictions(architecture, weights, i, FRAME[COLUMNS])
        np.testing.assert_allclose(got, truth, atol=1e-5)
        assert (got[truth == 0] == 0).all()
        assert (got[truth == 1] == 1).all()
        labels = np.array(known.classes)[got.argmax(axis=1)]
        clear = np.abs(np.sort(truth, axis=1)[:, -2:] @ [-1, 1]) > 1e-4
        assert (labels == model.predict(x))[clear].all()


def test_models_of_the_same_classes_are_the_same_aligned_or_not() -> None:
    models = {i: classifier(np.resize(["x", "y", "z"], 90), seed=i) for i in range(3)}
    plain, aligned = stacked(models), stacked(models, align=True)
    assert plain[3] == aligned[3]
    assert all((plain[2][name] == aligned[2][name]).all() for name in plain[2])


def test_what_cannot_be_aligned_is_refused() -> None:
    labels = np.resize(["x", "y", "z"], 90)
    with pytest.raises(InvalidValueError, match=r"^classes: .*\['z'\] cannot be added to a bank"):
        converted(classifier(labels), Knowledge(None, ("x", "y")), align=True)
    mixed = {"s": classifier(labels), "i": classifier(np.resize([0, 1], 90))}
    with pytest.raises(InvalidValueError, match=r"^models\['i'\]: classes: expected the type of"):
        stacked(mixed, align=True)
    for model in (regressor(COLUMNS), convert.convert(regressor(COLUMNS))):
        with pytest.raises(InvalidValueError, match=r"models\[0\]: .* classes .* are not known"):
            stacked({0: model}, align=True)
    linear = convert.convert(regressor(COLUMNS, seed=1))
    one = Converted(linear.architecture, linear.weights, None, ("only",))
    with pytest.raises(InvalidValueError, match=r"expected .* 'softmax', got 'none'"):
        converted(one, Knowledge(None, ("only", "other")), align=True)


def test_labels_of_other_types_are_not_known() -> None:
    base = convert.convert(classifier(np.resize(["x", "y"], 90)))
    days = np.array(["2024-01-01", "2024-01-02"], "datetime64[ns]")
    for labels in (days, days - days[0], np.array([b"x", b"y"]), np.array([None, 1], object)):
        one = Converted(base.architecture, base.weights, None, tuple(labels))
        assert knowledge_of(one).classes is None


def test_a_model_is_left_as_it_was() -> None:
    model = regressor(COLUMNS[::-1])
    before = model.predict(FRAME[COLUMNS[::-1]])
    converted(model, Knowledge(tuple(COLUMNS)))
    assert (model.predict(FRAME[COLUMNS[::-1]]) == before).all()


def test_models_that_know_nothing_cost_nothing() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 1)
    knowledge_of(net)
    start = time.perf_counter()
    assert all(knowledge_of(net) is NOTHING for _ in range(10_000))
    assert time.perf_counter() - start < 0.2


def test_names_that_come_twice_are_compared_when_a_model_is_added() -> None:
    def named(*names: str) -> Any:
        model = regressor(["price", "stock"])
        model[0].feature_names_in_ = np.array(names, object)
        return model

    bank = Bank.from_models({"a": named("u", "u")})
    assert bank.feature_names is None
    bank["b"] = named("u", "u")
    for other in (named("u", "v"), named("w", "w")):
        with pytest.raises(InvalidValueError, match=r"expected those of the bank.*\['u', 'u'\]"):
            bank["c"] = other
    assert list(bank) == ["a", "b"]
