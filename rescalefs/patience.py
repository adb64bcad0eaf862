"""Who has just waited in vain does not wait again at once: an error that was long in coming stands for what follows.

A program that reads on after an error, or goes through a directory of which nothing can be had, would be kept for a
deadline by each of its calls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rescalefs.errors import Repeated, RescaleError
from rescalefs.timing import Clock

# What was waited for in vain is not waited for again for as long, and for this long at most; a moment does not count.
MAX_SILENCE_S = 10.0
MIN_SILENCE_S = 0.5


class _Silence(NamedTuple):
    """What was waited for in vain, when nothing came in between, and why it is not waited for before *until*."""

    what: frozenset[str]
    progress: int
    until: float
    error: RescaleError


class Patience:
    """Waits for things that come from one place. Threads: any.

    *progress* is a number that changes with each thing that comes. Who waited for *least* different things in vain, and
    nothing came since, is refused.
    """

    def __init__(self, progress: Callable[[], int], least: int = 1, *, clock: Clock = time.monotonic) -> None:
        self._progress, self._least, self._clock = progress, least, clock
        self._silence: _Silence | None = None  # replaced as a whole

    @contextlib.contextmanager
    def waiting(self, what: str = "") -> Iterator[None]:
        """Wait for *what* in this block.

        Raises:
            Repeated: others were waited for in vain, and it is not time to try again.
        """
        began = self._clock()
        silence = self._last()
        if silence is not None and len(silence.what) >= self._least and began < silence.until:
            raise Repeated(silence.error)
        try:
            yield
        except RescaleError as error:
            now = self._clock()
            if now - began >= MIN_SILENCE_S:
                silence = self._last()
                known = silence.what if silence is not None else frozenset()
                until = now + min(now - began, MAX_SILENCE_S)
                self._silence = _Silence(known | {what}, self._progress(), until, error)
            raise

    def _last(self) -> _Silence | None:
        silence = self._silence
        return silence if silence is not None and silence.progress == self._progress() else None
