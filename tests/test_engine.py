"""The content engine against plain slices: any files, readers and faults; what is asked, and what is not."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.content.handle import ContentHandle
from rescalefs.content.segment import BLOCK_BYTES, DATA_AT, SEGMENT_BYTES
from rescalefs.errors import Corrupt, Unavailable
from rescalefs.models import RemoteFile
from tests.conftest import wait_for
from tests.faulty_source import LONG_S, FaultySource, remote

MIB = 1 << 20
WHOLE = 4 * MIB
LIMIT = 1 << 30
READ = 128 << 10
SIZES = [0, 1, BLOCK_BYTES, MIB + 17, WHOLE, WHOLE + 1, SEGMENT_BYTES, SEGMENT_BYTES + 4711, 13 * MIB + 1, 20 * MIB]


@cache
def made(size: int, variant: int = 0) -> tuple[bytes, RemoteFile]:
    """The bytes of a file, and the file as it is listed; its id tells both."""
    data = hashlib.shake_128(f"engine {variant}".encode()).digest(size)
    return data, remote(f"{size}.{variant}", data)


Begin = Callable[..., ContentEngine]


def engine_on(root: Path, source: FaultySource, limit_bytes: int = LIMIT, **more: bool) -> ContentEngine:
    cache = DiskCache(root, limit_bytes, min_free_bytes=0)
    engine = ContentEngine(cache, source, account="a", deadline_s=LONG_S, **more)
    engine.start()
    return engine


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begin to use the cache directory of the test."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(closing(engine_on(tmp_path, *args, **more)))


def source_of(*sizes: int, **faults: float) -> FaultySource:
    return FaultySource({made(size)[1].id: made(size)[0] for size in sizes}, **faults)  # type: ignore[arg-type]


def read_through(handle: ContentHandle, size: int = MIB) -> bytes:
    return b"".join(handle.read(offset, size) for offset in range(0, handle.size, size))


def settle(engine: ContentEngine) -> None:
    """Wait until every block that is here has been looked at."""
    for content in list(engine._contents.values()):
        assert content.check is None or content.check.idle.wait(LONG_S)


# Any files, any readers, any faults.

FILES = st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 1)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    files=FILES,
    seed=st.integers(0, 1 << 30),
    limit=st.sampled_from([0, 5 * MIB, 12 * MIB, 30 * MIB, LIMIT]),
    cuts=st.sampled_from([0, 0.3]),
    has_ranges=st.booleans(),
    is_verified_first=st.booleans(),
)
def test_any_reads_give_the_slices(
    files: list[tuple[int, int]], seed: int, limit: int, cuts: float, has_ranges: bool, is_verified_first: bool
) -> None:
    """Whatever is read by several readers, jumping and in order, before a restart and after: exactly the slices."""
    source = FaultySource({made(*file)[1].id: made(*file)[0] for file in files}, cuts=cuts, seed=seed)
    source.has_ranges = has_ranges or cuts > 0  # a server that always sends all and always cuts may never get through
    with tempfile.TemporaryDirectory() as directory:
        for round_number in range(2):
            with closing(engine_on(Path(directory), source, limit, is_verified_first=is_verified_first)) as engine:

                def read(number: int, engine: ContentEngine = engine, more: int = round_number) -> None:
                    order = random.Random(seed + 10 * more + number)
                    data, file = made(*files[number % len(files)])
                    handle = engine.open(file)
                    at = 0
                    for _ in range(8):
                        at = order.randint(0, len(data)) if order.random() < 0.4 else at
                        size = order.choice([1, 5000, READ, 2 * MIB])
                        try:
                            assert handle.read(at, size) == data[at : at + size]
                        except Unavailable:
                            assert source.cuts  # four times in a row, by chance
                        at += size
                    handle.close()

                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(read, range(4)))


@settings(max_examples=25, deadline=None)
@given(files=FILES, seed=st.integers(0, 1 << 30), wrongs=st.sampled_from([0.05, 0.3]), has_ranges=st.booleans())
def test_wrong_bytes_are_never_read_to_the_end(
    files: list[tuple[int, int]], seed: int, wrongs: float, has_ranges: bool
) -> None:
    """Of a file up to 4 MiB no wrong byte is seen; who has read one of a larger file gets an error by its end."""
    source = FaultySource({made(*file)[1].id: made(*file)[0] for file in files}, wrongs=wrongs, seed=seed)
    source.has_ranges = has_ranges
    with tempfile.TemporaryDirectory() as directory, closing(engine_on(Path(directory), source)) as engine:

        def read(number: int) -> None:
            order = random.Random(seed + number)
            data, file = made(*files[number % len(files)])
            for _ in range(2):
                with closing(engine.open(file)) as handle:
                    was_wrong = False
                    places = [order.randint(0, len(data)) for _ in range(3)]
                    try:
                        for at in [*places, *range(0, len(data), MIB)]:
                            was_wrong |= handle.read(at, MIB) != data[at : at + MIB]
                            assert not was_wrong or len(data) > WHOLE
                    except (Corrupt, Unavailable):
                        continue
                    assert not was_wrong

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))


@settings(max_examples=10, deadline=None)
@given(size=st.sampled_from(SIZES), seed=st.integers(0, 1 << 30), wrongs=st.sampled_from([0.1, 0.5]))
def test_verified_first_means_that_no_wrong_byte_is_seen(size: int, seed: int, wrongs: float) -> None:
    """With every file verified before its first byte: right bytes or an error, also where files displace each other."""
    data, file = made(size)
    other, other_file = made(9 * MIB, 1)
    source = FaultySource({file.id: data, other_file.id: other}, wrongs=wrongs, seed=seed)
    with tempfile.TemporaryDirectory() as directory:
        limit = max(size, len(other)) + 4 * DATA_AT
        with closing(engine_on(Path(directory), source, limit, is_verified_first=True)) as engine:

            def read(number: int) -> None:
                order = random.Random(seed + number)
                wanted, listed = ((data, file), (other, other_file))[number % 2]
                with closing(engine.open(listed)) as handle:
                    for _ in range(6):
                        at = order.randint(0, len(wanted))
                        try:
                            assert handle.read(at, READ) == wanted[at : at + READ]
                        except (Corrupt, Unavailable):
                            continue

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(read, range(2)))


# What is asked.


@pytest.mark.parametrize("size", [WHOLE, 20 * MIB])
def test_eight_readers_cost_as_much_as_one(begin: Begin, size: int) -> None:
    """Eight readers of all of a file take its bytes once: at most 2 % more."""
    source, (data, file) = source_of(size), made(size)
    engine = begin(source)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: read_through(engine.open(file), READ) == data, range(8))) == {True}
    assert source.taken_bytes <= 1.02 * size


def test_readers_of_different_places_share_what_is_on_its_way(begin: Begin) -> None:
    """Eight readers, each of its own eighth, take no byte twice."""
    source, (data, file) = source_of(16 * MIB), made(16 * MIB)
    engine = begin(source)
    part = 2 * MIB

    def read(number: int) -> bool:
        handle = engine.open(file)
        offsets = range(number * part, (number + 1) * part, READ)
        return b"".join(handle.read(at, READ) for at in offsets) == data[number * part : (number + 1) * part]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {True}
    assert source.taken_bytes <= 1.02 * len(data)


@pytest.mark.parametrize("limit", [9, 12, 16, 24])
def test_a_file_larger_than_the_cache_is_not_fetched_in_vain(begin: Begin, limit: int) -> None:
    """Ahead of a slow reader there is never more than the cache can keep until he comes."""
    source, (data, file) = source_of(40 * MIB), made(40 * MIB)
    handle = begin(source, limit * MIB).open(file)
    for at in range(0, len(data), READ):
        source.wait_until(lambda: source.under_way == 0)  # the reader is slower than everything else
        assert handle.read(at, READ) == data[at : at + READ]
    assert source.taken_bytes <= 1.05 * len(data)


def test_after_the_last_close_nothing_more_is_taken(begin: Begin) -> None:
    """What is on its way for a file that nobody has open any more is ended, and nothing new begins."""
    source, (data, file) = source_of(40 * MIB), made(40 * MIB)
    handle = begin(source).open(file)
    source.held = lambda file_id, at: at >= 6 * MIB
    for at in range(0, 4 * MIB, READ):
        assert handle.read(at, READ) == data[at : at + READ]
    content = handle.content
    wait_for(lambda: 1 < source.under_way == len(content.fetches), LONG_S, lambda: "some are still to be asked for")

    handle.close()
    taken_bytes, under_way, asked = source.taken_bytes, source.under_way, len(source.asked)
    source.let_go()
    source.wait_until(lambda: source.under_way == 0)
    assert len(source.asked) == asked
    assert source.taken_bytes - taken_bytes <= under_way * 8 * BLOCK_BYTES


def test_nothing_is_fetched_ahead_of_a_closed_file(begin: Begin) -> None:
    """A stream that ends just as the file is closed does not begin another one."""
    source, (data, file) = source_of(40 * MIB), made(40 * MIB)
    engine = begin(source)
    handle = engine.open(file)
    assert handle.read(0, 3 * MIB) == data[: 3 * MIB]
    content, cursor = handle.content, handle.content.pattern.cursors[0]
    wait_for(lambda: not content.fetches, LONG_S, lambda: "some do not end")
    handle.close()
    asked = len(source.asked)
    cursor.planned = 0
    engine._store.drop(content.identity, content.size)
    engine._fetcher.ahead(content, cursor)
    assert len(source.asked) == asked
    assert content.fetches == []


def test_another_reader_keeps_what_he_waits_for(begin: Begin) -> None:
    """One of two handles is closed while both wait: the other one gets his bytes."""
    source, (data, file) = source_of(20 * MIB), made(20 * MIB)
    engine = begin(source)
    first, second = engine.open(file), engine.open(file)
    source.held = lambda file_id, at: True
    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(first.read, 5 * MIB, READ)]
        source.wait_until(lambda: source.under_way > 0)
        reads.append(pool.submit(second.read, 5 * MIB, READ))
        while len(first.content.waits) < 2:
            pass
        first.close()
        source.let_go()
        assert [read.result(LONG_S) for read in reads] == [data[5 * MIB : 5 * MIB + READ]] * 2
    assert len(source.asked) == 1


def test_a_sequential_reader_has_the_disk_read_ahead(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cached byte after the first ones is told to the disk once, in the order of the reader."""
    size = 40 * MIB
    with closing(begin(source_of(size))) as engine:
        read_through(engine.open(made(size)[1]))
        settle(engine)
    told: list[int] = []
    monkeypatch.setattr("os.posix_fadvise", lambda _descriptor, _start, count, _advice: told.append(count))
    engine = begin(source_of())
    assert read_through(engine.open(made(size)[1]), READ) == made(size)[0]
    assert size - MIB < sum(told) < size
    told.clear()
    handle = engine.open(made(size)[1])
    for offset in random.Random(1).sample(range(0, size, 9 * MIB), 4):
        handle.read(offset + MIB, 4096)
    assert not told


