"""The description of a bank file with anything in it that does not belong there."""

from __future__ import annotations

from typing import Any

import pytest

from bank_files import parts, refused, survives
from mlpbank import Bank

# What is done to the description. `...` removes an entry.
ABOUT: list[tuple[str, dict[str, Any]]] = [
    ("format missing", {"format": ...}),
    ("format other", {"format": "mlpbank-plain"}),
    ("format number", {"format": 1}),
    ("version missing", {"version": ...}),
    ("version 0", {"version": 0}),
    ("version negative", {"version": -1}),
    ("version float", {"version": 1.0}),
    ("version bool", {"version": True}),
    ("version text", {"version": "1"}),
    ("architecture missing", {"architecture": ...}),
    ("architecture empty", {"architecture": []}),
    ("architecture text", {"architecture": "2-3-1"}),
    ("architecture object", {"architecture": {"0": [2, 3, "relu"]}}),
    ("layer too short", {"architecture": [[2, 3], []]}),
    ("layer too long", {"architecture": [[2, 3, "relu", 1], [3, 1, "none"]]}),
    ("layer number", {"architecture": [2, 3]}),
    ("layer without activation", {"architecture": [[2, 3], [3, 1]]}),
    ("sizes do not meet", {"architecture": [[2, 3, "relu"], [4, 1, "none"]]}),
    ("size 0", {"architecture": [[2, 0, "relu"], [0, 1, "none"]]}),
    ("size negative", {"architecture": [[2, -3, "relu"], [-3, 1, "none"]]}),
    ("size float", {"architecture": [[2.0, 3, "relu"], [3, 1, "none"]]}),
    ("size bool", {"architecture": [[2, 3, "relu"], [3, True, "none"]]}),
    ("size null", {"architecture": [[2, 3, "relu"], [3, None, "none"]]}),
    ("size text", {"architecture": [["2", 3, "relu"], [3, 1, "none"]]}),
    ("size 2^63", {"architecture": [[2, 2**63, "relu"], [2**63, 1, "none"]]}),
    ("size 2^64 + 3", {"architecture": [[2, 2**64 + 3, "relu"], [2**64 + 3, 1, "none"]]}),
    ("size 10^400", {"architecture": [[2, 10**400, "relu"], [10**400, 1, "none"]]}),
    ("parameters that wrap", {"architecture": [[2**32, 2**32, "relu"], [2**32, 1, "none"]]}),
    ("bytes that wrap", {"architecture": [[2, 2**59, "relu"], [2**59, 1, "none"]]}),
    ("a very wide layer", {"architecture": [[2, 2**50, "relu"], [2**50, 1, "none"]]}),
    ("activation unknown", {"architecture": [[2, 3, "rely"], [3, 1, "none"]]}),
    ("activation number", {"architecture": [[2, 3, 1], [3, 1, "none"]]}),
    ("activation array", {"architecture": [[2, 3, []], [3, 1, "none"]]}),
    ("parameters no object", {"architecture": [[2, 3, "elu", 0.5], [3, 1, "none"]]}),
    ("parameter unknown", {"architecture": [[2, 3, "elu", {"beta2": 1}], [3, 1, "none"]]}),
    ("parameter of another", {"architecture": [[2, 3, "relu", {"alpha": 1}], [3, 1, "none"]]}),
    ("parameter of a name", {"architecture": [[2, 3, "elu", {"activation": 1}], [3, 1, "none"]]}),
    ("parameter text", {"architecture": [[2, 3, "elu", {"alpha": "1"}], [3, 1, "none"]]}),
    ("parameter true", {"architecture": [[2, 3, "elu", {"alpha": True}], [3, 1, "none"]]}),
    ("parameter null", {"architecture": [[2, 3, "elu", {"alpha": None}], [3, 1, "none"]]}),
    ("parameter too large", {"architecture": [[2, 3, "elu", {"alpha": 1e300}], [3, 1, "none"]]}),
    ("parameter huge", {"architecture": [[2, 3, "elu", {"alpha": 10**400}], [3, 1, "none"]]}),
    ("clip without bounds", {"architecture": [[2, 3, "clip"], [3, 1, "none"]]}),
    ("clip upside down", {"architecture": [[2, 3, "clip", {"low": 2, "high": 1}], [3, 1, "none"]]}),
    ("five entries", {"architecture": [[2, 3, "elu", {}, {}], [3, 1, "none"]]}),
    ("softmax in the middle", {"architecture": [[2, 3, "softmax"], [3, 1, "none"]]}),
    ("another architecture", {"architecture": [[2, 4, "relu"], [4, 1, "none"]]}),
    ("dtype missing", {"dtype": ...}),
    ("dtype unknown", {"dtype": "float64"}),
    ("dtype array", {"dtype": ["float32"]}),
    ("dtype surrogate", {"dtype": "\ud800"}),
    ("dtype with NUL", {"dtype": "float32\0"}),
    ("another dtype", {"dtype": "float16"}),
    ("layout missing", {"layout": ...}),
    ("layout auto", {"layout": "auto"}),
    ("layout unknown", {"layout": "rows"}),
    ("layout number", {"layout": 0}),
    ("another layout", {"layout": "panel"}),
    ("models missing", {"models": ...}),
    ("models negative", {"models": -1}),
    ("models float", {"models": 3.0}),
    ("models bool", {"models": True}),
    ("models text", {"models": "3"}),
    ("models one fewer", {"models": 2}),
    ("models one more", {"models": 4}),
    ("models another tile", {"models": 17}),
    ("models 0", {"models": 0}),
    ("models over the cap", {"models": 2**32 - 1}),
    ("models at the cap", {"models": 2**32 - 2}),
    ("models 2^61", {"models": 2**61}),
    ("models 2^64", {"models": 2**64}),
    ("models 10^400", {"models": 10**400}),
    ("keys missing", {"keys": ...}),
    ("keys null", {"keys": None}),
    ("keys unknown", {"keys": "bytes"}),
    ("keys of no parts", {"keys": []}),
    ("keys of unknown parts", {"keys": ["str", "bytes"]}),
    ("keys of too many parts", {"keys": ["int"] * 17}),
    ("fallback of other parts", {"fallback": ["a"]}),
    ("another kind of keys", {"keys": "int"}),
    ("fallback int", {"fallback": 1}),
    ("fallback bool", {"fallback": True}),
    ("fallback float", {"fallback": 1.5}),
    ("fallback array", {"fallback": ["key 0"]}),
    ("fallback surrogate", {"fallback": "\ud800"}),
    ("input_shift number", {"input_shift": 1.0}),
    ("input_shift text", {"input_shift": ["1", "2"]}),
    ("input_shift bool", {"input_shift": [True, False]}),
    ("input_shift too short", {"input_shift": [1.0]}),
    ("input_shift too long", {"input_shift": [1.0, 2.0, 3.0]}),
    ("input_shift nested", {"input_shift": [[1.0, 2.0]]}),
    ("input_shift infinite", {"input_shift": [10**400, 1]}),
    ("feature_names text", {"feature_names": "ab"}),
    ("feature_names object", {"feature_names": {"a": 0, "b": 1}}),
    ("feature_names of numbers", {"feature_names": [1, 2]}),
    ("feature_names null", {"feature_names": ["a", None]}),
    ("feature_names too few", {"feature_names": ["a"]}),
    ("feature_names too many", {"feature_names": ["a", "b", "c"]}),
    ("feature_names twice", {"feature_names": ["a", "a"]}),
    ("feature_names long and twice", {"feature_names": ["a" * 10**5] * 2}),
    ("feature_names surrogate", {"feature_names": ["a", "\ud800"]}),
    ("classes text", {"classes": "a"}),
    ("classes number", {"classes": 2}),
    ("classes empty", {"classes": []}),
    ("classes nested", {"classes": [[0], [1]]}),
    ("classes null", {"classes": [0, None]}),
    ("classes too many", {"classes": [0, 1, 2]}),
    ("classes very many", {"classes": list(range(10**5))}),
    ("classes twice", {"classes": [1, True]}),
    ("classes infinite", {"classes": [0, 10**400]}),
    ("classes surrogate", {"classes": ["a", "\udfff"]}),
    ("metadata missing", {"metadata": ...}),
    ("metadata array", {"metadata": []}),
    ("metadata null", {"metadata": None}),
    ("crc32 missing", {"crc32": ...}),
    ("crc32 text", {"crc32": "00000000"}),
    ("crc32 empty", {"crc32": {}}),
    ("crc32 of too few", {"crc32": {"weights": "00000000"}}),
    ("crc32 numbers", {"crc32": dict.fromkeys(parts().tensors, 0)}),
    ("crc32 null", {"crc32": dict.fromkeys(parts().tensors)}),
]


