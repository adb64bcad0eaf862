"""Listing, as docs/semantics.md promises it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Job, Run, World
from tests.conftest import Mounted, wait_for
from tests.test_cli import rescalefs
from tests.tools import FILES, errno_of, python, refresh, sh

pytestmark = pytest.mark.mount


def run_of(world: World, count: int) -> Run:
    run = world.add_job().add_run(finished=True)
    for number in range(count):
        run.add_file(f"d{number % 7}/f{number}", b"%d" % number)
    return run


def test_a_listing_is_whole_or_an_error(world: World, mounted: Mounted, emulator: Emulator) -> None:
    run = run_of(world, 2500)
    top = mounted.top(run)
    for number in range(1, 4):
        fault = emulator.faults.add(endpoint="run_files", nth=number, status=403)
        assert errno_of(os.listdir, top) == "EACCES"
        assert fault.hits == 1
        emulator.faults.remove(fault)

    assert sh("find . -type f | wc -l", top) == "2500\n"


def test_listing_a_run_costs_one_request_for_each_thousand_files(
    world: World, mounted: Mounted, emulator: Emulator
) -> None:
    run = run_of(world, 2500)

    assert sh("ls -lR .", mounted.top(run)).count("-r--r--r--") == 2500
    assert emulator.requests["run_files"] == 3
    assert emulator.requests.total() - 3 <= 3  # the job, its status, its runs


# Names are waited for as many seconds, and may be asked for as often a second, in pages of as few rows.
DEADLINE_S, PER_S, PAGE = 3, 10, 10


@pytest.fixture
def rare(mount_of: Callable[..., Mounted], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    """A mount of a platform whose listings take long, though each page comes at once."""
    monkeypatch.setattr("rescalefs.emulator.endpoints.MAX_PAGE_SIZE", PAGE)
    mounted = mount_of(emulator, "--metadata-deadline", f"{DEADLINE_S}", "--rate", f"jobs-usage={PER_S}:1")
    emulator.reset_counts()
    return mounted


def test_a_listing_is_waited_for_as_long_as_its_pages_come(world: World, rare: Mounted, emulator: Emulator) -> None:
    """By who lists, and by who looks at one file."""
    pages = DEADLINE_S * PER_S * 3 // 2
    top = rare.top(run_of(world, pages * PAGE))
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(os.stat, top / "d3/f24")
        assert sh("find . -type f | wc -l", top) == f"{pages * PAGE}\n"
        assert found.result().st_size == 2
    assert time.monotonic() - began > DEADLINE_S
    assert emulator.requests["run_files"] == pages


def test_who_waits_for_a_listing_can_be_killed(world: World, rare: Mounted, emulator: Emulator) -> None:
    """And the next one who looks has what came meanwhile."""
    pages = DEADLINE_S * PER_S * 3
    top = rare.top(run_of(world, pages * PAGE))
    with subprocess.Popen(["ls", top]) as waiting:
        wait_for(lambda: emulator.requests["run_files"] > DEADLINE_S * PER_S + 1, 30, lambda: "no pages")
        waiting.kill()
        assert waiting.wait(20) == -signal.SIGKILL
        assert emulator.requests["run_files"] < pages - PER_S
    assert sh("find . -type f | wc -l", top) == f"{pages * PAGE}\n"
    assert emulator.requests["run_files"] == pages


def test_listing_a_run_with_sizes_and_times_costs_no_more_than_without(
    world: World, mounted: Mounted, emulator: Emulator
) -> None:
    costs = []
    for command in ("ls -R", "ls -lR", "find . -newermt 2000-01-01 -size +1k", "du -s"):
        run = run_of(world, 40)
        emulator.reset_counts()
        sh(command, mounted.top(run))
        costs.append(dict(emulator.requests))

    assert costs == [costs[0]] * 4


def test_listing_a_final_run_again_costs_nothing(outputs: Path, emulator: Emulator) -> None:
    first = sh("ls -lR .", outputs)
    emulator.reset_counts()

    assert sh("ls -lR .", outputs) == first
    assert sh("find . -type f", outputs).count("\n") == len(FILES)
    assert emulator.requests.total() == 0


def job_of(world: World, runs: int, files: int) -> Job:
    job = world.add_job()
    for _ in range(runs):
        run = job.add_run(finished=True)
        for number in range(files):
            run.add_file(f"case/{number}", b"")
    return job


def test_going_through_the_final_runs_of_a_job_costs_one_request_for_each_thousand_files(
    world: World, mounted: Mounted, emulator: Emulator
) -> None:
    """And those of the first two runs."""
    job = job_of(world, 30, 66)
    assert sh("find . -type f | wc -l", mounted.jobs / job.id / "runs") == f"{30 * 66}\n"
    assert (emulator.requests["run_files"], emulator.requests["job_files"]) == (2, 2)
    assert emulator.requests.total() - 4 <= 3  # the job, its status, its runs


def test_looking_into_one_run_of_a_job_costs_that_run_alone(world: World, mounted: Mounted, emulator: Emulator) -> None:
    job = job_of(world, 30, 66)
    assert sh("find . -type f | wc -l", mounted.jobs / job.id / "runs/17") == "66\n"
    assert (emulator.requests["run_files"], emulator.requests["job_files"]) == (1, 0)


def test_listing_a_live_run_reads_no_file(top: Path, emulator: Emulator) -> None:
    assert sh("ls -R", top)
    assert sh("find . -type f", top).count("\n") == 4
    assert emulator.requests["tail"] == 0
    assert (top / "log").stat().st_size == 9
    assert emulator.requests["tail"] == 1


def test_a_listing_tells_the_inode_numbers_that_stat_tells(outputs: Path, top: Path, mounted: Mounted) -> None:
    for place in (mounted.path, outputs.parent, outputs, outputs / "case", top):
        told = {entry.name: entry.inode() for entry in os.scandir(place)}
        assert told == {name: os.lstat(place / name).st_ino for name in told}
    dots = dict(line.split() for line in reversed(sh("ls -fi1", outputs).splitlines()) if line.endswith("."))
    assert {name: int(number) for number, name in dots.items()} == {
        ".": outputs.stat().st_ino,
        "..": outputs.parent.stat().st_ino,
    }


def test_a_directory_that_is_open_keeps_the_entries_that_it_was_opened_with(world: World, mounted: Mounted) -> None:
    run = world.add_job().add_run(finished=True)
    for number in range(3000):
        run.add_file(f"file number {number}", b"")
    top = mounted.top(run)
    with os.scandir(top) as entries:
        seen = [next(entries).name]
        for file in run.files[:1500]:
            file.is_deleted = True
        refresh(top)
        assert len(os.listdir(top)) == 1500
        seen += [entry.name for entry in entries]

    assert sorted(seen) == sorted(f"file number {number}" for number in range(3000))


SEEK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_ulong), ("off", ctypes.c_long), ("reclen", ctypes.c_ushort),
                ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
directory = ctypes.c_void_p(libc.opendir(os.fsencode(sys.argv[1])))
seen = []
while True:
    place = libc.telldir(directory)
    entry = libc.readdir(directory)
    if not entry:
        break
    seen.append((place, entry.contents.name))
for place, name in seen[::-29] + seen[::31]:
    libc.seekdir(directory, place)
    assert libc.readdir(directory).contents.name == name, name
libc.rewinddir(directory)
again = []
while entry := libc.readdir(directory):
    again.append(entry.contents.name)
assert again == [name for _, name in seen]
print(len(seen))
"""


