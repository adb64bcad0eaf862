"""Everything at once for some time: programs, faults, a small cache, killed readers; then nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from tests.conftest import Mounted, wait_for
from tests.stress_worker import FILES, FINAL_JOBS, MIB, Generated, line, stress_world

pytestmark = pytest.mark.mount

# How long the long test takes.
SECONDS = float(os.environ.get("STRESS_S", "600"))
METADATA_S, DATA_S = 3.0, 6.0
# A path goes through so many directories; each may have to be asked for, and then the file itself.
STEPS = 7
# A machine under load. What hangs takes longer.
GRACE_S = 20.0
PROCESSES, THREADS = 2, 4
FAULTS_AT_ONCE = 3
# Pools of the mount, its own few threads, and what a FUSE library keeps idle (10).
MAX_THREADS_LEFT = 16 + 16 + 8 + 32 + 4 + 10 + 16
# Kept connections and open segments of the cache; both have a bound.
MAX_DESCRIPTORS_LEFT = 64 + 128 + 40
RSS_GROWTH = 1.15
RSS_GROWTH_BYTES = 24 * MIB

# Several at a time, each for some requests of one endpoint. Those that alter bytes are for files that come whole.
EVERYWHERE: list[dict[str, Any]] = [
    {"status": 500},
    {"late_status": 503, "body": b"<html>"},
    {"status": 429, "retry_after": 1},
    {"latency_s": 1.0},
    {"latency_s": 8.0},
    {"stream_bytes_per_s": 100},
    {"stream_bytes_per_s": 200_000},
    {"stall_after": 50},
    {"cut_after": 20},
    {"drop": True},
]
OF_LISTINGS: list[dict[str, Any]] = [{"bad_json": True}, {"truncated_json": True}, {"body": b"<html>"}, {"body": b"[]"}]
OF_CONTENTS: list[dict[str, Any]] = [
    {"short_by": 7},
    {"ignore_range": True},
    {"headers": {"Content-Range": "bytes 1-2/3"}},
]
# Not the live view, without which a live file is not there.
LISTINGS = ["jobs", "runs", "run_files", "statuses"]


class Usage(NamedTuple):
    """What a process has."""

    rss_bytes: int
    threads: int


def usage_of(pid: int) -> Usage:
    fields = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Usage(int(fields["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/task")))


class Trouble:
    """Makes faults, lets the live run go on, kills readers and looks at the mount's process, until told to stop."""

    def __init__(self, emulator: Emulator, mounted: Mounted, live: Run, seed: int) -> None:
        self._emulator = emulator
        self._mounted = mounted
        self._live = live
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self.killed = 0
        self.faults: Counter[str] = Counter()
        self.usages: list[Usage] = []

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        works = [*[self._make_faults] * FAULTS_AT_ONCE, self._grow, self._kill_readers, self._look]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
            self._emulator.faults.clear()

    def _make_faults(self) -> None:
        while not self._ended.wait(self._random.random() / 2):
            endpoint = self._random.choice([*LISTINGS, *["contents"] * 8, "tail"])
            more = OF_CONTENTS if endpoint == "contents" else OF_LISTINGS if endpoint in LISTINGS else []
            effects = self._random.choice([*EVERYWHERE, *more])
            path = None
            if endpoint == "contents" and self._random.random() < 0.2:
                run = self._emulator.world.jobs[self._random.choice(FINAL_JOBS)].runs["1"]
                small = [file for file in run.files if 7 < file.content.size <= 4 * MIB]
                effects, path = {"wrong_byte_at": 7}, f"/files/{self._random.choice(small).id}/"
            fault = self._emulator.faults.add(
                endpoint=endpoint, path=path, times=self._random.choice([1, 5, 50]), **effects
            )
            self._ended.wait(self._random.random() * 4)
            self._emulator.faults.remove(fault)
            self.faults[next(iter(effects))] += fault.hits

    def _grow(self) -> None:
        number = 1
        while not self._ended.wait(0.5):
            self._live.live["log"].append(b"".join(line(number + more) for more in range(20)))
            number += 20

    def _kill_readers(self) -> None:
        while not self._ended.wait(0.3):
            top = self._mounted.jobs / self._random.choice(FINAL_JOBS) / "runs/1"
            paths = [str(top / name) for name in self._random.sample(list(FILES), 10)]
            reader = subprocess.Popen(["cat", *paths], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._ended.wait(self._random.random())
            reader.kill()
            reader.wait(METADATA_S + DATA_S + GRACE_S)
            self.killed += 1

    def _look(self) -> None:
        assert self._mounted.process is not None
        while not self._ended.wait(0.5):
            self.usages.append(usage_of(self._mounted.process.pid))


def stress(mount_of: Callable[..., Mounted], seconds: float, seed: int) -> dict[str, Any]:
    """Do it, assert what must hold however long it takes, and return what was seen."""
    world, live = stress_world()
    with Emulator(world) as emulator:
        mounted = mount_of(
            emulator,
            *("--metadata-deadline", str(METADATA_S), "--data-deadline", str(DATA_S), "--log-level", "info"),
            *("--cache-size", "24M"),
            RESCALEFS_BUDGET="off",
        )
        assert mounted.process is not None
        trouble = Trouble(emulator, mounted, live, seed)
        workers = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.stress_worker",
                    mounted.path,
                    str(THREADS),
                    str(seed + number),
                    str(seconds),
                ],
                stdout=subprocess.PIPE,
            )
            for number in range(PROCESSES)
        ]
        with trouble.going_on():
            reports = [json.loads(worker.communicate()[0]) for worker in workers]
        counts, errors = (sum((Counter(each[name]) for each in reports), Counter()) for name in ("counts", "errors"))
        slowest = {name: max(each["slowest"].get(name, 0.0) for each in reports) for name in reports[0]["slowest"]}
        seen = {
            "operations": sum(counts.values()),
            "errors": dict(errors),
            "slowest_s": {name: round(took_s, 2) for name, took_s in slowest.items()},
            "killed": trouble.killed,
            "faults": dict(trouble.faults),
            "requests": dict(emulator.requests),
            "rss_mib": [usage.rss_bytes // MIB for usage in trouble.usages[:: max(1, len(trouble.usages) // 10)]],
            "threads": max(usage.threads for usage in trouble.usages),
        }
        print(f"\n{json.dumps(seen)}")
        assert [text for each in reports for text in each["wrong"]] == []
        assert max(slowest.values()) < STEPS * METADATA_S + 2 * DATA_S + GRACE_S, slowest
        assert "unforeseen" not in mounted.log
        assert "Traceback" not in mounted.log
        all_is_well(mounted)
        wait_for(lambda: not any(emulator._under_way.values()), 60, lambda: f"{emulator._under_way} go on")
        # The kernel tells of the end of a killed reader when it comes to it.
        open_or_busy = ("files", "directories", "operations")
        wait_for(lambda: not any(map(mounted.state().get, open_or_busy)), 30, lambda: f"{mounted.state()}")
        transfers = mounted.path / ".rescale/transfers"
        wait_for(lambda: transfers.read_text() == "", 30, transfers.read_text)
        left = mounted.state()
        print(f"left: {left}")
        assert left["threads"] <= MAX_THREADS_LEFT
        assert left["descriptors"] <= MAX_DESCRIPTORS_LEFT
        seen["usages"] = trouble.usages
        mounted.unmount()
    return seen


def all_is_well(mounted: Mounted) -> None:
    """After all faults every file of the final runs is there and right."""
    status = mounted.path / ".rescale/status"

    def is_right(path: Path, content: Generated) -> bool:
        try:
            return path.read_bytes() == content.read(0, content.size)
        except OSError:
            return False  # the breaker, or a request that a fault has hit before it ended

    for job in FINAL_JOBS:
        for path, content in FILES.items():
            place = mounted.jobs / job / "runs/1" / path
            wait_for(partial(is_right, place, content), 60, lambda: f"not all is well: {status.read_text()}")
    wait_for(lambda: status.read_text() == "online\n", 20, status.read_text)


@pytest.mark.timeout(180)
def test_everything_at_once(mount_of: Callable[..., Mounted]) -> None:
    """Some seconds of it."""
    stress(mount_of, 8, seed=1)


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 300)
def test_everything_at_once_for_long(mount_of: Callable[..., Mounted]) -> None:
    """Ten minutes of it; memory does not grow."""
    seen = stress(mount_of, SECONDS, seed=2)
    usages = seen["usages"]
    third = len(usages) // 3
    before, after = (
        sum(usage.rss_bytes for usage in part) / third for part in (usages[third : 2 * third], usages[-third:])
    )
    assert sum(seen["faults"].values()) > SECONDS
    assert after <= before * RSS_GROWTH + RSS_GROWTH_BYTES, seen["rss_mib"]
