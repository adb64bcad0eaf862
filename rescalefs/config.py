"""The settings of a mount, and how sizes and `-o` options are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rescalefs.budget import Rate

# Waits of a caller in the kernel: for names, sizes and states, and for bytes.
METADATA_DEADLINE_S = 15.0
DATA_DEADLINE_S = 60.0
DEFAULT_CACHE_SIZE = "20G"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# Options of mount(8), fstab and systemd that mean nothing to this file system, or that hold anyway: the kernel checks
# modes whatever is asked for.
_IGNORED = re.compile(
    r"(_netdev|nofail|noauto|auto|users?|nouser|owner|group|rw|(no)?(exec|suid|dev|atime|diratime|relatime)"
    r"|default_permissions(=.*)?|defaults|async|sync|x-.*|comment=.*)"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to mount, checked and complete."""

    mount_point: Path
    cache_directory: Path
    cache_bytes: int
    is_verified_first: bool = False
    is_read_only: bool = False
    allow_other: bool = False
    metadata_deadline_s: float = METADATA_DEADLINE_S
    data_deadline_s: float = DATA_DEADLINE_S
    fuse_options: Mapping[str, str | bool] | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)  # chosen, by scope

    def public(self) -> Mapping[str, object]:
        """Return what `.rescale/config` shows: everything but secrets, of which there are none here."""
        return {
            "mount_point": self.mount_point,
            "cache_directory": self.cache_directory,
            "cache_bytes": self.cache_bytes,
            "verify": "first" if self.is_verified_first else "last",
            "read_only": "yes" if self.is_read_only else "no",
            "allow_other": "yes" if self.allow_other else "no",
            "metadata_deadline_s": self.metadata_deadline_s,
            "data_deadline_s": self.data_deadline_s,
            **{f"rate.{scope}": f"{rate.per_s:g}:{rate.burst}" for scope, rate in self.rates.items()},
        }


def parse_size(text: str) -> int:
    """Return the bytes that "500M" or "20G" mean (powers of 1024).

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write for example 500M or 20G")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


def parse_mount_options(texts: tuple[str, ...]) -> dict[str, str | bool]:
    """Split `-o a,b=c` words; leave out those that mean nothing here.

    `ro` and `allow_other` stay, for the command line to understand; the rest is handed to FUSE.
    """
    words = [word for text in texts for word in text.split(",") if word]
    options: dict[str, str | bool] = {}
    for word in words:
        if not _IGNORED.fullmatch(word):
            name, is_valued, value = word.partition("=")
            options[name] = value if is_valued else True
    return options
