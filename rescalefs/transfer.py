"""A body that comes as an answer of the API: whether it is of the range asked for, and its bytes as they come.

One that has all but stopped is cut, if it is watched. And what is around it: how a request carries the key, and what
kept an answer from coming.
"""

from __future__ import annotations

import contextlib
import http.client
import re
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader, NewConnectionError, ProxyError
from urllib3.poolmanager import pool_classes_by_scheme
from urllib3.util import Retry

from rescalefs import __version__
from rescalefs.connections import POOLS
from rescalefs.errors import Corrupt, Unavailable
from rescalefs.stalls import Stalls, Watched

T = TypeVar("T")

# What a transfer that fails on the way may raise.
TRANSPORT_ERRORS = (requests.RequestException, HTTPError, http.client.HTTPException, OSError)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(\*|[0-9]{1,19})")
_MAX_DIGITS = 19  # of the largest offset that a file can have
# No longer is a server left alone, whatever it says: a date counts from the clock of this machine, which may be wrong.
MOST_RETRY_AFTER_S = 3600.0


class KeyAuth(requests.auth.AuthBase):
    """Puts the key on a request. Being an auth object also keeps requests from looking into ~/.netrc."""

    def __init__(self, authorization: str | None) -> None:
        self.authorization = authorization

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put it on."""
        if self.authorization is not None:
            request.headers["Authorization"] = self.authorization
        return request


class _Session(requests.Session):
    """Leaves redirections to its caller altogether: else all of their bodies is read, however long that takes."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Tell of none."""


class Adapter(HTTPAdapter):
    """Sends over our connections."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """Make the pools."""
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        """Return the pools behind a proxy; those of SOCKS have connections of their own."""
        manager = super().proxy_manager_for(*args, **more)
        if manager.pool_classes_by_scheme is pool_classes_by_scheme:
            manager.pool_classes_by_scheme = POOLS
        return manager


def new_session(adapter: Adapter) -> requests.Session:
    """Return a session that sends what it is told to, over the connections of *adapter*."""
    session = _Session()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["User-Agent"] = f"rescalefs/{__version__}"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # the API is asked with the key alone
    return session


class Transfer:
    """A body that is read as it comes. Used by one thread at a time; `close` may come from another.

    `start` is the offset in the file of the first byte that will come, `total` the file's size as the server says.
    Where a *length* is told beside that of the body, no more comes, and less is an error.
    """

    def __init__(
        self, response: requests.Response, start: int, total: int | None, what: str, length: int | None = None
    ) -> None:
        self.start = start
        self.total = total
        self.media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._response = response
        self._raw: HTTPResponse = response.raw
        self._what = what
        self._left = length
        self._watched: Watched | None = None

    def be_watched(self, stalls: Stalls, kind: str) -> None:
        """Let the transfer be cut if it stalls, beside others of its *kind*."""
        self._watched = stalls.watch(kind, self._interrupt)

    def readinto(self, buffer: memoryview) -> int:
        """Place the next bytes in *buffer*, as many as have come, and return how many; 0 at the end of the body.

        Raises:
            Unavailable: the body was cut short, or too little of it came.
        """
        most = len(buffer) if self._left is None else min(len(buffer), self._left)
        try:
            data = self._raw.read1(most or 1)  # after all of it for the body's end: then the connection serves again
        except (*TRANSPORT_ERRORS, ValueError) as error:  # ValueError: closed by another thread
            raise self._cut(cause(error)) from None
        if self._watched is not None:
            # After a cut nothing is of the body: its end looks like any end, and what still comes is not deciphered.
            if self._watched.stalled is not None:
                raise self._cut("")
            self._watched.note(len(data))
        if self._left is not None:
            if self._left and not data:
                raise self._cut(f"its body ended, {self._left} bytes of the range are missing")
            data = data[: self._left]
            self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """End the transfer; a body that was read to its end gives its connection back."""
        if self._watched is not None:
            self._watched.end()
        self._response.close()

    def _cut(self, why: str) -> Unavailable:
        stalled = self._watched.stalled if self._watched is not None else None
        return Unavailable(f"{self._what}: the transfer was cut: {stalled or why}")

    def _interrupt(self) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
            self._raw.shutdown()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def begun(response: requests.Response, what: str, start: int) -> Transfer:
    """Check that an answer is of the range asked for, or of the whole file, byte for byte."""
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise Corrupt(f"{what}: asked for the plain bytes, got {coding!r}")
    form = response.headers.get("Transfer-Encoding", "chunked")
    if form.lower() != "chunked":  # http.client would give it as it comes
        raise Corrupt(f"{what}: the bytes come in the form {form[:60]!r}")
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return Transfer(response, 0, _number(length), what)
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    first, last, total = map(_number, match.groups()) if match else (None, None, None)
    is_asked = "Range" in response.request.headers
    if not is_asked or first != start or last is None or last < start or (total is not None and last >= total):
        raise Corrupt(f"{what}: asked for bytes from {start}, got {text[:60]!r}")
    return Transfer(response, start, total, what, length=last - start + 1)


def _number(text: str) -> int | None:
    """Return the number that a header holds; None where it holds none, or none that a file can have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def cause(error: BaseException) -> str:
    """Return what went wrong, without the object addresses and URLs that requests puts around it."""
    inner: BaseException = error
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    reason = getattr(inner, "reason", None)
    told = reason if isinstance(reason, BaseException) else inner
    text = str(told.args[-1] if isinstance(told, ConnectTimeoutError) else told)  # whose first is the connection
    return text.rsplit(">: ", 1)[-1].rsplit("): ", 1)[-1] or type(error).__name__


def host_of(error: Exception) -> str | None:
    """Return the host that a request went to, as far as its error tells."""
    request = getattr(error, "request", None)
    return None if request is None or request.url is None else urlsplit(request.url).netloc


def is_unconnected(error: Exception) -> bool:
    """Tell whether not even a connection came about: no route, no such name, nobody listening, no proxy."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, (NewConnectionError, ConnectTimeoutError, ProxyError))


def retry_after_s(response: requests.Response, default_s: T) -> float | T:
    """Return for how many seconds, an hour at most, Retry-After, in either form, wants the server left alone."""
    header = response.headers.get("Retry-After")
    try:
        return min(Retry().parse_retry_after(header), MOST_RETRY_AFTER_S) if header else default_s
    except (InvalidHeader, ValueError, OverflowError):
        return default_s


def small_body(response: requests.Response, most_bytes: int) -> bytes:
    """Return the beginning of a body."""
    body = b""
    while len(body) < most_bytes and (piece := response.raw.read1(most_bytes - len(body), decode_content=True)):
        body += piece
    return body
