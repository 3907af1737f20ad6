"""Saves that end too early: a full disk, a kill at any moment. The old or the new file is there, whole."""

from __future__ import annotations

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bank_files import make_bank, to_bytes
from cases import RunPython
from mlpbank.files import _mapped


class FullDisk:
    """A file for which there is room for some bytes only."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        written: int = self.file.write(memoryview(data).cast("B")[: max(self.room, 0)])
        self.room -= size
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("exists", [True, False])
def test_no_room_for_all_of_a_file(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank"
    bank = make_bank(40, 1)
    if exists:
        make_bank(30, 0).save(path)
    before = path.read_bytes() if exists else b""
    size = len(to_bytes(bank))
    real = open
    monkeypatch.setattr(_mapped, "_WRITE_BYTES", 1000)
    rooms = np.linspace(0, size - 1, 60).astype(int).tolist()
    for room in rooms:

        def full(name: Any, mode: str = "r", *, left: int = room) -> Any:
            file = real(name, mode)
            return FullDisk(file, left) if mode == "xb" else file

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", full)
            with pytest.raises(OSError, match="No space left on device"):
                bank.save(path)
        assert os.listdir(tmp_path) == (["bank"] if exists else [])
        assert not exists or path.read_bytes() == before
    bank.save(path)
    assert path.read_bytes() == to_bytes(bank)


@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank"
    if exists:
        make_bank(30, 0).save(path)
    before = path.read_bytes() if exists else b""

    def interrupted(file: Any, *_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_mapped, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_bank(40, 1).save(path)
    assert os.listdir(tmp_path) == (["bank"] if exists else [])
    assert not exists or path.read_bytes() == before


def test_writes_that_the_system_refuses(tmp_path: Path, run_python: RunPython) -> None:
    """A limit on the size of files, which the kernel keeps: writes come back short and then fail."""
    run_python(
        f"""
        import os, pathlib, resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
        import mlpbank
        from bank_files import make_bank, to_bytes
        from mlpbank.files import _mapped

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _mapped._WRITE_BYTES = 3000
        folder = pathlib.Path({str(tmp_path)!r})
        old, new = make_bank(30, 0), make_bank(200, 1)
        old.save(folder / "bank")
        before, after = (folder / "bank").read_bytes(), to_bytes(new)
        for limit in range(0, len(after), len(after) // 50):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                new.save(folder / "bank")
                raise AssertionError("saved")
            except OSError:
                pass
            assert (folder / "bank").read_bytes() == before
            assert os.listdir(folder) == ["bank"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        new.save(folder / "bank")
        assert (folder / "bank").read_bytes() == after
        """
    )


# A process forks children that save; after the death of each the file has to be one of the two,
# byte for byte.
PARENT = """
import os, pathlib, random, signal, sys, time
sys.path.insert(0, {tests!r})
from bank_files import make_bank, to_bytes
from mlpbank import Bank
from mlpbank.files import _mapped

folder = pathlib.Path({folder!r})
path = folder / "bank"
_mapped._WRITE_BYTES = 5_000
banks = [make_bank(20, 0), make_bank(60, 1)]
wholes = [to_bytes(bank) for bank in banks]
banks[0].save(path)
random.seed(1)


def child(run):
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(3)
    return pid


def check():
    data = path.read_bytes()
    assert data in wholes, "neither the old nor the new file"
    _mapped.verify(_mapped.open_file(path, map_file=True))
    leftovers = [name for name in os.listdir(folder) if name != "bank"]
    for name in leftovers:
        assert name.startswith(".mlpbank.") and name.endswith(".tmp")
        (folder / name).unlink()
    return wholes.index(data), len(leftovers)
"""

ANY_MOMENT = """
def save_forever(first):
    while True:
        banks[first].save(path)
        first = 1 - first

began = time.perf_counter()
for _ in range(4):
    for bank in banks:
        bank.save(path)
round_trip = (time.perf_counter() - began) / 4

seen = [0, 0]
broken_off = 0
for turn in range(250):
    pid = child(lambda: save_forever(turn % 2))
    time.sleep(random.random() * 1.5 * round_trip)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    which, leftovers = check()
    seen[which] += 1
    broken_off += leftovers
print(seen, broken_off)
assert broken_off > 0
"""

EVERY_STEP = """
def save_and_die(step):
    left = step

    def trace(frame, event, argument):
        nonlocal left
        if pathlib.Path(frame.f_code.co_filename).name not in ("_atomic.py", "_mapped.py"):
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    banks[1].save(path)
    sys.settrace(None)
    os._exit(0)

outcomes, step = [], 0
while True:
    banks[0].save(path)
    status = os.waitpid(child(lambda: save_and_die(step)), 0)[1]
    if status == 0:
        break
    assert status == signal.SIGKILL
    outcomes.append(check()[0])
    step += 1
print(len(outcomes), sum(outcomes))
assert len(outcomes) > 100
assert outcomes == sorted(outcomes), "first always the old file, then always the new one"
assert outcomes[0] == 0 and outcomes[-1] == 1
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(ANY_MOMENT, id="any moment"),
        pytest.param(EVERY_STEP, id="every step", marks=pytest.mark.slow),
    ],
)
def test_killed_while_saving(tmp_path: Path, run_python: RunPython, script: str) -> None:
    run_python(
        PARENT.format(tests=str(Path(__file__).parents[1] / "helpers"), folder=str(tmp_path))
        + script,
        timeout=600,
    )
