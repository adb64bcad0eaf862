"""Servers that say one byte after the other for ever: no part of an answer holds a thread past its deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import DeadlineExceeded, RescaleError, Unavailable
from rescalefs.reach import Reach
from tests.asking import GOOD, OK, Dripping
from tests.raw_server import READ, STALL, RawServer, reply
from tests.stack import transport_to

# What a drip may send until it is left, of what it would send: the time that a busy machine takes to leave.
SIZE, MOST = 1000, 400
STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = STATUS + b"Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n"
GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"

# What was sent at once, and what drips then.
ANSWERS = {
    "a status line": (b"HTTP/1.1 200 ", b"O"),
    "headers": (STATUS, b"X-A: b\r\n"),
    "one header": (STATUS + b"X-Long: ", b"a"),
    "heads that announce the head": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the length of a chunk": (CHUNKED, b"0"),
    "what follows the last chunk": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: b\r\n"),
    "packed bytes that are nothing": (PACKED + GZIP_HEAD, b"\x00\x00\x00\xff\xff"),
}


@pytest.mark.parametrize(("begin", "told"), ANSWERS.values(), ids=ANSWERS)
def test_no_part_of_an_answer_drips_past_the_deadline(
    ask: Callable[..., Any], clock: ManualClock, begin: bytes, told: bytes
) -> None:
    """Whatever it is that drips: no answer in time."""
    drip = Dripping(clock, SIZE, told)
    with RawServer((READ, begin, *drip.script)) as server, pytest.raises(DeadlineExceeded, match="no answer in time"):
        ask(server, within_s=2.5)
    assert drip.sent < MOST
    assert server.connections == 1


@pytest.mark.parametrize("name", ["a status line", "headers", "one header"])
def test_the_head_of_a_stream_drips_no_longer_than_its_deadline(clock: ManualClock, name: str) -> None:
    """The deadline of a stream is that of its begin."""
    begin, told = ANSWERS[name]
    drip = Dripping(clock, SIZE, told)
    with (
        RawServer((READ, begin, *drip.script)) as server,
        closing(transport_to(server.origin, clock)) as transport,
        pytest.raises(DeadlineExceeded),
    ):
        transport.stream("e", "scope", "x/", clock.now() + 2.5)
    assert drip.sent < MOST


def test_the_body_of_a_stream_has_no_deadline(clock: ManualClock) -> None:
    """A large file takes its time, as long as it goes on."""
    drip = Dripping(clock, 30)
    with (
        RawServer((READ, reply(200, Content_Length="30"), *drip.script)) as server,
        closing(transport_to(server.origin, clock)) as transport,
        transport.stream("e", "scope", "x/", clock.now() + 2.5) as transfer,
    ):
        buffer, count = memoryview(bytearray(100)), 0
        while got := transfer.readinto(buffer):
            count += got
    assert count == 30


@pytest.mark.parametrize("name", ["a status line", "headers"])
def test_the_head_of_an_answer_to_a_post_is_left_at_the_deadline(
    post: Callable[..., Any], clock: ManualClock, name: str
) -> None:
    """It was sent, once, and whether it was done is not known."""
    begin, told = ANSWERS[name]
    drip = Dripping(clock, SIZE, told)
    with RawServer((READ, begin, *drip.script)) as server, pytest.raises(Unavailable, match="may or may not"):
        post(server, within_s=2.5)
    assert drip.sent < MOST
    assert server.requests("POST") == 1


def test_a_proxy_that_drips_is_left_at_the_deadline(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says to CONNECT is a head as any other."""
    drip = Dripping(clock, SIZE, b"X-A: b\r\n")
    with RawServer((READ, STATUS, *drip.script)) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        monkeypatch.setenv("no_proxy", "")
        with closing(transport_to("https://rescale.invalid", clock)) as transport, pytest.raises(RescaleError):
            transport.json("e", "scope", "x/", clock.now() + 2.5)
        assert proxy.heads[0].startswith("CONNECT rescale.invalid:443 ")
    assert drip.sent < MOST


