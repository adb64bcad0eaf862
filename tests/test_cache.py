"""The disk cache against a plain dictionary: right bytes or none, in its bound, whatever happens to its files."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs.content.segment import BLOCK_BYTES, DATA_AT, SEGMENT_BYTES
from tests.cached import CONTENTS, ONE, SMALL, VICTIM, Made, Open, descriptors, name, opened
from tests.disk_use import files, used_bytes

# Against the model.

ACTS = st.tuples(
    st.sampled_from(["write", "write", "write", "read", "read", "missing", "drop", "again", "verify"]),
    st.sampled_from(CONTENTS),
    st.one_of(st.integers(0, 3), st.integers(120, 134)),
    st.sampled_from([1, 2, 9, 200]),
)


@settings(max_examples=500, deadline=None)
@given(acts=st.lists(ACTS, max_size=20), offset=st.integers(0, BLOCK_BYTES))
def test_the_cache_is_a_dictionary_of_blocks(acts: list[tuple[str, Made, int, int]], offset: int) -> None:
    """What was written is here, and nothing else, across the borders of segments and over restarts."""
    model: set[tuple[Made, int]] = set()
    verified: set[Made] = set()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        cache = stack.enter_context(closing(opened(Path(directory))))
        for act, content, first, count in acts:
            first = min(first, content.blocks - 1)
            last = min(first + count, content.blocks)
            span = range(first, last)
            start, end = min(first * BLOCK_BYTES + offset, content.size - 1), min(last * BLOCK_BYTES, content.size)
            gaps = [block for block in span if (content, block) not in model]
            if act == "write":
                assert content.write(cache, first, last)
                model |= {(content, block) for block in span}
                verified -= {content} if gaps else set()
            elif act == "read" and start < end:
                is_here = all((content, block) in model for block in range(start // BLOCK_BYTES, last))
                assert content.read(cache, start, end) == (content.bytes(start, end) if is_here else None)
            elif act == "missing":
                run = cache.missing(content.identity, first * BLOCK_BYTES, end, content.size)
                after = next((block for block in span if gaps and block > gaps[0] and (content, block) in model), last)
                expected = (gaps[0] * BLOCK_BYTES, min(after * BLOCK_BYTES, content.size)) if gaps else None
                assert run == expected
            elif act == "drop":
                cache.drop(content.identity, content.size)
                model -= {(content, block) for block in range(content.blocks)}
                verified.discard(content)
            elif act == "again":
                cache.close()
                cache = stack.enter_context(closing(opened(Path(directory))))
            elif act == "verify" and content.is_here(cache):
                cache.mark_verified(content.identity, content.size)
                verified.add(content)
            assert cache.is_verified(content.identity, content.size) == (content in verified)


@settings(max_examples=100, deadline=None)
@given(
    acts=st.lists(st.tuples(st.booleans(), st.sampled_from([*SMALL, CONTENTS[1]])), max_size=60),
    room=st.integers(1, 6),
)
def test_the_bound_is_kept_and_the_least_recently_used_go(acts: list[tuple[bool, Made]], room: int) -> None:
    """After each write no more than the limit is on disk, and what is there is what was used last."""
    order: dict[Made, int] = {}
    seconds = [1e6]
    limit = room * ONE
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with closing(opened(root, limit, lambda: seconds[0])) as cache:
            for is_write, content in acts:
                seconds[0] += 2
                if is_write and content not in order:
                    size = DATA_AT + content.size
                    is_kept = content.write(cache)
                    assert is_kept == (size <= limit)
                    while is_kept and order and sum(order.values()) + size > limit:
                        del order[next(iter(order))]
                    if is_kept:
                        order[content] = size
                elif content.read(cache) is not None and content in order:
                    order[content] = order.pop(content)
                assert {other for other in (*SMALL, CONTENTS[1]) if cache._root.joinpath(name(other)).exists()} == set(
                    order
                )
                assert used_bytes(root) <= limit


# Damage.

FILE_BYTES = DATA_AT + VICTIM.size
PLACES = st.one_of(
    st.integers(0, 64),  # the header
    st.integers(64, 71),  # the mark of what is verified
    st.integers(128, 159),  # the sums
    st.integers(DATA_AT, FILE_BYTES - 1),
    st.sampled_from([DATA_AT, DATA_AT + BLOCK_BYTES - 1, DATA_AT + BLOCK_BYTES, FILE_BYTES - 1]),
)


@pytest.fixture(scope="module")
def raw() -> bytes:
    """The file of a content that is here as a whole and not verified."""
    with tempfile.TemporaryDirectory() as directory, closing(opened(Path(directory))) as cache:
        VICTIM.write(cache)
        return files(Path(directory))[0].read_bytes()


def check_damaged(damaged: bytes, blocks: range) -> None:
    """A cache that finds *damaged* serves right bytes or none, and takes what is fetched again."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "v2" / name(VICTIM)
        path.parent.mkdir(parents=True)
        path.write_bytes(damaged)
        for _ in range(2):
            with closing(opened(Path(directory))) as cache:
                for block in range(VICTIM.blocks):
                    start, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, VICTIM.size)
                    assert VICTIM.read(cache, start, end) in (None, VICTIM.bytes(start, end))
                    assert block not in blocks or VICTIM.read(cache, start, end) is not None
                assert not cache.is_verified(VICTIM.identity, VICTIM.size)
                assert VICTIM.write(cache)
                assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)
                assert not cache.is_verified(VICTIM.identity, VICTIM.size)
            blocks = range(VICTIM.blocks)


