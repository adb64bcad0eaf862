"""One request of a session fails, each in turn: what was asked is right or an error, and asked again it is right."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rescalefs.config import Settings
from rescalefs.credentials import Account, Key
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.mount import Mount
from rescalefs.operations import ERRNO, Gate, Operations
from tests.stack import KEY

MIB = 1 << 20
SIZE = 2  # of what getattr returns
FILES = {
    "log": b"Time = 1\n",
    "case/U": bytes(range(256)) * 30,
    "case/big": b"".join(b"%08d" % n for n in range(700_000)),
}
LIVE = {"live": b"Time = 0\n" * 50}
# Each once; what is retried must be right, what is not must be an error of the table, or right.
FAULTS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "403": {"status": 403},
    "404": {"status": 404},
    "cut": {"cut_after": 10},
    "no answer": {"drop": True},
    "bad body": {"body": b"{]"},
}


@contextmanager
def session(emulator: Emulator) -> Iterator[Any]:
    """The operations of a new mount, in this process."""
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory)
        mount = Mount(Settings(cache / "m", cache, 1 << 30), Account(emulator.origin, Key(lambda: KEY, "a test")), "me")
        mount.start()
        try:
            yield Gate(Operations(mount.namespace, mount.kernel, cache, metadata_deadline_s=15, data_deadline_s=15))
        finally:
            mount.close()


def tree_of(gate: Any, path: str, found: dict[str, bytes]) -> None:
    """Read all files below *path* as a program would; raises OSError."""
    number = gate.opendir(path)
    entries = []
    while some := gate.readdir(path, number, len(entries), has_attributes=True):
        entries += some
    gate.releasedir(path, number)
    for raw, _, mode, _, _ in entries[2:]:
        name = os.fsdecode(raw)
        below = f"{path}/{name}"
        if name in ("stop", "snapshot"):
            continue
        if stat.S_ISDIR(mode):
            tree_of(gate, below, found)
            continue
        size = gate.getattr(below)[SIZE]
        info = SimpleNamespace(flags=os.O_RDONLY, fh=0)
        gate.open(below, info)
        try:
            data = b"".join(gate.read(below, MIB, offset, info) for offset in range(0, size, MIB))
        finally:
            gate.release(below, info)
        found[below] = data


def scenario(gate: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for run in ("/jobs/FinaA/runs/1", "/jobs/LiveR/runs/1"):
        tree_of(gate, run, found)
    return found


RIGHT = {
    **{f"/jobs/FinaA/runs/1/{path}": data for path, data in FILES.items()},
    **{f"/jobs/LiveR/runs/1/{path}": data for path, data in LIVE.items()},
}


@pytest.fixture
def world() -> World:
    world = World()
    world.add_job("FinaA").add_run(finished=True, files=FILES)
    world.add_job("LiveR").add_run(live=LIVE)
    return world


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FAULTS)
def test_each_request_in_turn_fails(name: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th request of the scenario, for every n: never another byte, never a name too few without an error."""
    monkeypatch.setenv("RESCALEFS_BUDGET", "off")
    with session(emulator) as gate:
        emulator.reset_counts()
        assert scenario(gate) == RIGHT
        count = sum(emulator.requests.values())
    assert count >= 10
    errors = 0
    for number in range(1, count + 1):
        fault = emulator.faults.add(nth=number, **FAULTS[name])
        with session(emulator) as gate:
            code = 0
            try:
                found = scenario(gate)
            except OSError as error:
                code = error.errno or -1
            assert fault.hits == 1
            emulator.faults.remove(fault)
            if code:
                errors += 1
                assert code in ERRNO.values(), errno.errorcode.get(code)
            elif found != RIGHT:
                # Only a live view that fails may hide what is live: it is no answer about the outputs.
                assert found == {path: data for path, data in RIGHT.items() if "LiveR" not in path}
            gate_again(gate)
    assert errors >= (0 if name in ("500", "cut", "no answer", "bad body") else 3)


def gate_again(gate: Any) -> None:
    """After a refresh all is right."""
    info = SimpleNamespace(flags=os.O_WRONLY, fh=0)
    gate.open("/.rescale/refresh", info)
    gate.write("/.rescale/refresh", b"1", 0, info)
    gate.release("/.rescale/refresh", info)
    assert scenario(gate) == RIGHT
