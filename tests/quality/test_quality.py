"""Style, types, the stub, the version and the README's example."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mlpbank
from cases import RunPython, program

FOLDERS = ["python", "tests", "examples", "benchmarks", "tools", "noxfile.py"]


@pytest.fixture(scope="session")
def check(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Run a checker in the source tree; what it complains about fails the test."""
    caches = {
        "RUFF_CACHE_DIR": str(tmp_path_factory.mktemp("ruff")),
        "MYPY_CACHE_DIR": str(tmp_path_factory.mktemp("mypy")),
        "MYPYPATH": f"{root / 'python'}:{root / 'tests/helpers'}",
        "PATH": "/usr/bin:/bin",
    }
    # Without the first two a core that has sanitizers in it cannot be imported; without the last an
    # editable install is compiled anew.
    kept = ("LD_PRELOAD", "ASAN_OPTIONS", "SKBUILD_EDITABLE_SKIP")
    caches |= {name: os.environ[name] for name in kept if name in os.environ}

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            command, cwd=root, env=caches, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_ruff_finds_nothing(check: Callable[..., None]) -> None:
    check(program("ruff"), "check", *FOLDERS)


def test_ruff_would_format_nothing(check: Callable[..., None]) -> None:
    check(program("ruff"), "format", "--check", *FOLDERS)


def test_package_is_strictly_typed(check: Callable[..., None]) -> None:
    check(sys.executable, "-m", "mypy", "--strict", "python/mlpbank")


def test_programs_of_the_tests_are_strictly_typed(check: Callable[..., None]) -> None:
    check(sys.executable, "-m", "mypy", "--strict", "tests/programs")


def test_package_ships_its_types() -> None:
    folder = Path(mlpbank.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_core.pyi").exists()


def test_stub_says_what_the_core_is(check: Callable[..., None], tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    # pybind11 gives its classes a metaclass of its own, which has no name that a stub could import.
    classes = (
        "ArrowKeys|ArrowStream|Architecture|Bank|BatchedInference|BatchedWeights|Changes|"
        "DirectPredict|Engine|Follower|Head|IntTable|RowOrder|Snapshot|StringTable|TupleTable"
    )
    # Their __init__ is pybind11's, which refuses.
    made_by_the_core = (
        "ArrowColumn|ArrowTable|BlockFormat|BlocksCopy|CpuBudget|EpochGuard|FrozenBank|KeySlots|"
        "ModelRecord|Table"
    )
    allowed.write_text(
        rf"mlpbank\._core\.({classes}|{made_by_the_core})" + "\n"
        rf"mlpbank\._core\.({made_by_the_core})\.__init__" + "\n"
    )
    options = (
        "--allowlist",
        allowed,
        "--ignore-unused-allowlist",
        "--mypy-config-file",
        "pyproject.toml",
    )
    check(sys.executable, "-m", "mypy.stubtest", "mlpbank._core", *options)


def test_tests_run_the_installed_package(root: Path) -> None:
    """A copy of its own, or this source tree where it is installed as editable."""
    url = importlib.metadata.distribution("mlpbank").read_text("direct_url.json")
    editable = json.loads(url or "{}").get("dir_info", {}).get("editable", False)
    assert (root in Path(mlpbank.__file__).resolve().parents) == editable
    # Compiled code never lies in the source tree, where it would hide what was installed.
    assert root / "python" not in Path(mlpbank._core.__file__).resolve().parents


def test_version_stands_in_one_place(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    versions = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    assert versions == [mlpbank.__version__]
    elsewhere = [
        path
        for folder in ("cpp", "python")
        for path in (root / folder).rglob("*")
        if path.suffix in {".py", ".pyi", ".cpp", ".h"} and f'"{versions[0]}"' in path.read_text()
    ]
    assert elsewhere == []


def test_public_names_exist_and_are_documented() -> None:
    for name in mlpbank.__all__:
        value = getattr(mlpbank, name)
        if name != "__version__":
            assert value.__doc__, name
    with pytest.raises(AttributeError, match=r"^module 'mlpbank' has no attribute 'nonsense'$"):
        mlpbank.nonsense  # noqa: B018


def test_examples_of_the_readme_run(root: Path, run_python: RunPython) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert blocks, "README.md has no Python example"
    run_python("import warnings; warnings.simplefilter('error')\n" + "".join(blocks))


def test_commands_of_the_readme_are_those_that_are_run(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for command in ("pip install . && python -m mlpbank demo", "pip install '.[test]' && pytest"):
        assert command in readme
    assert "pip install '.[test]' && pytest" in (root / ".ci/run").read_text()


def test_doctests(root: Path, run_python: RunPython) -> None:
    """The examples in docstrings, in an interpreter of their own."""
    output = run_python(
        """
        import doctest, importlib, pkgutil
        import mlpbank
        attempted = failed = 0
        left_out = ("bench", "convert.", "_core", "__main__", "spark", "ray", "_ray_sharded")
        skipped = tuple(f"mlpbank.{name}" for name in left_out)
        for module in pkgutil.walk_packages(mlpbank.__path__, "mlpbank."):
            if module.name.startswith(skipped):
                continue
            result = doctest.testmod(importlib.import_module(module.name))
            attempted, failed = attempted + result.attempted, failed + result.failed
        print(failed, attempted > 3)
        """
    )
    assert output == "0 True"


def test_import_is_silent_and_loads_nothing_heavy(run_python: RunPython) -> None:
    """No framework, and of the standard library and NumPy none of what takes milliseconds."""
    script = """
        import sys
        import numpy
        before = set(sys.modules)
        import mlpbank
        frameworks = {"torch", "jax", "sklearn", "pandas", "onnxruntime", "matplotlib"}
        heavy = {
            "asyncio", "concurrent.futures", "email", "hashlib", "importlib.metadata", "json",
            "logging", "mlpbank.bench", "mlpbank.cli", "mlpbank.convert", "mlpbank.files._read",
            "mlpbank.files._schema", "mlpbank.serving", "multiprocessing", "numpy.linalg",
            "numpy.ma", "numpy.random", "numpy.testing", "pathlib", "random", "safetensors",
            "secrets", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "unittest",
            "urllib.parse", "uuid",
        }
        print(sorted((frameworks | heavy) & (set(sys.modules) - before)))
    """
    assert run_python(script) == "[]"
