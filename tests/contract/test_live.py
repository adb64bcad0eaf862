"""Live runs and their files, as docs/semantics.md promises them.

More of them, with real followers and copies, are in `test_mount_live.py` and `test_mount_followers.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.follow import POLL_S
from tests.conftest import Mounted, wait_for
from tests.tools import errno_of, refresh, run_in

pytestmark = pytest.mark.mount
SOON_S = 20.0
# Long enough to be followed in parts, no two lines alike.
LOG = b"".join(b"Time = %d\n" % n for n in range(8000))


def test_a_live_file_grows_under_its_reader(live: Run, top: Path) -> None:
    """It sees what is appended, every byte once."""
    seen = b""
    with open(top / "log", "rb", buffering=0) as file:
        for number in (1, 2):
            live.live["log"].append(b"Time = %d\n" % number)

            def grown(number: int = number) -> bool:
                nonlocal seen
                seen += file.read(1000)
                return seen.endswith(b"Time = %d\n" % number)

            wait_for(grown, SOON_S, lambda: f"read {seen!r}")

    assert seen == live.live["log"].read()


def test_the_size_of_a_live_file_is_that_of_the_newest_look(live: Run, top: Path, emulator: Emulator) -> None:
    """The first look after it grew shows it, and no size but those two is ever seen."""
    assert (top / "log").stat().st_size == 9
    live.live["log"].append(b"Time = 1\n")
    sizes = []
    wait_for(lambda: sizes.append((top / "log").stat().st_size) or sizes[-1] != 9, SOON_S, lambda: "no other size")  # type: ignore[func-returns-value]

    assert set(sizes) == {9, 18}
    assert emulator.requests["tail"] == 2


def test_the_size_of_a_live_file_that_cannot_be_had_is_an_error(top: Path, emulator: Emulator) -> None:
    """Never 0."""
    emulator.faults.add(path="/tail/log$", status=400)

    assert errno_of(lambda: (top / "log").stat()) == "EIO"
    done = run_in("ls -l log case", top)
    assert done.returncode != 0
    assert "log" in done.stderr
    assert done.stdout.count(" 7 ") == 1


def test_the_size_of_a_live_file_stays_known_while_rescale_fails(top: Path, emulator: Emulator) -> None:
    """Or does not answer."""
    assert (top / "log").stat().st_size == 9
    assert (top / "case/U").stat().st_size == 7
    failing = emulator.faults.add(path="/tail/log$", status=503)
    slow = emulator.faults.add(path="/tail/case/U$", latency_s=30.0)

    def are_asked() -> bool:
        assert (top / "log").stat().st_size == 9
        assert (top / "case/U").stat().st_size == 7
        return failing.hits > 0 and slow.hits > 0

    wait_for(are_asked, SOON_S, lambda: "not asked again")
    assert are_asked()


@dataclass
class Replaced:
    """A live file that was replaced under three open handles, each of which had read all of it."""

    path: Path
    inode: int
    files: list[BinaryIO]
    seen: list[bytes]  # what a fourth handle has read at offset 5, until it got an error


@pytest.fixture(scope="module")
def replaced(world: World, _mounted: Mounted) -> Iterator[Replaced]:
    run = world.add_job().add_run(live={"log": b"Time = 0\n"})
    path = _mounted.top(run) / "log"
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb", buffering=0)) for _ in range(4)]
        assert [os.pread(file.fileno(), 100, 0) for file in files] == [b"Time = 0\n"] * 4
        found = Replaced(path, path.stat().st_ino, files, [])
        run.live["log"].replace(b"new text")

        def is_stale() -> bool:
            with contextlib.suppress(OSError):
                found.seen.append(os.pread(files[3].fileno(), 4, 5))
            path.stat()
            return errno_of(os.pread, files[3].fileno(), 4, 5) == "ESTALE"

        wait_for(is_stale, SOON_S, lambda: "it is never stale")
        yield found


def test_bytes_of_a_live_file_that_were_read_stay_the_same_for_that_handle(replaced: Replaced) -> None:
    """Until it is an error."""
    assert set(replaced.seen) == {b"= 0\n"}


def test_a_live_file_that_was_replaced_gives_estale(replaced: Replaced) -> None:
    for offset in (1, 5, 9, 1000):
        assert errno_of(os.pread, replaced.files[0].fileno(), 10, offset) == "ESTALE"


def test_a_read_at_offset_0_starts_over_with_the_file_that_replaced_it(replaced: Replaced) -> None:
    file = replaced.files[1].fileno()

    assert os.pread(file, 100, 0) == b"new text"
    assert os.pread(file, 100, 4) == b"text"
    assert os.pread(file, 100, 8) == b""


def test_a_live_file_that_is_replaced_keeps_its_inode_number(replaced: Replaced) -> None:
    assert (replaced.path.stat().st_ino, replaced.path.stat().st_size) == (replaced.inode, 8)


def test_a_live_file_is_asked_for_once_in_2_s_however_many_read_it(live: Run, top: Path, emulator: Emulator) -> None:
    """Handles and stats of several threads, for two intervals at least."""
    began = time.monotonic()

    def follow(number: int) -> int:
        reads = 0
        with open(top / "log", "rb", buffering=0) as file:
            while emulator.requests["tail"] < 3 and time.monotonic() - began < SOON_S:
                if number % 2:
                    file.read(100)
                else:
                    (top / "log").stat()
                live.live["log"].append(b"x")
                reads += 1
                time.sleep(0.05)
        return reads

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(follow, range(6))) > 60

    looks = emulator.requests["tail"]
    assert 3 <= looks <= 1 + (time.monotonic() - began) / POLL_S


def test_files_of_a_live_run_stay_when_rescale_fails_to_list_them(top: Path, emulator: Emulator) -> None:
    for effect in ({"status": 500}, {"status": 404}, {"body": b"{}"}, {"body": b"[]"}):
        assert os.listdir(top / "case") == ["U"]
        fault = emulator.faults.add(endpoint="directory_contents", **effect)
        refresh(top)
        assert sorted(os.listdir(top)) == ["case", "log", "snapshot", "stop"]
        assert (top / "log").read_bytes() == b"Time = 0\n"
        assert fault.hits > 0
        emulator.faults.remove(fault)
        refresh(top)


@pytest.mark.parametrize("effect", [{"status": 500}, {"drop": True}, {"body": b"<html>"}], ids=str)
def test_a_live_run_whose_files_rescale_fails_to_list_is_an_error_at_first(
    effect: dict[str, Any], live: Run, top: Path, emulator: Emulator
) -> None:
    """Its outputs alone would be a short listing; what it is called and how it is stopped does not depend on it."""
    live.add_file("snapshot_1.tar.gz", b"packed")
    fault = emulator.faults.add(endpoint="directory_contents", **effect)
    for _ in range(2):
        assert errno_of(os.listdir, top) == "EIO"
        assert errno_of(os.stat, top / "log") == "EIO"
        assert (top / ".rescale/status").read_bytes() == b"live\n"
        assert b"no stop was asked for" in (top / ".rescale/stop").read_bytes()
    emulator.faults.remove(fault)
    assert sorted(os.listdir(top)) == ["case", "log", "snapshot", "snapshot_1.tar.gz", "stop"]


@pytest.fixture
def cost_of_growth(world: World, mounted: Mounted, emulator: Emulator) -> Callable[[bytes], int]:
    """Have a file of some text looked at when it has grown by a line; return how many bytes were sent for that."""

    def cost(text: bytes) -> int:
        emulator.habits.tail_honours_range = True
        run = world.add_job().add_run(live={"log": text})
        path = mounted.top(run) / "log"
        assert path.read_bytes() == text
        emulator.reset_counts()
        run.live["log"].append(b"one more line\n")
        wait_for(lambda: path.stat().st_size > len(text), SOON_S, lambda: "not seen to grow")
        looks, sent_bytes = emulator.requests["tail"], emulator.bytes_sent["tail"]
        assert path.read_bytes() == text + b"one more line\n"
        assert looks == 1
        return sent_bytes

    return cost


def test_of_a_large_text_that_grows_only_the_end_is_fetched(cost_of_growth: Callable[[bytes], int]) -> None:
    assert cost_of_growth(LOG) < 6000


def test_a_file_with_nul_bytes_is_read_whole_at_each_look(cost_of_growth: Callable[[bytes], int]) -> None:
    text = b"\0" + LOG

    assert cost_of_growth(text) > len(text)
