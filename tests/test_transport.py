"""One request done well: retries, deadlines, bodies, posts; against a server that does anything."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import closing
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import transport as module
from rescalefs.budget import Rate
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import (
    AccessDenied,
    DeadlineExceeded,
    NotFound,
    Refused,
    RescaleError,
    Unavailable,
)
from tests.asking import GOOD, HTML, LONG_S, OK, TRIES, Dripping
from tests.raw_server import READ, RESET, STALL, RawServer, Script, header, reply
from tests.stack import KEY, transport_to

# Retries.

PASSING: dict[str, Script] = {
    "429": reply(429, b'{"detail": "Request was throttled."}'),
    "500": reply(500, b'{"detail": "Server error."}'),
    "502 with HTML": reply(502, HTML, Content_Type="text/html"),
    "503 without a body": reply(503),
    "504 with HTML that is JSON by its header": reply(504, HTML, Content_Type="application/json"),
    "a reset before the answer": (READ, RESET),
    "an end before the answer": (READ,),
    "accepted and closed": (),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status line that is none": b"HTTP/1.1 maybe\r\n\r\n",
    "headers cut": b"HTTP/1.1 200 OK\r\nContent-Len",
    "a body cut": (READ, reply(200, b'{"good": tr', Content_Length="14")),
    "a body cut by a reset": (READ, reply(200, b'{"good": tr', Content_Length="14"), RESET),
    "a chunk cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{",
    "the last chunk missing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "JSON cut, the length agreeing": reply(200, b'{"good": tr'),
    "no JSON": reply(200, b"{'detail': Oops}"),
    "an empty body": reply(200),
    "no text": reply(200, b"\xff\xfe\x00"),
    "JSON too deep to read": reply(200, b"[" * 100_000),
    "a number too long to read": reply(200, b"9" * 5000),
    "gzip that is none": reply(200, b'{"good": true}', Content_Encoding="gzip"),
    "gzip cut": reply(200, gzip.compress(b'{"good": true}')[:-10], Content_Encoding="gzip"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_get_is_asked_again_after_what_may_pass(ask: Callable[..., Any], fault: Script) -> None:
    """Two faults and a good answer are a good answer, from three requests."""
    with RawServer(fault, fault, OK) as server:
        assert ask(server) == GOOD
        assert server.connections == 3


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_get_that_keeps_failing_is_unavailable(ask: Callable[..., Any], fault: Script) -> None:
    """A fault that stays is `Unavailable` after all tries, not an error of some library."""
    with RawServer(fault) as server, pytest.raises(Unavailable):
        ask(server)
    assert server.connections == TRIES


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_get_may_be_asked_once_only(ask: Callable[..., Any], fault: Script) -> None:
    """With `is_retried=False` the first fault is the answer."""
    with RawServer(fault, OK) as server, pytest.raises(Unavailable):
        ask(server, is_retried=False)
    assert server.connections == 1


LASTING = {400: Refused, 403: AccessDenied, 404: NotFound, 405: Refused, 409: Refused, 410: Refused, 416: Refused}


@pytest.mark.parametrize(("status", "kind"), LASTING.items())
def test_a_refusal_is_not_asked_again(ask: Callable[..., Any], status: int, kind: type[RescaleError]) -> None:
    """What no retry mends costs one request, and its error carries the API's words."""
    with RawServer(reply(status, b'{"detail": "No, and here is why."}'), OK) as server:
        with pytest.raises(kind, match=f"{status} No, and here is why") as caught:
            ask(server)
        assert server.connections == 1
    if isinstance(caught.value, Refused):
        assert caught.value.status == status


@pytest.mark.parametrize("status", [201, 202, 204, 300, 304])
def test_a_success_of_another_kind_is_no_document(ask: Callable[..., Any], status: int) -> None:
    """A status that a listing never has is refused, its body is not taken for the answer."""
    with RawServer(reply(status, b"" if status in (204, 304) else b"{}")) as server, pytest.raises(Refused):
        ask(server)
    assert server.connections == 1


BODIES = [b"", b"[1]", b'"text"', b"null", b'{"name": ["This field is required."]}', HTML, b"\xff", b"[" * 3000]


@pytest.mark.parametrize("body", BODIES)
def test_an_error_may_have_any_body(ask: Callable[..., Any], body: bytes) -> None:
    """The body of a refusal may be of every shape; the error names method, path and status."""
    with RawServer(reply(400, body)) as server, pytest.raises(Refused, match="GET x/: 400"):
        ask(server)


