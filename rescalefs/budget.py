"""The request budget: how fast this process may ask, per rate-limit scope of the API, and who goes first.

Each scope is a bucket (generic cell rate algorithm: one number, the time at which the bucket would be full again) with
a queue: reads that somebody waits for before listings before what is fetched ahead.
A 429 halves the rate of its scope and stops every scope for Retry-After; answers let the rate grow back, quickly until
the first 429 and slowly after it. What was learnt may be kept and given to the next budget.
The limits are per user and shared with the user's other tools, hence the rates below the documented ones.
Source of the documented limits: Rescale Interlink `ratelimit/constants.go` (2025-11).
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

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

# Below this a throttled scope does not fall, nor a slower one at all: what takes a few requests must have its answer
# within the deadline for names, and each 429 stops everything for as long as it says anyway.
FLOOR_PER_S = 0.5
# A slower rate nobody may choose.
LEAST_PER_S = 0.1
# Share of the full rate gained by each answer that is not a 429, as long as there never was one.
_GAIN = 0.01
# The same in a second of answers once there was one: a halved rate is back after 25 s, not in a moment.
_CAREFUL_GAIN_PER_S = 0.02
# So often somebody may be overtaken who waits longer than all others; then it is his turn, whatever he waits for.
OVERTAKEN = 3
# How soon who waits looks again whether it is his turn, if nobody tells him; and what no clock need tell apart.
_LOOK_S = 0.01
_TICK_S = 1e-6
_UNLIMITED = Rate(math.inf, 1)
_RATE = re.compile(r"([a-z-]+)=(\d+(?:\.\d+)?)(?::(\d+))?")


def rates(environ: Mapping[str, str], chosen: Mapping[str, Rate] | None = None) -> Mapping[str, Rate]:
    """Return the default rates but for the *chosen* ones; none where `SWITCH` is `off` in *environ*.

    A 429 stops requests for its Retry-After either way.
    """
    return {} if environ.get(SWITCH) == "off" else {**DEFAULT_RATES, **(chosen or {})}


def parse_rate(text: str) -> tuple[str, Rate]:
    """Return the scope and the rate that "jobs-usage=10" or "file-access=50:100" mean: requests a second, and a burst.

    Raises:
        ValueError: it is none.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or match[1] not in DEFAULT_RATES:
        raise ValueError(f"{text!r} is no rate; write SCOPE=PER_S or SCOPE=PER_S:BURST for {', '.join(DEFAULT_RATES)}")
    per_s, burst = float(match[2]), int(match[3] or DEFAULT_RATES[match[1]].burst)
    if per_s < LEAST_PER_S or burst < 1:
        raise ValueError(f"{text!r}: at least {LEAST_PER_S} requests a second, and a burst of 1")
    return match[1], Rate(per_s, burst)


class Priority(IntEnum):
    """Who goes first."""

    READ = 0  # somebody waits for these bytes, or for what comes of an act
    LISTING = 1
    AHEAD = 2  # nobody waits yet, or something known can be shown meanwhile


class Turn:
    """How urgent a request is; this may change while it waits in the queue. Threads: any."""

    def __init__(self, priority: Priority) -> None:
        self.priority = priority

    def hurry(self) -> None:
        """Somebody waits for it now."""
        self.priority = Priority.READ  # the queue looks at it whenever somebody may go


class _Waiter:
    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.woken = threading.Event()  # it may be his turn now


class _Bucket:
    """One scope's state; every field is guarded by `Budget._lock`."""

    def __init__(self, rate: Rate, remembered_per_s: float | None, now: float) -> None:
        self.full = rate
        self.most_per_s = max(rate.per_s, rate.most_per_s)
        self.least_per_s = min(FLOOR_PER_S, rate.per_s)
        self.per_s = rate.per_s
        if remembered_per_s is not None:
            self.per_s = min(self.most_per_s, max(self.least_per_s, remembered_per_s))
        self.is_careful = remembered_per_s is not None  # something is known of the limit
        self.halvings = 0
        self.full_again_at = now
        self.waiting: list[_Waiter] = []  # as they came
        self.overtaken = 0  # how often the first of these

    def free_at(self, now: float, ahead: int = 0) -> float:
        """Return when one may go if *ahead* others go before."""
        # At a lower rate the burst is worth as many seconds, at a higher one as many requests: never more at once.
        burst_s = (self.full.burst - 1) / max(self.per_s, self.full.per_s)
        return max(self.full_again_at, now) - burst_s + ahead / self.per_s

    def first(self) -> _Waiter:
        """Return whose turn it is."""
        if self.overtaken >= OVERTAKEN:
            return self.waiting[0]
        return min(self.waiting, key=lambda waiter: waiter.turn.priority)

    def ahead_of(self, waiter: _Waiter) -> int:
        """Return how many go before him, at least."""
        place = self.waiting.index(waiter)
        rank = waiter.turn.priority, place
        return min(place, sum((other.turn.priority, at) < rank for at, other in enumerate(self.waiting)))

    def go(self, waiter: _Waiter, now: float) -> None:
        """Let him go."""
        self.full_again_at = max(self.full_again_at, now) + 1 / self.per_s
        self.overtaken += 1
        self.leave(waiter)

    def leave(self, waiter: _Waiter) -> None:
        """Take him from the queue, and tell whose turn it is then."""
        if waiter is self.waiting[0]:
            self.overtaken = 0
        self.waiting.remove(waiter)
        if self.waiting:
            self.first().woken.set()


