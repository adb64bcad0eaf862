"""A mount that comes up though something goes on around it: its caller ends, streams are closed, others clear up."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rescalefs import system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for
from tests.test_cli import ROOT, access, failure, rescalefs

# The command, whose caller gets a signal after the mount is made and before it is told so.
_CALLER_ENDS = """
import os, signal, sys, time
from rescalefs import cli, mount
announce = mount._announce
def announce_late(*args):
    caller = os.getppid()
    os.kill(caller, {number})
    while os.getppid() == caller:
        time.sleep(0.01)
    announce(*args)
mount._announce = announce_late
cli.main()
"""
_COMMAND = "import sys; from rescalefs import cli; cli.main()"


def started(
    code: str, shell_words: str, home: Path, emulator: Emulator, *args: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell, with its standard streams as *shell_words* say."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell_words}', "sh", sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), **access(emulator)},
    )


@pytest.fixture
def point(tmp_path: Path) -> Path:
    """An empty mount point."""
    (tmp_path / "rescale").mkdir()
    return tmp_path / "rescale"


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_mount_whose_caller_ends_meanwhile_ends_too(
    number: signal.Signals, point: Path, tmp_path: Path, emulator: Emulator, binding: str
) -> None:
    """Ctrl-C said that it was aborted."""
    log = tmp_path / "log"
    words = ("mount", "--binding", binding, "--log-file", str(log), str(point))
    try:
        done = started(_CALLER_ENDS.format(number=int(number)), "2>/dev/null", tmp_path, emulator, *words)
        assert done.returncode == (1 if number == signal.SIGINT else -number)
        wait_for(lambda: f"unmounted {point}" in log.read_text(), END_S, lambda: f"it stays:\n{log.read_text()}")
        assert system.mounted_type(point) is None
    finally:
        if system.mounted_type(point) is not None:
            system.unmount(point, is_lazy=True)


@pytest.mark.mount
@pytest.mark.parametrize("closed", ["1>&- 2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&-"])
def test_a_mount_in_the_background_without_standard_streams(
    closed: str, point: Path, tmp_path: Path, emulator: Emulator, binding: str
) -> None:
    """Neither its log nor what it tells its caller has the number of one, and is let go with it."""
    log = tmp_path / "log"
    words = ("mount", "--binding", binding, "--log-file", str(log), str(point))
    assert started(_COMMAND, closed, tmp_path, emulator, *words).returncode == 0
    try:
        assert "jobs" in os.listdir(point)
    finally:
        system.unmount(point)
    wait_for(lambda: f"unmounted {point}" in log.read_text(), END_S, lambda: f"not in the log:\n{log.read_text()}")


@pytest.mark.mount
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_mount_in_the_foreground_without_standard_streams(
    closed: str, point: Path, tmp_path: Path, emulator: Emulator, binding: str
) -> None:
    """It ends well all the same."""
    code = (
        "import os, signal; from rescalefs import mount; "
        "mount._announce = lambda *_: os.kill(os.getpid(), signal.SIGTERM); " + _COMMAND
    )
    assert started(code, closed, tmp_path, emulator, "mount", "-f", "--binding", binding, str(point)).returncode == 0


@pytest.mark.mount
def test_a_mount_that_the_kernel_ends_in_the_middle_of_a_request_ends_well(
    point: Path, tmp_path: Path, emulator: Emulator, binding: str
) -> None:
    """As one that was detached may, with its last open file: the library says that reading the request failed."""
    code = (
        "import os, signal; from rescalefs import binding, mount\n"
        "def failing(load):\n"
        "    def run(*words, **options):\n"
        "        load(binding.load(sys.argv[4]).module)(*words, **options)\n"
        "        raise RuntimeError(8)\n"
        "    return lambda module: run\n"
        "binding._fuse3_class, binding._fuse2_class = failing(binding._fuse3_class), failing(binding._fuse2_class)\n"
        "mount._announce = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    words = ("mount", "-f", "--binding", binding, str(point))
    done = started(f"{_COMMAND.partition(';')[0]}; {code}{_COMMAND}", "", tmp_path, emulator, *words)

    assert done.returncode == 0, done.stderr
    assert "the kernel ended the mount while something was asked of it" in done.stderr
    assert "refused" not in done.stderr


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_the_exit_code_of_wait_without_standard_streams(
    closed: str, tmp_path: Path, emulator: Emulator, world: World
) -> None:
    """It is how the job went."""
    world.add_job("AbCdE").add_run(finished=True)
    assert started(_COMMAND, closed, tmp_path, emulator, "wait", "AbCdE").returncode == 0


@pytest.mark.mount
def test_a_mount_point_with_a_name_that_the_locale_has_not(tmp_path: Path, emulator: Emulator, binding: str) -> None:
    """It is found in the kernel's table."""
    point = tmp_path / "\xe4\r"
    point.mkdir()
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ("mount", "--binding", binding, str(point))
    done = rescalefs(tmp_path, *words, **access(emulator, **locale))
    try:
        assert done.returncode == 0, done.stderr
        assert failure(rescalefs(tmp_path, *words, **access(emulator, **locale)))[0] == 7
        assert rescalefs(tmp_path, "status", str(point), **locale).returncode == 0
        assert rescalefs(tmp_path, "umount", str(point), **locale).returncode == 0
    finally:
        if system.mounted_type(point) is not None:
            system.unmount(point, is_lazy=True)
    assert os.listdir(point) == []


