"""Moving a live folder to a new base."""

from __future__ import annotations

from mlpbank.bank._in_folder import BankInFolder
from mlpbank.errors import InvalidStateError
from mlpbank.files import _live_folder
from mlpbank.files._atomic import atomic_writer, sync_folder
from mlpbank.files._live_index import Change


def compact(bank: BankInFolder, progress: bool) -> None:
    """Write a new base with all changes so far, and remove what it replaces."""
    folder, index = bank._folder, bank._follower.index
    with bank._writing() as turn:
        old, number = turn.about.base, turn.about.next_base
        turn.tell(next_base=number + 1)
        turn.commit()
    snapshot, slots, columns, sequence = bank._now().slot_map.freeze_slots()
    path = _live_folder.base_path(folder, number)
    try:
        with atomic_writer(path) as file:
            bank._write_frozen(file, snapshot, slots, columns, progress)
        del snapshot
        sync_folder(folder)
        with bank._writing(waits=True) as turn:  # or the disk might know the old base alone
            about = turn.about
            if about.base != old:
                raise _Superseded
            last = about.sequence + 1
            turn.drop(0, sequence)
            turn.add([Change(last, last, "compact")])
            first = turn.first_segment()
            # Those of compactions that were killed, or that this one supersedes.
            temporary = _live_folder.temporary_files(folder)
            turn.tell(base=number, base_sequence=sequence, sequence=last)
            bank._follower.publish(turn, last)
    except _Superseded:  # another process has done the same meanwhile
        path.unlink(missing_ok=True)
        return
    except BaseException as error:
        # A commit that was interrupted may have been made.
        with bank._lock:
            base = index.read(lambda about: about.sequence)[0].base
        if base != number:
            path.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) and base != old:
            return  # superseded, and what it was writing removed
        raise
    _live_folder.remove_left_over(folder, number, [about.segment, *filter(None, [first])])
    for left in temporary:
        left.unlink(missing_ok=True)


class _Superseded(InvalidStateError):
    pass
