"""Waiting for jobs and runs: when it ends, how it went, and what it costs; and as a command, with its exit codes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rescalefs.catalog import Catalog
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import AccessDenied, NotFound
from rescalefs.known import Lifetimes
from rescalefs.waiting import Goal, Outcome, Waiter
from tests.conftest import wait_for
from tests.stack import DEADLINE_S, client_of, loader
from tests.test_cli import access, failure, home, rescalefs

__all__ = ["home"]

EVERY_S = 10.0
WELL = Outcome(True, "Completed (Completed successfully)")


class Waits:
    """A waiter on a clock that its own sleeps move; *at* is what happens at a second of it."""

    def __init__(self, catalog: Catalog, clock: ManualClock) -> None:
        self.clock = clock
        self.began = clock.now()
        self.told: list[str] = []
        self.waiter = Waiter(catalog, every_s=EVERY_S, tell=self.told.append, clock=clock.now, sleep=clock.advance)

    def __call__(self, job: str, run: str | None = None, goal: Goal = Goal.ENDED, **more: Any) -> Outcome | None:
        return self.waiter.wait(job, run, goal, **more)

    @property
    def passed_s(self) -> float:
        return self.clock.now() - self.began


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def waits(emulator: Emulator, clock: ManualClock) -> Iterator[Waits]:
    fresh_s = EVERY_S * 0.9
    lifetimes = Lifetimes(jobs_s=fresh_s, status_s=fresh_s, live_s=fresh_s, settling_s=fresh_s)
    times: Any = {"clock": clock.now, "wall_clock": clock.now, "lifetimes": lifetimes}
    with client_of(emulator.origin, clock) as client, loader() as running:
        yield Waits(Catalog(client, running, deadline_s=DEADLINE_S, **times), clock)


@pytest.fixture
def living(world: World) -> Run:
    """A run that ends in 100 s; its two outputs take 30 s each."""
    run = world.add_job("LiveR", submitted=True).add_run(live={"log": b"", "U": b""}, trickle_s=30.0)
    run.finish(in_s=100.0)
    return run


@pytest.mark.parametrize("run", [None, "1"])
@pytest.mark.parametrize(("goal", "least_s", "most_s"), [(Goal.ENDED, 100, 115), (Goal.FINAL, 160, 195)])
def test_it_ends_when_it_has_happened(
    run: str | None, goal: Goal, least_s: float, most_s: float, living: Run, waits: Waits, emulator: Emulator
) -> None:
    """At the first look after it; each look is told, and costs a handful of requests."""
    assert waits("LiveR", run, goal) == WELL
    assert least_s <= waits.passed_s <= most_s
    assert len(waits.told) == waits.passed_s / EVERY_S + 1
    assert emulator.requests.total() <= 5 * len(waits.told) + 5
    assert waits.told[0] == ("live" if run else "Executing, 1 of 1 runs to go")


def test_what_is_over_needs_no_waiting(world: World, waits: Waits) -> None:
    world.add_job("AbCdE").add_run(finished=True, files={"log": b""})
    assert waits("AbCdE", "1", Goal.FINAL) in (WELL, Outcome(True, "Completed"))
    assert waits.passed_s <= 2 * EVERY_S


@pytest.mark.parametrize("run", [None, "1"])
def test_a_job_that_failed_or_was_stopped_is_no_success(run: str | None, living: Run, waits: Waits) -> None:
    """Both end as Completed; the reason tells."""
    living.failed = True
    assert waits("LiveR", run) == Outcome(False, "Completed (A run failed)")


def test_a_job_that_was_stopped_is_no_success(living: Run, waits: Waits) -> None:
    living.stop()
    assert waits("LiveR") == Outcome(False, "Completed (User Terminated)")


def test_a_run_among_others_that_go_on_has_ended(world: World, waits: Waits) -> None:
    """Rescale says how it went of jobs alone, so what is known is that it has ended."""
    job = world.add_job("SweeP")
    job.add_run(live={"log": b""}).finish(in_s=25)
    job.add_run(live={"log": b""})
    outcome = waits("SweeP", "1")

    assert outcome is not None
    assert (outcome.is_success, waits.passed_s) == (True, 30.0)
    assert waits("SweeP", timeout_s=60) is None
    assert waits.told[-1] == "Executing, 1 of 2 runs to go"


def test_a_run_that_has_not_begun_is_waited_for(world: World, waits: Waits) -> None:
    job = world.add_job("LatEr", submitted=True)
    run = job.add_run(started=waits.clock.now() + 60, live={"log": b""})
    run.completed = run.started + 30
    assert waits("LatEr", "1") == WELL
    assert waits.told[0].endswith("run 1 has not begun")


def test_the_time_given_is_kept(living: Run, waits: Waits) -> None:
    """None once it is over, to the second; 0 looks once."""
    assert waits("LiveR", timeout_s=0) is None
    assert waits.passed_s == 0
    assert waits("LiveR", timeout_s=25) is None
    assert waits.passed_s == 25


def test_an_outage_is_waited_out(living: Run, waits: Waits, emulator: Emulator) -> None:
    """While Rescale does not answer nothing is known, and that is told."""
    waits("LiveR", timeout_s=0)
    fault = emulator.faults.add(drop=True)
    assert waits("LiveR", timeout_s=150) is None
    assert "Rescale does not answer" in waits.told[-1]
    emulator.faults.remove(fault)
    assert waits("LiveR") == WELL


@pytest.mark.parametrize(("job", "run"), [("NoJob", None), ("NoJob", "1"), ("AbCdE", "7")])
def test_what_does_not_exist_is_an_error(job: str, run: str | None, world: World, waits: Waits) -> None:
    world.add_job("AbCdE").add_run(finished=True)
    with pytest.raises(NotFound):
        waits(job, run)


def test_a_key_that_is_refused_is_an_error(living: Run, waits: Waits, emulator: Emulator) -> None:
    emulator.faults.add(status=403)
    with pytest.raises(AccessDenied):
        waits("LiveR")


# ---- as a command ----


def wait(home: Path, emulator: Emulator, *args: str) -> subprocess.CompletedProcess[str]:
    return rescalefs(home, "wait", "--every", "1", *args, **access(emulator))


@pytest.fixture
def real() -> Iterator[Emulator]:
    """A world by the wall clock."""
    with Emulator(World()) as emulator:
        yield emulator


def test_the_command_waits_for_the_end(real: Emulator, home: Path) -> None:
    """A line for each change on standard error, nothing on standard output, 0."""
    run = real.world.add_job("LiveR", submitted=True).add_run(live={"log": b""})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, home, real, "LiveR/1", "--for", "final")
        is_seen = lambda: any(each.endpoint == "runs" and each.status for each in list(real.log))  # noqa: E731
        wait_for(is_seen, 30, lambda: "nobody looks")
        run.finish()
        done = waiting.result()

    assert (done.returncode, done.stdout) == (0, "")
    said = done.stderr.splitlines()
    assert said[0] == "LiveR/1: live"
    assert said[-1] == "rescalefs: LiveR/1: Completed (Completed successfully)"
    assert len(said) == len(set(said))


def test_the_command_tells_failure(real: Emulator, home: Path) -> None:
    run = real.world.add_job("LiveR", submitted=True).add_run(live={"log": b""})
    run.finish(failed=True)
    done = wait(home, real, "LiveR")

    assert done.returncode == 10
    assert done.stderr.splitlines()[-1] == "rescalefs: LiveR: Completed (A run failed)"


def test_the_command_gives_up_and_is_not_held(real: Emulator, home: Path) -> None:
    """12 when the time is over, though a server that keeps a connection for ever has a thread of it."""
    real.world.add_job("LiveR").add_run(live={"log": b""})
    assert wait(home, real, "LiveR", "--timeout", "1").returncode == 12
    real.faults.add(endpoint="jobs", latency_s=600)
    assert wait(home, real, "LiveR", "--timeout", "1").returncode == 12


def test_the_command_knows_what_does_not_exist(real: Emulator, home: Path) -> None:
    code, sentence = failure(wait(home, real, "NoJob"))
    assert (code, "no NoJob" in sentence) == (11, True)
    for name in ("..", "../LiveR", "LiveR/..", "/1", ""):
        assert wait(home, real, name, "--timeout", "5").returncode == 11
    assert wait(home, real, "LiveR", "--for", "ever").returncode == 2
