"""What the tests of the emulator share: a small world and a plain client, which knows nothing of rescalefs' own."""

from __future__ import annotations

import socket
from typing import Any

import requests

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.content import Generated
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World

DATA = Generated(100_000, "data")
BIG = Generated(3_000_000, "big")  # More than one block: served from a temporary file.
RUN = "/api/v2/jobs/AbCdE/runs/1/"
LIVE = "/api/v2/jobs/AbCdE/runs/2/"


class Client:
    """A plain client of one emulator: GET and POST by path, whole listings, contents."""

    def __init__(self, emu: Emulator) -> None:
        self.emu = emu
        self.session = requests.Session()
        self.session.headers.update({**emu.headers, "Accept-Encoding": "identity"})

    def get(self, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.emu.origin + path
        return self.session.get(url, allow_redirects=False, timeout=20, **options)

    def post(self, path: str) -> requests.Response:
        return self.session.post(self.emu.origin + path, allow_redirects=False, timeout=20)

    def rows(self, path: str) -> list[Any]:
        found: list[Any] = []
        url: str | None = path
        while url:
            body = self.get(url).json()
            found += body["results"]
            url = body["next"]
        return found

    def contents(self, id: str, wanted: str | None = None) -> requests.Response:
        return self.get(f"/api/v2/files/{id}/contents/", headers={"Range": wanted} if wanted else {})


def place_of(emu: Emulator, path: str) -> str:
    return f"/api/v2/files/{id_of(emu, path)}/contents/"


def ask(emu: Emulator, path: str) -> socket.socket:
    """Ask for a file over a connection of its own, on which the answer comes as it is sent."""
    connection = socket.create_connection(("127.0.0.1", int(emu.origin.rpartition(":")[2])), timeout=20)
    head = f"GET {place_of(emu, path)} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {emu.key}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def make_world(clock: ManualClock) -> World:
    """A job with a finished run of 25 files and a live one."""
    world = World(clock=clock)
    job = world.add_job("AbCdE", name="wing / case 1")
    run = job.add_run(finished=True, files={"a/b.txt": b"hello\nworld", "data": DATA, "big": BIG, "none": b""})
    for number in range(21):
        run.add_file(f"many/{number}", b"%d" % number)
    job.add_run(live={"log": b"one\ntwo\n", "a b/%#?\u00fc\n": b"odd"})
    return world


def run_of(emu: Emulator, number: str = "1") -> Run:
    return emu.world.jobs["AbCdE"].runs[number]


def id_of(emu: Emulator, path: str) -> str:
    return next(file.id for file in run_of(emu).files if file.relative_path == path)
