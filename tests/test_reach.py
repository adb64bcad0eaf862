"""Whether there is a network: noticed within a second, said once, and noticed when it is back."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.errors import Offline, Unavailable
from rescalefs.reach import GIVEN_UP_AFTER_S, LOOK_S, Reach
from tests.conftest import wait_for
from tests.stack import transport_to


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def nobody() -> str:
    """An origin where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def reach_of(clock: ManualClock) -> Reach:
    return Reach(clock=clock.now, wall_clock=clock.now)


def test_a_network_is_lost_after_half_a_second_of_failures(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One failure is none; an answer in between begins anew; it is said once, with the time and the reason."""
    caplog.set_level(logging.INFO)
    reach = reach_of(clock)
    reach.failed("no route")
    clock.advance(GIVEN_UP_AFTER_S / 2)
    reach.failed("no route")
    reach.answered()
    clock.advance(GIVEN_UP_AFTER_S)
    reach.failed("no route")
    assert (reach.status, reach.is_offline) == ("online", False)

    clock.advance(GIVEN_UP_AFTER_S)
    for _ in range(3):
        reach.failed("no route")

    assert reach.status == "offline since 2023-11-14T22:13:21Z: no route"
    with pytest.raises(Offline, match="GET x: offline since"):
        reach.check("GET x")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    reach.answered()
    reach.answered()
    assert reach.status == "online"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    reach.check("GET x")


def test_one_connection_that_took_too_long_is_enough(clock: ManualClock) -> None:
    """A try of ten seconds that came to nothing needs no second one."""
    reach = reach_of(clock)
    reach.failed("timed out", tried_s=10.0)

    assert reach.is_offline


def test_it_is_looked_for_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one thread, which then ends; and closing ends it too."""
    monkeypatch.setattr("rescalefs.reach.LOOK_S", 0.01)
    answers = iter([False, False, True])
    reach = Reach()
    reach.start(lambda: next(answers))
    reach.failed("gone", 1.0)
    wait_for(lambda: not reach.is_offline, 10, lambda: reach.status)
    wait_for(lambda: "reach" not in {thread.name for thread in threading.enumerate()}, 10, lambda: "it stays")

    reach.start(lambda: False)
    reach.failed("gone", 1.0)
    reach.close()
    wait_for(lambda: "reach" not in {thread.name for thread in threading.enumerate()}, 10, lambda: "it stays")
    assert LOOK_S > 0.01


def test_a_request_without_a_network_fails_within_a_second(nobody: str, clock: ManualClock) -> None:
    """The first one after a try or two, the next at once, both without waiting for their deadline."""
    reach = reach_of(clock)
    transport = transport_to(nobody, clock, reach=reach)
    began = clock.now()
    for _ in range(2):
        with pytest.raises(Offline):
            transport.json("e", "s", "x/", clock.now() + 1000)
    with pytest.raises(Offline):
        transport.post("e", "s", "x/", clock.now() + 1000)

    assert clock.now() - began < 1  # of the clock, which every back-off moves
    assert not transport.is_reachable()
    assert reach.is_offline


def test_a_server_that_fails_is_not_a_lost_network(emulator: Emulator, clock: ManualClock) -> None:
    """An error, or a connection that is dropped after it came about, says nothing about the network."""
    reach = reach_of(clock)
    transport = transport_to(emulator.origin, clock, reach=reach)
    for fault in ({"status": 503}, {"drop": True}):
        added = emulator.faults.add(**fault)
        with pytest.raises(Unavailable) as caught:
            transport.json("users_me", "s", "users/me/", clock.now() + 20)
        assert not isinstance(caught.value, Offline)
        emulator.faults.remove(added)

    assert reach.status == "online"
    assert transport.is_reachable()


def test_a_host_that_we_are_sent_to_is_not_the_network(emulator: Emulator, clock: ManualClock, nobody: str) -> None:
    """Where nobody listens at the target of a redirect, Rescale has answered all the same; the error names the host."""
    emulator.faults.add(redirect=f"{nobody}/elsewhere")
    reach = reach_of(clock)
    transport = transport_to(emulator.origin, clock, reach=reach)
    with pytest.raises(Unavailable, match=f"cannot reach {nobody.rpartition('/')[2]}"):
        transport.json("users_me", "s", "users/me/", clock.now() + 20)

    assert reach.status == "online"


def test_any_answer_ends_it(emulator: Emulator, clock: ManualClock) -> None:
    """A refusal is an answer, too."""
    emulator.faults.add(status=401)
    transport = transport_to(emulator.origin, clock)

    assert transport.is_reachable()
    assert time.monotonic() > 0
