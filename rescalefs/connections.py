"""Connections over which nobody is kept past his deadline, and whose answers have a whole head or are none.

The time-out of a socket is one of silence: a server that says a byte a second, in a header or in the length of a chunk,
would hold the thread that reads for ever. What a thread reads in a block of `until` ends by that block's time.
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

_reading = threading.local()  # its `left_s`, where there is one, tells what is left of this thread's time


@contextmanager
def until(left_s: Callable[[], float]) -> Iterator[None]:
    """Let what this thread reads in the block time out when *left_s* gives 0. Blocks are not within one another."""
    _reading.left_s = left_s
    try:
        yield
    finally:
        del _reading.left_s


class _Reader(io.RawIOBase):
    """The bytes of one answer as they come from a socket.

    Raises:
        TimeoutError: nothing came for as long as the socket may be silent, or the reader's time is over.
        RemoteDisconnected: the head was cut.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._socket = sock
        self._silence_s = sock.gettimeout()
        self.is_in_head = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        wait_s = self._silence_s
        if hasattr(_reading, "left_s"):
            left_s = _reading.left_s()
            if left_s <= 0:
                raise TimeoutError("timed out")
            wait_s = left_s if wait_s is None else min(wait_s, left_s)
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


class _SecureConnection(HTTPSConnection):
    response_class = _Answer


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


# What a pool manager of urllib3 makes connections by.
POOLS = {"http": _Pool, "https": _SecurePool}
