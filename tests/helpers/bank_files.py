"""Bank files taken apart and put together again, for tests of what is not as it should be."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cases import random_weights
from mlpbank import Architecture, Bank, BankFileError, ModelNotLoadedError, UnknownModelError
from mlpbank.files import _mapped

PAGE = 4096
DTYPES = {"U8": "<u1", "U32": "<u4", "U64": "<u8", "I64": "<i8", "F64": "<f8"}
# What people are told to expect of a damaged file that opens.
KNOWN_ERRORS = (BankFileError, UnknownModelError, ModelNotLoadedError)


def small_bank(
    kind: str = "str", layout: Any = "lane", models: int = 3, dtype: Any = "float32"
) -> Bank:
    arch = Architecture.mlp(2, 3, 1)
    keys: Any = [f"key {i}" for i in range(models)] if kind == "str" else np.arange(models) * 10
    weights = random_weights(arch, models, np.random.default_rng(0))
    return Bank.from_stacked(keys, arch, weights, layout=layout, dtype=dtype, version="v1")


def to_bytes(bank: Bank) -> bytes:
    """Return what `save` would write."""
    data: bytes = bank.__reduce_ex__(4)[1][0]
    return data


@dataclass
class Parts:
    """A file whose header, description and tensors can be changed before it is put together."""

    header: dict[str, Any]
    about: dict[str, Any]
    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes) -> Parts:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        about = json.loads(header.pop("__metadata__")["mlpbank"])
        tensors = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = (
                np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
                .reshape(entry["shape"])
                .copy()
            )
        return cls(header, about, tensors)

    def payload(self) -> bytes:
        return b"".join(array.tobytes() for array in self.tensors.values())

    def sign(self) -> None:
        """Make checksums right again, as in a forged file."""
        self.about["crc32"] = {
            name: f"{zlib.crc32(array.tobytes()):08x}" for name, array in self.tensors.items()
        }

    def join(self) -> bytes:
        entries = {"__metadata__": {"mlpbank": json.dumps(self.about)}} | self.header
        return framed(json.dumps(entries).encode(), self.payload())


def framed(header: bytes, payload: bytes) -> bytes:
    """Return a file with this header, padded to a page."""
    header += b" " * (-(8 + len(header)) % PAGE)
    return len(header).to_bytes(8, "little") + header + payload


def survives(data: bytes) -> Bank | None:
    """Open a file and do with it what one does with a bank: only errors of mlpbank may come.

    Returns
    -------
    Bank or None
        None if it was refused.
    """
    bank, error = attempt(lambda: Bank._from_bytes(data))
    if bank is None:
        assert isinstance(error, BankFileError)
        return None
    assert isinstance(bank, Bank)
    inputs = bank.architecture.input_size
    if inputs > 10_000:
        return bank
    keys: list[Any] = ["key 0", "key 1", "none", "", "\ud800"]
    if bank.key_type is int:
        keys = [0, 10, 77, -1, 2**63 - 1]
    x = np.zeros((len(keys), inputs), np.float32)
    weights = {
        f"layer_{i}": np.zeros((s.input_size, s.output_size))
        for i, s in enumerate(bank.architecture.layers)
    }
    steps: list[Callable[[], Any]] = [
        lambda: _mapped.verify(_mapped.from_bytes(data)),
        lambda: list(bank),
        lambda: bank.predict(keys, x),
        lambda: bank.predict(keys, x, missing="nan"),
        lambda: bank.predict_handles(bank.handles(keys[:2]), x[:2]),
        lambda: [key in bank for key in keys],
        *(lambda key=key: bank[key] for key in keys),
        *(lambda key=key: bank.info(key) for key in keys),
        lambda: pickle.dumps(bank),
        lambda: bank.add(keys[0], weights),
        lambda: bank.add(keys[2], weights),
        lambda: bank.predict(keys[:3], x[:3]),
        lambda: bank.__delitem__(keys[1]),
        lambda: bank.add(keys[3], weights),
        lambda: bank.info(keys[0]),
        lambda: list(pickle.loads(pickle.dumps(bank))),
    ]
    for step in steps:
        attempt(step)
    return bank


def attempt(step: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return a step's result and its error: one of mlpbank, with a message of reasonable length."""
    try:
        return step(), None
    except KNOWN_ERRORS as error:
        caught = error
    assert 0 < len(str(caught)) < 1000
    return None, caught


def make_bank(models: int, seed: int) -> Bank:
    """Return a bank of 8-16-2 networks that depend on `seed`, all of version ``"v<seed>"``."""
    arch = Architecture.mlp(8, 16, 2)
    weights = random_weights(arch, models, np.random.default_rng(seed))
    return Bank.from_stacked(
        [f"model {i}" for i in range(models)], arch, weights, version=f"v{seed}"
    )


DATA = {kind: to_bytes(small_bank(kind)) for kind in ("str", "int")}


def parts(kind: str = "str") -> Parts:
    return Parts.of(DATA[kind])


def refused(data: bytes) -> str:
    """Check that a file is refused and return the message."""
    with pytest.raises(BankFileError) as caught:
        Bank._from_bytes(data)
    assert 0 < len(str(caught.value)) < 1000
    return str(caught.value)
