"""The convert command, run as a user does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlpbank
from command_line import ARCHITECTURE, make_bank, rows, run
from mlpbank import Bank
from mlpbank.cli import main
from mlpbank.files import _plain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_bank(["x", "007", "nan"]).save(tmp_path / "fleet.mlpbank")
    return tmp_path / "fleet.mlpbank"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_convert_between_dtypes(path: Path, tmp_path: Path, dtype: str) -> None:
    target = tmp_path / "narrow.mlpbank"
    assert main(["convert", str(path), str(target), "--dtype", dtype]) == 0
    before, after = Bank.open(path), Bank.open(target)
    assert after.dtype == dtype
    assert list(after) == list(before)
    assert (after.fallback, after.metadata) == (before.fallback, before.metadata)
    assert after.info("007").version == "v7"
    expected = Bank(ARCHITECTURE, dtype=dtype)
    for key in before:
        expected[key] = before[key]
    keys = list(before)
    np.testing.assert_array_equal(after.predict(keys, rows(3)), expected.predict(keys, rows(3)))


def test_convert_to_plain_safetensors_and_back(path: Path, tmp_path: Path) -> None:
    assert main(["convert", str(path), "--to", "safetensors"]) == 0
    assert (
        main(["convert", str(tmp_path / "fleet.safetensors"), str(tmp_path / "back.mlpbank")]) == 0
    )
    before, after = Bank.open(path), Bank.open(tmp_path / "back.mlpbank")
    assert list(after) == list(before)
    for key in before:
        for name, array in before[key].items():
            np.testing.assert_array_equal(after[key][name], array)


def test_a_file_is_not_converted_into_itself(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is named: it would be replaced by what has lost something."""
    source = path.with_name("plain.safetensors")
    save_plain(source)
    before = source.stat()
    path.with_name("link.safetensors").symlink_to(source)
    monkeypatch.chdir(path.parent)
    for name in (str(source), "plain.safetensors", "link.safetensors"):
        assert main(["convert", str(source), name]) == 2
        assert f"expected another name than {source}" in capsys.readouterr().err
    after = source.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


METADATA = {"features": ["b", "a", "c"], "unit": "°C"}  # those of make_bank


def test_metadata_from_a_bank_to_plain(path: Path, tmp_path: Path) -> None:
    assert main(["convert", str(path), "--to", "safetensors"]) == 0
    assert _plain.load_plain(tmp_path / "fleet.safetensors").metadata == METADATA


def test_metadata_from_plain_to_a_bank(tmp_path: Path) -> None:
    save_plain(tmp_path / "plain.safetensors")
    assert main(["convert", str(tmp_path / "plain.safetensors"), "--to", "mlpbank"]) == 0
    assert Bank.open(tmp_path / "plain.mlpbank").metadata == METADATA


@pytest.mark.parametrize("source", ["fleet.mlpbank", "plain.safetensors"])
def test_metadata_to_onnx(path: Path, source: str) -> None:
    onnx = pytest.importorskip("onnx")
    save_plain(path.with_name("plain.safetensors"))
    target = path.with_name("target.onnx")
    assert main(["convert", str(path.with_name(source)), str(target)]) == 0
    properties = onnx.load(target).metadata_props
    keys = list(Bank.open(path)) if source == path.name else ["x", "y"]
    expected = METADATA | {"keys": keys}
    assert {entry.key: json.loads(entry.value) for entry in properties} == expected


def save_plain(path: Path, **extra: Any) -> None:
    keys, _, weights = make_bank(["x", "y"]).to_stacked()
    _plain.save_plain(
        path, [str(key) for key in keys], ARCHITECTURE, weights, extra=extra, metadata=METADATA
    )


