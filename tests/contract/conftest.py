"""One world, one emulator and one mount for a whole file of tests: each adds jobs of its own, and asks for these.

Who needs another mount makes it with `mount_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.endpoints import Habits
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, mount_at
from tests.tools import FILES


@pytest.fixture(scope="module")
def world() -> World:
    """A world that lasts for a file of tests."""
    return World(stop_s=0.5, snapshot_s=1.0)


@pytest.fixture(scope="module")
def _emulator(world: World) -> Iterator[Emulator]:
    with Emulator(world) as running:
        yield running


@pytest.fixture
def emulator(_emulator: Emulator) -> Iterator[Emulator]:
    """The world, served; what a test does to it ends with the test."""
    habits = vars(Habits()).copy()
    yield _emulator
    _emulator.faults.clear()
    vars(_emulator.habits).update(habits)
    _emulator.latency_s, _emulator.stream_bytes_per_s = 0.0, None


@pytest.fixture(scope="module")
def _mounted(binding: str, _emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    home = tmp_path_factory.mktemp("contract") / "home"
    mounted = mount_at(home, binding, _emulator, RESCALEFS_BUDGET="off")
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.clean_up()


@pytest.fixture
def mounted(_mounted: Mounted, emulator: Emulator) -> Mounted:
    """The mount that all tests of a file share; nobody has asked it for the jobs of this test."""
    emulator.reset_counts()
    return _mounted


@pytest.fixture
def run(world: World) -> Run:
    """A finished run with some files, of a job of its own."""
    return world.add_job().add_run(finished=True, files=FILES)


@pytest.fixture
def live(world: World) -> Run:
    """A live run, of a job of its own."""
    return world.add_job().add_run(live={"log": b"Time = 0\n", "case/U": b"(0 0 0)"})


@pytest.fixture
def outputs(run: Run, mounted: Mounted) -> Path:
    """The directory of the finished run."""
    return mounted.top(run)


@pytest.fixture
def top(live: Run, mounted: Mounted) -> Path:
    """The directory of the live run."""
    return mounted.top(live)
