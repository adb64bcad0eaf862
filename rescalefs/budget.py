"""The request budget: how fast this process may ask, per rate-limit scope of the API.

Each scope is a bucket (generic cell rate algorithm: one number, the time at which the bucket would be full again).
A 429 halves its rate and stops every scope for Retry-After; answers let the rate grow back.
The limits are per user and shared with the user's other tools, hence the rates below the documented ones.
Source of the documented limits: Rescale Interlink `ratelimit/constants.go` (2025-11).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rescalefs.errors import DeadlineExceeded
from rescalefs.timing import Clock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `per_s` requests a second on the long run, `burst` of them at once.

    Where the limit is not known, the rate may grow to `most_per_s` as long as the API does not object.
    """

    per_s: float
    burst: int
    most_per_s: float = 0.0


# v2 job queries are documented at 25/s; 20 leaves room for the user's other tools.
JOBS = "jobs-usage"
# The file-access limit is not documented: 20/s with a burst that lets 64 streams begin at once, and more if that is
# borne, up to where this process would be the limit.
CONTENTS = "file-access"
# Not documented; tail and directory-contents run commands on the user's own cluster, so they go gently.
RUNS = "runs-usage"
DEFAULT_RATES: Mapping[str, Rate] = {JOBS: Rate(20, 40), CONTENTS: Rate(20, 64, 200), RUNS: Rate(2, 10)}

# Set to `off`, requests go out unpaced: for platforms of one's own, such as the emulator under a benchmark.
SWITCH = "RESCALEFS_BUDGET"

# Below this a throttled scope does not fall: one request in ten seconds still shows recovery.
_FLOOR_PER_S = 0.1
# Share of the full rate gained by each answer that is not a 429: a halved rate is back after 50 answers.
_GAIN = 0.01


def rates(environ: Mapping[str, str]) -> Mapping[str, Rate]:
    """Return the rates that *environ* asks for: the default ones, or none where `SWITCH` is `off`.

    A 429 stops requests for its Retry-After either way.
    """
    return {} if environ.get(SWITCH) == "off" else DEFAULT_RATES


class _Bucket:
    """One scope's state; every field is guarded by `Budget._lock`."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.full = rate
        self.per_s = rate.per_s
        self.full_again_at = now


class Budget:
    """Paces requests. Threads: any; a caller sleeps outside the lock."""

    def __init__(
        self,
        rates: Mapping[str, Rate] = DEFAULT_RATES,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()  # guards the buckets and the two fields below; nobody sleeps under it
        self._buckets = {scope: _Bucket(rate, clock()) for scope, rate in rates.items()}
        self._stopped_until = clock()
        self._throttled_s = 0.0

    def take(self, scope: str, deadline_at: float) -> None:
        """Wait until one request of *scope* may go out. A scope without a rate is not limited.

        Raises:
            DeadlineExceeded: it may not go out before *deadline_at*; nothing was taken,
                unless a 429 came while it waited.
        """
        go_at, throttled_s = self._reserve(scope, deadline_at)
        while True:
            with self._lock:
                # A stop puts off all who wait by its length, so that they do not go at once when it ends.
                wait_s = max(go_at + (self._throttled_s - throttled_s), self._stopped_until) - self._clock()
            if wait_s <= 0:
                return
            if self._clock() + wait_s > deadline_at:
                raise DeadlineExceeded(f"the request budget for {scope} is used up for {wait_s:.0f} s")
            self._sleep(wait_s)

    def _reserve(self, scope: str, deadline_at: float) -> tuple[float, float]:
        """Return when the request may go, and the length of all stops that this time takes into account."""
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(scope)
            if bucket is None:
                return now, self._throttled_s
            interval_s = 1 / bucket.per_s
            full_again_at = max(bucket.full_again_at, now)
            # At a lower rate the burst is worth as many seconds, at a higher one as many requests: never more at once.
            burst_s = (bucket.full.burst - 1) / max(bucket.per_s, bucket.full.per_s)
            go_at = max(full_again_at - burst_s, self._stopped_until)
            if go_at > deadline_at:
                raise DeadlineExceeded(f"the request budget for {scope} is used up for {go_at - now:.0f} s")
            bucket.full_again_at = full_again_at + interval_s
            return go_at, self._throttled_s

    def throttled(self, scope: str, wait_s: float) -> None:
        """The API answered 429: halve the scope's rate, and stop all scopes for *wait_s* seconds."""
        with self._lock:
            now = self._clock()
            stop_s = max(0.0, now + wait_s - max(now, self._stopped_until))
            self._throttled_s += stop_s
            self._stopped_until = max(self._stopped_until, now + wait_s)
            for each in self._buckets.values():
                each.full_again_at = max(each.full_again_at, now) + stop_s  # no bucket fills up while all are stopped
            bucket = self._buckets.get(scope)
            if bucket is not None:
                bucket.per_s = max(_FLOOR_PER_S, bucket.per_s / 2)
                log.warning("Rescale throttles %s: waiting %.0f s, then %.1f requests/s", scope, wait_s, bucket.per_s)

    def succeeded(self, scope: str) -> None:
        """An answer came that was not a 429: let the scope's rate grow."""
        with self._lock:
            bucket = self._buckets.get(scope)
            if bucket is not None:
                most_per_s = max(bucket.full.per_s, bucket.full.most_per_s)
                bucket.per_s = min(most_per_s, bucket.per_s + bucket.full.per_s * _GAIN)

    @property
    def throttled_s(self) -> float:
        """Seconds for which the API has asked us to wait, so far."""
        with self._lock:
            return self._throttled_s
