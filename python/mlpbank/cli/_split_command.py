"""``mlpbank split``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlpbank._progress import on_terminal

EXAMPLES = "mlpbank split shops.mlpbank shops-1 --shards 256"


def add_arguments(split: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    split.add_argument("bank", type=Path, help="a bank file")
    split.add_argument("folder", type=Path, help="a new or empty folder")
    split.add_argument("--shards", type=int, default=256, help="1 to 256; default 256")
    split.add_argument("--live", action="store_true", help="make a live bank of each shard")


def split_bank(args: argparse.Namespace) -> int:
    """Write a bank file or live bank for each shard, and the page that lists them."""
    from mlpbank.bank import Bank, _shards

    bank = Bank.open(args.bank)
    _shards.split(bank, args.folder, args.shards, on_terminal(), args.live)
    print(f"{args.folder}: {len(bank)} models in {args.shards} shards")
    return 0
