"""Snapshots: one at a time, until its archive is among the outputs."""

from __future__ import annotations

import errno

from rescalefs.control import SNAPSHOT_PENDING_S, Controls
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.errors import Busy, Unavailable
from tests.test_control import SNAPSHOT, STOP, acting, clock, controls, refused, world
from tests.tools import posts

__all__ = ["acting", "clock", "controls", "world"]


def test_a_snapshot_is_waited_for(live: Run, controls: Controls, emulator: Emulator, clock: ManualClock) -> None:
    """A second one is EBUSY until the first is among the outputs, and then goes out."""
    controls.write(SNAPSHOT, b"1")
    refused(Busy, errno.EBUSY, controls, SNAPSHOT)
    assert posts(emulator) == 1

    clock.advance(live.job.world.snapshot_s)
    controls.write(SNAPSHOT, b"1")
    refused(Busy, errno.EBUSY, controls, SNAPSHOT)
    assert posts(emulator) == 2


def test_a_snapshot_that_is_listed_is_waited_for_until_it_is_uploaded(
    live: Run, controls: Controls, emulator: Emulator, clock: ManualClock
) -> None:
    """A row without its bytes is no archive yet."""
    controls.write(SNAPSHOT, b"1")
    live.files[-1].listed_from = clock.now()
    refused(Busy, errno.EBUSY, controls, SNAPSHOT)

    clock.advance(live.job.world.snapshot_s)
    controls.write(SNAPSHOT, b"1")

    assert posts(emulator) == 2


def test_an_archive_is_seen_while_the_live_view_is_dead(
    live: Run, controls: Controls, emulator: Emulator, clock: ManualClock
) -> None:
    """Outputs alone tell whether a snapshot has come."""
    controls.write(SNAPSHOT, b"1")
    emulator.faults.add(endpoint="directory_contents", status=500)
    refused(Busy, errno.EBUSY, controls, SNAPSHOT)

    clock.advance(live.job.world.snapshot_s)
    controls.write(SNAPSHOT, b"1")

    assert posts(emulator) == 2


def test_a_snapshot_that_never_comes_is_given_up(
    live: Run, controls: Controls, emulator: Emulator, clock: ManualClock
) -> None:
    """After a quarter of an hour another one may be asked for."""
    live.job.world.snapshot_s = 10 * SNAPSHOT_PENDING_S
    controls.write(SNAPSHOT, b"1")
    clock.advance(SNAPSHOT_PENDING_S - 1)
    refused(Busy, errno.EBUSY, controls, SNAPSHOT)

    clock.advance(2)
    controls.write(SNAPSHOT, b"1")

    assert posts(emulator) == 2


def test_a_snapshot_that_failed_is_not_waited_for(live: Run, controls: Controls, emulator: Emulator) -> None:
    """A 200 with an exit code other than 0 is a failure, and the next one goes out at once."""
    live.snapshot_exitcode = 1
    refused(Unavailable, errno.EIO, controls, SNAPSHOT)
    assert b"failed: snapshot of run 1 of job LiveR failed with exit code 1: Snapshot failed." in controls.report(
        SNAPSHOT
    )

    live.snapshot_exitcode = 0
    controls.write(SNAPSHOT, b"1")

    assert posts(emulator) == 2


def test_a_run_can_be_stopped_while_a_snapshot_is_under_way(live: Run, controls: Controls, emulator: Emulator) -> None:
    """Only acts of one kind exclude each other."""
    controls.write(SNAPSHOT, b"1")
    controls.write(STOP, b"1")

    assert (emulator.requests["snapshot"], emulator.requests["stop"]) == (1, 1)
