"""What happens to open files when their run ends, as docs/semantics.md promises it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.tools import errno_of, refresh, sh

pytestmark = pytest.mark.mount
SOON_S = 40.0


def status(top: Path) -> str:
    """The state of the run, asked for afresh."""
    refresh(top)
    return (top / ".rescale/status").read_text().strip()


def test_status_goes_from_live_to_settling_to_final_without_a_remount(live: Run, top: Path) -> None:
    live.trickle_s = 0.5
    seen = [status(top)]
    live.finish()

    wait_for(lambda: seen.append(status(top)) or seen[-1] == "final", SOON_S, lambda: str(seen))  # type: ignore[func-returns-value]

    assert list(dict.fromkeys(seen)) == ["live", "settling", "final"]
    assert seen == sorted(seen, key=["live", "settling", "final"].index)
    assert (top / "log").read_bytes() == b"Time = 0\n"
    assert (top / "case/U").read_bytes() == b"(0 0 0)"


def test_a_final_run_stays_final_when_it_is_asked_for_again(live: Run, top: Path) -> None:
    """A moment after its end, too."""
    live.finish()
    wait_for(lambda: status(top) == "final", SOON_S, lambda: "not final")

    assert [status(top) for _ in range(3)] == ["final"] * 3


def ended(live: Run, top: Path, last: bytes | None = None) -> None:
    """Let the run end, its log replaced by *last*, and wait until the mount has the final file."""
    if last is not None:
        live.live["log"].replace(last)
    live.finish()

    def is_final() -> bool:
        (top / "log").stat()  # a look, as any reader's
        return status(top) == "final" and os.getxattr(top / "log", "user.rescale.state") != b"live"

    wait_for(is_final, SOON_S, lambda: "not final")


def test_a_file_that_is_open_goes_on_in_the_final_one(live: Run, top: Path) -> None:
    with open(top / "log", "rb", buffering=0) as file:
        assert file.read(100) == b"Time = 0\n"
        live.live["log"].append(b"the end\n")
        ended(live, top)
        assert file.read(100) == b"the end\n"
        assert file.read(100) == b""
        assert os.pread(file.fileno(), 100, 0) == b"Time = 0\nthe end\n"


def test_a_file_that_is_open_and_not_continued_by_the_final_one_gives_estale(live: Run, top: Path) -> None:
    with open(top / "log", "rb", buffering=0) as file:
        assert file.read(100) == b"Time = 0\n"
        ended(live, top, b"something else\n")
        for offset in (5, 9, 100):
            assert errno_of(os.pread, file.fileno(), 100, offset) == "ESTALE"


def test_a_read_at_offset_0_starts_over_with_the_final_file(live: Run, top: Path) -> None:
    with open(top / "log", "rb", buffering=0) as file:
        assert file.read(100) == b"Time = 0\n"
        ended(live, top, b"something else\n")
        assert os.pread(file.fileno(), 100, 0) == b"something else\n"
        assert os.pread(file.fileno(), 100, 10) == b"else\n"


def test_a_file_that_somebody_has_open_can_be_opened_until_its_upload(live: Run, top: Path) -> None:
    """Then what is known is read; of one that nobody has open there is nothing yet."""
    live.trickle_s = 60.0
    assert sorted(os.listdir(top / "case")) == ["U"]
    with open(top / "log", "rb", buffering=0) as file:
        assert file.read(100) == b"Time = 0\n"
        live.finish()
        live.add_file("case/V", b"not yet", is_uploaded=False)
        wait_for(lambda: status(top) == "settling", SOON_S, lambda: "not settling")
        assert (top / "log").read_bytes() == b"Time = 0\n"
        assert sh("tail -n 1 log", top) == "Time = 0\n"
        assert errno_of(os.open, top / "case/V", os.O_RDONLY) == "EIO"


def test_a_file_that_the_run_removed_is_not_in_the_final_run(live: Run, top: Path) -> None:
    """Though somebody has it open, and may read what was known of it."""
    with open(top / "log", "rb", buffering=0) as file, open(top / "case/U", "rb", buffering=0) as other:
        assert file.read(4) == b"Time"
        live.live["log"].remove()
        live.finish()
        wait_for(lambda: status(top) == "final", SOON_S, lambda: "not final")
        assert sorted(os.listdir(top)) == ["case"]
        assert errno_of(os.stat, top / "log") == "ENOENT"
        assert file.read(100) == b" = 0\n"
        assert other.read(100) == b"(0 0 0)"
    assert (top / "case/U").read_bytes() == b"(0 0 0)"


def test_a_final_run_is_not_listed_again_after_a_remount(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Nor is anything of it asked for."""
    mounted = mount_of(emulator)
    top = mounted.top(run)
    before = sh("ls -lR .", top)
    mounted.unmount()
    mounted.mount()
    os.listdir(mounted.jobs)
    emulator.reset_counts()

    assert sh("ls -lR .", top) == before
    assert emulator.requests["run_files"] == emulator.requests["runs"] == 0
