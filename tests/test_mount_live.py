"""Live runs under real programs, on both bindings: following, copying, and the end of a run under both."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.test_mount_signals import dump_of
from tests.tools import run_in, sh

pytestmark = pytest.mark.mount

# Long enough to be followed in parts, no two lines alike.
LOG = b"".join(b"Time = %d\n" % n for n in range(8000))
SOON_S = 40.0
READER = """
import sys, time
with open(sys.argv[1], "rb", buffering=0) as file:
    while True:
        sys.stdout.buffer.write(file.read(100_000))
        sys.stdout.flush()
        time.sleep(0.2)
"""


@contextlib.contextmanager
def following(commands: dict[str, list[str]], scratch: Path) -> Iterator[dict[str, Path]]:
    """Run commands that follow something; their outputs, by name, go to files."""
    outputs = {name: scratch / name.replace(" ", "_") for name in commands}
    processes = []
    try:
        for name, command in commands.items():
            with outputs[name].open("wb") as out, outputs[name].with_suffix(".err").open("wb") as err:
                processes.append(subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "LC_ALL": "C"}))
        yield outputs
    finally:
        for process in processes:
            process.kill()
            process.wait()


def followers(path: Path) -> dict[str, list[str]]:
    return {
        "tail -f": ["tail", "-n", "+1", "-f", str(path)],
        "tail -F": ["tail", "-n", "+1", "-F", str(path)],
        "python": [sys.executable, "-c", READER, str(path)],
    }


def serve_tail(emulator: Emulator, how: str) -> None:
    """Have the platform serve live files "whole" only, in "parts", or with their last lines, for "joins"."""
    emulator.habits.tail_honours_range = how == "parts"
    emulator.habits.tail_knows_lines = how == "joins"


def all_have(outputs: dict[str, Path], data: bytes, what: str, *, how: str = "whole") -> None:
    """Wait until each output is *data*, byte for byte; by joins it may be without the last newline."""
    least = data.removesuffix(b"\n") if how == "joins" else data

    def told() -> str:
        sizes = {name: len(path.read_bytes()) for name, path in outputs.items()}
        errors = {name: path.with_suffix(".err").read_text() for name, path in outputs.items()}
        return f"{what}: {sizes} of {len(data)} bytes; {errors}"

    def is_had(path: Path) -> bool:
        have = path.read_bytes()
        assert data.startswith(have), told()
        return len(have) >= len(least)

    wait_for(lambda: all(map(is_had, outputs.values())), SOON_S, told)


def refresh(top: Path) -> None:
    """Have the mount ask what it would ask in some seconds anyway."""
    descriptor = os.open(top / ".rescale/refresh", os.O_WRONLY)
    os.write(descriptor, b"1")
    os.close(descriptor)


def is_uploaded(top: Path) -> bool:
    """Tell whether those who follow the log are in the final file."""
    refresh(top)
    return os.getxattr(top / "log", "user.rescale.state") != b"live"


def is_final(top: Path) -> bool:
    """Tell whether the mount takes the run as final."""
    refresh(top)
    return (top / ".rescale/status").read_text() == "final\n"


@pytest.mark.parametrize("how", [pytest.param("whole", marks=pytest.mark.long), "parts", "joins"])
@pytest.mark.parametrize(
    "trickle_s", [4.0, pytest.param(70.0, marks=[pytest.mark.long, pytest.mark.timeout(400)])], ids=["soon", "minutes"]
)
def test_followers_lose_and_double_no_line_over_the_end(
    how: str, trickle_s: float, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """tail -f, tail -F and a reader that stays: grown in odd pieces, ended, trickled in, uploaded; nothing twice."""
    serve_tail(emulator, how)
    log, top = live.live["log"], mounted.jobs / "LiveR/runs/1"
    log.replace(LOG)
    live.trickle_s = trickle_s
    with following(followers(top / "log"), tmp_path) as outputs:
        all_have(outputs, LOG, "at first")
        tails = emulator.requests["tail"]
        written = LOG
        for piece in (b"a line\nhalf ", b"of another\n", b"x" * 70_000, b"\n"):
            log.append(piece)
            written += piece
            all_have(outputs, written, "grown", how=how)
        assert emulator.requests["tail"] - tails <= 4 * 3  # a look or two for each piece, however many look
        log.append(b"the last words\n")
        written += b"the last words\n"
        live.finish()
        wait_for(lambda: bool(live.listed_files()), SOON_S, lambda: "not listed")
        refresh(top)
        assert os.stat(top / "log").st_size >= len(written) - (16 if how == "joins" else 15)
        wait_for(lambda: is_uploaded(top), SOON_S + trickle_s, lambda: "still live")
        all_have(outputs, written, "ended")
        again = (top / "log").read_bytes()

    assert again == written
    assert "truncated" not in "".join(path.with_suffix(".err").read_text() for path in outputs.values())


def test_until_its_upload_a_file_that_is_open_keeps_its_name_and_size(
    live: Run, mounted: Mounted, tmp_path: Path
) -> None:
    """A listed size of 0 before the upload is no truncation: stat and a new opening tell what is known."""
    top, written = mounted.jobs / "LiveR/runs/1", b"Time = 0\nthe last words\n"
    commands = {name: command for name, command in followers(top / "log").items() if name != "python"}
    with following(commands, tmp_path) as outputs:
        all_have(outputs, b"Time = 0\n", "at first")
        live.live["log"].append(b"the last words\n")
        live.trickle_s = 8.0
        live.finish()
        (row,) = live.listed_files()
        row.declared_size = 0
        refresh(top)
        assert {os.stat(top / "log").st_size for _ in range(20) if not time.sleep(0.1)} <= {9, 24}
        assert (top / "log").read_bytes() in (b"Time = 0\n", written)
        row.declared_size = None
        wait_for(lambda: is_uploaded(top), SOON_S, lambda: "still live")
        all_have(outputs, written, "ended")
        for path in outputs.values():
            assert path.with_suffix(".err").read_text() == ""


def test_tail_f_and_tail_f_go_on_after_a_truncation(live: Run, mounted: Mounted, tmp_path: Path) -> None:
    """tail -f and tail -F say so once, and print what the new log has, once."""
    log, top = live.live["log"], mounted.jobs / "LiveR/runs/1"
    log.replace(LOG)
    commands = {name: command for name, command in followers(top / "log").items() if name != "python"}
    with following(commands, tmp_path) as outputs:
        all_have(outputs, LOG, "at first")
        log.replace(b"restarted\n")
        all_have(outputs, LOG + b"restarted\n", "restarted")
        log.append(b"and on\n")
        all_have(outputs, LOG + b"restarted\nand on\n", "grown")
        for path in outputs.values():
            assert path.with_suffix(".err").read_text().count("truncated") == 1


@pytest.mark.parametrize("seconds", [6, pytest.param(45, marks=pytest.mark.long)])
def test_nothing_is_asked_when_nobody_reads(seconds: int, live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """From the moment when the last reader of a log has gone there are no requests at all."""
    path = mounted.jobs / "LiveR/runs/1/log"
    sh(f"timeout 3 tail -f {path} || true", mounted.path)
    wait_for(lambda: "asking: " not in dump_of(mounted), SOON_S, lambda: dump_of(mounted))  # its last look
    emulator.reset_counts()

    time.sleep(seconds)

    assert emulator.requests.total() == 0


def test_sizes_are_asked_for_side_by_side(live: Run, mounted: Mounted, emulator: Emulator) -> None:
    """Who looks at several files at once waits for one answer, not for one after the other; each is asked for once."""
    names = [f"case/{number}/U" for number in range(6)]
    for number, name in enumerate(names):
        live.add_live(name, b"x" * number)
    may_answer = threading.Event()
    emulator.faults.add(endpoint="tail", until=may_answer)
    top = mounted.jobs / "LiveR/runs/1"
    with ThreadPoolExecutor(len(names)) as pool:
        sizes = pool.map(lambda name: (top / name).stat().st_size, names)
        wait_for(lambda: emulator.peak["tail"] > 2, SOON_S, lambda: "one after the other")
        may_answer.set()
        assert list(sizes) == list(range(6))
    assert emulator.requests["tail"] == len(names)


# ---- copies ----


@pytest.mark.parametrize("copy", ["cp -a {top}/case {top}/log {to}", "rsync -a {top}/ {to}",
                                  "tar -C {top} -cf {to}.tar . && tar -C {to} -xf {to}.tar"])  # fmt: skip
def test_a_copy_of_a_live_run_is_whole(
    copy: str, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """cp -a, rsync -a and tar copy every file as it was when they came by, never less; one request a file."""
    live.live["log"].replace(LOG)
    for number in range(6):
        live.add_live(f"case/{number}/U", bytes([number]) * (1000 * number))
    top, to = mounted.jobs / "LiveR/runs/1", tmp_path / "to"
    to.mkdir()
    emulator.reset_counts()

    sh(copy.format(top=top, to=to), tmp_path)

    for path, file in live.live.items():
        assert (to / path).read_bytes() == file.read()
    assert emulator.requests["tail"] <= 2 * len(live.live)


@pytest.mark.parametrize("copy", ["cp -a {top}/case {top}/log {to}", "rsync -a {top}/ {to}",
                                  "tar -C {top} -cf {to}/x.tar ."])  # fmt: skip
def test_what_cannot_be_copied_of_a_live_run_is_an_error_that_names_it(
    copy: str, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """A file whose size nobody can tell is an error with its name, never an empty copy; the others are copied."""
    emulator.faults.add(path="/tail/log$", status=400)
    top, to = mounted.jobs / "LiveR/runs/1", tmp_path / "to"
    to.mkdir()

    done = run_in(copy.format(top=top, to=to), tmp_path)

    assert done.returncode != 0
    assert "log" in done.stderr
    assert not (to / "log").exists()
    if "tar" in copy:
        with tarfile.open(to / "x.tar") as packed:
            assert not any(name.endswith("/log") for name in packed.getnames())
    else:
        assert (to / "case/U").read_bytes() == live.live["case/U"].read()


@pytest.mark.parametrize(
    "trickle_s", [1.0, pytest.param(13.0, marks=[pytest.mark.long, pytest.mark.timeout(300)])], ids=["soon", "minutes"]
)
def test_a_copy_over_the_end_of_a_run_is_whole_or_fails(
    trickle_s: float, live: Run, mounted: Mounted, tmp_path: Path
) -> None:
    """rsync while the run ends and its outputs trickle in: each pass copies whole files or fails; the last is all."""
    files = {f"case/{number}/U": bytes([65 + number]) * 50_000 for number in range(4)}
    for path, data in files.items():
        live.add_live(path, data)
    live.trickle_s = trickle_s
    top, to = mounted.jobs / "LiveR/runs/1", tmp_path / "to"
    sh(f"rsync -a {top}/ {to}", tmp_path)
    live.finish()
    give_up_at = time.monotonic() + SOON_S + 6 * trickle_s
    while True:
        refresh(top)
        done = run_in(f"rsync -a --exclude stop --exclude snapshot {top}/ {to}.2", tmp_path)
        for path, data in files.items():
            if (tmp_path / "to.2" / path).exists():
                assert (tmp_path / "to.2" / path).read_bytes() == data
        listed = sum(len(names) for _, _, names in os.walk(top))
        if done.returncode == 0 and listed == 6:
            break
        assert time.monotonic() < give_up_at, done.stderr
    assert sh("diff -r --exclude stop --exclude snapshot to to.2", tmp_path) == ""


# ---- pages of the live file under the final one ----

MAPS = """
import mmap, os, sys
path = sys.argv[1]
def mapped():
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
first = mapped()
print(first[:4].decode(), len(first), flush=True)
for line in sys.stdin:
    second = mapped()
    print(second[:4].decode(), len(second), flush=True)
    second.close()
