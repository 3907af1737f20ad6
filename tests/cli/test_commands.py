"""inspect, verify, convert and predict, run as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlpbank
from cases import Float32Array
from mlpbank import Architecture, Bank
from mlpbank.cli import main
from mlpbank.files import _plain

ARCHITECTURE = Architecture.mlp(3, 4, 2, activation="tanh")


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "mlpbank", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def make_bank(keys: list[Any]) -> Bank:
    rng = np.random.default_rng(1)
    shapes = {"layer_0": (3, 4), "layer_0.bias": (4,), "layer_1": (4, 2), "layer_1.bias": (2,)}
    weights = {
        name: rng.normal(size=(len(keys), *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    bank = Bank.from_stacked(keys, ARCHITECTURE, weights, version="v7", fallback=keys[0])
    bank.metadata = {"features": ["b", "a", "c"], "unit": "°C"}
    return bank


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_bank(["x", "007", "nan"]).save(tmp_path / "fleet.mlpbank")
    return tmp_path / "fleet.mlpbank"


def rows(n: int) -> Float32Array:
    return np.random.default_rng(2).normal(size=(n, 3)).astype(np.float32)


def test_inspect(path: Path) -> None:
    done = run("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    table = {name: value.strip() for name, value in table.items()}
    assert table["architecture"] == "3-4-2, 26 parameters"
    assert table["activations"] == "tanh, none"
    assert (table["models"], table["dtype"], table["layout"]) == ("3", "float32", "lane")
    assert table["keys"] == "'x', '007', 'nan'"
    assert table["versions"] == "v7: 3"
    assert table["fallback"] == "'x'"
    assert table["metadata unit"] == '"°C"'


def test_inspect_an_empty_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Bank(ARCHITECTURE).save(tmp_path / "empty.mlpbank")
    assert main(["inspect", str(tmp_path / "empty.mlpbank")]) == 0
    assert main(["verify", str(tmp_path / "empty.mlpbank")]) == 0
    assert "0 models" in capsys.readouterr().out


def test_verify(path: Path) -> None:
    done = run("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 models" in done.stdout
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    done = run("verify", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mlpbank: error: {path}: ")
    assert "CRC-32" in done.stderr
    assert done.stderr.count("\n") == 1


def test_verify_finds_weights_that_are_not_finite(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank.open(path)
    bank["x"] = bank["x"] | {"layer_1.bias": [np.inf, 0]}
    bank.save(path)
    assert main(["verify", str(path)]) == 2
    assert "model 'x'" in capsys.readouterr().err


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
    assert {entry.key: json.loads(entry.value) for entry in properties} == METADATA


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
    assert "--sizes" in done.stderr
    done = run("convert", folder, target, "--sizes", "3,4,2")
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


@pytest.mark.parametrize("kind", ["str", "int"])
@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_predict(tmp_path: Path, kind: str, suffix: str) -> None:
    bank = make_bank(["x", "007", "nan"] if kind == "str" else [5, -1, 70])
    bank.save(tmp_path / "bank.mlpbank")
    keys, x = [list(bank)[i] for i in (1, 1, 2, 0)], rows(4)
    source, target = tmp_path / f"rows{suffix}", tmp_path / "y.npy"
    if suffix == ".csv":
        pd.DataFrame({"a": x[:, 1], "b": x[:, 0], "key": keys, "c": x[:, 2], "note": "n"}).to_csv(
            source, index=False
        )
    else:
        key_type = "U3" if kind == "str" else "i8"
        table = np.zeros(4, [("a", "f4"), ("b", "f4"), ("key", key_type), ("c", "f4")])
        table["a"], table["b"], table["c"], table["key"] = x[:, 1], x[:, 0], x[:, 2], keys
        np.save(source, table)
    file = str(tmp_path / "bank.mlpbank")
    assert (
        main(["predict", file, "--input", str(source), "--key", "key", "--output", str(target)])
        == 0
    )
    expected = bank.predict(keys, x)
    # CSV has decimal digits.
    np.testing.assert_allclose(np.load(target), expected, rtol=1e-5, atol=1e-6)
    done = run("predict", file, "--input", source, "--key", "key", "--features", "b,a,c")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "key,prediction_0,prediction_1"
    assert [line.split(",")[0] for line in lines[1:]] == [str(key) for key in keys]
    np.testing.assert_allclose(
        [[float(v) for v in line.split(",")[1:]] for line in lines[1:]], expected, rtol=1e-5
    )


def test_predict_columns_by_number(tmp_path: Path) -> None:
    bank = make_bank([5, -1, 70])
    bank.save(tmp_path / "bank.mlpbank")
    x = rows(3)
    np.save(tmp_path / "rows.npy", np.column_stack([x[:, 0], [70, 5, 5], x[:, 1:]]))
    args = [
        "predict",
        str(tmp_path / "bank.mlpbank"),
        "--input",
        str(tmp_path / "rows.npy"),
        "--key",
        "1",
    ]
    assert main([*args, "--output", str(tmp_path / "y.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), bank.predict([70, 5, 5], x))


def test_predict_unknown_keys(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("key,a,b,c\nx,1,2,3\nno,1,2,3\n")
    args = ["predict", str(path), "--input", str(source), "--key", "key"]
    assert main(args) == 0  # the bank has a fallback
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.split(",")[1:] == second.split(",")[1:]
    assert main([*args, "--missing", "nan"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "no,,"
    assert main([*args, "--missing", "error"]) == 2
    assert capsys.readouterr().err == "mlpbank: error: no such model: 'no' (1 of 2 keys)\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inspect", "none"], "No such file"),
        (["verify", "rows.csv"], "header"),
        (["convert", "fleet.mlpbank"], "--to"),
        (["convert", "fleet.mlpbank", "x.bin"], "expected a name that ends in"),
        (["convert", "fleet.mlpbank", "x.safetensors", "--dtype", "int8"], "--dtype"),
        (["convert", "empty", "x.mlpbank"], "got none"),
        (["predict", "fleet.mlpbank", "--input", "rows.csv", "--key", "nokey"], "--key"),
        (
            [
                "predict",
                "fleet.mlpbank",
                "--input",
                "rows.csv",
                "--key",
                "key",
                "--features",
                "a,q,c",
            ],
            "'q'",
        ),
        (
            ["predict", "fleet.mlpbank", "--input", "rows.csv", "--key", "key", "--features", "a"],
            "3 columns",
        ),
        (
            [
                "predict",
                "fleet.mlpbank",
                "--input",
                "rows.csv",
                "--key",
                "key",
                "--output",
                "y.xls",
            ],
            "--output",
        ),
        (["predict", "fleet.mlpbank", "--input", "rows.txt", "--key", "key"], "--input"),
        (["predict", "fleet.mlpbank", "--input", "text.csv", "--key", "key"], "line 2, column 'b'"),
        (["convert", "fleet.mlpbank", "y.mlpbank", "--to", "onnx"], "y.mlpbank"),
        (["convert", "fleet.mlpbank", "y.onnx", "--to", "mlpbank"], "y.onnx"),
        (
            ["convert", "fleet.mlpbank", "y.pt", "--to", "safetensors"],
            "ends in .safetensors, as --to has it, got y.pt",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--sizes", "3,4,2"],
            "--sizes: expected a folder",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--activation", "tanh"],
            "--activation: expected a folder",
        ),
        (
            ["convert", "fleet.mlpbank", "y.mlpbank", "--weight-layout", "in_out"],
            "--weight-layout: expected a folder",
        ),
        (
            ["convert", "models", "y.mlpbank", "--output-activation", "tanh"],
            "--output-activation: expected --sizes",
        ),
        (["convert", "models", "y.mlpbank", "--sizes", "3,0"], "positive"),
        (["convert", "models", "y.mlpbank", "--sizes", f"3,{2**70}"], "too large"),
        (["convert", "models", "y.mlpbank", "--sizes", "3,2"], "a.pt: expected a state dict"),
        (["convert", ".", "--to", "mlpbank"], "target: expected a name"),
    ],
)
def test_errors_are_one_line(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(path.parent)
    if "models" in args:
        pytest.importorskip("torch")
    Path("empty").mkdir()
    Path("models").mkdir()
    Path("models/a.pt").write_bytes(b"no state dict")
    Path("rows.csv").write_text("key,a,b,c\nx,1,2,3\n")
    Path("text.csv").write_text("key,a,b,c\nx,1,two,3\n")
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mlpbank: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, IndexError, ImportError, EOFError]
)
def test_a_bug_is_no_error_of_the_user(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    def break_down(*_: object) -> None:
        raise error("of the code")

    monkeypatch.setattr("mlpbank.cli._convert_command.Counter", break_down)
    assert main(["inspect", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert "of the code" in lines[-2]
    assert lines[-1] == "mlpbank: this is a bug in mlpbank; please report it with the lines above"
    monkeypatch.setenv("MLPBANK_DEBUG", "1")
    with pytest.raises(error, match="of the code"):
        main(["inspect", str(path)])


def test_what_the_machine_lacks_is_no_bug(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mlpbank.cli._convert_command.Counter", fail)
    assert main(["inspect", str(path)]) == 2
    assert capsys.readouterr().err == "mlpbank: error: MemoryError\n"


@pytest.mark.parametrize("variable", ["MLPBANK_NUM_THREADS", "MLPBANK_ISA"])
def test_wrong_variables_are_errors_of_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "none")
    assert main(["info"]) == 2
    assert capsys.readouterr().err.startswith(f"mlpbank: error: {variable}: ")


def test_output_that_cannot_say_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    make_bank(["é"]).save(tmp_path / "fleet.mlpbank")
    (tmp_path / "rows.csv").write_text("key,a,b,c\né,1,2,3\n")
    args = ["predict", tmp_path / "fleet.mlpbank", "--input", tmp_path / "rows.csv", "--key", "key"]
    for command in (args, ["inspect", tmp_path / "fleet.mlpbank"]):
        done = run(*command)
        assert done.returncode == 2
        assert (
            done.stderr
            == "mlpbank: error: standard output: expected text that ascii can hold, got '\\xe9'\n"
        )
    done = run(*args, "--output", tmp_path / "y.csv")
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("command", ["inspect", "verify", "convert", "predict"])
def test_help_has_examples(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"mlpbank {command} " in done.stdout.split("examples:")[1]
