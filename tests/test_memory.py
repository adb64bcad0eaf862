"""What a mount remembers depends on what there is, not on how often it was looked at."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.drivers import InProcess

CONTAINERS = (dict, list, set, frozenset, deque, Mapping)
WARM_CYCLES, CYCLES = 2, 5
# Beyond all lifetimes of listings, and beyond the pauses after failures.
LATER_S = 70.0
TOPS = ("/jobs/FinaA/runs/1", "/jobs/FinaB/runs/1", "/jobs/LiveR/runs/1")


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(thing, name):
                yield name, getattr(thing, name)


def sizes(*roots: object) -> Counter[str]:
    """How many things are in all containers that our objects have, by class and field."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[object] = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Mapping):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, CONTAINERS):
            waiting += thing
        elif type(thing).__module__.startswith("rescalefs."):
            for name, value in attributes(thing):
                if isinstance(value, Collection) and isinstance(value, CONTAINERS):
                    found[f"{type(thing).__name__}.{name}"] += len(value)
                waiting.append(value)
        elif callable(thing):  # what a lambda or a bound method holds on to
            waiting += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
            waiting.append(getattr(thing, "__self__", None))
    return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


def test_looking_again_and_again_makes_nothing_grow(
    world: World, emulator: Emulator, clock: ManualClock, tmp_path: Path
) -> None:
    """Everything is looked at, read, refreshed, and missed under ever new names, with faults; nothing grows by it."""
    files = {f"case/{number % 3}/{number}": hashlib.shake_128(b"%d" % number).digest(9_000) for number in range(6)}
    for job in ("FinaA", "FinaB"):
        world.add_job(job).add_run(finished=True, files={**files, "big": bytes(5 << 20)})
    live = world.add_job("LiveR").add_run(live={f"d{number}/log": b"Time = 0\n" * 10_000 for number in range(2)})
    driver = InProcess(emulator, tmp_path, clock, cache_bytes=1 << 30)
    history = []
    for cycle in range(CYCLES):
        with contextlib.suppress(OSError):
            driver.stat(f"/jobs/No{cycle:03}")
        for top in TOPS:
            look_around(driver, top, f"nothing{cycle}")
        for number in range(2):
            live.live[f"d{number}/log"].append(b"Time = %d\n" % cycle)
        for effects in ({"status": 503}, {"endpoint": "contents", "wrong_byte_at": 7}, {"cut_after": 40}):
            fault = emulator.faults.add(**effects)
            driver.wait(LATER_S)
            command(driver, "/.rescale/refresh")
            for top in TOPS:
                look_around(driver, top, "other")
            emulator.faults.remove(fault)
        driver.wait(LATER_S)
        for path in ("/.rescale/refresh", "/jobs/FinaA/.rescale/refresh", f"{TOPS[1]}/.rescale/refresh"):
            command(driver, path)
        history.append(sizes(driver._mount, driver.operations))
    grown = {
        name: [seen[name] for seen in history]
        for name, count in history[-1].items()
        if count > max(seen[name] for seen in history[:WARM_CYCLES])
    }
    assert grown == {}
    assert {"Known._timed", "Listings._refreshed", "Follower._files", "ContentEngine._contents"} < set(history[-1])
    driver.finish()


def look_around(driver: InProcess, top: str, missing: str) -> None:
    """List, stat and read all below a directory, and look for what is not there."""
    waiting = [top]
    while waiting:
        place = waiting.pop()
        for name in (missing, f"{missing}/below"):
            with contextlib.suppress(OSError):
                driver.stat(f"{place}/{name}")
        with contextlib.suppress(OSError):
            for name in driver.names(place):
                path = f"{place}/{name}"
                with contextlib.suppress(OSError):
                    mode, size, _ = driver.stat(path)
                    if mode & 0o170000 == 0o040000:
                        waiting.append(path)
                        continue
                    driver.xattr(path, "user.rescale.state")
                    number = driver.open(path)
                    try:
                        for offset in range(0, size, 1 << 20):
                            driver.read(number, offset, 1 << 20)
                    finally:
                        driver.close(number)


def command(driver: InProcess, path: str) -> None:
    number = driver.open(path, 1)
    try:
        driver.write(number, b"1")
    finally:
        driver.close(number)
