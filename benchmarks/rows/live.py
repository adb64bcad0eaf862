"""Logs of live runs under `tail -f`: how late a line is shown, and what a look costs."""

from __future__ import annotations

import random
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import mounts
from benchmarks.bench import Bench
from benchmarks.checks import Outcome
from benchmarks.client import Origin
from benchmarks.readers import Failed
from rescalefs.emulator.endpoints import Habits
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World

LOG = b"".join(b"Time = %d\n" % number for number in range(80_000))
# How the platform may serve a live file.
WAYS: Mapping[str, Habits] = {
    "whole files": Habits(tail_knows_lines=False),
    "ranges": Habits(tail_honours_range=True),
    "last lines": Habits(),
}
# A line is shown at the next look but one of `tail -f`, which looks every second, and by then is asked for every two.
SHOWN_S = 3.0
# The least and the most time between two lines.
PAUSES_S = 0.5, 3.5
GIVEN_UP_S = 60.0


class Late(NamedTuple):
    """How late each line was, and how many bytes a look brought."""

    seconds: list[float]
    look_bytes: float


@dataclass
class _Tail:
    """A running `tail -f`."""

    process: subprocess.Popen[bytes]
    shown: bytes = b""

    def wait_for(self, line: bytes, deadline_s: float) -> None:
        """Return when *line* is shown.

        Raises:
            Failed: it is not.
        """
        assert self.process.stdout is not None
        give_up_at = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while line not in self.shown:
                if not ready.select(give_up_at - time.monotonic()):
                    raise Failed(f"tail -f does not show {line!r}")
                data = self.process.stdout.read1(65536)  # type: ignore[attr-defined]
                if not data:
                    raise Failed("tail -f has ended")
                self.shown += data


@contextmanager
def _tail(path: object) -> Iterator[_Tail]:
    process = subprocess.Popen(["tail", "-n", "1", "-f", str(path)], stdout=subprocess.PIPE)
    try:
        yield _Tail(process)
    finally:
        process.kill()
        process.communicate()


def follow(bench: Bench, row: Outcome) -> None:
    """tail -f of a log of 1 MB that grows by a line, from its writing to its text on the screen."""
    with ThreadPoolExecutor(len(WAYS)) as pool:
        flights = {how: pool.submit(_follow, bench, habits) for how, habits in WAYS.items()}
    for how, flight in flights.items():
        late = flight.result()
        row.figure(how, late.seconds)
        row.figure(f"bytes of a look at {how}", [late.look_bytes], "bytes")
        row.at_most(f"slowest with {how}", max(late.seconds), SHOWN_S, "s")


def _follow(bench: Bench, habits: Habits) -> Late:
    world, chance = World(), random.Random(repr(habits))
    log = world.add_job("LiveR").add_run(live={"log": LOG}).live["log"]
    with Emulator(world) as emulator:
        vars(emulator.habits).update(vars(habits))
        origin = Origin(emulator.origin, emulator.key)
        with mounts.rescalefs(bench.new_home(), origin, bench.binding, has_budget=True) as mount:
            with _tail(mount.file("LiveR/log")) as tail:
                tail.wait_for(b"Time = 79999\n", GIVEN_UP_S)
                time.sleep(2 * SHOWN_S)  # it learns how the platform serves the file
                emulator.reset_counts()
                seconds = []
                for number in range(bench.sizes.followed_lines):
                    time.sleep(chance.uniform(*PAUSES_S))
                    log.append(b"line %d of those that are measured.\n" % number)
                    written_at = time.monotonic()
                    tail.wait_for(b"line %d of those that are measured." % number, GIVEN_UP_S)
                    seconds.append(time.monotonic() - written_at)
            return Late(seconds, emulator.bytes_sent["tail"] / max(1, emulator.requests["tail"]))
