"""Changing and commanding through a real mount, on both bindings: what is refused, and what acts."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.tools import posts, run_in, sh

pytestmark = pytest.mark.mount


# ---- refusing ----

CHANGES = [
    "mkdir new",
    "rm -f big.bin",
    "touch new",
    "touch big.bin",
    "mv big.bin other",
    "chmod 777 big.bin",
    "setfattr -n user.x -v y big.bin",
    "ln -s a b",
    "sh -c 'echo x > big.bin'",
    "truncate -s 0 big.bin",
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_refused_as_read_only_or_forbidden(outputs: Path, change: str, emulator: Emulator) -> None:
    """Whatever would change an output fails: EROFS for root, EROFS or EACCES for a user; nothing is sent."""
    done = run_in(change, outputs)

    allowed = ("Read-only file system",) if os.getuid() == 0 else ("Read-only file system", "Permission denied")
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith(allowed), done.stderr
    assert posts(emulator) == 0


def test_looking_at_a_live_run_never_acts(live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path) -> None:
    """cp -r, find, grep -r, touch, rm -rf, completion, cat: no POST is ever made."""
    top = mounted.jobs / "LiveR/runs/1"
    for command in (
        f"cp -r {top} {tmp_path}/copy",
        f"find {top} -type f -exec cat {{}} +",
        f"grep -r Time {top} {top}/.rescale",
        f"touch {top}/stop {top}/snapshot {top}/.rescale/stop",
        f"rm -rf {top}",
        f"mv {top}/stop {top}/snapshot",
        f"bash -c 'compgen -f {top}/s'",
        f": > {top}/stop",
        f"truncate -s 0 {top}/stop",
        f"cp /dev/null {top}/stop",
    ):
        subprocess.run(command, shell=True, capture_output=True)

    assert posts(emulator) == 0
    assert live.is_live()


# ---- commanding ----


def write(path: Path, payload: bytes) -> None:
    """Write as a shell does: truncate, one write, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, payload)
    finally:
        os.close(descriptor)


def test_stop_stops_the_run(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """echo 1 > stop sends one POST, and the run ends; its control files are listed no more."""
    top = mounted.jobs / "LiveR/runs/1"
    assert {"stop", "snapshot"} <= set(os.listdir(top))

    sh("echo 1 > stop", top)

    assert (posts(emulator), emulator.requests["stop"]) == (1, 1)
    assert " stop accepted" in (top / ".rescale/stop").read_text()
    wait_for(lambda: not live.is_live(), 10, lambda: "the run goes on")
    write(top / ".rescale/refresh", b"1")
    wait_for(lambda: "stop" not in os.listdir(top), 15, lambda: f"still listed: {os.listdir(top)}")


@pytest.mark.parametrize("payload", [b"hello\n", b"", b"0\n", b"1\n1\n", b" 1", b"snapshot\n", b"STOP"])
def test_another_payload_is_invalid(live: Run, mounted: Mounted, emulator: Emulator, payload: bytes) -> None:
    """Anything but the exact payload is EINVAL from the write itself, and nothing is sent."""
    path = mounted.jobs / "LiveR/runs/1/stop"
    if payload:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            write(path, payload)
        assert caught.value.errno == errno.EINVAL
    else:
        write(path, payload)  # no write reaches the file at all

    assert posts(emulator) == 0
    assert live.is_live()


def test_a_finished_run_cannot_be_stopped(outputs: Path, emulator: Emulator) -> None:
    """.rescale/stop of a finished run says "Operation not permitted", and nothing is sent."""
    done = run_in("echo 1 > .rescale/stop", outputs)

    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr
    assert posts(emulator) == 0


def test_a_run_that_ended_a_moment_ago_cannot_be_stopped(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """The run is looked at afresh before the act, whatever the mount believes."""
    path = mounted.jobs / "LiveR/runs/1/stop"
    assert path.exists()
    live.finish()

    with pytest.raises(PermissionError) as caught:
        write(path, b"1\n")

    assert caught.value.errno == errno.EPERM
    assert posts(emulator) == 0


def test_a_snapshot_is_an_archive_among_the_outputs(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """echo snapshot > snapshot sends one POST; a second one is EBUSY until the archive is there."""
    top = mounted.jobs / "LiveR/runs/1"
    before = set(os.listdir(top))

    write(top / "snapshot", b"snapshot\n")
    with pytest.raises(OSError, match="busy") as caught:
        write(top / "snapshot", b"1")

    assert caught.value.errno == errno.EBUSY
    assert emulator.requests["snapshot"] == 1

    def fresh() -> set[str]:
        write(top / ".rescale/refresh", b"1\n")
        return set(os.listdir(top)) - before

    wait_for(lambda: bool(fresh()), 20, lambda: "no archive")
    (archive,) = fresh()
    with tarfile.open(top / archive) as packed:
        assert any(name.endswith("log") for name in packed.getnames())


def test_a_failed_act_is_an_error_and_is_not_repeated(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """503 to the POST is EIO from the write; the state can be read; one request was made."""
    path = mounted.jobs / "LiveR/runs/1/stop"
    emulator.faults.add(endpoint="stop", status=503)

    with pytest.raises(OSError, match="Input/output"):
        write(path, b"1\n")

    assert emulator.requests["stop"] == 1
    assert "failed" in path.read_text()
    assert live.is_live()


def test_read_only_refuses_acts(live: Run, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """Under --read-only control files are 0400 and writing to them is EROFS or EACCES; nothing is sent."""
    path = mount_of(emulator, "--read-only").jobs / "LiveR/runs/1/stop"

    assert stat.filemode(path.stat().st_mode) == "-r--------"
    with pytest.raises(OSError, match=r"Read-only|Permission denied"):
        write(path, b"1\n")
    assert posts(emulator) == 0


def test_control_files_are_the_owners_alone(live: Run, mounted: Mounted) -> None:
    """Control files are 0600 and tell their true size."""
    path = mounted.jobs / "LiveR/runs/1/stop"

    seen = path.stat()

    assert stat.filemode(seen.st_mode) == "-rw-------"
    assert seen.st_size == len(path.read_bytes()) > 0
