"""An endpoint that fails for everybody: noticed, said once, asked now and then, and well again at the first answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rescalefs.breaker import DOWN_AFTER_S, DOWN_RESOURCES, PROBE_S, Breaker
from rescalefs.budget import Rate
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.errors import DeadlineExceeded, NotFound, Offline, RescaleError, Unavailable
from tests.conftest import Mounted, wait_for
from tests.raw_server import STALL, RawServer, reply
from tests.stack import transport_to

FILES = [f"files/{number}/contents/" for number in range(DOWN_RESOURCES)]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(clock=clock.now, wall_clock=clock.now)


def fail(breaker: Breaker, resources: list[str], endpoint: str = "contents") -> None:
    for resource in resources:
        breaker.failed(endpoint, resource, "503 Busy")


def is_open(breaker: Breaker, endpoint: str = "contents") -> bool:
    try:
        breaker.check(endpoint, "GET x")
    except Offline:
        return True
    return False


def test_several_resources_that_fail_for_some_seconds_are_an_endpoint_that_is_down(
    clock: ManualClock, breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    """From then on one question passes in a few seconds; an answer ends it; a line for the begin, one for the end."""
    caplog.set_level(logging.INFO)
    fail(breaker, FILES)
    clock.advance(DOWN_AFTER_S - 0.01)
    fail(breaker, FILES)
    assert (is_open(breaker), breaker.status) == (False, None)
    clock.advance(0.02)
    fail(breaker, FILES * 3)

    passed = 0
    for _ in range(100):
        passed += not is_open(breaker)
        clock.advance(PROBE_S / 10)
    assert passed == 10
    assert breaker.status == "failing since 2023-11-14T22:13:30Z (contents): 503 Busy"
    assert not is_open(breaker, "jobs")
    assert [record.levelname for record in caplog.records] == ["WARNING"]

    breaker.answered("contents")
    breaker.answered("contents")
    assert (is_open(breaker), breaker.status) == (False, None)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_one_file_that_fails_says_nothing_about_the_others(clock: ManualClock, breaker: Breaker) -> None:
    """However often and long it fails, and one more as well; an answer to another question begins anew."""
    for _ in range(100):
        fail(breaker, FILES[:-1])
        clock.advance(DOWN_AFTER_S)
    assert not is_open(breaker)

    breaker.answered("contents")
    fail(breaker, FILES)
    assert not is_open(breaker)


def test_what_there_is_one_of_needs_no_second(clock: ManualClock, breaker: Breaker) -> None:
    """The list of jobs stands for itself; a try that took long enough is long enough."""
    breaker.failed("jobs", "jobs/", "no answer", tried_s=15.0)
    breaker.failed("runs", "jobs/AbCdE/runs/", "no answer", tried_s=15.0)
    assert not is_open(breaker, "runs")
    assert breaker.status is not None
    is_open(breaker, "jobs")  # the first one passes
    assert is_open(breaker, "jobs")


FAILURES = {"503": reply(503, b"<html>"), "no answer": STALL, "no JSON": reply(200, b"<html>"), "cut": b""}


@pytest.mark.parametrize("name", FAILURES)
def test_requests_that_fail_are_noted(
    name: str, clock: ManualClock, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the failure is: in the end nothing is sent, until a question that passes is answered."""
    monkeypatch.setattr("rescalefs.transport.SILENCE_S", 0.1)
    answers = [FAILURES[name]] * 6
    with RawServer(*answers, reply(200, b"{}")) as server:
        transport = transport_to(server.origin, clock, breaker=breaker)
        with closing(transport):
            for number in range(3):
                with pytest.raises((Unavailable, DeadlineExceeded)) as caught:  # after two tries
                    transport.json("run", "s", f"jobs/{number}/", clock.now() + 0.1)
                assert not isinstance(caught.value, Offline)
                clock.advance(DOWN_AFTER_S / 2)
            wait_for(lambda: server.connections == 6, 20, lambda: f"{server.connections} connections")
            monkeypatch.undo()
            breaker.failed("run", "jobs/0/", "once more")  # the last one came before the ten seconds were over
            assert transport.json("run", "s", "jobs/0/", clock.now() + 20) == {}
            assert breaker.status is None


