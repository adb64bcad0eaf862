"""The end of a run under those who follow its files: in-process, against an emulated run that settles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import Catalog, RunState
from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.ending import successor
from rescalefs.errors import Stale, Unavailable
from rescalefs.follow import Follower, LiveFile, LiveHandle
from rescalefs.loader import Loader
from tests.live_source import KEY, Source
from tests.stack import DEADLINE_S, client_of, loader, paths

LOG = hashlib.shake_128(b"log").digest(700_000)


@dataclass
class Ending:
    """A live run, and what follows it."""

    emulator: Emulator
    clock: ManualClock
    run: Run
    catalog: Catalog
    engine: ContentEngine
    follower: Follower

    def pass_s(self, seconds: float) -> None:
        """Let time go by while somebody looks at the file every two seconds."""
        for _ in range(int(seconds / 2)):
            self.clock.advance(2.0)
            self.follower.file(KEY).look()


def serve(exits: ExitStack, directory: Path, data: bytes, trickle_s: float) -> Ending:
    clock = ManualClock(1_700_000_000.0)
    world = World(clock=clock)
    run = world.add_job("LiveR").add_run(live={"case/log": data}, trickle_s=trickle_s)
    emulator = exits.enter_context(Emulator(world))
    client = exits.enter_context(client_of(emulator.origin, clock))
    looks, tails = exits.enter_context(loader()), exits.enter_context(loader())
    catalog = Catalog(
        client,
        looks,
        deadline_s=DEADLINE_S,
        followed=lambda job_id, run_id: follower.followed(job_id, run_id),
        clock=clock.now,
        wall_clock=clock.now,
    )
    engine = ContentEngine(DiskCache(directory / "cache", 1 << 30), client, account="test", clock=clock.now)
    engine.start()
    exits.callback(engine.close)
    follower = Follower(client, tails, lambda: directory, successor=successor(catalog, engine), clock=clock.now)
    return Ending(emulator, clock, run, catalog, engine, follower)


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Ending]:
    """A live run whose one file is uploaded a minute after the end."""
    with ExitStack() as exits:
        yield serve(exits, tmp_path, LOG, 60.0)


def test_who_stays_reads_on_in_the_final_file(ending: Ending) -> None:
    """Nothing is lost and nothing doubled: the end of the spool, EOF until the upload, then what is beyond."""
    handle = ending.follower.open(KEY)
    ending.run.live["case/log"].append(b"seen by nobody while the run lived\n")
    ending.run.finish()
    assert handle.read(len(LOG), 100) == b""
    ending.pass_s(50)
    assert handle.read(len(LOG), 100) == b""
    assert paths(ending.catalog.view("LiveR", "1")) == {"case/log"}
    assert ending.follower.is_followed(KEY)

    ending.pass_s(40)

    assert handle.read(len(LOG), 100) == b"seen by nobody while the run lived\n"
    assert handle.read(0, 100) == LOG[:100]
    assert not ending.follower.is_followed(KEY)
    ending.emulator.reset_counts()
    ending.pass_s(3600)
    assert ending.emulator.requests["tail"] == 0
    handle.close()


@pytest.mark.parametrize("data", [LOG[:1000], b"", b"x" + LOG[1:] + b"more"], ids=["shorter", "empty", "another"])
def test_a_final_file_that_is_another_one_is_stale(ending: Ending, data: bytes) -> None:
    """What does not begin with all that was served never continues it; a read at 0 starts over with the final file."""
    handle, other = ending.follower.open(KEY), ending.follower.open(KEY)
    ending.run.live["case/log"].replace(data)
    ending.run.finish()
    ending.pass_s(100)

    for _ in range(2):
        with pytest.raises(Stale):
            handle.read(10, 100)
    assert handle.read(0, 2 * len(LOG)) == data
    assert handle.read(1, 100) == data[1:101]
    with pytest.raises(Stale):
        other.read(len(LOG), 10)


def test_what_the_disk_does_not_give_back_ends_as_another_file(
    ending: Ending, tmp_path: Path, unreadable: list[str]
) -> None:
    """Nothing tells whether the final file continues what was served: who stays starts over with it."""
    handle = ending.follower.open(KEY)
    unreadable.append(str(tmp_path / "#"))  # what has no name
    ending.run.finish()
    ending.pass_s(100)

    with pytest.raises(Stale):
        handle.read(10, 100)
    assert handle.read(0, 2 * len(LOG)) == LOG
    assert not ending.follower.is_followed(KEY)
    handle.close()


def test_a_name_stays_while_it_is_followed_only(ending: Ending) -> None:
    """Between the end and the upload a file that is open keeps its name; without followers the outputs stand alone."""
    run = ending.run
    run.add_live("first", b"")  # listed at once; what comes after it waits for its upload
    run.live["case/log"] = run.live.pop("case/log")
    run.trickle_s = 1e6
    handle = ending.follower.open(KEY)
    run.finish()
    ending.clock.advance(30)

    view = ending.catalog.view("LiveR", "1")
    assert (view.state, paths(view)) == (RunState.SETTLING, {"first", "case/log"})

    handle.close()
    ending.clock.advance(30)
    assert paths(ending.catalog.view("LiveR", "1")) == {"first"}


def test_who_follows_a_file_that_the_run_removed_keeps_no_run_from_being_final(ending: Ending) -> None:
    """Though somebody has it open: he reads what is known to its end, and the run is final without it."""
    ending.run.add_live("scratch", b"kept by nobody")
    removed, log = ending.follower.open(KEY._replace(path="scratch")), ending.follower.open(KEY)
    ending.run.live["scratch"].remove()
    ending.run.finish()
    ending.pass_s(20)
    assert paths(ending.catalog.view("LiveR", "1")) == {"case/log", "scratch"}
    ending.pass_s(100)

    for _ in range(2):
        view = ending.catalog.view("LiveR", "1")
        assert (view.state, paths(view)) == (RunState.FINAL, {"case/log"})
        assert removed.read(5, 100) == b"by nobody"
        ending.clock.advance(7200)
    assert log.read(0, 10) == LOG[:10]


def test_a_name_stays_while_it_is_followed_though_the_live_view_is_dead(ending: Ending) -> None:
    """A directory that cannot be listed for minutes takes no name from who follows it; tail goes on."""
    handle = ending.follower.open(KEY)
    assert paths(ending.catalog.view("LiveR", "1")) == {"case/log"}
    ending.emulator.faults.add(endpoint="directory_contents", status=500)
    ending.run.live["case/log"].append(b"more")
    for _ in range(30):
        ending.clock.advance(10.5)
        assert paths(ending.catalog.view("LiveR", "1")) == {"case/log"}

    assert handle.read(len(LOG), 100) == b"more"
    handle.close()
    ending.clock.advance(10.5)
    assert paths(ending.catalog.view("LiveR", "1")) == set()


def test_an_upload_that_cannot_be_read_is_tried_again(ending: Ending) -> None:
    """While the final file's bytes do not come, the end stays where it was, and nothing is an error."""
    handle = ending.follower.open(KEY)
    ending.run.live["case/log"].append(b"more")
    ending.run.trickle_s = 0
    ending.run.finish()
    fault = ending.emulator.faults.add(endpoint="contents", status=403)
    ending.pass_s(40)
    assert fault.hits > 0
    assert handle.read(len(LOG), 100) == b""

    ending.emulator.faults.remove(fault)
    ending.pass_s(40)
    assert handle.read(len(LOG), 100) == b"more"


