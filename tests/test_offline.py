"""A mount without a network, on both bindings: what is here is shown, the rest is an error at once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import Mounted, wait_for
from tests.test_cli import failure, rescalefs
from tests.tools import FILES, run_in, sh

pytestmark = pytest.mark.mount
DAY_S = 86_400.0


def may_leave_the_network() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-n", "true"]).returncode == 0


needs_unshare = pytest.mark.skipif(not may_leave_the_network(), reason="needs the right to unshare the network")


@pytest.fixture
def world() -> World:
    """A job with two final runs, and one with a live run."""
    world = World()
    then = world.clock.now() - 2 * DAY_S
    job = world.add_job("AbCdE", name="wing", created=then - 9000, expected_runs=2)
    for _ in range(2):
        job.add_run(started=then - 60, completed=then, files=FILES)
    world.add_job("LiveR").add_run(live={"log": b"Time = 0\n"})
    return world


@pytest.fixture
def without(mount_of: Callable[..., Mounted], emulator: Emulator) -> Iterator[Mounted]:
    """A mount that knows run 1 and one of its files, mounted again where there is no network."""
    mounted = mount_of(emulator)
    sh("ls -R AbCdE/runs/1 LiveR; cat AbCdE/runs/1/big.bin > /dev/null", mounted.jobs)
    mounted.unmount()
    mounted.log_file.write_bytes(b"")
    mounted.command = ["unshare", "-n", *mounted.command]
    mounted.mount()
    emulator.reset_counts()
    yield mounted
    assert not emulator.requests


@needs_unshare
def test_what_is_here_is_shown_without_a_network(without: Mounted) -> None:
    """The mount comes up; jobs, names, runs and a known run's files are there, and the bytes that were read."""
    top = without.jobs / "AbCdE/runs/1"

    assert sorted(os.listdir(without.jobs)) == ["AbCdE", "LiveR"]
    assert os.listdir(without.jobs / "AbCdE/runs") == ["1", "2", "latest"]
    assert "wing~AbCdE" in os.listdir(without.path / "by-name")
    assert (without.path / "jobs.csv").read_text().count("\n") == 3
    assert (without.jobs / "AbCdE/runs.csv").read_text().count(",final,") == 2
    found = sh(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], top).split("\0")[:-1]
    assert dict(zip(found[::2], map(int, found[1::2]), strict=True)) == {p: len(d) for p, d in FILES.items()}
    assert (top / "big.bin").read_bytes() == FILES["big.bin"]
    assert (without.path / ".rescale/status").read_text().startswith("offline since 20")


@needs_unshare
def test_what_is_not_here_is_an_error_within_a_second(without: Mounted) -> None:
    """EIO for names and for bytes, each at once; one line in the log for all of it."""
    top = without.jobs / "AbCdE/runs/1"
    sh("ls", top)
    for _ in range(10):
        for path in (top / "process_output.log", without.jobs / "AbCdE/runs/2/big.bin", without.jobs / "Other"):
            began = time.monotonic()
            done = run_in(["cat", str(path)], without.path)
            took_s = time.monotonic() - began
            assert "Input/output error" in done.stderr
            assert took_s < 1
    with pytest.raises(OSError, match="Input/output") as caught:
        os.listdir(without.jobs / "LiveR/runs/1")
    assert caught.value.errno == errno.EIO

    loud = [line for line in without.log.splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(loud) == 1, loud
    assert "no way to Rescale" in loud[0]


@needs_unshare
def test_nothing_to_show_is_no_mount(mount_of: Callable[..., Mounted], emulator: Emulator, tmp_path: Path) -> None:
    """Where nothing was kept, mounting without a network fails as ever; another key sees nothing of the first one's."""
    mounted = mount_of(emulator)
    sh("ls", mounted.jobs)
    mounted.unmount()
    point = tmp_path / "other"
    point.mkdir()
    environ = {"RESCALE_API_URL": "http://127.0.0.1:1", "RESCALE_API_KEY": emulator.key}
    for cache in (mounted.cache, tmp_path / "empty"):
        assert failure(rescalefs(tmp_path, "mount", "--cache-dir", str(cache), str(point), **environ))[0] == 4
    environ = {"RESCALE_API_URL": emulator.origin, "RESCALE_API_KEY": "another-key"}
    emulator.faults.add(drop=True)
    assert failure(rescalefs(tmp_path, "mount", "--cache-dir", str(mounted.cache), str(point), **environ))[0] == 4


@pytest.mark.long
def test_a_network_that_is_lost_and_comes_back(world: World, mount_of: Callable[..., Mounted]) -> None:
    """What was known stays while it is gone, status says since when, and all is well by itself when it is back."""
    with Emulator(world) as emulator:
        port = int(emulator.origin.rpartition(":")[2])
        mounted = mount_of(emulator)
        before = sh("ls -lR .", mounted.jobs / "AbCdE/runs/1")
        status = mounted.path / ".rescale/status"
        assert status.read_text() == "online\n"
    with pytest.raises(OSError, match="Input/output"):
        os.listdir(mounted.jobs / "AbCdE/runs/2")
    assert status.read_text().startswith("offline since 20")
    assert sh("ls -lR .", mounted.jobs / "AbCdE/runs/1") == before
    world.add_job("NewJo")

    with Emulator(world, port=port):
        wait_for(lambda: status.read_text() == "online\n", 20, lambda: status.read_text())
        assert len(os.listdir(mounted.jobs / "AbCdE/runs/2")) > 3
        wait_for(lambda: "NewJo" in os.listdir(mounted.jobs), 40, lambda: "no new job")
    assert "can be reached again" in mounted.log
