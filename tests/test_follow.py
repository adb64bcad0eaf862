"""Files of live runs against a plain list of what they held: no wrong byte, no byte that changes, few requests."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import tailing
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import DeadlineExceeded, NotFound, Refused, Stale, Unavailable
from rescalefs.follow import POLL_S, Follower
from tests.live_model import CONTENT, OVERLAP, PARTS_FROM, STEPS, Model, Reader
from tests.live_source import BIG, KEY, WAIT_S, Stack
from tests.stack import client_of, loader


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A follower and its source."""
    with ExitStack() as exits:
        yield Stack(exits, tmp_path)


# ---- against the model ----


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts asked for of files of a few bytes."""
    monkeypatch.setattr(tailing, "PARTS_FROM_BYTES", PARTS_FROM)
    monkeypatch.setattr(tailing, "OVERLAP_BYTES", OVERLAP)


@pytest.mark.usefixtures("short_parts")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENT, STEPS, st.integers(1, 9), st.booleans())
def test_every_handle_is_an_honest_growing_file(
    tmp_path: Path, data: bytes, steps: list[tuple[Any, ...]], piece: int, has_ranges: bool
) -> None:
    """However a file is written, cut and replaced, and read by anyone at any offset: as the plain model says.

    What a handle was served never changes; once the file is another one a read is Stale, and only one at 0 starts over.
    A look that fails loses nothing. Only a stat and a read past what is known look, and only when that is old.
    Where parts are served, one that agrees in its overlap is believed until the next whole look: what it said wrongly
    is another file then.
    """
    with ExitStack() as exits:
        stack, model = Stack(exits, tmp_path), Model(data, has_ranges=has_ranges)
        stack.source.data, stack.source.piece, stack.source.has_ranges = data, piece, has_ranges
        began = stack.clock.now()
        readers = [Reader(stack.open(), 0)]
        for step in steps:
            match step:
                case ("open",):
                    model.look(stack.clock.now() - began)
                    readers.append(Reader(stack.open(), model.generation))
                case ("stat",):
                    model.look(stack.clock.now() - began)
                    assert stack.size() == len(model.seen)
                case ("wait", *more):
                    stack.poll()
                    stack.clock.advance(sum(more))
                    model.is_old, model.failure, stack.source.cut = True, None, None
                case ("fail", size):
                    model.failure = stack.source.cut = size
                case ("read" | "read from 0", who, *place):
                    offset, size = place if len(place) == 2 else (0, place[0])
                    reader = readers[who % len(readers)]
                    if offset + size > len(model.generations[reader.generation]):
                        model.look(stack.clock.now() - began)
                    served = reader.read(offset, size)
                    if reader.generation != model.generation:
                        assert (served is None) == (offset != 0)
                        if served is None:
                            continue
                        reader.generation, reader.known = model.generation, {}
                    assert served == model.seen[offset : offset + size]
                    assert all(reader.known.setdefault(at, byte) == byte for at, byte in enumerate(served, offset))
                case (action, value):
                    model.change(action, value)
                    stack.source.data = model.data
            assert stack.source.tails == model.requests
        assert stack.source.closed == stack.source.opened


# ---- sizes ----


@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "one", "big"])
def test_the_size_is_that_of_the_bytes(stack: Stack, data: bytes) -> None:
    """A stat reads the file, and the copy that follows asks for nothing more than its growth."""
    stack.source.data = data
    assert stack.size() == len(data)
    handle = stack.open()

    assert b"".join(handle.read(at, 65536) for at in range(0, len(data), 65536)) == data
    assert handle.read(len(data), 10) == b""
    assert stack.source.tails == 1


def test_an_unknown_size_is_an_error_and_never_zero(tmp_path: Path) -> None:
    """While the first sight takes longer than a caller may wait: no size, no handle; it is there when it has come."""
    with ExitStack() as exits:
        stack = Stack(exits, tmp_path, wait_s=0.05)
        stack.source.data = b"Time = 0\n"
        stack.source.gate = threading.Event()

        with pytest.raises(DeadlineExceeded, match="case/log"):
            stack.size()
        with pytest.raises(DeadlineExceeded):
            stack.open()
        flight = stack.follower.fetch_if_old(stack.follower.file(KEY))
        stack.source.gate.set()
        assert flight is not None
        flight.result(WAIT_S)

        assert (stack.size(), stack.source.tails) == (9, 1)


def test_a_slow_look_leaves_the_last_size(stack: Stack) -> None:
    """With something known, a stat waits for half a second of news at most, and tells what it knows."""
    stack.source.data = b"Time = 0\n"
    handle = stack.open()
    stack.source.gate = threading.Event()
    stack.source.data += b"Time = 1\n"
    stack.poll()

    assert stack.size() == 9
    assert handle.read(0, 9) == b"Time = 0\n"  # what is known is served without waiting

    flight = stack.follower.fetch_if_old(stack.follower.file(KEY))
    stack.source.gate.set()
    assert flight is not None
    flight.result(WAIT_S)
    assert (stack.size(), stack.source.tails) == (18, 2)


@pytest.mark.parametrize("error", [Unavailable("500"), NotFound("404"), Refused("400", 400)], ids=repr)
def test_a_file_never_seen_that_cannot_be_read_is_an_error(stack: Stack, error: Exception) -> None:
    """The first look's error is the caller's, and the next one looks again."""
    stack.source.data, stack.source.error = b"x", error
    for ask in (stack.size, stack.open):
        with pytest.raises(type(error)):
            ask()

    stack.source.error = None
    assert stack.size() == 1


def test_a_first_sight_that_is_cut_is_no_file(stack: Stack) -> None:
    """Half of a file is not served as all of it."""
    stack.source.data, stack.source.cut = BIG, 300_000
    with pytest.raises(Unavailable):
        stack.size()

    stack.source.cut = None
    assert stack.size() == len(BIG)


def test_the_time_is_when_the_file_was_seen_to_change(stack: Stack) -> None:
    """A look that finds the same leaves the time; growth, truncation and the part that came of a cut answer move it."""
    file = stack.follower.file(KEY)
    stack.source.data = b"one"
    times = []
    for cut, data in ((None, b"one"), (None, b"one"), (None, b"one two"), (None, b"one"), (5, b"one two"), (None, b"")):
        stack.wall_ns += 1
        stack.source.cut, stack.source.data = cut, data
        times.append((file.size(), file.changed_ns))
        stack.poll()

    assert times == [(3, 2), (3, 2), (7, 4), (3, 5), (5, 6), (0, 7)]


# ---- how often it is asked ----


def test_readers_share_one_look(stack: Stack) -> None:
    """Sixteen who open and read a file together cost one look, and so do they all in the next interval."""
    stack.source.data = BIG
    barrier = threading.Barrier(16)

    def read_all(_: int) -> bytes:
        barrier.wait(WAIT_S)
        handle = stack.open()
        return b"".join(handle.read(at, 131072) for at in range(0, len(BIG) + 1, 131072))

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read_all, range(16))) == {BIG}
        assert stack.source.tails == 1
        stack.poll()
        assert set(pool.map(read_all, range(16))) == {BIG}
    assert stack.source.tails == 2


def test_looks_are_no_more_than_one_an_interval_and_none_without_use(stack: Stack) -> None:
    """A reader that asks ten times a second for a minute costs thirty looks; an hour without one costs none."""
    handle = stack.open()
    for _ in range(600):
        stack.clock.advance(0.1)
        stack.size()
        handle.read(len(stack.source.data), 100)
        stack.source.data += b"x"
    assert 28 <= stack.source.tails - 1 <= 60 / POLL_S

    tails = stack.source.tails
    stack.clock.advance(3600)
    assert stack.source.tails == tails
    stack.size()
    assert stack.source.tails == tails + 1


@pytest.mark.parametrize(("answer_s", "next_s"), [(0.0, 2.0), (0.3, 2.0), (1.0, 2.0), (1.5, 3.0), (5.0, 7.0)])
def test_the_interval_begins_with_the_question(stack: Stack, answer_s: float, next_s: float) -> None:
    """But a server that is slow to answer is left alone for as long as it took, or for an interval if that is less."""
    stack.size()
    stack.source.asked = lambda: stack.clock.advance(answer_s)
    stack.clock.advance(60)
    began, tails = stack.clock.now(), stack.source.tails
    for at_s, asked in ((0.0, 1), (next_s - 0.01, 1), (next_s + 0.01, 2)):
        stack.clock.advance(max(0.0, began + at_s - stack.clock.now()))
        stack.size()
        assert stack.source.tails - tails == asked


def test_a_look_that_fails_is_not_repeated_at_once(stack: Stack) -> None:
    """While the API is down a file that is known is served as it is, and asked for once an interval."""
    stack.source.data = b"Time = 0\n"
    handle = stack.open()
    stack.source.error = Unavailable("down")
    stack.poll()

    assert [stack.size() for _ in range(10)] == [9] * 10
    assert handle.read(0, 100) == b"Time = 0\n"
    assert stack.source.tails == 2


def test_reading_what_is_known_asks_nothing(stack: Stack) -> None:
    """However old it is, bytes that were seen are served from here."""
    stack.source.data = BIG
    handle = stack.open()
    stack.clock.advance(3600)

    assert handle.read(400_000, 1000) == BIG[400_000:401_000]
    assert stack.source.tails == 1


def test_a_difference_beyond_the_first_piece_is_seen(stack: Stack) -> None:
    """A byte that changed deep in a large file makes it another one, with the bytes before and after it right."""
    stack.source.data = BIG
    handle = stack.open()
    stack.source.data = BIG[:600_000] + bytes([BIG[600_000] ^ 1]) + BIG[600_001:] + b"more"
    stack.poll()

    assert stack.size() == len(BIG) + 4
    with pytest.raises(Stale):
        handle.read(600_000, 10)
    assert handle.read(0, 10**6) == stack.source.data


def test_a_replacement_that_is_cut_is_counted_when_it_is_seen(stack: Stack) -> None:
    """Looks that break off change nothing of what is known; the one that comes to its end starts over, once."""
    stack.source.data = b"one\n"
    handle = stack.open()
    stack.source.data, stack.source.cut = b"another\n", 6
    for _ in range(3):
        stack.poll()
        assert stack.size() == 4
        assert handle.read(1, 10) == b"ne\n"
    assert stack.follower.stats()["live.replaced"] == 0

    stack.source.cut = None
    stack.poll()
    assert stack.size() == 8
    assert stack.follower.stats()["live.replaced"] == 1


def test_spools_take_no_name_and_go_with_their_file(tmp_path: Path) -> None:
    """What is kept of live files is nowhere to be found, and nothing of it is left."""
    with ExitStack() as exits:
        stack = Stack(exits, tmp_path)
        stack.source.data = BIG
        assert stack.size() == len(BIG)
        assert list(tmp_path.iterdir()) == []


# ---- over HTTP ----


def test_a_live_file_is_read_though_the_cache_directory_was_removed(tmp_path: Path) -> None:
    """Who clears caches while a mount is up takes away what is kept, and no file."""
    directory = tmp_path / "cache"
    with ExitStack() as exits:
        stack = Stack(exits, directory)
        stack.source.data = b"Time = 0\n"

        assert stack.open().read(0, 100) == b"Time = 0\n"


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[tuple[Emulator, ManualClock, Follower]]:
    """A follower of an emulated live run."""
    clock = ManualClock()
    world = World(clock=clock)
    world.add_job("LiveR").add_run(live={"case/log": b"Time = 0\n", "a b/%#?\u00fc\n": b"odd"})
    with Emulator(world) as emulator, client_of(emulator.origin, clock) as client, loader() as running:
        yield emulator, clock, Follower(client, running, lambda: tmp_path, clock=clock.now)


def test_a_live_file_is_followed_over_http(emulated: tuple[Emulator, ManualClock, Follower]) -> None:
    """What the run writes is read as it grows, one tail a look; after it was cut, a read at 0 starts over."""
    emulator, clock, follower = emulated
    log = emulator.world.jobs["LiveR"].runs["1"].live["case/log"]
    handle = follower.open(KEY)
    log.append(b"Time = 1\n")
    assert handle.read(0, 100) == b"Time = 0\n"
    clock.advance(POLL_S + 1)
    assert handle.read(9, 100) == b"Time = 1\n"
    log.truncate()
    clock.advance(POLL_S + 1)

    with pytest.raises(Stale):
        handle.read(18, 100)
    assert handle.read(0, 100) == b""
    assert emulator.requests["tail"] == 3


def test_any_name_is_followed(emulated: tuple[Emulator, ManualClock, Follower]) -> None:
    """The path goes to the API byte for byte, whatever is in it."""
    assert emulated[2].file(KEY._replace(path="a b/%#?\u00fc\n")).size() == 3


@pytest.mark.parametrize("cut", [{"cut_after": 400_000}, {"drop": True}, {"status": 503}], ids=str)
def test_a_tail_that_breaks_loses_nothing(
    cut: dict[str, Any], emulated: tuple[Emulator, ManualClock, Follower]
) -> None:
    """An answer that ends too early is no truncation: the handle goes on, and the rest comes with the next look."""
    emulator, clock, follower = emulated
    log = emulator.world.jobs["LiveR"].runs["1"].live["case/log"]
    log.replace(BIG)
    handle = follower.open(KEY)
    log.append(BIG)
    fault = emulator.faults.add(endpoint="tail", **cut)
    clock.advance(POLL_S + 1)
    assert handle.read(len(BIG) - 10, 100) == BIG[-10:]

    emulator.faults.remove(fault)
    clock.advance(POLL_S + 1)
    assert handle.read(len(BIG) - 10, 100) == BIG[-10:] + BIG[:90]
    assert follower.file(KEY).size() == 2 * len(BIG)


# ---- room on disk ----


def test_spools_take_no_more_room_than_they_may(tmp_path: Path) -> None:
    """The file that nobody has looked at for longest is forgotten first, one that is open never."""
    clock = ManualClock()
    world = World(clock=clock)
    names = [f"f{number}" for number in range(6)]
    world.add_job("LiveR").add_run(live={name: BIG for name in names})
    with Emulator(world) as emulator, client_of(emulator.origin, clock) as client, loader() as running:
        follower = Follower(client, running, lambda: tmp_path, max_bytes=3.5 * len(BIG), clock=clock.now)
        files = {name: KEY._replace(path=name) for name in names}
        handle = follower.open(files["f0"])
        assert {follower.file(key).size() for key in files.values()} == {len(BIG)}
        asked = emulator.requests["tail"]

        for name, requests in (("f0", 0), ("f5", 0), ("f4", 0), ("f1", 1), ("f4", 1), ("f5", 2), ("f4", 2), ("f0", 2)):
            assert follower.file(files[name]).size() == len(BIG)
            assert (name, emulator.requests["tail"] - asked) == (name, requests)
        assert handle.read(0, len(BIG)) == BIG


def test_a_full_disk_is_an_error_and_loses_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be kept nowhere is not served: EIO at first sight, the last size afterwards."""
    stack.source.data = b"Time = 0\n"
    handle = stack.open()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        stack.source.data += b"Time = 1\n"
        stack.poll()
        assert (stack.size(), handle.read(0, 100)) == (9, b"Time = 0\n")
    stack.poll()
    assert stack.size() == 18
