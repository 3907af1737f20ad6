"""Public names and signatures change on purpose only."""

from __future__ import annotations

import difflib
from pathlib import Path

from public_api import MODULES, public_api


def test_public_names_and_signatures_are_those_on_file(root: Path) -> None:
    expected = (root / "tests/quality/public_api.txt").read_text(encoding="utf-8").splitlines()
    changes = difflib.unified_diff(
        expected, public_api().splitlines(), "public_api.txt", "the package", lineterm=""
    )
    text = "\n".join(changes)
    assert not text, (
        "if this is meant: python tests/helpers/public_api.py > tests/quality/public_api.txt\n"
        f"{text}"
    )


def test_the_file_has_every_module() -> None:
    text = public_api()
    for module in MODULES:
        assert f"# {module}\n" in text
    assert "\nclass Bank" in text
    assert " object at 0x" not in text