def test_a_handshake_that_drips_is_left_at_the_deadline(clock: ManualClock) -> None:
    """A record of TLS that never is whole: its time is that of a connection, by the real clock."""
    drip = Dripping(clock, SIZE)

    def late(head: str) -> bytes:
        time.sleep(0.01)
        return b"\x00"

    with RawServer((b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", *(late,) * SIZE, *drip.script, STALL)) as server:
        origin = server.origin.replace("http://", "https://")
        with closing(transport_to(origin, clock)) as transport, pytest.raises(RescaleError):
            transport.json("e", "scope", "x/", clock.now() + 0.5, is_retried=False)
    assert drip.sent == 0


HEADS = {
    "in the status line": b"HTTP/1.1 200",
    "after the status line": STATUS,
    "in a header": STATUS + b"Content-Type: text/plain\r\nContent-Le",
    "after a header": STATUS + b"Content-Type: text/plain\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_was_cut_is_no_answer(clock: ManualClock, head: bytes) -> None:
    """An empty file is told by a whole head; what was cut might have told a length."""
    with (
        RawServer(head) as server,
        closing(transport_to(server.origin, clock)) as transport,
        pytest.raises(Unavailable),
    ):
        transport.stream("e", "scope", "x/", clock.now() + 100, is_retried=False)
    assert server.connections == 1


class Silent(socket.socket):
    """A socket that is not answered at 192.0.2.*, which takes as long as it may, by the clock of the test."""

    clock: ManualClock

    def connect(self, address: Any) -> None:
        if address[0].startswith("192.0.2."):
            self.clock.advance(self.gettimeout() or 1000)
            raise TimeoutError("timed out")
        super().connect(address)


@pytest.fixture
def named(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give `rescale.test` addresses."""
    monkeypatch.setattr(Silent, "clock", clock, raising=False)
    monkeypatch.setattr(socket, "socket", Silent)
    look_up = socket.getaddrinfo

    def name(*addresses: str) -> None:
        def found(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
            hosts = addresses if host == "rescale.test" else (host,)
            return [each for host in hosts for each in look_up(host, port, *args, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", found)

    return name


def test_many_addresses_that_are_silent_have_the_time_of_one(clock: ManualClock, named: Callable[..., None]) -> None:
    """Each has its share of what is left."""
    named(*(f"192.0.2.{number}" for number in range(1, 9)))
    begun = clock.now()
    with closing(transport_to("https://rescale.test", clock)) as transport:
        with pytest.raises(RescaleError, match=r"Connection to rescale\.test timed out") as caught:
            transport.json("e", "scope", "x/", begun + 15)
        assert " 0x" not in str(caught.value)  # the address of an object tells nobody anything
    assert clock.now() <= begun + 15.1


def test_an_address_that_is_silent_leaves_time_for_the_next(clock: ManualClock, named: Callable[..., None]) -> None:
    """A server whose first addresses lead nowhere is reached."""
    named("192.0.2.1", "192.0.2.2", "127.0.0.1")
    with (
        RawServer(OK) as server,
        closing(transport_to(server.origin.replace("127.0.0.1", "rescale.test"), clock)) as transport,
    ):
        assert transport.json("e", "scope", "x/", clock.now() + 15) == GOOD
        assert server.connections == 1


def test_a_name_that_is_not_known_is_unavailable(clock: ManualClock) -> None:
    with (
        closing(transport_to("https://rescale.invalid", clock)) as transport,
        pytest.raises(Unavailable, match="rescale"),
    ):
        transport.json("e", "scope", "x/", clock.now() + 15, is_retried=False)


def test_a_resolver_that_takes_all_the_time_is_no_lack_of_a_network(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it comes back, questions are asked at once."""
    look_up = socket.getaddrinfo

    def slow(*args: Any, **more: Any) -> list[Any]:
        clock.advance(20)
        return look_up(*args, **more)

    reach = Reach(clock=clock.now)
    with RawServer(OK) as server, closing(transport_to(server.origin, clock, reach=reach)) as transport:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(DeadlineExceeded, match="the resolver took all the time"):  # who joined it may try again
            transport.json("e", "scope", "x/", clock.now() + 15)
        monkeypatch.undo()
        assert reach.status == "online"
        assert transport.json("e", "scope", "x/", clock.now() + 15) == GOOD
