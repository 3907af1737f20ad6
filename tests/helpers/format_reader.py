"""A reader of bank files, written from docs/format.md alone, with Python and NumPy only.

It trusts the file; what it is for is to show that the page says enough.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = 2**64 - 1
NUMPY = {"U8": "<u1", "U32": "<u4", "U64": "<u8", "I64": "<i8", "F64": "<f8"}
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def hash_str(key: bytes) -> int:
    """FNV-1a, folded."""
    h = 0xCBF29CE484222325
    for c in key:
        h = ((h ^ c) * 0x100000001B3) & U64
    return h ^ (h >> 32)


def hash_int(key: int) -> int:
    """SplitMix64's finaliser."""
    h = (key + 0x9E3779B97F4A7C15) & U64
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & U64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & U64
    return h ^ (h >> 31)


def sip_hash(seed: bytes, data: bytes) -> int:
    """SipHash-1-3."""
    k0, k1 = (int.from_bytes(half, "little") for half in (seed[:8], seed[8:]))
    a, b, c, d = (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & U64

    def one_round() -> None:
        nonlocal a, b, c, d
        a, c = (a + b) & U64, (c + d) & U64
        b, d = rotate(b, 13) ^ a, rotate(d, 16) ^ c
        a = rotate(a, 32)
        a, c = (a + d) & U64, (c + b) & U64
        d, b = rotate(d, 21) ^ a, rotate(b, 17) ^ c
        c = rotate(c, 32)

    rest = len(data) % 8
    words = [data[i : i + 8] for i in range(0, len(data) - rest, 8)]
    words.append(data[len(data) - rest :].ljust(7, b"\0") + bytes([len(data) % 256]))
    for word in words:
        m = int.from_bytes(word, "little")
        d ^= m
        one_round()
        a ^= m
    c ^= 0xFF
    for _ in range(3):
        one_round()
    return a ^ b ^ c ^ d


def round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def tuple_of(data: bytes, kinds: list[str]) -> tuple[Any, ...]:
    """The parts of a tuple from its bytes."""
    parts: list[Any] = []
    for kind in kinds:
        size = 8 if kind == "int" else 4
        number = int.from_bytes(data[:size], "little", signed=kind == "int")
        data = data[size:]
        if kind == "int":
            parts.append(number)
        else:
            parts.append(data[:number].decode())
            data = data[number:]
    assert data == b""
    return tuple(parts)


@dataclass
class Panel:
    """Where the outputs [first, first + width) of a layer lie in a block."""

    layer: int
    inputs: int
    first: int
    width: int
    start: int


class BankFile:
    """A whole bank file."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        assert (8 + length) % 4096 == 0
        self.header: dict[str, Any] = json.loads(data[8 : 8 + length])
        assert next(iter(self.header)) == "__metadata__"
        self.about: dict[str, Any] = json.loads(self.header.pop("__metadata__")["mlpbank"])
        assert (self.about["format"], self.about["version"]) in (("mlpbank", 1), ("mlpbank", 2))
        self.tensors: dict[str, npt.NDArray[Any]] = {}
        end = 0
        for name, entry in self.header.items():
            begin, after = entry["data_offsets"]
            assert begin == end
            end = after
            part = data[8 + length + begin : 8 + length + after]
            assert f"{zlib.crc32(part):08x}" == self.about["crc32"][name]
            self.tensors[name] = np.frombuffer(part, NUMPY[entry["dtype"]]).reshape(entry["shape"])
        assert 8 + length + end == len(data)
        self.models: int = self.about["models"]
        self.layers: list[tuple[int, int]] = [(i, o) for i, o, _ in self.about["architecture"]]
        self.lane = self.about["layout"] == "lane"
        self.block_models = 16 if self.lane else 1
        self.element = ELEMENT_BYTES[self.about["dtype"]]
        self.header_rows = 2 if self.about["dtype"] == "int8" else 1
        self.panels, self.block_bytes = self._panels()
        blocks = round_up(self.models, self.block_models) // self.block_models
        assert self.tensors["weights"].shape == (blocks, self.block_bytes)

    def _panels(self) -> tuple[list[Panel], int]:
        panels, position, furthest = [], 0, 0
        e, r = self.element, self.header_rows
        for layer, (inputs, outputs) in enumerate(self.layers):
            position = round_up(position, 64)
            for first in range(0, outputs, 8 if self.lane else 16):
                w = min(8 if self.lane else 16, outputs - first)
                panels.append(Panel(layer, inputs, first, w, position))
                weights_end = position + 4 * r * w + (inputs - 1) * w * e + 16 * e
                header_end = position + 4 * (r - 1) * w + 4 * 16
                furthest = max(furthest, weights_end, header_end)
                position += (inputs * e + 4 * r) * w * self.block_models
        return panels, round_up(position, 64) + 64 if self.lane else round_up(furthest, 64)

    def keys(self) -> list[Any]:
        """All keys, each at its position; None stands for a vacant slot."""
        kinds = self.about["keys"]
        if kinds is None:
            return []
        vacant = set(self.vacant())
        assert len(vacant) == self.about.get("vacant", 0)
        if kinds == "int":
            keys: list[Any] = self.tensors["keys"].tolist()
        elif kinds == "str":
            keys = self._texts("keys")
        else:
            data, ends = self.tensors["keys.bytes"].tobytes(), self.tensors["keys.offsets"].tolist()
            parts = [data[ends[i] : ends[i + 1]] for i in range(self.models)]
            keys = [data if i in vacant else tuple_of(data, kinds) for i, data in enumerate(parts)]
        assert all(keys[i] in (0, "", b"") for i in vacant)
        return [None if i in vacant else key for i, key in enumerate(keys)]

    def vacant(self) -> list[int]:
        """The slots without a model."""
        return self.tensors["vacant"].tolist() if "vacant" in self.about else []

    def reuse_counts(self) -> list[int]:
        """Of all slots."""
        return (
            self.tensors["reuse_counts"].tolist() if "vacant" in self.about else [0] * self.models
        )

    def versions(self) -> list[str]:
        """Of all models, empty for none."""
        return self._texts("version")

    def _texts(self, name: str) -> list[str]:
        offsets, data = (
            self.tensors[f"{name}.offsets"].tolist(),
            self.tensors[f"{name}.bytes"].tobytes(),
        )
        assert offsets[0] == 0
        assert offsets[-1] == len(data)
        return [data[offsets[i] : offsets[i + 1]].decode() for i in range(self.models)]

    def find(self, key: Any) -> int | None:
        """The position of a key, by the hash table."""
        slots, keys = self.tensors["keys.slots"].tolist(), self.keys()
        assert len(slots) == max(2, 1 << (2 * self.models - 1).bit_length() if self.models else 0)
        hash_ = self._hash(key)
        # A bucket is the number of a key and, in files with tags, above it a tag.
        bits = self.models.bit_length()
        tag = hash_ >> (32 + bits) if self.about.get("tags") else 0
        s = hash_ % len(slots)
        while slots[s] != 0:
            number = slots[s] % (1 << bits) - 1
            if keys[number] == key:
                assert slots[s] >> bits == tag
                return int(number)
            s = (s + 1) % len(slots)
        return None

    def _hash(self, key: Any) -> int:
        seed = self.about.get("seed")
        if isinstance(key, tuple):
            data = b"".join(
                (part & U64).to_bytes(8, "little")
                if isinstance(part, int)
                else len(part.encode()).to_bytes(4, "little") + part.encode()
                for part in key
            )
            return sip_hash(bytes.fromhex(seed), data)
        if seed is None:
            return hash_str(key.encode()) if isinstance(key, str) else hash_int(key)
        data = key.encode() if isinstance(key, str) else (key & U64).to_bytes(8, "little")
        return sip_hash(bytes.fromhex(seed), data)

    def marks(self) -> list[int]:
        """Of all tiles."""
        end = self.block_bytes - 64
        return [
            int.from_bytes(block[end : end + 4].tobytes(), "little")
            for block in self.tensors["weights"]
        ]

    def model(self, i: int) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of model i, each layer's W (input_size, output_size) and b (output_size,)."""
        return self.unpack(self.tensors["weights"][i // self.block_models], i % self.block_models)

    def unpack(self, block: npt.NDArray[np.uint8], lane: int) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of a model in a block."""
        m = self.block_models
        result = {}
        for layer, (inputs, outputs) in enumerate(self.layers):
            result[f"layer_{layer}"] = np.zeros((inputs, outputs), np.float32)
            result[f"layer_{layer}.bias"] = np.zeros(outputs, np.float32)

        for p in self.panels:
            columns = slice(p.first, p.first + p.width)
            rows = block[p.start : p.start + 4 * self.header_rows * p.width * m].view("<f4")
            rows = rows.reshape(self.header_rows, p.width, m)[:, :, lane]
            begin = p.start + 4 * self.header_rows * p.width * m
            weights = self._decode(block[begin : begin + p.inputs * p.width * m * self.element])
            weights = weights.reshape(p.inputs, p.width, m)[:, :, lane]
            result[f"layer_{p.layer}.bias"][columns] = rows[0]
            result[f"layer_{p.layer}"][:, columns] = (
                weights * rows[1] if self.header_rows == 2 else weights
            )
        return result

    def _decode(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        dtype = self.about["dtype"]
        if dtype == "float32":
            return data.view("<f4")
        if dtype == "float16":
            return data.view("<f2").astype(np.float32)
        if dtype == "bfloat16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return data.view(np.int8).astype(np.float32)
