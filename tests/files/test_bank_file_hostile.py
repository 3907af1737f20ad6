"""Bank files that are not what they should be: BankFileError, or a bank that does no harm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from bank_files import Parts, framed, small_bank, survives, to_bytes
from cases import RunProgram
from mlpbank import Bank, BankFileError
from mlpbank.files import _mapped

DATA = {kind: to_bytes(small_bank(kind)) for kind in ("str", "int")}


def parts(kind: str = "str") -> Parts:
    return Parts.of(DATA[kind])


def refused(data: bytes) -> str:
    """Check that a file is refused and return the message."""
    with pytest.raises(BankFileError) as caught:
        Bank._from_bytes(data)
    assert 0 < len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("kind", DATA)
def test_taken_apart_and_put_together_it_is_the_same(kind: str) -> None:
    assert parts(kind).join() == DATA[kind]
    assert survives(DATA[kind]) is not None


@pytest.mark.parametrize("kind", DATA)
def test_cut_at_every_byte(kind: str) -> None:
    data = DATA[kind]
    for length in range(len(data)):
        refused(data[:length])
    refused(data + b"\0")
    refused(data + bytes(4096))


def test_a_larger_file_cut_around_every_boundary() -> None:
    data = to_bytes(small_bank(models=1000))
    file = Parts.of(data)
    start = len(data) - len(file.payload())
    cuts = {
        8,
        start,
        *(start + end for entry in file.header.values() for end in entry["data_offsets"]),
    } - {len(data)}
    assert len(cuts) == 9
    for cut in cuts:
        for length in {cut - 4096, cut - 1, cut, cut + 1, cut + 8} & set(range(len(data))):
            refused(data[:length])


@pytest.mark.parametrize("kind", DATA)
def test_every_bit_of_the_header_flipped(kind: str) -> None:
    data = DATA[kind]
    length = 8 + int.from_bytes(data[:8], "little")
    used = 8 + len(data[8:length].rstrip())
    opened = 0
    for position in [*range(used + 2), length - 1]:  # of the padding the ends
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            opened += survives(bytes(damaged)) is not None
    assert 0 < opened < used  # digits of checksums, letters of activations that are others then


@pytest.mark.parametrize("kind", DATA)
def test_every_byte_of_the_tensors_damaged(kind: str) -> None:
    """None of them changes whether a file opens; whatever lookups then find, they do no harm."""
    data = DATA[kind]
    start = len(data) - len(parts(kind).payload())
    weights = parts(kind).tensors["weights"].nbytes
    for position in range(start, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= (0xFF, 0x80, 0x01)[position % 3]
        with pytest.raises(BankFileError, match="expected CRC-32"):
            _mapped.verify(_mapped.from_bytes(bytes(damaged)))
        if (
            position >= start + weights - 64 or position % 20 == 0
        ):  # of weights, most are just others
            assert survives(bytes(damaged)) is not None


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


# Where the weights end: elsewhere a table of numbers that are wrong anyway would test nothing.
END = parts().header["weights"]["data_offsets"][1]

# What is done to the entry of one tensor in the header.
ENTRIES: list[tuple[str, str, Any]] = [
    ("null", "weights", None),
    ("array", "weights", []),
    ("empty", "weights", {}),
    ("dtype null", "weights", {"dtype": None}),
    ("dtype other", "weights", {"dtype": "I8"}),
    ("dtype unknown", "weights", {"dtype": "O"}),
    ("dtype number", "weights", {"dtype": 8}),
    ("dtype array", "weights", {"dtype": ["U8"]}),
    ("shape flat", "weights", {"shape": [END]}),
    ("shape transposed", "weights", {"shape": [END, 1]}),
    ("shape floats", "weights", {"shape": [1.0, float(END)]}),
    ("shape bool", "weights", {"shape": [True, END]}),
    ("shape negative", "weights", {"shape": [-1, -END]}),
    ("shape wraps to 0", "weights", {"shape": [2**32, 2**32]}),
    ("shape wraps to right", "weights", {"shape": [2**64 + 1, END]}),
    ("shape number", "weights", {"shape": END}),
    ("shape null", "weights", {"shape": None}),
    ("shape deep", "weights", {"shape": [[1, END]]}),
    ("offsets null", "weights", {"data_offsets": None}),
    ("offsets one", "weights", {"data_offsets": [0]}),
    ("offsets three", "weights", {"data_offsets": [0, END, END]}),
    ("offsets floats", "weights", {"data_offsets": [0.0, float(END)]}),
    ("offsets bool", "weights", {"data_offsets": [False, END]}),
    ("offsets text", "weights", {"data_offsets": ["0", str(END)]}),
    ("a hole at the start", "weights", {"data_offsets": [8, END + 8]}),
    ("reversed", "generation", {"data_offsets": [END + 24, END]}),
    ("overlap", "generation", {"data_offsets": [END - 8, END + 16]}),
    ("hole", "generation", {"data_offsets": [END + 8, END + 32]}),
    ("inside another", "loaded_at", {"data_offsets": [END, END + 24]}),
    ("offsets negative", "generation", {"data_offsets": [-24, 0]}),
    ("offsets 2^63", "generation", {"data_offsets": [2**63, 2**63 + 24]}),
    ("offsets 2^64", "generation", {"data_offsets": [2**64 + END, 2**64 + END + 24]}),
    ("end before begin by wrap", "generation", {"data_offsets": [END, END + 24 - 2**64]}),
    ("end 10^400", "generation", {"data_offsets": [END, 10**400]}),
    ("slots too few", "keys.slots", {"shape": [4]}),
    ("slots none", "keys.slots", {"shape": [0]}),
    ("slots no power of two", "keys.slots", {"shape": [7]}),
    ("slots too many", "keys.slots", {"shape": [16]}),
    ("offsets of keys too few", "keys.offsets", {"shape": [3]}),
    ("text negative", "keys.bytes", {"shape": [-1]}),
    ("text past the end", "keys.bytes", {"shape": [2**40]}),
    ("text 2^63", "keys.bytes", {"shape": [2**63]}),
    ("text float", "keys.bytes", {"shape": [15.0]}),
    ("text bool", "keys.bytes", {"shape": [True]}),
    ("text of two dimensions", "keys.bytes", {"shape": [3, 5]}),
    ("text of no dimension", "keys.bytes", {"shape": []}),
    ("text shorter", "keys.bytes", {"shape": [14]}),
    ("text longer", "version.bytes", {"shape": [7]}),
    ("more entries", "weights", {"strides": [1]}),
]


@pytest.mark.parametrize(
    ("name", "change"), [e[1:] for e in ENTRIES], ids=[f"{e[1]}: {e[0]}" for e in ENTRIES]
)
def test_tensor_entry(name: str, change: Any) -> None:
    file = parts()
    known = file.header[name]
    file.header[name] = known | change if isinstance(change, dict) and change else change
    refused(file.join())


def test_what_the_table_of_entries_starts_from() -> None:
    header = parts().header
    assert header["weights"] == {"dtype": "U8", "shape": [1, END], "data_offsets": [0, END]}
    assert header["generation"]["data_offsets"] == [END, END + 24]
    assert (header["keys.bytes"]["shape"], header["version.bytes"]["shape"]) == ([15], [6])


@pytest.mark.parametrize("kind", DATA)
def test_numbers_that_equal_the_right_ones_but_are_no_integers(kind: str) -> None:
    """1.0 and true equal 1 in Python."""
    good = parts(kind)
    changed = 0
    for name, entry in good.header.items():
        for field in ("shape", "data_offsets"):
            for i, number in enumerate(entry[field]):
                for other in (float(number), *([bool(number)] if number < 2 else [])):
                    file = copy.deepcopy(good)
                    file.header[name][field][i] = other
                    assert name in refused(file.join())
                    changed += 1
    assert changed > 20
    assert survives(good.join()) is not None


def test_tensor_lists() -> None:
    good = parts()
    for change in (
        lambda h: h.pop("weights"),
        lambda h: h.pop("version.bytes"),
        lambda h: h["weights"].pop("dtype"),
        lambda h: h["weights"].pop("shape"),
        lambda h: h["weights"].pop("data_offsets"),
        lambda h: h["keys.bytes"].pop("shape"),
        lambda h: h.update(extra={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
        lambda h: h.update({"keys": h.pop("keys.slots")}),
        lambda h: h.update({"generation": h.pop("generation")}),  # to the end
        lambda h: h.update({"\ud800": h.pop("version.bytes")}),
        lambda h: h.clear(),
    ):
        file = copy.deepcopy(good)
        change(file.header)
        refused(file.join())


def entries(file: Parts) -> dict[str, Any]:
    return {"__metadata__": {"mlpbank": json.dumps(file.about)}} | file.header


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


HEADERS: list[tuple[str, Callable[[Parts], bytes]]] = [
    ("empty", lambda f: b""),
    ("spaces", lambda f: b" "),
    ("not JSON", lambda f: b"{"),
    ("null", lambda f: b"null"),
    ("number", lambda f: b"1"),
    ("array", lambda f: b"[]"),
    ("empty object", lambda f: b"{}"),
    ("two objects", lambda f: text(entries(f)) + b"{}"),
    ("deep arrays", lambda f: b"[" * 1_000_000),
    ("deep objects", lambda f: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    (
        "deep inside",
        lambda f: text(entries(f))[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ),
    ("invalid UTF-8", lambda f: text(entries(f)).replace(b"mlpbank", b"mlpb\xffnk")),
    ("UTF-16", lambda f: json.dumps(entries(f)).encode("utf-16")),
    ("a byte order mark", lambda f: b"\xef\xbb\xbf" + text(entries(f))),
    ("NUL", lambda f: text(entries(f)) + b"\0"),
    ("NaN", lambda f: text(entries(f))[:-1] + b', "x": NaN}'),
    ("Infinity", lambda f: text(entries(f))[:-1] + b', "x": -Infinity}'),
    ("long number", lambda f: text(entries(f))[:-1] + b', "x": ' + b"9" * 10_000 + b"}"),
    (
        "tensor twice",
        lambda f: text(entries(f))[:-1] + b', "weights": ' + text(f.header["weights"]) + b"}",
    ),
    ("metadata twice", lambda f: text(entries(f))[:-1] + b', "__metadata__": {}}'),
    (
        "dtype twice",
        lambda f: text(entries(f)).replace(b'"dtype": "U8"', b'"dtype": "U8", "dtype": "U8"'),
    ),
    ("no metadata", lambda f: text(f.header)),
    ("metadata null", lambda f: text(entries(f) | {"__metadata__": None})),
    ("metadata array", lambda f: text(entries(f) | {"__metadata__": []})),
    ("metadata of others", lambda f: text(entries(f) | {"__metadata__": {"format": "pt"}})),
    ("description no text", lambda f: text(entries(f) | {"__metadata__": {"mlpbank": f.about}})),
    ("description not JSON", lambda f: text(entries(f) | {"__metadata__": {"mlpbank": "?"}})),
    ("description empty", lambda f: text(entries(f) | {"__metadata__": {"mlpbank": ""}})),
    ("description array", lambda f: text(entries(f) | {"__metadata__": {"mlpbank": "[]"}})),
    (
        "description deep",
        lambda f: text(entries(f) | {"__metadata__": {"mlpbank": '{"a":' * 100_000}}),
    ),
    (
        "description with NaN",
        lambda f: text(
            entries(f) | {"__metadata__": {"mlpbank": json.dumps(f.about | {"x": float("nan")})}}
        ),
    ),
    (
        "description with models twice",
        lambda f: text(
            entries(f) | {"__metadata__": {"mlpbank": json.dumps(f.about)[:-1] + ', "models": 3}'}}
        ),
    ),
]


@pytest.mark.parametrize("make", [h[1] for h in HEADERS], ids=[h[0] for h in HEADERS])
def test_header(make: Callable[[Parts], bytes]) -> None:
    file = parts()
    refused(framed(make(file), file.payload()))


@pytest.mark.parametrize(
    "length",
    [
        0,
        1,
        2,
        4087,
        4089,
        8184,
        (16 << 20) + 4088,
        2**31 - 8,
        2**32 - 8,
        2**63 - 8,
        2**63,
        2**64 - 8,
        2**64 - 1,
    ],
)
def test_header_length(length: int) -> None:
    for rest in (DATA["str"][8:], b""):
        message = refused(length.to_bytes(8, "little") + rest)
        assert message.endswith(f"got a length of {length}")


def test_a_header_over_the_cap() -> None:
    """The same header with more padding: all that is wrong is its length."""
    data = DATA["str"]
    payload = parts().payload()
    header = data[8 : len(data) - len(payload)]
    for more, good in (
        (4096, True),
        ((16 << 20) - 4096 - len(header) - 8, True),
        ((16 << 20) - len(header) - 8, True),
    ):
        assert (survives(framed(header + b" " * more, payload)) is not None) is good
    refused(framed(header + b" " * (16 << 20), payload))


def test_memory_is_not_taken_because_a_header_says_so(run_program: RunProgram) -> None:
    assert int(run_program("claimed_sizes")) < 10_000, "kilobytes"