def test_a_directory_can_be_read_from_any_place_that_telldir_told(world: World, mounted: Mounted) -> None:
    run = world.add_job().add_run(finished=True)
    for number in range(1500):
        run.add_file(f"file number {number}", b"")

    assert python(SEEK, mounted.top(run)) == "1502\n"


# ---- refreshing ----


def test_refresh_of_a_run_asks_for_its_files_again(run: Run, outputs: Path) -> None:
    for _ in range(2):
        assert (outputs / "case/100/U").stat().st_size == len(FILES["case/100/U"])
    next(file for file in run.files if file.relative_path == "case/100/uniform/time").is_deleted = True
    run.add_file("case/100/late", b"12345")
    assert not (outputs / "case/100/late").exists()

    refresh(outputs)

    assert (outputs / "case/100/late").stat().st_size == 5
    assert os.listdir(outputs / "case/100") == ["U", "late"]
    assert (outputs / "case/100/U").stat().st_size == len(FILES["case/100/U"])


def test_refresh_of_a_job_asks_for_its_runs_again(run: Run, outputs: Path) -> None:
    assert os.listdir(outputs.parent) == ["1", "latest"]
    run.job.add_run(finished=True)
    assert os.listdir(outputs.parent) == ["1", "latest"]

    refresh(outputs.parent.parent)

    assert os.listdir(outputs.parent) == ["1", "2", "latest"]
    assert os.readlink(outputs.parent / "latest") == "2"


def test_refresh_of_the_mount_asks_for_the_jobs_again(world: World, mounted: Mounted) -> None:
    os.listdir(mounted.jobs)
    job = world.add_job()
    assert job.id not in os.listdir(mounted.jobs)

    refresh(mounted.path)

    assert job.id in os.listdir(mounted.jobs)


def test_rescalefs_refresh_refreshes_the_level_that_a_path_is_in(
    outputs: Path, mounted: Mounted, emulator: Emulator
) -> None:
    """A run from any place in it, then a job, then everything."""
    os.listdir(mounted.jobs)
    sh("ls -R .", outputs)

    def costs() -> Iterator[dict[str, int]]:
        for path in (outputs / "case/0", outputs.parent / "latest", outputs.parent.parent, mounted.path):
            assert rescalefs(mounted.path.parent, "refresh", str(path)).returncode == 0
            emulator.reset_counts()
            sh("ls -R .", outputs)
            yield dict(emulator.requests)

    of_run, of_job = {"runs": 1, "run_files": 1}, {"runs": 1, "run_files": 1}
    assert list(costs()) == [of_run, of_run, of_job, {"jobs": 1, **of_job}]


def test_a_refresh_outlives_a_remount(run: Run, emulator: Emulator, mount_of: Callable[..., Mounted]) -> None:
    """The next mount asks for what was refreshed, though it was kept; the one after that does not."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.top(run)
    assert os.listdir(top)
    refresh(top)
    for asked in (1, 0):
        assert mounted.unmount() == 0
        mounted.mount()
        emulator.reset_counts()
        assert os.listdir(top)
        assert emulator.requests["run_files"] == asked
