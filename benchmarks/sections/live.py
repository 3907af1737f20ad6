"""A bank in a folder: what following costs, how fast changes come and are kept, and opening.

Each part can be run alone: ``--parts latency,open``. docs/live.md has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.live_processes import (
    Child,
    constant,
    keys_of,
    make,
    memory,
    open_times,
    opened,
    predict_paced,
    react,
    scratch,
)
from benchmarks.step import Step, part_of
from benchmarks.table import (
    Factor,
    Mebibytes,
    MegabytesPerSecond,
    Microseconds,
    Milliseconds,
    Nanoseconds,
    PerSecond,
    Row,
    Share,
    Table,
)
from mlpbank import Bank
from mlpbank.bench import machine
from mlpbank.bench.measure import Progress, no_gc
from mlpbank.typing import Sync

LARGE, SMALL = (32, 64, 64, 1), (4, 8, 2)
SYNCS: tuple[Sync, ...] = ("commit", "interval", "off")
CHANGING = 10_000  # models; one changes
TRANSACTIONS = (1, 10, 100, 1000)  # models
MOST_BYTES = 1 << 30  # that one line of `rate` writes
CHANGES = (0, 10_000, 1_000_000)  # since the base, when it is opened
OPENED = 1_000_000  # models
FOLLOWED = {LARGE: 10_000, SMALL: 100_000}  # keys that change under a follower
FOLLOWERS, RATE, BATCH = 16, 1000, 10  # processes; changes a second, so many in a transaction
PACES = {  # seconds between calls, and between takeovers by a thread beside them
    "one call after the other": (0.0, 0.0),
    "20 calls a second": (1 / 20, 0.0),
    "20 calls a second, a thread refreshes": (1 / 20, 0.01),
}
PERIOD = 1.0  # seconds with changes, then without, and so on
OPENINGS = 3  # of each line of `open`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the section has beside the common options."""
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the folders are made")


def steps(args: argparse.Namespace) -> list[Step]:
    """Return a step for each part."""
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise SystemExit(f"--parts: expected some of {', '.join(PARTS)}, got {unknown[0]!r}")
    return [
        Step(name, partial(_measured, PARTS[name], args.seconds, args.folder)) for name in names
    ]


Part = Callable[[float, Path, Progress], tuple[str, list[Row]]]


def _measured(part: Part, seconds: float, folder: Path, progress: Progress) -> Table:
    progress(0.0, "setting up")
    others, before, began = machine.OtherLoad(), os.times(), time.perf_counter()
    with scratch(folder) as own:
        title, rows = part(seconds, own, progress)
    progress(1.0, "done")
    after, share = os.times(), others.share()
    if share is not None:  # that of the followers is no other load
        own_cpu = sum(after[2:4]) - sum(before[2:4])
        share -= own_cpu / (time.perf_counter() - began) / (os.cpu_count() or 1)
    return Table(title, rows, other_load=share)


