"""How a mount asks, as docs/semantics.md promises it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rescalefs.budget import DEFAULT_RATES
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.tools import distinct, refresh

pytestmark = pytest.mark.mount


def stats_of(mounted: Mounted) -> dict[str, float]:
    """What `.rescale/stats` tells, but for what is no number."""
    lines = (line.split(" ", 1) for line in (mounted.path / ".rescale/stats").read_text().splitlines())
    return {name: float(value) for name, value in lines if value.replace(".", "", 1).isdigit()}


def test_requests_of_a_scope_are_paced_at_its_rate(
    world: World, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """However many threads ask, at no moment have more gone out than a burst and the rate allow."""
    mounted = mount_of(emulator, "--rate", "jobs-usage=8:4")
    os.listdir(mounted.jobs)
    jobs = [world.add_job() for _ in range(12)]
    emulator.reset_counts()
    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        found = [pool.submit(os.stat, mounted.jobs / job.id) for job in jobs]
        while not all(future.done() for future in found):
            asked = emulator.requests["job"]
            assert asked <= 4 + 8 * (time.monotonic() - began) + 1
            time.sleep(0.02)
    assert emulator.requests["job"] == len([future.result() for future in found]) == 12


@pytest.fixture
def throttled(mount_of: Callable[..., Mounted], emulator: Emulator) -> Mounted:
    """A mount with a rate of 8 a second for names, which has just met a 429 that says 1 s."""
    mounted = mount_of(emulator, "--rate", "jobs-usage=8:20")
    assert stats_of(mounted)["rate.jobs-usage"] == 8
    fault = emulator.faults.add(endpoint="jobs", times=1, status=429, headers={"Retry-After": "1"})
    os.listdir(mounted.jobs)
    assert fault.hits == 1
    return mounted


def test_a_429_stops_all_requests_for_as_long_as_it_says(
    world: World, run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Those of other scopes too."""
    stop_s = 3
    mounted = mount_of(emulator)
    os.listdir(mounted.top(run))
    run.add_file("file", distinct(run.job.id, 1000))
    refresh(mounted.top(run))
    os.listdir(mounted.top(run))
    emulator.faults.add(endpoint="job", times=1, status=429, headers={"Retry-After": f"{stop_s}"})
    emulator.reset_counts()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(os.stat, mounted.jobs / world.add_job().id)
        wait_for(lambda: stats_of(mounted)["throttled_s"] == stop_s, 10, lambda: "no answer")
        reading = pool.submit((mounted.top(run) / "file").read_bytes)
        while True:
            count = emulator.requests.total()
            if time.monotonic() - began >= stop_s * 0.8:  # it may have been counted later
                break
            assert count == 1
            time.sleep(0.02)
        assert len(reading.result()) == 1000
        listing.result()


def test_a_429_halves_the_rate_of_its_scope(throttled: Mounted) -> None:
    """And of no other; answers let it grow again."""
    stats = stats_of(throttled)

    assert 4 <= stats["rate.jobs-usage"] < 5
    assert stats["rate.runs-usage"] >= DEFAULT_RATES["runs-usage"].per_s
    assert stats["throttled_s"] == 1


def test_a_mount_begins_at_the_rates_that_the_last_one_learnt(throttled: Mounted) -> None:
    left = stats_of(throttled)["rate.jobs-usage"]
    throttled.unmount()
    throttled.mount()

    assert left - 0.1 < stats_of(throttled)["rate.jobs-usage"] < (left + 8) / 2  # each answer adds a little


def test_rescale_stats_counts_requests_hits_misses_and_bytes(run: Run, mounted: Mounted, emulator: Emulator) -> None:
    for file in list(run.files):
        file.is_deleted = True
    run.add_file("file", distinct(run.job.id, 100_000))
    before = stats_of(mounted)
    emulator.reset_counts()

    path = mounted.top(run) / "file"
    assert len(path.read_bytes()) == 100_000
    between = stats_of(mounted)
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else the kernel asks the mount for nothing
    assert len(path.read_bytes()) == 100_000
    after = stats_of(mounted)

    for name, count in emulator.requests.items():
        assert after[f"requests.{name}"] - before.get(f"requests.{name}", 0) == count
    assert after["content.fetched_bytes"] - before["content.fetched_bytes"] == 100_000
    assert between["content.misses"] > before["content.misses"]
    assert after["content.hits"] > between["content.hits"]
    assert after["content.misses"] == between["content.misses"]


def test_rescale_stats_tells_the_present_rate_of_each_scope(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator)
    os.listdir(mounted.top(run))
    stats = stats_of(mounted)

    for scope, rate in DEFAULT_RATES.items():
        assert stats[f"rate.{scope}"] >= rate.per_s


def test_rescale_transfers_has_a_line_for_each_range_of_a_file_that_is_on_its_way(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """File, range, how much has come, that somebody waits, and the path on one line."""
    mounted = mount_of(emulator)
    file = run.add_file("case/new\nline", distinct(run.job.id, 3_000_000))
    emulator.faults.add(endpoint="contents", stall_after=1_000_000, times=1)

    def read() -> None:
        with contextlib.suppress(OSError):  # the mount ends before the bytes come
            (mounted.top(run) / "case/new\nline").read_bytes()

    reader = threading.Thread(target=read)
    assert (mounted.path / ".rescale/transfers").read_bytes() == b""
    reader.start()
    lines: list[str] = []

    def is_told() -> bool:
        lines[:] = (mounted.path / ".rescale/transfers").read_text().splitlines()
        return bool(lines)

    wait_for(is_told, 20, lambda: "nothing is on its way")
    assert lines == [f"{file.id} 0-3000000 0 read case/new\\nline"]  # a small file comes whole, or not at all
    mounted.unmount()
    reader.join(20)
