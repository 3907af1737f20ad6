"""What opening a bank file costs: memory of the process, pages that are read, and first calls.

The file is evicted from the page cache first, so that every page that is there afterwards was asked
for.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.step import Step
from benchmarks.table import GigabytesPerSecond, Mebibytes, Milliseconds, Row, Table
from mlpbank import Architecture, Bank
from mlpbank.bench.measure import Progress

ARCH = Architecture.mlp(4, 8, 2)
READERS = 32  # threads that read pages
ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--models", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1000, help="of the first predict")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the bank is saved")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return the one step."""
    return [Step("opening a bank file", partial(_open, args.models, args.keys, args.folder))]


def _open(models: int, keys: int, folder: Path, progress: Progress) -> Table:
    progress(0.0, "measuring")
    result = measure(models, keys, folder)
    mib = {name: Mebibytes(value / 2**20) for name, value in result.items()}
    rows: list[Row] = [
        {"": "the file", "size": mib["file"]},
        {"": "kept by the file system when evicted", "read": mib["evicted_but"]},
        {
            "": "Bank.open",
            "time": Milliseconds(result["open_ms"]),
            "read": mib["open_read"],
            "private": mib["open_private"],
        },
        {
            "": f"first predict of {keys} keys",
            "time": Milliseconds(result["predict_ms"]),
            "read": mib["predict_read"],
        },
        {
            "": f"{3 * keys} pages by {READERS} threads, to compare",
            "time": Milliseconds(result["pages_ms"]),
        },
        {
            "": "first call of all models",
            "time": Milliseconds(result["all_ms"]),
            "read": mib["weights"],
            "speed": GigabytesPerSecond(result["weights"] / result["all_ms"] / 1e6),
        },
        {
            "": "the file from front to back, to compare",
            "time": Milliseconds(result["sequential_ms"]),
            "read": mib["file"],
            "speed": GigabytesPerSecond(result["file"] / result["sequential_ms"] / 1e6),
        },
        {"": "a second process that reads all", "size": mib["other_Rss"]},
        {"": "its share, as others have the same pages", "size": mib["other_Pss"]},
    ]
    return Table(f"Opening a bank file of {models} models 4-8-2 with str keys", rows)


def measure(models: int, keys: int, folder: Path) -> dict[str, float]:
    """Save a bank of `models` models in `folder` and return what opening it costs, by name."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary).resolve() / "large"
        make(path, models)
        # In a process of its own: what making left behind shall not count.
        result: dict[str, float] = _elsewhere("opened", str(path), str(keys))
    return result


def _elsewhere(function: str, *arguments: str) -> dict[str, float]:
    """Call a function of this module in another process."""
    command = [sys.executable, "-m", "benchmarks.sections.open", function, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def make(path: Path, models: int) -> None:
    """Save a bank."""
    rng = np.random.default_rng(0)
    weights = {
        f"layer_{i}": rng.standard_normal((models, s.input_size, s.output_size), np.float32)
        for i, s in enumerate(ARCH.layers)
    }
    Bank.from_stacked([key(i) for i in range(models)], ARCH, weights).save(path)


def key(i: int) -> str:
    return f"sensor-{i:08d}"


def evict(path: Path) -> None:
    """Drop a file from the page cache, as far as the filesystem can."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(path: Path) -> int:
    """Return how much of a file is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        access = mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=access)
    page = mmap.PAGESIZE
    flags = np.zeros(-(-size // page), np.uint8)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if (
        libc.mincore(
            ctypes.c_void_p(start), ctypes.c_size_t(size), flags.ctypes.data_as(ctypes.c_void_p)
        )
        != 0
    ):
        raise OSError(ctypes.get_errno(), "mincore")
    return int((flags & 1).sum()) * page


def private_bytes() -> int:
    """Return the memory of this process that no other has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return (
        sum(int(line.split()[1]) for line in lines if line.startswith(("Private_", "Swap:"))) * 1024
    )


def mapping(path: Path) -> dict[str, int]:
    """Return what the kernel says about the mapping of a file in this process, in bytes."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and len(fields) == 3 and fields[2] == "kB":
            found[fields[0][:-1]] = found.get(fields[0][:-1], 0) + int(fields[1]) * 1024
    return found


def opened(path: Path, keys: int) -> Mapping[str, float]:
    """Open the file and predict, in a process that has done so with another bank before."""
    small = path.with_name("small")
    make(small, 100)
    x = np.ones((keys, 4), np.float32)
    Bank.open(small).predict([key(i % 100) for i in range(keys)], x)
    evict(path)
    result: dict[str, float] = {"evicted_but": resident_bytes(path), "file": path.stat().st_size}
    private, began = private_bytes(), time.perf_counter()
    bank = Bank.open(path)
    result["open_ms"] = (time.perf_counter() - began) * 1e3
    result["open_private"] = private_bytes() - private
    result["open_read"] = resident_bytes(path)
    rng = np.random.default_rng(1)
    chosen = [key(i) for i in rng.choice(len(bank), keys, replace=False).tolist()]
    began = time.perf_counter()
    bank.predict(chosen, x)
    result["predict_ms"] = (time.perf_counter() - began) * 1e3
    result["predict_read"] = resident_bytes(path)
    result |= first_calls(path, keys)
    # Read every page, beside another process that does the same: which memory is shared?
    every = [key(i) for i in range(len(bank))]
    bank.predict(every, np.ones((len(every), 4), np.float32))
    alone = mapping(path)
    other = _elsewhere("shared", str(path))
    result |= {f"alone_{name}": value for name, value in alone.items()}
    result |= {f"other_{name}": value for name, value in other.items()}
    return result


def first_calls(path: Path, keys: int) -> dict[str, float]:
    """Return how long cold reads take: of all models, and of the disk without mlpbank."""
    bank = Bank.open(path)
    handles = bank.handles([key(i) for i in range(len(bank))])
    x = np.ones((len(bank), 4), np.float32)
    evict(path)
    began = time.perf_counter()
    bank.predict_handles(handles, x)
    result = {"all_ms": (time.perf_counter() - began) * 1e3, "weights": bank.nbytes}
    del bank
    pages = path.stat().st_size // mmap.PAGESIZE
    some = np.random.default_rng(2).integers(0, pages, 3 * keys) * mmap.PAGESIZE
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(READERS) as readers:
        number = file.fileno()
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
        evict(path)
        began = time.perf_counter()
        for read in readers.map(lambda at: os.pread(number, mmap.PAGESIZE, at), some.tolist()):
            assert len(read) == mmap.PAGESIZE
        result["pages_ms"] = (time.perf_counter() - began) * 1e3
    with open(path, "rb", buffering=0) as file:
        evict(path)
        began = time.perf_counter()
        while file.read(8 << 20):
            pass
        result["sequential_ms"] = (time.perf_counter() - began) * 1e3
    return result


def shared(path: Path) -> Mapping[str, float]:
    """Open the file, predict for all models, and return what of the mapping others have too."""
    bank = Bank.open(path)
    every = [key(i) for i in range(len(bank))]
    bank.predict(every, np.ones((len(every), 4), np.float32))
    return mapping(path)


if __name__ == "__main__":
    name, file, *counts = sys.argv[1:]
    result = opened(Path(file), int(counts[0])) if name == "opened" else shared(Path(file))
    print(json.dumps(result))
