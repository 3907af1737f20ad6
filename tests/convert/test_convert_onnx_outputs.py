"""Which output of an ONNX graph a bank computes: one that is named, or probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import silently, unsupported
from mlpbank import Bank, convert

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from onnx_graphs import answers, assert_as_onnxruntime, graph  # noqa: E402

RNG = np.random.default_rng(3)
W = RNG.normal(size=(4, 3)).astype(np.float32)
V = RNG.normal(size=(3, 1)).astype(np.float32)


def heads() -> Any:
    return graph(
        [
            ("MatMul", "x w", "h"),
            ("Relu", "h", "body"),
            ("MatMul", "body v", "value"),
            ("Tanh", "h", "action"),
            ("Identity", "w", "version"),
        ],
        {"w": W, "v": V},
        outputs=("value", "action", "version"),
    )


def test_an_output_is_picked_by_name_or_number() -> None:
    model = heads()
    for choice, number in (("value", 0), ("action", 1), (0, 0), (1, 1), (-2, 1)):
        assert_as_onnxruntime(model, 4, number, choice)
    with unsupported(
        "the graph has 2 outputs: 'value', 'action'; choose one of them with output=, such as "
        "output='value'"
    ):
        convert.convert(model)
    for wrong in ("q", 3, -4, True):
        with raises(
            ValueError,
            f"output: expected one of 'value', 'action', 'version' or its number, got {wrong!r}",
        ):
            convert.convert(model, output=wrong)
    with unsupported(
        "version: leads nowhere: the output does not depend on the input through a chain"
    ):
        convert.convert(model, output="version")
    bank = Bank.from_models({"a": model}, output="action")
    bank.add("b", model, output="action")
    assert bank.architecture.output_size == 3


def test_what_other_outputs_need_does_not_matter() -> None:
    model = heads()
    model.graph.node.append(helper.make_node("LSTM", ["body"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))
    convert.convert(model, output="value")
    with pytest.raises(convert.UnsupportedLayerError, match="LSTM is not supported"):
        convert.convert(model, output="more")


LABELS: dict[str, Any] = {
    "label first": ("label", "p"),
    "label last": ("p", "label"),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("first", [True, False])
def test_probabilities_of_two_classes(name: str, first: bool) -> None:
    """1 - p beside p is a softmax of 0 and what the sigmoid gets, in either order."""
    nodes = [
        ("MatMul", "x w", "h"),
        ("Elu", "h", "e"),
        ("MatMul", "e v", "s"),
        ("Add", "s b", "z"),
        ("Mul", "z two", "logit"),
        ("Sigmoid", "logit", "one"),
        ("Sub", "unit one", "zero"),
        ("Concat", "zero one" if first else "one zero", "p", {"axis": 1}),
        ("ArgMax", "p", "best", {"axis": 1}),
        ("Gather", "names best", "label"),
    ]
    constants = {"w": W, "v": V, "b": 0.3, "two": 2.0, "unit": 1.0, "names": np.array([7, 9])}
    model = graph(nodes, constants, outputs=LABELS[name])
    place = LABELS[name].index("p")
    model.graph.output[1 - place].type.tensor_type.elem_type = TensorProto.INT64
    architecture = assert_as_onnxruntime(model, 4, place)
    assert [spec.output_size for spec in architecture.layers] == [3, 2]
    with unsupported(
        "label: gives labels; choose the output of the probabilities, which a bank computes"
    ):
        convert.convert(model, output="label")


def test_what_only_looks_like_two_classes() -> None:
    nodes = [
        ("MatMul", "x w", "h"),
        ("Sigmoid", "h", "one"),
        ("Sub", "unit one", "zero"),
        ("Concat", "zero one", "y", {"axis": 1}),
    ]
    for width, unit in ((1, 0.9), (2, 1.0)):
        weight = RNG.normal(size=(4, width))
        model = graph(nodes, {"w": weight, "unit": unit})
        with pytest.raises(convert.UnsupportedLayerError, match="y: joins results of layers"):
            convert.convert(model)


def test_labels_alone_are_refused() -> None:
    nodes = [("MatMul", "x w", "p"), ("ArgMax", "p", "y", {"axis": 1})]
    with unsupported(
        "y: ArgMax is not supported; it gives labels; make the probabilities an output"
    ):
        convert.convert(graph(nodes, {"w": W}))


def fitted(kind: str, targets: Any, **options: Any) -> Any:
    network = pytest.importorskip("sklearn.neural_network")
    x = np.random.default_rng(0).normal(1, 2, (60, 3)).astype(np.float32)
    with silently():
        model = getattr(network, kind)(
            hidden_layer_sizes=(4,), max_iter=20, random_state=0, **options
        )
        return model.fit(x, targets(x))


SCALERS = ["StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler"]


@pytest.mark.slow  # its package is in the extra `test-all` alone
@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh", "identity"])
def test_regressors_of_scikit_learn(scaler: str, activation: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    network = fitted("MLPRegressor", lambda x: x.sum(axis=1), activation=activation)
    x = np.random.default_rng(1).normal(1, 2, (40, 3)).astype(np.float32)
    scale = getattr(preprocessing, scaler)().fit(x)
    both = pipeline.Pipeline([("scale", scale), ("network", network)])
    with silently():
        model = skl2onnx.to_onnx(both, x[:1])
    assert_as_onnxruntime(model, 3)
    bank = Bank.from_models({"onnx": model, "itself": both})  # of one architecture
    got = bank.predict(["onnx", "itself"], x[:1].repeat(2, axis=0))
    np.testing.assert_allclose(got[0], got[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # its package is in the extra `test-all` alone
@pytest.mark.parametrize("zipmap", [False, True, "columns"])
@pytest.mark.parametrize("labels", [(0, 1), ("no", "yes"), (3, 5, 9), ("a", "b", "c", "d")])
def test_classifiers_of_scikit_learn(zipmap: Any, labels: Any) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    ranks = np.linspace(-1, 3, len(labels) + 1)[1:-1]
    network = fitted("MLPClassifier", lambda x: np.array(labels)[np.digitize(x[:, 0], ranks)])
    x = np.random.default_rng(2).normal(1, 2, (6, 3)).astype(np.float32)
    with silently():
        model = skl2onnx.to_onnx(network, x[:1], options={id(network): {"zipmap": zipmap}})
    assert convert.convert(model).classes == labels
    outputs = len(labels) if zipmap == "columns" else 1
    expected = np.hstack([answers(model, x, 1 + i) for i in range(outputs)])
    bank = Bank.from_models({"onnx": model, "itself": network})
    np.testing.assert_allclose(bank.predict(["onnx"] * 6, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected, network.predict_proba(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # its package is in the extra `test-all` alone
def test_a_frame_of_columns_of_scikit_learn() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    pandas = pytest.importorskip("pandas")
    compose = pytest.importorskip("sklearn.compose")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    network = pytest.importorskip("sklearn.neural_network")
    from skl2onnx.common.data_types import FloatTensorType

    x = pandas.DataFrame(np.random.default_rng(0).normal(2, 3, (50, 3)), columns=list("abc"))
    parts = compose.ColumnTransformer(
        [
            ("s", preprocessing.StandardScaler(), ["c", "a"]),
            ("m", preprocessing.MinMaxScaler(), ["b"]),
        ]
    )
    with silently():
        model = pipeline.make_pipeline(
            parts, network.MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0)
        ).fit(x, x.sum(axis=1))
        types = [(name, FloatTensorType([None, 1])) for name in "abc"]
        exported = skl2onnx.convert_sklearn(model, initial_types=types)
    assert_as_onnxruntime(exported, 3)
    assert convert.convert(exported).feature_names == ("a", "b", "c")
    rows = x.to_numpy(np.float32)[:5]
    got = Bank.from_models({"m": exported}).predict(["m"] * 5, rows)[:, 0]
    np.testing.assert_allclose(got, model.predict(x[:5]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # its package is in the extra `test-all` alone
def test_scikit_learn_parts_that_no_layer_computes() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    network = fitted("MLPRegressor", lambda x: x.sum(axis=1))
    x = np.ones((2, 3), np.float32)
    both = pipeline.Pipeline([("n", preprocessing.Normalizer().fit(x)), ("m", network)])
    with silently():
        model = skl2onnx.to_onnx(both, x[:1])
    with unsupported(
        "Normalizer: ai.onnx.ml.Normalizer is not supported; it divides each row by its norm; do "
        "that to the rows before"
    ):
        convert.convert(model)


def test_files_that_cannot_be_read_name_their_path(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    good = graph([("MatMul", "x w", "y")], {"w": W})
    onnx.save(good, path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    with pytest.raises((ValueError, OSError)) as caught:
        convert.convert(path)
    assert str(path) in str(caught.value) or "weights" in str(caught.value)
    path.write_bytes(good.SerializeToString()[:-40])
    with pytest.raises(ValueError, match=r"model\.onnx: expected") as error:
        convert.convert(path)
    assert str(error.value).startswith(str(path))
    for content in (b"", b"\x00" * 64):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected an ONNX model") as error:
            convert.convert(path)
        assert str(error.value).startswith(str(path))
    onnx.save(graph([("MatMul", "x w", "h"), ("Sin", "h", "y")], {"w": W}), path)
    with pytest.raises(convert.UnsupportedLayerError) as unknown:
        convert.convert(path)
    assert str(unknown.value).startswith(f"{path}: y: Sin is not supported; ")


def test_opsets_that_are_too_new() -> None:
    model = graph([("MatMul", "x w", "y")], {"w": W}, opset=999)
    with pytest.raises(
        convert.UnsupportedLayerError, match="opset 999 is newer than those that onnx"
    ):
        convert.convert(model)
