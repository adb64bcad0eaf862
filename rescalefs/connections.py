"""Connections over which nobody is kept past his deadline, and whose answers have a whole head or are none.

The time-out of a socket is one of silence: a server that says a byte a second, in a header or in the length of a chunk,
would hold the thread that reads for ever; and each address of a host would have the time of all. In a block of `until`
a thread connects and reads for as long as that says.
And http.client takes the end of a connection for the end of a head, so that one which was cut would be an answer
without a length, an empty file.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError
from urllib3.util.connection import create_connection

_time = threading.local()  # its `left_s`, where there is one, tells what is left of this thread's time


@contextmanager
def until(left_s: Callable[[], float]) -> Iterator[None]:
    """Let what this thread waits for in the block time out when *left_s* gives 0. Blocks are not in one another."""
    _time.left_s = left_s
    try:
        yield
    finally:
        del _time.left_s


def _wait_s(most_s: float, shares: int = 1) -> float:
    """Return how long this thread may wait now: one of so many equal *shares* of what is left, at most *most_s*.

    Raises:
        TimeoutError: nothing is left.
    """
    if not hasattr(_time, "left_s"):
        return most_s
    left_s: float = _time.left_s()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return min(most_s, left_s / shares)


class _Reader(io.RawIOBase):
    """The bytes of one answer as they come from a socket, which has a time-out.

    Raises:
        TimeoutError: nothing came for as long as the socket may be silent, or the reader's time is over.
        RemoteDisconnected: the head was cut.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._socket = sock
        self._silence_s: float = sock.gettimeout()  # type: ignore[assignment]  # every request has one
        self.is_in_head = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        wait_s = _wait_s(self._silence_s)
        if wait_s != self._socket.gettimeout():
            self._socket.settimeout(wait_s)
        count = self._raw.readinto(buffer)
        if not count and self.is_in_head:
            raise http.client.RemoteDisconnected("the connection ended before the answer began")
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Answer(http.client.HTTPResponse):
    """An answer that reads by a `_Reader`. One to CONNECT is all head."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self._reader = _Reader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        self._reader.is_in_head = False


class _Connection(HTTPConnection):
    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers; each has an equal share of what is left of the time.

        Raises:
            ReadTimeoutError: the resolver took all of it, which tells nothing about the network.
        """
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        most_s: float = self.timeout  # type: ignore[assignment]  # every request has one
        try:
            share_s = _wait_s(most_s, len(found))
        except TimeoutError:
            raise ReadTimeoutError(self, self.host, "the resolver took all the time") from None  # type: ignore[arg-type]
        failure: OSError | None = None
        for *_, address in found:
            try:
                sock = create_connection((str(address[0]), self.port), share_s, socket_options=self.socket_options)
            except OSError as error:
                failure = failure or error
            else:
                sock.settimeout(most_s)  # for what follows, such as a handshake
                return sock
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out") from failure
        raise NewConnectionError(self, f"Failed to establish a new connection: {failure}") from failure


class _SecureConnection(_Connection, HTTPSConnection):
    """The same, by TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


# What a pool manager of urllib3 makes connections by.
POOLS = {"http": _Pool, "https": _SecurePool}
