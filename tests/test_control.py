"""Acts: only an exact payload, only on a live run, one POST whatever happens, and what is told of it afterwards."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rescalefs.control import ActKey, Controls, check_payload
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import (
    AccessDenied,
    BadCommand,
    NotFound,
    NotPossibleNow,
    Refused,
    RescaleError,
    Unavailable,
)
from rescalefs.operations import errno_of
from tests.conftest import Cost
from tests.stack import Acting, acting_on
from tests.tools import posts

STOP = ActKey("LiveR", "1", "stop")
SNAPSHOT = ActKey("LiveR", "1", "snapshot")
NOW = "2023-11-14T22:13:20Z"
WAIT_S = 20.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def acting(emulator: Emulator, clock: ManualClock) -> Iterator[Acting]:
    """Client, catalog and controls of the world."""
    with acting_on(emulator.origin, clock) as made:
        yield made


@pytest.fixture
def controls(acting: Acting) -> Controls:
    return acting.controls


def refused(kind: type[RescaleError], number: int, controls: Controls, key: ActKey, data: bytes = b"1\n") -> None:
    """Write and expect to be refused with that error, which the kernel is told as *number*."""
    with pytest.raises(kind) as caught:
        controls.write(key, data)
    assert type(caught.value) is kind
    assert errno_of(caught.value) == number


# ---- the payload ----

NAMES = st.sampled_from(["stop", "snapshot", "refresh"])
NEAR = st.text(st.sampled_from("1stop\n\r \0-0"), max_size=9).map(str.encode)


@given(NAMES, NEAR | st.binary(max_size=80))
@example("stop", b"1\n\n")
@example("stop", b"1\r\n")
@example("stop", b"snapshot")
@example("snapshot", b"stop\n")
@example("stop", b"Stop")
@example("stop", b"")
@example("stop", b"1" * 5000)
def test_any_other_payload_is_invalid(name: str, data: bytes) -> None:
    """What is not exactly `1` or the file's own name, with or without one newline, is EINVAL."""
    if data in (b"1", b"1\n", name.encode(), name.encode() + b"\n"):
        check_payload(data, name)
        return
    with pytest.raises(BadCommand) as caught:
        check_payload(data, name)
    assert errno_of(caught.value) == errno.EINVAL


@pytest.mark.parametrize("payload", [b"1", b"1\n", b"%s", b"%s\n"], ids=repr)
@pytest.mark.parametrize("key", [STOP, SNAPSHOT], ids=lambda key: key.act)
def test_each_payload_acts_with_one_post(
    key: ActKey, payload: bytes, live: Run, controls: Controls, emulator: Emulator, clock: ManualClock
) -> None:
    """The payload acts: the run stops, or its archive comes; the look before and one POST are all that is asked."""
    controls.write(key, payload.replace(b"%s", key.act.encode()))

    assert (posts(emulator), emulator.requests[key.act]) == (1, 1)
    clock.advance(10)
    assert live.is_live() == (key.act == "snapshot")
    assert len(live.listed_files()) == (1 if key.act == "snapshot" else 2)


@pytest.mark.parametrize("payload", [b"", b"0\n", b"1\n1\n", b" 1", b"STOP", b"snapshot\n"], ids=repr)
def test_another_payload_asks_nothing(live: Run, controls: Controls, emulator: Emulator, payload: bytes) -> None:
    """EINVAL comes before any request, and is no act to tell of."""
    refused(BadCommand, errno.EINVAL, controls, STOP, payload)

    assert not emulator.requests
    assert controls.report(STOP) == b"no stop was asked for\n"


# ---- runs that are not live ----


@pytest.mark.parametrize("key", [STOP, SNAPSHOT], ids=lambda key: key.act)
@pytest.mark.parametrize("habit", [200, 400])
def test_a_finished_run_is_left_alone(
    key: ActKey, habit: Any, world: World, controls: Controls, emulator: Emulator
) -> None:
    """EPERM, whatever the API would say to a request: none is sent."""
    world.add_job("LiveR").add_run(finished=True, files={"log": b""})
    emulator.habits.finished_act = habit

    refused(NotPossibleNow, errno.EPERM, controls, key)

    assert posts(emulator) == 0
    assert controls.report(key) == f"no {key.act} was asked for\n".encode()


def test_a_run_that_ended_a_moment_ago_is_left_alone(
    live: Run, controls: Controls, acting: Acting, emulator: Emulator
) -> None:
    """What was known before counts for nothing: the act looks first, and sees the end."""
    acting.catalog.view("LiveR", "1")
    live.finish()
    emulator.reset_counts()

    refused(NotPossibleNow, errno.EPERM, controls, STOP)

    assert dict(emulator.requests) == {"statuses": 1, "runs": 1}


def test_a_job_that_is_over_has_no_run_to_stop(live: Run, controls: Controls, emulator: Emulator) -> None:
    """A killed job can leave a run without an end; it is not live for that."""
    live.job.ended = live.job.world.clock.now()

    refused(NotPossibleNow, errno.EPERM, controls, STOP)

    assert posts(emulator) == 0


