"""Bytes of final files through the cache, against plain slices: no wrong byte, few requests, bounded disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.budget import Turn
from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.content.segment import BLOCK_BYTES, SEGMENT_BYTES
from rescalefs.errors import Corrupt, NotFound, Stale, Unavailable
from rescalefs.models import Digest, RemoteFile
from tests.conftest import wait_for

MIB = 1 << 20
BIG = hashlib.shake_128(b"big").digest(SEGMENT_BYTES + 3 * MIB + 4711)
SMALL = hashlib.shake_128(b"small").digest(MIB + 17)


class Source:
    """Serves files from memory, with faults: `cut` bytes an answer, no ranges or sizes, wrong bytes, gone."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.asked: list[tuple[str, int, int | None]] = []
        self.cut: int | None = None
        self.has_ranges = True
        self.has_sizes = True
        self.is_gone = False
        self.gate: threading.Event | None = None

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> Stream:
        self.asked.append((file_id, start, end))
        if self.gate is not None:
            self.gate.wait(10)
        if self.is_gone:
            raise NotFound("404")
        data = self.files[file_id]
        start = start if self.has_ranges else 0
        stream = Stream(data, start, len(data) if not self.has_ranges else end, self.cut)
        stream.total = len(data) if self.has_sizes else None
        return stream


class Stream:
    def __init__(self, data: bytes, start: int, end: int | None, cut: int | None) -> None:
        self.start = start
        self.total: int | None = len(data)
        self._data = data[start:end]
        self._left = cut

    def readinto(self, buffer: memoryview) -> int:
        if self._left == 0:
            raise Unavailable("cut")
        count = min(len(buffer), len(self._data), 100_000, *([self._left] if self._left is not None else []))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        if self._left is not None:
            self._left -= count
        return count

    def close(self) -> None:
        pass


def remote(id: str, data: bytes, *, has_digest: bool = True, size: int | None = None) -> RemoteFile:
    digest = Digest("sha512", hashlib.sha512(data).digest()) if has_digest else None
    return RemoteFile(id, id, len(data) if size is None else size, 0, 5, True, False, digest)


Make = Callable[..., ContentEngine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make engines over one cache directory."""
    made: list[ContentEngine] = []

    def engine(source: Source, limit_bytes: int = 1 << 30, *, is_verified_first: bool = False) -> ContentEngine:
        cache = DiskCache(tmp_path, limit_bytes, min_free_bytes=0)
        engine = ContentEngine(cache, source, account="a", deadline_s=20, is_verified_first=is_verified_first)
        engine.start()
        made.append(engine)
        return engine

    yield engine
    for one in made:
        one.close()


def segments_on_disk(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("v2/*/*"))


class ShortSource(Source):
    """Ends every answer before a certain byte, as if that were all."""

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> Stream:
        self.asked.append((file_id, start, end))
        data = self.files[file_id]
        return Stream(data, start, max(start, MIB - 100) if start < MIB else end, None)


def test_a_range_that_never_gets_whole_is_given_up(make: Make) -> None:
    """Who waits for bytes that come and for bytes that do not gets the error, after few requests."""
    source = ShortSource(f=BIG)

    with pytest.raises(Unavailable, match="cut"):
        make(source).open(remote("f", BIG)).read(MIB - 2 * BLOCK_BYTES, 2 * BLOCK_BYTES)

    assert len(source.asked) < 50


@pytest.mark.parametrize("data", [b"", b"x", SMALL, BIG], ids=["empty", "one", "small", "big"])
def test_a_file_is_read_whole_and_then_from_disk(make: Make, data: bytes) -> None:
    """Every byte is the source's, and another process asks for none of them."""
    source, file = Source(f=data), remote("f", data)
    assert make(source).open(file).read(0, len(data) + 10) == data
    source.asked.clear()

    engine = make(source)
    assert engine.open(file).read(0, len(data) + 10) == data
    assert source.asked == []
    assert engine.state(file) == ("verified" if data else "cached")


def test_a_small_file_costs_one_request_and_a_large_one_its_blocks(make: Make) -> None:
    """Up to 4 MiB come at once; of a larger file the first MiB, or only the blocks that are read."""
    source = Source(s=SMALL, b=BIG)
    engine = make(source)

    engine.open(remote("s", SMALL)).read(0, 10)
    engine.open(remote("b", BIG)).read(0, 10)
    engine.open(remote("b", BIG)).read(3 * MIB + 5, 10)

    assert source.asked == [("s", 0, len(SMALL)), ("b", 0, MIB), ("b", 3 * MIB, 3 * MIB + BLOCK_BYTES)]


def test_equal_files_of_different_runs_are_fetched_once(make: Make) -> None:
    """Identity is checksum and size; without a checksum it is the file."""
    source = Source(one=SMALL, two=SMALL)
    engine = make(source)

    for has_digest, requests in ((True, 1), (False, 2)):
        source.asked.clear()
        for id in ("one", "two"):
            assert engine.open(remote(id, SMALL, has_digest=has_digest)).read(0, len(SMALL)) == SMALL
        assert len(source.asked) == requests


def test_readers_of_one_block_share_a_request(make: Make) -> None:
    """Eight readers at once make one request."""
    source = Source(f=SMALL)
    source.gate = threading.Event()
    handle = make(source).open(remote("f", SMALL))
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(handle.read, 0, len(SMALL)) for _ in range(8)]
        source.gate.set()
        assert {read.result() for read in reads} == {SMALL}

    assert len(source.asked) == 1


