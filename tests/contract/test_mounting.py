"""Who may use a mount, and its end, as docs/semantics.md promises them."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs import system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, mount_at, wait_for
from tests.tools import FILES, distinct, errno_of, posts

pytestmark = pytest.mark.mount

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")


def as_nobody(command: str) -> subprocess.CompletedProcess[str]:
    nobody = pwd.getpwnam("nobody")
    return subprocess.run(command, shell=True, capture_output=True, text=True, user=nobody.pw_uid, group=nobody.pw_gid)


@pytest.fixture
def reachable(tmp_path: Path) -> None:
    """Let other users come to where the mounts are."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)


@needs_root
@pytest.mark.usefixtures("reachable")
def test_without_allow_other_nobody_else_may_look(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator)

    assert as_nobody(f"ls {mounted.path.parent}").returncode == 0
    for command in ("ls", "stat", "df"):
        refused = as_nobody(f"{command} {mounted.path}/")
        assert refused.returncode != 0
        assert "ermission denied" in refused.stderr


@needs_root
@pytest.mark.usefixtures("reachable")
def test_with_allow_other_others_read_outputs_and_no_control_file(
    live: Run, run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator, "--allow-other")

    assert as_nobody(f"cat {mounted.top(run)}/process_output.log").stdout == "Time = 1\nTime = 2\n"
    assert as_nobody(f"cat {mounted.top(live)}/log").stdout == "Time = 0\n"
    for command in ("cat", "echo 1 >"):
        for name in ("stop", "snapshot", ".rescale/stop", ".rescale/refresh"):
            refused = as_nobody(f"{command} {mounted.top(live)}/{name}")
            assert "ermission denied" in refused.stderr
    assert posts(emulator) == 0


def test_sigterm_ends_a_mount_that_is_busy(run: Run, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """With 0, though a file is open and a read is stuck; nothing stays mounted."""
    run.add_file("file", distinct(run.job.id, 1000))
    mounted = mount_of(emulator)
    fault = emulator.faults.add(endpoint="contents", stall_after=0)
    path = mounted.top(run) / "file"
    with open(path, "rb"), subprocess.Popen(["cat", path], stderr=subprocess.PIPE) as reader:
        wait_for(lambda: fault.hits > 0, 10, lambda: "nobody reads")

        assert mounted.unmount() == 0
        assert reader.wait(10) != 0

    assert os.listdir(mounted.path) == []


def test_a_mount_whose_process_died_is_cleared_at_the_next_start(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator)
    assert mounted.process is not None
    mounted.process.kill()
    mounted.process.wait()
    assert errno_of(os.listdir, mounted.path) == "ENOTCONN"

    mounted.mount()

    assert (mounted.top(run) / "process_output.log").read_bytes() == FILES["process_output.log"]


def test_of_mounts_that_are_started_at_once_on_one_directory_one_comes_up(
    run: Run, binding: str, emulator: Emulator, tmp_path: Path
) -> None:
    """All of them have seen that nothing is mounted there; one mounts, the others say why they do not."""
    mounted = mount_at(tmp_path / "home", binding, emulator)
    emulator.faults.add(endpoint="users_me", latency_s=1.0)
    with contextlib.ExitStack() as stack:
        stack.callback(mounted.clean_up)
        command = [*mounted.command, *mounted.args, str(mounted.path)]
        starting = [
            stack.enter_context(subprocess.Popen(command, env=mounted.environ, stderr=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        stack.callback(lambda: [each.kill() for each in starting])
        wait_for(lambda: sum(each.poll() is None for each in starting) == 1, 30, lambda: "not one alone is left")
        (mounted.process,) = [each for each in starting if each.returncode is None]
        wait_for(lambda: "jobs" in os.listdir(mounted.path), 30, lambda: "it does not come up")
        assert [entry.mount_point for entry in system.mounts()].count(mounted.path) == 1
        for each in starting:
            if each is not mounted.process:
                assert each.returncode == 7
                assert each.stderr is not None
                assert re.fullmatch(rf"rescalefs: .* {mounted.path}\b.*: (wait|leave) .*\n", each.stderr.read())
        assert mounted.unmount() == 0
        mounted.mount()
        assert (mounted.top(run) / "process_output.log").read_bytes() == FILES["process_output.log"]
