"""Live files on a real mount whose disk is full: an error that names its cause, or right bytes, and never fewer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.disk_use import DISK_BYTES, fill
from tests.test_mount_live import LOG, SOON_S, all_have, followers, following, serve_tail

pytestmark = pytest.mark.mount

NO_SPACE = "No space left on device"


def test_a_full_disk_is_an_error_and_loses_nothing(
    live: Run, mount_of: Callable[..., Mounted], emulator: Emulator, disk: Path, tmp_path: Path
) -> None:
    """What is known is served, what finds no room is EIO for open and stat, and both are right once there is room.

    A follower waits over it and has every byte once.
    """
    mounted = mount_of(emulator, "--cache-dir", str(disk))
    top, log = mounted.jobs / "LiveR/runs/1", live.live["log"]
    serve_tail(emulator, "whole")
    log.replace(LOG)
    commands = {name: command for name, command in followers(top / "log").items() if name != "python"}
    with following(commands, tmp_path) as outputs:
        all_have(outputs, LOG, "at first")
        ballast = fill(disk)
        for ask in (os.stat, lambda path: path.read_bytes()):
            with pytest.raises(OSError, match="case/U") as failure:
                ask(top / "case/U")
            assert failure.value.errno == errno.EIO
        assert f"no room for live file case/U: {NO_SPACE}" in mounted.log

        more = b"%0100d\n" * 500 % tuple(range(500))
        log.append(more)
        wait_for(lambda: f"no room for live file log: {NO_SPACE}" in mounted.log, SOON_S, lambda: mounted.log)
        size = os.stat(top / "log").st_size  # a part of what is new may have found room
        assert len(LOG) <= size < len(LOG + more)
        assert (top / "log").read_bytes() == (LOG + more)[:size]

        ballast.unlink()
        assert (top / "case/U").read_bytes() == live.live["case/U"].read()
        all_have(outputs, LOG + more, "with room")
        assert (top / "log").read_bytes() == LOG + more
        for path in outputs.values():
            assert path.with_suffix(".err").read_text() == ""


def test_a_file_larger_than_the_disk_is_an_error(
    live: Run, mount_of: Callable[..., Mounted], emulator: Emulator, disk: Path
) -> None:
    """It is EIO whenever it is asked for, takes no room afterwards, and the others are served beside it."""
    mounted = mount_of(emulator, "--cache-dir", str(disk))
    top = mounted.jobs / "LiveR/runs/1"
    live.live["case/U"].replace(b"x" * (2 * DISK_BYTES))
    free = os.statvfs(disk).f_bavail
    for _ in range(3):
        with pytest.raises(OSError, match="case/U") as failure:
            (top / "case/U").read_bytes()
        assert failure.value.errno == errno.EIO
        assert (top / "log").read_bytes() == b"Time = 0\n"
    assert NO_SPACE in mounted.log
    assert os.statvfs(disk).f_bavail >= free - 16
