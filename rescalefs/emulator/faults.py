"""Faults: what the emulated API does wrong on purpose, each switched by one keyword.

    emu.faults.add(endpoint="contents", times=3, status=503)
    emu.faults.add(path=r"/tail/", latency_s=2.0, cut_after=1000)
    emu.faults.add(scope="jobs-usage", throttle=Bucket(per_s=25, burst=50))

A new kind of fault is one function: marked `@kind` it gets the exchange before it is handled, marked `@edit`
the finished answer; and the keyword's value.
Threads: `Faults` may be used from any thread.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from rescalefs.emulator.content import Content
from rescalefs.emulator.exchange import JSON, Answer, Effect, Exchange, error

KINDS: dict[str, Effect] = {}


def kind(effect: Effect) -> Effect:
    """Make *effect* a fault, under the name of the function."""
    KINDS[effect.__name__] = effect
    return effect


def edit(change: Callable[[Answer, Any], None]) -> Callable[[Answer, Any], None]:
    """Make a fault of *change*, which is done to the finished answer."""
    KINDS[change.__name__] = lambda exchange, value: exchange.edits.append(lambda answer: change(answer, value))
    return change


class Bucket:
    """A token bucket: *burst* requests at once, then *per_s* a second."""

    def __init__(self, per_s: float, burst: float) -> None:
        """Begin full."""
        self.per_s = per_s
        self.burst = burst
        self._tokens = burst
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.per_s)
            self._filled = now
            if self._tokens < 1:
                return (1 - self._tokens) / self.per_s
            self._tokens -= 1
            return 0.0


class Fault:
    """Which requests are hit, and with what. `hits` counts them."""

    def __init__(
        self,
        effects: dict[str, Any],
        *,
        endpoint: str | None,
        path: str | None,
        method: str | None,
        scope: str | None,
        skip: int,
        times: int | None,
    ) -> None:
        """See `Faults.add`."""
        self.effects = effects
        self.hits = 0
        self._wanted = {"endpoint": endpoint, "method": method, "scope": scope}
        self._path = None if path is None else re.compile(path)
        self._skip = skip
        self._times = times

    def claims(self, exchange: Exchange) -> bool:
        """Tell whether this request is hit, and count it."""
        for name, value in self._wanted.items():
            if value is not None and getattr(exchange, name) != value:
                return False
        if self._path is not None and not self._path.search(exchange.path):
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        if self._times is not None and self.hits >= self._times:
            return False
        self.hits += 1
        return True


class Faults:
    """All faults of an emulator; several may hit one request, in the order they were added."""

    def __init__(self) -> None:
        """Begin without any."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        *,
        endpoint: str | None = None,
        path: str | None = None,
        method: str | None = None,
        scope: str | None = None,
        nth: int | None = None,
        skip: int = 0,
        times: int | None = None,
        **effects: Any,
    ) -> Fault:
        """Add a fault with *effects* (names of `KINDS`), for requests that match everything given.

        *path* is a regular expression searched in the encoded path; *skip* spares the first that match,
        *times* is how many are hit then (None: all), *nth* hits the nth alone.

        Raises:
            TypeError: no kind of fault has such a name.
        """
        unknown = set(effects) - set(KINDS)
        if unknown or not effects:
            raise TypeError(f"{sorted(unknown)} is no kind of fault; there are {', '.join(sorted(KINDS))}")
        if nth is not None:
            skip, times = nth - 1, 1
        fault = Fault(effects, endpoint=endpoint, path=path, method=method, scope=scope, skip=skip, times=times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End *fault*."""
        with self._lock:
            self._faults.remove(fault)

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    def strike(self, exchange: Exchange) -> None:
        """Let every fault that claims *exchange* do its work on it."""
        with self._lock:
            claimed = [fault for fault in self._faults if fault.claims(exchange)]
        for fault in claimed:
            for name, value in fault.effects.items():
                KINDS[name](exchange, value)


class _Damaged(Content):
    """Another content with the byte at *position* inverted."""

    def __init__(self, content: Content, position: int) -> None:
        super().__init__(content.size)
        self._content = content
        self._position = position

    def read(self, start: int, stop: int) -> bytes:
        data = bytearray(self._content.read(start, stop))
        if start <= self._position < start + len(data):
            data[self._position - start] ^= 0xFF
        return bytes(data)


# Decided before the request is handled: what is put in place of an answer leaves the world untouched.


@kind
def latency_s(exchange: Exchange, seconds: float) -> None:
    """Wait before anything is looked at."""
    exchange.delay_s += seconds


@kind
def until(exchange: Exchange, event: threading.Event) -> None:
    """Wait until *event* is set, before anything is looked at."""
    exchange.held_until = event


@kind
def status(exchange: Exchange, code: int) -> None:
    """Answer *code* without doing what was asked."""
    exchange.instead = error(code)


@kind
def redirect(exchange: Exchange, location: str) -> None:
    """Answer 302 to *location*; combine with `late_status` for another code."""
    exchange.instead = error(302, "Moved.", Location=location)


@kind
def throttle(exchange: Exchange, bucket: Bucket) -> None:
    """Answer 429 with Retry-After when *bucket* is empty, in Django REST Framework's words."""
    wait_s = bucket.take()
    if wait_s:
        seconds = max(1, round(wait_s + 0.5))
        detail = f"Request was throttled. Expected available in {seconds} seconds."
        exchange.instead = error(429, detail, Retry_After=str(seconds))


@kind
def ignore_range(exchange: Exchange, ignored: bool) -> None:
    """Answer 200 with everything, whatever range was asked."""
    if ignored:
        exchange.range = None


@kind
def count_plus(exchange: Exchange, rows: int) -> None:
    """Promise *rows* more than there are: `count` lies, and the pages that follow the last are empty."""
    exchange.count_plus = rows


@kind
def drop_page_size(exchange: Exchange, dropped: bool) -> None:
    """Leave `page_size` out of `next` and `previous`."""
    exchange.drop_page_size = dropped


@kind
def shift_rows(exchange: Exchange, rows: int) -> None:
    """Begin pages after the first *rows* rows late, losing some; negative: early, doubling some."""
    exchange.shift_rows = rows


# Done to the answer: what was asked has happened.


@edit
def late_status(answer: Answer, code: int) -> None:
    """Do what was asked, then answer *code*."""
    if code >= 400:
        answer.replace_body(error(code).body(), JSON)
    answer.status = code


@edit
def headers(answer: Answer, named: dict[str, str]) -> None:
    """Set headers, such as a wrong `Content-Range`."""
    answer.headers.update(named)


@edit
def body(answer: Answer, data: bytes | str) -> None:
    """Send *data* as the body; text beginning with `<` goes as HTML."""
    raw = data.encode() if isinstance(data, str) else data
    answer.replace_body(raw, "text/html" if raw.startswith(b"<") else JSON)


@edit
def rows(answer: Answer, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Send other rows in a page of a listing: those that *change* makes of the right ones."""
    page = json.loads(answer.body())
    answer.replace_body(json.dumps({**page, "results": change(page["results"])}).encode(), JSON)


@edit
def retry_after(answer: Answer, seconds: int) -> None:
    """Send `Retry-After` in seconds."""
    answer.headers["Retry-After"] = str(seconds)


@edit
def retry_after_date(answer: Answer, seconds: float) -> None:
    """Send `Retry-After` as the date *seconds* from now."""
    answer.headers["Retry-After"] = formatdate(time.time() + seconds, usegmt=True)


@edit
def stream_bytes_per_s(answer: Answer, rate: float) -> None:
    """Send the body at *rate*; a few bytes a second make a slow drip."""
    answer.bytes_per_s = rate


@edit
def cut_after(answer: Answer, size: int) -> None:
    """Close the connection after *size* bytes of the body."""
    answer.cut_after = size


@edit
def stall_after(answer: Answer, size: int) -> None:
    """Send nothing more after *size* bytes of the body, and keep the connection open."""
    answer.stall_after = size


@edit
def drop(answer: Answer, dropped: bool) -> None:
    """Do what was asked, then close the connection without an answer."""
    answer.is_dropped = dropped


@edit
def short_by(answer: Answer, size: int) -> None:
    """Leave the last *size* bytes out, with a Content-Length that agrees."""
    answer.stop = max(answer.start, answer.stop - size)


@edit
def wrong_byte_at(answer: Answer, position: int) -> None:
    """Invert the byte at *position* of the file (not of the range)."""
    answer.content = _Damaged(answer.content, position)


@edit
def bad_json(answer: Answer, bad: bool) -> None:
    """Send what is no JSON, as JSON."""
    if bad:
        answer.replace_body(b"{'detail': Oops}", JSON)


@edit
def truncated_json(answer: Answer, truncated: bool) -> None:
    """Send the first half of the body, with a Content-Length that agrees."""
    if truncated:
        answer.replace_body(answer.body()[: answer.length // 2], JSON)
