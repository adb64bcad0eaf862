"""Where bytes come from, as far as fetching knows it."""

from __future__ import annotations

from typing import Protocol

from rescalefs.budget import Turn


class ContentStream(Protocol):
    """An answer to a request for bytes, read as it comes."""

    start: int
    total: int | None

    def readinto(self, buffer: memoryview) -> int:
        """Place the next bytes and return their number, 0 at the end."""

    def close(self) -> None:
        """End the transfer."""


class ContentSource(Protocol):
    """Where bytes come from."""

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> ContentStream:
        """Begin to read bytes [start, end) of a file; *turn* tells how urgent it is, and may change meanwhile."""
