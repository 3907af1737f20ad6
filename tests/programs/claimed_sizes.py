"""Open files that claim many gigabytes, with little memory, and print how many KB they took."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest

from bank_files import Parts, small_bank, to_bytes
from mlpbank import Architecture, Bank, BankFileError

data, empty = to_bytes(small_bank()), to_bytes(Bank(Architecture.mlp(2, 3, 1)))
Bank._from_bytes(data).predict(["key 0"], np.zeros((1, 2)))
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), used + (200 << 20)))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check_refused(file: Parts) -> None:
    with pytest.raises(BankFileError):
        Bank._from_bytes(file.join())


def one_wide_layer(size: int) -> list[Any]:
    return [[2, size, "relu"], [size, 1, "none"]]


# Of an empty bank's architecture the file need hold nothing: only adding a model takes memory.
def check_empty_bank(layout: str, dtype: str, size: int) -> None:
    file = Parts.of(empty)
    file.about |= {"layout": layout, "dtype": dtype, "architecture": one_wide_layer(size)}
    # The error tells the size of a block.
    with pytest.raises(BankFileError) as caught:
        Bank._from_bytes(file.join())
    block = int(str(caught.value).split("'shape': [0, ")[1].split("]")[0])
    assert block > size
    file.header["weights"]["shape"] = [0, block]
    bank = Bank._from_bytes(file.join())
    assert len(bank) == 0
    assert list(bank) == []


before = peak()
for models in (10**6, 2**30, 2**32 - 2, 2**60):
    file = Parts.of(data)
    file.about["models"] = models
    check_refused(file)
sizes = {"keys.bytes": 2**38, "version.bytes": 2**62, "weights": 2**36, "keys.slots": 2**34}
for name, size in sizes.items():
    file = Parts.of(data)
    file.header[name]["shape"] = [size, 960] if name == "weights" else [size]
    check_refused(file)
for size in (2**20, 2**36, 2**50):
    file = Parts.of(data)
    file.about["architecture"] = one_wide_layer(size)
    check_refused(file)
for layout in ("lane", "panel"):
    for dtype in ("float32", "int8"):
        check_empty_bank(layout, dtype, 2**50)
print(peak() - before)
