"""Whether Rescale itself works: while an endpoint fails for everybody, its questions fail at once.

Answers of 5xx, or none, in a row, to questions about several resources, over some seconds, mean that the endpoint is
down: one file that cannot be read says nothing about the others. From then on its questions are not sent, but for one
every few seconds; the first that succeeds ends it. One line in the log tells the begin, one the end.

No network is `reach`'s matter.
"""

from __future__ import annotations

import logging
import threading
import time

from rescalefs.errors import Offline
from rescalefs.timing import Clock, date_text

log = logging.getLogger(__name__)

# For how long nothing but failures came before an endpoint counts as down: what is over sooner, retries bridge.
DOWN_AFTER_S = 10.0
# So many resources must fail, where there are several.
DOWN_RESOURCES = 3
# How often one question passes all the same.
PROBE_S = 3.0


class _Endpoint:
    """What is known of one that fails; guarded by `Breaker._lock`."""

    def __init__(self, failing_since: float) -> None:
        self.failing_since = failing_since  # by the clock
        self.resources: set[str] = set()
        self.reason = ""
        self.down_since: float | None = None  # by the wall clock
        self.probe_at = 0.0  # by the clock


class Breaker:
    """Knows which endpoints are down. Threads: any."""

    def __init__(self, *, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards the field below and what is in it; nothing is asked under it
        self._failing: dict[str, _Endpoint] = {}

    @property
    def status(self) -> str | None:
        """Return `failing since` when, what and why; None if nothing is down."""
        with self._lock:
            down = [(each.down_since, name, each.reason) for name, each in self._failing.items() if each.down_since]
        if not down:
            return None
        since, _, reason = min(down)
        when = date_text(since or 0)
        return f"failing since {when} ({', '.join(sorted(name for _, name, _ in down))}): {reason}"

    def check(self, endpoint: str, what: str) -> None:
        """Let a question pass.

        Raises:
            Offline: the endpoint is down, and it is not time to try it; *what* is not asked.
        """
        with self._lock:
            failing = self._failing.get(endpoint)
            if failing is None or failing.down_since is None:
                return
            now = self._clock()
            if now >= failing.probe_at:
                failing.probe_at = now + PROBE_S
                return
            reason = failing.reason
        raise Offline(f"{what}: not asked, Rescale fails: {reason}")

    def failed(self, endpoint: str, resource: str, reason: str, tried_s: float = 0.0) -> None:
        """Note that a question about *resource* (a path) failed for *reason*, in a try of that many seconds."""
        with self._lock:
            now = self._clock()
            failing = self._failing.setdefault(endpoint, _Endpoint(now - tried_s))
            failing.reason = reason
            if failing.down_since is not None:
                return
            failing.resources.add(resource)
            is_all = _is_only_one(resource) or len(failing.resources) >= DOWN_RESOURCES
            if not is_all or now - failing.failing_since < DOWN_AFTER_S:
                return
            failing.down_since = self._wall_clock()
            failing.resources.clear()
        log.warning("Rescale fails (%s): asking only once in %.0f s until it answers: %s", endpoint, PROBE_S, reason)

    def answered(self, endpoint: str) -> None:
        """Note that a question was answered, be it by a refusal."""
        with self._lock:
            failing = self._failing.pop(endpoint, None)
        if failing is not None and failing.down_since is not None:
            log.info("Rescale answers again (%s)", endpoint)


def _is_only_one(resource: str) -> bool:
    """Tell whether an endpoint has no other resource: `jobs/`, unlike `jobs/<id>/runs/`."""
    return resource.count("/") == 1