def test_a_long_error_is_short_in_words(ask: Callable[..., Any]) -> None:
    """A page of HTML or a long text does not become an error of pages."""
    with (
        RawServer(reply(400, json.dumps({"detail": "y" * 1500}).encode())) as server,
        pytest.raises(Refused) as caught,
    ):
        ask(server)
    assert len(str(caught.value)) < 300


def test_retry_after_in_seconds_is_waited(ask: Callable[..., Any], clock: ManualClock) -> None:
    """The server's own time is waited before the second request, no less."""
    begun = clock.now()
    with RawServer(reply(429, Retry_After="30"), OK) as server:
        assert ask(server) == GOOD
    assert clock.now() - begun == pytest.approx(30)


def test_retry_after_as_a_date_is_waited(ask: Callable[..., Any], clock: ManualClock) -> None:
    """The other form of Retry-After counts from the time of day."""
    begun = clock.now()
    answer: Callable[[str], bytes] = lambda _: reply(503, Retry_After=formatdate(begun + 60, usegmt=True))  # noqa: E731
    with RawServer(answer, OK) as server:
        assert ask(server) == GOOD
    assert 50 < clock.now() - begun <= 60


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "9" * 400, "9" * 5000, "Thu, 99 Foo 99999 99:99:99 GMT", ""])
def test_a_senseless_retry_after_is_no_crash(ask: Callable[..., Any], clock: ManualClock, value: str) -> None:
    """Whatever stands in Retry-After, the outcome is the answer or an error of ours."""
    with RawServer(reply(503, Retry_After=value), OK) as server:
        try:
            assert ask(server) == GOOD
        except Unavailable:
            assert len(value) == 400  # a time beyond all deadlines
    assert server.connections in (1, 2)


