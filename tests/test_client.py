"""The endpoints as typed calls: each is a request to the right place, and each act is sent once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs.client import ActAnswer, Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import Corrupt, NotFound, Refused, RescaleError, Unavailable
from rescalefs.models import LastLines
from tests.raw_server import RawServer, header, reply
from tests.stack import client_of

LONG_S = 1000.0
ClientOf = Callable[..., Client]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def at(clock: ManualClock) -> float:
    """A deadline that no test reaches."""
    return clock.now() + LONG_S


@pytest.fixture
def asking(clock: ManualClock) -> Iterator[ClientOf]:
    """Make a client of a server: `asking(server)`."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(client_of(server.origin, clock, is_parallel=False))


@pytest.fixture
def client(clock: ManualClock, emulator: Emulator) -> Iterator[Client]:
    """A client of the emulator."""
    with client_of(emulator.origin, clock) as made:
        yield made


# Jobs and their statuses.


def test_jobs_come_with_their_status(client: Client, emulator: Emulator, world: World, at: float) -> None:
    """The list of jobs is paged by 200 and tells each status, so that no job is asked for alone."""
    ids = {world.add_job(submitted=bool(number % 2)).id for number in range(401)}
    jobs = client.jobs(at)
    assert {job.id for job in jobs} == ids
    assert {job.status for job in jobs} == {"Executing", ""}
    assert emulator.requests == {"jobs": 3}


def test_a_job_gets_its_status_from_the_history(client: Client, emulator: Emulator, run: Run, at: float) -> None:
    """The detail tells no status, so one job is two requests."""
    job = client.job("AbCdE", at)
    assert (job.id, job.name, job.status, job.is_over) == ("AbCdE", "wing / case 1", "Completed", True)
    assert emulator.requests == {"job": 1, "statuses": 1}


def test_a_job_that_was_never_submitted_has_no_status(client: Client, world: World, at: float) -> None:
    """An empty history is no error."""
    world.add_job("Saved", submitted=False)
    assert client.job("Saved", at).status == ""


DATES = ["2024-05-02T10:00:00Z", "2024-05-02T10:00:00.5Z", "2024-05-02T10:00:01+00:00", "2024-05-02T09:00:02-01:00"]


@given(st.permutations(DATES), st.sets(st.sampled_from(DATES), min_size=1))
@settings(max_examples=30, deadline=None)
def test_the_newest_status_counts(order: list[str], told: set[str]) -> None:
    """Neither the order of the rows nor the way in which a time is written decides."""
    rows = [{"status": date, "statusDate": date} for date in order if date in told]
    clock = ManualClock()
    with (
        RawServer(reply(200, json.dumps({"results": rows}).encode())) as server,
        client_of(server.origin, clock, is_parallel=False) as client,
    ):
        assert client.status("J", clock.now() + LONG_S) == max(told, key=DATES.index)


# Live runs.


def test_a_live_run_lists_its_paths(client: Client, live: Run, emulator: Emulator, at: float) -> None:
    """The bare array of directory-contents is the paths, from one request."""
    assert sorted(client.live_paths("LiveR", live.id, at)) == ["case/U", "log"]
    assert emulator.requests == {"directory_contents": 1}


@pytest.mark.parametrize("form", [404, 400, 500, "detail", "empty"])
def test_every_no_of_a_run_that_is_not_live_is_an_error(
    client: Client, emulator: Emulator, at: float, form: Any
) -> None:
    """A run without a live view is an error from one request in whichever way the API says so, never an empty one."""
    run = emulator.world.add_job("Ended").add_run(finished=True)
    emulator.habits.dead_live = form
    with pytest.raises((Unavailable, NotFound)):
        client.live_paths("Ended", run.id, at)
    assert emulator.requests == {"directory_contents": 1}


NO_LIVE_VIEWS: list[tuple[object, type[RescaleError]]] = [
    (None, NotFound),
    ("log", NotFound),
    ({"results": [{"path": "log"}]}, NotFound),
    ([None], Corrupt),
    (["log"], Corrupt),
    ([{"path": "log"}, {"resource": "/api/v2/x"}], Corrupt),
    ([{"path": ""}], Corrupt),
    ([{"path": 5}], Corrupt),
]


@pytest.mark.parametrize(("answer", "kind"), NO_LIVE_VIEWS)
def test_what_is_no_live_view_is_an_error(
    asking: ClientOf, at: float, answer: object, kind: type[RescaleError]
) -> None:
    """Entries without a path make no shorter listing."""
    with RawServer(reply(200, json.dumps(answer).encode())) as server, pytest.raises(kind):
        asking(server).live_paths("J", "1", at)
    assert server.connections == 1


