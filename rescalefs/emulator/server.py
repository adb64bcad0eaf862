"""The HTTP server of the emulator, with the counters that tests ask.

    with Emulator(world, key="secret") as emu:
        requests.get(emu.origin + "/api/v2/jobs/", headers={"Authorization": "Token secret"})
        assert emu.requests["jobs"] == 1

It listens on loopback alone.
Threads: the server has one of its own, with an event loop; what is public here may be used from any thread.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from types import TracebackType

from aiohttp import web

from rescalefs.emulator.delivery import deliver
from rescalefs.emulator.endpoints import Api, DeadForm, Habits, Missing, resolve
from rescalefs.emulator.exchange import Answer, Exchange, error, raw_json
from rescalefs.emulator.faults import Faults
from rescalefs.emulator.world import World

HOST = "127.0.0.1"
# What clients send as a bearer token: three parts with dots, the first an encoded object (Rescale Interlink).
_JWT = re.compile(r"ey[\w-]*\.[\w-]+\.[\w-]*")
# Seconds that answers under way get when the emulator ends; stalled ones would wait for ever.
SHUTDOWN_S = 0.05
# Turns of the loop in which a connection is accepted: three.
ACCEPTING_TURNS = 10
# How often it is looked whether what holds a request back has ended.
HELD_LOOK_S = 0.01
# Endpoints whose bodies `stream_bytes_per_s` slows down: those that carry files.
STREAMS = frozenset({"contents", "tail"})


@dataclass
class Request:
    """One request as it came and went; `status` is 0 until it is answered."""

    endpoint: str
    method: str
    path: str  # Percent-encoded, with the query.
    range: str | None
    scheme: str | None  # Of the Authorization header; the key itself is kept nowhere.
    host: str
    status: int = 0
    bytes_sent: int = 0


class Emulator:
    """A world served at `origin` while the `with` block lasts.

    Attributes:
        faults: what goes wrong on purpose.
        habits: switches for what is unknown of the real API.
        latency_s: seconds every request waits; may be set at any time.
        stream_bytes_per_s: pace of each stream of a file's bytes; may be set at any time.
        requests: requests by endpoint, refused and failed ones too; `methods`: by method.
        bytes_sent: body bytes by endpoint.
        log: every request, oldest first.
        peak: the most requests of an endpoint that were under way together.
    """

    def __init__(
        self,
        world: World,
        *,
        port: int = 0,
        key: str = "test-key",
        latency_s: float = 0.0,
        stream_bytes_per_s: float | None = None,
        dead_live: DeadForm = 404,
    ) -> None:
        """Serve *world* to who has *key*, on *port* (0: any that is free)."""
        self.world = world
        self.key = key
        self.latency_s = latency_s
        self.stream_bytes_per_s = stream_bytes_per_s
        self.faults = Faults()
        self.habits = Habits(dead_live=dead_live)
        self.requests: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.log: list[Request] = []
        self._api = Api(world, self.habits)
        self._port = port
        self._under_way: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """Return the address to give to clients."""
        return f"http://{HOST}:{self._port}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers with which a client is let in."""
        return {"Authorization": f"Token {self.key}"}

    @property
    def under_way(self) -> int:
        """Return how many requests have come and are not answered yet."""
        return sum(self._under_way.values())

    def reset_counts(self) -> None:
        """Forget all requests so far."""
        for counter in (self.requests, self.methods, self.bytes_sent, self.peak):
            counter.clear()
        self.log.clear()

    def start(self) -> Emulator:
        """Begin to serve and return when it does.

        Raises:
            OSError: the port is taken.
        """
        self._thread = threading.Thread(target=self._run, name="rescale-emulator", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def stop(self) -> None:
        """End serving, if it has not ended; answers under way are cut."""
        if self._thread is None:
            return
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Emulator:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=SHUTDOWN_S)
        with socket.create_server((HOST, self._port)) as listener:
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                self._port = runner.addresses[0][1]
                self._started.set()
                await self._stopping.wait()
                # asyncio loses a connection, open, that it is accepting when its server closes.
                self._loop.remove_reader(listener)
                for _ in range(ACCEPTING_TURNS):
                    await asyncio.sleep(0)
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        found = resolve(path)
        slashed = resolve(path + "/") if found is None else None
        if found is None and slashed is not None and request.method == "GET":
            return await self._finish(request, "redirect", _to_slash(request))
        if found is None:
            return await self._finish(request, "unknown", error(404))
        endpoint, prefix, arguments = found
        exchange = Exchange(
            endpoint.name,
            endpoint.scope_at(prefix),
            request.method,
            f"http://{request.host}",
            prefix,
            path,
            request.rel_url.raw_query_string,
            request.headers.get("Range"),
            delay_s=self.latency_s,
        )
        record = self._record(request, endpoint.name)
        self._under_way[endpoint.name] += 1
        self.peak[endpoint.name] = max(self.peak[endpoint.name], self._under_way[endpoint.name])
        try:
            self.faults.strike(exchange)
            if exchange.delay_s:
                await asyncio.sleep(exchange.delay_s)
            while exchange.held_until is not None and not exchange.held_until.is_set():
                await asyncio.sleep(HELD_LOOK_S)
            answer = exchange.instead or self._refusal(request, endpoint.method)
            if answer is None:
                try:
                    if endpoint.may_read:
                        answer = await asyncio.to_thread(endpoint.handler, self._api, exchange, arguments)
                    else:
                        answer = endpoint.handler(self._api, exchange, arguments)
                except Missing:
                    answer = error(404)
            if endpoint.name in STREAMS:
                answer.bytes_per_s = self.stream_bytes_per_s
            for edit in exchange.edits:
                edit(answer)
            return await self._send(request, record, answer)
        finally:
            self._under_way[endpoint.name] -= 1

    def _refusal(self, request: web.BaseRequest, method: str) -> Answer | None:
        """Return why the request is not let in, None if it is; who asks comes before what is asked."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            text = "Authentication credentials were not provided."
            return error(401, text, WWW_Authenticate="Token")
        schemes = ("Token", "Bearer") if _JWT.fullmatch(self.key) else ("Token",)
        if key != self.key or scheme not in schemes:
            return error(401, WWW_Authenticate="Token")
        if request.method != method:
            return error(405, f'Method "{request.method}" not allowed.', Allow=method)
        return None

    def _record(self, request: web.BaseRequest, endpoint: str) -> Request:
        scheme = request.headers.get("Authorization", "").partition(" ")[0] or None
        record = Request(endpoint, request.method, request.path_qs, request.headers.get("Range"), scheme, request.host)
        self.requests[endpoint] += 1
        self.methods[request.method] += 1
        self.log.append(record)
        return record

    async def _finish(self, request: web.BaseRequest, endpoint: str, answer: Answer) -> web.StreamResponse:
        return await self._send(request, self._record(request, endpoint), answer)

    async def _send(self, request: web.BaseRequest, record: Request, answer: Answer) -> web.StreamResponse:
        record.status = answer.status

        def sent(size: int) -> None:
            record.bytes_sent += size
            self.bytes_sent[record.endpoint] += size

        accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        return await deliver(request, answer, sent, accepts_gzip=accepts_gzip)


def _to_slash(request: web.BaseRequest) -> Answer:
    """Return the redirect to the same path with a slash, as Django's `APPEND_SLASH` does."""
    query = request.rel_url.raw_query_string
    location = f"{request.rel_url.raw_path}/" + (f"?{query}" if query else "")
    return raw_json(b"", 301, Location=location)