def test_a_server_without_ranges_begins_anew_after_a_cut(begin: Begin) -> None:
    """What comes after a cut is the whole file again, and taken as that."""
    source, (data, file) = source_of(MIB + 17, cuts=1, seed=3), made(MIB + 17)
    source.has_ranges = False
    source.held = lambda file_id, at: setattr(source, "cuts", 0) is not None  # the first transfer alone is cut
    assert read_through(begin(source).open(file)) == data
    assert len(source.asked) == 2
    assert 0 < source.asked[1][1] < len(data)


@pytest.mark.parametrize("first", [0, 40, 100])
def test_blocks_that_are_lost_while_they_are_looked_for_are_asked_for(begin: Begin, tmp_path: Path, first: int) -> None:
    """A segment that was cut under its reader: each lost block is asked for anew."""
    size = SEGMENT_BYTES
    data, file = made(size)
    source = source_of(size)
    engine = begin(source)
    with closing(engine.open(file)) as handle:
        assert read_through(handle) == data
        settle(engine)
        (segment,) = (tmp_path / "v2").glob("*/*")
        os.truncate(segment, DATA_AT + first * BLOCK_BYTES)
        order = random.Random(first)
        for _ in range(20):
            at = order.randrange(size)
            assert handle.read(at, READ) == data[at : at + READ]
        assert read_through(handle) == data
    assert source.taken_bytes <= 3 * size


