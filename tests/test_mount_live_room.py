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
# So much is left for temporary files: enough for Python to find that they can be made, and for no file here.
LEFT_BYTES = 16 * 1024


@pytest.fixture
def full(live: Run) -> Run:
    """A live run of which no file fits into what is left."""
    live.live["case/U"].replace(b"(0 0 0)\n" * 10_000)
    live.live["log"].replace(LOG)
    return live


@pytest.fixture
def elsewhere(small_disk: Callable[[str], Path]) -> Path:
    """Where temporary files are made; there is no room."""
    path = small_disk("elsewhere")
    fill(path, LEFT_BYTES)
    return path


def test_a_live_file_without_room_on_the_disk_is_an_error_or_what_was_known_of_it(
    full: Run, mount_of: Callable[..., Mounted], emulator: Emulator, disk: Path, elsewhere: Path, tmp_path: Path
) -> None:
    """Where temporary files find no room either: EIO for what was never seen, what is known of the rest.

    Both are right once there is room. A follower waits over it and has every byte once.
    """
    mounted = mount_of(emulator, "--cache-dir", str(disk), TMPDIR=str(elsewhere))
    top, log = mounted.jobs / "LiveR/runs/1", full.live["log"]
    serve_tail(emulator, "whole")
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
        assert (top / "case/U").read_bytes() == full.live["case/U"].read()
        all_have(outputs, LOG + more, "with room")
        assert (top / "log").read_bytes() == LOG + more
        for path in outputs.values():
            assert path.with_suffix(".err").read_text() == ""


def test_a_file_larger_than_the_disk_is_an_error(
    live: Run, mount_of: Callable[..., Mounted], emulator: Emulator, disk: Path, elsewhere: Path
) -> None:
    """It is EIO whenever it is asked for, takes no room afterwards, and the others are served beside it."""
    live.live["case/U"].replace(b"x" * (2 * DISK_BYTES))
    others = [live.add_live(f"other{number}", b"y" * (DISK_BYTES // 5)) for number in range(3)]
    mounted = mount_of(emulator, "--cache-dir", str(disk), TMPDIR=str(elsewhere))
    top = mounted.jobs / "LiveR/runs/1"
    for other in others:
        with pytest.raises(OSError, match="case/U") as failure:
            (top / "case/U").read_bytes()
        assert failure.value.errno == errno.EIO
        assert (top / other.path).read_bytes() == other.read()
    assert f"no room for live file case/U: {NO_SPACE}" in mounted.log


def test_a_cache_that_is_full_is_no_full_disk(
    full: Run, mount_of: Callable[..., Mounted], emulator: Emulator, disk: Path
) -> None:
    """Live files rest where temporary files do, then: nobody but the log notices."""
    mounted = mount_of(emulator, "--cache-dir", str(disk))
    top = mounted.jobs / "LiveR/runs/1"
    fill(disk)
    assert {path: (top / path).read_bytes() for path in full.live} == {
        path: file.read() for path, file in full.live.items()
    }
    assert f"no room for a live file beside the cache ([Errno 28] {NO_SPACE})" in mounted.log
