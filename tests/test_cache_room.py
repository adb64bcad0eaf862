"""The disk cache where the disk is full, cannot be written, or is used by others, too."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from rescalefs.content.cache import DiskCache
from rescalefs.content.segment import BLOCK_BYTES, SEGMENT_BYTES, open_segment
from tests.cached import CONTENTS, LIMIT, ONE, SMALL, VICTIM, Made, Open, descriptors, name, opened
from tests.disk_use import DISK_BYTES, files, fill, used_bytes

# No room.


def test_a_disk_that_fills_up_costs_only_the_cache(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A block that finds no room is refused with one warning; those before it stay, and others come later."""
    content = Made(1, 10 * BLOCK_BYTES)
    with closing(opened(disk)) as cache:
        assert content.write(cache, 0, 1)
        ballast = fill(disk, BLOCK_BYTES // 2)
        for _ in range(3):
            assert not content.write(cache, 1, 4)
        assert content.read(cache, 0, BLOCK_BYTES) == content.bytes(0, BLOCK_BYTES)
        assert content.read(cache, BLOCK_BYTES, 2 * BLOCK_BYTES) is None
        ballast.unlink()
        assert content.write(cache)
        assert content.read(cache) == content.bytes(0, content.size)
    assert len(caplog.records) == 1
    with closing(opened(disk)) as cache:
        assert content.read(cache) == content.bytes(0, content.size)


def test_a_file_that_cannot_be_made_leaves_no_descriptor(disk: Path) -> None:
    """Not even the header fits: an error, nothing stays open or locked, and later it works."""
    cache = opened(disk)
    ballast = fill(disk)
    for _ in range(5):
        with pytest.raises(OSError, match="space"):
            open_segment(disk / "v2", VICTIM.identity, 0, VICTIM.size, may_make=True)
    assert descriptors(disk) == 1  # the lock of the cache
    ballast.unlink()
    assert VICTIM.write(cache)
    cache.close()


def test_old_segments_go_when_the_disk_fills_up(disk: Path) -> None:
    """Room is made for new content by what was used longest ago; what the disk must keep free is kept free."""
    with closing(DiskCache(disk, LIMIT, min_free_bytes=DISK_BYTES // 2)) as cache:
        cache.start()
        kept = [content.write(cache) for content in SMALL]
        room = os.statvfs(disk)
        assert kept == [True] * len(SMALL)
        assert room.f_bavail * room.f_frsize >= DISK_BYTES // 2
        assert SMALL[-1].is_here(cache)
        assert not SMALL[0].is_here(cache)


def test_a_disk_full_of_others_is_left_alone(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no room even without the cache, nothing is written and it is said once."""
    with closing(opened(disk)) as cache:
        fill(disk)
        assert [content.write(cache) for content in SMALL] == [False] * len(SMALL)
    assert files(disk) == []
    assert [record.getMessage().count("nearly full") for record in caplog.records] == [1]


def test_a_directory_that_became_read_only_serves_or_misses(disk: Path) -> None:
    """Nothing fails: bytes that are open are served, new ones are not kept."""
    with closing(opened(disk)) as cache:
        SMALL[0].write(cache)
        assert SMALL[0].read(cache) is not None
        cache.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for one in (cache, opened(disk)):
            assert SMALL[0].read(one) in (None, SMALL[0].bytes(0, BLOCK_BYTES))
            assert not SMALL[1].write(one)
            assert SMALL[1].read(one) is None
            one.mark_verified(SMALL[0].identity, SMALL[0].size)
            one.drop(SMALL[1].identity, SMALL[1].size)


@pytest.mark.parametrize("obstacle", ["a file", "nothing above"])
def test_a_directory_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every question is answered as by an empty cache."""
    root = tmp_path / "in the way"
    if obstacle == "a file":
        root.write_text("text")
    else:
        root = root / "below"
    with closing(opened(root)) as cache:
        assert not VICTIM.write(cache)
        assert VICTIM.read(cache) is None
        assert cache.missing(VICTIM.identity, 0, VICTIM.size, VICTIM.size) == (0, VICTIM.size)
        assert not cache.is_verified(VICTIM.identity, VICTIM.size)
        cache.mark_verified(VICTIM.identity, VICTIM.size)
        cache.drop(VICTIM.identity, VICTIM.size)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("limit", [0, 1, ONE - 1])
def test_a_limit_below_one_segment_keeps_nothing(start: Open, tmp_path: Path, limit: int) -> None:
    """What can never fit is not begun."""
    cache = start(limit)
    assert not SMALL[0].write(cache)
    assert files(tmp_path) == []


def test_a_content_larger_than_the_cache_passes_through(start: Open, tmp_path: Path) -> None:
    """Its first segment goes for its last one, the bound holds all the time."""
    content = CONTENTS[2]
    limit = SEGMENT_BYTES + 5000
    cache = start(limit)
    for block in range(content.blocks):
        assert content.write(cache, block, block + 1)
        assert used_bytes(tmp_path) <= limit
    assert content.read(cache, SEGMENT_BYTES) == content.bytes(SEGMENT_BYTES, content.size)
    assert content.read(cache, 0, 1) is None


# Descriptors.


def test_segments_take_turns_in_being_open(start: Open, tmp_path: Path) -> None:
    """However many segments are used, few are open at a time, and every byte is right."""
    cache = start(max_open=3)
    for _ in range(2):
        for content in SMALL:
            assert content.write(cache)
            assert SMALL[0].read(cache) == SMALL[0].bytes(0, BLOCK_BYTES)
            assert content.read(cache) == content.bytes(0, BLOCK_BYTES)
            assert descriptors(tmp_path) <= 3 + 1


def test_who_still_holds_a_segment_does_not_keep_it_from_being_written(start: Open) -> None:
    """A segment that had its turn while a thread still used it is written again once that thread has let go."""
    cache = start(max_open=1)
    VICTIM.write(cache, 0, 1)
    held = cache.find(VICTIM.identity, 0, VICTIM.size)
    SMALL[0].write(cache)
    assert VICTIM.read(cache, 0, BLOCK_BYTES) == VICTIM.bytes(0, BLOCK_BYTES)
    assert not VICTIM.write(cache, 1, 2)
    assert held is not None
    del held
    assert VICTIM.write(cache)
    assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)


def test_evicted_dropped_and_closed_segments_are_closed(start: Open, tmp_path: Path) -> None:
    """No descriptor outlives its use: only the lock and what is here stay open, and nothing once it is closed."""
    cache = start(3 * ONE)
    for content in SMALL:
        content.write(cache)
        assert content.read(cache) is not None
    assert descriptors(tmp_path) == 3 + 1
    for content in SMALL:
        cache.drop(content.identity, content.size)
    assert descriptors(tmp_path) == 1
    SMALL[0].write(cache)
    cache.close()
    assert descriptors(tmp_path) == 0


def test_an_evicted_segment_is_readable_as_long_as_it_is_held(start: Open) -> None:
    """A reader that has found a segment reads the right bytes from it, although its file is gone."""
    cache = start(2 * ONE)
    SMALL[0].write(cache)
    held = cache.find(SMALL[0].identity, 0, BLOCK_BYTES)
    assert held is not None
    for content in SMALL[1:]:
        content.write(cache)
    assert held.is_evicted
    assert held.read(5, 500) == SMALL[0].bytes(5, 500)
    assert SMALL[0].read(cache) is None


# Other processes, and the next one.


def test_the_order_of_use_outlives_the_process(tmp_path: Path) -> None:
    """After a restart with less room, those go that were used longest ago, reads counted to the minute."""
    seconds = [1e6]
    with closing(opened(tmp_path, clock=lambda: seconds[0])) as cache:
        for age, content in enumerate(SMALL[:4]):
            content.write(cache)
            os.utime(tmp_path / "v2" / name(content), (age, age))
        seconds[0] += 100
        assert SMALL[1].read(cache) is not None
    with closing(opened(tmp_path, 2 * ONE)) as cache:
        assert [content.is_here(cache) for content in SMALL[:4]] == [False, True, False, True]


def test_what_lies_around_in_the_directory_is_counted_and_goes(start: Open, tmp_path: Path) -> None:
    """Files that are no segments take room like others and are the first to go, being the oldest."""
    (tmp_path / "v2/ab").mkdir(parents=True)
    for strange in ("ab/x", "ab/no.number", "ab/x.²", f"ab/{'ab' * 20}.99999"):
        (tmp_path / "v2" / strange).write_bytes(bytes(BLOCK_BYTES))
        os.utime(tmp_path / "v2" / strange, (1, 1))
    cache = start(4 * ONE)
    for content in SMALL[:4]:
        assert content.write(cache)
    assert {path.name for path in files(tmp_path)} == {f"{content.identity}.0" for content in SMALL[:4]}


def test_one_writes_and_others_see_it(start: Open) -> None:
    """Two processes at one segment: the first to open it writes it, what it writes is there for the other at once."""
    one, other = start(), start()
    VICTIM.write(one, 0, 1)
    assert VICTIM.read(other, 0, BLOCK_BYTES) == VICTIM.bytes(0, BLOCK_BYTES)
    assert not VICTIM.write(other, 1, 2)
    VICTIM.write(one, 1, 2)
    assert VICTIM.read(other, 0, 2 * BLOCK_BYTES) == VICTIM.bytes(0, 2 * BLOCK_BYTES)


def test_another_one_writes_on_when_the_writer_has_ended(start: Open) -> None:
    """A segment that was opened beside its writer is written by who is left, from where the writer came to."""
    one, other = start(), start()
    VICTIM.write(one, 0, 1)
    assert VICTIM.read(other, 0, BLOCK_BYTES) is not None
    VICTIM.write(one, 1, 2)
    one.close()
    assert VICTIM.write(other, 2, 4)
    assert VICTIM.read(other) == VICTIM.bytes(0, VICTIM.size)
    assert VICTIM.read(start()) == VICTIM.bytes(0, VICTIM.size)


def test_a_writer_that_ended_before_its_first_byte_leaves_nothing_wrong(start: Open, tmp_path: Path) -> None:
    """Killed between making a file and naming what it holds: the next one names it."""
    path = tmp_path / "v2" / name(VICTIM)
    path.parent.mkdir(parents=True)
    path.touch()
    cache = start()
    assert VICTIM.read(cache) is None
    assert VICTIM.write(cache)
    assert VICTIM.read(start()) == VICTIM.bytes(0, VICTIM.size)


def test_a_file_that_is_cut_while_it_is_open_is_a_miss(start: Open, tmp_path: Path) -> None:
    """Bytes that were here and are no more are fetched again, not made up."""
    cache = start()
    VICTIM.write(cache)
    assert VICTIM.read(cache) is not None
    os.truncate(files(tmp_path)[0], ONE)
    assert VICTIM.read(cache, BLOCK_BYTES) is None
    assert VICTIM.read(cache, 0, BLOCK_BYTES) == VICTIM.bytes(0, BLOCK_BYTES)
    assert VICTIM.write(cache)
    assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)


@pytest.mark.parametrize("length", [0, ONE - 1, ONE])
def test_what_is_written_to_a_file_that_was_cut_makes_no_hole(start: Open, tmp_path: Path, length: int) -> None:
    """A block that was cut away and read before is not zeros once a later one is written; for others neither."""
    cache, other = start(), start()
    VICTIM.write(cache, 0, 2)
    for each in (cache, other):
        assert VICTIM.read(each, 0, 2 * BLOCK_BYTES) is not None
    os.truncate(files(tmp_path)[0], length)

    assert VICTIM.write(cache, 2, 3)

    for each in (cache, other, start()):
        assert VICTIM.read(each, 0, BLOCK_BYTES) in (None, VICTIM.bytes(0, BLOCK_BYTES))
        assert VICTIM.read(each, BLOCK_BYTES, 2 * BLOCK_BYTES) is None
    assert VICTIM.read(cache, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES) == VICTIM.bytes(2 * BLOCK_BYTES, 3 * BLOCK_BYTES)


def test_who_reads_what_another_one_removed_notices_in_a_minute(start: Open, tmp_path: Path) -> None:
    """A segment whose file is gone is read on, then let go: its bytes do not stay on disk for ever."""
    seconds = [1e6]
    one, other = start(), start(clock=lambda: seconds[0])
    VICTIM.write(one)
    assert VICTIM.read(other) is not None
    one.drop(VICTIM.identity, VICTIM.size)
    seconds[0] += 100
    assert VICTIM.read(other) == VICTIM.bytes(0, VICTIM.size)
    assert VICTIM.read(other) is None


def test_what_another_one_removed_is_written_anew(start: Open, tmp_path: Path) -> None:
    """Who takes over a file that has been removed meanwhile does not write into what nobody finds."""
    one, other = start(), start()
    VICTIM.write(one, 0, 1)
    assert VICTIM.read(other, 0, BLOCK_BYTES) is not None
    one.drop(VICTIM.identity, VICTIM.size)
    assert not VICTIM.write(other)
    assert VICTIM.write(other)
    assert len(files(tmp_path)) == 1
    assert VICTIM.read(start()) == VICTIM.bytes(0, VICTIM.size)


def test_two_that_fill_one_directory_keep_one_bound(start: Open, tmp_path: Path) -> None:
    """Each looks at what the other has written, each time it has written a sixteenth of the limit itself."""
    limit = 64 * ONE
    caches = [start(limit), start(limit)]
    for number in range(200):
        assert Made(100 + number, BLOCK_BYTES).write(caches[number % 2])
        assert used_bytes(tmp_path) <= limit + 2 * (limit // 16 + ONE)


def test_a_directory_that_vanishes_under_two_fails_nobody(start: Open, tmp_path: Path) -> None:
    """Looking at what others wrote may fail as writing may: less is kept, nothing is raised."""
    cache, _other = start(4 * ONE), start(4 * ONE)
    assert SMALL[0].write(cache)
    os.rename(tmp_path / "v2", tmp_path / "moved")
    assert VICTIM.write(cache) is False
    assert SMALL[0].write(cache)
    assert SMALL[0].read(cache) == SMALL[0].bytes(0, BLOCK_BYTES)


def test_a_directory_that_was_removed_is_made_again(start: Open, tmp_path: Path) -> None:
    """Nothing of it is left but what readers hold; what is fetched from then on is kept again."""
    cache = start()
    assert SMALL[0].write(cache)
    shutil.rmtree(tmp_path / "v2")
    assert SMALL[0].read(cache) == SMALL[0].bytes(0, BLOCK_BYTES)
    assert not SMALL[1].write(cache)
    for content in SMALL[:3]:
        assert content.write(cache)
        assert content.read(cache) == content.bytes(0, BLOCK_BYTES)
    assert len(files(tmp_path)) == 3
    assert stat.S_IMODE((tmp_path / "v2").stat().st_mode) == 0o700


def test_a_small_disk_is_used_but_for_a_tenth(disk: Path) -> None:
    """A gigabyte that stays free would be more than it has."""
    with closing(DiskCache(disk, LIMIT)) as cache:
        cache.start()
        kept = [content.write(cache) for content in SMALL]
        room = os.statvfs(disk)
        assert kept == [True] * len(SMALL)
        assert DISK_BYTES // 10 <= room.f_bavail * room.f_frsize < DISK_BYTES // 2
