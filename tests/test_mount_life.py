"""Live files, other users and the end of a mount, on both bindings."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.tools import FILES, posts, sh

pytestmark = pytest.mark.mount


# ---- live files ----


def test_a_live_file_grows_under_its_reader(live: Run, mounted: Mounted) -> None:
    """A reader that stays sees what is appended, every byte once, and sizes are never 0 for what has bytes."""
    path = mounted.jobs / "LiveR/runs/1/log"
    assert path.stat().st_size == len(b"Time = 0\n")
    seen = b""
    with open(path, "rb", buffering=0) as file:
        for number in range(1, 4):
            live.live["log"].append(b"Time = %d\n" % number)

            def grown(number: int = number) -> bool:
                nonlocal seen
                seen += file.read(1000)
                return seen.endswith(b"Time = %d\n" % number)

            wait_for(grown, 20, lambda: f"read {seen!r}")

    assert seen == live.live["log"].read()


def test_a_truncated_live_file_is_stale_for_its_reader(live: Run, mounted: Mounted) -> None:
    """After a truncation an open handle gets ESTALE, but starts over at offset 0."""
    path = mounted.jobs / "LiveR/runs/1/log"
    with open(path, "rb", buffering=0) as file:
        assert file.read(100) == b"Time = 0\n"
        live.live["log"].replace(b"new")

        def is_stale() -> bool:
            try:
                return os.pread(file.fileno(), 10, 9) != b""
            except OSError as error:
                return error.errno == errno.ESTALE

        wait_for(is_stale, 20, lambda: "the old bytes stay")
        assert os.pread(file.fileno(), 10, 0) == b"new"


def test_live_listing_asks_for_no_sizes(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """Plain ls of a live run reads no file; a stat of one reads that one."""
    top = mounted.jobs / "LiveR/runs/1"

    assert {"log", "case"} <= set(os.listdir(top))
    assert emulator.requests["tail"] == 0
    assert (top / "log").stat().st_size == 9
    assert emulator.requests["tail"] == 1


# ---- other users, and ends ----


def as_nobody(command: str) -> subprocess.CompletedProcess[str]:
    nobody = pwd.getpwnam("nobody")
    return subprocess.run(command, shell=True, capture_output=True, text=True, user=nobody.pw_uid, group=nobody.pw_gid)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_reads_only_if_allowed(live: Run, run: Run, mount_of: Callable[..., Mounted], emulator: Emulator,
                                            tmp_path: Path) -> None:  # fmt: skip
    """Without --allow-other nobody else gets in; with it others read outputs, but no control file."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)
    closed, opened = mount_of(emulator), mount_of(emulator, "--allow-other")

    assert as_nobody(f"ls {closed.path}").returncode != 0
    assert as_nobody(f"cat {opened.jobs}/AbCdE/runs/1/process_output.log").stdout == "Time = 1\nTime = 2\n"
    for command in ("cat", "echo 1 >"):
        refused = as_nobody(f"{command} {opened.jobs}/LiveR/runs/1/stop")
        assert "ermission denied" in refused.stderr
    assert posts(emulator) == 0


def test_sigterm_ends_a_busy_mount(run: Run, mounted: Mounted, emulator: Emulator) -> None:
    """SIGTERM ends the process with 0 though a file is open and a read is stuck; nothing stays mounted."""
    emulator.faults.add(endpoint="contents", stall_after=0)
    path = mounted.jobs / "AbCdE/runs/1/process_output.log"
    with open(path, "rb"), subprocess.Popen(["cat", path], stderr=subprocess.PIPE) as reader:
        wait_for(lambda: emulator.requests["contents"] > 0, 10, lambda: "nobody reads")

        assert mounted.unmount() == 0
        assert reader.wait(10) != 0

    assert os.listdir(mounted.path) == []


def test_a_dead_mount_is_cleared_at_the_next_start(run: Run, mounted: Mounted) -> None:
    """After kill -9 the mount point is dead; mounting again on it just works."""
    assert mounted.process is not None
    mounted.process.kill()
    mounted.process.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mounted.path)

    mounted.mount()

    assert (mounted.jobs / "AbCdE/runs/1/process_output.log").read_bytes() == FILES["process_output.log"]


def test_generated_files_are_true(live: Run, run: Run, mounted: Mounted) -> None:
    """status, job.json, run.json and files.json tell what the API tells, with their true sizes, and no secret."""
    job = mounted.jobs / "AbCdE"

    assert (job / ".rescale/status").read_text() == "Completed\n"
    assert (job / "runs/1/.rescale/status").read_text() == "final\n"
    assert (mounted.jobs / "LiveR/runs/latest/.rescale/status").read_text() == "live\n"
    assert '"name": "wing / case 1"' in (job / ".rescale/job.json").read_text()
    for path in (
        job / "runs/1/.rescale/run.json",
        job / "runs/1/.rescale/files.json",
        mounted.path / ".rescale/config",
    ):
        text = path.read_bytes()
        assert path.stat().st_size == len(text) > 0
        assert b"ncryptionKey" not in text
        assert mounted.emulator.key.encode() not in text
    listed = json.loads((job / "runs/1/.rescale/files.json").read_text())
    assert {(row["id"], row["relativePath"], row["decryptedSize"]) for row in listed} == {
        (file.id, file.relative_path, file.content.size) for file in run.files
    }
    assert ".rescale" not in os.listdir(mounted.path) + os.listdir(job) + os.listdir(job / "runs/1")


def test_the_log_has_no_error_after_ordinary_use(outputs: Path, mounted: Mounted, tmp_path: Path) -> None:
    """Listing, reading and copying leave no warning behind."""
    shutil.copytree(outputs, tmp_path / "copy")
    sh("ls -lR .", mounted.path)

    assert "WARNING" not in mounted.log
    assert "ERROR" not in mounted.log
