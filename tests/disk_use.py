"""A small file system, and what lies in a cache directory."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DISK_BYTES = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make file systems of 1 MiB: `small_disk("name")`."""
    made: list[Path] = []

    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "rescalefs-test", str(path)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root can mount a small file system")
        made.append(path)
        return path

    yield make
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    """A file system of 1 MiB."""
    return small_disk("disk")


def fill(disk: Path, left_bytes: int = 0) -> Path:
    """Let others use the disk but for *left_bytes*."""
    room = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - left_bytes))
    return ballast


def files(root: Path) -> list[Path]:
    return sorted(root.glob("v2/*/*"))


def used_bytes(root: Path) -> int:
    """What lies on disk now; other processes may add and remove meanwhile."""
    used = 0
    for path in files(root):
        with suppress(FileNotFoundError):
            used += path.stat().st_blocks * 512
    return used


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the paths begin of files that the disk does not give back; none yet."""
    read, begins = os.pread, list[str]()

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if begins and os.readlink(f"/proc/self/fd/{descriptor}").startswith(tuple(begins)):
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return begins
