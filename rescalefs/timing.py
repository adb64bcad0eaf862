"""Deadlines: points on `time.monotonic`'s scale after which nobody waits any more. And dates in words.

A callback of the kernel may wait several times, for a job, its runs, their files; `within` bounds all of it together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import datetime, timezone

from rescalefs.errors import DeadlineExceeded

Clock = Callable[[], float]
# How soon who waits for longer than usual is asked whether he still does.
LOOK_S = 0.5
# When the callback that this thread serves must have its answer, and whether that may be put off.
_ends_at: ContextVar[tuple[float, Callable[[], bool]]] = ContextVar("ends_at", default=(float("inf"), lambda: True))


class within:
    """Let whoever waits in this block do so for *seconds* altogether.

    While an answer comes, part after part, that begins anew with each, as long as who waits *may_go_on*.
    """

    __slots__ = ("_end", "_token")

    def __init__(self, seconds: float, may_go_on: Callable[[], bool] = lambda: True) -> None:
        self._end = seconds, may_go_on

    def __enter__(self) -> None:
        seconds, may_go_on = self._end
        end = min(_ends_at.get()[0], time.monotonic() + seconds), may_go_on
        self._token: Token[tuple[float, Callable[[], bool]]] = _ends_at.set(end)

    def __exit__(self, *_: object) -> None:
        _ends_at.reset(self._token)


def patience_s(seconds: float) -> float:
    """Return how long this thread may wait now: *seconds*, or what is left of its callback's time."""
    return max(0.0, min(seconds, _ends_at.get()[0] - time.monotonic()))


def begin_anew(seconds: float) -> bool:
    """Let this thread wait for *seconds* from now on, if it had less; False if it may not go on."""
    ends_at, may_go_on = _ends_at.get()
    if not may_go_on():
        return False
    _ends_at.set((max(ends_at, time.monotonic() + seconds), may_go_on))
    return True


def remaining_s(deadline_at: float, what: str, clock: Clock = time.monotonic) -> float:
    """Return the seconds left until *deadline_at*.

    Raises:
        DeadlineExceeded: none are left; the text names *what* was waited for.
    """
    left_s = deadline_at - clock()
    if left_s <= 0:
        raise DeadlineExceeded(f"{what}: no answer in time")
    return left_s


def date_text(seconds: float) -> str:
    """Return a point in time, in seconds since the epoch, as ISO 8601 in UTC: `2026-11-24T02:39:24Z`."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
