"""``mlpbank create``, ``log`` and ``compact``, and what ``inspect`` shows of a live folder."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlpbank._keys import kind_name
from mlpbank._progress import on_terminal
from mlpbank.bank import Bank, LiveBank, _live
from mlpbank.bank._follower import description_of
from mlpbank.cli._errors import CommandError, KeyColumnError, encoded
from mlpbank.cli._read_keys import key_cell
from mlpbank.files import _live_folder, _mapped
from mlpbank.files._live_index import About, Change, Index
from mlpbank.files._live_rows import RowCheck, keys_of

CREATE_EXAMPLES = """mlpbank create fleet.mlpbank fleet.live
  mlpbank create fleet.live copy.live     # also while it is used, and without its head"""
LOG_EXAMPLES = """mlpbank log fleet.live --since 1200
  mlpbank log fleet.live --key N14228
  mlpbank log fleet.live --json | jq -r 'select(.kind == "load") | .key'

Changes of one transaction have the same `last`, the number of its last change. Changes that are in
the base are no longer listed. Times are in UTC; only a load has one."""
COMPACT_EXAMPLES = "mlpbank compact fleet.live       # others may use and change it meanwhile"

_ROWS = 1000  # that are in memory at once
_HEADING = ("sequence", "last", "kind", "time", "revision", "version", "key")


