"""Bank files that are not what they should be: BankFileError, or a bank that does no harm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from bank_files import DATA, Parts, framed, parts, refused, small_bank, survives, to_bytes
from cases import RunProgram
from mlpbank import BankFileError
from mlpbank.files import _mapped


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
