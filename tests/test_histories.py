"""Histories of a mount against the reference model, in process and through the kernel: see `tests/histories.py`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import Mounted, mount_at
from tests.drivers import Driver, InProcess, ThroughKernel
from tests.histories import Machine

# One that holds all, one that evicts, one that is too small for a segment, so that blocks stay in memory.
CACHE_BYTES = st.sampled_from([1 << 30, 1 << 30, 12 << 20, 1 << 20])
QUICK = 30
LONG = 1250
SHARDS = 8
STEPS = 25
# On a mount of each binding; one mount serves them all.
MOUNTED, MOUNTED_LONG = 10, 250
# One that evicts: the largest contents are of 8 MiB.
MOUNTED_CACHE_BYTES = 12 << 20
Record = Callable[[str, object], None]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


class InProcessMachine(Machine):
    """One whose mount is new for each history, without FUSE."""

    clock: ManualClock

    @contextmanager
    def driving(self, draws: st.DataObject) -> Iterator[Driver]:
        cache_bytes = draws.draw(CACHE_BYTES, "cache bytes")
        with tempfile.TemporaryDirectory(prefix="rescalefs-history-") as directory:
            driver = InProcess(self.emulator, Path(directory), self.clock, cache_bytes=cache_bytes)
            yield driver
            driver.finish()


def play(machine: type[Machine], histories: int, record: Record) -> None:
    """Play so many histories, and record how many there were."""
    machine.made = machine.steps = 0
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=histories,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    finally:
        record("histories", machine.made)
        record("steps", machine.steps)


@pytest.mark.parametrize(
    "histories",
    [
        QUICK,
        *(
            pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(1200)], id=f"{LONG}-{n}")
            for n in range(SHARDS)
        ),
    ],
)
def test_any_history_is_as_the_model_says(
    emulator: Emulator, clock: ManualClock, histories: int, record_property: Record
) -> None:
    """In process, over HTTP on loopback: whatever happened, what is shown is true, and nothing is left of it."""
    machine = type("History", (InProcessMachine,), {"emulator": emulator, "clock": clock})
    play(machine, histories, record_property)


class MountedMachine(Machine):
    """One that drives a real mount, the same for all histories; in some of them it is killed, and mounted again."""

    mounted: Mounted

    @contextmanager
    def driving(self, draws: st.DataObject) -> Iterator[Driver]:
        driver = ThroughKernel(self.mounted, MOUNTED_CACHE_BYTES)
        number = driver.open("/.rescale/refresh", os.O_WRONLY)
        driver.write(number, b"1")
        driver.close(number)
        yield driver
        driver.finish()


@pytest.mark.mount
@pytest.mark.parametrize(
    "histories", [MOUNTED, pytest.param(MOUNTED_LONG, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_any_history_of_a_mount_is_as_the_model_says(
    binding: str, tmp_path: Path, histories: int, record_property: Record
) -> None:
    """Through the kernel, by both bindings: the same machine, the same model."""
    with Emulator(World(snapshot_s=0.5, stop_s=0.3)) as emulator:
        options = ("--metadata-deadline", "5", "--data-deadline", "10", "--cache-size", str(MOUNTED_CACHE_BYTES))
        mounted = mount_at(tmp_path, binding, emulator, *options, RESCALEFS_BUDGET="off")
        try:
            mounted.mount()
            play(
                type("History", (MountedMachine,), {"emulator": emulator, "mounted": mounted}),
                histories,
                record_property,
            )
        finally:
            mounted.clean_up()
