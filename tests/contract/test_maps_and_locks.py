"""Maps and locks, as docs/semantics.md promises them.

Whatever maps a file runs in a process of its own: a page fault holds the interpreter, and the emulator is in this one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted
from tests.tools import MIB, distinct, python, refresh

pytestmark = pytest.mark.mount

MAPS = """
import hashlib, mmap, sys
for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
    with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as view:
        print(view[4_000_000:4_000_004].hex(), hashlib.sha512(view).hexdigest())
"""


def test_a_final_file_can_be_mapped_shared_and_private(run: Run, mounted: Mounted) -> None:
    """Before anything of it was read, and after."""
    data = distinct(run.job.id, 5 * MIB + 13)
    run.add_file("file", data)

    seen = python(MAPS, mounted.top(run) / "file")

    assert seen == f"{data[4_000_000:4_000_004].hex()} {hashlib.sha512(data).hexdigest()}\n" * 2


OWN = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view:
        view[:4] = b"mine"
        print(view[:4].decode())
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as other:
            print(other[:4].decode())
    print(file.read(4).decode())
"""


def test_what_is_written_to_a_private_map_stays_there(outputs: Path) -> None:
    assert python(OWN, outputs / "process_output.log") == "mine\nTime\nTime\n"


SHARED = """
import errno, mmap, sys
with open(sys.argv[1], "rb") as file:
    try:
        mmap.mmap(file.fileno(), 9, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
PRIVATE = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
        print(len(view), view[:4].decode())
"""


def test_a_shared_map_of_a_live_file_gives_enodev(top: Path) -> None:
    assert python(SHARED, top / "log") == "ENODEV\n"


def test_a_live_file_can_be_mapped_private(top: Path) -> None:
    assert python(PRIVATE, top / "log") == "9 Time\n"


def test_a_shared_map_of_a_file_whose_final_run_has_just_changed_gives_enodev(run: Run, outputs: Path) -> None:
    """A private map of it has the bytes."""
    assert python(SHARED, outputs / "process_output.log") == ""
    run.add_file("more", b"1")
    refresh(outputs)

    assert "more" in os.listdir(outputs)
    assert python(SHARED, outputs / "process_output.log") == "ENODEV\n"
    size = (outputs / "process_output.log").stat().st_size
    assert python(PRIVATE, outputs / "process_output.log") == f"{size} Time\n"


def test_flock_keeps_other_processes_of_the_machine_out(outputs: Path, top: Path) -> None:
    held = "import fcntl, sys; held = open(sys.argv[1]); fcntl.flock(held, fcntl.LOCK_EX); exec(sys.argv[2])"
    inner = "import subprocess; print(subprocess.run(['flock', '-n', sys.argv[1], 'true']).returncode)"
    free = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB); print('mine')"

    for path in (outputs / "big.bin", top / "log"):
        assert python(held, path, inner) == "1\n"
        assert python(free, path) == "mine\n"


READ_LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1]), fcntl.LOCK_SH | fcntl.LOCK_NB); print('shared')"


def test_a_posix_lock_for_reading_can_be_had(outputs: Path, top: Path) -> None:
    for path in (outputs / "big.bin", top / "log"):
        assert python(READ_LOCK, path) == "shared\n"


def test_a_lock_asks_nothing(outputs: Path, emulator: Emulator) -> None:
    (outputs / "big.bin").stat()
    emulator.reset_counts()

    python(READ_LOCK, outputs / "big.bin")
    python(READ_LOCK.replace("lockf", "flock"), outputs / "big.bin")

    assert emulator.requests.total() == 0
