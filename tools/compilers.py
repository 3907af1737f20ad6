"""Build the core and run its checks with every compiler that is found: `nox -s compilers`.

python tools/compilers.py [NAME ...]    only builds whose name contains one of these

GCC and Clang of this machine, with OpenMP if they have it and once without. Then what ziglang's
Clang builds for other systems, where ziglang is installed: x86-64 with musl runs here, ARM64 with
musl where there is qemu-aarch64, and macOS is only compiled and linked. Warnings are errors. The
checks compare results with recorded bits, so what passes gives the bits of every other compiler.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build/compilers"
NO_OPENMP = "-DMLPBANK_OPENMP=OFF"
# ziglang's names of other systems, CMake's names of them, and what runs their programs here.
OTHER_SYSTEMS = (
    ("x86_64-linux-musl", "Linux", "x86_64", "" if platform.machine() == "x86_64" else None),
    ("aarch64-linux-musl", "Linux", "aarch64", shutil.which("qemu-aarch64")),
    ("x86_64-macos", "Darwin", "x86_64", None),
    ("aarch64-macos", "Darwin", "arm64", None),
)


@dataclass(frozen=True)
class Build:
    """One way to build; `runner` runs its programs: "" by themselves, None not at all."""

    name: str
    compiler: str
    options: tuple[str, ...] = ()
    runner: str | None = ""
    tools: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    def configure(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run CMake, from nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        defined = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CXX_COMPILER": self.compiler,
            "MLPBANK_BUILD_PYTHON": "OFF",
            "MLPBANK_BUILD_TESTS": "ON",
            "MLPBANK_WERROR": "ON",
            **{name: self.script(name, command) for name, command in self.tools.items()},
        }
        command = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(self.folder)]
        command += [f"-D{name}={value}" for name, value in defined.items()]
        return run(*command, *self.options, *options)

    def script(self, name: str, command: str) -> str:
        """Return the path of a program that runs a command of several words: CMake takes one."""
        path = self.folder / f"tools/{name.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def passes(self) -> bool:
        """Build, run the checks, say how it went, and return whether it went well."""
        helpers = "OpenMP"
        done = self.configure()
        if "has no OpenMP" in done.stderr or NO_OPENMP in self.options:
            helpers = "threads"
            done = self.configure(NO_OPENMP)
        (version,) = re.findall(r"compiler identification is (.*)", done.stdout)
        name = f"{self.name} ({version}, {helpers})"
        if "mlpbank needs GCC" in done.stderr:
            print(f"{name}: refused, as too old", flush=True)
            return True
        steps = ["cmake", "--build", str(self.folder)], self.checks()
        for command in steps:
            if done.returncode == 0 and command:
                done = run(*command)
        if done.returncode:
            print(f"{done.stdout}{done.stderr}\n{name}: FAILED", flush=True)
            return False
        passed = re.findall(r"\d+% tests passed.*out of (\d+)", done.stdout)
        result = f"{passed[0]} checks passed" if passed else "compiled and linked, not run"
        print(f"{name}: {result}", flush=True)
        return True

    def checks(self) -> list[str]:
        """Return the command that runs the checks, if there is one."""
        if self.runner is None:
            return []
        command = ["ctest", "--test-dir", str(self.folder), "--output-on-failure"]
        # Forking beside threads ends qemu itself.
        return [*command, "--exclude-regex", "threads_test"] if self.runner else command


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def native_compilers() -> Iterator[str]:
    """Yield the names of g++ and clang++ of any version on PATH, the oldest first."""
    names = {
        path.name
        for folder in os.get_exec_path()
        for path in Path(folder).glob("*++*")
        if re.fullmatch(r"(g|clang)\+\+(-\d+)?", path.name)
    }
    yield from sorted(names, key=lambda name: (name[0] != "g", int(name.partition("-")[2] or 0)))


def other_systems() -> Iterator[Build]:
    """Yield what ziglang builds."""
    zig = f"{sys.executable} -m ziglang"
    for target, system, processor, runner in OTHER_SYSTEMS:
        options = [f"-DCMAKE_SYSTEM_NAME={system}", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
        options += [NO_OPENMP, "-DCMAKE_INSTALL_NAME_TOOL=true"]
        if runner:
            options.append(f"-DCMAKE_CROSSCOMPILING_EMULATOR={runner}")
        tools = {
            "CMAKE_CXX_COMPILER": f"{zig} c++ -target {target}",
            "CMAKE_AR": f"{zig} ar",
            "CMAKE_RANLIB": f"{zig} ranlib",
        }
        yield Build(f"zig-{target}", "", tuple(options), runner, tools)


def builds() -> Iterator[Build]:
    """Yield all builds."""
    families = set()
    for name in native_compilers():
        yield Build(name, name)
        if name[0] not in families:
            families.add(name[0])
            yield Build(f"{name}-threads", name, (NO_OPENMP,))
    if importlib.util.find_spec("ziglang") is not None:
        yield from other_systems()


def main(wanted: list[str]) -> int:
    chosen = [
        build for build in builds() if not wanted or any(name in build.name for name in wanted)
    ]
    if not chosen:
        print("no such compiler was found")
    passed = [build.passes() for build in chosen]  # all of them, also after a failure
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