def body_of(transfer: Any) -> bytes:
    """Return what comes."""
    buffer, data = memoryview(bytearray(100)), b""
    with transfer:
        while count := transfer.readinto(buffer):
            data += buffer[:count]
    return data


@pytest.mark.parametrize(
    "path", ["log", "a b/%#?\u00fc\n", "%2E%2E/x", "a//b", "/etc/passwd", "-", "x" * 300, "\udc80"]
)
def test_a_tail_is_of_its_path(asking: ClientOf, at: float, path: str) -> None:
    """Every path of a live file arrives as it is, without a slash at its end, and the body is its bytes."""
    with RawServer(reply(200, b"live")) as server:
        assert body_of(asking(server).tail("J", "1", path, deadline_at=at)) == b"live"
        quoted = server.heads[0].split()[1].removeprefix("/api/v2/jobs/J/runs/1/tail/")
    assert unquote(quoted, errors="surrogatepass") == path


def test_a_tail_is_the_live_file(client: Client, live: Run, at: float) -> None:
    """A live file comes from its first byte to its present end."""
    live.live["log"].append(b"Time = 1\n")
    with client.tail("LiveR", live.id, "log", deadline_at=at) as transfer:
        assert (transfer.start, body_of(transfer)) == (0, b"Time = 0\nTime = 1\n")


def test_last_lines_are_text_without_newlines(client: Client, emulator: Emulator, live: Run, at: float) -> None:
    """As many as asked for or as there are, and what file(1) says of the file; one request."""
    live.live["log"].append(b"Time = 1\n")
    told = client.last_lines("LiveR", live.id, "log", 1, max_bytes=1000, deadline_at=at)
    assert told == LastLines("/home/job_LiveR/work/log: ASCII text", ("Time = 1",))
    assert emulator.requests == {"tail": 1}
    assert client.last_lines("LiveR", live.id, "log", 9, max_bytes=1000, deadline_at=at).lines == (
        "Time = 0",
        "Time = 1",
    )


@pytest.mark.parametrize("body", [{}, [], {"lines": ["a"]}, {"fileType": "text", "lines": "a"},
                                  {"fileType": "text", "lines": ["a", 1]}, {"fileType": 1, "lines": []}])  # fmt: skip
def test_what_is_no_lines_is_none(asking: ClientOf, at: float, body: object) -> None:
    """An answer of another shape is what a run that is not live any more says: asked once, and an error."""
    with RawServer(reply(200, json.dumps(body).encode())) as server:
        with pytest.raises(Unavailable):
            asking(server).last_lines("J", "1", "log", 9, max_bytes=1000, deadline_at=at)
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(200, b"Time = 0\nTime = 1\n"), Corrupt),
        (reply(200, b'{"fileType": "x: ASCII text", "lines": ["' + b"a" * 1000 + b'"]}'), Refused),
        (reply(405, b"{}"), Refused),
        (reply(503, b"{}"), Unavailable),
    ],
    ids=["the file", "more than that", "405", "503"],
)
def test_lines_that_are_not_told_are_an_error(
    asking: ClientOf, at: float, answer: bytes, error: type[Exception]
) -> None:
    """A server that does not know of lines, tells too many or fails: asked once, no bytes of the file."""
    with RawServer(answer) as server:
        with pytest.raises(error):
            asking(server).last_lines("J", "1", "log", 9, max_bytes=1000, deadline_at=at)
        assert server.connections == 1


# Contents.


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 4), (3, 7), (3, None), (9, 10), (2, 99)])
def test_contents_are_the_range_asked_for(
    client: Client, emulator: Emulator, run: Run, at: float, start: int, end: int | None
) -> None:
    """Bytes [start, end) come with one request, and the transfer tells offset and size."""
    file = run.add_file("digits", b"0123456789")
    with client.contents(file.id, start, end, deadline_at=at) as transfer:
        assert (transfer.start, transfer.total) == (start, 10)
        assert body_of(transfer) == b"0123456789"[start:end]
    assert emulator.requests == {"contents": 1}


def test_contents_beyond_the_end_are_refused(client: Client, run: Run, at: float) -> None:
    """A range without a byte is an error, not an empty file."""
    file = run.add_file("digits", b"0123456789")
    with pytest.raises(Refused, match="416"):
        client.contents(file.id, 10, 11, deadline_at=at)


