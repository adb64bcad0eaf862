"""One request done well: retries, redirects, the key's ways, deadlines; against a server that does anything."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import transport as module
from rescalefs.budget import CONTENTS, DEFAULT_RATES, Budget, Rate, rates
from rescalefs.credentials import Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import (
    AccessDenied,
    Corrupt,
    DeadlineExceeded,
    NotFound,
    Refused,
    RescaleError,
    Unavailable,
)
from rescalefs.transport import Transfer, Transport
from tests.raw_server import READ, RESET, STALL, RawServer, Script, Step, header, reply
from tests.stack import KEY, transport_to

OK = reply(200, b'{"good": true}')
GOOD = {"good": True}
HTML = b"<html><h1>Bad Gateway</h1></html>"
TRIES = 11  # one, and the ten retries
LONG_S = 1000.0


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


def read(transfer: Transfer, piece: int = 1000) -> bytes:
    """Return the whole body."""
    buffer, data = memoryview(bytearray(piece)), b""
    with transfer:
        while count := transfer.readinto(buffer):
            data += buffer[:count]
    return data


def stream(server: RawServer, start: int = 0, end: int | None = None, *, clock: ManualClock | None = None) -> Any:
    """Return start, total and bytes of a stream."""
    clock = clock or ManualClock()
    with closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S, start=start, end=end)
        return transfer.start, transfer.total, read(transfer)


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


def test_a_body_that_drips_is_left_at_the_deadline(ask: Callable[..., Any], clock: ManualClock) -> None:
    """Bytes that come one by one do not carry a request past its deadline."""

    def late(head: str) -> bytes:
        clock.advance(2)  # the next byte comes after the deadline
        return b"g"

    with RawServer((READ, reply(200, b'{"', Content_Length="1000"), late, STALL)) as server:
        with pytest.raises(DeadlineExceeded):
            ask(server, within_s=1.5)
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
        assert transport.throttled_s == pytest.approx(20)


# The key, and where it goes.


@pytest.mark.parametrize(
    ("code", "is_same"), [(code, is_same) for code in (301, 302, 303, 307, 308) for is_same in (True, False)]
)
def test_the_key_goes_to_the_configured_origin_only(ask: Callable[..., Any], code: int, is_same: bool) -> None:
    """A redirect is followed, but the key stays behind when it leads to another host or port."""
    with RawServer(OK) as other:
        target = "/api/v2/y/" if is_same else f"{other.origin}/api/v2/y/"
        with RawServer(reply(code, Location=target), OK) as server:
            assert ask(server) == GOOD

            assert header(server.heads[0], "Authorization") == f"Token {KEY}"
            heads = server.heads[1:] if is_same else other.heads
            assert [header(head, "Authorization") for head in heads] == [f"Token {KEY}" if is_same else None]
            assert heads[0].startswith("GET /api/v2/y/ ")
            assert len(other.heads) == (not is_same)


def test_the_key_comes_back_with_the_origin(ask: Callable[..., Any]) -> None:
    """On the way home -> elsewhere -> home the key is on the first and the last request."""
    with RawServer(lambda _: reply(302, Location=f"{server.origin}/back")) as other:
        with RawServer(reply(302, Location=f"{other.origin}/away"), OK) as server:
            assert ask(server) == GOOD
        assert [header(head, "Authorization") for head in server.heads] == [f"Token {KEY}"] * 2
        assert [header(head, "Authorization") for head in other.heads] == [None]


LOOKALIKES = ["http://{host}0/", "http://{host}@{other}/", "//{other}/", "http://{other}/http://{host}/"]


@pytest.mark.parametrize("location", LOOKALIKES)
def test_a_url_that_looks_like_the_origin_gets_no_key(clock: ManualClock, location: str) -> None:
    """Neither a longer port nor a user part, nor a path that holds the origin makes the origin."""
    with RawServer(OK) as other:
        names = {"other": other.origin.removeprefix("http://")}

        def redirect(head: str) -> bytes:
            return reply(302, Location=location.format(host=header(head, "Host"), **names))

        with RawServer(redirect) as server, closing(transport_to(server.origin, clock)) as transport:
            try:
                transport.json("e", "scope", "x/", clock.now() + LONG_S, is_retried=False)
            except Unavailable:
                assert "0/" in location  # no such port
            assert len(server.heads) == 1
            assert all(KEY not in head for head in other.heads)


def test_redirects_have_an_end(ask: Callable[..., Any]) -> None:
    """A circle of redirects is refused after four of them."""
    with RawServer(reply(302, Location="/again")) as server, pytest.raises(Refused, match="more than 4 redirects"):
        ask(server)
    assert server.connections == module.MAX_REDIRECTS + 1


def test_four_redirects_are_followed(ask: Callable[..., Any]) -> None:
    """The bound on redirects lets as many pass as it says."""
    with RawServer(*[reply(302, Location="/again")] * module.MAX_REDIRECTS, OK) as server:
        assert ask(server) == GOOD


def test_a_redirect_from_https_to_http_is_refused(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results asked over TLS are not fetched without it."""
    sent: list[str | None] = []

    def send(self: object, request: requests.PreparedRequest, **_: object) -> requests.Response:
        sent.append(request.url)
        answer = requests.Response()
        answer.status_code, answer.headers["Location"] = 302, "http://platform.rescale.com/api/v2/x/"
        answer.raw = io.BytesIO()
        answer.request, answer.url = request, str(request.url)
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with (
        closing(transport_to("https://platform.rescale.com", clock)) as transport,
        pytest.raises(Refused, match="not secure"),
    ):
        transport.json("e", "scope", "x/", clock.now() + LONG_S)
    assert sent == ["https://platform.rescale.com/api/v2/x/"]


