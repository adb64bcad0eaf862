"""Nobody waits for ever, and who need not wait does not: readers that are stuck, a resolver that hangs, kill -9."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rescalefs import operations
from rescalefs.catalog import Catalog
from rescalefs.client import Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import DeadlineExceeded
from rescalefs.kernel import KernelMemory
from rescalefs.mount import LIVE_THREADS_OF_RUN, METADATA_THREADS
from rescalefs.operations import Gate, Operations
from tests.conftest import Mounted, wait_for
from tests.stack import loader, transport_to
from tests.test_operations import FakeFile, FakeHandle, FakeNamespace
from tests.tools import FILES, errno_of

READERS = 1000
SOON_S = 30.0
# Opens all files, reads them side by side, and says how many reads have begun and ended.
STUCK = """
import os, sys, threading
files = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
say, lock = lambda word: print(word, flush=True), threading.Lock()
def read(file):
    with lock: say("began")
    try: os.pread(file, 10, 0)
    except OSError: pass
    with lock: say("ended")
for file in files: threading.Thread(target=read, args=(file,)).start()
"""


@pytest.fixture
def stuck_world(world: World) -> World:
    """A run with many files, one that is known by then, and runs whose files nobody has listed."""
    names = {f"many/{number}": b"%d" % number for number in range(READERS)}
    world.add_job("Many").add_run(finished=True, files={**FILES, **names})
    for number in range(2 * METADATA_THREADS):
        world.add_job(f"Other{number}").add_run(finished=True, files={"file": b"1"})
    return world


@pytest.mark.mount
@pytest.mark.timeout(180)
def test_known_names_and_df_do_not_wait_behind_readers_that_are_stuck(
    stuck_world: World, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """1000 readers wait for bytes, 32 for listings; `ls`, `stat`, `df`, cached bytes are there before any of them."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.jobs / "Many/runs/1"
    paths = sorted(map(str, (top / "many").iterdir()))
    assert (top / "process_output.log").read_bytes() == FILES["process_output.log"]
    others = [mounted.jobs / f"Other{number}/runs" for number in range(2 * METADATA_THREADS)]
    assert all(os.listdir(path) for path in others)
    emulator.faults.add(endpoint="contents", latency_s=60.0)
    emulator.faults.add(endpoint="run_files", latency_s=60.0)
    with ExitStack() as stack:
        readers = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", STUCK, *paths], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(readers.kill)
        assert readers.stdout is not None
        assert [readers.stdout.readline() for _ in range(READERS)] == ["began\n"] * READERS
        listers = [subprocess.Popen(["ls", path / "1"], stderr=subprocess.DEVNULL) for path in others]
        for lister in listers:
            stack.callback(lister.wait)
            stack.callback(lister.kill)
        wait_for(lambda: emulator.requests["contents"] >= 32, SOON_S, lambda: str(emulator.requests))
        wait_for(lambda: emulator.requests["run_files"] >= METADATA_THREADS, SOON_S, lambda: str(emulator.requests))

        assert len(os.listdir(top / "many")) == READERS
        assert os.stat(top / "many/999").st_size == 3
        assert os.statvfs(mounted.path).f_blocks > 0
        assert (top / "process_output.log").read_bytes() == FILES["process_output.log"]
        assert len(os.listdir(mounted.path / "by-name")) == 1 + 2 * METADATA_THREADS
        assert "online" in (mounted.path / ".rescale/status").read_text()

        assert select.select([readers.stdout], [], [], 0)[0] == []  # nobody has ended
        assert [lister.poll() for lister in listers] == [None] * len(listers)
        mounted.unmount()  # which lets all of them fail


