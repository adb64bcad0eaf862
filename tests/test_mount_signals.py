"""Signals to a mount that is at work, on both bindings: it tells its state, asks anew, or ends in order."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs import system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for
from tests.readers import readers
from tests.test_cli import home, rescalefs
from tests.tools import MIB

__all__ = ["home"]
pytestmark = pytest.mark.mount
SECRET = "0123456789abcdef-the-key"
TEXT = b"what stands in a file "
MANY = {f"d{number % 5}/f{number}": TEXT * (number + 1) * 100 for number in range(40)}
BIG = hashlib.shake_128(b"signals").digest(6 * MIB)


@pytest.fixture
def world() -> World:
    """A job with many files, and one whose file is stuck."""
    world = World()
    world.add_job("AbCdE").add_run(finished=True, files={**MANY, "big": BIG})
    world.add_job("StucK").add_run(finished=True, files={"stuck": b"s" * 1000})
    return world


def dump_of(mounted: Mounted) -> str:
    """Ask a mount for its state, and return what it says."""
    assert mounted.process is not None
    before = len(mounted.log)
    mounted.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "SIGUSR1: end\n" in mounted.log[before:], END_S, lambda: "no dump")
    return "\n".join(line for line in mounted.log[before:].splitlines() if "SIGUSR1: " in line)


@pytest.mark.parametrize("level", ["debug", "error"])
def test_sigusr1_writes_the_state_of_the_mount_into_its_log(
    level: str, world: World, mount_of: Callable[..., Mounted]
) -> None:
    """Counters, what is open and under way, and all stacks, under load; not the key, and no bytes of a file."""
    with Emulator(world, key=SECRET) as emulator:
        emulator.faults.add(endpoint="contents", path=f"/{world.jobs['StucK'].runs['1'].files[0].id}/", stall_after=10)
        mounted = mount_of(emulator, "--log-level", level, RESCALEFS_BUDGET="off")
        top = mounted.jobs / "AbCdE/runs/1"
        with (
            readers(top, MANY, 3) as working,
            readers(mounted.jobs / "StucK/runs/1", {"stuck": b""}, 2),
            (top / "big").open("rb") as file,
        ):
            assert file.read(10) == BIG[:10]
            wait_for(lambda: emulator.requests["contents"] > 30, END_S, lambda: "nobody reads")
            dumps = [""]
            stuck = (r"operation read(into)? /jobs/StucK/runs/1/stuck: \d", r"file \w+ \(stuck\): 2 open")

            def are_stuck() -> bool:
                dumps.append(dump_of(mounted))
                return all(re.search(each, dumps[-1]) for each in stuck)

            wait_for(are_stuck, END_S, lambda: dumps[-1])
            text = dumps[-1]
            assert [process.poll() for process in working] == [None] * 3

        assert re.search(r"process \d+: \d+ threads, \d+ descriptors, \d+ MiB", text)
        assert "status online" in text
        assert re.search(r"requests.contents [1-9]", text)
        assert re.search(r"open.files [1-9]", text)
        assert re.search(r"file \w+ \(stuck\): 2 open; waited for: \[0, 1000\).*; fetching: \[0, 1000\) at 0", text)
        assert re.search(r"file \w+ \(big\): 1 open", text)
        assert re.search(r"content/engine.py:\d+ ", text)
        assert "thread signals" in text
        for secret in (SECRET, TEXT.decode().strip(), "ssss"):
            assert secret not in mounted.log
        assert (top / "big").read_bytes() == BIG
        if level == "error":
            assert " INFO  " not in mounted.log.replace("INFO    SIGUSR1: ", "")


def test_sigusr1_reaches_the_log_of_a_mount_in_the_background(home: Path, emulator: Emulator, binding: str) -> None:
    """Where nobody reads standard error."""
    point, log = home / "rescale", home / "log"
    environ = {"RESCALE_API_URL": emulator.origin, "RESCALE_API_KEY": emulator.key}
    done = rescalefs(home, "mount", "--binding", binding, "--log-file", str(log), str(point), **environ)
    try:
        assert done.returncode == 0, done.stderr
        found = subprocess.run(["pgrep", "-f", f"rescalefs mount .*{point}"], capture_output=True, text=True)
        (process,) = found.stdout.split()
        os.kill(int(process), signal.SIGUSR1)
        wait_for(lambda: "SIGUSR1: end\n" in log.read_text(), END_S, lambda: log.read_text())
        if os.geteuid() == 0:  # others may not look into the process
            assert os.readlink(f"/proc/{process}/fd/2") == os.devnull
            assert os.readlink(f"/proc/{process}/cwd") == "/"
        assert os.getsid(int(process)) == int(process)
    finally:
        assert rescalefs(home, "umount", str(point)).returncode == 0


def test_sighup_under_load_asks_anew_and_disturbs_nobody(
    world: World, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """Readers see right bytes through a dozen refreshes; a new job is seen, and listings are asked for again."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.jobs / "AbCdE/runs/1"
    with readers(top, MANY, 4, rounds=15) as working:
        while any(process.poll() is None for process in working):
            assert mounted.process is not None
            mounted.process.send_signal(signal.SIGHUP)
            os.listdir(top)
            time.sleep(0.1)
        assert [(process.returncode, process.stderr.read()) for process in working] == [(0, "")] * 4
    assert emulator.requests["run_files"] > 1
    world.add_job("NewJb")
    mounted.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "NewJb" in os.listdir(mounted.jobs), END_S, lambda: "no new job")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_sigint_end_a_mount_under_load_in_order(
    number: signal.Signals, world: World, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """With readers at work and readers stuck: exit code 0, nothing mounted, no reader waits or saw a wrong byte."""
    emulator.faults.add(endpoint="contents", path=f"/{world.jobs['StucK'].runs['1'].files[0].id}/", stall_after=10)
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    with (
        readers(mounted.jobs / "AbCdE/runs/1", MANY, 4) as working,
        readers(mounted.jobs / "StucK/runs/1", {"stuck": b""}, 4) as stuck,
    ):
        wait_for(lambda: emulator.requests["contents"] > 30, END_S, lambda: "nobody reads")
        assert mounted.process is not None
        mounted.process.send_signal(number)
        assert mounted.process.wait(END_S) == 0
        assert system.mounted_type(mounted.path) is None
        for process in (*working, *stuck):
            assert process.wait(END_S) == 1
            assert process.stderr.read().startswith("error ")
    assert os.listdir(mounted.path) == []
    assert "Traceback" not in mounted.log
