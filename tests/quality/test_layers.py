"""Which part of the package may import which: downwards, never upwards, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# From the bottom to the top. A folder stands for all its modules, which may import each other as
# long as there is no circle; so do the parts of one layer.
LAYERS = (
    ("_core", "errors", "typing", "_progress"),
    ("architecture", "_arrays", "_activations", "_arrow"),
    (
        "_keys",
        "_given_keys",
        "_key_columns",
        "_key_tables",
        "_columns",
        "_frames",
        "_names",
        "weights",
        "engine",
    ),
    ("inference",),
    ("files",),
    ("convert",),
    ("bank",),
    ("serving", "_reference"),
    ("_shard_host",),
    ("_ray_sharded",),
    ("spark", "ray"),
    ("bench",),
    ("cli", "__main__", "__init__"),
)


@dataclass(frozen=True)
class Import:
    """One module that another imports, both by their names within the package."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} (line {self.line}) imports {self.imported}"


def module_name(path: Path, package: Path) -> str:
    """Return bank._bank for bank/_bank.py, bank for bank/__init__.py, __init__ for the package."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path, package: Path, modules: set[str]) -> Iterator[Import]:
    """Yield all imports of the package in a module, in functions and under TYPE_CHECKING too."""
    importer = module_name(path, package)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer} (line {node.lineno}): a relative import"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            parts = name.split(".")
            if parts[0] != package.name:
                continue
            # Of `from package.a import b`, b may be a module or a name in the module a.
            while len(parts) > 1 and ".".join(parts[1:]) not in modules:
                parts.pop()
            yield Import(importer, ".".join(parts[1:]) or "__init__", node.lineno)


def all_imports(package: Path) -> list[Import]:
    paths = sorted(package.rglob("*.py"))
    modules = {module_name(path, package) for path in paths} | {"_core"}
    return [
        found
        for path in paths
        for found in imports_of(path, package, modules)
        if found.imported != found.importer
    ]


def level(module: str, layers: tuple[tuple[str, ...], ...] = LAYERS) -> int:
    part = module.split(".")[0]
    levels = [i for i, layer in enumerate(layers) if part in layer]
    assert levels, (
        f"{module} stands in no layer: add {part} to LAYERS in tests/quality/test_layers.py"
    )
    return levels[0]


def circles(imports: list[Import]) -> set[tuple[str, ...]]:
    """Return the modules of each circle: strongly connected components of more than one module."""
    after: dict[str, set[str]] = {}
    for found in imports:
        after.setdefault(found.importer, set()).add(found.imported)

    def reachable(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for module in after.get(todo.pop(), set()) - seen:
                seen.add(module)
                todo.append(module)
        return seen

    reach = {module: reachable(module) for module in after}
    return {
        tuple(sorted(other for other in reach[module] if module in reach.get(other, set())))
        for module in after
        if module in reach[module]
    }


@pytest.fixture(scope="module")
def imports(root: Path) -> list[Import]:
    return all_imports(root / "python/mlpbank")


def test_every_module_stands_in_a_layer(root: Path) -> None:
    package = root / "python/mlpbank"
    for path in package.rglob("*.py"):
        level(module_name(path, package))


def test_no_import_runs_upward(imports: list[Import]) -> None:
    upward = [found for found in imports if level(found.imported) > level(found.importer)]
    assert [str(found) for found in upward] == []


def test_no_circle(imports: list[Import]) -> None:
    assert circles(imports) == set()


def test_the_table_is_kept_by_what_reads_it(tmp_path: Path) -> None:
    """Every kind of import is seen, and an arrow up and a circle are told from what is allowed."""
    package = tmp_path / "mlpbank"
    for name, text in {
        "__init__.py": "from mlpbank.bank import Bank",
        "weights.py": "def f():\n    from mlpbank import bank\nimport mlpbank.engine",
        "engine.py": "import numpy\nif TYPE_CHECKING:\n    from mlpbank.weights import Weights",
        "bank/__init__.py": "from mlpbank.bank._bank import Bank",
        "bank/_bank.py": "from mlpbank import _core, __version__\nfrom mlpbank.weights import f",
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    imports = all_imports(package)
    assert sorted((found.importer, found.imported) for found in imports) == [
        ("__init__", "bank"),
        ("bank", "bank._bank"),
        ("bank._bank", "__init__"),
        ("bank._bank", "_core"),
        ("bank._bank", "weights"),
        ("engine", "weights"),
        ("weights", "bank"),
        ("weights", "engine"),
    ]
    assert [str(found) for found in imports if level(found.imported) > level(found.importer)] == [
        "bank._bank (line 1) imports __init__",
        "weights (line 2) imports bank",
    ]
    assert circles([found for found in imports if found.imported != "__init__"]) == {
        ("bank", "bank._bank", "engine", "weights")
    }
    with pytest.raises(AssertionError, match=r"nonsense\.module stands in no layer"):
        level("nonsense.module")