"""


def test_no_page_of_the_live_file_is_left_under_the_final_one(live: Run, mounted: Mounted) -> None:
    """A private map of a live file, then the final one of the same size opened and mapped: the new bytes."""
    top = mounted.jobs / "LiveR/runs/1"
    live.live["log"].replace(b"live" * 5000)
    with subprocess.Popen(  # a process of its own: a page fault waits for the mount, which asks this process
        [sys.executable, "-c", MAPS, str(top / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"live 20000\n"
        live.live["log"].replace(b"done" * 5000)
        live.finish()
        refresh(top)
        wait_for(lambda: is_final(top), SOON_S, lambda: "not final")
        for _ in range(2):
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done 20000\n"
        process.stdin.close()
    assert (top / "log").read_bytes() == b"done" * 5000


def test_the_final_file_is_read_to_its_end_though_the_live_one_was_shorter(live: Run, mounted: Mounted) -> None:
    """Right after the end the kernel still knows the live file's size; no read of the final one ends there."""
    path = mounted.jobs / "LiveR/runs/1/log"
    assert path.stat().st_size == 9
    live.live["log"].append(b"more\n")
    live.finish()
    refresh(path.parent)
    with open(path, "rb", buffering=0) as file:
        assert path.stat().st_size in (9, 14)
        assert file.read(100) == b"Time = 0\nmore\n"