@pytest.mark.parametrize(("size", "is_ahead"), [(MIB, True), (WHOLE, False)])
def test_what_is_fetched_ahead_is_still_here_for_its_reader(begin: Begin, size: int, is_ahead: bool) -> None:
    """Where the disk cannot be used, there is room in memory for 48 little files, and each file is asked for once."""
    made_ahead = [made(size, variant) for variant in range(48)]
    source = FaultySource({file.id: data for data, file in made_ahead})
    engine = begin(source, 0)
    assert [engine.prefetch(file) for _, file in made_ahead] == [is_ahead] * 48
    source.wait_until(lambda: len(source.asked) == 48 * is_ahead and source.under_way == 0)
    for data, file in made_ahead:
        with closing(engine.open(file)) as handle:
            assert read_through(handle) == data
    assert len(source.asked) == 48


def test_a_file_whose_reader_comes_before_it_is_fetched_ahead_is_not_counted_as_ahead(begin: Begin) -> None:
    """However the reader and the thread that fetches ahead meet, the file is asked for once, by the reader."""
    source = source_of(*SIZES)
    engine = begin(source)
    look = engine._store.missing

    def look_before_its_reader_comes(*place: int) -> tuple[int, int] | None:
        missing = look(*place)
        engine._store.missing = look  # type: ignore[method-assign]
        with closing(engine.open(file)) as handle:
            assert read_through(handle) == data
        return missing

    for number, size in enumerate((1, BLOCK_BYTES, MIB + 17), start=1):
        data, file = made(size)
        engine._store.missing = look_before_its_reader_comes  # type: ignore[assignment]
        assert not engine.prefetch(file)
        assert len(source.asked) == number
    stats = engine.stats()
    assert (stats["content.files_ahead"], stats["content.files_ahead_read"]) == (0, 0)


def test_a_file_that_is_open_is_left_to_its_reader(begin: Begin) -> None:
    """Who has a file open fetches it; nothing of it is counted as fetched ahead."""
    data, file = made(MIB + 17)
    source = source_of(MIB + 17)
    engine = begin(source)
    with closing(engine.open(file)) as handle:
        assert not engine.prefetch(file)
        assert source.asked == []
        assert read_through(handle) == data
    assert len(source.asked) == 1
    stats = engine.stats()
    assert (stats["content.files_ahead"], stats["content.files_ahead_read"]) == (0, 0)
