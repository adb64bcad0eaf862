"""How far ahead of a reader is fetched: a sequence grows, a look costs little, and the pieces fit together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescalefs.content.window import (
    DISK_AHEAD_BYTES,
    FAST_BYTES,
    FAST_PIECE_BYTES,
    FAST_WINDOW_BYTES,
    FIRST_BYTES,
    KIB,
    MAX_CURSORS,
    MAX_FAST_PIECE_BYTES,
    MAX_FILE_STREAMS,
    MIB,
    MIN_FILE_STREAMS,
    STEADY_BYTES,
    STEADY_PIECE_BYTES,
    STEADY_WINDOW_BYTES,
    Cursor,
    Pace,
    Pattern,
    pieces,
)

READ = 128 * KIB  # of the kernel
GIB = 1 << 30
SIZES = st.sampled_from([4 * KIB, 64 * KIB, READ, 256 * KIB, MIB])
STARTS = st.integers(0, GIB)


def read_on(pattern: Pattern, start: int, count: int, size: int = READ) -> list[Cursor]:
    """Note *count* reads one after the other from *start* on."""
    return [pattern.note(at, at + size) for at in range(start, start + count * size, size)]


def ahead(cursor: Cursor) -> int:
    """How many bytes after the reader's place should be on their way."""
    return cursor.until - cursor.position


# What a look costs.


@given(size=st.integers(1, STEADY_BYTES - 1))
def test_a_look_at_the_head_costs_the_first_mebibyte(size: int) -> None:
    """Whatever a tool reads of the header, no more than the first MiB is asked for."""
    assert Pattern().note(0, size).until == FIRST_BYTES


@given(start=st.integers(1, GIB), size=SIZES)
def test_a_look_elsewhere_costs_what_is_read(start: int, size: int) -> None:
    """A first read at the tail, or anywhere but the head, asks for itself alone."""
    assert ahead(Pattern().note(start, start + size)) == (0 if size < STEADY_BYTES else STEADY_WINDOW_BYTES)


def test_head_and_tail_cost_no_more_than_each_alone() -> None:
    """Header, then trailer, then header again: as zip and HDF5 readers do."""
    pattern = Pattern()
    for at in (0, GIB - 64 * KIB, 32 * KIB):
        cursor = pattern.note(at, at + 32 * KIB)
        assert cursor.until == (at + 32 * KIB if at > FIRST_BYTES else FIRST_BYTES)


@given(seed=st.integers(0, 999), size=SIZES)
def test_random_reads_stay_small(seed: int, size: int) -> None:
    """Who jumps about pays little more than what he reads, however long he goes on."""
    pattern, places = Pattern(), random.Random(seed)
    jumps = [place * 4 * MIB for place in places.sample(range(1, 10_000), 200)]
    assert {ahead(pattern.note(at, at + min(size, 256 * KIB))) for at in jumps} == {0}


@given(back=st.integers(1, 60))
def test_a_reader_that_goes_backwards_never_becomes_fast(back: int) -> None:
    """Blocks read from the end to the beginning are no sequence."""
    pattern = Pattern()
    for number in range(back, 0, -1):
        assert pattern.note(number * MIB, number * MIB + READ).consumed == READ


# Sequences.


