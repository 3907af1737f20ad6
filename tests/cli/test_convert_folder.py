"""A folder of models into one bank: what is read, what is left out, what is wrong with a file."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidValueError, convert
from mlpbank.cli import main
from mlpbank.convert._model_files import load_safetensors, load_torch

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

X = np.array([0.5, -2, 1], np.float32)


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def answer(module: Any) -> Any:
    return module(torch.from_numpy(X)).detach().numpy()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "north").mkdir(parents=True)
    return folder


def run(folder: Path, *options: str) -> tuple[int, Bank | None]:
    target = folder.with_name("bank.mlpbank")
    command = ["convert", str(folder), str(target), "--sizes", "3,3,2", "--activation", "relu"]
    code = main([*command, *options])
    return code, Bank.open(target) if target.exists() else None


def test_suffixes_and_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.pt", "b.PTH", "north/a.ckpt", "north/c.Safetensors", "north/d.1.pt"]
    for i, name in enumerate(names):
        state = net(i).state_dict()
        if name.endswith("s"):
            safetensors.save_file(state, folder / name)
        elif name.endswith("t"):
            torch.save({"epoch": 1, "state_dict": state}, folder / name)
        else:
            torch.save(state, folder / name)
    for other in ("config.json", "north/pytorch_model.bin", ".hidden.pt"):
        (folder / other).write_text("{}")
    code, bank = run(folder)
    assert code == 0
    assert bank is not None
    assert list(bank) == ["a", "b", "north/a", "north/c", "north/d.1"]
    for i, key in enumerate(bank):
        np.testing.assert_allclose(bank.predict(key, X), answer(net(i)), rtol=1e-5, atol=1e-6)
    error = capsys.readouterr().err
    assert "left out 3 files" in error
    for other in ("config.json", "pytorch_model.bin", ".hidden.pt"):
        assert other in error


def test_two_files_for_one_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("north/a.pt", "north/a.ckpt"):
        torch.save(net().state_dict(), folder / name)
    assert run(folder) == (2, None)
    assert "several for 'north/a': a.ckpt and a.pt" in capsys.readouterr().err


def test_the_entry_of_a_checkpoint_is_chosen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"model": net(0).state_dict(), "model_ema": net(1).state_dict(), "step": 9}
    torch.save(state, folder / "a.pt")
    assert run(folder) == (2, None)
    assert "--checkpoint model" in capsys.readouterr().err
    for i, name in enumerate(("model", "model_ema")):
        code, bank = run(folder, "--checkpoint", name)
        assert code == 0
        assert bank is not None
        np.testing.assert_allclose(bank.predict("a", X), answer(net(i)), rtol=1e-5, atol=1e-6)
    assert run(folder, "--checkpoint", "none")[0] == 2
    assert "expected an entry 'none', got model, model_ema, step" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_safetensors(folder: Path, dtype: Any) -> None:
    module = net().to(dtype)
    safetensors.save_file(module.state_dict(), folder / "a.safetensors")
    arrays = load_safetensors(folder / "a.safetensors")
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.to(torch.float64).numpy())
    code, bank = run(folder)
    assert code == 0
    assert bank is not None
    wide = answer(module.to(torch.float32))
    np.testing.assert_allclose(bank.predict("a", X), wide, rtol=1e-5, atol=1e-6)


def test_the_orientation_in_safetensors_goes_by_the_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A square matrix looks the same in both."""
    state = {name: tensor.numpy() for name, tensor in net().state_dict().items()}
    kernels = {
        name.replace("weight", "kernel"): np.ascontiguousarray(array.T)
        for name, array in state.items()
    }
    from safetensors.numpy import save_file

    save_file(kernels, folder / "a.safetensors")
    code, bank = run(folder)
    assert code == 0
    assert bank is not None
    np.testing.assert_allclose(bank.predict("a", X), answer(net()), rtol=1e-5, atol=1e-6)
    by_hand = {name.replace("kernel", "w"): array for name, array in kernels.items()}
    save_file(by_hand, folder / "a.safetensors")
    assert run(folder)[0] == 2
    assert "--weight-layout" in capsys.readouterr().err
    assert run(folder, "--weight-layout", "in_out")[0] == 0


def test_float8_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: t.to(torch.float8_e4m3fn) for name, t in net().state_dict().items()}
    safetensors.save_file(state, folder / "a.safetensors")
    assert run(folder) == (2, None)
    assert "got F8_E4M3" in capsys.readouterr().err


def saved(path: Path) -> bytes:
    torch.save(net().state_dict(), path)
    return path.read_bytes()


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net(), torch.ones(1, 3)).save(str(path))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda p: p.write_bytes(saved(p)[:900]), "without its end"),
    "cut off at the end": (lambda p: p.write_bytes(saved(p)[:-10]), "without its end"),
    "TorchScript": (script, "TorchScript"),
    "whole module": (lambda p: torch.save({"model": net()}, p), r"torch\.nn\..*would run code"),
    "old form": (
        lambda p: torch.save(net(), p, _use_new_zipfile_serialization=False),
        "would run code",
    ),
    "git-lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git-lfs"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html>\n<html>"), "web page"),
    "empty": (lambda p: p.write_bytes(b""), "empty file"),
    "zip": (archive, "zip archive of readme.txt"),
    "noise": (lambda p: p.write_bytes(bytes(range(255, 0, -1)) * 9), "damaged or none"),
    "pickle": (lambda p: p.write_bytes(b"\x80\x04\x95"), "damaged or none"),
    "tensor": (lambda p: torch.save(torch.ones(3), p), "state dict, got Tensor"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_a_file(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(net().state_dict(), folder / "good.pt")
    make, words = BROKEN[kind]
    path = folder / "north" / "poor.pt"
    make(path)
    assert run(folder) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith(f"mlpbank: error: {path}: expected ")
    assert error.count("\n") == 1
    if kind != "tensor":
        with pytest.raises(InvalidValueError, match=words):
            load_torch(path)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"version https://git-lfs.github.com/spec/v1", b"\xff" * 99]
)
def test_what_is_no_safetensors_file(
    folder: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "poor.safetensors").write_bytes(data)
    assert run(folder) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith(f"mlpbank: error: {folder}/poor.safetensors: expected a safetensors")


def test_a_folder_that_is_called_like_a_file(folder: Path) -> None:
    (folder / "checkpoint.pt").mkdir()
    torch.save(net().state_dict(), folder / "checkpoint.pt" / "a.pt")
    code, bank = run(folder)
    assert code == 0
    assert bank is not None
    assert list(bank) == ["checkpoint.pt/a"]


def test_mlpbanks_own_form(folder: Path) -> None:
    one = convert.convert(net(), Architecture.mlp(3, 3, 2))
    from safetensors.numpy import save_file

    save_file(one.weights, folder / "a.safetensors")
    code, bank = run(folder)
    assert code == 0
    assert bank is not None
    np.testing.assert_allclose(bank.predict("a", X), answer(net()), rtol=1e-5, atol=1e-6)
