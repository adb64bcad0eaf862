"""Long logs that are followed in parts: what is asked for and what it costs, and what answers are not believed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import Corrupt, Refused, Stale, Unavailable
from rescalefs.follow import Follower
from rescalefs.tailing import CHECK_S, OVERLAP_BYTES
from tests.live_source import KEY, Stack
from tests.stack import client_of, loader

MIB = 1 << 20


def lines(count: int, seed: str = "") -> bytes:
    """Return *count* lines of a log, no two alike."""
    return b"".join(
        b"%d %s\n" % (n, hashlib.md5(f"{seed}{n}".encode(), usedforsecurity=False).hexdigest().encode())
        for n in range(count)
    )


LOG = lines(5000)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A follower of a long log whose source serves parts, seen once."""
    with ExitStack() as exits:
        made = Stack(exits, tmp_path)
        made.source.data, made.source.has_ranges = LOG, True
        assert made.size() == len(LOG)
        yield made


def look(stack: Stack) -> tuple[list[int], int]:
    """Look once more; return where the requests began and what came."""
    requests, size = len(stack.source.starts), stack.source.bytes_sent
    stack.poll()
    assert stack.size() == len(stack.source.data)
    return stack.source.starts[requests:], stack.source.bytes_sent - size


def test_only_what_follows_is_asked_for(stack: Stack) -> None:
    """A look at a log that grows costs its growth and the overlap, one request; what is served is the log."""
    handle = stack.open()
    for number in range(20):
        before = len(stack.source.data)
        stack.source.data += b"line %d\n" % number
        assert look(stack) == ([before - OVERLAP_BYTES], OVERLAP_BYTES + len(stack.source.data) - before)

    assert handle.read(0, 2 * len(LOG)) == stack.source.data
    assert look(stack)[1] == OVERLAP_BYTES  # nothing new
    assert stack.follower.stats()["live.parts"] == 21


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:50_000]], ids=["binary", "short"])
def test_what_is_no_long_text_is_read_whole(stack: Stack, change: Any) -> None:
    """A format with bytes that no text has may rewrite its head as it grows; a short file costs little."""
    stack.source.data = change(LOG)
    look(stack)

    for _ in range(3):
        stack.source.data += b"more\n"
        assert look(stack) == ([0], len(stack.source.data))


@pytest.mark.parametrize(
    "data",
    [LOG[:-1], LOG[: -OVERLAP_BYTES + 1], LOG[:-OVERLAP_BYTES], LOG[:10], b"", lines(5000, "x"), lines(9000, "x")],
    ids=["a byte less", "most of the overlap less", "no overlap", "short", "empty", "another", "another, longer"],
)
def test_a_log_that_was_cut_or_replaced_is_read_whole_at_once(stack: Stack, data: bytes) -> None:
    """An overlap that is not what it was is no answer: the same look reads the file whole, and starts over."""
    handle = stack.open()
    stack.source.data = data
    starts, _ = look(stack)

    assert starts == [len(LOG) - OVERLAP_BYTES, 0]
    with pytest.raises(Stale):
        handle.read(5, 100)
    assert handle.read(0, 2 * len(LOG)) == data
    assert stack.follower.stats()["live.refuted"] == 0


def test_a_server_without_parts_costs_no_more_than_whole_reads(stack: Stack) -> None:
    """A 200 to a part is the whole file, and is used as such."""
    stack.source.has_ranges = False
    stack.source.data += b"more\n"

    starts, size = look(stack)

    assert (len(starts), size) == (1, len(stack.source.data))


@pytest.mark.parametrize("error", [Corrupt("another range"), Refused("400", 400)], ids=repr)
def test_a_server_that_cannot_do_parts_is_asked_for_none(stack: Stack, error: Exception) -> None:
    """The look that learns it reads the whole; for ten minutes the next ones ask for the whole at once."""
    stack.source.range_error = error
    assert [start for start in look(stack)[0] if not start] == [0]
    assert look(stack)[0] == [0]

    stack.source.range_error = None
    stack.clock.advance(CHECK_S)
    assert look(stack)[0] == [0]  # the whole is due anyway
    assert look(stack)[0] == [len(LOG) - OVERLAP_BYTES]


def test_a_server_that_breaks_at_parts_is_read_whole_the_next_time(stack: Stack) -> None:
    """Whether a 500 is about parts cannot be known, so the next look does without."""
    stack.source.range_error = Unavailable("500")
    stack.source.data += b"more\n"
    stack.poll()
    assert stack.size() == len(LOG)

    assert look(stack)[0] == [0]


def test_a_part_that_is_cut_counts_as_far_as_it_came(stack: Stack) -> None:
    """What was appended before the end of a broken transfer is served; the rest comes with the next look."""
    stack.source.data += b"0123456789"
    stack.source.cut = OVERLAP_BYTES + 4
    stack.poll()
    assert stack.size() == len(LOG) + 4

    stack.source.cut = None
    look(stack)
    assert stack.open().read(len(LOG), 100) == b"0123456789"


