"""Several writers of one control file: they share one POST and its answer, however they come together."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rescalefs.client import ActAnswer
from rescalefs.control import ActKey
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.errors import DeadlineExceeded, Unavailable
from tests.stack import Acting, acting_on
from tests.test_control import NOW, SNAPSHOT, STOP, WAIT_S, refused
from tests.test_control import acting as acting
from tests.test_control import clock as clock
from tests.test_control import world as world
from tests.tools import posts


def test_writers_at_once_share_one_post(
    live: Run, acting: Acting, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight writers while the act is under way have one answer, and one POST was made."""
    look_again, act = acting.catalog.look_again, acting.client.act
    looked = threading.Semaphore(0)

    def look(*args: str) -> Any:
        state = look_again(*args)
        looked.release()
        return state

    def act_when_all_have_looked(*args: Any) -> ActAnswer:
        assert all(looked.acquire(timeout=WAIT_S) for _ in range(8))
        return act(*args)

    monkeypatch.setattr(acting.catalog, "look_again", look)
    monkeypatch.setattr(acting.client, "act", act_when_all_have_looked)
    emulator.faults.add(endpoint="stop", latency_s=0.1)  # the last to have looked is on its way

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: acting.controls.write(STOP, b"1"), range(8)))

    assert posts(emulator) == 1


@pytest.mark.parametrize("key", [STOP, SNAPSHOT], ids=lambda key: key.act)
@pytest.mark.parametrize("fault", [{}, {"drop": True}], ids=["accepted", "no answer"])
def test_a_writer_whose_look_takes_longer_shares_what_was_sent_meanwhile(
    key: ActKey,
    fault: dict[str, Any],
    live: Run,
    acting: Acting,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two writers at once one has acted when the other one has looked: one POST, and its answer is that of both."""
    emulator.faults.add(endpoint=key.act, latency_s=0, **fault)
    load, outcomes = acting.loader.load, []

    def write() -> None:
        try:
            acting.controls.write(key, b"1")
        except Unavailable as error:
            outcomes.append(str(error))
        else:
            outcomes.append("done")

    def load_late(*args: Any) -> Any:
        monkeypatch.setattr(acting.loader, "load", load)
        write()  # the other one, from its beginning to its end
        return load(*args)

    monkeypatch.setattr(acting.loader, "load", load_late)
    write()

    assert posts(emulator) == 1
    assert outcomes == [outcomes[0]] * 2
    assert (outcomes[0] == "done") == (not fault)


def test_an_act_that_takes_too_long_goes_on_and_is_not_repeated(
    live: Run, clock: ManualClock, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer waits no longer than it may; another one joins the same POST, whose end can be read."""
    gate = threading.Event()
    with acting_on(emulator.origin, clock, wait_s=0.05) as hasty:
        act = hasty.client.act

        def act_late(*args: Any) -> ActAnswer:
            assert gate.wait(WAIT_S)
            return act(*args)

        monkeypatch.setattr(hasty.client, "act", act_late)
        for _ in range(2):
            refused(DeadlineExceeded, errno.ETIMEDOUT, hasty.controls, STOP)
        assert hasty.controls.report(STOP) == b"no stop was asked for\n"

        gate.set()
        hasty.loader.begin(STOP, lambda: None).result(WAIT_S)
        assert posts(emulator) == 1
        assert hasty.controls.report(STOP) == f"{NOW} stop accepted\n".encode()
