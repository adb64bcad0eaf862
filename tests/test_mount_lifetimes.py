"""How long the kernel believes what it was told, and that it is never wrong for that, on both bindings."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.world import Run, World
from rescalefs.kernel import CHANGEABLE_S
from tests.conftest import Mounted, wait_for
from tests.tools import errno_of, sh

pytestmark = pytest.mark.mount

SOON_S = 30.0
FILES = {f"case/{time:03}/field_{place}": b"%d" % place for time in range(8) for place in range(25)}
OLD, NEW = b"old " * 5000, b"what is new " * 50_000


@pytest.fixture
def final(world: World) -> Run:
    """A final run with some directories."""
    return world.add_job("AbCdE").add_run(finished=True, files=FILES)


@pytest.fixture
def top(final: Run, mounted: Mounted) -> Path:
    """The final run in the mount."""
    return mounted.jobs / "AbCdE/runs/1"


def asked(mounted: Mounted, act: Callable[[], object]) -> dict[str, int]:
    """Return how often the kernel asked what while something was done; reading that costs some questions itself."""

    def counts() -> dict[str, int]:
        lines = (mounted.path / ".rescale/stats").read_text().splitlines()
        pairs = (line.split() for line in lines)
        return {name.removeprefix("kernel."): int(number) for name, number in pairs if name.startswith("kernel.")}

    before = counts()
    act()
    return {name: number - before.get(name, 0) for name, number in counts().items()}


def refresh(place: Path) -> None:
    """Ask Rescale again, as a user does."""
    (place / ".rescale/refresh").write_bytes(b"1\n")


def change(run: Run, path: str, data: bytes) -> None:
    """Let Rescale list another upload of a final file."""
    next(file for file in run.files if file.relative_path == path and not file.is_deleted).is_deleted = True
    run.add_file(path, data)


def move(run: Run, path: str, to: str) -> None:
    """Rename a file of a live run."""
    run.add_live(to, run.live[path].read())
    del run.live[path]


def whole(path: Path) -> bytes:
    """Read a file as far as its size tells, and not a byte more: what a page cache serves."""
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(131_072), b""))


# ---- what lasts ----


def test_final_files_are_looked_at_again_without_the_process(binding: str, top: Path, mounted: Mounted) -> None:
    """stat of every file, and find, are answered by the kernel for longer than a second with libfuse3."""
    sh("ls -lR .", top)
    time.sleep(2 * CHANGEABLE_S)  # what may change has been dropped, what is final has not

    def look() -> None:
        for path, data in FILES.items():
            assert (top / path).stat().st_size == len(data)
        assert sh("find . -type f -printf '%s\\n'", top).count("\n") == len(FILES)

    questions = asked(mounted, look)["getattr"]
    if binding == "fuse3":
        assert questions < 25  # of the directories above the run's, and of the files that count this
    else:  # attributes last a second there, so that the next looks ask; there is no other question for a name
        assert len(FILES) <= questions < 3 * len(FILES)


def test_listings_take_attributes_along_for_those_who_look(world: World, binding: str, mounted: Mounted) -> None:
    """With libfuse3 `ls -lR` asks for a file of each directory, and `find` does not make the kernel remember files."""
    directories, each = 20, 60
    names = {f"{time:03}/field_{place}": b"%d" % place for time in range(directories) for place in range(each)}
    tops = []
    for job in ("ListA", "FindB", "ListC"):
        world.add_job(job).add_run(finished=True, files=names)
        tops.append(mounted.jobs / job / "runs/1")

    def questions(command: str, top: Path) -> int:
        found: list[str] = []
        count = asked(mounted, lambda: found.append(sh(command, top)))["getattr"]
        assert found[0].count("field_") == directories * each
        return count

    above = 40  # directories, and what the counting itself asks
    for command, top, most in (
        ("ls -lR .", tops[0], directories),
        ("find . -type f", tops[1], 0),
        ("ls -lR .", tops[2], directories + each),
    ):
        if binding == "fuse3":
            assert questions(command, top) <= most + above
        elif command.startswith("ls"):
            assert questions(command, top) >= directories * each


def test_what_may_change_is_asked_for_again_after_a_second(live: Run, mounted: Mounted) -> None:
    """A live file's size is honest within about a second of being known, whoever was told another."""
    path = mounted.jobs / "LiveR/runs/1/log"
    for number in range(1, 4):
        size = path.stat().st_size
        live.live["log"].append(b"Time = %d\n" % number)
        wait_for(lambda size=size: path.stat().st_size > size, SOON_S, lambda: "it does not grow")  # type: ignore[misc]