def test_contents_of_a_server_without_ranges_begin_at_zero(
    client: Client, emulator: Emulator, run: Run, at: float
) -> None:
    """A 200 to a range is the whole file, and says so."""
    file = run.add_file("digits", b"0123456789")
    emulator.faults.add(endpoint="contents", ignore_range=True)
    with client.contents(file.id, 5, 7, deadline_at=at) as transfer:
        assert (transfer.start, body_of(transfer)) == (0, b"0123456789")


def test_contents_of_no_file_are_not_found(client: Client, emulator: Emulator, at: float) -> None:
    """A missing id is no empty file, and is asked for once."""
    with pytest.raises(NotFound):
        client.contents("nobody", 0, None, deadline_at=at)
    assert emulator.requests == {"contents": 1}


# Acts.

FAILED = ActAnswer(1, "")
ANSWERS: list[tuple[bytes, ActAnswer]] = [
    (reply(200, b"{}"), ActAnswer(0, "")),
    (reply(202), ActAnswer(0, "")),
    (
        reply(200, b'{"data": "", "exitcode": 0, "reason": "Generating snapshot."}'),
        ActAnswer(0, "Generating snapshot."),
    ),
    (reply(200, b'{"exitcode": 3, "reason": "disk full"}'), ActAnswer(3, "disk full")),
    (reply(200, b'{"exitcode": "0", "reason": null}'), FAILED),
    (reply(200, b'{"exitcode": null, "reason": 5}'), FAILED),
    (reply(200, b"[]"), ActAnswer(0, "")),
    (reply(200, b"null"), ActAnswer(0, "")),
]


@pytest.mark.parametrize("act", ["stop", "snapshot"])
@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_an_act_is_one_post(asking: ClientOf, at: float, act: str, answer: bytes, expected: ActAnswer) -> None:
    """Stop and snapshot are one POST without a body to the run's own URL; a 200 may carry a failure."""
    with RawServer(answer) as server:
        assert asking(server).act(act, "Jo b", "1", at) == expected
        assert [head.split("\r\n")[0] for head in server.heads] == [f"POST /api/v2/jobs/Jo%20b/runs/1/{act}/ HTTP/1.1"]
        assert header(server.heads[0], "Content-Length") == "0"


@pytest.mark.parametrize("fault", [{"late_status": 504}, {"drop": True}, {"status": 503}, {"status": 429}])
@pytest.mark.parametrize("act", ["stop", "snapshot"])
def test_an_act_that_failed_is_not_sent_again(
    client: Client, emulator: Emulator, live: Run, at: float, act: str, fault: dict[str, Any]
) -> None:
    """Whether it was done or not, a POST without a good answer stays the only one."""
    emulator.faults.add(endpoint=act, **fault)
    with pytest.raises(Unavailable):
        client.act(act, "LiveR", live.id, at)
    assert (emulator.methods, emulator.requests) == ({"POST": 1}, {act: 1})


def test_a_stop_stops(client: Client, live: Run, at: float) -> None:
    """The run that is named is the one that ends."""
    assert live.is_live()
    assert client.act("stop", "LiveR", live.id, at) == ActAnswer(0, "")
    assert live.completed is not None


@pytest.mark.parametrize("dots", [".", ".."])
def test_a_dot_segment_is_never_sent(asking: ClientOf, at: float, dots: str) -> None:
    """An id or a path that leads elsewhere, such as `jobs/x/runs/..`, is refused without a request."""
    with RawServer(reply(200, b"{}")) as server:
        client = asking(server)
        calls: list[Callable[[], object]] = [
            lambda: client.act("stop", "J", dots, at),
            lambda: client.act("stop", dots, "1", at),
            lambda: client.contents(dots, 0, None, deadline_at=at),
            lambda: client.tail("J", "1", f"case/{dots}/x", deadline_at=at),
        ]
        for call in calls:
            with pytest.raises(Refused):
                call()
        assert server.connections == 0


@pytest.mark.parametrize("body", [b'{"email": "u@example.com"}', b"{}", b"[]", b"null", b'{"email": 5}'])
def test_the_owner_of_the_key_may_be_unnamed(asking: ClientOf, at: float, body: bytes) -> None:
    """The look at key and origin needs a good answer, not its words."""
    with RawServer(reply(200, body)) as server:
        assert asking(server).whoami(at) == ("u@example.com" if b"@" in body else "")
