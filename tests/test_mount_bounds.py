"""What a mount takes of the machine: bounded while much is open, and given back when it is closed."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for
from tests.test_mount_followers import live_stats
from tests.tools import distinct, sh

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


def nothing_is_open(mounted: Mounted) -> bool:
    """Tell whether the kernel has told of the end of all that was open."""
    state = mounted.state()
    return state["files"] == state["directories"] == 0


def open_and_close(world: World, emulator: Emulator, mounted: Mounted, count: int) -> None:
    """Have that many files open at a time, read of each, close them, and again."""
    files = {f"d{number % 10}/f{number}": b"%06d" % number * 20 for number in range(count)}
    world.add_job("AbCdE").add_run(finished=True, files=files)
    top = mounted.jobs / "AbCdE/runs/1"
    before, after = mounted.state(), {}
    for _ in range(3):
        with ExitStack() as stack:
            for name, data in files.items():
                file = stack.enter_context(open(top / name, "rb", buffering=0))
                assert file.read(12) == data[:12]
            during = mounted.state()
            assert during["files"] == count
            assert during["descriptors"] <= MOST_DESCRIPTORS
            assert during["threads"] <= MOST_THREADS
        sh("ls -lR > /dev/null", top)
        wait_for(lambda: nothing_is_open(mounted), END_S, lambda: str(mounted.state()))
        now = mounted.state()
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


FORKS = """
import hashlib, os, sys
file, (heard, said) = os.open(sys.argv[1], os.O_RDONLY), os.pipe()
sum = hashlib.sha256(os.read(file, 100_000))
if (child := os.fork()) == 0:
    os.close(said)
    assert os.read(heard, 1) == b""  # the parent has closed
    while data := os.read(file, 100_000):
        sum.update(data)
    print(sum.hexdigest(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.close(file)
os.close(said)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_file_that_a_fork_shares_is_open_until_the_last_has_closed_it(
    world: World, emulator: Emulator, mount_of: Mounting
) -> None:
    """The child reads on where its parent was, after that has closed the file; then nothing is left of it."""
    data = distinct("forks", 9 << 20)
    run = world.add_job("AbCdE").add_run(finished=True, files={"file": data})
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    command, pipe = [sys.executable, "-c", FORKS, mounted.top(run) / "file"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as forking:
        assert forking.stdout is not None
        assert forking.stdin is not None
        assert forking.stdout.readline() == f"{hashlib.sha256(data).hexdigest()}\n"
        assert mounted.state()["files"] == 1
        forking.stdin.close()
        assert forking.wait(END_S) == 0
    wait_for(lambda: mounted.state()["files"] == 0, END_S, lambda: str(mounted.state()))


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
    assert mounted.state()["descriptors"] < 256
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
    assert mounted.state()["descriptors"] < 128
    assert emulator.requests["contents"] == len(files)
    assert " ERROR " not in mounted.log
    assert " WARNING " not in mounted.log


def test_a_large_live_file_takes_disk_and_no_memory(world: World, emulator: Emulator, mount_of: Mounting) -> None:
    """Read whole, and followed by its last lines: 64 MB of text leave the process as small as it was."""
    log = world.add_job("LiveR").add_run(live={"log": b"", "other": b"Time = 0\n"}).live["log"]
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.jobs / "LiveR/runs/1"
    assert (top / "other").read_bytes() == b"Time = 0\n"
    before = mounted.state()["MiB"]
    log.replace(b"".join(b"%063d\n" % number for number in range(1 << 20)))
    assert sh("wc -c < log", top) == f"{64 << 20}\n"
    for number in range(3):
        log.append(b"line %d\n" % number)
        shown = f"line {number}".encode()
        wait_for(lambda shown=shown: sh("tail -n 1 log", top).encode().startswith(shown), END_S, lambda: "not seen")  # type: ignore[misc]
    assert live_stats(mounted)["live.joins"] >= 2
    assert mounted.state()["MiB"] <= before + 24
