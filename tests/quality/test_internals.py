"""docs/internals.md fits the code: files and names of a call, and what may include what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_layers import LAYERS, level

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/internals.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text under a heading, up to the next heading of its level."""
    hashes, text = re.split(rf"^(#+) {re.escape(title)}$", PAGE, flags=re.MULTILINE)[1:]
    return re.split(rf"^#{{1,{len(hashes)}}} ", text, flags=re.MULTILINE)[0]


def named(text: str) -> list[tuple[str, str]]:
    """Return (file, name) for each file of a text and each name in backticks behind it."""
    found, file = [], None
    for quoted in re.findall(r"`([^`]+)`", text):
        if re.fullmatch(r"(python|cpp)/[\w./]+\.(py|h|cpp)", quoted):
            file = quoted
            found.append((file, ""))
        elif file is not None and re.fullmatch(r"\w+((::|\.)\w+)*", quoted):
            found.append((file, quoted))
    return found


# Words in backticks that are no names of the file before them.
ARGUMENTS = {"missing", "x", "y", "str"}
STEPS = re.findall(
    r"^\d+\. .*?(?=^\d+\. |^$)", section("The life of a call"), re.MULTILINE | re.DOTALL
)
NAMED = [
    pair for pair in named(section("The life of a call")) if pair[1] not in ARGUMENTS and pair[1]
]


def defines(file: str, name: str) -> bool:
    """Whether a source file holds the function, class or member that A.b, A::b or b names."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".py"):
        tree: ast.AST = ast.parse(text)
        for part in name.split("."):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            inside = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.name == part]
            if not inside:
                return False
            tree = inside[0]
        return True
    code = re.sub(r"//[^\n]*", "", text)
    last = re.escape(name.split("::")[-1])
    whole = re.escape(name)
    if "::" in name:
        return re.search(rf"\b{whole}\(", code) is not None
    if name.endswith("_"):
        return re.search(rf"\b{last};", code) is not None
    declared = (
        rf"\b(class|struct)\s+{last}\b",
        rf"^[^;=\n]*[\w>*&]\s+(\w+::)*{last}\([^;]*?\)\s*(const\s*)?(noexcept\s*)?[{{:]",
    )
    return any(re.search(pattern, code, re.MULTILINE | re.DOTALL) for pattern in declared)


def test_the_life_of_a_call_is_numbered_and_reaches_the_register_tile() -> None:
    assert len(STEPS) > 10
    assert [int(step.split(".")[0]) for step in STEPS] == list(range(1, len(STEPS) + 1))
    assert "BankReads.predict" in STEPS[0]
    assert ("cpp/kernels/panel.h", "outputs_tile") in NAMED
    assert all(named(step) for step in STEPS)


@pytest.mark.parametrize(
    ("file", "name"), [pytest.param(*pair, id="-".join(pair)) for pair in dict.fromkeys(NAMED)]
)
def test_what_a_call_passes_is_where_the_page_says(file: str, name: str) -> None:
    assert (ROOT / file).exists()
    assert defines(file, name), f"{file} has no {name}: correct docs/internals.md"


def test_a_renamed_function_is_noticed() -> None:
    assert not defines("cpp/kernels/panel.h", "rows_passes")  # called there, defined in rows.h
    assert not defines("cpp/engine/inference.cpp", "BatchedInference::predict")
    assert not defines("cpp/engine/threads.cpp", "Jobs")
    assert not defines("python/mlpbank/bank/_reads.py", "BankReads.handle")


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    kept = [
        line
        for i, line in enumerate(lines)
        if not line.startswith("|---") and not (lines[i + 1 : i + 2] or [""])[0].startswith("|---")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def cpp_parts() -> dict[str, set[str]]:
    """Return what each part of cpp/ may include, as the page has it."""
    parts: dict[str, set[str]] = {}
    for cells in rows(section("Layers")):
        if not cells[0].startswith("`cpp/"):
            continue
        allowed = set(re.findall(r"`([^`]+)`", cells[2]))
        if cells[2].startswith("all above"):
            but = set(re.findall(r"`([^`]+)`", cells[2].partition(" but ")[2]))
            allowed = (allowed | set(parts)) - but
        parts[cells[0].strip("`")] = allowed
    return parts


def test_no_include_runs_upward() -> None:
    parts = cpp_parts()
    assert len(parts) > 5
    upward = []
    for path in sorted((ROOT / "cpp").rglob("*.[ch]*")):
        file = path.relative_to(ROOT).as_posix()
        mine = [part for part in parts if file.startswith(part)]
        assert mine, f"{file} stands in no layer: add it to docs/internals.md"
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if included := re.match(r'#include "(.+)"', text):
                target = "cpp/" + included[1]
                allowed = {*mine, *parts[mine[0]]}
                if not any(target.startswith(part) for part in allowed):
                    upward.append(f"{file}:{line} includes {target}")
    assert upward == []


def test_no_circle_of_includes() -> None:
    after = {
        path.relative_to(ROOT / "cpp").as_posix(): re.findall(
            r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE
        )
        for path in (ROOT / "cpp").rglob("*.[ch]*")
    }

    def visit(file: str, way: tuple[str, ...]) -> None:
        assert file not in way, " -> ".join((*way, file))
        for included in after.get(file, []):
            visit(included, (*way, file))

    for file in after:
        visit(file, ())


def test_python_layers_are_those_of_the_page() -> None:
    on_page = [
        re.findall(r"`(\w+)`", cells[0])
        for cells in rows(section("Layers"))
        if not cells[0].startswith("`cpp/")
    ]
    assert len(on_page) == len(LAYERS)
    for i, parts in enumerate(on_page):
        assert {level(part) for part in parts} == {i}
    package = ROOT / "python/mlpbank"
    there = {
        path.stem
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there <= {part for parts in on_page for part in parts}


def test_what_decisions_are_about_is_in_the_code() -> None:
    """Constants, functions and classes by their names, wherever they are."""
    sources = [*(ROOT / "cpp").rglob("*.[ch]*"), *(ROOT / "python").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    names = re.findall(r"`([A-Za-z_]\w*)`", section("Decisions"))
    assert len(names) > 15
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_decisions_that_comments_point_to_are_there() -> None:
    titles = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    sources = [*(ROOT / "cpp").rglob("*.[ch]*"), *(ROOT / "python").rglob("*.py")]
    found = 0
    for path in [*sources, ROOT / "CMakeLists.txt"]:
        text = re.sub(r"\s*\n\s*(//|#)?\s*", " ", path.read_text(encoding="utf-8"))
        for title in re.findall(r'docs/internals\.md, "([^"]+)"', text):
            assert title in titles, f"{path.name} points to {title!r}"
            found += 1
    assert found > 0
