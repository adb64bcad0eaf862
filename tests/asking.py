"""Fixtures that ask a server through a transport whose clock only tests and its own sleeps move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.transport import Transport
from tests.raw_server import RawServer, reply
from tests.stack import transport_to

OK = reply(200, b'{"good": true}')
GOOD = {"good": True}
HTML = b"<html><h1>Bad Gateway</h1></html>"
TRIES = 11  # one, and the ten retries
LONG_S = 1000.0


class Dripping:
    """Sends so many bytes one by one, those of *told* over and over; each takes a second of *clock*."""

    def __init__(self, clock: ManualClock, size: int, told: bytes = b" ") -> None:
        self.sent = 0
        self.script = (self._send,) * size
        self._clock = clock
        self._told = told

    def _send(self, head: str) -> bytes:
        time.sleep(0.01)  # so that they come one by one
        self._clock.advance(1)
        self.sent += 1
        at = (self.sent - 1) % len(self._told)
        return self._told[at : at + 1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ask(clock: ManualClock) -> Iterator[Callable[..., Any]]:
    """Ask a server for JSON: `ask(server)`."""
    made: list[Transport] = []

    def json_of(server: RawServer, *, within_s: float = LONG_S, is_retried: bool = True, **more: Any) -> Any:
        transport = transport_to(server.origin, clock, **more)
        made.append(transport)
        return transport.json("e", "scope", "x/", clock.now() + within_s, is_retried=is_retried)

    yield json_of
    for transport in made:
        transport.close()


@pytest.fixture
def post(clock: ManualClock) -> Callable[..., Any]:
    """Post to a server: `post(server)`."""

    def post_to(server: RawServer, *, within_s: float = LONG_S) -> Any:
        with closing(transport_to(server.origin, clock)) as transport:
            return transport.post("e", "scope", "x/", clock.now() + within_s)

    return post_to
