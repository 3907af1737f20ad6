"""What opening a bank file costs: memory of the process, and pages of the file that are read.

    python tests/helpers/open_bank.py               # 1,000,000 models 4-8-2 with str keys, in the current folder

The file is evicted from the page cache first, so that every page that is there afterwards was asked for.
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
from pathlib import Path

import numpy as np

from mlpbank import Architecture, Bank

ARCH = Architecture.mlp(4, 8, 2)


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
    """How much of a file is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    page = mmap.PAGESIZE
    flags = np.zeros(-(-size // page), np.uint8)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), flags.ctypes.data_as(ctypes.c_void_p)) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return int((flags & 1).sum()) * page


def private_bytes() -> int:
    """Memory of this process that no other has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_", "Swap:"))) * 1024


def mapping(path: Path) -> dict[str, int]:
    """What the kernel says about this process's mapping of a file, in bytes."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and len(fields) == 3 and fields[2] == "kB":
            found[fields[0][:-1]] = found.get(fields[0][:-1], 0) + int(fields[1]) * 1024
    return found


def measure(path: Path, keys: int) -> dict[str, float]:
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
    # Every page, and another process that does the same: who has which memory?
    every = [key(i) for i in range(len(bank))]
    bank.predict(every, np.ones((len(every), 4), np.float32))
    alone = mapping(path)
    script = "import sys, json, pathlib, open_bank; print(json.dumps(open_bank.share(pathlib.Path(sys.argv[1]))))"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    result |= {f"alone_{name}": value for name, value in alone.items()}
    result |= {f"other_{name}": value for name, value in json.loads(done.stdout).items()}
    return result


def share(path: Path) -> dict[str, int]:
    """Open the file, predict for all, and tell what of the mapping is shared with whoever has it open too."""
    bank = Bank.open(path)
    every = [key(i) for i in range(len(bank))]
    bank.predict(every, np.ones((len(every), 4), np.float32))
    return mapping(path)


def main() -> None:
    """Measure a large bank, or print JSON for a test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder).resolve() / "large"
        make(path, args.models)
        # In a process of its own: what making left behind shall not count.
        script = (
            "import sys, json, pathlib, open_bank as o; print(json.dumps(o.measure(pathlib.Path(sys.argv[1]), %d)))"
        )
        command = [sys.executable, "-c", script % args.keys, str(path)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    result = json.loads(done.stdout)
    if args.json:
        print(json.dumps(result))
        return
    mib = {name: value / 2**20 for name, value in result.items()}
    print(f"{args.models} models, {mib['file']:.0f} MiB, of which {mib['evicted_but']:.1f} stayed in memory")
    print(f"open: {result['open_ms']:.1f} ms, {mib['open_private']:.1f} MiB private, {mib['open_read']:.2f} MiB read")
    print(f"first predict, {args.keys} keys: {result['predict_ms']:.1f} ms, {mib['predict_read']:.1f} MiB read")
    print(f"a second process: {mib['other_Rss']:.0f} MiB of the file, {mib['other_Pss']:.0f} MiB as its share")


if __name__ == "__main__":
    main()
