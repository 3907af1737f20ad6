"""What a figure needs beside it: the machine, the versions, and the BLAS under NumPy."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

# Variables that choose OpenBLAS's kernel or its blocking, mostly for the worse where somebody once set them.
_BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_PACKAGES = ("mlpbank", "numpy", "torch", "jax", "jaxlib", "onnx", "onnxruntime", "openvino")


def describe() -> dict[str, Any]:
    """Return the machine: CPU, system, Python, versions of the libraries that are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name. Hypervisors often shorten it, so on x86 family and model number stand behind it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = re.sub(r"\((R|TM|r|tm)\)", "", first.get("model name", "") or platform.machine())
    numbers = (
        f" (family {first['cpu family']}, model {first['model']})" if "cpu family" in first else ""
    )
    return " ".join(name.split()) + numbers


class OtherLoad:
    """How much of the machine other processes use from now on."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Return seconds so far of all CPUs together: in all, not idle, and of this process."""
        try:
            # user nice system idle iowait irq softirq steal: the others are counted in these as well
            ticks = [
                int(field)
                for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            ]
        except (OSError, ValueError):
            return None
        total, busy = sum(ticks), sum(ticks) - ticks[3] - ticks[4]
        per_second = os.sysconf("SC_CLK_TCK")
        return total / per_second, busy / per_second, time.process_time()

    def share(self) -> float | None:
        """Return the share of all CPUs' time since the start that went to others, None where it is not known."""
        now = self._read()
        if now is None or self._start is None or now[0] == self._start[0]:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, (busy - own) / total))


def limit_blas(threads: int) -> list[dict[str, Any]]:
    """Let NumPy's BLAS use `threads` threads, and return what threadpoolctl knows about it (nothing without it)."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    # Only BLAS: a limit on OpenMP would be one on mlpbank.
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    known = ("internal_api", "version", "architecture", "num_threads")
    return [
        {k: i.get(k) for k in known}
        for i in threadpoolctl.threadpool_info()
        if i.get("user_api") == "blas"
    ]


def blas_notes(blas: list[dict[str, Any]]) -> list[str]:
    """Return lines that tell which BLAS runs under NumPy and what may slow it down."""
    lines = [
        f"BLAS under numpy: {b['internal_api']} {b['version']}, kernels for {b['architecture']}, "
        f"{b['num_threads']} threads"
        for b in blas
    ]
    if not blas:
        lines.append(
            "BLAS under numpy: unknown, and with its own number of threads (threadpoolctl is not installed)"
        )
    lines += [
        f"Note: {name}={os.environ[name]} is set and may make numpy slower than it is without"
        for name in _BLAS_VARIABLES
        if name in os.environ
    ]
    return lines