def test_what_parts_told_is_checked_as_a_whole(stack: Stack) -> None:
    """A head rewritten under an unchanged end is seen after ten minutes: counted as refuted, another generation."""
    handle = stack.open()
    stack.source.data = b"x" * 100 + LOG[100:] + b"more\n"
    assert look(stack)[0] == [len(LOG) - OVERLAP_BYTES]
    assert handle.read(0, 100) == LOG[:100]

    stack.clock.advance(CHECK_S)
    assert look(stack)[0] == [0]

    assert stack.follower.stats()["live.refuted"] == 1
    with pytest.raises(Stale):
        handle.read(len(LOG), 100)
    assert handle.read(0, 200) == stack.source.data[:200]


# ---- over HTTP ----


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[tuple[Emulator, ManualClock, Follower]]:
    """A follower of an emulated live run whose platform serves parts."""
    clock = ManualClock()
    world = World(clock=clock)
    world.add_job("LiveR").add_run(live={"case/log": LOG})
    with Emulator(world) as emulator, client_of(emulator.origin, clock) as client, loader() as running:
        emulator.habits.tail_honours_range = True
        yield emulator, clock, Follower(client, running, lambda: tmp_path, clock=clock.now)


def test_a_log_of_fifty_megabytes_costs_kilobytes_a_look(
    emulated: tuple[Emulator, ManualClock, Follower],
) -> None:
    """It grows by 1 KiB a look, with eight who follow: one request of less than 64 KiB, and all have every byte."""
    emulator, clock, follower = emulated
    log = emulator.world.jobs["LiveR"].runs["1"].live["case/log"]
    log.replace(lines(50 * MIB // 40))
    handles = [follower.open(KEY) for _ in range(8)]
    size = follower.file(KEY).size()
    assert size == len(log.read()) > 48 * MIB
    emulator.reset_counts()
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            log.append(b"%1023d\n" % number)
            clock.advance(2.5)
            offset = size + 1024 * number
            got = list(pool.map(lambda handle, at=offset: handle.read(at, MIB), handles))
            assert set(got) <= {b"", b"%1023d\n" % number}  # who does not wait long enough sees it the next time
            assert follower.file(KEY).size() == offset + 1024

    assert emulator.requests["tail"] == 10
    assert emulator.bytes_sent["tail"] <= 10 * 64 * 1024
    assert {handle.read(size, MIB) for handle in handles} == {log.read()[size:]}


@pytest.mark.parametrize(
    "lie",
    [
        {"headers": {"Content-Range": "bytes 0-9/10"}},
        {"headers": {"Content-Range": "nonsense"}},
        {"wrong_byte_at": len(LOG) - OVERLAP_BYTES + 5},
        {"status": 416},
    ],
    ids=str,
)
def test_an_answer_that_is_wrong_leads_to_a_whole_read(
    lie: dict[str, Any], emulated: tuple[Emulator, ManualClock, Follower]
) -> None:
    """Another range than asked, and bytes that are not those known: nothing of it is served."""
    emulator, clock, follower = emulated
    log = emulator.world.jobs["LiveR"].runs["1"].live["case/log"]
    handle = follower.open(KEY)
    log.append(b"more\n")
    emulator.faults.add(endpoint="tail", times=1, **lie)
    clock.advance(2.5)

    assert handle.read(len(LOG) - 5, 100) == log.read()[-10:]
    assert [request.range for request in emulator.log if request.endpoint == "tail"][1:] == [
        f"bytes={len(LOG) - OVERLAP_BYTES}-",
        None,
    ]
    assert handle.read(0, 10) == LOG[:10]


@pytest.mark.parametrize("dead", [404, 400, 500, "detail", "empty"])
def test_what_a_dead_tail_says_is_no_file(dead: Any, emulated: tuple[Emulator, ManualClock, Follower]) -> None:
    """Once the run has ended, none of the answers is taken for bytes; what is known stays, and looks grow rare."""
    emulator, clock, follower = emulated
    emulator.habits.dead_live = dead
    handle = follower.open(KEY)
    emulator.world.jobs["LiveR"].runs["1"].finish()
    emulator.reset_counts()
    for _ in range(1800):
        clock.advance(2.0)
        assert handle.read(len(LOG), 100) == b""

    assert handle.read(0, 10) == LOG[:10]
    assert emulator.requests["tail"] < 70  # in an hour


@pytest.mark.parametrize("wait_s", [1, 30])
def test_a_platform_that_throttles_is_asked_less(wait_s: int, emulated: tuple[Emulator, ManualClock, Follower]) -> None:
    """A look that is throttled is not repeated before its time, nor is the next one soon; what is known stays."""
    emulator, clock, follower = emulated
    handle = follower.open(KEY)
    emulator.faults.add(endpoint="tail", status=429, retry_after=wait_s)
    emulator.reset_counts()
    began = clock.now()
    while clock.now() - began < 600:
        clock.advance(0.5)
        assert handle.read(len(LOG), 100) == b""

    assert emulator.requests["tail"] <= 16
