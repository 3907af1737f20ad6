"""The pages: examples run, links lead somewhere, names are right, no error figure stands twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mlpbank
from cases import RunPython

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/*/README.md"),
        ROOT / "third_party/README.md",
    ]
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# README is run by test_quality.py, converting.md block by block by test_convert_docs.py, the
# recipes of scale.md by test_recipes.py.
RUN_ELSEWHERE = ("README.md", "docs/converting.md", "docs/scale.md")


@pytest.mark.parametrize(
    "name", [name for name in NAMES if blocks(name, "python") and name not in RUN_ELSEWHERE]
)
def test_examples_run(name: str, run_python: RunPython) -> None:
    run_python(
        "import warnings; warnings.simplefilter('error')\n" + "".join(blocks(name, "python"))
    )


def test_examples_of_an_interpreter_are_like_what_it_prints() -> None:
    (shown,) = blocks("docs/threads.md", "pycon")
    call, printed = re.fullmatch(r">>> (.+)\n((?s:.+))", shown).groups()  # type: ignore[union-attr]
    there = eval(call, {"mlpbank": mlpbank})
    on_page = eval(printed, {"CpuBudget": mlpbank.CpuBudget})
    assert vars(there).keys() == vars(on_page).keys()
    assert there.limits.keys() == on_page.limits.keys()
    assert on_page.reason in on_page.limits


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_short(name: str) -> None:
    """Of at most 100 columns, tables and pictures aside."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith(("|", "!["))] == []


def without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """Return what a link may have behind its #, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", without_code(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(ROOT / name)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), f"{name}: no {link}"
        assert not anchor or anchor in anchors(target), f"{name}: no heading for {link}"


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    folders = "cpp|python|tests|docs|benchmarks|examples|tools|third_party"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)`", text):
        if "MACHINE" in path:  # a name to be filled in
            continue
        assert list(ROOT.glob(path.rstrip("/"))) or list(ROOT.glob(path + ".*")), f"{name}: {path}"


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = {
        (ROOT / "docs" / link.partition("#")[0]).resolve()
        for link in re.findall(r"\]\(([^)\s]+)\)", index)
    }
    # What belongs to a folder of the source tree alone needs no place in the index.
    assert {
        path for path in PAGES if path.name != "index.md" and "third_party" not in str(path)
    } <= linked


# Names that were replaced, and words that house rules replace.
OLD = (
    r"predict_ids|Bank\.index\b|mlpbank\.storage|bank_file\.py|cpp/dispatch|\bbudget\.cpp"
    r"|\b(whoever|somebody|nobody|be it|of which)\b"
)


@pytest.mark.parametrize("name", NAMES)
def test_no_page_uses_old_names(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if re.search(OLD, line, re.IGNORECASE)]
    assert found == []


def test_errors_of_activations_stand_on_one_page() -> None:
    """docs/activations.md has them; docs/internals.md may have those of methods that were left."""
    figure = r"[\d.]+ ULP"
    page = (ROOT / "docs/activations.md").read_text(encoding="utf-8")
    errors = set(re.findall(figure, page))
    assert len(errors) > 4
    assert not errors & set(re.findall(figure, (ROOT / "docs/internals.md").read_text()))
    assert any(error.startswith("2.0") for error in errors)
    allowed = {"docs/activations.md", "docs/internals.md"}
    sources = [
        path
        for folder, pattern in (("cpp", "*.[ch]*"), ("python", "*.py"), ("python", "*.pyi"))
        for path in (ROOT / folder).rglob(pattern)
    ]
    elsewhere = {
        (path.relative_to(ROOT).as_posix(), found)
        for path in [*sources, *PAGES]
        if path.relative_to(ROOT).as_posix() not in allowed
        for found in re.findall(figure, path.read_text(encoding="utf-8"))
    }
    assert elsewhere == set()


def test_every_activation_has_its_error() -> None:
    page = (ROOT / "docs/activations.md").read_text(encoding="utf-8")
    errors = dict(re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", page, re.MULTILINE))
    assert errors.keys() == {activation.value for activation in mlpbank.Activation}
    assert {name for name, error in errors.items() if not error.strip()} == {"softmax"}


def test_readme_lists_the_folders_that_are_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    listed, parent = set(), ""
    for line in re.search(r"^```\n(.*?)^```$", readme, re.M | re.S)[1].splitlines():  # type: ignore[index]
        path = line.split()[0]
        parent = parent if line.startswith(" ") else path
        listed.add(path if path == parent else parent + path)
    assert {path for path in listed if not (ROOT / path).is_dir()} == set()
    for parent in ("cpp/", "python/mlpbank/"):
        folders = {
            f"{parent}{path.name}/"
            for path in (ROOT / parent).iterdir()
            if path.is_dir() and path.name != "__pycache__"
        }
        assert folders <= listed


def test_the_changelog_lists_the_public_interface() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    api = (ROOT / "tests/quality/public_api.txt").read_text(encoding="utf-8")
    names = re.findall(r"^(?:class )?(\w+)", api, re.MULTILINE)
    names += re.findall(r"^    (?:property|classmethod) (\w+)|^    ([a-z]\w+)\(", api, re.MULTILINE)
    flat = {name if isinstance(name, str) else name[0] or name[1] for name in names}
    assert len(flat) > 60
    assert {name for name in flat if not re.search(rf"\b{name}\b", changelog)} == set()
