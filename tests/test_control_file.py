"""Control files as nodes: what reading tells, what truncating and --read-only do, and that only a write acts."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

import pytest

from rescalefs.control import ActKey, Controls
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import BadCommand, ReadOnly, Refused
from rescalefs.nodes import Attributes, Command, Text, act_file, refresh_file
from rescalefs.operations import errno_of
from tests.stack import acting_on

STOP = ActKey("LiveR", "1", "stop")
SNAPSHOT = ActKey("LiveR", "1", "snapshot")
NOW = "2023-11-14T22:13:20Z"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def controls(emulator: Emulator, clock: ManualClock) -> Iterator[Controls]:
    """The controls of the world."""
    with acting_on(emulator.origin, clock) as made:
        yield made.controls


def stop_file(controls: Controls, *, is_read_only: bool = False) -> Command:
    return act_file(controls, STOP, 5, is_read_only=is_read_only)


def test_reading_tells_how_the_last_act_went(live: Run, controls: Controls, emulator: Emulator) -> None:
    """One line, of the size that stat tells; a handle keeps the text that it was opened on; reading asks nothing."""
    file = stop_file(controls)
    before = file.open(False)
    file.open(True).write(b"1\n")
    emulator.reset_counts()
    after = file.open(False).read(0, 1000)

    assert before.read(0, 1000) == b"no stop was asked for\n"
    assert after == f"{NOW} stop accepted\n".encode()
    assert file.attributes() == Attributes(stat.S_IFREG | 0o600, len(after), 5, lasts=False)
    assert file.open(False).read(len(NOW) + 1, 4) == b"stop"
    assert not emulator.requests


def test_what_the_api_says_of_an_act_is_shown(live: Run, controls: Controls, emulator: Emulator) -> None:
    """The API's own words stand in the line, on one line whatever they are."""
    controls.write(SNAPSHOT, b"1")
    assert controls.report(SNAPSHOT) == f"{NOW} snapshot accepted: Generating snapshot.\n".encode()

    emulator.faults.add(endpoint="stop", status=400, body='{"detail": "Not\\n now,\\r\\n please"}')
    with pytest.raises(Refused):
        controls.write(STOP, b"1")
    assert controls.report(STOP).endswith(b"Not now, please\n")
    assert controls.report(STOP).count(b"\n") == 1


def test_nothing_but_a_write_acts(live: Run, controls: Controls, emulator: Emulator) -> None:
    """Looking, opening for writing, truncating, reading and closing ask nothing."""
    file = stop_file(controls)

    file.attributes()
    file.xattrs()
    file.truncate()
    for is_writing in (False, True):
        handle = file.open(is_writing)
        assert handle.is_direct
        handle.read(0, 100)
        handle.close()

    assert not emulator.requests


def test_a_read_only_mount_has_control_files_to_read(live: Run, controls: Controls, emulator: Emulator) -> None:
    """Under --read-only they are 0400; opening for writing, truncating and writing are EROFS, and nothing is sent."""
    file = stop_file(controls, is_read_only=True)

    assert stat.filemode(file.attributes().mode) == "-r--------"
    assert file.open(False).read(0, 100) == b"no stop was asked for\n"
    for change in (file.truncate, lambda: file.open(True)):
        with pytest.raises(ReadOnly) as caught:
            change()
        assert errno_of(caught.value) == errno.EROFS
    with pytest.raises(ReadOnly):
        file.open(False).write(b"1\n")
    assert not emulator.requests


def test_other_files_are_not_truncated() -> None:
    """A generated file is EROFS to truncate, to open for writing, and to write to."""
    file = Text(lambda: b"text\n", 5)

    for change in (file.truncate, lambda: file.open(True), lambda: file.open(False).write(b"1")):
        with pytest.raises(ReadOnly):
            change()


def test_refresh_takes_its_own_payload_and_asks_nothing() -> None:
    """`1` or `refresh` drops what is known, once; anything else is EINVAL and drops nothing."""
    dropped: list[int] = []
    file = refresh_file(lambda: dropped.append(1), 5)

    for payload in (b"1", b"refresh\n"):
        file.open(True).write(payload)
    with pytest.raises(BadCommand):
        file.open(True).write(b"stop")

    assert dropped == [1, 1]
