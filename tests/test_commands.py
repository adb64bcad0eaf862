"""`status`, `cache`, `doctor` and `warm`, as a user runs them beside real mounts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
from click.testing import CliRunner

from rescalefs import status_command, system
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.readers import readers
from tests.test_cli import access, failure, home, rescalefs
from tests.tools import FILES, MIB

__all__ = ["home"]
FORGED = "out\nrescalefs: forged\x1b[2J"


def lines_of(done: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    """What a command says on standard output."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


# ---- what Rescale or a name says, on a terminal ----


def test_a_sentence_is_one_line(emulator: Emulator, home: Path) -> None:
    """A refusal that has a newline and an escape sequence in it is told in one line, as plain text."""
    emulator.faults.add(endpoint="users_me", late_status=403, body=json.dumps({"detail": FORGED}))
    code, sentence = failure(rescalefs(home, "mount", str(home / "rescale"), **access(emulator)))
    assert code == 3
    assert r"out\nrescalefs: forged\x1b[2J" in sentence


def test_a_reason_is_one_line(emulator: Emulator, world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Rescale says of how a job ended moves no cursor."""
    run = world.add_job("LiveR").add_run(live={"log": b""})
    run.finish(failed=True)
    monkeypatch.setattr(type(run.job), "_reason", lambda _self: FORGED)
    done = rescalefs(home, "wait", "--every", "1", "LiveR", **access(emulator))
    assert done.returncode == 10
    assert done.stderr.splitlines()[-1] == r"rescalefs: LiveR: Completed (out\nrescalefs: forged\x1b[2J)"


# ---- status ----


@pytest.mark.mount
def test_status_tells_how_a_mount_does(run: Run, mounted: Mounted, home: Path) -> None:
    """What it is of, whether it is online, and its counters; for a path in it, and for all there are."""
    os.listdir(mounted.jobs)
    for words in ([str(mounted.jobs / "AbCdE")], []):
        done = rescalefs(home, "status", *words)
        assert not words or done.returncode == 0  # other mounts of this machine may be dead
        said = done.stdout.splitlines()
        mine = said[said.index(str(mounted.path)) :]
        assert [line.split() for line in mine[1:3]] == [["status", "online"], ["version", mine[2].split()[1]]]
        assert ["origin", mounted.emulator.origin] in [line.split() for line in mine]
        assert ["requests.jobs", "1"] in [line.split() for line in mine]
        assert mounted.emulator.key not in "".join(said)


@pytest.mark.mount
def test_status_tells_of_a_mount_that_died(mounted: Mounted, home: Path) -> None:
    """Exit code 1, and what to do; a directory that is no mount is 7."""
    assert mounted.process is not None
    mounted.process.kill()
    mounted.process.wait()
    said = lines_of(rescalefs(home, "status", str(mounted.path)), 1)
    assert said == [str(mounted.path), "  the process behind it is gone: mount again, it clears what was left"]
    system.unmount(mounted.path, is_lazy=True)
    assert failure(rescalefs(home, "status", str(mounted.path)))[0] == 7


@pytest.mark.mount
def test_a_mount_that_is_stopped_keeps_no_command_waiting(
    mounted: Mounted, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status`, `refresh` and `warm` say so after a while, another mount is refused, and it can be detached."""
    assert mounted.process is not None
    link = home / "link"
    link.symlink_to(mounted.path.parent)
    through = str(link / mounted.path.name / "jobs")
    mounted.process.send_signal(signal.SIGSTOP)
    try:
        monkeypatch.setattr(status_command, "ANSWER_S", 1.0)
        status = CliRunner().invoke(status_command.status_command, [str(mounted.jobs)])
        assert status.exit_code == 1
        assert status.stdout.splitlines() == [str(mounted.path), "  it does not answer (in 1 s): its log says more"]
        with ThreadPoolExecutor() as pool:  # each takes a while
            asked = [("refresh", str(mounted.jobs)), ("refresh", through), ("warm", through)]
            answers = [pool.submit(rescalefs, home, *words) for words in asked]
            other = pool.submit(rescalefs, home, "mount", str(mounted.path), **access(mounted.emulator))
        for answer in answers:
            assert failure(answer.result()) == (1, f"{mounted.path} does not answer: its log says more")
        assert failure(other.result())[0] == 7
        monkeypatch.setattr(system, "_HELPER_S", 1.0)
        state = "(does not answer|is in use)"  # fusermount3 does not wait for it as umount does
        with pytest.raises(system.MountError, match=f"{mounted.path} {state}: .* --lazy {mounted.path}"):
            system.unmount(mounted.path)
        lines_of(rescalefs(home, "umount", "--lazy", str(mounted.path)))
        assert system.mounted_type(mounted.path) is None
    finally:
        mounted.process.send_signal(signal.SIGCONT)


@pytest.mark.mount
@pytest.mark.skipif(os.getuid() != 0, reason="others have fusermount3 looked for before")
def test_umount_says_that_its_helper_is_missing(mounted: Mounted, home: Path) -> None:
    code, sentence = failure(rescalefs(home, "umount", str(mounted.path), PATH=str(home)))
    assert (code, sentence) == (5, f"there is no umount on the PATH, which is {home}")


# ---- cache ----


@pytest.mark.mount
def test_the_cache_is_shown_and_cleared_beside_a_mount(
    run: Run, mounted: Mounted, emulator: Emulator, home: Path
) -> None:
    """What is in it, by kind; emptied under readers, no byte is wrong, and what is read next comes from Rescale."""
    top = mounted.jobs / "AbCdE/runs/1"
    files = {name: data for name, data in FILES.items() if data}
    assert {name: (top / name).read_bytes() for name in files} == files
    (mounted.cache / "v1/ab").mkdir(parents=True)
    (mounted.cache / "v1/ab/old").write_bytes(bytes(MIB))
    precious = home / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"precious")
    (mounted.cache / "v2/zz").symlink_to(precious)
    (mounted.cache / "v9").symlink_to(home)
    words = ("cache", "--cache-dir", str(mounted.cache))

    said = [line.split() for line in lines_of(rescalefs(home, *words))]
    assert said[0][-4:] == ["used", "by", "a", "mount"]
    assert {line[0]: line[2] for line in said[1:3]} == {"contents": str(len(files)), "listings": "4"}
    assert said[1][1].startswith("5.")  # MiB of big.bin, and little else
    assert said[3][:2] == ["others", "1.0M"]

    with readers(top, files, 3, rounds=20) as working:
        while any(process.poll() is None for process in working):
            (line,) = lines_of(rescalefs(home, *words, "--clear"))
            assert " removed from " in line
        assert [(process.returncode, process.stderr.read()) for process in working] == [(0, "")] * 3
    mounted.unmount()
    lines_of(rescalefs(home, *words, "--clear"))
    said = [line.split() for line in lines_of(rescalefs(home, *words))]
    assert said[0][-1] == "now"
    assert [line[1] for line in said[1:]] == ["0B", "0B", "0B"]
    assert (precious / "file").read_bytes() == b"precious"
    mounted.mount()
    emulator.reset_counts()
    assert {name: (top / name).read_bytes() for name in files} == files
    assert emulator.requests["contents"] >= len(files)


