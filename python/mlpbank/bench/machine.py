"""The machine, the versions, and the BLAS under NumPy, without which a figure says little."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

# Variables that choose the kernel of OpenBLAS or its blocking, mostly for the worse.
_BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_PACKAGES = ("mlpbank", "numpy", "torch", "jax", "jaxlib", "onnx", "onnxruntime", "openvino")


def describe() -> dict[str, Any]:
    """Return the machine: CPU, system, Python, versions of the libraries that are installed."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the CPU. On x86 it has family and model: hypervisors shorten names."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = re.sub(r"\((R|TM|r|tm)\)", "", first.get("model name", "") or platform.machine())
    name = " ".join(name.split())
    if "cpu family" in first:
        name += f" (family {first['cpu family']}, model {first['model']})"
    return name


class OtherLoad:
    """Measures the CPU time of other processes since it was made."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Return seconds of all CPUs so far: total, busy, and of this process."""
        try:
            # user nice system idle iowait irq softirq steal; guest times are part of these
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
        except (OSError, ValueError):
            return None
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], time.process_time()

    def share(self) -> float | None:
        """Return the share of the time of all CPUs that others used, or None if unknown."""
        now = self._read()
        if now is None or self._start is None or now[0] == self._start[0]:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, (busy - own) / total))


def limit_blas(threads: int) -> list[dict[str, Any]]:
    """Limit the BLAS of NumPy to `threads` threads, and describe it by threadpoolctl."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    # Only BLAS: a limit on OpenMP would apply to mlpbank too.
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    found = [i for i in threadpoolctl.threadpool_info() if i.get("user_api") == "blas"]
    known = ("internal_api", "version", "architecture", "num_threads")
    return [{k: i.get(k) for k in known} for i in found]


def blas_notes(blas: list[dict[str, Any]]) -> list[str]:
    """Return lines that tell which BLAS runs under NumPy and what may slow it down."""
    form = (
        "BLAS under numpy: {internal_api} {version}, "
        "kernels for {architecture}, {num_threads} threads"
    )
    lines = [form.format(**b) for b in blas]
    if not blas:
        lines.append("BLAS under numpy: unknown, as threadpoolctl is not installed")
    set_here = [name for name in _BLAS_VARIABLES if name in os.environ]
    return lines + [
        f"Note: {name}={os.environ[name]} is set and may make numpy slower" for name in set_here
    ]