def test_a_cut_transfer_is_continued(make: Make) -> None:
    """What came is kept, the rest is asked for; when nothing comes it is an error, and then right again."""
    source = Source(f=SMALL)
    source.cut = len(SMALL) // 2 + 1
    engine = make(source)
    assert engine.open(remote("f", SMALL)).read(0, len(SMALL)) == SMALL
    assert [start for _, start, _ in source.asked] == [0, len(SMALL) // 2 + 1]

    source.files["g"] = SMALL[::-1]
    handle = engine.open(remote("g", SMALL[::-1]))
    source.cut = 0
    with pytest.raises(Unavailable, match="cut"):
        handle.read(0, 10)
    source.cut = None
    assert handle.read(0, len(SMALL)) == SMALL[::-1]


def test_a_server_without_ranges_is_never_spliced(make: Make) -> None:
    """A whole file in answer to a range is used from its byte 0."""
    source = Source(f=BIG)
    source.has_ranges = False

    assert make(source).open(remote("f", BIG)).read(BLOCK_BYTES - 10, 20) == BIG[BLOCK_BYTES - 10 : BLOCK_BYTES + 10]


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_wrong_bytes_are_an_error(make: Make, data: bytes) -> None:
    """Bytes that do not match the checksum are Corrupt: a small file's at the first, a large one's at the last."""
    wrong = b"?" + data[1:]
    source, file = Source(f=wrong), remote("f", data)
    engine = make(source)

    with pytest.raises(Corrupt, match="does not match"):
        engine.open(file).read(0, len(data))
    assert engine.state(file) == "remote"

    source.files["f"] = data
    assert engine.open(file).read(0, len(data)) == data


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_than_listed_is_corrected_if_the_checksum_confirms_it(
    make: Make, data: bytes, difference: int
) -> None:
    """Never cut, never padded: an error for who has it open, then the server's size and bytes."""
    engine = make(Source(f=data))
    file = remote("f", data, size=len(data) + difference)
    with closing(engine.open(file)) as handle, pytest.raises(Corrupt, match="were listed"):
        handle.read(0, 10)

    wait_for(lambda: engine.size(file) == len(data), 20, lambda: f"size {engine.size(file)}")
    with closing(engine.open(file)) as handle:
        assert handle.read(0, len(data) + 10) == data
    assert engine.state(file) == "verified"


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_a_file_that_is_listed_as_empty_and_is_not_is_an_error(make: Make, data: bytes) -> None:
    """Nobody reads of a file without bytes, so it is its opening that fails; then the server's size counts."""
    engine = make(Source(f=data))
    file = remote("f", data, size=0)
    with pytest.raises(Corrupt, match="without a byte"):
        engine.open(file)

    wait_for(lambda: engine.size(file) == len(data), 20, lambda: f"size {engine.size(file)}")
    with closing(engine.open(file)) as handle:
        assert handle.read(0, len(data) + 10) == data


def test_a_file_that_is_empty_costs_no_request(make: Make) -> None:
    """Its checksum tells, or there is none."""
    source = Source(f=b"")
    engine = make(source)
    for file in (remote("f", b""), remote("f", b"", has_digest=False)):
        with closing(engine.open(file)) as handle:
            assert handle.read(0, 10) == b""
    assert source.asked == []


@pytest.mark.parametrize("served", [SMALL[:-1], b""], ids=["one byte less", "nothing"])
@pytest.mark.parametrize("has_digest", [True, False])
def test_another_size_that_nothing_confirms_stays_an_error(
    make: Make, has_digest: bool, served: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that do not match the checksum, or have none, are not taken because their number differs."""
    source = Source(f=served)
    engine = make(source)
    file = remote("f", SMALL, has_digest=has_digest)
    with closing(engine.open(file)) as handle, pytest.raises(Corrupt, match="were listed"):
        handle.read(0, 10)

    if has_digest and served:
        wait_for(lambda: "may have" in caplog.text, 20, lambda: caplog.text)
    assert engine.size(file) == len(SMALL)
    with closing(engine.open(file)) as handle, pytest.raises(Corrupt, match="were listed"):
        handle.read(0, 10)


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_a_body_of_no_told_size_tells_it_by_its_end(make: Make, data: bytes) -> None:
    """If no checksum does: one that goes on is of another size, one that is cut right there might have gone on."""
    source, file = Source(f=data + b"?"), remote("f", data, has_digest=False)
    source.has_ranges = source.has_sizes = False
    engine = make(source)

    def end() -> bytes:
        with closing(engine.open(file)) as handle:
            return handle.read(len(data) - 10, 10)

    with pytest.raises(Corrupt, match="were listed"):
        end()
    source.files["f"], source.cut = data, len(data)
    with pytest.raises(Unavailable, match="was cut"):
        end()
    source.cut = None
    assert end() == data[-10:]


def test_verified_first_serves_no_byte_unverified(make: Make) -> None:
    """With that, a large file is fetched and checked whole before its first byte; a wrong one serves none."""
    source, file = Source(f=BIG), remote("f", BIG)
    engine = make(source, is_verified_first=True)
    with closing(engine.open(file)) as handle:
        assert handle.read(5, 10) == BIG[5:15]
    assert engine.state(file) == "verified"

    wrong = remote("g", BIG[::-1])
    source.files["g"] = b"?" + BIG[::-1][1:]
    with closing(engine.open(wrong)) as handle, pytest.raises(Corrupt, match="twice"):
        handle.read(len(BIG) // 2, 10)


def test_a_file_that_is_gone_is_stale(make: Make) -> None:
    """404 on the contents of an open file is ESTALE's error, not the end of the file."""
    source = Source(f=SMALL)
    source.is_gone = True

    with pytest.raises(Stale, match="is gone"):
        make(source).open(remote("f", SMALL)).read(0, 10)


@pytest.mark.parametrize("damage", ["alter", "truncate", "empty", "foreign", "remove"])
def test_a_damaged_block_is_fetched_again(make: Make, tmp_path: Path, damage: str) -> None:
    """Whatever happens to a block on disk, the bytes read are right."""
    source, file = Source(f=BIG), remote("f", BIG)
    assert make(source).open(file).read(0, len(BIG)) == BIG
    victim = segments_on_disk(tmp_path)[0]
    raw = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        changes = {"alter": raw[:5000] + b"!" + raw[5001:], "truncate": raw[:-1], "empty": b"", "foreign": b"text"}
        victim.write_bytes(changes[damage])

    assert make(source).open(file).read(0, len(BIG)) == BIG


def test_the_cache_keeps_to_its_bound(make: Make, tmp_path: Path) -> None:
    """A file larger than the cache is read right, and no more than the limit stays on disk."""
    limit = 3 * BLOCK_BYTES
    engine = make(Source(f=BIG), limit)
    handle = engine.open(remote("f", BIG))

    for offset in range(0, len(BIG), 100_000):
        assert handle.read(offset, 100_000) == BIG[offset : offset + 100_000]
        assert sum(path.stat().st_size for path in segments_on_disk(tmp_path)) <= limit


def test_a_cache_that_cannot_be_written_only_slows(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a disk bytes are still right, and one warning says why it is slow."""
    engine = make(Source(f=BIG))
    os.rename(tmp_path / "v2", tmp_path / "moved")
    (tmp_path / "v2").write_text("in the way")

    assert engine.open(remote("f", BIG)).read(0, len(BIG)) == BIG
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_the_directory_is_private(make: Make, tmp_path: Path) -> None:
    """Directories are 0700, blocks 0600."""
    make(Source(f=SMALL)).open(remote("f", SMALL)).read(0, 1)

    assert {path.stat().st_mode & 0o777 for path in segments_on_disk(tmp_path)} == {0o600}
    root = tmp_path / "v2"
    assert {path.stat().st_mode & 0o777 for path in (root, *root.iterdir()) if path.is_dir()} == {0o700}


def test_closing_wakes_waiting_readers(make: Make) -> None:
    """A reader that waits for a stuck server gets an error when the mount ends."""
    source = Source(f=SMALL)
    source.gate = threading.Event()
    engine = make(source)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(engine.open(remote("f", SMALL)).read, 0, 10)
        while not source.asked:
            pass
        engine.close()
        with pytest.raises(Unavailable, match="closing"):
            read.result(10)
        source.gate.set()


READS = st.lists(st.tuples(st.integers(0, len(BIG) + 10), st.integers(0, 300_000)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=READS, limit=st.sampled_from([0, BLOCK_BYTES, 3 * BLOCK_BYTES, 1 << 30]), cut=st.sampled_from([None, 700_001])
)
def test_any_reads_give_the_slices(make: Make, reads: list[tuple[int, int]], limit: int, cut: int | None) -> None:
    """Whatever is read in whatever order, with evictions and cut transfers: exactly the slice."""
    source = Source(f=BIG)
    source.cut = cut
    handle = make(source, limit).open(remote("f", BIG))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda read: handle.read(*read), reads))

    assert results == [BIG[offset : offset + size] for offset, size in reads]
