"""Tries every row of `tests/faults.py` on a real mount of each binding, and prints what was seen.

    python -m tests.fault_table

For each row there is a job of its own: what is asked before is asked, the fault begins, the operation runs, the fault
ends, and the operation runs again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rescalefs.emulator.jobs import Run
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import BINDINGS, Mounted, missing, mount_at
from tests.faults import BIG_LS, ENDPOINTS, FAULTS, LIVE_CAT, LS, Fault
from tests.network import Network

# Of these mounts; users wait longer. Retries wait for 0, 0.5, 1, 2 and 4 s, and a quarter of a second more at most: the
# fifth is too late, and the fourth has three seconds for its answer.
DEADLINE_S = 7.3
# Fewer than the mount has threads for listings, so that no row waits for another one.
_SIDE_BY_SIDE = 8
_READ_BYTES = 128 << 10
_DEADLINES = ("--metadata-deadline", str(DEADLINE_S), "--data-deadline", str(DEADLINE_S))


@dataclass(frozen=True)
class Outcome:
    """What was seen of one row on one mount; *log* are the lines about its job and its file, or all."""

    hits: int  # requests that met the fault
    errno: int
    seconds: float
    wrong_bytes: int
    has_recovered: bool
    log: tuple[str, ...]


@functools.cache
def outcomes() -> dict[str, dict[Fault, Outcome]]:
    """Try all rows with every binding that is here, on several mounts at once: most of the time is spent waiting."""
    bindings = [binding for binding in BINDINGS if missing(binding) is None]
    networks = sorted({fault.network for fault in FAULTS if fault.network is not None})
    with ThreadPoolExecutor(len(bindings) * (1 + len(networks))) as pool:
        tries = {
            binding: [
                pool.submit(_on_one_mount, binding),
                *(pool.submit(_without_network, binding, network) for network in networks),
            ]
            for binding in bindings
        }
        return {
            binding: {fault: outcome for one in several for fault, outcome in one.result().items()}
            for binding, several in tries.items()
        }


def _on_one_mount(binding: str) -> dict[Fault, Outcome]:
    """Try all rows that are no other row's matter."""
    faults = [fault for fault in FAULTS if fault.network is None]
    world = World()
    runs = {fault: _run_for(world, number, fault) for number, fault in enumerate(faults)}
    with tempfile.TemporaryDirectory() as directory, Emulator(world) as emulator:
        mounted = mount_at(Path(directory, "home"), binding, emulator, *_DEADLINES, RESCALEFS_BUDGET="off")
        try:
            mounted.mount()
            os.listdir(mounted.jobs)
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                together = [fault for fault in faults if not fault.is_alone]
                tried = zip(together, pool.map(lambda fault: _try(mounted, fault, runs[fault]), together), strict=True)
                found = dict(tried)
            found.update((fault, _try(mounted, fault, runs[fault])) for fault in faults if fault.is_alone)
        finally:
            mounted.clean_up()
    return found


def _without_network(binding: str, how: str) -> dict[Fault, Outcome]:
    """Try the rows that lose the network in one way, each with all that the mount asks for."""
    faults = [fault for fault in FAULTS if fault.network == how]
    world = World()
    runs = {fault: _run_for(world, number, fault) for number, fault in enumerate(faults)}
    with tempfile.TemporaryDirectory() as directory, Emulator(world) as emulator:
        network = Network(Path(directory, "home"), binding, emulator, *_DEADLINES, RESCALEFS_BUDGET="off")
        try:
            network.mounted.mount()
            os.listdir(network.mounted.jobs)
            found = {}
            for fault in faults:
                top = _look_before(network.mounted, fault, runs[fault])
                before = len(network.mounted.log)
                with network.lost(how):
                    code, wrong_bytes, seconds = _operate(fault, top)
                    log = network.mounted.log[before:].splitlines()
                    hits = int(not network.mounted.emulator.requests[ENDPOINTS[fault.operation]])
                network.wait_until_found()
                has_recovered = _operate(fault, top)[:2] == (0, 0)
                found[fault] = Outcome(hits, code, seconds, wrong_bytes, has_recovered, tuple(log))
            return found
        finally:
            network.clean_up()


def _run_for(world: World, number: int, fault: Fault) -> Run:
    job = world.add_job(f"Fault{number}")
    if fault.operation == LIVE_CAT:
        return job.add_run(live=fault.files())
    return job.add_run(finished=True, files=fault.files())


def _look_before(mounted: Mounted, fault: Fault, run: Run) -> Path:
    """Ask what is asked before, and return the run's directory."""
    top = mounted.jobs / run.job.id / "runs" / run.id
    os.listdir(top.parent if fault.operation in (LS, BIG_LS) else top)
    return top


def _try(mounted: Mounted, fault: Fault, run: Run) -> Outcome:
    top = _look_before(mounted, fault, run)
    file_id = run.files[0].id if run.files else ""
    about = re.compile(rf"\b({run.job.id}|{file_id or run.job.id})\b")
    effects = dict(fault.effects)
    path = f"/files/{file_id}/" if ENDPOINTS[fault.operation] == "contents" else f"/jobs/{run.job.id}/"
    with fault.server(fault.files()["file"]) if fault.server else contextlib.nullcontext(None) as origin:
        if origin is not None:
            effects["redirect"] = f"{origin}/elsewhere"
        added = mounted.emulator.faults.add(endpoint=ENDPOINTS[fault.operation], path=path, **effects)
        before = len(mounted.log)
        code, wrong_bytes, seconds = _operate(fault, top)
        log = mounted.log[before:].splitlines()
        mounted.emulator.faults.remove(added)
    has_recovered = _operate(fault, top)[:2] == (0, 0)
    return Outcome(added.hits, code, seconds, wrong_bytes, has_recovered, tuple(filter(about.search, log)))


def _operate(fault: Fault, top: Path) -> tuple[int, int, float]:
    """List, or read from begin to end; return the errno, how much was wrong before it came, and the seconds."""
    began = time.monotonic()
    code, wrong = _list(fault, top) if fault.operation in (LS, BIG_LS) else _read(fault, top)
    return code, wrong, time.monotonic() - began


def _list(fault: Fault, top: Path) -> tuple[int, int]:
    try:
        return 0, len(set(os.listdir(top)) ^ set(fault.files()))
    except OSError as error:
        return error.errno or -1, 0


def _read(fault: Fault, top: Path) -> tuple[int, int]:
    seen = b""
    try:
        with open(top / "file", "rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                seen += data
        code = 0
    except OSError as error:
        code = error.errno or -1
    right = fault.files()["file"]
    wrong = sum(ours != theirs for ours, theirs in zip(seen, right, strict=False)) if seen != right[: len(seen)] else 0
    missing_bytes = len(right) - len(seen) if code == 0 else 0
    return code, wrong + abs(missing_bytes)


def lines() -> Iterator[str]:
    """Yield the table, a line for each row and binding."""
    yield f"{'fault':<34} {'operation':<18} {'binding':<8} {'errno':<10} {'bound':<6} {'took':<7} wrong recovered"
    for fault in FAULTS:
        for binding, table in outcomes().items():
            seen = table[fault]
            code = errno.errorcode[seen.errno] if seen.errno else "none"
            recovered = "yes" if seen.has_recovered else "NO"
            yield (
                f"{fault.name:<34} {fault.operation:<18} {binding:<8} {code:<10} "
                f"{DEADLINE_S:<4.1f} s {seen.seconds:5.1f} s {seen.wrong_bytes:5} {recovered}"
            )


if __name__ == "__main__":
    for line in lines():
        sys.stdout.write(f"{line}\n")