@pytest.mark.parametrize("value", ["9" * 30, "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_server_is_left_alone_for_an_hour_at_most(ask: Callable[..., Any], clock: ManualClock, value: str) -> None:
    """A date counts from a clock that may be wrong, so that one 429 could stop a mount for a day."""
    begun = clock.now()
    with RawServer(reply(429, Retry_After=value), OK) as server:
        assert ask(server, within_s=7200) == GOOD
    assert clock.now() - begun == pytest.approx(3600)


def test_a_retry_beyond_the_deadline_is_not_made(ask: Callable[..., Any], clock: ManualClock) -> None:
    """Where the server wants to be left alone for longer than the caller waits, the failure comes at once."""
    begun = clock.now()
    with RawServer(reply(503, HTML, Retry_After="60"), OK) as server:
        with pytest.raises(Unavailable, match="503"):
            ask(server, within_s=20)
        assert (server.connections, clock.now()) == (1, begun)


def test_retries_end_with_the_deadline(ask: Callable[..., Any], clock: ManualClock) -> None:
    """Back-off never passes the deadline, and gives up with the reason rather than with the time."""
    begun = clock.now()
    with RawServer(reply(502, HTML)) as server, pytest.raises(Unavailable, match="502"):
        ask(server, within_s=3)
    assert 1 < server.connections < TRIES
    assert clock.now() <= begun + 3


def test_a_silent_server_is_left_at_the_deadline(ask: Callable[..., Any]) -> None:
    """An answer that never begins is an error within the time that is left, whichever the clock."""
    with RawServer((READ, STALL)) as server, pytest.raises(Unavailable):
        ask(server, within_s=0.2, is_retried=False)
    assert server.connections == 1


def test_a_body_that_stalls_is_left_at_the_deadline(ask: Callable[..., Any]) -> None:
    """A body that stops coming is an error within the time that is left."""
    with (
        RawServer((READ, reply(200, b'{"go', Content_Length="14"), STALL)) as server,
        pytest.raises(Unavailable),
    ):
        ask(server, within_s=0.2, is_retried=False)


def test_silence_until_the_deadline_is_a_lack_of_time(ask: Callable[..., Any]) -> None:
    """A server that says nothing, or nothing more, until no time is left for another try: no answer in time."""
    for script in ((READ, STALL), (READ, reply(200, b'{"go', Content_Length="14"), STALL)):
        with RawServer(script) as server, pytest.raises(DeadlineExceeded, match="no answer in time"):
            ask(server, within_s=0.2)


def test_a_body_that_drips_is_left_at_the_deadline(ask: Callable[..., Any], clock: ManualClock) -> None:
    """Bytes that come one by one do not carry a request past its deadline."""

    def late(head: str) -> bytes:
        clock.advance(2)  # the next byte comes after the deadline
        return b"g"

    with RawServer((READ, reply(200, b'{"', Content_Length="1000"), late, STALL)) as server:
        with pytest.raises(DeadlineExceeded):
            ask(server, within_s=1.5)
        assert server.connections == 1


@pytest.mark.parametrize("status", [302, 404, 503])
def test_no_answer_that_drips_is_read_to_its_end(ask: Callable[..., Any], clock: ManualClock, status: int) -> None:
    """Nor what stands in a redirection or in an error, which is left at the deadline too."""
    body = Dripping(clock, 400)
    head = reply(status, Location="/on", Content_Length="1000")
    with RawServer((READ, head, *body.script)) as server, pytest.raises(RescaleError):
        ask(server, within_s=2.5, is_retried=False)
    assert body.sent < 100
    assert server.connections == 1


def test_a_redirection_is_worth_no_more_than_a_look(ask: Callable[..., Any]) -> None:
    """Of a redirection with a long body only the target matters."""
    with RawServer((READ, reply(302, b" " * 100_000, Location="/on", Content_Length="100000000"), STALL), OK) as server:
        assert ask(server, within_s=5.0) == GOOD


def test_a_redirection_leaves_its_connection_for_what_comes(ask: Callable[..., Any]) -> None:
    """Another connection for each redirected request would cost as much as the request."""
    moved = reply(302, HTML, Location="/on", Connection="keep-alive")
    with RawServer((READ, moved, READ, OK)) as server:
        assert ask(server) == GOOD
        assert server.connections == 1


def test_no_time_is_no_request(ask: Callable[..., Any], post: Callable[..., Any]) -> None:
    """After the deadline nothing is sent."""
    with RawServer(OK) as server:
        for send in (ask, post):
            with pytest.raises(DeadlineExceeded):
                send(server, within_s=0)
        assert server.connections == 0


def test_nobody_there_is_unavailable(ask: Callable[..., Any], post: Callable[..., Any]) -> None:
    """A refused connection is named by host and port, without the addresses of objects."""
    server = RawServer(OK)
    with server:
        pass
    for send in (ask, post):
        with pytest.raises(Unavailable, match="refused") as caught:
            send(server)
        assert "0x" not in str(caught.value)


def test_json_counts_whatever_its_content_type_says(ask: Callable[..., Any]) -> None:
    """JSON that goes as text is JSON, compressed or not."""
    with RawServer(
        reply(200, b'{"good": true}', Content_Type="text/plain"),
        reply(200, gzip.compress(b'{"good": true}'), Content_Encoding="gzip"),
    ) as server:
        assert [ask(server), ask(server)] == [GOOD, GOOD]


def test_a_document_has_a_bound(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any listing has, packed or not, are refused once and not kept."""
    monkeypatch.setattr(module, "MAX_JSON_BYTES", 100_000)
    packed = gzip.compress(b" " * 10_000_000 + b"{}")
    with RawServer(reply(200, packed, Content_Encoding="gzip")) as server, pytest.raises(Refused):
        ask(server)
    assert server.connections == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 2))
def test_no_bytes_make_another_error(clock: ManualClock, noise: bytes, form: int) -> None:
    """Whatever a server sends, a GET ends in a document or an error of ours."""
    head = (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n")[form]
    with RawServer(head + noise) as server, closing(transport_to(server.origin, clock)) as transport:
        try:
            transport.json("e", "scope", "x/", clock.now() + LONG_S, is_retried=False)
        except RescaleError:
            return
        json.loads(noise.partition(b"\r\n\r\n")[2])


# POST: once, whatever happens.


@pytest.mark.parametrize("status", [200, 503])
def test_a_post_whose_answer_drips_is_left_at_the_deadline(
    post: Callable[..., Any], clock: ManualClock, status: int
) -> None:
    """What was sent is not sent again, and is not waited for longer than anything else."""
    body = Dripping(clock, 400)
    with RawServer((READ, reply(status, Content_Length="1000"), *body.script)) as server, pytest.raises(Unavailable):
        post(server, within_s=2.5)
    assert body.sent < 100
    assert (server.connections, server.requests("POST")) == (1, 1)


def test_an_answer_to_a_post_may_repeat_the_key(post: Callable[..., Any]) -> None:
    """It is told in the log and in the tree, so the key is taken out of it."""
    with RawServer(reply(200, f'{{"exitcode": 1, "reason": "not for {KEY}"}}'.encode())) as server:
        assert post(server) == {"exitcode": 1, "reason": "not for <key>"}


POST_FAULTS: dict[str, tuple[Script, type[RescaleError]]] = {
    "a reset before the answer": ((READ, RESET), Unavailable),
    "an end before the answer": ((READ,), Unavailable),
    "accepted and closed": ((), Unavailable),
    "a reset in the answer": ((READ, b"HTTP/1.1 200 OK\r\nContent-", RESET), Unavailable),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", Unavailable),
    "a body cut": (reply(200, b"{", Content_Length="20"), Unavailable),
    "500": (reply(500), Unavailable),
    "502": (reply(502, HTML), Unavailable),
    "503 with Retry-After": (reply(503, Retry_After="1"), Unavailable),
    "504": (reply(504, HTML), Unavailable),
    "429 with Retry-After": (reply(429, Retry_After="1"), Unavailable),
    "400": (reply(400, b'{"detail": "no"}'), Refused),
    "401": (reply(401, b'{"detail": "Invalid token."}'), AccessDenied),
    "403": (reply(403), AccessDenied),
    "404": (reply(404), NotFound),
    "409": (reply(409), Refused),
    **{f"a redirect {code}": (reply(code, Location="/api/v2/y/"), Refused) for code in (301, 302, 303, 307, 308)},
}


@pytest.mark.parametrize(("fault", "kind"), POST_FAULTS.values(), ids=POST_FAULTS)
def test_a_post_is_sent_exactly_once(post: Callable[..., Any], fault: Script, kind: type[RescaleError]) -> None:
    """A POST that failed may have arrived, so no failure makes a second one, nor any other request."""
    with RawServer(fault, reply(200, b"{}")) as server:
        with pytest.raises(kind, match=r"^POST x/: "):
            post(server)
        assert server.connections == 1
    assert [head.split()[0] for head in server.heads] == ["POST"] * (fault != ())


def test_a_post_without_an_answer_is_sent_once(post: Callable[..., Any]) -> None:
    """A timeout is told as what it is: it may or may not have been done."""
    with RawServer((READ, STALL), OK) as server:
        with pytest.raises(Unavailable, match="may or may not have been done"):
            post(server, within_s=0.2)
        assert (server.connections, server.requests("POST")) == (1, 1)


POST_ANSWERS = [
    (reply(200, b"{}"), {}),
    (reply(200, b'{"exitcode": 1}'), {"exitcode": 1}),
    (reply(202), {}),
    (reply(204), {}),
    (reply(201, HTML), {}),
    (reply(200, b"[" * 100_000), {}),
]


@pytest.mark.parametrize(("answer", "expected"), POST_ANSWERS)
def test_any_success_of_a_post_is_one(post: Callable[..., Any], answer: bytes, expected: object) -> None:
    """A 2xx is a success with or without JSON: what was done must not look like a failure."""
    with RawServer(answer) as server:
        assert post(server) == expected
        assert (server.connections, header(server.heads[0], "Content-Length")) == (1, "0")
        assert server.heads[0].startswith("POST /api/v2/x/ ")


def test_a_post_never_uses_a_kept_connection(clock: ManualClock) -> None:
    """A connection that an earlier GET left open is not where a POST gets lost."""
    kept = reply(200, b"{}", Connection="keep-alive")
    with RawServer((READ, kept, READ, RESET), OK) as server, closing(transport_to(server.origin, clock)) as transport:
        transport.json("e", "scope", "x/", clock.now() + LONG_S)
        assert transport.post("e", "scope", "x/", clock.now() + LONG_S) == GOOD
        assert server.connections == 2


def test_a_throttled_post_stops_all(clock: ManualClock) -> None:
    """A 429 on a POST makes every scope wait, as one on a GET does."""
    begun = clock.now()
    rates = {"scope": Rate(10, 5), "other": Rate(10, 5)}
    with (
        RawServer(reply(429, Retry_After="20"), OK) as server,
        closing(transport_to(server.origin, clock, rates=rates)) as transport,
    ):
        with pytest.raises(Unavailable):
            transport.post("e", "scope", "x/", begun + 500)
        assert transport.json("e", "other", "x/", begun + 500) == GOOD
        assert clock.now() == pytest.approx(begun + 20)
