"""Whether Rescale can be reached at all. Without a network no question is asked, so that none has to wait.

A connection that cannot be made, again half a second later, with no answer in between, means that there is no network.
From then on questions fail at once, one line is in the log, and one thread looks every few seconds whether it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rescalefs.errors import Offline
from rescalefs.timing import Clock, date_text

log = logging.getLogger(__name__)

# How long no connection can be made before that is called "no network": a question then fails within a second.
GIVEN_UP_AFTER_S = 0.5
# How often it is looked for.
LOOK_S = 2.0


class Reach:
    """Knows whether there is a way to Rescale. Threads: any."""

    def __init__(self, *, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards the three fields below; nothing is asked under it
        self._failing_since: float | None = None  # by the clock
        self._offline_since: float | None = None  # by the wall clock
        self._reason = ""
        self._look: Callable[[], bool] | None = None
        self._is_closed = threading.Event()

    def start(self, look: Callable[[], bool]) -> None:
        """Begin to look for the network by *look* whenever it is lost. Called in the process that stays."""
        self._look = look

    def close(self) -> None:
        """End the looking."""
        self._is_closed.set()

    @property
    def status(self) -> str:
        """Return `online`, or `offline since` when and why."""
        with self._lock:
            since, reason = self._offline_since, self._reason
        if since is None:
            return "online"
        when = date_text(since)
        return f"offline since {when}: {reason}"

    @property
    def is_offline(self) -> bool:
        """True while there is no network."""
        with self._lock:
            return self._offline_since is not None

    def check(self, what: str) -> None:
        """Let a question pass.

        Raises:
            Offline: there is no network; *what* cannot be asked.
        """
        if self.is_offline:
            raise Offline(f"{what}: {self.status}")

    def failed(self, reason: str, tried_s: float = 0.0) -> None:
        """Note that no connection could be made, for *reason*, in a try of that many seconds."""
        with self._lock:
            if self._failing_since is None:
                self._failing_since = self._clock() - tried_s
            if self._offline_since is not None or self._clock() - self._failing_since < GIVEN_UP_AFTER_S:
                return
            self._offline_since = self._wall_clock()
            self._reason = reason
        log.warning("no way to Rescale (%s): showing what is here, asking nothing until it is back", reason)
        if self._look is not None:
            threading.Thread(target=self._look_until_back, name="reach", daemon=True).start()

    def answered(self) -> None:
        """Note that Rescale has answered, whatever it said."""
        with self._lock:
            was_offline = self._offline_since is not None
            self._failing_since = self._offline_since = None
        if was_offline:
            log.info("Rescale can be reached again")

    def _look_until_back(self) -> None:
        while self._look is not None and not self._is_closed.wait(LOOK_S):
            if self._look():
                self.answered()
                return
