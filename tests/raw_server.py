"""A server of raw bytes, for answers that no web library would give.

    with RawServer((READ, b"HTTP/1.1 200 OK\\r\\n", RESET), reply(200, b"{}")) as server:
        ...                       # server.origin, server.heads, server.connections

Each connection plays one script, further ones the last. A script is a tuple of steps: `READ` takes one request,
bytes are sent, a function of the request's head gives bytes to send, `RESET` cuts hard, `STALL` says nothing more.
Bytes or a function alone stand for reading one request and answering it.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

# Longer than any client under test waits, so that a forgotten stall ends all the same.
_LONGEST_S = 30.0
_READ_BYTES = 65536


class Special(enum.Enum):
    """Steps that are no bytes."""

    READ = enum.auto()
    RESET = enum.auto()
    STALL = enum.auto()


READ, RESET, STALL = Special
Step = bytes | Special | Callable[[str], bytes]
Script = Step | tuple[Step, ...]


class RawServer:
    """Listens on loopback while its block lasts, with TLS if it is given a context.

    `heads` are the requests as they came, oldest first.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._scripts = [script if isinstance(script, tuple) else (READ, script) for script in scripts]
        self.heads: list[str] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._socket.getsockname()[1]
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def origin(self) -> str:
        """The address for clients."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def requests(self, method: str) -> int:
        """Return how many requests with *method* came."""
        return sum(head.startswith(f"{method} ") for head in self.heads)

    def __enter__(self) -> RawServer:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_LONGEST_S)
        self._socket.close()

    def _begin(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._begin(self._play, connection, script)

    def _play(self, connection: socket.socket, script: tuple[Step, ...]) -> None:
        # A client that goes away, or does not trust our certificate, is its own business.
        with contextlib.suppress(OSError), contextlib.ExitStack() as exits:
            connection.settimeout(_LONGEST_S)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            exits.enter_context(connection)
            rest, head = b"", ""
            for step in script:
                if step is READ:
                    head, rest = self._read(connection, rest)
                elif step is RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif step is STALL:
                    self._ended.wait(_LONGEST_S)
                elif callable(step):
                    connection.sendall(step(head))
                elif isinstance(step, bytes):
                    connection.sendall(step)

    def _read(self, connection: socket.socket, data: bytes) -> tuple[str, bytes]:
        """Take one request; return its head and what came after its body."""
        while b"\r\n\r\n" not in data:
            data += self._receive(connection)
        raw, _, data = data.partition(b"\r\n\r\n")
        head = raw.decode("latin-1")
        length = int(header(head, "Content-Length") or 0)
        while len(data) < length:
            data += self._receive(connection)
        self.heads.append(head)
        return head, data[length:]

    @staticmethod
    def _receive(connection: socket.socket) -> bytes:
        data = connection.recv(_READ_BYTES)
        if not data:
            raise ConnectionAbortedError("the client went away")
        return data


def header(head: str, name: str) -> str | None:
    """Return a header of a request, None if it is absent."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name.lower():
            return value.strip()
    return None


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Write a whole answer that ends its connection, but for what *headers* say."""
    fields = {"Content_Length": len(body), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
