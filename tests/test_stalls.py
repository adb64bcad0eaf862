"""Transfers that have all but stopped: which are cut, which are not, and that the rest is asked for, and no more."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import Unavailable
from rescalefs.stalls import STALL_S, Stalls, Watched
from tests.conftest import Mounted
from tests.raw_server import READ, STALL, RawServer, Script, reply
from tests.stack import client_of, transport_to
from tests.tools import FILES

MB = 1_000_000
LONG_S = 30.0


class Link:
    """Transfers that give what a test says, second by second; one that is cut is begun anew."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self.stalls = Stalls(clock=self._clock.now)
        self.cuts: list[str] = []
        self._running: dict[str, Watched] = {}

    def give(self, seconds: int, **rates: float) -> None:
        """Let transfers bring so many bytes a second; those without a rate have ended."""
        for name in self._running.keys() - rates.keys():
            self._running.pop(name).end()
        for _ in range(seconds):
            for name, rate in rates.items():
                if name not in self._running:
                    self._begin(name)
                self._running[name].note(int(rate))
            self._clock.advance(STALL_S / 5)
            self.stalls.look()

    def _begin(self, name: str) -> None:
        def interrupt() -> None:
            self.cuts.append(name)
            self._running.pop(name).end()

        self._running[name] = self.stalls.watch("contents", interrupt)


@pytest.fixture
def link() -> Link:
    return Link()


def test_one_of_several_that_drips_is_cut(link: Link) -> None:
    """The others give what they give; the new transfer in its place goes on in peace."""
    link.give(20, a=8 * MB, b=7 * MB, c=300)
    assert set(link.cuts) == {"c"}
    cuts = len(link.cuts)
    link.give(20, a=8 * MB, b=7 * MB, c=6 * MB)
    assert len(link.cuts) == cuts

    link.give(6, a=8 * MB, b=7 * MB, c=0)
    assert len(link.cuts) == cuts + 1


def test_transfers_of_a_slow_link_are_left_alone(link: Link) -> None:
    """All of them slow from the beginning, or from one moment on: new requests would change nothing."""
    link.give(30, a=900, b=1100, c=700, d=2000)
    assert link.cuts == []
    link.give(10, a=8 * MB, b=7 * MB, c=6 * MB)
    link.give(60, a=5000, b=4000, c=6000)
    assert link.cuts == []


def test_where_all_have_stopped_all_are_tried_anew(link: Link) -> None:
    """Once in the time that a stall takes."""
    link.give(10, a=8 * MB, b=7 * MB, c=6 * MB)
    link.give(6, a=0, b=20, c=0)
    assert sorted(link.cuts) == ["a", "b", "c"]
    link.give(6, a=8 * MB, b=0, c=7 * MB)
    assert sorted(link.cuts) == ["a", "b", "b", "c"]


def test_a_single_transfer_is_judged_by_what_it_gave(link: Link) -> None:
    """A drop to a small part is worth one new request; when that is as slow, the link is, and it is left alone."""
    link.give(10, a=4 * MB)
    link.give(60, a=40_000)
    assert link.cuts == ["a"]


def test_a_single_transfer_is_judged_by_the_one_before(link: Link) -> None:
    """A file of a moment ago tells what is usual."""
    link.give(1, a=4 * MB)
    link.give(60, b=40_000)
    assert link.cuts == ["b"]


def test_what_is_usual_outlives_a_pause(link: Link) -> None:
    """A live file is asked for every two seconds, and other kinds are read meanwhile."""
    link.give(1, a=4 * MB)
    tail = link.stalls.watch("tail", lambda: None)
    for _ in range(3):
        tail.note(5000)
        link.give(1)
    link.give(60, b=40_000)
    assert link.cuts == ["b"]


def test_a_single_transfer_that_drips_from_the_beginning_is_cut(link: Link) -> None:
    """Nobody's link gives twenty bytes a second; of one that gives a few KB nothing is known."""
    link.give(6, a=20)
    assert link.cuts == ["a"]
    link.give(100, b=5000)
    assert link.cuts == ["a"]


def test_a_link_that_slows_down_by_and_by_is_left_alone(link: Link) -> None:
    """What it gave a moment ago counts, not what it gave at its best."""
    rate = 10.0 * MB
    for _ in range(100):
        link.give(1, a=rate)
        rate *= 0.93
    assert link.cuts == []


