"""Fixtures: a world, its emulator, and real mounts of it with each binding."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from rescalefs import system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.tools import FILES

pytest_plugins = ["tests.asking", "tests.cached", "tests.disk_use"]

# What a question costs in requests: `cost(catalog.jobs) == {"jobs": 1}`.
Cost = Callable[[Callable[[], object]], dict[str, int]]
# Generous waits for a loaded machine; no test asserts how long anything took.
READY_S = 30.0
END_S = 20.0
BINDINGS = {"fuse3": "fuse3", "fuse2": "fuse"}


def missing(binding: str) -> str | None:
    """Say why a mount with *binding* cannot be made here, None if it can."""
    if ctypes.util.find_library(BINDINGS[binding]) is None:
        return f"lib{binding} is not installed"
    try:
        system.check_fuse()
    except system.FuseMissing as error:
        return str(error)
    return None


@dataclass
class Mounted:
    """A mount in a process of its own, as a user makes it."""

    path: Path
    emulator: Emulator
    cache: Path
    log_file: Path
    command: list[str]
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    args: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> Path:
        """The directory of all jobs."""
        return self.path / "jobs"

    def top(self, run: Run) -> Path:
        """The directory of a run."""
        return self.jobs / run.job.id / "runs" / run.id

    @property
    def log(self) -> str:
        """Everything the mount has logged so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def mount(self, *more: str) -> None:
        """Start the process and wait until the mount answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *self.args, *more, str(self.path)],
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: self._is_up(), READY_S, lambda: f"no mount; its log:\n{self.log}")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the mount ended with {self.process.returncode}:\n{self.log}"
        if system.mounted_type(self.path) is None:
            return False
        try:
            return "jobs" in os.listdir(self.path)  # asks the process; a stat may be answered by a dead mount's cache
        except OSError:
            return False

    def unmount(self) -> int:
        """End the mount in order; return the process's exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def state(self) -> dict[str, int]:
        """Have the process say by SIGUSR1 what it has: threads, descriptors, MiB, and what the kernel asks of it."""
        assert self.process is not None
        before = len(self.log)
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "SIGUSR1: end\n" in self.log[before:], END_S, lambda: "no dump")
        text = self.log[before:]
        found = re.search(r"process \d+: (\d+) threads, (\d+) descriptors, (\d+) MiB", text)
        opened = [re.search(rf"open\.{kind} (\d+)", text) for kind in ("files", "directories")]
        assert found is not None
        numbers = [*found.groups(), *(each[1] for each in opened if each is not None)]
        names = ("threads", "descriptors", "MiB", "files", "directories")
        return {
            **dict(zip(names, map(int, numbers), strict=True)),
            "operations": text.count("SIGUSR1: operation "),
        }

    def clean_up(self) -> None:
        """Leave nothing behind, whatever state the mount is in; never wait for ever."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.unmount()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if system.mounted_type(self.path) is not None:
            with contextlib.suppress(system.MountError):
                system.unmount(self.path, is_lazy=True)


def wait_for(condition: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
    """Wait until *condition* holds; fail with *message* if it does not within *seconds*."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            pytest.fail(message())
        time.sleep(0.02)


def pytest_configure() -> None:
    """Take Ctrl-C: a shell has it ignored by what it starts in the background, and by all that is started there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many histories were played, on whatever worker."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [
        item for report in reports if getattr(report, "when", "") == "call" for item in report.user_properties
    ]
    if played := sum(int(value) for name, value in properties if name == "histories"):
        steps = sum(int(value) for name, value in properties if name == "steps")
        terminalreporter.write_line(f"histories played against the model: {played}, in {steps} steps")


@pytest.fixture
def world() -> World:
    """An empty world."""
    return World()


@pytest.fixture
def emulator(world: World) -> Iterator[Emulator]:
    """The world, served."""
    with Emulator(world) as running:
        yield running


@pytest.fixture
def cost(emulator: Emulator) -> Cost:
    """Count the requests by endpoint that a question costs."""

    def count(ask: Callable[[], object]) -> dict[str, int]:
        emulator.reset_counts()
        ask()
        return dict(emulator.requests)

    return count


@pytest.fixture(scope="module", params=sorted(BINDINGS, reverse=True))
def binding(request: pytest.FixtureRequest) -> str:
    """Each binding in turn; one that cannot be used is skipped, but never where CI is set."""
    name: str = request.param
    need(name)
    return name


def need(name: str) -> None:
    """Skip the test if a binding cannot be used, but never where CI is set."""
    if (reason := missing(name)) is not None:
        skip(reason)


def skip(reason: str) -> NoReturn:
    """Skip the test, but never where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must run every mount test: {reason}")
    pytest.skip(reason)


def mount_at(home: Path, binding: str, emulator: Emulator, *args: str, **more: str) -> Mounted:
    """Prepare a mount of an emulator below *home*; keywords go into its environment. It is not mounted yet."""
    point = home / "rescale"
    point.mkdir(parents=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
        "RESCALE_API_URL": emulator.origin,
        "RESCALE_API_KEY": emulator.key,
        **more,
    }
    command = [sys.executable, "-m", "rescalefs", "mount", "--foreground", "--binding", binding]
    cache, log_file = home / "cache", home / "log"
    options = ["--cache-dir", str(cache), "--cache-size", "1G", "--log-level", "debug", *args]
    log_file.touch()
    return Mounted(point, emulator, cache, log_file, command, environ, args=options)


@pytest.fixture
def mount_of(binding: str, tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    """Make mounts of emulators: `mount_of(emulator, "--read-only")`; keywords go into the environment."""
    made: list[Mounted] = []

    def make(emulator: Emulator, *args: str, **more: str) -> Mounted:
        mounted = mount_at(tmp_path / f"mount{len(made)}", binding, emulator, *args, **more)
        made.append(mounted)
        mounted.mount()
        return mounted

    yield make
    for mounted in reversed(made):
        mounted.clean_up()


@pytest.fixture
def mounted(mount_of: Callable[..., Mounted], emulator: Emulator) -> Mounted:
    """The emulator's world, mounted. The test fills the world; the mount looks when it is asked."""
    return mount_of(emulator)


@pytest.fixture
def run(world: World) -> Run:
    """A finished run of job AbCdE with some files."""
    return world.add_job("AbCdE", name="wing / case 1").add_run(finished=True, files=FILES)


@pytest.fixture
def live(world: World) -> Run:
    """A live run of job LiveR."""
    return world.add_job("LiveR").add_run(live={"log": b"Time = 0\n", "case/U": b"(0 0 0)"})


@pytest.fixture
def outputs(run: Run, mounted: Mounted) -> Path:
    """The directory of the finished run."""
    return mounted.jobs / "AbCdE/runs/1"