@pytest.mark.mount
def test_a_live_run_that_does_not_answer_keeps_nobody_else_waiting(
    world: World, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """Thirty of its files are waited for: names, files of other runs are there before; and then it costs no more."""
    # The kernel looks up the names of one directory one after the other.
    names = [f"d{number:02}/file" for number in range(60)]
    world.add_job("Stuck").add_run(live=dict.fromkeys(names, b"1"))
    world.add_job("Other").add_run(live={"log": b"Time = 0\n"})
    world.add_job("Fina").add_run(finished=True, files={"file": b"1"})
    mounted = mount_of(emulator, "--metadata-deadline", "12", RESCALEFS_BUDGET="off")
    top = mounted.jobs / "Stuck/runs/1"
    assert [os.listdir(top / os.path.dirname(name)) for name in names] == [["file"]] * len(names)
    emulator.faults.add(endpoint="tail", path="/jobs/Stuck/", latency_s=60.0)
    with ExitStack() as stack:
        waiting = [subprocess.Popen(["stat", top / name], stderr=subprocess.DEVNULL) for name in names[:30]]
        for process in waiting:
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_for(lambda: emulator.requests["tail"] >= LIVE_THREADS_OF_RUN, SOON_S, lambda: str(emulator.requests))

        assert (mounted.jobs / "Other/runs/1/log").read_bytes() == b"Time = 0\n"
        assert (mounted.jobs / "Fina/runs/1/file").read_bytes() == b"1"
        assert os.listdir(mounted.jobs / "Fina/runs/1") == ["file"]
        assert "d00" in os.listdir(top)
        assert [process.poll() for process in waiting] == [None] * len(waiting)

        assert {process.wait(SOON_S) for process in waiting} == {1}
        before = emulator.requests["tail"]
        assert {errno_of(os.stat, top / name) for name in names[30:]} == {"ETIMEDOUT"}
        assert emulator.requests["tail"] - before <= LIVE_THREADS_OF_RUN


@pytest.mark.mount
@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["LiveR/runs/1/log", "Fina/runs/1/file", "Fina/runs/1", "Fina/runs"])
def test_kill_9_ends_a_reader_within_the_deadline(
    what: str, live: Run, world: World, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """Whatever it waits for; afterwards the same thing is there for others."""
    world.add_job("Fina").add_run(finished=True, files={"file": b"1"})
    mounted = mount_of(emulator, "--metadata-deadline", "3", "--data-deadline", "3")
    path = mounted.jobs / what
    os.listdir(mounted.jobs)
    if what.endswith("file"):
        os.listdir(path.parent)
    endpoint = {"log": "tail", "file": "contents", "1": "run_files", "runs": "runs"}[path.name]
    emulator.faults.add(endpoint=endpoint, latency_s=60.0)
    with subprocess.Popen(["cat" if path.name in ("log", "file") else "ls", path]) as reader:
        wait_for(lambda: emulator.requests[endpoint] > 0, SOON_S, lambda: str(emulator.requests))
        reader.kill()
        assert reader.wait(SOON_S) == -9
    emulator.faults.clear()

    def is_there() -> bool:
        try:
            return bool(path.read_bytes() if path.name in ("log", "file") else os.listdir(path))
        except OSError:
            return False

    wait_for(is_there, SOON_S, lambda: f"no {what}")


class StuckHandle(FakeHandle):
    """Reads that end when they are told to."""

    size = 10
    may_end = threading.Event()
    begun = threading.Semaphore(0)

    def readinto(self, offset: int, buffer: memoryview) -> int:
        self.begun.release()
        assert self.may_end.wait(SOON_S)
        return super().readinto(offset, buffer)


def test_reads_beyond_the_most_are_refused_after_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that threads are left for everything else; when one ends, the next one is served."""
    monkeypatch.setattr(operations, "MAX_PARKED_READS", 3)
    served = Operations(FakeNamespace(), KernelMemory(), tmp_path, metadata_deadline_s=0.2, data_deadline_s=30)  # type: ignore[arg-type]
    gate: Any = Gate(served)
    monkeypatch.setattr(FakeFile, "open", lambda _self, _is_writing: StuckHandle("one"))
    info = SimpleNamespace(flags=os.O_RDONLY, fh=0)
    gate.open("/file", info)
    StuckHandle.may_end.clear()
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(gate.read, "/file", 4, 0, info) for _ in range(3)]
        for _ in reads:
            assert StuckHandle.begun.acquire(timeout=SOON_S)
        with pytest.raises(OSError, match="Input/output error"):
            gate.read("/file", 4, 0, info)
        assert 10 in gate.getattr("/file")
        assert not any(read.done() for read in reads)

        served._metadata_deadline_s = SOON_S  # so long the next one waits for his turn
        late = pool.submit(gate.read, "/file", 4, 0, info)
        StuckHandle.may_end.set()
        assert [read.result(SOON_S) for read in [*reads, late]] == [b"0123"] * 4


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that hangs until it is told to answer."""
    may_answer = threading.Event()
    ask = socket.getaddrinfo

    def getaddrinfo(*args: Any, **more: Any) -> Any:
        assert may_answer.wait(SOON_S)
        return ask(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield may_answer
    may_answer.set()


def test_a_resolver_that_hangs_holds_nobody_longer_than_the_deadline(
    emulator: Emulator, world: World, resolver: threading.Event
) -> None:
    """Nor those whose questions find all threads stuck in it; when it answers, so do we."""
    for number in range(2 * METADATA_THREADS):
        world.add_job(f"Job{number}")
    clock = ManualClock()
    with loader(0.3) as running, closing(transport_to(emulator.origin, clock)) as transport:
        catalog = Catalog(Client(transport), running, deadline_s=15.0, clock=clock.now, wall_clock=clock.now)

        def ask(number: int) -> bool:
            try:
                catalog.newest_status(f"Job{number}")
            except DeadlineExceeded:
                return False
            return True

        with ThreadPoolExecutor(2 * METADATA_THREADS) as pool:
            assert not any(pool.map(ask, range(2 * METADATA_THREADS)))
        resolver.set()
        wait_for(lambda: ask(0), SOON_S, lambda: "no answer")