def test_a_run_that_goes_on_does_not_end_by_a_failing_tail(ending: Ending) -> None:
    """A tail that breaks for a while costs no reader anything, and the log is followed again afterwards."""
    handle = ending.follower.open(KEY)
    ending.run.live["case/log"].append(b"more")
    fault = ending.emulator.faults.add(endpoint="tail", status=500)
    ending.pass_s(30)
    assert handle.read(len(LOG), 100) == b""
    ending.emulator.faults.remove(fault)
    ending.pass_s(70)

    assert handle.read(len(LOG), 100) == b"more"
    assert ending.follower.is_followed(KEY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.integers(0, 8),
    st.sampled_from([0.0, 5.0, 30.0]),
    st.lists(st.sampled_from([1.0, 2.5, 7.0, 20.0]), min_size=8, max_size=8),
)
def test_a_log_is_read_once_whole_over_the_end(
    tmp_path: Path, pieces: list[bytes], ends_after: int, trickle_s: float, waits: list[float]
) -> None:
    """However it grows, whenever the run ends and is looked at: who reads on has every byte once, in order."""
    with ExitStack() as exits:
        ending = serve(exits, tmp_path, b"begin\n", trickle_s)
        handle = ending.follower.open(KEY)
        log, seen, written = ending.run.live["case/log"], b"", b"begin\n"
        for number, wait_s in enumerate(waits):
            if number == ends_after:
                ending.run.finish()
            if number < min(ends_after, len(pieces)):
                log.append(pieces[number])
                written += pieces[number]
            ending.clock.advance(wait_s)
            seen += handle.read(len(seen), 1000)
            assert written.startswith(seen)
        ending.run.finish()
        for _ in range(40):
            ending.clock.advance(2.5)
            seen += handle.read(len(seen), 1000)
        assert seen == written
        assert handle.read(0, 1000) == written
        handle.close()


class Uploaded:
    """A final file that counts how often it was let go of."""

    size = 3

    def __init__(self) -> None:
        self.closed = 0

    def read(self, offset: int, size: int) -> bytes:
        return b"log"[offset : offset + size]

    def close(self) -> None:
        self.closed += 1


def failing(tmp_path: Path, tails: Loader, find: Callable[[], Uploaded]) -> tuple[Source, Follower, LiveHandle]:
    """An open file that fails at the next look, and what finds its final one."""
    source, clock = Source(b"log"), ManualClock()
    follower = Follower(source, tails, lambda: tmp_path, successor=lambda _key: find(), max_files=1, clock=clock.now)
    handle = follower.open(KEY)
    source.error = Unavailable("dead")
    clock.advance(10)
    return source, follower, handle


def test_the_final_file_is_of_the_file_that_it_was_looked_for(tmp_path: Path) -> None:
    """While it was looked for everybody left, the live file was forgotten, and somebody opened it anew."""
    final, opened = Uploaded(), []

    def find() -> Uploaded:
        handle.close()
        follower.file(KEY._replace(path="another"))
        source.error = None
        opened.append(follower.open(KEY))
        source.error = Unavailable("dead")
        return final

    with loader() as tails:
        source, follower, handle = failing(tmp_path, tails, find)
        file = follower.file(KEY)
        file.look()
        assert len(opened) == 1
    assert (file.ended, final.closed) == (None, 1)
    assert follower.is_followed(KEY)


def test_a_final_file_that_was_let_go_of_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one who had the live file open closes it while the next one opens it."""
    final, look = Uploaded(), LiveFile.look

    def look_and_leave(file: LiveFile) -> None:
        look(file)
        monkeypatch.undo()
        handle.close()

    with loader() as tails:
        _, follower, handle = failing(tmp_path, tails, lambda: final)
        monkeypatch.setattr(LiveFile, "look", look_and_leave)
        with pytest.raises(Unavailable):
            follower.open(KEY)
    assert final.closed == 1
    assert not follower.is_followed(KEY)