class Budget:
    """Paces requests. Threads: any; a caller waits outside the lock.

    It begins with the rates *remembered* of an earlier one, and tells *on_learnt* whenever a 429 has taught it others.
    """

    def __init__(
        self,
        rates: Mapping[str, Rate] = DEFAULT_RATES,
        *,
        remembered: Mapping[str, float] | None = None,
        on_learnt: Callable[[Mapping[str, float]], None] = lambda _rates: None,
        clock: Clock = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._clock = clock
        self._wait = wait
        self._on_learnt = on_learnt
        self._lock = threading.Lock()  # guards the buckets and the two fields below; nobody waits under it
        now = clock()
        remembered = remembered or {}
        self._buckets = {scope: _Bucket(rate, remembered.get(scope), now) for scope, rate in rates.items()}
        self._stopped_until = now
        self._throttled_s = 0.0

    def take(self, scope: str, deadline_at: float, turn: Turn | None = None) -> int:
        """Wait until one request of *scope* may go out: a listing, or what *turn* says.

        Return what `throttled` and `succeeded` need to know of it. A scope without a rate is not limited.

        Raises:
            DeadlineExceeded: it may not go out before *deadline_at*; nothing was taken.
        """
        waiter = _Waiter(turn or Turn(Priority.LISTING))
        with self._lock:
            bucket = self._bucket(scope)
            bucket.waiting.append(waiter)
        while True:
            with self._lock:
                now = self._clock()
                first = bucket.first()
                may_go_at = max(bucket.free_at(now), self._stopped_until)
                if first is waiter and may_go_at <= now + _TICK_S:
                    bucket.go(waiter, now)
                    return bucket.halvings
                goes_at = max(bucket.free_at(now, bucket.ahead_of(waiter)), self._stopped_until, now)
                if goes_at > deadline_at:
                    bucket.leave(waiter)
                    raise DeadlineExceeded(f"the request budget for {scope} is used up for {goes_at - now:.0f} s")
                if may_go_at <= now:
                    first.woken.set()
            self._wait(waiter.woken, goes_at - now if first is waiter else max(goes_at - now, _LOOK_S))
            waiter.woken.clear()

    def throttled(self, scope: str, wait_s: float, taken: int) -> None:
        """The API answered 429: stop all scopes for *wait_s* seconds, and halve the scope's rate.

        Of requests that were on their way together the first one halves it: *taken* is what `take` returned.
        """
        with self._lock:
            now = self._clock()
            stop_s = max(0.0, now + wait_s - max(now, self._stopped_until))
            self._throttled_s += stop_s
            self._stopped_until = max(self._stopped_until, now + wait_s)
            for each in self._buckets.values():
                each.full_again_at = max(each.full_again_at, now) + stop_s  # no bucket fills up while all are stopped
                for waiter in each.waiting:
                    waiter.woken.set()  # there may be no time left for him
            bucket = self._bucket(scope)
            is_news = taken == bucket.halvings
            if is_news:
                bucket.halvings += 1
                bucket.is_careful = True
                bucket.per_s = max(bucket.least_per_s, bucket.per_s / 2)
            rate = f", then {bucket.per_s:.1f} requests/s" if bucket.per_s < math.inf else ""
        if is_news:
            log.warning("Rescale throttles %s: waiting %.0f s%s", scope, wait_s, rate)
            self._on_learnt(self.learnt)

    def succeeded(self, scope: str, taken: int) -> None:
        """An answer came that was not a 429: let the scope's rate grow, unless it was sent at another rate."""
        with self._lock:
            bucket = self._bucket(scope)
            if taken == bucket.halvings and bucket.per_s < bucket.most_per_s:
                gain = min(_GAIN, _CAREFUL_GAIN_PER_S / bucket.per_s) if bucket.is_careful else _GAIN
                bucket.per_s = min(bucket.most_per_s, bucket.per_s + bucket.full.per_s * gain)

    @property
    def rates(self) -> Mapping[str, float]:
        """The present rate of each scope that has one, in requests a second."""
        with self._lock:
            return {scope: bucket.per_s for scope, bucket in self._buckets.items() if bucket.per_s < math.inf}

    @property
    def learnt(self) -> Mapping[str, float]:
        """The rates that are others than the default or chosen ones: what the next budget should remember."""
        with self._lock:
            return {scope: each.per_s for scope, each in self._buckets.items() if each.per_s != each.full.per_s}

    @property
    def throttled_s(self) -> float:
        """Seconds for which the API has asked us to wait, so far."""
        with self._lock:
            return self._throttled_s

    def _bucket(self, scope: str) -> _Bucket:
        bucket = self._buckets.get(scope)
        if bucket is None:
            bucket = self._buckets[scope] = _Bucket(_UNLIMITED, None, self._clock())
        return bucket
