"""What tests on mounts share: a set of files, and commands run in the mount."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rescalefs.emulator.server import Emulator

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
