"""A mount's way to Rescale, to be lost and found again in a test: the server that is gone, the resolver that fails.

The resolver of the mount's process is one of ours, put in place as Python starts: it does what a file says.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rescalefs.emulator.server import Emulator
from tests.conftest import mount_at, wait_for

NOBODY_LISTENS, NO_NAME, HANGS = "nobody listens", "no such name", "the resolver hangs"
_RESOLVER = """
import pathlib, socket, time
_ask, _state = socket.getaddrinfo, pathlib.Path({state!r})
def getaddrinfo(host, *args, **more):
    while _state.read_text() == {hangs!r}:
        time.sleep(0.05)
    if _state.read_text() == {no_name!r}:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _ask("127.0.0.1" if host == "localhost" else host, *args, **more)
socket.getaddrinfo = getaddrinfo
"""
_BACK_S = 30.0
T = TypeVar("T")


@contextlib.contextmanager
def nobody_at(port: int) -> Iterator[None]:
    """Keep a port for which nobody listens, lest an emulator of another test gets it meanwhile."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound(lambda: taken.bind(("127.0.0.1", port)))
        yield


def bound(bind: Callable[[], T]) -> T:
    """Take the port that has just been left: a program that is being started holds it until it runs."""
    give_up_at = time.monotonic() + _BACK_S
    while True:
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)


class Network:
    """A mount of *emulator*'s world whose network can be lost. The mount has an emulator of its own, at one port."""

    def __init__(self, home: Path, binding: str, emulator: Emulator, *args: str, **more: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._state = home / "resolver"
        self._state.write_text("")
        text = _RESOLVER.format(state=str(self._state), hangs=HANGS, no_name=NO_NAME)
        (home / "sitecustomize.py").write_text(text)
        self._emulator = emulator
        port = emulator.origin.rpartition(":")[2]
        self.mounted = mount_at(home, binding, emulator, *args, **more)
        self.mounted.environ["RESCALE_API_URL"] = f"http://localhost:{port}"
        self.mounted.environ["PYTHONPATH"] = f"{home}:{self.mounted.environ['PYTHONPATH']}"

    @contextlib.contextmanager
    def lost(self, how: str) -> Iterator[None]:
        """Have no network in one of the three ways while the block lasts, and no kept connection either."""
        emulator = self.mounted.emulator
        port = int(emulator.origin.rpartition(":")[2])
        self._state.write_text(how)
        emulator.stop()
        if how == NOBODY_LISTENS:
            with nobody_at(port):
                yield
        self.mounted.emulator = bound(lambda: Emulator(emulator.world, port=port, key=emulator.key).start())
        if how != NOBODY_LISTENS:
            yield
        self._state.write_text("")

    def wait_until_found(self) -> None:
        """Wait until the mount has noticed that it has a network."""
        status = self.mounted.path / ".rescale/status"
        wait_for(lambda: status.read_text() == "online\n", _BACK_S, status.read_text)

    def clean_up(self) -> None:
        """Leave nothing behind."""
        self.mounted.clean_up()
        self.mounted.emulator.stop()
