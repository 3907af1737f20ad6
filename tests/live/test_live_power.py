"""Loss of power at any moment: what was promised is there, and the rest whole or not at all."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

import pytest

from cases import RunProgram
from live_models import TIMES, change, check_all, look
from mlpbank import Bank, LiveBank
from power_loss import Disk, read_record


def open_after_loss(path: Path, writable: bool) -> LiveBank:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not reach the disk", RuntimeWarning)
        bank = Bank.open(path, writable=writable)
    assert isinstance(bank, LiveBank)
    return bank


def check(folder: Path, kind: str, promises: list[str], later: bytes, rng: random.Random) -> None:
    """Open what is left and compare it with what was promised.

    Of the head nothing is certain: it may have changes that are lost, as `later` has.
    """
    path = folder / "bank"
    kept = [int(line.split()[1]) for line in promises if line.startswith("kept")]
    begun = [int(line.split()[1]) for line in promises if line.startswith("begin")]
    if not kept and not path.exists():
        return
    head = path / "head"
    word = rng.choice([0, 1, rng.randrange(100), rng.randrange(2**62), 2**64 - 1])
    rest = rng.choice([later[24:], rng.randbytes(len(later) - 24), bytes(len(later) - 24)])
    head.write_bytes(head.read_bytes()[:16] + word.to_bytes(8, "little") + rest)
    with open_after_loss(path, writable=rng.random() < 0.5) as bank:
        (turn,) = check_all(bank, kind, 1)
        assert max(kept, default=0) <= turn <= max(begun, default=0), (turn, promises[-3:])
        with Bank.open(path) as other:
            assert look(other, kind, 0) == turn
    # It goes on from there.
    with Bank.open(path, writable=True) as bank, Bank.open(path) as other:
        change(bank, kind, 0, turn + 100)
        if rng.random() < 0.3:
            bank.compact()
        assert check_all(other, kind, 1) == [turn + 100]
    with Bank.open(path) as bank:
        assert check_all(bank, kind, 1) == [turn + 100]


@pytest.mark.parametrize(
    ("layout", "kind", "states"),
    [
        ("panel", "str", 40),
        pytest.param("panel", "tuple", TIMES * 150, marks=pytest.mark.slow),
        pytest.param("lane", "int", TIMES * 150, marks=pytest.mark.slow),
    ],
)
def test_loss_of_power(
    run_under_faults: RunProgram, tmp_path: Path, layout: str, kind: str, states: int
) -> None:
    run_under_faults("live_power", tmp_path, layout, kind)
    operations = read_record(tmp_path / "record", tmp_path / "watched")
    later = (tmp_path / "watched/bank/head").read_bytes()
    rng = random.Random(states)
    moments = sorted(rng.choices(range(len(operations)), k=states))
    disk = Disk()
    for i, operation in enumerate(operations):
        disk.apply(operation)
        for _ in range(moments.count(i)):
            left = tmp_path / "left"
            disk.write_after_loss(left, rng)
            check(left, kind, disk.promises.decode().splitlines(), later, rng)
            shutil.rmtree(left)
    assert disk.promises.count(b"kept") > 5