def check(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Compare a predict on a live bank with the same on a mapped file, in turns."""
    rows: list[Row] = []
    for i, sizes in enumerate((SMALL, LARGE)):
        place = folder / str(i)
        make(place, sizes, 1000).save(folder / f"{i}.mlpbank")
        banks = [Bank.open(folder / f"{i}.mlpbank"), opened(place)]
        key, x = keys_of(1000)[7], np.ones(sizes[0], np.float32)
        timers = [timeit.Timer(partial(bank.predict, key, x)) for bank in banks]
        found: list[list[float]] = []
        end = time.perf_counter() + seconds / 2
        while len(found) < 4 or time.perf_counter() < end:
            order = (0, 1) if len(found) % 2 else (1, 0)
            turn = {which: timers[which].timeit(500) / 500 * 1e9 for which in order}
            found.append([turn[0], turn[1]])
        progress((i + 1) / 2, str(sizes))
        plain, live = np.median(found, axis=0)
        least = np.min(found, axis=0)
        rows.append(
            {
                "": f"{_name(sizes)}, one row",
                "mapped file": Nanoseconds(plain),
                "live": Nanoseconds(live),
                "more": Nanoseconds(np.median(np.diff(found, axis=1))),
                "fastest of the file": Nanoseconds(least[0]),
                "of live": Nanoseconds(least[1]),
            }
        )
    return "bank.predict(key, x) of a mapped file and of a live bank, in turns", rows


def latency(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Change a model, and wait until another process answers with it; beside the disk alone."""
    arch = make(folder / "live", LARGE, CHANGING).architecture
    key = keys_of(CHANGING)[7]
    syncs: tuple[Sync, ...] = ("commit", "off")
    writers = {sync: opened(folder / "live", sync) for sync in syncs}
    returned: dict[str, list[float]] = {sync: [] for sync in syncs}
    answered: dict[str, list[float]] = {sync: [] for sync in syncs}
    disk: list[float] = []
    disk_twice: list[float] = []
    value = 0
    with Child(react, folder / "live", key) as other, _disk(folder) as write:
        other.answer()
        data = bytes(25_600)
        began = time.perf_counter()
        while len(disk) < 10 or time.perf_counter() < began + seconds:
            for sync, writer in writers.items():
                value += 1
                model = constant(arch, value)
                start = time.perf_counter()
                writer[key] = model
                returned[sync].append(time.perf_counter() - start)
                when, answer = other.answer()
                if answer != value:
                    raise RuntimeError(f"expected {value}, got {answer}")
                answered[sync].append(when - start)
            disk.append(write(data))
            disk_twice.append(write(data) + write(data[:4096]))
            if len(disk) % 100 == 0:
                progress(min(1.0, (time.perf_counter() - began) / seconds), "changing")
    for writer in writers.values():
        writer.close()
    rows: list[Row] = [
        {"": "the disk: write and fdatasync of 25,600 bytes", **_quantiles(disk)},
        {"": "the disk: the same, and then of 4096 bytes", **_quantiles(disk_twice)},
        *(
            {"": f'sync="{sync}", {what}', **_quantiles(times[sync])}
            for sync in syncs
            for what, times in (
                ("the change returns", returned),
                ("another process answers with it", answered),
            )
        ),
    ]
    return "From the start of bank[key] = model on, 32-64-64-1", rows


def rate(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Make transactions of some sizes, each beside a write of as many bytes to the disk."""
    rows: list[Row] = []
    lines = [(sync, size) for sync in SYNCS for size in TRANSACTIONS]
    for i, (sync, size) in enumerate(lines):
        progress(i / len(lines), f"{sync}, {size}")
        with scratch(folder) as own, _disk(own) as write:
            bank = make(own / "live", LARGE, 1000)
            models = [(key, bank[key]) for key in keys_of(1000)[:size]]
            writer = opened(own / "live", sync)
            nbytes = size * writer.nbytes // 1000
            data = bytes(nbytes)
            own_times: list[float] = []
            disk: list[float] = []
            end = time.perf_counter() + seconds / len(lines)
            with no_gc():
                while len(disk) < 3 or (
                    time.perf_counter() < end and len(disk) * nbytes < MOST_BYTES
                ):
                    disk.append(write(data))
                    began = time.perf_counter()
                    with writer.transaction() as changes:
                        changes.update(models)
                    own_times.append(time.perf_counter() - began)
            writer.close()
        took, alone = float(np.sum(own_times)), float(np.sum(disk))
        row: dict[str, object] = {
            "": f'sync="{sync}", transactions of {size}',
            "changes": PerSecond(size * len(own_times) / took),
            "median": Microseconds(1e6 * np.median(own_times)),
            "bytes": MegabytesPerSecond(nbytes * len(own_times) / took / 1e6),
        }
        if sync == "commit":
            row["disk alone"] = MegabytesPerSecond(nbytes * len(disk) / alone / 1e6)
            row["of its speed"] = Share(alone / took)
        rows.append(row)  # type: ignore[arg-type]
    return "Changes of 32-64-64-1 a second, beside write and fdatasync of as many bytes", rows


def open_(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Open a bank after some changes since its base, and after its compaction."""
    place = folder / "live"
    bank = make(place, SMALL, OPENED)
    make(folder / "small", SMALL, 10)
    keys = keys_of(OPENED)
    model = bank[keys[0]]
    del bank
    writer = opened(place, "off")
    rows: list[Row] = []

    def measure(name: str) -> None:
        with Child(open_times, place, folder / "small", keys[3], OPENINGS) as other:
            found = np.median(other.answer(), axis=0)
        size = sum(path.stat().st_blocks * 512 for path in place.iterdir())
        rows.append(
            {
                "": name,
                "Bank.open": Milliseconds(1e3 * found[0]),
                "first predict": Milliseconds(1e3 * found[1]),
                "on disk": Mebibytes(size / 2**20),
            }
        )

    done = 0
    for count in CHANGES:
        for first in range(done, count, 1000):
            progress(0.9 * first / CHANGES[-1], "changing")
            some = (keys[i % OPENED] for i in range(first, min(first + 1000, count)))
            with writer.transaction() as changes:
                changes.update((key, model) for key in some)
        done = count
        with opened(place, "commit") as careful:
            careful.metadata = {"changes": count}  # waits for the disk, for all of them
        measure(f"{count} changes since the base")
    writer.compact()
    measure("compacted")
    writer.close()
    return f"Opening a live bank of {OPENED} models {_name(SMALL)} in the panel layout", rows


def private(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Change keys under a follower, and look at its private memory."""
    rows: list[Row] = []
    for i, (sizes, models) in enumerate(FOLLOWED.items()):
        progress(i / len(FOLLOWED), _name(sizes))
        place = folder / str(i)
        bank = make(place, sizes, models)
        keys = keys_of(models)
        model, block = bank[keys[0]], bank.nbytes // models
        del bank
        writer = opened(place, "off")
        with Child(memory, place, keys[3]) as other:
            other.ask(0)
            _, before = other.ask(0)
            for turn in ("changed", "changed once more"):
                for first in range(0, models, 100):
                    writer.update((key, model) for key in keys[first : first + 100])
                    other.ask(0)
                sequence, after = other.ask(0)
                if sequence != writer.sequence:
                    raise RuntimeError(f"expected {writer.sequence}, got {sequence}")
                grown, changed = after - before, models * block
                rows.append(
                    {
                        "": f"{models} keys of {_name(sizes)} {turn}",
                        "blocks": Mebibytes(changed / 2**20),
                        "private memory": Mebibytes(grown / 2**20),
                        "bytes a key": round(grown / models),
                        "of the blocks": Share(grown / changed),
                        "of 5 % and 200 bytes a key": Share(
                            grown / (0.05 * changed + 200 * models)
                        ),
                    }
                )
        writer.close()
    return "What a follower's private memory grows by", rows


def followers(seconds: float, folder: Path, progress: Progress) -> tuple[str, list[Row]]:
    """Let processes predict while one of them changes models, and while none does, in turns."""
    make(folder / "live", LARGE, 1000)
    rows: list[Row] = []
    for i, (pace, periods) in enumerate(PACES.items()):
        part = part_of(progress, i, list(PACES), pace)
        took, changes = _followed(seconds / len(PACES), folder / "live", periods, part)
        own: list[Row] = [
            {
                "": f"{pace}, {'with' if changing else 'no'} changes",
                "calls": len(took[changing]),
                "changes": PerSecond(changes if changing else 0.0),
                **_quantiles(took[changing]),
            }
            for changing in (False, True)
        ]
        ratios = {
            name: Factor(float(own[1][name]) / float(own[0][name]))
            for name in ("p50", "p90", "p99")
        }
        rows += [*own, {"": "as long", **ratios}]
    what = f"predict of 1000 × {_name(LARGE)}, one thread, in each of {FOLLOWERS} processes"
    return f"{what}, while another one changes models and while not", rows


def _followed(
    seconds: float, place: Path, paces: tuple[float, float], progress: Progress
) -> tuple[dict[bool, list[float]], float]:
    """Return the times of all calls, with changes and without, and how many changes a second."""
    writer = opened(place, "off")
    keys = list(writer)
    models = [writer[key] for key in keys]
    periods: list[tuple[float, float, bool]] = []
    changed, writing = 0, 0.0
    with contextlib.ExitStack() as all_:
        children = [
            all_.enter_context(Child(predict_paced, place, *paces, number))
            for number in range(FOLLOWERS)
        ]
        for child in children:
            child.answer()
        turns = 2 * max(1, round(seconds / 2 / PERIOD))
        for turn in range(turns):
            began = due = time.perf_counter()
            while time.perf_counter() < began + PERIOD:
                if turn % 2:
                    some = [(changed + i) % len(keys) for i in range(BATCH)]
                    writer.update((keys[i], models[i]) for i in some)
                    changed += BATCH
                due += BATCH / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
            end = time.perf_counter()
            writing += (end - began) * (turn % 2)
            periods.append((began, end, bool(turn % 2)))
            progress((turn + 1) / turns, "changing" if turn % 2 else "not changing")
        for child in children:
            child.send(0)
        calls = np.array([call for child in children for call in child.answer()])
    writer.close()
    took: dict[bool, list[float]] = {False: [], True: []}
    for begin, end, changing in periods:
        inside = (calls[:, 0] >= begin) & (calls[:, 0] + calls[:, 1] <= end)
        took[changing] += calls[inside, 1].tolist()
    return took, changed / writing


PARTS: dict[str, Part] = {
    "check": check,
    "latency": latency,
    "rate": rate,
    "open": open_,
    "memory": private,
    "followers": followers,
}


def _name(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))


def _quantiles(times: list[float]) -> Row:
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {name: Microseconds(1e6 * np.quantile(times, q)) for name, q in quantiles.items()}


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Callable[[bytes], float]]:
    """Yield a function that writes and syncs as segments do, and returns the seconds it took."""
    room = 256 << 20
    path = folder / "disk"
    file, end = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 0
    written = 0

    def write(data: bytes) -> float:
        nonlocal written, end
        if written + len(data) > end:
            os.posix_fallocate(file, end, max(room, len(data)))
            os.fsync(file)
            end += max(room, len(data))
        began = time.perf_counter()
        os.pwrite(file, data, written)
        os.fdatasync(file)
        written += len(data)
        return time.perf_counter() - began

    try:
        yield write
    finally:
        os.close(file)
        path.unlink()