@pytest.mark.parametrize("suffix", [".mlpbank", ".onnx", ".safetensors"])
def test_further_arrays_are_not_dropped_in_silence(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    source, target = tmp_path / "plain.safetensors", tmp_path / f"target{suffix}"
    save_plain(source, mean=np.zeros(3), scale=np.ones(3))
    assert main(["convert", str(source), str(target)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "extra.mean, extra.scale" in error
    assert "--drop-extra" in error
    assert not target.exists()
    assert main(["convert", str(source), str(target), "--drop-extra"]) == 0
    assert target.exists()


@pytest.mark.parametrize("suffix", [".mlpbank", ".onnx", ".safetensors"])
def test_a_conversion_that_fails_leaves_the_old_file(
    path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    target = path.with_name(f"target{suffix}")
    target.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("mlpbank.files._atomic.os.fsync", fail)
    assert main(["convert", str(path), str(target)]) == 2
    assert "no space" in capsys.readouterr().err
    assert target.read_bytes() == b"old"
    assert {file.name for file in path.parent.iterdir()} == {path.name, target.name}


def test_convert_to_onnx(path: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert main(["convert", str(path), "--to", "onnx"]) == 0
    session = onnxruntime.InferenceSession(
        tmp_path / "fleet.onnx", providers=["CPUExecutionProvider"]
    )
    x = rows(3)[:, None]
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(
        y, Bank.open(path).predict(["x", "007", "nan"], x), rtol=1e-5, atol=1e-6
    )


def test_convert_a_folder_of_state_dicts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    folder = tmp_path / "models"
    folder.mkdir()
    modules = {}
    for i, key in enumerate(("a", "b.1", "c")):
        modules[key] = torch.nn.Sequential(
            torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
        )
        state = modules[key].state_dict()
        save_file(state, folder / f"{key}.safetensors") if i == 2 else torch.save(
            state, folder / f"{key}.pt"
        )
    target = tmp_path / "bank.mlpbank"
    done = run("convert", folder, target, "--sizes", "3,3,2", "--activation", "tanh")
    assert done.returncode == 0, done.stderr
    bank = Bank.open(target)
    assert list(bank) == ["a", "b.1", "c"]
    x = rows(3)
    for i, key in enumerate(bank):
        expected = modules[str(key)](torch.from_numpy(x[i : i + 1])).detach().numpy()
        np.testing.assert_allclose(
            bank.predict([key], x[i : i + 1]), expected, rtol=1e-5, atol=1e-6
        )
    done = run("convert", folder, target)
    assert done.returncode == 2
    assert "--sizes: expected the layer sizes" in done.stderr
    assert "a.pt holds weights (it has 0: 3 -> 3, 2: 3 -> 2)" in done.stderr
    done = run("convert", folder, target, "--sizes", "3,4,2", "--activation", "tanh")
    assert done.returncode == 2
    assert "(3, 4)" in done.stderr


def test_convert_a_folder_of_onnx_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    folder = tmp_path / "models"
    folder.mkdir()
    bank = make_bank(["a", "b"])
    for key in bank:
        nodes = [
            helper.make_node("Gemm", ["x", "layer_0", "layer_0.bias"], ["h"]),
            helper.make_node("Tanh", ["h"], ["a"]),
            helper.make_node("Gemm", ["a", "layer_1", "layer_1.bias"], ["y"]),
        ]
        ends = [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, s])
            for n, s in (("x", 3), ("y", 2))
        ]
        arrays = [from_array(array, name) for name, array in bank[key].items()]
        model = helper.make_model(helper.make_graph(nodes, "mlp", ends[:1], ends[1:], arrays))
        (folder / f"{key}.onnx").write_bytes(model.SerializeToString())
    done = run("convert", folder, tmp_path / "bank.mlpbank")
    assert done.returncode == 0, done.stderr
    converted = Bank.open(tmp_path / "bank.mlpbank")
    np.testing.assert_array_equal(
        converted.predict(["b", "a"], rows(2)), bank.predict(["b", "a"], rows(2))
    )


def test_a_state_dict_that_holds_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "models"
    folder.mkdir()
    # A whole module: unpickling it would run code.
    torch.save(torch.nn.Linear(3, 2), folder / "a.pt")
    done = run("convert", folder, tmp_path / "bank.mlpbank", "--sizes", "3,2")
    assert done.returncode == 2
    assert "would run code" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "bank.mlpbank").exists()


def test_a_state_dict_without_torch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.pt").touch()
    with pytest.raises(mlpbank.MlpbankError, match="needs torch"):
        _debug(
            ["convert", str(tmp_path / "models"), str(tmp_path / "y.mlpbank"), "--sizes", "3,2"],
            monkeypatch,
        )


def test_a_suffix_that_no_format_has_goes_with_any(path: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                "convert",
                str(path),
                str(tmp_path / "fleet.bin"),
                "--to",
                "mlpbank",
                "--dtype",
                "int8",
            ]
        )
        == 0
    )
    assert Bank.open(tmp_path / "fleet.bin").dtype == "int8"


def _debug(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPBANK_DEBUG", "1")
    main(args)
