"""The n-th request of a scenario fails, for every n: each step ends with right data or a documented error, in time."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.drivers import InProcess

# Of the clock that is moved by hand, and of real time; a request that stalls holds its step for so long.
DEADLINE_S = 10.0
STALLED_S = 0.4
# A machine under load; what hangs takes longer than this.
GRACE_S = 20.0
SMALL = hashlib.shake_128(b"small").digest(3000)
BIG = hashlib.shake_128(b"big").digest((5 << 20) + 13)
LOG, MORE = b"Time = 0\n" * 10_000, b"Time = 1\n"
PIECE_BYTES = 128 << 10
# So long after a failure a live file is asked for again, and a listing is old.
LATER_S = 70.0

EIO, FAILS = {errno.EIO}, {errno.EIO, errno.ETIMEDOUT}
KINDS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "503": ({"status": 503}, FAILS),
    "429": ({"status": 429, "retry_after": 1}, FAILS),
    "closed without an answer": ({"drop": True}, FAILS),
    "cut": ({"cut_after": 40}, FAILS),
    "401": ({"status": 401}, {errno.EACCES}),
    "404": ({"status": 404}, {errno.ENOENT, errno.ESTALE}),
    "bad JSON": ({"bad_json": True}, FAILS),
    "JSON of another kind": ({"body": b"[1, 2]"}, FAILS),
    "HTML": ({"late_status": 200, "body": "<html>Hello</html>"}, FAILS),
    "wrong bytes": ({"endpoint": "contents", "wrong_byte_at": 7}, EIO),
    "wrong bytes far behind": ({"endpoint": "contents", "wrong_byte_at": 3 << 20}, EIO),
    "wrong range": ({"endpoint": "contents", "headers": {"Content-Range": "bytes 1-9/10"}}, EIO),
    "ranges ignored": ({"ignore_range": True}, set()),
}
STALL = {"stall_after": 30}
SOME = ["503", "wrong bytes far behind"]  # the others are in the long run


@dataclass
class Scenario:
    """A user at work: looks around, reads, follows a log, and stops a run. Steps are judged as they go."""

    driver: InProcess
    emulator: Emulator
    run: Run
    excused: set[int]
    deadline_s: float
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def top(self) -> str:
        return f"/jobs/{self.run.job.id}"

    def play(self) -> None:
        """Do everything once."""
        top = self.top
        self.step("jobs", lambda: set(self.driver.names("/jobs")), {self.run.job.id})
        self.step("runs", lambda: set(self.driver.names(f"{top}/runs")), {"1", "2", "latest"})
        self.step("outputs", lambda: set(self.driver.names(f"{top}/runs/1")), {"small", "big"})
        self.step("small", lambda: self.read(f"{top}/runs/1/small"), SMALL)
        self.step("big", lambda: self.read(f"{top}/runs/1/big"), BIG)
        self.step("id", lambda: self.driver.xattr(f"{top}/runs/1/small", "user.rescale.file_id"), self.small_id)
        self.step("status", lambda: self.driver.xattr(top, "user.rescale.status"), "Executing")
        # A 404 may mean that there is no live view, and then the run's outputs are all there is.
        views = [{"log", "stop", "snapshot"}, *([{"stop", "snapshot"}] if errno.ENOENT in self.excused else [])]
        self.step("live", lambda: set(self.driver.names(f"{top}/runs/2")), *views)
        self.follow(f"{top}/runs/2/log")

    @property
    def small_id(self) -> str:
        return next(file.id for file in self.run.job.runs["1"].files if file.relative_path == "small")

    def follow(self, path: str) -> None:
        """Read a log to its end, and again when it has grown."""
        log = self.run.live["log"]
        before = log.read()
        self.step("size", lambda: self.driver.stat(path)[:2], (stat.S_IFREG | 0o444, len(before)))
        number = self.step("open", lambda: self.driver.open(path), None)
        if number is None:
            return
        try:
            seen = self.step("log", lambda: self.driver.read(number, 0, 1 << 20), before)
            log.append(MORE)
            self.driver.wait(2.1)
            # A look that fails leaves what is known; that is the truth of a moment ago. The last newline may wait.
            if seen is not None:
                self.step("more", lambda: self.driver.read(number, len(before), 1 << 20), MORE, MORE[:-1], b"")
        finally:
            self.driver.close(number)

    def step(self, name: str, ask: Callable[[], Any], *right: Any) -> Any:
        """Ask; what comes is right, or an error that the fault excuses, and that in time. None for an error."""
        began = time.monotonic()
        try:
            value = ask()
        except OSError as error:
            value = None
            code = error.errno or -1
            self.failed[name] = code
            is_late = code == errno.ETIMEDOUT and time.monotonic() - began >= self.deadline_s * 0.9
            assert code in self.excused or is_late, f"{name}: {errno.errorcode.get(code)}"
        else:
            assert right == (None,) or value in right, f"{name}: {str(value)[:100]}"
        assert time.monotonic() - began < self.deadline_s + GRACE_S, name
        return value

    def read(self, path: str) -> bytes:
        """Read a file from begin to end."""
        number = self.driver.open(path)
        try:
            data = b""
            while piece := self.driver.read(number, len(data), PIECE_BYTES):
                data += piece
            return data
        finally:
            self.driver.close(number)

    def stop(self) -> None:
        """Stop the run: asked for once at most, done or an error; then it may be asked for again, if it lives."""
        before = self.emulator.requests["stop"]
        self.step("stop", self.command, None)
        assert self.emulator.requests["stop"] - before <= 1
        if "stop" not in self.failed:
            assert self.run.completed is not None

    def command(self) -> None:
        number = self.driver.open(f"{self.top}/runs/2/.rescale/stop", os.O_WRONLY)
        try:
            self.driver.write(number, b"1\n")
        finally:
            self.driver.close(number)

    def recover(self) -> None:
        """Once the fault is gone, all is right, and a stop that was not done can be done."""
        self.driver.settle()
        if self.run.completed is not None:  # what comes next is of a run that lives
            self.run.completed = None
            self.run.job.stopped = None
        self.excused = set()
        self.failed.clear()
        self.driver.wait(LATER_S)
        self.play()
        assert not self.failed
        self.stop()
        assert not self.failed
        assert self.run.completed is not None


@contextmanager
def scenario(
    emulator: Emulator, clock: ManualClock, directory: Path, excused: set[int], deadline_s: float = DEADLINE_S
) -> Iterator[Scenario]:
    """Make a job that nobody has looked at, and a mount that knows nothing; in the end nothing is left."""
    world = emulator.world
    job = world.add_job()
    job.add_run(finished=True, files={"small": SMALL, "big": BIG})
    run = job.add_run(live={"log": LOG})
    emulator.reset_counts()
    directory.mkdir(exist_ok=True)
    driver = InProcess(emulator, directory, clock, cache_bytes=1 << 30, deadline_s=deadline_s)
    try:
        yield Scenario(driver, emulator, run, excused, deadline_s)
        emulator.faults.clear()
        driver.finish()
    finally:
        emulator.faults.clear()
        world.jobs.clear()
        driver.wipe()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def asked(emulator: Emulator, clock: ManualClock, tmp_path: Path) -> list[str]:
    """What is asked for in the scenario when nothing fails, by endpoint."""
    with scenario(emulator, clock, tmp_path / "whole", set()) as whole:
        whole.play()
        whole.stop()
        assert not whole.failed
        return [request.endpoint for request in emulator.log]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in SOME else pytest.mark.long) for kind in KINDS])
def test_whichever_request_fails_nothing_is_wrong(
    emulator: Emulator, clock: ManualClock, tmp_path: Path, asked: list[str], kind: str
) -> None:
    """Right data or the error of the fault, one after the other; when it is gone, all is right again."""
    effects, excused = KINDS[kind]
    hits = 0
    for number in range(1, len(asked) + 1):
        with scenario(emulator, clock, tmp_path / str(number), excused) as broken:
            fault = emulator.faults.add(nth=number, **effects)
            try:
                broken.play()
                broken.stop()
                emulator.faults.clear()
                broken.recover()
            except AssertionError as error:
                raise AssertionError(f"request {number}, {asked[number - 1]}: {error}") from error
            hits += fault.hits
    # How many pieces a file comes in depends on how fast a stream is.
    assert hits > (asked.count(effects["endpoint"]) if "endpoint" in effects else len(asked)) / 2


@pytest.mark.parametrize("is_each", [False, pytest.param(True, marks=pytest.mark.long)])
def test_whichever_request_stalls_nothing_hangs(
    emulator: Emulator, clock: ManualClock, tmp_path: Path, asked: list[str], is_each: bool
) -> None:
    """A request of which only the first bytes come holds its step for a deadline at most.

    One of each kind, or all of them: a live file is given the longest silence that any transfer is.
    """
    each = [(endpoint, asked[:at].count(endpoint) + 1) for at, endpoint in enumerate(asked)]
    some = [(endpoint, 1) for endpoint in dict.fromkeys(asked) if endpoint != "tail"]
    hits = 0
    for endpoint, number in each if is_each else some:
        with scenario(emulator, clock, tmp_path / f"{endpoint}{number}", FAILS, STALLED_S) as broken:
            fault = emulator.faults.add(endpoint=endpoint, nth=number, **STALL)
            try:
                broken.play()
                broken.stop()
            except AssertionError as error:
                raise AssertionError(f"request {number} of {endpoint}: {error}") from error
            hits += fault.hits
    assert hits >= len(each if is_each else some) * 0.8
