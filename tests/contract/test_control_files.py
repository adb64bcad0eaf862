"""Control files, as docs/semantics.md promises them."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.tools import errno_of, posts, refresh, run_in, sh, write

pytestmark = pytest.mark.mount


def test_writing_1_to_stop_stops_the_run(live: Run, top: Path, emulator: Emulator) -> None:
    """Its control files are listed no more."""
    assert {"stop", "snapshot"} <= set(os.listdir(top))

    sh("echo 1 > stop", top)

    assert (posts(emulator), emulator.requests["stop"]) == (1, 1)
    wait_for(lambda: not live.is_live(), 10, lambda: "the run goes on")
    refresh(top)
    wait_for(lambda: "stop" not in os.listdir(top), 15, lambda: f"still listed: {os.listdir(top)}")


def test_writing_1_to_snapshot_makes_an_archive_among_the_outputs(live: Run, top: Path, emulator: Emulator) -> None:
    before = set(os.listdir(top))

    write(top / "snapshot", b"1\n")

    assert (posts(emulator), emulator.requests["snapshot"]) == (1, 1)

    def fresh() -> set[str]:
        refresh(top)
        return set(os.listdir(top)) - before

    wait_for(lambda: bool(fresh()), 20, lambda: "no archive")
    (archive,) = fresh()
    with tarfile.open(top / archive) as packed:
        assert any(name.endswith("log") for name in packed.getnames())
    assert live.is_live()


@pytest.fixture
def lives(world: World, mounted: Mounted) -> Callable[[], Path]:
    """Make one live run after the other."""
    return lambda: mounted.top(world.add_job().add_run(live={"log": b""}))


def test_the_name_of_the_control_file_acts_as_1_does(lives: Callable[[], Path], emulator: Emulator) -> None:
    write(lives() / "stop", b"stop\n")
    write(lives() / "snapshot", b"snapshot\n")

    assert (emulator.requests["stop"], emulator.requests["snapshot"]) == (1, 1)


def test_a_command_acts_with_and_without_a_newline_after_it(lives: Callable[[], Path], emulator: Emulator) -> None:
    for number, payload in enumerate((b"1", b"1\n", b"stop", b"stop\n"), start=1):
        write(lives() / "stop", payload)
        assert emulator.requests["stop"] == number


WRONG = (
    b"hello\n",
    b"0\n",
    b"1\n1\n",
    b" 1",
    b"1 ",
    b"11",
    b"snapshot\n",
    b"STOP",
    b"stop\n\n",
    b"\n",
    b"\0",
    b"1" * 5000,
)


def test_anything_else_gives_einval_and_sends_nothing(live: Run, top: Path, emulator: Emulator) -> None:
    for payload in WRONG:
        assert errno_of(write, top / "stop", payload) == "EINVAL", payload
        assert errno_of(write, top / ".rescale/refresh", payload) == "EINVAL"
    assert "Invalid argument" in run_in("echo hello > stop", top).stderr

    assert posts(emulator) == 0
    assert live.is_live()


def test_after_anything_else_nothing_acts_until_the_file_is_opened_anew(
    live: Run, top: Path, emulator: Emulator
) -> None:
    """Lines of something else, such as a countdown that goes into the wrong file, are no command though one is `1`."""
    done = run_in("for n in 3 2 1; do echo $n; done > stop", top)

    assert done.stderr.count("Invalid argument") == 3
    assert posts(emulator) == 0
    assert live.is_live()
    sh("echo 1 > stop", top)
    assert posts(emulator) == 1


def test_the_error_of_the_write_is_that_of_rescale(top: Path, emulator: Emulator) -> None:
    for status, code in ((503, "EIO"), (403, "EACCES"), (401, "EACCES"), (400, "EIO")):
        fault = emulator.faults.add(endpoint="stop", status=status)
        assert errno_of(write, top / "stop", b"1\n") == code
        emulator.faults.remove(fault)


def test_a_control_file_tells_how_the_last_act_went(lives: Callable[[], Path], emulator: Emulator) -> None:
    """With its true size."""
    top = lives()
    for path in (top / "stop", top / ".rescale/stop"):
        assert path.read_text() == "no stop was asked for\n"
    emulator.faults.add(endpoint="stop", status=503, times=1)
    errno_of(write, top / "stop", b"1\n")
    assert " stop failed: " in (top / "stop").read_text()
    write(top / "stop", b"1\n")

    told = (top / ".rescale/stop").read_text()
    assert told.endswith("Z stop accepted\n")
    assert (top / ".rescale/stop").stat().st_size == len(told)


def test_a_run_that_is_not_live_gives_eperm_and_nothing_is_sent(outputs: Path, emulator: Emulator) -> None:
    done = run_in("echo 1 > .rescale/stop", outputs)

    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr
    assert errno_of(write, outputs / ".rescale/snapshot", b"1") == "EPERM"
    assert posts(emulator) == 0


def test_a_run_that_ended_a_moment_ago_gives_eperm_and_nothing_is_sent(
    live: Run, top: Path, emulator: Emulator
) -> None:
    """The run is looked at afresh before the act, whatever the mount believes."""
    assert (top / "stop").exists()
    live.finish()

    assert errno_of(write, top / "stop", b"1\n") == "EPERM"
    assert posts(emulator) == 0


def test_a_request_to_act_is_sent_once(lives: Callable[[], Path], emulator: Emulator) -> None:
    """However it fails: an error, no answer at all, a wrong answer."""
    effects: list[dict[str, object]] = [
        {"status": 503},
        {"status": 500},
        {"status": 429, "retry_after": 1},
        {"drop": True},
        {"body": b"<html>", "late_status": 502},
    ]
    for number, effect in enumerate(effects, start=1):
        top = lives()
        os.listdir(top)
        fault = emulator.faults.add(endpoint="stop", **effect)  # type: ignore[arg-type]
        assert errno_of(write, top / "stop", b"1\n") == "EIO"
        assert emulator.requests["stop"] == number
        emulator.faults.remove(fault)


def test_writing_to_stop_and_to_rescale_stop_at_once_sends_one_request(top: Path, emulator: Emulator) -> None:
    """(Writers of one file come one after the other: so the kernel will have it.)"""
    may_stop = threading.Event()
    emulator.faults.add(endpoint="stop", until=may_stop)
    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(errno_of, write, top / "stop", b"1\n")]
        wait_for(lambda: emulator.requests["stop"] == 1, 20, lambda: str(emulator.requests))
        looks = emulator.requests["runs"]
        writes.append(pool.submit(errno_of, write, top / ".rescale/stop", b"1\n"))
        wait_for(lambda: emulator.requests["runs"] > looks, 20, lambda: "nobody looks before the act")
        may_stop.set()

    assert [each.result() for each in writes] == ["", ""]
    assert emulator.requests["stop"] == 1


def test_a_second_snapshot_while_one_is_under_way_gives_ebusy(
    top: Path, world: World, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "snapshot_s", 60.0)
    write(top / "snapshot", b"1\n")

    assert errno_of(write, top / "snapshot", b"1\n") == "EBUSY"
    assert emulator.requests["snapshot"] == 1


def test_a_control_file_acts_only_when_it_is_written(live: Run, top: Path, emulator: Emulator, tmp_path: Path) -> None:
    """Not when it is opened, read, copied, touched, truncated, completed or deleted."""
    for command in (
        f"cp -r {top} {tmp_path}/copy",
        f"rsync -a {top}/ {tmp_path}/rsync",
        f"tar -cf {tmp_path}/tar {top}",
        f"find {top} -type f -exec cat {{}} +",
        f"grep -r Time {top} {top}/.rescale",
        f"touch {top}/stop {top}/snapshot {top}/.rescale/stop",
        f"rm -rf {top}",
        f"mv {top}/stop {top}/snapshot",
        f"bash -c 'compgen -f {top}/s'",
        f": > {top}/stop",
        f": >> {top}/stop",
        f"truncate -s 0 {top}/stop",
        f"cp /dev/null {top}/stop",
        f"getfattr -d {top}/stop; setfattr -n user.x -v 1 {top}/stop",
        f"chmod 777 {top}/stop",
        f"dd if={top}/stop of=/dev/null",
    ):
        subprocess.run(command, shell=True, capture_output=True)
    descriptor = os.open(top / "stop", os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)

    assert posts(emulator) == 0
    assert live.is_live()


@pytest.fixture
def read_only(mount_of: Callable[..., Mounted], emulator: Emulator) -> Callable[[Run], Path]:
    """Give the directory of a run in a mount with `--read-only`."""
    mounted = mount_of(emulator, "--read-only")
    return mounted.top


def test_with_read_only_control_files_are_0400(live: Run, read_only: Callable[[Run], Path]) -> None:
    top = read_only(live)

    for path in (top / "stop", top / "snapshot", top / ".rescale/stop"):
        assert stat.filemode(path.stat().st_mode) == "-r--------"


def test_with_read_only_a_control_file_cannot_be_opened_for_writing(
    live: Run, read_only: Callable[[Run], Path], emulator: Emulator
) -> None:
    top = read_only(live)
    expected = "EROFS" if os.getuid() == 0 else "EACCES"

    for path in (top / "stop", top / "snapshot", top / ".rescale/stop"):
        assert errno_of(os.open, path, os.O_WRONLY) == expected
        assert errno_of(write, path, b"1\n") == expected
    assert posts(emulator) == 0


def test_with_read_only_refresh_works_all_the_same(live: Run, read_only: Callable[[Run], Path]) -> None:
    top = read_only(live)
    assert "new" not in os.listdir(top)
    live.add_live("new", b"")

    refresh(top)

    assert "new" in os.listdir(top)
