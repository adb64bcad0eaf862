"""One HTTP request to the API, done well: key, budget, retries, redirects, deadlines.

With `transfer` the only module that knows `requests`. It knows no endpoint and nothing of what the answers mean.

- A GET is retried on 429, 5xx, transport errors and bodies that were cut, with back-off and jitter or Retry-After,
  until its deadline; urllib3's `Retry` decides what to retry and how long to wait, the budget decides when to go.
- A POST is sent once, on a fresh connection, and never again: it may have arrived.
- The key goes to the configured origin and nowhere else, redirects included.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from urllib3 import HTTPResponse
from urllib3.exceptions import TimeoutError as TransferTimeout
from urllib3.util import Retry

from rescalefs.breaker import Breaker
from rescalefs.budget import Budget, Priority, Turn
from rescalefs.connections import until
from rescalefs.credentials import Key
from rescalefs.errors import (
    AccessDenied,
    Corrupt,
    DeadlineExceeded,
    KeyRefused,
    NotFound,
    Refused,
    RescaleError,
    Unavailable,
)
from rescalefs.reach import Reach
from rescalefs.stalls import Stalls
from rescalefs.timing import Clock, remaining_s
from rescalefs.transfer import (
    TRANSPORT_ERRORS,
    Adapter,
    KeyAuth,
    Transfer,
    begun,
    cause,
    host_of,
    is_unconnected,
    new_session,
    retry_after_s,
    small_body,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

# A page of 1000 rows is about 1 MB; a body beyond this is no listing.
MAX_JSON_BYTES = 256 * 1024 * 1024
# A healthy answer of the API begins within a few seconds; the longest silence borne on one connection.
CONNECT_S = 10.0
SILENCE_S = 20.0
MAX_REDIRECTS = 4
_READ_BYTES = 64 * 1024
# What is looked at of an answer that is an error, or that should be JSON and is not.
_SHOWN_BYTES = 2000
# What is read of a redirection, so that its connection serves again, and of the answer to an act.
_SMALL_BYTES = 64 * 1024
# How long a server that throttles is left alone when it does not say.
_LEFT_ALONE_S = 1.0
# What urllib3 is asked to judge: which answers are worth another try, and how long to wait before it.
_RETRY = Retry(
    total=10,
    backoff_factor=0.25,
    backoff_jitter=0.25,
    backoff_max=8.0,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=("GET",),
)
_ONCE = _RETRY.new(total=0)


class Transport:
    """Sends requests to one origin. Threads: any."""

    def __init__(
        self,
        origin: str,
        key: Key,
        budget: Budget,
        *,
        reach: Reach | None = None,
        breaker: Breaker | None = None,
        stalls: Stalls | None = None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.origin = origin
        self._reach = reach
        self._breaker = breaker
        self._stalls = stalls
        self._key = key
        self._budget = budget
        self.clock = clock
        self._sleep = sleep
        self._adapter = Adapter(pool_connections=2, pool_maxsize=64)
        self._idle: deque[requests.Session] = deque()  # its append and pop are atomic; a session serves one thread
        self._lock = threading.Lock()  # guards _requests; nothing else is done under it
        self._requests: Counter[str] = Counter()

    def close(self) -> None:
        """Drop idle connections."""
        self._adapter.close()

    @property
    def requests_by_endpoint(self) -> Mapping[str, int]:
        """How many requests were sent so far, by the name that the caller gave them."""
        with self._lock:
            return dict(self._requests)

    def json(
        self,
        endpoint: str,
        scope: str,
        path: str,
        deadline_at: float,
        *,
        priority: Priority = Priority.LISTING,
        is_retried: bool = True,
        max_bytes: int | None = None,
        parse: Callable[[bytearray], Any] = json.loads,
    ) -> Any:
        """GET and *parse* one JSON document, whatever its Content-Type says.

        Raises: as `_get`; Refused also for one of more than *max_bytes*.
        """
        most = MAX_JSON_BYTES if max_bytes is None else max_bytes

        def parsed(response: requests.Response) -> Any:
            with response:
                body = bytearray()
                while chunk := response.raw.read1(_READ_BYTES, decode_content=True):
                    body += chunk
                    if len(body) > most:
                        raise Refused(f"GET {path}: more than {most} bytes of JSON", response.status_code)
            try:
                return parse(body)
            except (ValueError, RecursionError):
                shown = self._key.hide(body[:_SHOWN_BYTES].decode(errors="replace"))
                raise Corrupt(f"GET {path}: the answer is not JSON: {shown[:60]!r}") from None

        retry = _RETRY if is_retried else _ONCE
        return self._get(endpoint, scope, path, deadline_at, Turn(priority), {}, parsed, retry)

    def stream(
        self,
        endpoint: str,
        scope: str,
        path: str,
        deadline_at: float,
        *,
        start: int = 0,
        end: int | None = None,
        turn: Turn | None = None,
        is_retried: bool = True,
    ) -> Transfer:
        """Begin to GET bytes [start, end) of a resource, to its end if *end* is None; urgent unless *turn* says else.

        The answer may begin at 0 though *start* is higher, where the server ignores ranges: look at `Transfer.start`.

        Raises: as `_get`; Corrupt also for an answer of another range than asked.
        """
        headers = {"Accept-Encoding": "identity"}  # lengths and offsets mean the plain bytes
        if start > 0 or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"

        def begin(response: requests.Response) -> Transfer:
            try:
                transfer = begun(response, path, start)
            except Corrupt:
                response.close()
                raise
            if self._stalls is not None:
                transfer.be_watched(self._stalls, endpoint)
            return transfer

        turn = turn or Turn(Priority.READ)
        return self._get(endpoint, scope, path, deadline_at, turn, headers, begin, _RETRY if is_retried else _ONCE)

    def post(self, endpoint: str, scope: str, path: str, deadline_at: float) -> Any:
        """POST once without a body; return the answer's JSON, {} where a success carries none.

        Raises:
            NotFound, AccessDenied, Refused, Unavailable: the API said no; the text tells.
            Unavailable: no answer came, and whether the request arrived is not known.
            DeadlineExceeded: the budget left no time; nothing was sent.
            Offline: there is no network; nothing was sent.
        """
        what = f"POST {path}"
        if self._reach is not None:
            self._reach.check(what)
        taken = self._budget.take(scope, deadline_at, Turn(Priority.READ))
        left_s = remaining_s(deadline_at, what, self.clock)
        self._count(endpoint)
        try:
            # A connection of its own: on a kept one that the server has just closed, a POST that was lost
            # and one that arrived cannot be told apart.
            with (
                self._until(deadline_at),
                new_session(Adapter()) as session,
                session.post(
                    f"{self.origin}/api/v2/{path}",
                    auth=KeyAuth(self._key.authorization),
                    stream=True,
                    timeout=(min(CONNECT_S, left_s), left_s),
                    allow_redirects=False,
                ) as response,
            ):
                if response.status_code == 429:
                    self._budget.throttled(scope, retry_after_s(response, _LEFT_ALONE_S), taken)
                if not 200 <= response.status_code < 300:
                    raise self._error_of(response, what)
                body = small_body(response, _SMALL_BYTES)
        except ValueError as error:  # a key that no header can carry
            raise Refused(f"{what}: nothing was sent: {cause(error)}", 0) from None
        except TRANSPORT_ERRORS as error:
            raise Unavailable(f"{what}: no answer, so it may or may not have been done: {cause(error)}") from None
        try:
            return json.loads(self._key.hide(body.decode()))
        except (ValueError, RecursionError):
            return {}  # a success need not be JSON: the job-level stop is documented with an empty 202

    def is_reachable(self) -> bool:
        """Ask for something small, once and without the budget; True if anything answers."""
        try:
            deadline_at = self.clock() + CONNECT_S
            with self._until(deadline_at):
                self._follow("users_me", f"{self.origin}/api/v2/users/me/", {}, deadline_at).close()
        except (RescaleError, ValueError, *TRANSPORT_ERRORS):
            return False
        return True

    def _get(
        self,
        endpoint: str,
        scope: str,
        path: str,
        deadline_at: float,
        turn: Turn,
        headers: Mapping[str, str],
        consume: Callable[[requests.Response], T],
        retry: Retry,
    ) -> T:
        """GET one resource and *consume* the answer, retried as *retry* says until the deadline.

        Raises:
            NotFound, AccessDenied, Refused: the API said so.
            Unavailable, Corrupt: it failed, and went on failing.
            DeadlineExceeded: the budget leaves no time for a try, or the last one got no answer.
            Offline: there is no network, or the endpoint is down.
        """
        what, url = f"GET {path}", f"{self.origin}/api/v2/{path}"
        breaker = self._breaker if retry.total else None  # what is asked once only may fail by nature
        while True:
            if self._reach is not None:
                self._reach.check(what)
            if self._breaker is not None:
                self._breaker.check(endpoint, what)
            taken = self._budget.take(scope, deadline_at, turn)
            status, wait_s, is_silent, began = 0, None, False, self.clock()
            failure: RescaleError
            try:
                with self._until(deadline_at):
                    response = self._follow(endpoint, url, headers, deadline_at)
                    if self._reach is not None:
                        self._reach.answered()
                    status = response.status_code
                    if status in (200, 206):
                        self._budget.succeeded(scope, taken)
                        self._key.accepted()
                        answer = consume(response)
                        if self._breaker is not None:
                            self._breaker.answered(endpoint)
                        return answer
                    wait_s = retry_after_s(response, None)
                    with response:
                        failure = self._error_of(response, what)
                if not retry.is_retry("GET", status):
                    if self._breaker is not None:
                        self._breaker.answered(endpoint)
                    raise failure
            except Refused:
                raise
            except Unavailable as error:
                failure = error
            except ValueError as error:  # requests' and urllib's word for a URL or a header that no request can have
                raise Refused(f"{what}: {cause(error)}", status) from None
            except TRANSPORT_ERRORS as error:
                host = host_of(error) or urlsplit(url).netloc
                failure = Unavailable(f"{what}: cannot reach {host}: {cause(error)}")
                is_silent = isinstance(error, (requests.Timeout, TransferTimeout))
                if self._reach is not None and host == urlsplit(url).netloc and is_unconnected(error):
                    self._reach.failed(f"{host}: {cause(error)}", self.clock() - began)
                    self._reach.check(what)
            if breaker is not None and status != 429:
                breaker.failed(endpoint, path.partition("?")[0], str(failure), self.clock() - began)
            if not retry.total:
                if status == 429:  # who asks once only makes all others wait, too
                    self._budget.throttled(scope, _LEFT_ALONE_S if wait_s is None else wait_s, taken)
                raise failure
            retry = retry.increment("GET", url, response=HTTPResponse(b"", status=status or 599))
            back_off_s = retry.get_backoff_time() if wait_s is None else wait_s
            if status == 429:
                self._budget.throttled(scope, back_off_s, taken)
            if self.clock() + back_off_s >= deadline_at:
                raise DeadlineExceeded(f"{what}: no answer in time: {failure}") if is_silent else failure
            is_loud = len(retry.history) >= 3  # the first hiccups are every network's; what lasts is worth a warning
            log.log(logging.WARNING if is_loud else logging.INFO, "%s; again in %.1f s", failure, back_off_s)
            self._sleep(back_off_s)

    def _follow(self, endpoint: str, url: str, headers: Mapping[str, str], deadline_at: float) -> requests.Response:
        """GET *url* and what it redirects to; the key goes to the configured origin only, and is renewed once."""
        session = self._borrow()
        try:
            redirects = renewals = 0
            while True:
                left_s = remaining_s(deadline_at, "GET", self.clock)
                authorization = self._key.authorization if url.startswith(f"{self.origin}/") else None
                self._count(endpoint)
                response = session.get(
                    url,
                    headers=dict(headers),
                    auth=KeyAuth(authorization),
                    stream=True,
                    timeout=(min(CONNECT_S, left_s), min(SILENCE_S, left_s)),
                    allow_redirects=False,
                )
                if response.status_code == 401 and authorization and not renewals and self._key.renew(authorization):
                    log.info("the API key was refused; its source has a new one")
                    renewals += 1
                    response.close()
                    continue
                target = response.headers.get("Location")
                if response.status_code not in (301, 302, 303, 307, 308) or not target:
                    return response
                with response:
                    small_body(response, _SMALL_BYTES)
                url = urljoin(url, target)
                redirects += 1
                host = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
                if urlsplit(url).scheme not in ("https", urlsplit(self.origin).scheme):
                    raise Refused(f"redirected to {host}, which is not secure", response.status_code)
                if redirects > MAX_REDIRECTS:
                    raise Refused(f"more than {MAX_REDIRECTS} redirects, the last one to {host}", response.status_code)
        finally:
            self._idle.append(session)

    def _error_of(self, response: requests.Response, what: str) -> RescaleError:
        """Turn a refusal into an error. Its body may be JSON of several shapes, or a proxy's HTML."""
        try:
            body = json.loads(small_body(response, _SHOWN_BYTES))
            detail = str(body.get("detail") or body) if isinstance(body, Mapping) else str(body)
        except (*TRANSPORT_ERRORS, ValueError, RecursionError):
            detail = response.reason or ""
        text = f"{what}: {response.status_code} {self._key.hide(detail)[:200]}".rstrip()
        match response.status_code:
            case 401 if response.url.startswith(f"{self.origin}/"):
                self._key.refused(text)
                return KeyRefused(text)
            case 401 | 403:  # a place that we were sent to refuses us for its own reasons
                return AccessDenied(text)
            case 404:
                return NotFound(text)
            case 429 | 500 | 502 | 503 | 504:
                return Unavailable(text)
            case status:
                return Refused(text, status)

    def _until(self, deadline_at: float) -> AbstractContextManager[None]:
        """Let nothing that is read in a block come later than that."""
        return until(lambda: deadline_at - self.clock())

    def _count(self, endpoint: str) -> None:
        with self._lock:
            self._requests[endpoint] += 1

    def _borrow(self) -> requests.Session:
        """Return an idle session. requests does not say that a session may be shared by threads, so none is."""
        try:
            return self._idle.pop()
        except IndexError:
            return new_session(self._adapter)
