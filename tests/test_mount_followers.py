"""Many who follow one log on a real mount: every byte, once, for minutes; what they cost together; and less."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.follow import POLL_S
from tests.conftest import Mounted, wait_for
from tests.test_mount_live import LOG, READER, SOON_S, all_have, following, refresh, serve_tail
from tests.tools import sh

pytestmark = pytest.mark.mount

LONG_S = 600.0
SHORT_S = 8.0


def six(path: Path) -> dict[str, list[str]]:
    """Three kinds of followers whose output is what they read, two of each."""
    kinds = {
        "tail -f": ["tail", "-n", "+1", "-f", str(path)],
        "tail -F": ["tail", "-n", "+1", "-s", "0.3", "-F", str(path)],
        "python": [sys.executable, "-c", READER, str(path)],
    }
    return {f"{name} {number}": command for name, command in kinds.items() for number in (1, 2)}


@contextlib.contextmanager
def on_terminal(*command: str | Path) -> Iterator[tuple[Callable[[], bytes], subprocess.Popen[bytes]]]:
    """Run a program on a terminal; what it has put there is told by who is yielded, who has to be asked often."""
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "vt100", "LESS": ""}
    seen = bytearray()

    def shown() -> bytes:
        while select.select([master], [], [], 0)[0]:
            seen.extend(os.read(master, 65536))
        return bytes(seen)

    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    ) as program:
        try:
            yield shown, program
        finally:
            program.kill()
    os.close(master)
    os.close(slave)


@contextlib.contextmanager
def paging(path: Path) -> Iterator[Callable[[], bytes]]:
    """Run less +F on a terminal."""
    with on_terminal("less", "+F", path) as (shown, _):
        yield shown


def live_stats(mounted: Mounted) -> dict[str, int]:
    """Return what the mount counts of live files."""
    lines = (mounted.path / ".rescale/stats").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines) if name.startswith("live.")}


def takes_minutes(how: str) -> Any:
    """Return a case for the long run."""
    return pytest.param(LONG_S, how, marks=[pytest.mark.long, pytest.mark.timeout(LONG_S + 120)], id=f"minutes-{how}")


@pytest.mark.parametrize(
    ("seconds", "how"),
    [
        pytest.param(SHORT_S, "parts", id="seconds-parts"),
        takes_minutes("whole"),
        takes_minutes("parts"),
        takes_minutes("joins"),
    ],
)
def test_every_reader_of_a_live_file_has_every_byte_once(
    seconds: float, how: str, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """A log that grows in odd pieces, by one line or by thousands: byte for byte what the run wrote, over its end.

    All of them together cause a look an interval; in parts that costs the growth and an overlap, with joins some more.
    """
    serve_tail(emulator, how)
    log, top, chance = live.live["log"], mounted.jobs / "LiveR/runs/1", random.Random(1)
    log.replace(LOG)
    written = LOG
    with (
        following(six(top / "log"), tmp_path) as outputs,
        paging(top / "log") as one_shows,
        paging(top / "log") as other_shows,
    ):
        all_have(outputs, LOG, "at first")
        began = time.monotonic()
        looks_before = live_stats(mounted)["live.looks"]
        emulator.reset_counts()
        while time.monotonic() - began < seconds:
            size = chance.choice([1, 7, 80, 80, 4096, 30_000])
            piece = b"".join(b"%d\n" % chance.getrandbits(80) for _ in range(1 + size // 20))[:size]
            log.append(piece)
            written += piece
            time.sleep(chance.choice([0.05, 0.3, 1.0, 2.5]))
            one_shows(), other_shows()
        requests, size = emulator.requests["tail"], emulator.bytes_sent["tail"]
        stats = live_stats(mounted)  # after these: some of its looks may be later, and none of them is lacking
        looks = stats["live.looks"] - looks_before
        assert looks <= (time.monotonic() - began) / POLL_S + 2
        if how == "joins":
            assert stats["live.joins"] >= looks / 3  # a burst is read whole
        else:  # without ranges, lines are asked for now and then all the same
            assert requests <= looks + (1 if how == "parts" else 8)
        if how == "parts" and seconds < LONG_S:  # the whole is checked in ten minutes
            assert size <= looks * 5000 + len(written) - len(LOG)
        assert (stats["live.replaced"], stats["live.refuted"]) == (0, 0)
        last = written.splitlines()[-3]
        for shows in (one_shows, other_shows):
            wait_for(lambda: last in shows(), SOON_S, lambda: f"less shows {shows()[-500:]!r}")  # noqa: B023
        live.finish()
        wait_for(lambda: bool(live.listed_files()), SOON_S, lambda: "not listed")
        refresh(top)
        all_have(outputs, written, "ended")


@pytest.mark.parametrize("how", ["whole", "parts", "joins"])
def test_tail_f_shows_a_line_at_the_next_look(
    how: str, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """However the platform serves the log; no other line has to follow. A look may be under way when it is written."""
    serve_tail(emulator, how)
    log, path = live.live["log"], mounted.jobs / "LiveR/runs/1/log"
    log.replace(LOG)
    with following({"tail": ["tail", "-n", "1", "-f", str(path)]}, tmp_path) as outputs:
        shown = outputs["tail"]
        wait_for(lambda: shown.read_bytes() == b"Time = 7999\n", SOON_S, lambda: repr(shown.read_bytes()))
        wait_for(lambda: live_stats(mounted)["live.looks"] >= 2, SOON_S, lambda: str(live_stats(mounted)))
        most = 2 if how == "parts" else 3  # lines are asked for in vain at times
        for number in range(2):
            is_shown = threading.Event()
            later = emulator.faults.add(endpoint="tail", skip=most, until=is_shown)
            log.append(b"line %d\n" % number)
            wait_for(lambda line=b"line %d" % number: line in shown.read_bytes(), SOON_S, lambda: "not shown")  # type: ignore[misc]
            is_shown.set()
            emulator.faults.remove(later)


def test_a_slow_tail_loses_nothing(live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path) -> None:
    """With seconds for each answer sizes are late, and never wrong."""
    emulator.faults.add(endpoint="tail", latency_s=3.0)
    log, path = live.live["log"], mounted.jobs / "LiveR/runs/1/log"
    assert path.stat().st_size == 9
    with following(six(path), tmp_path) as outputs:
        all_have(outputs, b"Time = 0\n", "at first")
        log.append(b"Time = 1\n")
        all_have(outputs, b"Time = 0\nTime = 1\n", "grown")


def test_tools_that_look_again_see_what_is_new(live: Run, mounted: Mounted) -> None:
    """grep, cat and wc on a log that grows: each time the log as it is by then."""
    top, log = mounted.jobs / "LiveR/runs/1", live.live["log"]
    for number in range(1, 4):
        log.append(b"Time = %d\n" % number)
        wait_for(lambda last=number: f"Time = {last}\n" in sh("cat log", top), SOON_S, lambda: "not seen")  # type: ignore[misc]
        assert sh("grep -c Time log", top) == f"{number + 1}\n"
        assert sh("wc -c < log", top) == f"{len(log.read())}\n"
        assert sh("tail -n 1 log", top) == f"Time = {number}\n"


def test_less_follows(live: Run, mounted: Mounted) -> None:
    """less +F on a terminal shows each line once, in order."""
    path, log = mounted.jobs / "LiveR/runs/1/log", live.live["log"]
    with paging(path) as shows:

        def numbers() -> list[int]:
            return [int(number) for number in re.findall(rb"Time = (\d+)\r", shows())]

        for number in range(1, 4):
            wait_for(lambda last=number: numbers() == list(range(last)), SOON_S, lambda: repr(shows()))  # type: ignore[misc]
            log.append(b"Time = %d\n" % number)
        wait_for(lambda: numbers() == [0, 1, 2, 3], SOON_S, lambda: repr(shows()))


def test_watch_sees_a_log_grow(live: Run, mounted: Mounted) -> None:
    """`watch --chgexit cat` shows the log, and ends when that shows more."""
    with on_terminal("watch", "-g", "-n", "1", "cat", mounted.jobs / "LiveR/runs/1/log") as (shows, watch):
        wait_for(lambda: b"Time = 0" in shows(), SOON_S, lambda: repr(shows()))
        for _ in range(2):  # looks at what is the same
            time.sleep(1)
            assert watch.poll() is None
        live.live["log"].append(b"Time = 1\n")
        wait_for(lambda: bool(shows()) and watch.poll() is not None, SOON_S, lambda: repr(shows()))
        assert watch.returncode == 0