def test_a_stat_within_a_second_is_the_kernels(live: Run, mounted: Mounted) -> None:
    """A thousand looks at a live file are few questions."""
    path = mounted.jobs / "LiveR/runs/1/log"
    assert asked(mounted, lambda: [path.stat() for _ in range(1000)])["getattr"] < 500


# ---- what lasts, and changes all the same ----


@pytest.mark.parametrize("level", ["jobs/AbCdE/runs/1", "jobs/AbCdE", ""], ids=["run", "job", "all"])
def test_a_refresh_is_seen_at_once(level: str, final: Run, top: Path, mounted: Mounted) -> None:
    """A final file that has another size is that large for stat, and read to its end, through the page cache too."""
    final.add_file("case/result", OLD)
    path = top / "case/result"
    for data in (NEW, OLD, NEW):
        change(final, "case/result", data)
        refresh(mounted.path / level)

        assert path.stat().st_size == len(data)
        assert whole(path) == data
        assert f" {len(data)} " in sh("ls -l", path.parent)


def test_sighup_is_a_refresh(final: Run, top: Path, mounted: Mounted) -> None:
    """It takes effect within a moment, for who has looked before."""
    final.add_file("case/result", OLD)
    path = top / "case/result"
    assert whole(path) == OLD
    change(final, "case/result", NEW)
    assert mounted.process is not None
    mounted.process.send_signal(1)

    wait_for(lambda: path.stat().st_size == len(NEW), SOON_S, lambda: "it stays")
    assert whole(path) == NEW


def test_a_file_that_is_held_is_not_cut_by_a_refresh(final: Run, top: Path, mounted: Mounted) -> None:
    """Names in use stay in the kernel: a directory somebody works in, a file somebody has open or holds by its path."""
    final.add_file("case/result", OLD)
    path = top / "case/result"
    held = os.open(path, os.O_PATH)
    with path.open("rb", buffering=0) as reader, subprocess.Popen(["sleep", "60"], cwd=path.parent) as worker:
        assert os.fstat(held).st_size == len(OLD)
        assert reader.read(4) == OLD[:4]
        change(final, "case/result", NEW)
        refresh(top)

        assert whole(path) == NEW
        assert path.stat().st_size == len(NEW)
        assert os.readlink(f"/proc/{worker.pid}/cwd") == str(path.parent)
        assert sh("cat result | wc -c", path.parent) == f"{len(NEW)}\n"
        worker.kill()
    os.close(held)


def test_a_file_that_vanished_is_gone_at_once(final: Run, top: Path) -> None:
    """Names are kept for an hour, but not believed after a refresh: neither stat, open nor a listing has it."""
    path = top / "case/000/field_0"
    assert whole(path) == b"0"
    next(file for file in final.files if file.relative_path == "case/000/field_0").is_deleted = True
    refresh(top)

    for look in (os.stat, os.listxattr, lambda path: os.close(os.open(path, os.O_RDONLY))):
        with pytest.raises(FileNotFoundError):
            look(path)
    assert "field_0" not in os.listdir(path.parent)


