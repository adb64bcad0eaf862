"""Deadlines: points on `time.monotonic`'s scale after which nobody waits any more."""

from __future__ import annotations

import time
from collections.abc import Callable

from rescalefs.errors import DeadlineExceeded

Clock = Callable[[], float]


def remaining_s(deadline_at: float, what: str, clock: Clock = time.monotonic) -> float:
    """Return the seconds left until *deadline_at*.

    Raises:
        DeadlineExceeded: none are left; the text names *what* was waited for.
    """
    left_s = deadline_at - clock()
    if left_s <= 0:
        raise DeadlineExceeded(f"{what}: no answer in time")
    return left_s