@settings(max_examples=300, deadline=None)
@given(at=PLACES, flip=st.integers(1, 255))
def test_a_changed_byte_is_never_served(raw: bytes, at: int, flip: int) -> None:
    """Whichever byte of a file changes: its block is missing, the others are here, and nothing counts as verified."""
    damaged = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
    blocks = range(VICTIM.blocks) if 64 <= at < 128 else range((at - DATA_AT) // BLOCK_BYTES if at >= DATA_AT else 0)
    check_damaged(damaged, blocks)


@settings(max_examples=100, deadline=None)
@given(length=st.one_of(st.integers(0, 200), st.integers(0, FILE_BYTES)))
def test_a_cut_file_loses_only_what_was_cut(raw: bytes, length: int) -> None:
    """Blocks that are in it as a whole are served, the others are fetched again."""
    check_damaged(raw[:length], range(max(0, (length - DATA_AT) // BLOCK_BYTES)))


@settings(max_examples=50, deadline=None)
@given(text=st.binary(max_size=5000))
def test_a_foreign_file_is_replaced(text: bytes) -> None:
    """Whatever lies where a segment belongs is no data."""
    check_damaged(text, range(0))


def test_the_file_of_another_content_is_no_data(start: Open, tmp_path: Path) -> None:
    """A file that was renamed says itself what it holds: of another content, number or size."""
    cache = start()
    VICTIM.write(cache)
    (raw,) = [path.read_bytes() for path in files(tmp_path)]
    others = [Made(9, VICTIM.size), Made(3, VICTIM.size - 1)]
    for other in others:
        path = tmp_path / "v2" / name(other)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        assert other.read(start()) is None
    path = tmp_path / "v2" / f"{CONTENTS[2].identity[:2]}/{CONTENTS[2].identity}.1"
    CONTENTS[2].write(cache, 0, 1)
    path.write_bytes((tmp_path / "v2" / name(CONTENTS[2])).read_bytes())
    assert CONTENTS[2].read(start(), SEGMENT_BYTES, SEGMENT_BYTES + 9) is None


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo"])
def test_what_is_no_file_is_not_touched(start: Open, tmp_path: Path, kind: str) -> None:
    """A link in a segment's place is neither read nor written through; nothing there makes a read fail."""
    elsewhere = tmp_path / "elsewhere"
    if kind == "symlink":
        elsewhere.write_bytes(b"precious")
    path = tmp_path / "v2" / name(VICTIM)
    path.parent.mkdir(parents=True)
    make = {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}
    make.get(kind, lambda: path.symlink_to(elsewhere))()
    cache = start()

    assert VICTIM.read(cache) is None
    is_kept = VICTIM.write(cache)
    assert is_kept == (kind in {"symlink", "dangling"})
    assert VICTIM.read(cache) == (VICTIM.bytes(0, VICTIM.size) if is_kept else None)
    assert not elsewhere.exists() or elsewhere.read_bytes() == b"precious"
    assert descriptors(tmp_path) <= 2


def test_a_block_that_was_lost_takes_the_mark_with_it(start: Open, tmp_path: Path) -> None:
    """What is fetched in place of a damaged block of a verified content is not verified."""
    cache = start()
    VICTIM.write(cache)
    cache.mark_verified(VICTIM.identity, VICTIM.size)
    cache.close()
    with files(tmp_path)[0].open("r+b") as file:
        file.seek(DATA_AT + BLOCK_BYTES + 5)
        file.write(b"damage")
    cache = start()
    assert cache.is_verified(VICTIM.identity, VICTIM.size)  # not touched yet
    assert VICTIM.read(cache) is None
    assert not cache.is_verified(VICTIM.identity, VICTIM.size)

    VICTIM.write(cache, 1, 2)
    assert VICTIM.is_here(cache)
    for one in (cache, start()):
        assert not one.is_verified(VICTIM.identity, VICTIM.size)


def test_a_good_block_is_never_written_over(start: Open) -> None:
    """Who has read a block reads the same bytes again, whatever comes later; this holds after a restart, too."""
    other = memoryview(bytes(VICTIM.size))
    cache = start()
    VICTIM.write(cache, 1, 2)
    assert cache.write(VICTIM.identity, 0, other, VICTIM.size)
    mixed = bytes(BLOCK_BYTES) + VICTIM.bytes(BLOCK_BYTES, 2 * BLOCK_BYTES) + bytes(BLOCK_BYTES + 17)
    assert VICTIM.read(cache) == mixed
    cache.close()
    cache = start()
    assert VICTIM.write(cache)
    assert VICTIM.read(cache) == mixed