def test_an_empty_cache_is_no_error(home: Path) -> None:
    """There is nothing to show, and nothing to remove; nothing is made."""
    for words in ([], ["--clear"]):
        lines_of(rescalefs(home, "cache", *words))
    assert [path.name for path in home.iterdir()] == ["rescale"]


# ---- doctor ----


@pytest.mark.mount
def test_the_doctor_finds_all_well(emulator: Emulator, home: Path, binding: str) -> None:
    """A line for each thing that a mount needs."""
    said = lines_of(rescalefs(home, "doctor", **access(emulator)))
    assert [line.split()[:2] for line in said] == [
        ["ok", name] for name in ("FUSE", "library", "key", "platform", "clock", "cache")
    ]
    assert emulator.key not in "".join(said)


CASES: dict[str, tuple[int, str, str]] = {
    "no key": (3, "key", "RESCALE_API_KEY"),
    "a wrong key": (3, "platform", "refused the key"),
    "no platform": (4, "platform", "does not answer"),
    "a clock that is wrong": (1, "clock", "timedatectl"),
    "a cache that others can write": (8, "cache", "chmod go-w"),
    "a cache that cannot be": (8, "cache", "cannot be used"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_doctor_names_what_is_missing(case: str, emulator: Emulator, home: Path) -> None:
    """With the remedy; the exit code is that of a mount which fails for it. All else is looked at all the same."""
    code, name, remedy = CASES[case]
    environ, cache = access(emulator), home / "cache"
    match case:
        case "no key":
            del environ["RESCALE_API_KEY"]
        case "a wrong key":
            environ["RESCALE_API_KEY"] = "wrong-secret"
        case "no platform":
            environ["RESCALE_API_URL"] = "http://127.0.0.1:1"
        case "a clock that is wrong":
            emulator.faults.add(endpoint="users_me", headers={"Date": formatdate(1_700_000_000, usegmt=True)})
        case "a cache that others can write":
            cache.mkdir()
            cache.chmod(0o777)
        case "a cache that cannot be":
            cache.write_text("")
    done = rescalefs(home, "doctor", "--cache-dir", str(cache), **environ)
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    if not system.FUSE_DEVICE.exists():
        pytest.skip("the first thing that is missing here is /dev/fuse")
    assert done.returncode == code, done.stdout
    assert wrong[0].split()[:2] == ["FAIL", name]
    assert remedy in wrong[0]
    rest = [line.split()[:4] for line in wrong[1:]]
    assert rest == ([["skip", "clock", "not", "checked:"]] if case == "no platform" else [])
    assert "wrong-secret" not in done.stdout + done.stderr
    assert "cache" in done.stdout.splitlines()[-1]


# ---- warm ----


@pytest.mark.mount
def test_warm_fetches_everything_once(run: Run, live: Run, mounted: Mounted, emulator: Emulator, home: Path) -> None:
    """Of final runs; what is still computed is not read. The second time nothing is asked for."""
    files = {name: data for name, data in FILES.items() if data}
    (said,) = lines_of(rescalefs(home, "warm", str(mounted.jobs)))
    left_out = "runs left out because they still compute: 1"
    assert said == f"{len(FILES)} files, 5.1M; {left_out}"
    assert lines_of(rescalefs(home, "warm", str(mounted.jobs / "LiveR/runs/1"))) == [f"0 files, 0B; {left_out}"]
    assert emulator.requests["contents"] >= len(files)
    assert emulator.bytes_sent["contents"] == sum(map(len, files.values()))
    assert emulator.requests["tail"] == 0
    emulator.reset_counts()
    lines_of(rescalefs(home, "warm", str(mounted.jobs / "AbCdE/runs/1"), str(mounted.jobs / "AbCdE/runs/1/big.bin")))
    assert emulator.requests["contents"] == 0
    top = mounted.jobs / "AbCdE/runs/1"
    assert {name: (top / name).read_bytes() for name in files} == files
    assert emulator.requests["contents"] == 0


@pytest.mark.mount
def test_warm_tells_what_could_not_be_fetched(world: World, mounted: Mounted, emulator: Emulator, home: Path) -> None:
    """Each file by its name, which begins no line; the others are fetched. Where there is no mount it is 7."""
    run = world.add_job("AbCdE").add_run(finished=True, files={"good": b"good", FORGED: b"bad"})
    bad = run.files[1]
    emulator.faults.add(endpoint="contents", path=f"/{bad.id}/", status=409)
    done = rescalefs(home, "warm", str(mounted.jobs))
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.endswith(r"out\nrescalefs: forged\x1b[2J: Input/output error")
    assert second == "rescalefs: not everything could be fetched (failures: 1)"
    assert (mounted.jobs / "AbCdE/runs/1/good").read_bytes() == b"good"
    done = rescalefs(home, "warm", str(mounted.jobs / "NoJob"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"rescalefs: {mounted.jobs / 'NoJob'}: No such file or directory"
    assert failure(rescalefs(home, "warm", str(home)))[0] == 7


# ---- refresh ----


def test_what_is_not_in_a_mount_is_not_refreshed(tmp_path: Path) -> None:
    """A path elsewhere is one sentence."""
    code, sentence = failure(rescalefs(tmp_path, "refresh", str(tmp_path)))

    assert (code, "is not in a mount" in sentence) == (7, True)


@pytest.mark.mount
def test_what_is_not_there_is_not_refreshed(home: Path, mounted: Mounted) -> None:
    """A job that does not exist is named."""
    code, sentence = failure(rescalefs(home, "refresh", str(mounted.jobs / "NoJob")))

    assert (code, f"there is no {mounted.jobs / 'NoJob'}" in sentence) == (1, True)