@given(start=STARTS, size=SIZES)
def test_a_sequence_grows(start: int, size: int) -> None:
    """Read on and on, the window never shrinks, and comes to all that fits after 2 MiB."""
    cursors = read_on(Pattern(), start, FAST_BYTES // size + 1, size)
    assert len({id(cursor) for cursor in cursors}) == 1
    assert ahead(cursors[-1]) == FAST_WINDOW_BYTES


@given(start=STARTS, size=SIZES, count=st.integers(1, 40))
def test_a_window_never_goes_back(start: int, size: int, count: int) -> None:
    """What has been asked for a sequence stays wanted while it goes on."""
    pattern, reached = Pattern(), []
    for at in range(start, start + count * size, size):
        reached.append(pattern.note(at, at + size).until)
    assert reached == sorted(reached)


def test_the_steps_of_a_sequence() -> None:
    """Little at first, then 8 MiB from 384 KiB on, then 256 MiB from 2 MiB on."""
    steps = [ahead(Cursor(MIB, MIB + count)) for count in (STEADY_BYTES - 1, STEADY_BYTES, FAST_BYTES - 1, FAST_BYTES)]
    assert steps == [0, STEADY_WINDOW_BYTES, STEADY_WINDOW_BYTES, FAST_WINDOW_BYTES]
    second = read_on(Pattern(), MIB, 2)[-1]
    assert ahead(second) == 2 * READ


@given(seed=st.integers(0, 999), start=STARTS)
def test_reads_side_by_side_are_one_sequence(seed: int, start: int) -> None:
    """The kernel's read-ahead arrives in any order; within half a MiB nobody is a new reader."""
    pattern, order = Pattern(), random.Random(seed)
    first = pattern.note(start, start + READ)
    for group in range(1, 40, 4):
        batch = [start + (group + number) * READ for number in range(4)]
        order.shuffle(batch)
        assert {id(pattern.note(at, at + READ)) for at in batch} == {id(first)}
    assert first.position == start + 41 * READ
    assert first.consumed <= 41 * READ


@given(start=STARTS, again=st.integers(2, 50))
def test_the_same_bytes_again_are_no_progress(start: int, again: int) -> None:
    """Who reads one place over and over does not become fast by it."""
    assert read_on(Pattern(), start, 1)[0].consumed == READ
    pattern = Pattern()
    for _ in range(again):
        cursor = pattern.note(start, start + READ)
    assert (cursor.consumed, cursor.position) == (READ, start + READ)


@given(readers=st.integers(2, MAX_CURSORS), turns=st.lists(st.integers(0, MAX_CURSORS - 1), min_size=1, max_size=200))
def test_interleaved_readers_stay_sequential(readers: int, turns: list[int]) -> None:
    """Up to four readers of one open file, in any turns, each have a window of their own."""
    pattern = Pattern()
    at = [number * GIB for number in range(readers)]
    for turn in [*range(readers), *turns]:
        reader = turn % readers
        cursor = pattern.note(at[reader], at[reader] + READ)
        at[reader] += READ
        assert (cursor.start, cursor.position) == (reader * GIB, at[reader])
        assert cursor.consumed == at[reader] - reader * GIB
    assert len(pattern.cursors) == readers


def test_who_was_away_longest_is_forgotten() -> None:
    """A place too many takes the one of the reader that was not seen longest; the others go on."""
    pattern = Pattern()
    cursors = [pattern.note(number * GIB, number * GIB + READ) for number in range(MAX_CURSORS)]
    assert pattern.note(READ, 2 * READ) is cursors[0]
    pattern.note(99 * GIB, 99 * GIB + READ)
    assert len(pattern.cursors) == MAX_CURSORS
    assert cursors[1] not in pattern.cursors
    assert pattern.note(2 * READ, 3 * READ) is cursors[0]


# Streams and requests.


def test_many_slow_streams_or_few_fast_ones() -> None:
    """The platform's usual pace pays for many streams; where one fills the link there are few."""
    pace = Pace()
    assert pace.streams == MAX_FILE_STREAMS
    for _ in range(40):
        pace.note(64 * MIB, 0.01)
    assert pace.streams == MIN_FILE_STREAMS


@given(notes=st.lists(st.tuples(st.integers(0, GIB), st.floats(0, 1e4)), max_size=30))
def test_any_pace_gives_bounded_requests(notes: list[tuple[int, float]]) -> None:
    """Whatever was measured, streams and the size of requests stay within their bounds, in whole MiB."""
    pace, fast, slow = Pace(), Cursor(0, FAST_BYTES), Cursor(0, STEADY_BYTES)
    for count, seconds in notes:
        pace.note(count, seconds)
    assert MIN_FILE_STREAMS <= pace.streams <= MAX_FILE_STREAMS
    assert FAST_PIECE_BYTES <= pace.least_bytes(fast) <= MAX_FAST_PIECE_BYTES
    assert pace.least_bytes(fast) % MIB == 0
    assert pace.least_bytes(slow) == STEADY_PIECE_BYTES
    for cursor in (fast, slow):
        assert pace.most_bytes(cursor) >= pace.least_bytes(cursor)


def test_a_short_transfer_tells_nothing_of_the_pace() -> None:
    """Of less than half a MiB the connection's start is most; it is not counted."""
    pace = Pace()
    before = pace.least_bytes(Cursor(0, FAST_BYTES)), pace.streams
    for count in (0, -MIB, MIB // 2 - 1):
        pace.note(count, 1e-9)
    assert before == (pace.least_bytes(Cursor(0, FAST_BYTES)), pace.streams)


BLOCKS = st.integers(0, 4096).map(lambda blocks: blocks * 64 * KIB)


@given(start=BLOCKS, length=st.integers(1, GIB), least=st.integers(1, 32), streams=st.integers(-8, 32))
def test_pieces_cover_all_without_overlap(start: int, length: int, least: int, streams: int) -> None:
    """Where all must come, each byte is in exactly one piece, in order, and none is larger than the most."""
    found = pieces(start, start + length, (least * MIB, 4 * least * MIB), streams, must_all=True)
    assert (found[0][0], found[-1][1]) == (start, start + length)
    assert all(first < last for first, last in found)
    assert [last for _, last in found[:-1]] == [first for first, _ in found[1:]]
    assert max(last - first for first, last in found) <= 4 * least * MIB
    assert all(last - first >= least * MIB for first, last in found[:-1])


@given(start=BLOCKS, length=st.integers(1, GIB), least=st.integers(1, 32), streams=st.integers(1, 32))
def test_what_is_too_little_for_a_request_is_left(start: int, length: int, least: int, streams: int) -> None:
    """Ahead of a reader no request is smaller than the least, but for the end of a larger one."""
    sizes = (least * MIB, 4 * least * MIB)
    found = pieces(start, start + length, sizes, streams, must_all=False)
    assert found == pieces(start, start + length, sizes, streams, must_all=True)[: len(found)]
    assert start + length - (found[-1][1] if found else start) < least * MIB
    assert all(last - first >= least * MIB for first, last in found)


@pytest.mark.parametrize(("streams", "count"), [(1, 2), (2, 2), (4, 4), (8, 8), (16, 8)])
def test_streams_share_evenly(streams: int, count: int) -> None:
    """32 MiB are cut into as many equal pieces as there are streams, as far as the sizes let it."""
    found = pieces(0, 32 * MIB, (4 * MIB, 16 * MIB), streams, must_all=False)
    assert len(found) == count
    assert len({last - first for first, last in found}) == 1


# What the disk is told.


def test_the_disk_is_told_of_a_sequence_every_few_mebibytes() -> None:
    """A reader in order has what comes next told to the disk once, before he is there."""
    pattern, told = Pattern(), []
    for at in range(0, 64 * MIB, READ):
        cursor = pattern.note(at, at + READ)
        if cursor.disk_until > cursor.ready:
            told.append(cursor.disk_until)
            cursor.ready = cursor.disk_until
        assert cursor.consumed < STEADY_BYTES or cursor.ready >= at + READ + DISK_AHEAD_BYTES // 2
    assert len(told) == 64 * MIB // (DISK_AHEAD_BYTES // 2)


@given(seed=st.integers(0, 999))
def test_the_disk_is_told_nothing_of_random_reads(seed: int) -> None:
    """Who jumps about has nothing read from disk in vain."""
    pattern = Pattern()
    for place in random.Random(seed).sample(range(1, 10_000), 200):
        cursor = pattern.note(place * 8 * MIB, place * 8 * MIB + 64 * KIB)
        assert cursor.disk_until == cursor.ready


def test_reads_of_one_mebibyte_that_change_places_stay_one_sequence() -> None:
    """The kernel's read-ahead has two of them on their way; which one comes first is chance."""
    pattern = Pattern()
    for pair in range(0, 64, 2):
        for number in (pair + 1, pair):
            pattern.note(number * MIB, (number + 1) * MIB)
    assert len(pattern.cursors) <= 2  # the very first one may begin behind the other
    assert max(cursor.consumed for cursor in pattern.cursors) >= 32 * MIB