SENSELESS = ["http://[::1", "ftp://example.invalid/", "file:///etc/passwd", "http://", "http://" + "a" * 70 + "/", "//"]


@pytest.mark.parametrize("location", SENSELESS)
def test_a_senseless_redirect_is_an_error_of_ours(ask: Callable[..., Any], location: str) -> None:
    """A Location that no request can follow is refused, not asked again; no file of this machine is read."""
    with RawServer(reply(302, Location=location)) as server, pytest.raises(Refused):
        ask(server)
    assert server.connections in (1, module.MAX_REDIRECTS + 1)  # some servers' nonsense leads back to themselves


def test_a_redirect_without_a_target_is_refused(ask: Callable[..., Any]) -> None:
    """A 302 that names no place is no answer."""
    with RawServer(reply(302)) as server, pytest.raises(Refused, match="302"):
        ask(server)


def only_with(key: str) -> Step:
    """Answer who has *key*, refuse others."""
    refused = reply(401, b'{"detail": "Invalid token."}')
    return lambda head: OK if header(head, "Authorization") == f"Token {key}" else refused


def test_a_refused_key_is_read_again_once(ask: Callable[..., Any]) -> None:
    """A key renewed in its source works without a new mount, at the cost of one request."""
    texts = ["old", "new", "newer"]
    key = Key(lambda: texts.pop(0), "a file")
    with RawServer(only_with("new")) as server:
        assert ask(server, key=key) == GOOD
        assert [header(head, "Authorization") for head in server.heads] == ["Token old", "Token new"]
        assert ask(server, key=key) == GOOD
        assert (server.connections, texts) == (3, ["newer"])


def test_a_new_key_that_is_refused_too_is_denied(ask: Callable[..., Any]) -> None:
    """The key is read again once a request, not for ever; the error names no key."""
    texts = iter(f"secret{number}" for number in range(100))
    with RawServer(only_with("right")) as server:
        with pytest.raises(AccessDenied, match="Invalid token") as caught:
            ask(server, key=Key(lambda: next(texts), "a file"))
        assert server.connections == 2
        assert "secret" not in str(caught.value)


def test_the_same_key_again_is_denied_at_once(ask: Callable[..., Any]) -> None:
    """Where the source still has the refused key, it is not sent again."""
    with RawServer(only_with("right")) as server, pytest.raises(AccessDenied):
        ask(server)
    assert server.connections == 1


def test_a_401_from_elsewhere_renews_nothing(ask: Callable[..., Any]) -> None:
    """A server that never got the key has not refused it."""
    reads: list[int] = []
    key = Key(lambda: f"key{reads.append(0)}", "a file")
    with RawServer(reply(401)) as other:
        with RawServer(reply(302, Location=other.origin)) as server, pytest.raises(AccessDenied):
            ask(server, key=key)
        assert (len(reads), other.connections) == (1, 1)


