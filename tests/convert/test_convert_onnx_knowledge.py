"""What ONNX graphs tell besides layers: names of columns that are inputs, labels of outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convert_checks import silently
from mlpbank import Bank, InvalidValueError, convert
from mlpbank.cli import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto  # noqa: E402

from onnx_graphs import answers, graph  # noqa: E402

X = np.random.default_rng(1).uniform(-2, 2, (9, 4)).astype(np.float32)


def labelled(labels: Any, seed: int = 0, more: Any = (), outputs: Any = ("label", "p")) -> Any:
    """Return a classifier: the probabilities, and the label of the largest."""
    w = np.random.default_rng(seed).normal(size=(4, len(labels)))
    nodes = [
        ("MatMul", "x w", "z"),
        ("Softmax", "z", "p", {"axis": 1}),
        ("ArgMax", "z", "best", {"axis": 1, "keepdims": 0}),
        ("Gather", "names best", "label"),
        *more,
    ]
    names = np.array(labels, object if isinstance(labels[0], str) else np.int64)
    model = graph(nodes, {"w": w, "names": names, "v": w[:, :1]}, outputs=outputs)
    kind = TensorProto.STRING if isinstance(labels[0], str) else TensorProto.INT64
    for value in model.graph.output:
        if value.name == "label":
            value.type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize("labels", [("no", "yes"), (4, 2, 9), ("b", "c", "a")])
def test_labels_of_a_graph_are_the_classes(labels: Any) -> None:
    models = {"m": labelled(labels), "n": labelled(labels, 1)}
    bank = Bank.from_models(models)
    assert bank.classes == labels
    for key, model in models.items():
        expected = answers(model, X)[:, 0]
        assert bank.predict_class([key] * len(X), X).tolist() == expected.tolist()
    bank.add("o", labelled(labels, 2))
    with pytest.raises(InvalidValueError, match=r"bank\['p'\]: classes: expected .*, got .*'q'\]"):
        bank.add("p", labelled([f"other {i}" for i in labels[1:]] + ["q"]))


def test_other_classes_are_refused_or_aligned() -> None:
    models = {"m": labelled(("b", "c")), "n": labelled(("c", "a"), 1)}
    with pytest.raises(InvalidValueError, match=r"^models\['n'\]: classes: expected those of"):
        convert.stack(models)
    bank = Bank.from_models(models, align_classes=True)
    assert bank.classes == ("a", "b", "c")
    for key, columns in (("m", [1, 2]), ("n", [2, 0])):
        got = bank.predict([key] * len(X), X)
        np.testing.assert_allclose(got[:, columns], answers(models[key], X, 1), atol=1e-6)
        assert (np.delete(got, columns, axis=1) == 0).all()


def test_labels_belong_to_the_probabilities_that_they_are_of() -> None:
    more = [("MatMul", "x v", "value"), ("MatMul", "x w", "r"), ("Relu", "r", "other")]
    model = labelled(("a", "b", "c"), more=more, outputs=("label", "p", "value", "other", "z"))
    for output, classes in (("p", True), ("z", True), ("value", False), ("other", False)):
        found = convert.convert(model, output=output).classes
        assert found == (("a", "b", "c") if classes else None)
    bank = Bank.from_models({"k": model}, output="p")
    bank.add("l", model, output="p")
    assert bank.classes == ("a", "b", "c")
    alone = labelled(("a", "b", "c"), more=more[1:], outputs=("label", "other"))
    assert convert.convert(alone).classes is None


@pytest.mark.parametrize(
    "step",
    [
        ("Neg", "z", "s"),
        ("Gather", "z back", "s", {"axis": 1}),
        ("Softmax", "z", "s", {"axis": 0}),
        ("MatMul", "z back_", "s"),
    ],
    ids=lambda step: step[0],
)
def test_labels_of_scores_in_another_order_are_not_known(step: Any) -> None:
    nodes = [
        ("MatMul", "x w", "z"),
        step,
        ("ArgMax", "s", "best", {"axis": 1}),
        ("Gather", "names best", "label"),
    ]
    constants = {"w": np.eye(4)[:, :3], "back": np.array([2, 1, 0]), "back_": np.eye(3)[::-1]}
    constants["names"] = np.array(["a", "b", "c"], object)
    model = graph(nodes, constants, outputs=("label", "z"))
    assert convert.convert(model).classes is None


@pytest.mark.parametrize(
    ("keys", "classes"), [([0, 1, 2], ("x", "y", "z")), ([2, 1, 0], None), ([1, 2, 3], None)]
)
def test_a_label_encoder_tells_labels_of_numbers_from_zero(keys: Any, classes: Any) -> None:
    nodes = [
        ("MatMul", "x w", "z"),
        ("Softmax", "z", "p", {"axis": 1}),
        ("ArgMax", "z", "best", {"axis": -1}),
        ("LabelEncoder", "best", "label", {"keys_int64s": keys, "values_strings": list("xyz")}),
    ]
    model = graph(nodes, {"w": np.eye(4)[:, :3]}, outputs=("label", "p"))
    model.graph.node[-1].domain = "ai.onnx.ml"
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    assert convert.convert(model).classes == classes


def columns(order: str, seed: int = 0) -> Any:
    """Return a graph with an input for each column, in this order."""
    w = np.random.default_rng(seed).normal(size=(len(order), 2))
    nodes = [
        ("Concat", " ".join(order), "x", {"axis": 1}),
        ("Sub", "x means", "less"),
        ("MatMul", "less w", "y"),
    ]
    constants = {"means": np.array([{"a": 1e3, "b": -2, "c": 5}.get(n, 0) for n in order]), "w": w}
    return graph(nodes, constants, [(name, ("N", 1)) for name in order])


def test_inputs_of_one_column_are_names_of_features() -> None:
    models = {"m": columns("bac"), "n": columns("cba", 1), "o": columns("abc", 2)}
    bank = Bank.from_models(models)
    assert bank.feature_names == ("b", "a", "c")
    frame = pd.DataFrame({"key": list("monm"), "a": 1000.5, "b": [1.0, 2, 3, 4], "c": 5.0})
    got = bank.predict_frame(frame, key="key").to_numpy()
    for i, key in enumerate(frame.key):
        order = [value.name for value in models[key].graph.input]
        expected = answers(models[key], frame[order].to_numpy(np.float32)[i : i + 1])[0]
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)
    with pytest.raises(InvalidValueError, match=r"feature names: .*\['a', 'b', 'd'\]"):
        bank.add("p", columns("abd"))
    assert convert.convert(columns("a")).feature_names is None  # a name of rows, or of a column


def test_a_scaler_beside_graphs_has_the_order_of_their_columns() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    scaler = preprocessing.StandardScaler().fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(InvalidValueError, match=r"^input_scaler: expected one that knows"):
        Bank.from_models({"m": columns("bac"), "n": columns("abc")}, input_scaler=scaler)
    frame = pd.DataFrame(np.random.default_rng(0).normal(3, 2, (20, 3)), columns=list("bac"))
    scaler = preprocessing.StandardScaler().fit(frame)
    bank = Bank.from_models({"m": columns("abc")}, input_scaler=scaler)
    got = bank.predict(["m"] * 20, frame)
    scaled = scaler.transform(frame)[:, [1, 0, 2]]
    np.testing.assert_allclose(got, answers(columns("abc"), scaled), rtol=1e-4, atol=1e-3)


def test_files_are_read_once_and_a_folder_of_them_keeps_what_they_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for i in range(3):
        onnx.save(labelled(("no", "yes"), i), folder / f"shop-{i}.onnx")
    loads: list[Any] = []
    load = onnx.load
    monkeypatch.setattr(onnx, "load", lambda path: loads.append(path) or load(path))
    assert main(["convert", str(folder), str(tmp_path / "bank.mlpbank")]) == 0
    assert len(loads) == 3
    assert Bank.open(tmp_path / "bank.mlpbank").classes == ("no", "yes")
    bank = Bank.from_models({"k": (folder / "shop-0.onnx").read_bytes()})
    assert bank.classes == ("no", "yes")


def test_what_cannot_be_read_is_an_error_with_its_key(tmp_path: Path) -> None:
    for options in ({"align_classes": True}, {"input_scaler": (0, 1)}):
        with pytest.raises(InvalidValueError, match=r"^models\['k'\]: bytes: expected an ONNX"):
            Bank.from_models({"k": b"nothing"}, **options)
        with pytest.raises(OSError, match="absent"):
            Bank.from_models({"k": tmp_path / "absent.onnx"}, **options)
    with pytest.raises(InvalidValueError, match="align_classes: the classes of this model"):
        Bank.from_models({"k": columns("abc")}, align_classes=True)


@pytest.mark.slow  # its package is in the extra `test-all` alone
@pytest.mark.parametrize("zipmap", [False, True, "columns"])
def test_graphs_and_estimators_of_scikit_learn_share_a_bank(zipmap: Any) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.neural_network import MLPClassifier

    labels = np.array(["low", "mid", "high"])[(X[:, 0] > 0).astype(int) + (X[:, 0] > 1)]
    with silently():
        network = MLPClassifier((5,), max_iter=20, random_state=0).fit(X, labels)
        exported = skl2onnx.to_onnx(network, X[:1], options={"zipmap": zipmap})
    bank = Bank.from_models({"itself": network, "graph": exported})
    assert bank.classes == ("high", "low", "mid")
    got = bank.predict_class(["graph"] * len(X), X)
    assert got.tolist() == network.predict(X).tolist()
