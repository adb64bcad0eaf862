"""Many files in one directory, and very many in a run: what listing them costs, on real mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.content import Bytes
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.contract.test_listing import SEEK
from tests.tools import python, sh

pytestmark = pytest.mark.mount
MB = 1_000_000


def resident_bytes(mounted: Mounted) -> int:
    """How much memory the mount has."""
    assert mounted.process is not None
    status = Path(f"/proc/{mounted.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def fill(run: Run, count: int, name: Callable[[int], str]) -> Run:
    """Add empty files to a run."""
    nothing = Bytes(b"")
    for number in range(count):
        run.add_file(name(number), nothing)
    return run


@pytest.fixture(scope="module")
def wide() -> Iterator[tuple[Emulator, Run]]:
    """A run with one directory of 100,000 files."""
    world = World()
    run = fill(world.add_job("Wide").add_run(finished=True), 100_000, lambda number: f"all/file number {number}")
    with Emulator(world) as emulator:
        yield emulator, run


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_directory_of_a_hundred_thousand_files(wide: tuple[Emulator, Run], mount_of: Callable[..., Mounted]) -> None:
    """Listed whole by all who list, from any place; its memory is bounded; after a remount it comes from the disk."""
    emulator, run = wide
    emulator.reset_counts()
    mounted = mount_of(emulator, "--log-level", "info")
    place = mounted.top(run) / "all"

    assert sh("ls -f | wc -l", place) == "100002\n"
    assert emulator.requests["run_files"] == 100
    assert resident_bytes(mounted) <= 80 * MB
    assert sh("ls | wc -l", place) == "100000\n"
    assert sh("find . -type f | wc -l", place) == "100000\n"
    assert sh("ls -l | tail -n +2 | wc -l", place) == "100000\n"
    assert len(set(os.listdir(place))) == 100_000
    assert python(SEEK, place, seconds=200) == "100002\n"
    mounted.unmount()
    mounted.mount()
    emulator.reset_counts()
    assert sh("ls -f | head -n 3 | wc -l", place) == "3\n"
    assert sh("find . -type f | wc -l", place) == "100000\n"
    assert (emulator.requests["run_files"], emulator.requests.total()) == (0, 2)  # users/me and the list of jobs


@pytest.fixture(scope="module")
def vast() -> Iterator[tuple[Emulator, Run]]:
    """A run of a million files, a hundred in each directory."""
    world = World()
    run = world.add_job("Vast").add_run(finished=True)
    fill(run, 1_000_000, lambda number: f"p{number // 10_000}/{number // 100 % 100}/field{number % 100}")
    with Emulator(world) as emulator:
        yield emulator, run


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_of_a_million_files(vast: tuple[Emulator, Run], mount_of: Callable[..., Mounted]) -> None:
    """Found at the first look, though that takes minutes, a page for each thousand; within 800 MB; and kept."""
    emulator, run = vast
    emulator.reset_counts()
    mounted = mount_of(emulator, "--log-level", "info", RESCALEFS_BUDGET="off")
    top = mounted.top(run)

    assert sh("find . -type f | wc -l", top) == "1000000\n"
    assert emulator.requests["run_files"] == 1000
    assert emulator.requests.total() - 1000 <= 3  # users/me, the jobs and the runs
    assert resident_bytes(mounted) <= 800 * MB
    assert sh("ls p99/99 | wc -l", top) == "100\n"
    mounted.unmount()
    mounted.mount()
    emulator.reset_counts()
    assert sh("find . -type f | wc -l", top) == "1000000\n"
    assert emulator.requests["run_files"] == 0
    assert resident_bytes(mounted) <= 800 * MB
    assert "ERROR" not in mounted.log