def test_a_refresh_while_a_directory_is_read(final: Run, top: Path) -> None:
    """Who reads on in a directory opened before gets its names, and no attributes from before."""
    for number in range(2000):
        final.add_file(f"many/{number:04}", OLD)
    with os.scandir(top / "many") as entries:
        first = next(entries)
        change(final, "many/1999", NEW)
        refresh(top)
        names = [first.name, *(entry.name for entry in entries)]

    assert len(names) == 2000
    assert (top / "many/1999").stat().st_size == len(NEW)
    assert whole(top / "many/1999") == NEW


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_corrected_size_is_seen_at_once(difference: int, final: Run, top: Path, mounted: Mounted) -> None:
    """A file that was listed with another size than its checksum's content has is read to its end from then on."""
    final.add_file("case/wrong", NEW, declared_size=len(NEW) + difference)
    path = top / "case/wrong"
    assert path.stat().st_size == len(NEW) + difference
    with pytest.raises(OSError, match="Input/output error"):
        whole(path)

    wait_for(lambda: path.stat().st_size == len(NEW), SOON_S, lambda: f"{path.stat().st_size}")
    assert hashlib.sha512(whole(path)).digest() == hashlib.sha512(NEW).digest()


def test_a_live_file_becomes_a_directory_and_the_other_way_round(live: Run, mounted: Mounted) -> None:
    """A name of another kind is met as what it is now, by stat, open and listing; it is never an error."""
    top = mounted.jobs / "LiveR/runs/1"
    for _ in range(2):
        assert (top / "case/U").read_bytes() == b"(0 0 0)"
        assert (top / "log").stat().st_size > 0
        move(live, "case/U", "case")
        move(live, "log", "log/1")
        refresh(top)
        assert (top / "case").read_bytes() == b"(0 0 0)"
        assert os.listdir(top / "log") == ["1"]
        move(live, "case", "case/U")
        move(live, "log/1", "log")
        refresh(top)


def test_a_kind_that_changes_by_itself(live: Run, mounted: Mounted) -> None:
    """The same where nobody refreshes: what stands there is found within the lifetime of the names of a live run."""
    top = mounted.jobs / "LiveR/runs/1"
    assert (top / "case/U").read_bytes() == b"(0 0 0)"
    move(live, "case/U", "case")

    wait_for(lambda: (top / "case").is_file(), SOON_S, lambda: "it stays a directory")  # an EIO would fail this
    assert (top / "case").read_bytes() == b"(0 0 0)"


def test_a_live_file_that_somebody_has_open_becomes_a_directory(live: Run, mounted: Mounted) -> None:
    """Who goes on below it finds what is there, though its name is in use and nobody has looked at it itself."""
    top = mounted.jobs / "LiveR/runs/1"

    def is_below() -> bool:
        (top / "case/U").stat()  # another name, so that the run is looked at
        return errno_of((top / "log/1").read_bytes) == ""

    descriptor = os.open(top / "log", os.O_RDONLY)
    assert os.pread(descriptor, 100, 0) == b"Time = 0\n"
    move(live, "log", "log/1")
    refresh(top)
    wait_for(is_below, SOON_S, lambda: errno_of((top / "log/1").read_bytes))

    assert (top / "log/1").read_bytes() == b"Time = 0\n"
    assert os.listdir(top / "log") == ["1"]
    errno_of(os.close, descriptor)  # the kernel says EIO of what became of another kind


def test_a_final_run_that_becomes_larger_is_read_to_its_end(live: Run, mounted: Mounted) -> None:
    """From live to settling to final: at each step, the size that stat tells and what is read are Rescale's."""
    top = mounted.jobs / "LiveR/runs/1"
    assert (top / "log").stat().st_size == 9
    live.live["log"].append(NEW)
    live.finish()
    refresh(top)
    wait_for(lambda: (top / ".rescale/status").read_text() != "live\n", SOON_S, lambda: "it stays live")
    seen = b""
    for _ in range(3):
        refresh(top)
        wait_for(lambda: (top / "log").stat().st_size == 9 + len(NEW), SOON_S, lambda: "not uploaded")
        seen = whole(top / "log")
        assert seen == b"Time = 0\n" + NEW
    assert (top / ".rescale/status").read_text() == "final\n"