@pytest.mark.parametrize("changes", [c for _, c in ABOUT], ids=[name for name, _ in ABOUT])
def test_description(changes: dict[str, Any]) -> None:
    file = parts()
    file.about = {name: value for name, value in (file.about | changes).items() if value is not ...}
    refused(file.join())


def test_names_and_classes_that_fit_are_read() -> None:
    file = parts()
    file.about |= {"feature_names": ["b", ""], "classes": [False, True]}
    bank = survives(file.join())
    assert bank is not None
    assert (bank.feature_names, bank.classes) == (("b", ""), (False, True))
    file.about |= {"version": 1}  # which has no such names
    bank = Bank._from_bytes(file.join())
    assert (bank.feature_names, bank.classes) == (None, None)


def test_tags_belong_to_a_seed() -> None:
    for tags, seed in ((1, "00" * 16), (None, "00" * 16), (True, None)):
        file = parts()
        file.about |= {"tags": tags, "seed": seed}
        assert refused(file.join()).startswith("tags: expected true where there is a seed")


def test_a_newer_version_says_so_whatever_else_is_new() -> None:
    file = parts()
    file.about = {"format": "mlpbank", "version": 3, "layers": "another idea"}
    assert (
        refused(file.join())
        == "version: this mlpbank reads up to 2, got 3; a newer mlpbank wrote it"
    )


def test_fallbacks_of_int_banks() -> None:
    for fallback in ("key 0", True, 2**63, -(2**63) - 1, 10**30, 0.0, [0]):
        file = parts("int")
        file.about["fallback"] = fallback
        assert refused(file.join()).startswith(
            ("fallback: expected ", "fallback: expected an int of 64 bits")
        )
    file.about["fallback"] = -(2**63)
    assert survives(file.join()) is not None
