"""Where the key goes and where it does not, redirects, counting and pacing."""

from __future__ import annotations

import io
import json
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from urllib3 import HTTPResponse

from rescalefs import transport as module
from rescalefs.budget import CONTENTS, DEFAULT_RATES, Rate, rates
from rescalefs.credentials import Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import (
    AccessDenied,
    DeadlineExceeded,
    KeyRefused,
    Refused,
    Unavailable,
)
from rescalefs.transfer import Adapter
from tests.asking import GOOD, LONG_S, OK
from tests.raw_server import RawServer, Step, header, reply
from tests.stack import KEY, budget_on, transport_to

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
        answer.raw = HTTPResponse(io.BytesIO(), preload_content=False)
        answer.request, answer.url = request, str(request.url)
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with (
        closing(transport_to("https://platform.rescale.com", clock)) as transport,
        pytest.raises(Refused, match="not secure"),
    ):
        transport.json("e", "scope", "x/", clock.now() + LONG_S)
    assert sent == ["https://platform.rescale.com/api/v2/x/"]


def test_an_origin_that_cannot_prove_itself_gets_nothing(ask: Callable[..., Any], tmp_path: Path) -> None:
    """A certificate that nobody signed is refused before the key is sent."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with RawServer(OK, tls=tls) as server, pytest.raises(Unavailable, match="certificate"):
        ask(server)
    assert server.heads == []


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


ECHOES = {
    "in an error": lambda key: reply(409, json.dumps({"detail": f"Token {key} may not"}).encode()),
    "far into an error": lambda key: reply(409, json.dumps({"detail": "x" * 180 + f"Token {key} may not"}).encode()),
    "in a refusal": lambda key: reply(401, json.dumps({"detail": f"Invalid token {key}."}).encode()),
    "in a status line": lambda key: reply(409).replace(b"409 ", f"409 no {key} ".encode()),
    "for JSON": lambda key: reply(200, f"<p>Authorization: Token {key}</p>".encode()),
}


@pytest.mark.parametrize("case", ECHOES)
def test_a_server_that_repeats_the_key_does_not_show_it(
    case: str, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What a server complains of goes to logs and to users; the key in it does not, not even its beginning."""
    caplog.set_level("DEBUG")
    secret = "0123456789abcdef0123456789abcdef01234567"
    with RawServer(ECHOES[case](secret)) as server, pytest.raises((AccessDenied, Unavailable)) as caught:
        ask(server, key=Key(lambda: secret, "a test"))
    for shown in (str(caught.value), caplog.text):
        assert secret[:6] not in shown


@pytest.mark.parametrize(("code", "kind", "lines"), [(401, KeyRefused, 1), (403, AccessDenied, 0)])
def test_a_refused_key_leaves_one_line(
    code: int, kind: type, lines: int, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Of a key that nothing is allowed with; a right that is lacking is of what was asked for."""
    key = Key(lambda: KEY, "a test")
    with RawServer(reply(code)) as server:
        for _ in range(5):
            with pytest.raises(AccessDenied) as caught:
                ask(server, key=key)
            assert type(caught.value) is kind
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == lines


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


def test_a_proxy_of_socks_keeps_its_own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours would go past it."""
    own = {"https": object()}
    monkeypatch.setattr(
        requests.adapters, "SOCKSProxyManager", lambda *_args, **_more: SimpleNamespace(pool_classes_by_scheme=own)
    )
    assert Adapter().proxy_manager_for("socks5h://127.0.0.1:1").pool_classes_by_scheme is own


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
    off = budget_on(clock, rates({"RESCALEFS_BUDGET": "off"}))
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