@pytest.mark.parametrize("key", [ActKey("LiveR", "2", "stop"), ActKey("NoJob", "1", "stop")])
def test_what_is_not_there_is_not_found(key: ActKey, live: Run, controls: Controls, emulator: Emulator) -> None:
    """An act on a run or a job that is missing is ENOENT, and nothing is sent."""
    refused(NotFound, errno.ENOENT, controls, key)

    assert posts(emulator) == 0


def test_an_act_without_a_look_is_none(live: Run, controls: Controls, emulator: Emulator) -> None:
    """Where the run cannot be looked at, it is not acted on."""
    emulator.faults.add(endpoint="runs", status=500)

    refused(Unavailable, errno.EIO, controls, STOP)

    assert posts(emulator) == 0


# ---- one POST, whatever happens ----

FAILURES: list[tuple[dict[str, Any], type[RescaleError], int]] = [
    ({"status": 400}, Refused, errno.EIO),
    ({"status": 403}, AccessDenied, errno.EACCES),
    ({"status": 404}, NotFound, errno.ENOENT),
    ({"status": 409}, Refused, errno.EIO),
    ({"status": 429, "retry_after": 1}, Unavailable, errno.EIO),
    ({"status": 500}, Unavailable, errno.EIO),
    ({"status": 503, "retry_after": 1}, Unavailable, errno.EIO),
    ({"redirect": "/api/v2/jobs/LiveR/runs/1/stop/"}, Refused, errno.EIO),
    ({"body": '{"exitcode": 3, "reason": "no space"}'}, Unavailable, errno.EIO),
    ({"body": '{"exitcode": "none"}'}, Unavailable, errno.EIO),
    ({"late_status": 500}, Unavailable, errno.EIO),
    ({"drop": True}, Unavailable, errno.EIO),
    ({"cut_after": 1}, Unavailable, errno.EIO),
]


@pytest.mark.parametrize("key", [STOP, SNAPSHOT], ids=lambda key: key.act)
@pytest.mark.parametrize(("fault", "kind", "number"), FAILURES, ids=[str(fault) for fault, _, _ in FAILURES])
def test_a_failed_act_was_sent_once(
    key: ActKey,
    fault: dict[str, Any],
    kind: type[RescaleError],
    number: int,
    live: Run,
    controls: Controls,
    emulator: Emulator,
) -> None:
    """Refused, throttled, failed or never answered: the write's own error, one POST, and a line that says so."""
    emulator.faults.add(endpoint=key.act, **fault)

    refused(kind, number, controls, key)

    assert posts(emulator) == 1
    assert controls.report(key).startswith(f"{NOW} {key.act} failed: ".encode())
    assert controls.report(key).count(b"\n") == 1


def test_an_act_whose_answer_is_lost_has_happened(
    live: Run, controls: Controls, emulator: Emulator, clock: ManualClock
) -> None:
    """The run stops although the answer never came; the error says that nobody knows, and nothing is sent again."""
    emulator.faults.add(endpoint="stop", drop=True)

    with pytest.raises(Unavailable, match="may or may not"):
        controls.write(STOP, b"1")

    clock.advance(10)
    assert not live.is_live()
    refused(NotPossibleNow, errno.EPERM, controls, STOP)
    assert posts(emulator) == 1


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", "<html>OK</html>", '{"exitcode": 0}'], ids=repr)
@pytest.mark.parametrize("status", [200, 202])
def test_a_success_need_not_say_anything(
    status: int, body: str, live: Run, controls: Controls, emulator: Emulator
) -> None:
    """Any 2xx is an answer, whatever its body; only an exit code says otherwise."""
    emulator.faults.add(endpoint="stop", body=body, late_status=status)

    controls.write(STOP, b"1")

    assert posts(emulator) == 1
    assert controls.report(STOP) == f"{NOW} stop accepted\n".encode()


@pytest.mark.parametrize("fault", [{"endpoint": "stop", "status": 503}, {"endpoint": "jobs", "latency_s": 0}], ids=str)
def test_an_act_forgets_what_was_known(
    fault: dict[str, Any], live: Run, acting: Acting, emulator: Emulator, cost: Cost
) -> None:
    """Whatever came of it, the run may be another one now: the next look asks again."""
    emulator.faults.add(**fault)
    acting.catalog.view("LiveR", "1")
    with contextlib.suppress(Unavailable):
        acting.controls.write(STOP, b"1")
    assert posts(emulator) == 1

    assert cost(lambda: acting.catalog.view("LiveR", "1")).keys() >= {"runs", "run_files"}


def test_runs_are_stopped_each_for_itself(live: Run, controls: Controls, emulator: Emulator) -> None:
    """An act goes to its own run, and no other run's file tells of it."""
    other = live.job.add_run(live={"log": b""})

    controls.write(ActKey("LiveR", other.id, "stop"), b"1")

    assert [request.path for request in emulator.log if request.method == "POST"] == ["/api/v2/jobs/LiveR/runs/2/stop/"]
    assert controls.report(STOP) == b"no stop was asked for\n"
    controls.write(STOP, b"1")
    assert posts(emulator) == 2