def test_netrc_is_no_key(ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A netrc entry replaces the key neither here nor on a redirect elsewhere."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hush\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with RawServer(OK) as other:
        with RawServer(reply(302, Location=other.origin)) as server:
            assert requests.get(server.origin, timeout=20).ok  # the entry works for those who want it
            assert "Basic" in str(header(server.heads[0], "Authorization"))
            other.heads.clear()
        with RawServer(reply(302, Location=other.origin)) as server:
            assert ask(server) == GOOD
            assert header(server.heads[0], "Authorization") == f"Token {KEY}"
            assert header(other.heads[0], "Authorization") is None


def test_a_proxy_of_the_environment_is_used(
    ask: Callable[..., Any], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http_proxy is obeyed, and neither its password nor anything else takes the key's place."""
    with RawServer(OK) as proxy:
        monkeypatch.setenv("http_proxy", proxy.origin.replace("http://", "http://somebody:hush@"))
        monkeypatch.setenv("no_proxy", "")
        with closing(transport_to("http://rescale.invalid", clock)) as transport:
            assert transport.json("e", "scope", "x/", clock.now() + LONG_S) == GOOD
        assert proxy.heads[0].startswith("GET http://rescale.invalid/api/v2/x/ ")
        assert header(proxy.heads[0], "Authorization") == f"Token {KEY}"


def test_cookies_are_not_sent_back(clock: ManualClock) -> None:
    """The API is asked with the key alone: a cookie of an answer is forgotten."""
    with (
        RawServer(reply(200, b"{}", Set_Cookie="session=1; Path=/")) as server,
        closing(transport_to(server.origin, clock)) as transport,
    ):
        for _ in range(3):
            transport.json("e", "scope", "x/", clock.now() + LONG_S)
        assert [header(head, "Cookie") for head in server.heads] == [None] * 3


def test_a_key_that_no_header_can_carry_makes_no_second_header() -> None:
    """Requests refuses line ends in a header, and that refusal is an error of ours."""
    bad = Key(lambda: "a\r\nX-Evil: 1", "a test")
    with RawServer(OK) as server, closing(transport_to(server.origin, ManualClock(), key=bad)) as transport:
        for send in (transport.json, transport.post):
            with pytest.raises(Refused):
                send("e", "scope", "x/", ManualClock().now() + 5)
        assert server.connections == 0


# Counting and pacing.


def test_every_request_is_counted_by_its_name(clock: ManualClock) -> None:
    """The counters count what was sent: retries and redirects too, what was never sent not."""
    answers = (reply(503), reply(302, Location="/y"), OK, OK)
    with RawServer(*answers) as server, closing(transport_to(server.origin, clock)) as transport:
        transport.json("list", "scope", "x/", clock.now() + LONG_S)
        transport.post("act", "scope", "x/", clock.now() + LONG_S)
        for send in (transport.json, transport.post):
            with pytest.raises(DeadlineExceeded):
                send("late", "scope", "x/", clock.now())
        assert transport.requests_by_endpoint == {"list": 3, "act": 1}
        assert server.connections == 4


def test_the_budget_can_be_turned_off(clock: ManualClock) -> None:
    """RESCALEFS_BUDGET=off paces nothing; anything else is the default."""
    off = Budget(rates({"RESCALEFS_BUDGET": "off"}), clock=clock.now, sleep=clock.advance)
    begun = clock.now()
    for _ in range(10 * DEFAULT_RATES[CONTENTS].burst):
        off.take(CONTENTS, begun)

    assert clock.now() == begun
    assert rates({}) == rates({"RESCALEFS_BUDGET": ""}) == DEFAULT_RATES


def test_the_budget_is_asked_before_each_try(clock: ManualClock) -> None:
    """Requests of a scope go out at its rate, and one that cannot go in time is not sent."""
    begun = clock.now()
    rates = {"scope": Rate(1, 1)}
    with RawServer(OK) as server, closing(transport_to(server.origin, clock, rates=rates)) as transport:
        for _ in range(4):
            transport.json("e", "scope", "x/", begun + 10)
        assert clock.now() == pytest.approx(begun + 3)
        with pytest.raises(DeadlineExceeded):
            transport.json("e", "scope", "x/", begun + 3.5)
        assert server.connections == 4


def test_a_429_slows_all_threads(clock: ManualClock) -> None:
    """The wait of one throttled request holds for every scope."""
    begun = clock.now()
    rates = {"scope": Rate(100, 100), "other": Rate(100, 100)}
    with (
        RawServer(reply(429, Retry_After="7"), OK) as server,
        closing(transport_to(server.origin, clock, rates=rates)) as transport,
    ):
        with pytest.raises(Unavailable):
            transport.json("e", "scope", "x/", begun + 5)
        with pytest.raises(DeadlineExceeded):
            transport.json("e", "other", "x/", begun + 5)
        assert server.connections == 1
        transport.json("e", "other", "x/", begun + 50)
        assert clock.now() == pytest.approx(begun + 7)


def test_many_threads_share_a_transport(clock: ManualClock) -> None:
    """Each of many threads gets its own answer."""
    with (
        RawServer(lambda head: reply(200, json.dumps(head.split()[1]).encode())) as server,
        closing(transport_to(server.origin, clock)) as transport,
    ):
        got: dict[int, list[str]] = {}

        def ask_often(name: int) -> None:
            paths = [f"{name}/{number}/" for number in range(10)]
            got[name] = [transport.json("e", "scope", path, clock.now() + LONG_S) for path in paths]

        threads = [threading.Thread(target=ask_often, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {name: [f"/api/v2/{name}/{number}/" for number in range(10)] for name in range(8)}


# Streams.

BODY = bytes(range(256)) * 8


def serve(first: int, stop: int, **headers: str) -> bytes:
    """Return a right answer to a range, but for *headers*."""
    named = {"Content_Range": f"bytes {first}-{stop - 1}/{len(BODY)}", **headers}
    return reply(206, BODY[first:stop], **named)


@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 6), (100, None), (2047, 2048), (1, 2048)])
def test_a_range_is_asked_and_checked(start: int, end: int | None) -> None:
    """A 206 with the right Content-Range gives its bytes, and the file's size."""
    with RawServer(serve(start, end or len(BODY))) as server:
        assert stream(server, start, end) == (start, len(BODY), BODY[start:end])

        last = "" if end is None else end - 1
        assert header(server.heads[0], "Range") == f"bytes={start}-{last}"
        assert header(server.heads[0], "Accept-Encoding") == "identity"


def test_the_whole_file_is_asked_without_a_range() -> None:
    """From the first byte to the end no Range is sent."""
    with RawServer(reply(200, BODY)) as server:
        assert stream(server) == (0, len(BODY), BODY)
        assert header(server.heads[0], "Range") is None


def test_a_200_to_a_range_is_the_whole_file() -> None:
    """A server that ignores ranges sends from byte 0, and the transfer says so."""
    with RawServer(reply(200, BODY)) as server:
        assert stream(server, 100, 200) == (0, len(BODY), BODY)


def test_a_chunked_body_has_no_known_size() -> None:
    """What comes in chunks is whole at the last one; its size is not told."""
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    with RawServer(chunks) as server:
        assert stream(server) == (0, None, b"abcde")


def test_an_empty_body_is_empty() -> None:
    """A file without bytes ends at once."""
    with RawServer(reply(200)) as server:
        assert stream(server) == (0, 0, b"")


def test_a_total_may_be_unknown() -> None:
    """`*` in Content-Range is a total that is not told."""
    with RawServer(reply(206, BODY[5:10], Content_Range="bytes 5-9/*")) as server:
        assert stream(server, 5, 10) == (5, None, BODY[5:10])


WRONG_RANGES = [
    "bytes 6-15/2048",
    "bytes 0-9/2048",
    "",
    "bytes",
    "items 5-14/2048",
    "bytes 5-14",
    "bytes */2048",
    "bytes -5-14/2048",
    "bytes x-y/z",
    "bytes \u00b5-14/2048",
    "bytes 5-\u00b2/2048",
    "bytes 5-14/\u00b2",
    "bytes 5-4/2048",
    "bytes 5-2048/2048",
    "bytes 5-14/0",
    "bytes 5-14/" + "9" * 5000,
]


@pytest.mark.parametrize("text", WRONG_RANGES)
def test_another_range_than_asked_is_corrupt(text: str) -> None:
    """A 206 whose Content-Range is not the one asked for, or no range at all, gives no bytes."""
    with RawServer(serve(5, 15, Content_Range=text)) as server, pytest.raises(Corrupt):
        stream(server, 5, 15)


def test_a_206_to_a_whole_file_must_begin_at_its_begin() -> None:
    """An unasked part is not taken for the whole."""
    with RawServer(serve(5, 15)) as server, pytest.raises(Corrupt):
        stream(server)


def test_packed_bytes_are_not_the_file() -> None:
    """A body that something on the way has compressed is not served as the file's bytes."""
    with (
        RawServer(reply(200, gzip.compress(BODY), Content_Encoding="gzip")) as server,
        pytest.raises(Corrupt),
    ):
        stream(server)


def test_a_wrong_range_that_passes_is_mended() -> None:
    """One wrong answer is asked again, as a cut one is."""
    with RawServer(serve(5, 15, Content_Range="bytes 0-9/2048"), serve(5, 15)) as server:
        assert stream(server, 5, 15) == (5, len(BODY), BODY[5:15])


CUTS: dict[str, Script] = {
    "an early end": reply(200, BODY[:700], Content_Length="2048"),
    "a reset": (READ, reply(200, BODY[:700], Content_Length="2048"), RESET),
    "a chunk cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" + BODY[:700],
    "the last chunk missing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2bc\r\n" + BODY[:700] + b"\r\n",
    "a chunk without a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY[:700],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_transfer_raises_and_lies_not(cut: Script) -> None:
    """The bytes before the cut are right, the cut is `Unavailable`, never an end."""
    data = b""
    clock = ManualClock()
    buffer = memoryview(bytearray(256))
    with RawServer(cut) as server, closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S)
        with transfer, pytest.raises(Unavailable):  # noqa: PT012 - what came before the cut is looked at
            while count := transfer.readinto(buffer):
                data += buffer[:count]
    assert data == BODY[: len(data)]
    assert server.connections == 1


def test_bytes_are_given_as_they_come() -> None:
    """A reader with a large buffer gets the first bytes before the next ones were sent."""
    more = threading.Event()

    def second(head: str) -> bytes:
        assert more.wait(20)
        return b"second"

    clock = ManualClock()
    with (
        RawServer((READ, reply(200, b"first", Content_Length="11"), second)) as server,
        closing(transport_to(server.origin, clock)) as transport,
        transport.stream("e", "scope", "x/", clock.now() + LONG_S) as transfer,
    ):
        buffer = memoryview(bytearray(1000))
        assert bytes(buffer[: transfer.readinto(buffer)]) == b"first"
        more.set()
        assert bytes(buffer[: transfer.readinto(buffer)]) == b"second"
        assert transfer.readinto(buffer) == 0


def test_more_than_promised_is_not_read() -> None:
    """Bytes beyond Content-Length are not of this body."""
    with RawServer(reply(200, BODY + b"beyond", Content_Length=str(len(BODY)))) as server:
        assert stream(server) == (0, len(BODY), BODY)


def test_a_transfer_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence longer than any healthy one ends the transfer with an error."""
    monkeypatch.setattr(module, "SILENCE_S", 0.2)
    with (
        RawServer((READ, reply(200, b"some", Content_Length="9"), STALL)) as server,
        pytest.raises(Unavailable),
    ):
        stream(server)


def test_a_closed_transfer_raises() -> None:
    """Reading on after `close`, as another thread may, is an error of ours and no end of file."""
    clock = ManualClock()
    with RawServer(reply(200, BODY)) as server, closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S)
        transfer.close()
        with pytest.raises(Unavailable):
            transfer.readinto(memoryview(bytearray(10)))


def test_a_missing_file_is_not_found() -> None:
    """Errors of a stream are the errors of a document."""
    with RawServer(reply(404, b'{"detail": "Not found."}')) as server, pytest.raises(NotFound):
        stream(server, 5, 10)
    assert server.connections == 1


def test_a_stream_is_begun_again_after_what_may_pass() -> None:
    """Until the first byte, a stream is retried as a document is, with the same range."""
    with RawServer(reply(502, HTML), (READ, RESET), serve(5, 10)) as server:
        assert stream(server, 5, 10) == (5, len(BODY), BODY[5:10])
        assert [header(head, "Range") for head in server.heads] == ["bytes=5-9"] * 3