def test_a_thousand_questions_fail_without_a_request(clock: ManualClock, breaker: Breaker) -> None:
    """Once the endpoint is down, side by side, and none waits in the queue of a scope that has one request a second.

    Who was on its way then is the one that goes on trying.
    """
    rates = {"s": Rate(1, 1)}
    with (
        RawServer(reply(503)) as server,
        closing(transport_to(server.origin, clock, breaker=breaker, rates=rates)) as transport,
    ):
        with pytest.raises(RescaleError, match="503"):
            transport.json("jobs", "s", "jobs/", clock.now() + 20)
        assert breaker.status is not None
        sent = server.connections
        breaker.check("jobs", "the one that passes")
        began = clock.now()

        def ask(_number: int) -> None:
            with pytest.raises(Offline, match=r"Rescale fails.*503"):
                transport.json("jobs", "s", "jobs/", began + 1000)

        with ThreadPoolExecutor(100) as pool:
            assert len(list(pool.map(ask, range(1000)))) == 1000
        assert (server.connections, clock.now()) == (sent, began)  # nobody has slept


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Unavailable), (429, Unavailable)])
def test_a_refusal_is_no_failure(status: int, kind: type[Exception], clock: ManualClock, breaker: Breaker) -> None:
    """Nor is being throttled, however long it lasts."""
    with RawServer(reply(status)) as server, closing(transport_to(server.origin, clock, breaker=breaker)) as transport:
        for number in range(20):
            with pytest.raises(kind) as caught:
                transport.json("jobs", "s", "jobs/", clock.now() + 1)
            assert not isinstance(caught.value, Offline), number
            clock.advance(DOWN_AFTER_S)
    assert breaker.status is None


def test_what_fails_by_nature_is_not_noted(clock: ManualClock, breaker: Breaker) -> None:
    """The live view of a run, say, which is asked once: its failure is an answer."""
    with RawServer(reply(500)) as server, closing(transport_to(server.origin, clock, breaker=breaker)) as transport:
        for _ in range(20):
            with pytest.raises(Unavailable):
                transport.json("directory_contents", "s", "x/", clock.now() + 1, is_retried=False)
            clock.advance(DOWN_AFTER_S)
    assert breaker.status is None


@pytest.mark.mount
@pytest.mark.timeout(120)
def test_while_rescale_fails_all_readers_fail_at_once(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """A thousand questions cost a few requests; status and log say so, kept listings are shown; then all is well."""
    files = {f"down/{number}": b"%d" % number for number in range(40)}
    for path, data in files.items():
        run.add_file(path, data)
    mounted = mount_of(emulator, "--metadata-deadline", "3", "--data-deadline", "3", RESCALEFS_BUDGET="off")
    top = mounted.jobs / "AbCdE/runs/1"
    names = sorted(Path(top, "down").iterdir())
    fault = emulator.faults.add(endpoint="contents", status=503)
    status = mounted.path / ".rescale/status"

    def is_read(path: Path) -> bool:
        try:
            return path.read_bytes() == files[f"down/{path.name}"]
        except OSError:
            return False

    for path in names * 10:
        assert not is_read(path)
        if status.read_text().startswith("failing"):
            break
    assert status.read_text().startswith("failing since 20")
    before = emulator.requests["contents"]
    for _ in range(1000 // len(names)):
        assert not any(map(is_read, names))
    assert emulator.requests["contents"] - before < 100
    assert sorted(path.name for path in Path(top, "down").iterdir()) == sorted(path.name for path in names)

    emulator.faults.remove(fault)
    while not is_read(names[0]):
        pass
    assert all(map(is_read, names))
    assert status.read_text() == "online\n"
    lines = mounted.log.splitlines()
    assert sum("Rescale fails (contents)" in line and "WARNING" in line for line in lines) == 1
    assert sum("Rescale answers again (contents)" in line for line in lines) == 1
