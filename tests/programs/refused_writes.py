"""Save under a limit on the size of files: refused_writes.py FOLDER.

Writes come back short and then fail. The old file stays whole.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from bank_files import make_bank, to_bytes
from mlpbank.files import _mapped

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_mapped._WRITE_BYTES = 3000
folder = Path(sys.argv[1])
path = folder / "bank"
old, new = make_bank(30, 0), make_bank(200, 1)
old.save(path)
before, after = path.read_bytes(), to_bytes(new)
for limit in range(0, len(after), len(after) // 50):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with pytest.raises(OSError, match="File too large"):
        new.save(path)
    assert path.read_bytes() == before
    assert os.listdir(folder) == ["bank"]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
new.save(path)
assert path.read_bytes() == after