@pytest.mark.mount
def test_a_dead_mount_that_another_process_clears(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is started at once: nothing is in the way any more."""
    assert mounted.process is not None
    mounted.process.kill()
    mounted.process.wait()
    is_dead = system.is_dead

    def is_dead_and_cleared(place: Path) -> bool:
        answer = is_dead(place)
        system.unmount(place, is_lazy=True)
        return answer

    monkeypatch.setattr(system, "is_dead", is_dead_and_cleared)
    system.check_mount_point(mounted.path)
    assert system.mounted_type(mounted.path) is None


@pytest.mark.mount
def test_the_demo_among_temporary_files_over_a_link(tmp_path: Path) -> None:
    """It finds its mount where the link leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    done = rescalefs(tmp_path, "demo", "--tour-only", TMPDIR=str(tmp_path / "link"))
    assert done.returncode == 0, done.stderr
    assert "stop accepted" in done.stdout
    assert os.listdir(tmp_path / "real") == []


@pytest.mark.mount
def test_a_mount_in_the_background_keeps_nothing_that_its_caller_had_open(
    point: Path, tmp_path: Path, emulator: Emulator, binding: str
) -> None:
    """A script that holds a lock while it mounts would hold it as long as the mount is there."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "rescalefs", "mount", "--binding", binding, str(point)],
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **access(emulator)},
            pass_fds=[lock.fileno()],
        )
    try:
        assert done.returncode == 0
        assert "jobs" in os.listdir(point)
        with (tmp_path / "lock").open("w") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        system.unmount(point)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["doctor"], ["cache"]])
def test_output_on_a_full_disk_is_said_in_one_sentence(words: list[str], tmp_path: Path, emulator: Emulator) -> None:
    """No command that cannot print says that it did, nor where in it that was."""
    done = started(_COMMAND, ">/dev/full", tmp_path, emulator, *words)
    assert failure(done) == (1, "what it prints cannot be written: No space left on device")
    assert started(_COMMAND, ">/dev/full 2>&1", tmp_path, emulator, *words).returncode == 1


@pytest.mark.mount
def test_a_demo_whose_output_is_on_a_full_disk_ends_so_and_cleans_up(tmp_path: Path, emulator: Emulator) -> None:
    """Before its sentence its mount may say that it was ended while it came up."""
    (tmp_path / "place").mkdir()
    done = started(_COMMAND, ">/dev/full", tmp_path, emulator, "demo", "--tour-only", str(tmp_path / "place"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "rescalefs: what it prints cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
    assert system.mounted_type(tmp_path / "place") is None