def test_other_kinds_of_transfers_are_no_measure(link: Link) -> None:
    """The tail of a live file comes through the user's own cluster, at its own pace."""
    cut: list[str] = []
    tail = link.stalls.watch("tail", lambda: cut.append("tail"))
    for _ in range(20):
        tail.note(5000)
        link.give(1, a=8 * MB, b=7 * MB)
    assert (link.cuts, cut) == ([], [])


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    """One that needs four seconds, in real time: what is late for less has not stalled."""
    with closing(Stalls(4.0)) as running:
        running.start()
        yield running


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs to be trusted."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context


BODIES: dict[str, Script] = {
    "a length": (READ, reply(200, b"some", Content_Length="9"), STALL),
    "no length": (READ, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome", STALL),
    "chunks": (READ, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", STALL),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_cut_is_an_error_and_no_end(body: Script, stalls: Stalls) -> None:
    """What came is given; then comes an error that names the cause, whatever the end of such a body looks like."""
    clock = ManualClock()
    buffer = memoryview(bytearray(256))
    data = b""
    with RawServer(body) as server, closing(transport_to(server.origin, clock, stalls=stalls)) as transport:
        transfer = transport.stream("contents", "scope", "x/", clock.now() + LONG_S)
        with transfer, pytest.raises(Unavailable, match=r"was cut: it gave [0-9] B/s"):  # noqa: PT012 - see above
            while count := transfer.readinto(buffer):
                data += buffer[:count]
    assert data == b"some"


@pytest.mark.mount
@pytest.mark.parametrize("effects", [{"stall_after": 100}, {"stream_bytes_per_s": 20}], ids=["silence", "drip"])
def test_a_transfer_that_stalls_is_replaced(
    effects: dict[str, int], run: Run, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """A program in a mount sees nothing of it but a pause; the second request brings the rest."""
    mounted = mount_of(emulator, "--data-deadline", "8")
    path = mounted.jobs / "AbCdE/runs/1/case/100/U"
    assert path.stat().st_size == len(FILES["case/100/U"])
    emulator.faults.add(endpoint="contents", times=1, **effects)

    assert path.read_bytes() == FILES["case/100/U"]
    assert emulator.requests["contents"] == 2
    assert "ERROR" not in mounted.log


@pytest.mark.parametrize("effects", [{"stall_after": 300_000}, {"stream_bytes_per_s": 20}], ids=["silence", "drip"])
def test_the_rest_is_asked_for_and_no_more(effects: dict[str, int], stalls: Stalls, tmp_path: Path) -> None:
    """A reader gets the right bytes from a second request; both together send the file once."""
    world = World()
    data = hashlib.shake_128(b"stalls").digest(5 << 20)
    world.add_job("AbCdE").add_run(finished=True, files={"file": data})
    clock = ManualClock()
    with (
        Emulator(world) as emulator,
        client_of(emulator.origin, clock, stalls=stalls) as client,
        closing(
            ContentEngine(DiskCache(tmp_path, 1 << 30), client, account="a", deadline_s=LONG_S, clock=clock.now)
        ) as engine,
    ):
        (file,) = client.files("AbCdE", "1", clock.now() + LONG_S)
        fault = emulator.faults.add(endpoint="contents", times=1, **effects)
        engine.start()
        with closing(engine.open(file)) as handle:
            assert b"".join(handle.read(offset, 1 << 20) for offset in range(0, len(data), 1 << 20)) == data
        assert fault.hits == 1
        assert emulator.bytes_sent["contents"] <= len(data) + (256 << 10)  # and what was under way to us


def test_what_comes_after_a_cut_is_not_of_the_body(tls: ssl.SSLContext) -> None:
    """A cut takes TLS from the socket: what waits in it, or comes yet, is enciphered, and as long as any bytes are."""
    clock, stalls = ManualClock(), Stalls()
    buffer = memoryview(bytearray(256))
    with (
        RawServer((READ, reply(200, b"some", Content_Length="1000"), b"more", STALL), tls=tls) as server,
        closing(transport_to(server.origin, clock, stalls=stalls)) as transport,
        transport.stream("contents", "scope", "x/", clock.now() + LONG_S) as transfer,
    ):
        assert bytes(buffer[: transfer.readinto(buffer)]) == b"some"
        (watched,) = stalls._groups["contents"].running
        watched.stalled = "it gave nothing"
        watched.interrupt()
        with pytest.raises(Unavailable, match="it gave nothing"):
            transfer.readinto(buffer)
