"""What tests on mounts share: a set of files, and commands run in the mount."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run

MIB = 1 << 20
FILES = {
    "process_output.log": b"Time = 1\nTime = 2\n",
    "empty": b"",
    "case/0/U": bytes(range(256)) * 5,
    "case/100/U": b"\x00" * 4097,
    "case/100/uniform/time": b"100\n",
    "with space/and ünïcode \U0001f600.txt": b"x" * 131_073,
    "big.bin": hashlib.shake_128(b"big").digest(5 * MIB + 13),
    "-n": b"a leading dash\n",
}


def run_in(command: str | Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory of the mount.

    Not by subprocess's `cwd`: between vfork and exec it holds the interpreter, and the emulator lives in this process.
    """
    words = ["bash", "-c", command] if isinstance(command, str) else [*command]
    command = ["env", "-C", str(cwd), "LC_ALL=C.UTF-8", *words]
    return subprocess.run(command, capture_output=True, text=True, errors="surrogateescape")


def sh(command: str | Sequence[str], cwd: Path) -> str:
    """Run a command that must succeed; return what it prints."""
    done = run_in(command, cwd)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def posts(emulator: Emulator) -> int:
    """Return how many requests that could act were made."""
    return emulator.methods["POST"]


def sent_bytes(emulator: Emulator, *runs: Run) -> int:
    """Return how many bytes of these runs' files were sent."""
    ids = [file.id for run in runs for file in run.files]
    return sum(entry.bytes_sent for entry in emulator.log if any(f"/files/{id}/" in entry.path for id in ids))


def python(code: str, *args: Path | str, seconds: float = 60) -> str:
    """Run Python code in another process; return what it prints.

    Whatever maps a file, or could hang, belongs there: the emulator lives in this process.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errno_of(call: Callable[..., object], *args: object) -> str:
    """Return the name of the errno that a call fails with, "" if it works."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def write(path: Path, payload: bytes) -> None:
    """Write as a shell does: truncate, one write, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, payload)
    finally:
        os.close(descriptor)


def refresh(top: Path) -> None:
    """Have the mount ask again for what is in a run, a job or all of it."""
    write(top / ".rescale/refresh", b"1\n")


def paths_below(top: Path) -> set[str]:
    """Return the paths of all files below a directory."""
    return {os.path.relpath(os.path.join(place, name), top) for place, _, names in os.walk(top) for name in names}


def distinct(seed: str, size: int) -> bytes:
    """Return bytes that no other file has: equal ones are fetched once."""
    return hashlib.shake_128(seed.encode(errors="surrogatepass")).digest(size)
