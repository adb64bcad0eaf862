"""Time in the emulated world: seconds since the epoch, as floats.

A world asks its clock and never the system, so that a test can let an hour pass at once.
"""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...


class RealClock:
    """The system's time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()


class ManualClock:
    """A clock that stands still until it is told to move.

    Threads: any method, any thread.
    """

    def __init__(self, start: float | None = None) -> None:
        """Start at *start* seconds since the epoch; without it, at the present."""
        self._now = time.time() if start is None else start
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        with self._lock:
            self._now += seconds


def iso(seconds: float, zone: str = "Z") -> str:
    """Return *seconds* since the epoch as the API writes times: microseconds, left out when they are zero.

    *zone* is `Z` or an offset such as `+00:00` or `-07:00`: the API uses all three (statuses `+00:00`,
    files and runs `Z`, old files a local offset), and drops a zero fraction as Django REST Framework does.
    """
    moment = _EPOCH + timedelta(microseconds=round(seconds * 1_000_000))
    if zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        moment += sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    return moment.replace(tzinfo=None).isoformat() + zone


def parse_iso(text: str) -> float:
    """Return an ISO 8601 time with a zone as seconds since the epoch.

    Raises:
        ValueError: the text is no such time.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time such as 2024-05-02T10:11:12Z")
    day, clock, fraction, zone = match.groups()
    whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone == 'Z' else zone}")
    return (whole - _EPOCH).total_seconds() + float(fraction or 0)
