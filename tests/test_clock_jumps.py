"""Clocks that jump by a year, forward and back: nothing that is shown is wrong for it, and nothing is stuck."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rescalefs.catalog import Catalog, RunState
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.kept import Kept
from rescalefs.listings import Listings
from tests.conftest import Cost, mount_at, wait_for
from tests.readers import readers
from tests.stack import DEADLINE_S, client_of, loader, paths
from tests.tools import write

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
JUMPS = [YEAR_S, -YEAR_S]


class Machine:
    """A machine whose wall clock is wrong by `shift_s`; time passes there as at Rescale."""

    def __init__(self, emulator: Emulator, clock: ManualClock, directory: Path) -> None:
        self.shift_s = 0.0
        self._emulator = emulator
        self._clock = clock
        self._directory = directory

    def wall(self) -> float:
        return self._clock.now() + self.shift_s

    @contextmanager
    def mounted(self) -> Iterator[Catalog]:
        """Begin with what the disk has, as a new mount does."""
        listings = Listings(Kept(self._directory, wall_clock=self.wall), "someone")
        with client_of(self._emulator.origin, self._clock) as client, loader() as running:
            yield Catalog(
                client,
                running,
                deadline_s=DEADLINE_S,
                listings=listings,
                clock=self._clock.now,
                wall_clock=self.wall,
            )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def machine(emulator: Emulator, clock: ManualClock, tmp_path: Path) -> Machine:
    return Machine(emulator, clock, tmp_path)


@pytest.fixture(autouse=True)
def old(world: World) -> None:
    """A job that ended two days ago."""
    then = world.clock.now() - 2 * DAY_S
    job = world.add_job("AbCdE", created=then - 9000)
    job.add_run(started=then - 4000, completed=then, files={"log": b"1", "case/U": b"2"})


@pytest.mark.parametrize("jump_s", JUMPS)
def test_what_is_known_holds_as_long_as_before(
    jump_s: float, machine: Machine, clock: ManualClock, world: World, cost: Cost
) -> None:
    """A jump asks for nothing anew, and keeps nothing for longer: a new job is seen when the list has had its time."""
    with machine.mounted() as catalog:
        catalog.view("AbCdE", "1")
        machine.shift_s = jump_s
        assert cost(lambda: [catalog.view("AbCdE", "1"), catalog.jobs()]) == {}
        world.add_job("NewJo")
        clock.advance(DAY_S)
        assert "NewJo" in catalog.jobs()
        assert paths(catalog.view("AbCdE", "1")) == {"log", "case/U"}


@pytest.mark.parametrize("jump_s", JUMPS)
def test_what_was_kept_by_a_wrong_clock_is_not_believed_for_a_year(
    jump_s: float, machine: Machine, clock: ManualClock, world: World
) -> None:
    """Kept while the clock was wrong, used when it is right, or the other way: a change is seen within a day."""
    for shifts in ((jump_s, 0.0), (0.0, jump_s)):
        run = world.jobs["AbCdE"].runs["1"]
        name = f"late{shifts[0]}"
        machine.shift_s = shifts[0]
        with machine.mounted() as catalog:
            catalog.view("AbCdE", "1")
        run.add_file(name, b"")
        machine.shift_s = shifts[1]
        clock.advance(DAY_S + 1)
        with machine.mounted() as catalog:
            assert name in paths(catalog.view("AbCdE", "1"))
            clock.advance(DAY_S + 1)
            run.add_file(f"{name}-again", b"")
            clock.advance(DAY_S + 1)
            assert f"{name}-again" in paths(catalog.view("AbCdE", "1"))


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_refresh_asks_whatever_the_clock_says(jump_s: float, machine: Machine, cost: Cost) -> None:
    """Of what was kept before the jump, too; once."""
    with machine.mounted() as catalog:
        catalog.view("AbCdE", "1")
        machine.shift_s = jump_s
        for _ in range(2):
            catalog.refresh("AbCdE", "1")
            assert cost(lambda: catalog.view("AbCdE", "1"))["run_files"] == 1
            assert cost(lambda: catalog.view("AbCdE", "1")) == {}
    with machine.mounted() as catalog:
        catalog.refresh()
        assert cost(lambda: catalog.view("AbCdE", "1"))["run_files"] == 1


def test_what_was_kept_is_confirmed_once_after_a_jump_back(machine: Machine, cost: Cost) -> None:
    """What seems to come from the future is asked for again, by each mount once, and is right from then on."""
    machine.shift_s = YEAR_S
    with machine.mounted() as catalog:
        catalog.view("AbCdE", "1")
    machine.shift_s = 0.0
    for asked in ({"jobs": 1, "runs": 1, "run_files": 1}, {"jobs": 1}):
        with machine.mounted() as catalog:
            assert cost(lambda: catalog.view("AbCdE", "1")) == asked


# Put in place as the mount's Python starts: its wall clock is wrong by as many seconds as a file says.
SHIFTED = """
import pathlib, time
wall, wall_ns, shift = time.time, time.time_ns, pathlib.Path({place!r})
time.time = lambda: wall() + float(shift.read_text())
time.time_ns = lambda: wall_ns() + int(float(shift.read_text()) * 1e9)
"""


@pytest.mark.mount
def test_a_mount_bears_a_clock_that_jumps(binding: str, tmp_path: Path) -> None:
    """By a year, there and back, under readers and a follower; what is remounted at a wrong time is right, too."""
    world, place = World(), tmp_path / "shift"
    files = {f"d{number % 3}/f{number}": b"%d" % number * 100 for number in range(30)}
    final = world.add_job("Fina").add_run(finished=True, files=files)
    live = world.add_job("LiveR").add_run(live={"log": b"Time = 0\n"})
    (tmp_path / "sitecustomize.py").write_text(SHIFTED.format(place=str(place)))
    place.write_text("0")
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    with Emulator(world) as emulator, ExitStack() as stack:
        mounted = mount_at(tmp_path / "home", binding, emulator, RESCALEFS_BUDGET="off", PYTHONPATH=path)
        stack.callback(mounted.clean_up)
        mounted.mount()
        top, log, seen = mounted.top(final), mounted.top(live) / "log", b""
        working = stack.enter_context(readers(top, files, 1))
        following = stack.enter_context(open(log, "rb", buffering=0))
        for number, jump_s in enumerate([*JUMPS, 0.0, DAY_S, -DAY_S, 0.0]):
            replaced = place.with_suffix(".new")
            replaced.write_text(str(jump_s))
            replaced.rename(place)
            live.live["log"].append(b"Time = %d\n" % number)
            whole = live.live["log"].read()

            def has_all(whole: bytes = whole) -> bool:
                nonlocal seen
                seen += following.read(1000)
                return seen == whole

            wait_for(has_all, 20, lambda: f"{seen!r}")
            assert os.stat(log).st_size == len(whole)
            assert os.listdir(top) == ["d0", "d1", "d2"]
            write(mounted.path / ".rescale/refresh", b"1")
            assert {name: (top / name).read_bytes() for name in files} == files
            assert [process.poll() for process in working] == [None]
        following.close()
        for process in working:
            process.kill()
        for jump_s in (YEAR_S, -YEAR_S, 0.0):
            assert mounted.unmount() == 0
            place.write_text(str(jump_s))
            mounted.mount()
            assert {name: (top / name).read_bytes() for name in files} == files
            assert log.read_bytes() == live.live["log"].read()
            dates = [each.stat().st_mtime for each in (mounted.cache / "listings").rglob("*") if each.is_file()]
            assert any(abs(date - time.time() - jump_s) < DAY_S for date in dates)  # it goes by that clock
        assert not [line for line in mounted.log.splitlines() if " ERROR " in line]
        assert "Traceback" not in mounted.log


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_run_that_has_just_ended_is_not_final_by_a_wrong_clock(
    jump_s: float, machine: Machine, clock: ManualClock, world: World
) -> None:
    """A clock that is ahead makes a run look as if it had ended long ago: its uploads are waited for all the same."""
    run = world.add_job("LiveR").add_run(live={"log": b"1", "U": b"2", "p": b"3"}, trickle_s=600.0)
    with machine.mounted() as catalog:
        machine.shift_s = jump_s
        assert catalog.state("LiveR", "1") is RunState.LIVE
        run.finish()
        seen = []
        for _ in range(60):
            clock.advance(60)
            view = catalog.view("LiveR", "1")
            seen.append((view.state, len(paths(view))))
        assert (RunState.FINAL, 3) in seen
        assert not [state for state in seen if state[0] is RunState.FINAL and state[1] < 3], seen
