"""What the emulator does wrong on purpose, what it counts, and its command."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from rescalefs.emulator import faults
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.content import Generated
from rescalefs.emulator.faults import Bucket
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import wait_for
from tests.emulated import BIG, DATA, LIVE, RUN, Client, ask, id_of, make_world, place_of, run_of


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return make_world(clock)


@pytest.fixture
def emu(world: World) -> Iterator[Emulator]:
    with Emulator(world) as emulator:
        yield emulator


@pytest.fixture
def client(emu: Emulator) -> Iterator[Client]:
    client = Client(emu)
    yield client
    client.session.close()


# Faults.


def test_status_leaves_the_world_alone(client: Client, emu: Emulator) -> None:
    fault = emu.faults.add(endpoint="stop", status=503, retry_after=7, times=1)
    answer = client.post(LIVE + "stop/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert (fault.hits, run_of(emu, "2").completed) == (1, None)
    assert client.post(LIVE + "stop/").ok


@pytest.mark.parametrize("effect", [{"late_status": 504}, {"drop": True}])
def test_act_done_and_answer_lost(client: Client, emu: Emulator, effect: Any) -> None:
    emu.faults.add(endpoint="stop", **effect)
    if "drop" in effect:
        with pytest.raises(requests.ConnectionError):
            client.post(LIVE + "stop/")
    else:
        assert client.post(LIVE + "stop/").status_code == 504
    assert run_of(emu, "2").completed is not None
    assert emu.requests["stop"] == 1


def test_fault_matching(client: Client, emu: Emulator) -> None:
    emu.faults.add(path=r"/runs/1/", nth=2, status=500)
    emu.faults.add(scope="user", method="GET", status=502, body="<html>bad gateway</html>")
    assert [client.get(RUN).status_code for _ in range(3)] == [200, 500, 200]
    assert client.get(LIVE).status_code == 200
    page = client.get("/api/v3/jobs/")
    assert (page.status_code, page.headers["Content-Type"]) == (502, "text/html")
    assert page.text == "<html>bad gateway</html>"
    emu.faults.clear()
    assert client.get("/api/v3/jobs/").ok


def test_unknown_fault(emu: Emulator) -> None:
    with pytest.raises(TypeError, match="cut_after"):
        emu.faults.add(endpoint="contents", cut_afer=5)


def test_cut_body(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", cut_after=1000)
    for path in ("big", "data"):
        answer = client.get(f"/api/v2/files/{id_of(emu, path)}/contents/", stream=True)
        assert int(answer.headers["Content-Length"]) > 1000
        pieces = []
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="Incomplete"):
            pieces.extend(piece for piece in answer.iter_content(100))
        assert sum(map(len, pieces)) == 1000
    assert emu.bytes_sent["contents"] == 2000


def test_cut_chunked_body(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="tail", cut_after=3)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        client.get(LIVE + "tail/log")


def test_stall(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", stall_after=1000)
    with contextlib.closing(ask(emu, "data")) as connection:
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < 1000:
            answer += connection.recv(4096)
        assert answer.endswith(DATA.read(0, 1000))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert emu.bytes_sent["contents"] == 1000


def test_until(client: Client, emu: Emulator) -> None:
    event = threading.Event()
    emu.faults.add(endpoint="contents", until=event)
    with contextlib.closing(ask(emu, "data")) as connection:
        wait_for(lambda: emu.under_way == 1, 20, lambda: "the request did not arrive")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert client.get(RUN).ok
        event.set()
        connection.settimeout(20)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_ignored_range(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", ignore_range=True)
    answer = client.contents(id_of(emu, "data"), "bytes=5-9")
    assert (answer.status_code, len(answer.content)) == (200, 100_000)


def test_wrong_bytes(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", wrong_byte_at=2_000_000)
    body = client.contents(id_of(emu, "big"), "bytes=1999999-2000001").content
    right = BIG.read(1_999_999, 2_000_002)
    assert [mine == theirs for mine, theirs in zip(body, right, strict=True)] == [True, False, True]


def test_wrong_content_range(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", headers={"Content-Range": "bytes 0-4/100000"})
    assert client.contents(id_of(emu, "data"), "bytes=5-9").headers["Content-Range"] == "bytes 0-4/100000"


@pytest.mark.parametrize("path", ["data", "big"])
def test_short_body(client: Client, emu: Emulator, path: str) -> None:
    emu.faults.add(endpoint="contents", short_by=10)
    answer = client.contents(id_of(emu, path), "bytes=0-99")
    assert (answer.headers["Content-Length"], len(answer.content)) == ("90", 90)


def test_redirect(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", redirect="http://other.example/x", late_status=307)
    answer = client.contents(id_of(emu, "data"))
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://other.example/x")


@pytest.mark.parametrize("effect", ["bad_json", "truncated_json"])
def test_broken_json(client: Client, emu: Emulator, effect: str) -> None:
    emu.faults.add(endpoint="runs", **{effect: True})
    with pytest.raises(requests.JSONDecodeError):
        client.get("/api/v2/jobs/AbCdE/runs/").json()


def test_count_too_high(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="run_files", count_plus=10)
    pages = [client.get(f"{RUN}files/?page={page}").json() for page in range(1, 5)]
    assert {page["count"] for page in pages} == {35}
    assert [len(page["results"]) for page in pages] == [10, 10, 5, 0]
    assert pages[2]["next"] is not None


def test_next_without_page_size(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="run_files", drop_page_size=True)
    assert client.get(f"{RUN}files/?page_size=5").json()["next"] == f"{emu.origin}{RUN}files/?page=2"


@pytest.mark.parametrize(("shift", "expected"), [(-1, [*range(10), *range(9, 25)]), (1, [*range(10), *range(11, 25)])])
def test_rows_shift(client: Client, emu: Emulator, shift: int, expected: list[int]) -> None:
    order = {file.id: number for number, file in enumerate(run_of(emu).files)}
    emu.faults.add(endpoint="run_files", shift_rows=shift)
    assert [order[row["id"]] for row in client.rows(RUN + "files/")] == expected


def test_throttle(client: Client, emu: Emulator) -> None:
    emu.faults.add(scope="runs-usage", throttle=Bucket(per_s=0.001, burst=3))
    answers = [client.get(RUN) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    wait = int(answers[-1].headers["Retry-After"])
    assert answers[-1].json() == {"detail": f"Request was throttled. Expected available in {wait} seconds."}
    assert client.get("/api/v2/jobs/").ok
    emu.faults.clear()
    emu.faults.add(status=429, retry_after_date=60)
    assert parsedate_to_datetime(client.get(RUN).headers["Retry-After"]).timestamp() > time.time()


@pytest.mark.parametrize("where", ["switch", "fault"])
def test_pace_sends_all(client: Client, emu: Emulator, where: str) -> None:
    if where == "switch":
        emu.stream_bytes_per_s, emu.latency_s = 1e6, 0.01
    else:
        emu.faults.add(endpoint="contents", stream_bytes_per_s=1e6, latency_s=0.01)
    assert client.contents(id_of(emu, "data")).content == DATA.read(0, DATA.size)
    assert client.contents(id_of(emu, "big"), "bytes=5-99").content == BIG.read(5, 100)


def test_streams_run_side_by_side(client: Client, emu: Emulator) -> None:
    emu.faults.add(endpoint="contents", times=1, stream_bytes_per_s=100)
    emu.stream_bytes_per_s = 1e6
    with contextlib.closing(ask(emu, "data")) as slow:
        assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):
            assert client.contents(id_of(emu, "data")).content == DATA.read(0, DATA.size)
    assert emu.peak["contents"] > 1
    assert 3 * DATA.size <= emu.bytes_sent["contents"] < 4 * DATA.size


def test_every_fault_has_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in faults.KINDS if f"{name}=" not in source and f'"{name}"' not in source] == []


# Counts, and the server itself.


def test_log_and_counts(client: Client, emu: Emulator) -> None:
    client.contents(id_of(emu, "data"), "bytes=0-9")
    (request,) = emu.log
    assert (request.endpoint, request.method, request.range) == ("contents", "GET", "bytes=0-9")
    assert (request.status, request.bytes_sent, request.scheme) == (206, 10, "Token")
    assert emu.key not in repr(emu.log)
    emu.reset_counts()
    assert not emu.requests
    assert not emu.log
    assert not emu.bytes_sent


def test_client_that_leaves(client: Client, emu: Emulator) -> None:
    huge = Generated(200_000_000, "huge")
    file = run_of(emu).add_file("huge", huge, checksum="none")
    answer = client.get(f"/api/v2/files/{file.id}/contents/", stream=True)
    assert answer.raw.read(1000) == huge.read(0, 1000)
    answer.close()
    deadline = time.monotonic() + 10
    while emu.bytes_sent["contents"] == huge.size and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 1000 <= emu.bytes_sent["contents"] < huge.size
    assert client.get(RUN).ok


def test_port_taken(emu: Emulator, world: World) -> None:
    with pytest.raises(OSError, match="in use"):
        Emulator(world, port=int(emu.origin.rpartition(":")[2])).start()


# The command.

PROGRAM = [sys.executable, "-m", "rescalefs.emulator.command"]


def test_command_serves_until_terminated() -> None:
    with subprocess.Popen([*PROGRAM, "--port", "0", "--key", "k"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        origin = process.stdout.readline().strip()
        process.stdout.readline()
        assert process.stdout.readline().strip() == (f"RESCALE_API_URL={origin} RESCALE_API_KEY=k rescalefs mount DIR")
        headers = {"Authorization": "Token k"}
        assert requests.get(f"{origin}/api/v2/jobs/", headers=headers, timeout=20).json()["count"] == 6
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_command_with_a_bad_world(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    path.write_text('{"jobs": [{"nmae": "x"}]}')
    done = subprocess.run([*PROGRAM, "--world", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert f"{path}: jobs[0].nmae: there is no such field; use " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_command_imports_no_aiohttp() -> None:
    program = (
        "import sys, rescalefs.emulator.command as c; assert 'aiohttp' not in sys.modules;"
        "sys.modules['aiohttp'] = None; c.emulator(['--port', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'rescalefs[emulator]'" in done.stderr


@pytest.mark.parametrize("more", [{}, {"stream_bytes_per_s": 10_000_000}], ids=["as a file", "in pieces"])
def test_who_leaves_before_the_answer_begins_is_no_error(
    emu: Emulator, more: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    """A client that hangs up while it waits leaves nothing in the log, and the next one is served."""
    emu.faults.add(endpoint="contents", latency_s=0.3, times=1, **more)
    with ask(emu, "big") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        wait_for(lambda: emu.requests["contents"] == 1, 20, lambda: "the request did not arrive")
    wait_for(lambda: not emu.under_way, 20, lambda: "the answer is not given up")
    assert "Error handling request" not in caplog.text
    answer = requests.get(emu.origin + place_of(emu, "big"), headers=emu.headers, timeout=20)
    assert answer.content == BIG.read(0, BIG.size)


def test_a_connection_that_comes_while_the_emulator_ends_is_closed(world: World) -> None:
    """Whatever is asked at that moment, nothing is left that a later test would be blamed for."""
    for _ in range(5):
        emulator = Emulator(world).start()
        port = urlsplit(emulator.origin).port
        is_over = threading.Event()

        def connect(port: int | None = port, is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port or 0)) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n")

        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(connect)
            emulator.stop()
            is_over.set()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gc.collect()
        assert [str(each.message) for each in caught if each.category is ResourceWarning] == []
