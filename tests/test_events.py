"""The events of a run: what makes a line, that lines only come, and how they are followed on a real mount."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import Catalog
from rescalefs.control import ActKey, Controls
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import RescaleError
from rescalefs.events import Events
from rescalefs.known import Lifetimes
from tests.conftest import Mounted, wait_for
from tests.stack import DEADLINE_S, client_of, loader
from tests.tools import sh

LIFETIMES = Lifetimes()
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (state|stop|snapshot) .*\n")


class Stack:
    """A world, and the events of what is seen of it and done to it."""

    def __init__(self, exits: ExitStack) -> None:
        self.clock = ManualClock(1_700_000_000.0)
        self.world = World(clock=self.clock)
        self.run = self.world.add_job("LiveR").add_run(live={"log": b""})
        self.emulator = exits.enter_context(Emulator(self.world))
        client = exits.enter_context(client_of(self.emulator.origin, self.clock))
        looks, acts = exits.enter_context(loader()), exits.enter_context(loader())
        times: Any = {"deadline_s": DEADLINE_S, "clock": self.clock.now, "wall_clock": self.clock.now}
        self.events = Events(wall_clock=self.clock.now)
        self.catalog = Catalog(client, looks, seen=self.events.seen, **times)
        self.controls = Controls(client, self.catalog, acts, record=self.events.add, **times)

    def look(self) -> bytes:
        """Look at the run as the node of the events does; return the lines."""
        self.catalog.view("LiveR", "1")
        return self.events.text("LiveR", "1")[0]

    def act(self, act: str) -> None:
        try:
            self.controls.write(ActKey("LiveR", "1", act), b"1")
        except RescaleError:
            return

    def words(self) -> list[str]:
        """Return the lines without their times."""
        return [line.split(" ", 1)[1] for line in self.look().decode().splitlines()]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with ExitStack() as exits:
        yield Stack(exits)


def test_a_life_is_told_line_by_line(stack: Stack) -> None:
    """State, acts with their answers, the snapshot when it is uploaded, the end."""
    assert stack.words() == ["state live"]
    stack.act("snapshot")
    stack.clock.advance(stack.world.snapshot_s + LIFETIMES.live_s)
    stack.look()
    stack.emulator.faults.add(endpoint="stop", times=1, status=503)
    stack.act("stop")
    stack.act("stop")
    stack.run.trickle_s = 5
    for _ in range(6):
        stack.clock.advance(LIFETIMES.settling_s + 1)
        stack.look()

    assert stack.words() == [
        "state live",
        "snapshot accepted: Generating snapshot.",
        "snapshot uploaded snapshot_1.tar.gz",
        "stop failed: POST jobs/LiveR/runs/1/stop/: 503 Service unavailable.",
        "stop accepted",
        "state settling",
        "state final",
    ]
    first = stack.look().splitlines()[0]
    assert first == b"2023-11-14T22:13:20Z state live"
    assert stack.events.text("LiveR", "1")[1] == pytest.approx(stack.clock.now() * 1e9, rel=1e-7)


def test_looks_that_bring_nothing_new_add_nothing(stack: Stack) -> None:
    """However often it is looked at; and a run that was over when it was first seen has no events."""
    stack.run.add_file("snapshot_0.zip", b"", type_id=12)
    lines = stack.look()
    for _ in range(5):
        stack.clock.advance(LIFETIMES.live_s + 1)
        assert stack.look() == lines
    stack.world.add_job("AbCdE").add_run(finished=True, started=0, completed=60, files={"log": b""})
    assert stack.catalog.view("AbCdE", "1").files

    assert stack.events.text("AbCdE", "1") == (b"", 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["stop", "snapshot", "finish", "look"]),
            st.sampled_from([1.0, 11.0, 40.0]),
            st.text(min_size=1, max_size=8),
        ),
        max_size=15,
    )
)
def test_lines_are_only_ever_added(steps: list[Any]) -> None:
    """Whatever happens, and whatever a snapshot is called: each text begins with the one before, in whole lines."""
    with ExitStack() as exits:
        stack = Stack(exits)
        before = b""
        for step in steps:
            match step:
                case "stop" | "snapshot":
                    stack.act(step)
                case "finish":
                    stack.run.finish()
                case float(seconds):
                    stack.clock.advance(seconds)
                case "look":
                    pass
                case name:
                    stack.run.add_file(name, b"", type_id=12)
            text = stack.look()
            assert text.startswith(before)
            assert b"".join(match.group() for match in LINE.finditer(text)) == text
            before = text


# ---- on a mount ----


@pytest.mark.mount
def test_events_are_followed(live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path) -> None:
    """tail -f shows a run stopped and ended, each line once; sizes are honest; the file is reached by name alone."""
    top = mounted.jobs / "LiveR/runs/1"
    path = top / ".rescale/events"
    assert stat.filemode(path.stat().st_mode) == "-r--r--r--"
    out = tmp_path / "out"
    with out.open("wb") as file, subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=file) as follower:
        try:
            wait_for(lambda: b" state live\n" in out.read_bytes(), 20, out.read_text)
            sh("echo 1 > snapshot", top)
            wait_for(lambda: b" snapshot uploaded snapshot_1.tar.gz\n" in out.read_bytes(), 30, out.read_text)
            sh("echo 1 > stop", top)
            wait_for(lambda: b" state settling\n" in out.read_bytes(), 30, out.read_text)
        finally:
            follower.kill()
    text = path.read_bytes()

    assert text.startswith(out.read_bytes())
    assert len(set(text.splitlines())) == len(text.splitlines())
    assert os.stat(path).st_size == len(path.read_bytes())
    assert (top / ".rescale/status").read_text() in ("settling\n", "final\n")
    assert ".rescale" not in os.listdir(top)
