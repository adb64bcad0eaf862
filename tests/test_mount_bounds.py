"""What a mount takes of the machine: bounded while much is open, and given back when it is closed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for
from tests.tools import sh

pytestmark = pytest.mark.mount
Mounting = Callable[..., Mounted]
# More than segments of the cache are kept open.
MANY = 700
# Segments, sockets, pipes and what else a mount has.
MOST_DESCRIPTORS = 700
# Those of both pools, of the streams, and of libfuse's for a few readers.
MOST_THREADS = 120


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """Let this process open as many files as the tests want."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def state_of(mounted: Mounted) -> dict[str, int]:
    """What a mount tells of itself when it gets SIGUSR1."""
    assert mounted.process is not None
    before = len(mounted.log)
    mounted.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "SIGUSR1: end\n" in mounted.log[before:], END_S, lambda: "no dump")
    text = mounted.log[before:]
    process = re.search(r"process \d+: (\d+) threads, (\d+) descriptors, (\d+) MiB", text)
    files, directories = (re.search(rf"open\.{kind} (\d+)", text) for kind in ("files", "directories"))
    assert process is not None
    assert files is not None
    assert directories is not None
    threads, descriptors, mib = map(int, process.groups())
    return {
        "threads": threads,
        "descriptors": descriptors,
        "MiB": mib,
        "files": int(files[1]),
        "directories": int(directories[1]),
    }


def open_and_close(world: World, emulator: Emulator, mounted: Mounted, count: int) -> None:
    """Have that many files open at a time, read of each, close them, and again."""
    files = {f"d{number % 10}/f{number}": b"%06d" % number * 20 for number in range(count)}
    world.add_job("AbCdE").add_run(finished=True, files=files)
    top = mounted.jobs / "AbCdE/runs/1"
    before, after = state_of(mounted), {}
    for _ in range(3):
        with ExitStack() as stack:
            for name, data in files.items():
                file = stack.enter_context(open(top / name, "rb", buffering=0))
                assert file.read(12) == data[:12]
            during = state_of(mounted)
            assert during["files"] == count
            assert during["descriptors"] <= MOST_DESCRIPTORS
            assert during["threads"] <= MOST_THREADS
        sh("ls -lR > /dev/null", top)
        wait_for(lambda: state_of(mounted)["files"] == 0, END_S, lambda: str(state_of(mounted)))
        now = state_of(mounted)
        assert now["directories"] == 0
        if after:
            assert now["descriptors"] <= after["descriptors"] + 10
            assert now["threads"] <= after["threads"] + 10
            assert now["MiB"] <= after["MiB"] + 16
        after = after or now
    assert after["MiB"] <= before["MiB"] + 100
    assert emulator.requests["contents"] == count


def test_many_open_files_give_back_what_they_took(world: World, emulator: Emulator, mount_of: Mounting) -> None:
    """700 files open at a time: descriptors and threads are bounded, and back when they are closed."""
    open_and_close(world, emulator, mount_of(emulator, RESCALEFS_BUDGET="off"), MANY)


@pytest.mark.long
def test_2000_open_files_give_back_what_they_took(world: World, emulator: Emulator, mount_of: Mounting) -> None:
    """2,000 files open at a time: descriptors and threads are bounded, and back when they are closed."""
    open_and_close(world, emulator, mount_of(emulator, RESCALEFS_BUDGET="off"), 2000)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_more_live_files_than_descriptors(world: World, emulator: Emulator, mount_of: Mounting, tmp_path: Path) -> None:
    """`ls -l` of a live run with more files than the process may open: every size is right."""
    files = {f"f{number:03}": b"x" * number for number in range(300)}
    world.add_job("LiveR").add_run(live=files)
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    mounted.unmount()
    mounted.command = ["prlimit", "--nofile=256:256", *mounted.command]
    mounted.mount()
    top = mounted.jobs / "LiveR/runs/1"
    assert {name: os.stat(top / name).st_size for name in files} == {name: len(data) for name, data in files.items()}
    assert state_of(mounted)["descriptors"] < 256
    assert " ERROR " not in mounted.log


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_more_cached_files_than_descriptors(world: World, emulator: Emulator, mount_of: Mounting) -> None:
    """Files are read and kept that are more than the process may open: there is always one left for a socket."""
    files = {f"f{number:03}": b"%d" % number for number in range(300)}
    world.add_job("AbCdE").add_run(finished=True, files=files)
    live = world.add_job("LiveR").add_run(live={"log": b""})
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    mounted.unmount()
    mounted.command = ["prlimit", "--nofile=128:128", *mounted.command]
    mounted.mount()
    top = mounted.jobs / "AbCdE/runs/1"
    for _ in range(2):
        assert {name: (top / name).read_bytes() for name in files} == files
    sh("echo 1 > stop", mounted.top(live))  # over a connection of its own
    assert state_of(mounted)["descriptors"] < 128
    assert emulator.requests["contents"] == len(files)
    assert " ERROR " not in mounted.log
    assert " WARNING " not in mounted.log


def test_a_large_live_file_takes_disk_and_no_memory(world: World, emulator: Emulator, mount_of: Mounting) -> None:
    """Read whole, and followed by its last lines: 64 MB of text leave the process as small as it was."""
    log = world.add_job("LiveR").add_run(live={"log": b"", "other": b"Time = 0\n"}).live["log"]
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.jobs / "LiveR/runs/1"
    assert (top / "other").read_bytes() == b"Time = 0\n"
    before = state_of(mounted)["MiB"]
    log.replace(b"".join(b"%063d\n" % number for number in range(1 << 20)))
    assert sh("wc -c < log", top) == f"{64 << 20}\n"
    for number in range(3):
        log.append(b"line %d\n" % number)
        shown = f"line {number}".encode()
        wait_for(lambda shown=shown: sh("tail -n 1 log", top).encode().startswith(shown), END_S, lambda: "not seen")  # type: ignore[misc]
    stats = (mounted.path / ".rescale/stats").read_text()
    assert "live.joins 2" in stats
    assert state_of(mounted)["MiB"] <= before + 24
