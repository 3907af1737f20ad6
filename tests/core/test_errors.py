"""What mlpbank raises by itself: one base, Python's own kinds, and the messages that those have."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import mlpbank
from cases import OWN_ERRORS, RunProgram
from mlpbank import (
    Architecture,
    Bank,
    BatchedInference,
    Engine,
    MlpbankError,
    _core,
    convert,
    errors,
)
from mlpbank.serving import QueueFullError

BUILT_IN = {
    "BankBusyError": TimeoutError,
    "BankFileError": ValueError,
    "InvalidStateError": RuntimeError,
    "InvalidTypeError": TypeError,
    "InvalidValueError": ValueError,
    "MissingPackageError": ImportError,
    "ModelNotLoadedError": RuntimeError,
    "OutOfRangeError": IndexError,
    "QueueFullError": RuntimeError,
    "TooLargeError": OverflowError,
    "UnknownKeyError": KeyError,
    "UnknownModelError": KeyError,
    "UnsupportedLayerError": ValueError,
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_public_errors(name: str) -> None:
    error = getattr(mlpbank, name)
    assert name in mlpbank.__all__
    assert issubclass(error, MlpbankError)
    assert issubclass(error, BUILT_IN[name])
    assert (error.__module__, error.__qualname__) == ("mlpbank", name)
    assert error is getattr(errors, name)
    made = error(["x"], 1) if name == "UnknownModelError" else error("what")
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), again.args) == (error, str(made), made.args)


def test_that_is_all_of_them() -> None:
    public = {
        n
        for n in mlpbank.__all__
        if isinstance(c := getattr(mlpbank, n), type) and issubclass(c, Exception)
    }
    assert public == {*BUILT_IN, "MlpbankError"}
    assert MlpbankError.__module__ == "mlpbank"
    assert QueueFullError is mlpbank.QueueFullError
    assert convert.UnsupportedLayerError is mlpbank.UnsupportedLayerError


def test_every_exception_of_the_package_has_the_base() -> None:
    seen, missing = set(), []
    for info in pkgutil.walk_packages(mlpbank.__path__, "mlpbank."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError as error:  # a framework that is not there
            missing.append(error.name or "")
            continue
        kinds = [value for value in vars(module).values() if isinstance(value, type)]
        seen |= {
            kind
            for kind in kinds
            if issubclass(kind, BaseException) and kind.__module__.startswith("mlpbank")
        }
    assert not any(name.startswith("mlpbank") for name in missing), missing
    assert len(seen) > len(BUILT_IN)
    for kind in seen - {MlpbankError}:
        assert issubclass(kind, MlpbankError), kind
        assert any(
            not issubclass(base, MlpbankError) and base is not Exception for base in kind.__bases__
        ) or any(
            issubclass(base, MlpbankError) and base is not MlpbankError for base in kind.__bases__
        ), f"{kind}: of no built-in kind"


def test_no_built_in_error_is_raised(root: Path) -> None:
    """The package raises none but OSError: on the command line they would look like bugs."""
    kinds = "|".join(kind.__name__ for kind in OWN_ERRORS)
    paths = list((root / "python/mlpbank").rglob("*.py"))
    assert paths
    for path in paths:
        assert not re.search(rf"raise ({kinds})\(", path.read_text()), path


def test_text_is_as_that_of_the_built_in_ones() -> None:
    assert str(mlpbank.UnknownKeyError("weights: missing key 'layer_0'")) == str(
        KeyError("weights: missing key 'layer_0'")
    )
    assert str(mlpbank.InvalidValueError("what")) == "what"


def test_errors_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = Architecture.mlp(2, 3)
    inference = BatchedInference(2, architecture)
    with pytest.raises(mlpbank.InvalidValueError, match=r"^isa: "):
        Engine(isa="sse9")
    with pytest.raises(mlpbank.TooLargeError, match="too large"):
        Architecture.mlp(2**40, 2**40)
    with pytest.raises(mlpbank.OutOfRangeError, match=r"^models\[0\]: "):
        inference.forward(np.ones((1, 2)), models=[7])
    with pytest.raises(mlpbank.ModelNotLoadedError, match=r"^model 0: no weights were loaded$"):
        inference.forward(np.ones((2, 2)))
    bank = Bank(architecture)
    bank["a"] = {"layer_0": np.ones((2, 3))}
    with pytest.raises(
        mlpbank.OutOfRangeError, match=r"^handles\[0\]: expected one of Bank.handles, got 5$"
    ):
        bank.predict_handles([5], np.ones((1, 2)))
    with pytest.raises(errors.KeyTypeError):
        bank._slot_map.core.set_key_type(int)
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "many")
    with pytest.raises(mlpbank.InvalidValueError, match=r"^MLPBANK_NUM_THREADS: "):
        mlpbank.cpu_budget()


def test_a_snapshot_of_before_a_fork(run_program: RunProgram) -> None:
    run_program("snapshot_before_fork")


def test_errors_of_pybind11_stay_built_in() -> None:
    """Users never see them; where they came, the command line would say that it is a bug."""
    with pytest.raises(TypeError) as caught:
        _core.Architecture("no layers")  # type: ignore[arg-type]
    assert not isinstance(caught.value, MlpbankError)