def add_create(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlpbank create``."""
    parser.add_argument("source", type=Path, help="bank file, or folder of a live bank")
    parser.add_argument("target", type=Path, help="new folder")
    _add_progress(parser)


def add_log(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlpbank log``."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--since", type=int, metavar="SEQUENCE", help="only changes after this one")
    about = "only changes of the model of this key; parts of a tuple as a,b"
    parser.add_argument("--key", help=about)
    parser.add_argument("--json", action="store_true", help="each line is an object of JSON")


def add_compact(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlpbank compact``."""
    parser.add_argument("folder", type=Path)
    _add_progress(parser)


def _add_progress(parser: argparse.ArgumentParser) -> None:
    about = "show a bar (default: where standard error is a terminal)"
    parser.add_argument("--progress", action="store_true", help=about)


def open_bank(path: Path) -> Bank:
    """Open a live folder as it is now, or a bank file, also where files cannot be mapped."""
    if path.is_dir():
        return Bank.open(path, refresh="manual")
    return Bank._from_contents(_mapped.open_somehow(path), None)


def create_folder(args: argparse.Namespace) -> int:
    """Make a live folder of a bank file or of another folder, as it is now."""
    is_live = args.source.is_dir()
    bank = _live.open_to_copy(args.source) if is_live else open_bank(args.source)
    bank.save(args.target, live=True, progress=args.progress or on_terminal())
    _tell(args.target, f"{len(bank):,} models")
    return 0


def compact_folder(args: argparse.Namespace) -> int:
    """Write all models of a live folder into a new base."""
    before = _expect_folder(args.folder)
    with _live.open_live(args.folder, writable=True) as bank:
        bank.compact(progress=args.progress or on_terminal())
        models = len(bank)
    _tell(args.folder, f"{models:,} models", f", {before:,} before")
    return 0


def _tell(folder: Path, what: str, more: str = "") -> None:
    size = _live_folder.bytes_on_disk(folder)
    with encoded("standard output"):
        print(f"{folder}: {what}, {size:,} bytes{more}")


def _expect_folder(folder: Path) -> int:
    """Return the size of a live folder, or raise where there is none."""
    if folder.exists() and not folder.is_dir():
        raise CommandError(
            f"{folder}: expected the folder of a live bank, got a file; mlpbank create makes one "
            "of a bank file"
        )
    _live_folder.check_folder(folder, anywhere=True)
    return _live_folder.bytes_on_disk(folder)


def folder_rows(path: Path, bank: LiveBank) -> list[tuple[str, str]]:
    """Return what ``mlpbank inspect`` shows of a folder beside its models."""
    about = bank._follower.about
    assert about is not None
    base = _live_folder.base_path(path, about.base)
    size = _live_folder.bytes_on_disk(path)
    segments = _live_folder.segments_of(path)
    # A compaction writes added models into the base, and keeps the segment that is written to.
    slots = bank._state.slot_map
    grows = bank.nbytes * slots.num_slots_added // max(slots.core.num_used_slots, 1)
    old = sum(number < about.segment for number in segments) * about.segment_bytes
    frees = max(old - grows, 0)
    return [
        ("folder", f"{path}, {size:,} bytes"),
        ("sequence", f"{about.sequence:,}"),
        ("base", f"{base.name}, with all changes up to {about.base_sequence:,}"),
        ("changes since", f"{about.sequence - about.base_sequence:,}"),
        ("segments", f"{len(segments):,}, {len(segments) * about.segment_bytes:,} bytes"),
        ("compact frees", f"about {frees:,} bytes, {frees / max(size, 1):.0%}"),
    ]


def show_log(args: argparse.Namespace) -> int:
    """Print the changes since the base, one in each line."""
    _expect_folder(args.folder)
    index = Index(_live_folder.index_path(args.folder))
    try:
        with encoded("standard output"):
            _print_log(args, index)
    finally:
        index.close()
    return 0


def _print_log(args: argparse.Namespace, index: Index) -> None:
    about, _ = index.read(lambda about: about.sequence)
    description = description_of(args.folder, about)
    key_type, wanted = description.key_type, None
    if args.key is not None:
        wanted = _key(args.key, key_type)
    since = about.base_sequence if args.since is None else max(args.since, 0)
    width = len(str(about.sequence))
    if not args.json:
        print(_line(_HEADING, width))
    end = about.sequence  # changes that come while this prints are left to the next time
    while since < end:
        about, rows = index.read(_after(since), _ROWS)
        if about.base_sequence > since:
            _tell_of_base(since, about.base_sequence)
            since = about.base_sequence
        rows = [row for row in rows if row[0] <= end]
        check = RowCheck(_live_folder.index_path(args.folder), about, description, since)
        changes = list(check.changes(rows))
        if not changes:
            break
        since = changes[-1].sequence
        for row, key in zip(changes, keys_of(changes, key_type), strict=True):
            if wanted is not None and key != wanted:
                continue
            print(_as_json(row, key) if args.json else _as_line(row, key, width))


def _after(since: int) -> Callable[[About], int]:
    return lambda about: max(since, about.base_sequence)


def _tell_of_base(since: int, base_sequence: int) -> None:
    print(
        f"mlpbank: changes {since + 1} to {base_sequence} are in the base, and no longer listed",
        file=sys.stderr,
    )


def _line(cells: Sequence[str], width: int) -> str:
    sequence, last, kind, time, revision, version, key = cells
    width = max(width, len("sequence"))
    return (
        f"{sequence:>{width}}  {last:>{width}}  {kind:8}  {time:19}  {revision:>8}  {version:12}  "
        f"{key}"
    ).rstrip()


def _as_line(row: Change, key: Any, width: int) -> str:
    return _line(
        (
            str(row.sequence),
            str(row.last),
            row.kind,
            (_time(row) or "-")[:19].replace("T", " "),
            "-" if row.revision is None else str(row.revision),
            "-" if row.version is None else repr(row.version),
            "-" if key is None else repr(key),
        ),
        width,
    )


def _as_json(row: Change, key: Any) -> str:
    return json.dumps(
        {
            "sequence": row.sequence,
            "last": row.last,
            "kind": row.kind,
            "time": _time(row),
            "key": key,
            "version": row.version,
            "revision": row.revision,
        },
        ensure_ascii=False,
    )


def _time(row: Change) -> str | None:
    if row.loaded_at is None:
        return None
    return datetime.fromtimestamp(row.loaded_at, timezone.utc).isoformat()


def _key(text: str, key_type: Any) -> Any:
    """Return the key of type `key_type` that an option names."""
    parts = getattr(key_type, "__args__", None)
    cells = [text] if parts is None else next(csv.reader([text]), [])
    kinds: Iterator[Any] = iter(parts or (key_type,))
    if parts is not None and len(cells) != len(parts):
        raise CommandError(
            f"--key: expected {len(parts)} parts like the bank's keys, {kind_name(key_type)}, got "
            f"{text!r:.80}"
        )
    key = tuple(key_cell(cell, kind, "--key") for cell, kind in zip(cells, kinds, strict=True))
    if None in key:
        raise KeyColumnError(f"--key: expected a key like those of the bank, got {text!r:.80}")
    return key if parts is not None else key[0]
