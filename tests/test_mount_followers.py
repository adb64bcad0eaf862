"""Many who follow one log on a real mount: every byte, once, for minutes; what they cost together; and less."""

from __future__ import annotations

import os
import pty
import random
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.follow import POLL_S
from tests.conftest import Mounted, wait_for
from tests.test_mount_live import LOG, READER, SOON_S, all_have, following, refresh
from tests.tools import sh

pytestmark = pytest.mark.mount

LONG_S = 600.0
SHORT_S = 8.0


def eight(path: Path) -> dict[str, list[str]]:
    """Four kinds of followers, two of each."""
    kinds = {
        "tail -f": ["tail", "-n", "+1", "-f", str(path)],
        "tail -F": ["tail", "-n", "+1", "-F", str(path)],
        "tail -s": ["tail", "-n", "+1", "-s", "0.3", "-f", str(path)],
        "python": [sys.executable, "-c", READER, str(path)],
    }
    return {f"{name} {number}": command for name, command in kinds.items() for number in (1, 2)}


@pytest.mark.parametrize("has_ranges", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize(
    "seconds",
    [SHORT_S, pytest.param(LONG_S, marks=[pytest.mark.long, pytest.mark.timeout(LONG_S + 120)])],
    ids=["seconds", "minutes"],
)
def test_every_reader_of_a_live_file_has_every_byte_once(
    seconds: float, has_ranges: bool, live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """A log that grows in odd pieces, by one line or by thousands: byte for byte what the run wrote, over its end.

    All of them together cause a look an interval, and in parts that costs the growth and an overlap.
    """
    emulator.habits.tail_honours_range = has_ranges
    log, top, chance = live.live["log"], mounted.jobs / "LiveR/runs/1", random.Random(1)
    log.replace(LOG)
    written = LOG
    with following(eight(top / "log"), tmp_path) as outputs:
        all_have(outputs, LOG, "at first")
        emulator.reset_counts()
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            size = chance.choice([1, 7, 80, 80, 4096, 30_000])
            piece = b"".join(b"%d\n" % chance.getrandbits(80) for _ in range(1 + size // 20))[:size]
            log.append(piece)
            written += piece
            time.sleep(chance.choice([0.05, 0.3, 1.0, 2.5]))
        looks, size = emulator.requests["tail"], emulator.bytes_sent["tail"]
        assert looks <= (time.monotonic() - began) / POLL_S + 2
        if has_ranges and seconds < LONG_S:  # the whole is checked in ten minutes
            assert size <= looks * 5000 + len(written) - len(LOG)
        live.finish()
        wait_for(lambda: bool(live.listed_files()), SOON_S, lambda: "not listed")
        refresh(top)
        all_have(outputs, written, "ended")
    assert b"\0" not in written


def test_a_slow_tail_loses_nothing(live: Run, mounted: Mounted, emulator: Emulator, tmp_path: Path) -> None:
    """With seconds for each answer sizes are late, and never wrong."""
    emulator.faults.add(endpoint="tail", latency_s=3.0)
    log, path = live.live["log"], mounted.jobs / "LiveR/runs/1/log"
    assert path.stat().st_size == 9
    with following(eight(path), tmp_path) as outputs:
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
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "vt100", "LESS": ""}
    seen = b""
    with subprocess.Popen(
        ["less", "+F", path], stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    ) as pager:
        try:

            def shown() -> list[int]:
                nonlocal seen
                while select.select([master], [], [], 0)[0]:
                    seen += os.read(master, 65536)
                return [int(number) for number in re.findall(rb"Time = (\d+)\r", seen)]

            for number in range(1, 4):
                wait_for(lambda last=number: shown() == list(range(last)), SOON_S, lambda: repr(seen))  # type: ignore[misc]
                log.append(b"Time = %d\n" % number)
            wait_for(lambda: shown() == [0, 1, 2, 3], SOON_S, lambda: repr(seen))
        finally:
            pager.kill()
    os.close(master)
    os.close(slave)
