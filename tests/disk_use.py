"""What lies in a cache directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def files(root: Path) -> list[Path]:
    return sorted(root.glob("v2/*/*"))


def used_bytes(root: Path) -> int:
    """What lies on disk now; other processes may add and remove meanwhile."""
    used = 0
    for path in files(root):
        with suppress(FileNotFoundError):
            used += path.stat().st_blocks * 512
    return used
