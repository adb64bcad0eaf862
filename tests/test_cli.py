"""The command line as a new user meets it, the wrong way too: one sentence, an exit code, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from rescalefs import cli, system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for

ROOT = Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home with an empty mount point."""
    (tmp_path / "rescale").mkdir()
    return tmp_path


def rescalefs(home: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a clean environment."""
    return subprocess.run(
        [sys.executable, "-m", "rescalefs", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **environ,
        },
    )


def failure(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Return exit code and the one sentence on standard error."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rescalefs: ")
    assert "Traceback" not in done.stderr
    return done.returncode, lines[0].removeprefix("rescalefs: ")


def access(emulator: Emulator, **more: str) -> dict[str, str]:
    return {"RESCALE_API_URL": emulator.origin, "RESCALE_API_KEY": emulator.key, **more}


def test_help_of_every_command_shows_an_example(home: Path) -> None:
    """Each command's --help has a line to copy."""
    listed = rescalefs(home, "--help").stdout
    for command in ("mount", "umount", "refresh", "status", "warm", "wait", "cache", "doctor", "demo", "emulator"):
        assert command in listed
        assert "rescalefs " in CliRunner().invoke(cli.main, [command, "--help"]).stdout.split("\n\n", 1)[1]


def test_a_directory_that_is_gone(home: Path) -> None:
    """As one in a mount that was detached: names that begin there are of nothing, others are what they were."""
    command = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m rescalefs status"
    for name, code, words in (("x", 1, "this directory is gone"), (str(home), 7, "is not in a mount")):
        done = subprocess.run(
            ["sh", "-c", f"{command} {name}"],
            capture_output=True,
            text=True,
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert failure(done)[0] == code
        assert words in done.stderr


def test_no_key(home: Path) -> None:
    """Without a key the sentence names all places where one may be."""
    code, sentence = failure(rescalefs(home, "mount", str(home / "rescale")))

    assert code == 3
    for place in ("RESCALE_API_KEY", "--key-file", "apiconfig"):
        assert place in sentence


def test_a_wrong_key(home: Path, emulator: Emulator) -> None:
    """A refused key is named by its source, and its text is not shown."""
    environ = access(emulator, RESCALE_API_KEY="wrong-secret")
    code, sentence = failure(rescalefs(home, "mount", str(home / "rescale"), **environ))

    assert code == 3
    assert "refused the key from RESCALE_API_KEY" in sentence
    assert "wrong-secret" not in sentence


def test_an_unreachable_origin(home: Path) -> None:
    """Where nobody listens, the sentence says so, with the reason."""
    environ = {"RESCALE_API_KEY": "k", "RESCALE_API_URL": "http://127.0.0.1:1"}
    code, sentence = failure(rescalefs(home, "mount", str(home / "rescale"), **environ))

    assert code == 4
    assert "127.0.0.1:1 does not answer" in sentence
    assert "refused" in sentence


def test_an_origin_that_is_no_platform(home: Path, emulator: Emulator) -> None:
    """A server that knows none of the API is no Rescale platform."""
    emulator.faults.add(endpoint="users_me", status=404)

    assert failure(rescalefs(home, "mount", str(home / "rescale"), **access(emulator)))[0] == 4


def test_a_key_would_not_be_sent_unencrypted(home: Path) -> None:
    """http to another machine is refused before anything is sent."""
    environ = {"RESCALE_API_KEY": "k", "RESCALE_API_URL": "http://platform.example.com"}
    code, sentence = failure(rescalefs(home, "mount", str(home / "rescale"), **environ))

    assert code == 3
    assert "use https" in sentence


def test_a_mount_point_that_is_missing(home: Path) -> None:
    """The remedy is the command to type."""
    code, sentence = failure(rescalefs(home, "mount", str(home / "none")))

    assert code == 5
    assert f"mkdir -p {home / 'none'}" in sentence


def test_a_mount_point_that_is_not_empty(home: Path) -> None:
    """Files that a mount would hide are not hidden unasked."""
    (home / "rescale/file").touch()

    assert failure(rescalefs(home, "mount", str(home / "rescale")))[0] == 5


def test_a_mount_point_that_is_a_file(home: Path) -> None:
    """A file is no mount point."""
    (home / "file").touch()

    assert failure(rescalefs(home, "mount", str(home / "file")))[0] == 5


@pytest.mark.parametrize("option", ["--cache-dir", "--log-file"])
def test_a_mount_does_not_cover_its_own_files(home: Path, emulator: Emulator, option: str) -> None:
    """A cache or a log below the mount point, over a link too, would make the mount wait for itself."""
    (home / "link").symlink_to(home / "rescale")
    done = rescalefs(home, "mount", option, str(home / "link/own"), str(home / "rescale"), **access(emulator))

    code, sentence = failure(done)
    assert code == 8
    assert option in sentence
    assert os.listdir(home / "rescale") == []


def test_a_cache_directory_that_cannot_be(home: Path) -> None:
    """A cache directory below a file is refused before anything is asked."""
    (home / "file").touch()
    done = rescalefs(home, "mount", "--cache-dir", str(home / "file/cache"), str(home / "rescale"))

    assert failure(done)[0] == 8


@pytest.mark.parametrize("option", ["--metadata-deadline", "--data-deadline"])
def test_a_deadline_that_would_never_be_over(home: Path, option: str) -> None:
    """NaN is in every range."""
    for value in ("nan", "inf", "-1"):
        assert rescalefs(home, "mount", option, value, str(home)).returncode == 2


def test_the_remedy_for_another_file_system_is_another_directory(home: Path, emulator: Emulator) -> None:
    code, sentence = failure(rescalefs(home, "mount", "/", **access(emulator)))
    assert (code, "rescalefs umount" in sentence) == (7, False)


def test_an_unknown_option_is_a_usage_error(home: Path) -> None:
    """Mistyped options are exit code 2, as everywhere."""
    assert rescalefs(home, "mount", "--cache-sise", "1G", str(home / "rescale")).returncode == 2
    assert rescalefs(home, "mount", "--cache-size", "much", str(home / "rescale")).returncode == 2


@pytest.mark.parametrize(("option", "value"), [("--port", "65536"), ("--latency", "-1"), ("--stream-rate", "0")])
def test_the_emulator_refuses_numbers_that_mean_nothing(home: Path, option: str, value: str) -> None:
    """A usage error, not a traceback or a server that does something else."""
    done = rescalefs(home, "emulator", "--port", "0", option, value)

    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_umount_where_nothing_is_mounted(home: Path) -> None:
    """There is nothing to leave."""
    assert failure(rescalefs(home, "umount", str(home / "rescale")))[0] == 7


def test_a_world_file_with_a_mistake(home: Path) -> None:
    """The emulator names file and place."""
    (home / "world.json").write_text('{"jobs": [{"runs": 5}]}')
    code, sentence = failure(rescalefs(home, "emulator", "--world", str(home / "world.json")))

    assert code == 9
    assert "world.json" in sentence


@pytest.mark.mount
def test_a_mount_in_the_background(home: Path, emulator: Emulator, world: World, binding: str) -> None:
    """mount returns when the mount answers; a second one is refused; umount leaves nothing behind."""
    world.add_job("AbCdE")
    point = home / "rescale"
    args = ("mount", "--binding", binding, str(point))

    done = rescalefs(home, *args, **access(emulator))
    try:
        assert done.returncode == 0, done.stderr
        assert sorted(os.listdir(point)) == ["by-name", "jobs", "jobs.csv"]
        assert os.listdir(point / "jobs") == ["AbCdE"]
        assert failure(rescalefs(home, *args, **access(emulator)))[0] == 7
    finally:
        left = rescalefs(home, "umount", str(point))
    assert left.returncode == 0, left.stderr
    assert os.listdir(point) == []
    wait_for(lambda: not processes_of(point), END_S, lambda: f"still there: {processes_of(point)}")


@pytest.mark.mount
def test_a_mount_point_over_a_link(home: Path, emulator: Emulator, world: World, binding: str) -> None:
    """It is mounted, seen and left where the link leads."""
    (home / "link").symlink_to(home / "rescale")
    words = ("mount", "--binding", binding, str(home / "link"))
    done = rescalefs(home, *words, **access(emulator))
    try:
        assert done.returncode == 0, done.stderr
        assert rescalefs(home, "status", str(home / "link/jobs")).stdout.startswith(f"{home / 'rescale'}\n")
        assert failure(rescalefs(home, *words, **access(emulator)))[0] == 7
    finally:
        left = rescalefs(home, "umount", str(home / "link"))
    assert left.returncode == 0, left.stderr
    assert os.listdir(home / "rescale") == []


@pytest.mark.mount
def test_a_mount_point_in_a_mount(home: Path, mounted: Mounted) -> None:
    """Neither a directory of a mount nor a new one in it can be mounted on; umount tells where the mount is."""
    for place in (mounted.jobs, mounted.path / "new"):
        code, sentence = failure(rescalefs(home, "mount", str(place), **access(mounted.emulator)))
        assert (code, f"is in the mount of rescalefs on {mounted.path}" in sentence) == (5, True)
    code, sentence = failure(rescalefs(home, "umount", str(mounted.jobs)))
    assert code == 7
    assert sentence.endswith(f"but on {mounted.path}")


@pytest.mark.mount
def test_a_mount_over_what_is_there(home: Path, emulator: Emulator, binding: str) -> None:
    """`-o nonempty` does it, as the refusal of a filled mount point says."""
    (home / "rescale/file").touch()
    words = ("mount", "--binding", binding, str(home / "rescale"))
    assert "-o nonempty" in failure(rescalefs(home, *words, **access(emulator)))[1]

    done = rescalefs(home, *words, "-o", "nonempty", **access(emulator))
    assert done.returncode == 0, done.stderr
    assert rescalefs(home, "umount", str(home / "rescale")).returncode == 0
    assert os.listdir(home / "rescale") == ["file"]


@pytest.mark.mount
def test_an_option_that_fuse_refuses(home: Path, emulator: Emulator, binding: str) -> None:
    """One sentence after FUSE's own words, which name the option, and a line in the log; nothing is left."""
    words = ("mount", "--binding", binding, "-o", "no_such_option", str(home / "rescale"))
    done = rescalefs(home, *words, "--log-file", str(home / "log"), **access(emulator))

    assert done.returncode == 6
    assert [line for line in done.stderr.splitlines() if line.startswith("rescalefs: ")] == done.stderr.splitlines()[
        -1:
    ]
    assert str(home / "log") in done.stderr
    logged = (home / "log").read_text()
    assert "no_such_option" in done.stderr + logged
    assert "FUSE refused to mount" in logged
    assert os.listdir(home / "rescale") == []


def processes_of(point: Path) -> list[str]:
    """Return the command lines of processes that mount on *point*."""
    found = subprocess.run(["pgrep", "-af", f"rescalefs mount .*{point}"], capture_output=True, text=True).stdout
    return found.splitlines()


@pytest.mark.mount
def test_a_busy_mount_is_not_left(home: Path, mounted: Mounted, world: World) -> None:
    """umount of a busy mount says what to do; --lazy detaches it."""
    world.add_job("AbCdE").add_run(finished=True, files={"f": b"bytes"})
    with open(mounted.jobs / "AbCdE/runs/1/f", "rb") as file:
        code, sentence = failure(rescalefs(home, "umount", str(mounted.path)))
        assert code == 5
        assert "--lazy" in sentence
        assert rescalefs(home, "umount", "--lazy", str(mounted.path)).returncode == 0
        assert file.read() == b"bytes"
    assert mounted.process is not None
    assert mounted.process.wait(END_S) == 0


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_mount_in_order(mounted: Mounted, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM unmount and exit with 0."""
    assert mounted.process is not None
    mounted.process.send_signal(number)

    assert mounted.process.wait(END_S) == 0
    assert system.mounted_type(mounted.path) is None


@pytest.mark.mount
def test_sighup_asks_rescale_again(mounted: Mounted, world: World, emulator: Emulator) -> None:
    """A job that appeared is seen after SIGHUP, without waiting for a lifetime."""
    assert os.listdir(mounted.jobs) == []
    world.add_job("NewJb")
    assert mounted.process is not None
    mounted.process.send_signal(signal.SIGHUP)

    wait_for(lambda: os.listdir(mounted.jobs) == ["NewJb"], 10, lambda: "not seen")


@pytest.mark.mount
def test_systemd_is_told_when_the_mount_answers(mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """READY=1 arrives once the mount answers, STOPPING=1 when it ends."""
    with (
        tempfile.TemporaryDirectory() as directory,  # its name is short: a socket's has 107 bytes
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        address = Path(directory, "notify")
        manager.bind(str(address))
        manager.settimeout(END_S)
        mounted = mount_of(emulator, NOTIFY_SOCKET=str(address))

        assert manager.recv(100) == b"READY=1"
        mounted.unmount()
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.mount
def test_key_file_and_apiconfig(home: Path, emulator: Emulator, binding: str) -> None:
    """A key may come from a file of mode 0600 or a profile; a file open to others is refused with the remedy."""
    key_file = home / "key"
    key_file.write_text(emulator.key + "\n")
    key_file.chmod(0o644)
    args = ("mount", "--binding", binding, "--key-file", str(key_file), str(home / "rescale"))
    code, sentence = failure(rescalefs(home, *args, RESCALE_API_URL=emulator.origin))
    assert code == 3
    assert f"chmod 600 {key_file}" in sentence
    key_file.chmod(0o600)
    config = home / ".config/rescale/apiconfig"
    config.parent.mkdir(parents=True)
    config.write_text(f"[emu]\napibaseurl = {emulator.origin}\napikey = '{emulator.key}'\n")
    config.chmod(0o600)

    for words in (args, ("mount", "--binding", binding, "--profile", "emu", str(home / "rescale"))):
        done = rescalefs(home, *words, **({"RESCALE_API_URL": emulator.origin} if words is args else {}))
        assert done.returncode == 0, done.stderr
        assert rescalefs(home, "umount", str(home / "rescale")).returncode == 0


@pytest.mark.mount
def test_the_demo_shows_everything_and_cleans_up(home: Path) -> None:
    """The tour's commands print what they should, and nothing is left behind."""
    done = rescalefs(home, "demo", "--tour-only", TMPDIR=str(home))

    assert done.returncode == 0, done.stderr
    for text in ("airfoil.foam", "Invalid argument", "Operation not permitted", "stop accepted"):
        assert text in done.stdout
    assert [path.name for path in home.iterdir()] == ["rescale"]
    assert not [entry for entry in system.mounts() if entry.mount_point.is_relative_to(home)]


@pytest.mark.mount
def test_the_demo_ends_with_ctrl_c(home: Path) -> None:
    """Ctrl-C after the tour unmounts, ends the emulator and leaves with 0."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONUNBUFFERED": "1",
               "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    command = [sys.executable, "-m", "rescalefs", "demo", str(home / "rescale")]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout)
        assert "jobs" in os.listdir(home / "rescale")
        process.send_signal(signal.SIGINT)

        assert process.wait(END_S) == 0
    finally:
        process.kill()
        process.communicate()
    assert os.listdir(home / "rescale") == []
