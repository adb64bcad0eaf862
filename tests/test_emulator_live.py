"""The emulator's live runs, over real HTTP: the working directory, tail, stop and snapshot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.emulated import LIVE, RUN, Client, make_world, run_of


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


def test_directory_contents(client: Client, emu: Emulator) -> None:
    rows = client.get(LIVE + "directory-contents/?page_size=1").json()
    assert [sorted(row) for row in rows] == [["path", "resource"]] * 2
    assert rows[0] == {"path": "log", "resource": LIVE + "tail/log"}
    assert rows[1]["resource"] == LIVE + "tail/a%20b/%25%23%3F%C3%BC%0A"
    assert client.get(rows[1]["resource"]).content == b"odd"
    assert client.get("/api/jobs/AbCdE/runs/2/directory-contents/").json()[0]["resource"].startswith("/api/jobs/")
    assert client.get(LIVE + "tail/nope").status_code == 404


def test_half_of_a_surrogate_pair_in_a_path(client: Client, emu: Emulator) -> None:
    """JSON can tell of it, and it can be asked for; what is no text at all is nothing."""
    run_of(emu, "2").add_live("half\ud800", b"odd")
    rows = client.get(LIVE + "directory-contents/").json()
    assert (rows[-1]["path"], rows[-1]["resource"]) == ("half\ud800", LIVE + "tail/half%ED%A0%80")
    assert client.get(rows[-1]["resource"]).content == b"odd"
    assert client.get(LIVE + "tail/%FF").status_code == 404


def test_tail_is_chunked_and_whole(client: Client, emu: Emulator) -> None:
    live = run_of(emu, "2").live["log"]
    answer = client.get(LIVE + "tail/log", headers={"Range": "bytes=4-"})
    assert (answer.status_code, answer.content) == (200, b"one\ntwo\n")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    emu.habits.tail_honours_range = True
    assert client.get(LIVE + "tail/log", headers={"Range": "bytes=4-"}).content == b"two\n"
    assert client.get(LIVE + "tail/log", headers={"Range": "bytes=8-"}).status_code == 416
    live.append(b"thr")
    assert client.get(LIVE + "tail/log").content == b"one\ntwo\nthr"


def test_tail_lines(client: Client, emu: Emulator) -> None:
    live = run_of(emu, "2").live["log"]
    assert client.get(LIVE + "tail/log?lines=1").json() == {
        "fileType": "/home/job_AbCdE/work/log: ASCII text",
        "lines": ["two"],
    }
    assert client.get(LIVE + "tail/log?lines=99").json()["lines"] == ["one", "two"]
    assert client.get(LIVE + "tail/log?lines=x").status_code == 400
    live.append(b"three")
    assert client.get(LIVE + "tail/log?lines=2").json()["lines"] == ["two", "three"]
    live.replace(b"\xff\n")
    assert client.get(LIVE + "tail/log?lines=2").json()["lines"] == ["\ufffd"]
    live.replace(b"a\r\n\x0cb\n\n")  # A newline alone ends a line.
    assert client.get(LIVE + "tail/log?lines=9").json()["lines"] == ["a\r", "\x0cb", ""]
    assert client.get(LIVE + "tail/log?lines=1").json()["lines"] == [""]
    assert client.get(LIVE + "tail/log?lines=0").json()["lines"] == []
    live.replace(b"")
    assert client.get(LIVE + "tail/log?lines=2").json() == {
        "fileType": "/home/job_AbCdE/work/log: empty",
        "lines": [],
    }


def test_tail_that_knows_no_lines_is_whole(client: Client, emu: Emulator) -> None:
    emu.habits.tail_knows_lines = False
    answer = client.get(LIVE + "tail/log?lines=1")
    assert (answer.headers["Content-Type"], answer.content) == ("application/octet-stream", b"one\ntwo\n")


def test_tail_lines_of_a_log_of_many(client: Client, emu: Emulator) -> None:
    live = run_of(emu, "2").live["log"]
    live.replace(b"".join(b"%d\n" % number for number in range(100_000)))
    emu.reset_counts()
    answer = client.get(LIVE + "tail/log?lines=100").json()
    assert answer["lines"] == [str(number) for number in range(99_900, 100_000)]
    assert emu.bytes_sent["tail"] < 2000


@pytest.mark.skipif(shutil.which("file") is None, reason="file(1) is not installed")
@pytest.mark.parametrize(
    "data",
    [
        b"Time = 0\n" * 10,
        "T = 20 \u00b0C\n".encode() * 10,
        b"T = 20 \xb0C\n" * 10,
        b"Time = 0\r\n" * 10,
        b"Time = 0\r\nTime = 1\n" * 10,
        b"Time = 0\rTime = 1\r" * 10,
        b"Time = 0" * 10,
        b"\0\1\2\3" * 10,
        b"",
    ],
    ids=repr,
)
def test_tail_tells_what_file_tells(data: bytes, client: Client, emu: Emulator, tmp_path: Path) -> None:
    run_of(emu, "2").live["log"].replace(data)
    (tmp_path / "log").write_bytes(data)
    says = subprocess.run(["file", "-b", tmp_path / "log"], capture_output=True, text=True, check=True).stdout
    told = client.get(LIVE + "tail/log?lines=2").json()["fileType"]
    assert told == f"/home/job_AbCdE/work/log: {says.strip()}"


@pytest.mark.parametrize(
    ("form", "status", "body"),
    [
        (404, 404, {"detail": "Not found."}),
        (400, 400, {"detail": "Bad request."}),
        (500, 500, {"detail": "Server error."}),
        ("detail", 200, {"detail": "The run is not in progress."}),
        ("empty", 200, []),
    ],
)
def test_dead_live_endpoints(world: World, form: Any, status: int, body: Any) -> None:
    with Emulator(world, dead_live=form) as emu:
        client = Client(emu)
        for path in ("directory-contents/", "tail/log", "tail/log?lines=5"):
            answer = client.get(RUN + path)
            assert (answer.status_code, answer.json()) == (status, body)
        client.session.close()


# Stop and snapshot.


def test_stop(client: Client, emu: Emulator, clock: ManualClock) -> None:
    run_of(emu, "2").trickle_s = 10
    answer = client.post(LIVE + "stop/")
    assert (answer.status_code, answer.json()) == (200, {})
    assert client.rows("/api/v2/jobs/AbCdE/statuses/")[0]["status"] == "Stopping"
    assert client.get(LIVE).json()["dateCompleted"] is None
    clock.advance(emu.world.stop_s)
    last = client.rows("/api/v2/jobs/AbCdE/statuses/")[0]
    assert (last["status"], last["statusReason"]) == ("Completed", "User Terminated")
    done = client.get(LIVE).json()
    assert (done["outputFileCount"], done["outputFileSize"]) == (2, 11)
    assert client.get(LIVE + "tail/log").status_code == 404
    assert [row["isUploaded"] for row in client.rows(LIVE + "files/")] == [False]
    clock.advance(10)
    assert [row["isUploaded"] for row in client.rows(LIVE + "files/")] == [True, False]
    clock.advance(10)
    rows = client.rows(LIVE + "files/")
    assert [row["isUploaded"] for row in rows] == [True, True]
    assert client.get(rows[0]["downloadUrl"]).content == b"one\ntwo\n"
    assert emu.methods["POST"] == emu.requests["stop"] == 1


def test_job_stop(client: Client, emu: Emulator, clock: ManualClock) -> None:
    answer = client.post("/api/v2/jobs/AbCdE/stop/")
    assert (answer.status_code, answer.content) == (202, b"")
    clock.advance(emu.world.stop_s)
    assert client.rows("/api/v2/jobs/AbCdE/statuses/")[0]["statusReason"] == "User Terminated"
    assert not run_of(emu, "2").is_live()


@pytest.mark.parametrize("habit", [200, 400, 404])
@pytest.mark.parametrize("act", ["stop", "snapshot"])
def test_acts_on_a_finished_run(client: Client, emu: Emulator, act: str, habit: Any) -> None:
    emu.habits.finished_act = habit
    assert client.post(f"{RUN}{act}/").status_code == habit
    assert len(run_of(emu).listed_files()) == 25


def test_snapshot(client: Client, emu: Emulator, clock: ManualClock) -> None:
    answer = client.post(LIVE + "snapshot/").json()
    assert answer == {"data": "", "exitcode": 0, "lastSnapshotID": None, "reason": "Generating snapshot."}
    assert client.rows(LIVE + "files/") == []
    clock.advance(emu.world.snapshot_s)
    (row,) = client.rows(LIVE + "files/")
    assert (row["typeId"], row["name"]) == (12, "snapshot_1.tar.gz")
    assert client.post(LIVE + "snapshot/").json()["lastSnapshotID"] == row["id"]
    run_of(emu, "2").snapshot_exitcode = 1
    failed = client.post(LIVE + "snapshot/")
    assert (failed.status_code, failed.json()["exitcode"]) == (200, 1)
