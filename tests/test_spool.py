"""Where the bytes of live files rest, in few descriptors and where there is room, and what is told of them."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import spool as module
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import Stale, Unavailable
from rescalefs.follow import Follower, LiveHandle
from rescalefs.joining import ODD
from rescalefs.spool import Spool
from tests.live_source import BIG, KEY, Stack
from tests.stack import client_of, loader


def test_spools_take_no_more_descriptors_than_they_may(tmp_path: Path) -> None:
    """However many live files are looked at, few are kept; each is right when it is looked at again."""
    clock = ManualClock()
    world = World(clock=clock)
    world.add_job("LiveR").add_run(live={f"f{number}": b"%d" % number for number in range(40)})
    with Emulator(world) as emulator, client_of(emulator.origin, clock) as client, loader() as running:
        follower = Follower(client, running, lambda: tmp_path, max_files=8, clock=clock.now)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            for number in range(40):
                assert follower.file(KEY._replace(path=f"f{number}")).size() == len(str(number))
        assert len(os.listdir("/proc/self/fd")) <= before + 8 + 2


@pytest.mark.parametrize("obstacle", ["no directory", "full at once", "full later"])
def test_where_the_cache_has_no_room_the_systems_directory_has(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that cannot be written fails no read of a live file: what was known stays, what comes is added."""
    temporary = tmp_path / "system"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    cache = tmp_path / "cache"
    if obstacle != "no directory":
        cache.mkdir()
    stack = Stack(exits := ExitStack(), cache)
    write = os.pwrite
    room = {"full at once": 0, "full later": 300_000}.get(obstacle, 0)

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if str(cache) in os.readlink(f"/proc/self/fd/{descriptor}") and offset + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with exits:
        stack.source.data = BIG[:250_000]
        handle = stack.open()
        for end in (400_000, 700_000):
            stack.source.data = BIG[:end]
            stack.poll()
            assert (stack.size(), handle.read(0, end)) == (end, BIG[:end])
        stack.source.data = b"new" + BIG
        stack.poll()
        with pytest.raises(Stale):
            handle.read(1, 10**6)
        assert handle.read(0, 10**6) == stack.source.data
    assert list(temporary.iterdir()) == []


def begin_and_lose(stack: Stack, tmp_path: Path, unreadable: list[str]) -> LiveHandle:
    """Read the beginning of a live file, and have the disk give back nothing of it from then on."""
    stack.source.data = BIG[:300_000]
    handle = stack.open()
    assert handle.read(0, 10) == BIG[:10]
    unreadable.append(str(tmp_path))
    return handle


def test_what_the_disk_does_not_give_back_is_an_error_and_then_asked_for_anew(
    tmp_path: Path, unreadable: list[str]
) -> None:
    """Who has read of it cannot go on, unless from the beginning: nothing tells whether the file is still the same."""
    stack = Stack(exits := ExitStack(), tmp_path)
    with exits:
        handle = begin_and_lose(stack, tmp_path, unreadable)
        with pytest.raises(Unavailable, match="from disk: Input/output error"):
            handle.read(10, 10)
        unreadable.clear()
        stack.poll()
        assert stack.size() == 300_000
        assert stack.follower.stats()["live.replaced"] == 0
        with pytest.raises(Stale):
            handle.read(10, 10)
        assert handle.read(0, 10**6) == BIG[:300_000]


@pytest.mark.parametrize("cut", [None, 200_000], ids=["no answer", "half an answer"])
def test_what_the_disk_does_not_give_back_stays_an_error_while_it_cannot_be_asked_for(
    cut: int | None, tmp_path: Path, unreadable: list[str]
) -> None:
    """The size stays known, as that of any file does while Rescale fails; the bytes are an error until it answers."""
    stack = Stack(exits := ExitStack(), tmp_path)
    with exits:
        handle = begin_and_lose(stack, tmp_path, unreadable)
        for _ in range(3):
            stack.source.error, stack.source.cut = None if cut else Unavailable("500"), cut
            for read in (handle.read, stack.open().read):
                for offset in (0, 10, 10**6 - 10):
                    with pytest.raises(Unavailable, match="from disk: Input/output error"):
                        read(offset % 300_000, 10)
            stack.poll()
            assert stack.size() == 300_000
        unreadable.clear()
        stack.source.error = stack.source.cut = None
        stack.poll()
        with pytest.raises(Stale):
            handle.read(299_999, 10)
        assert handle.read(0, 10**6) == stack.open().read(0, 10**6) == BIG[:300_000]


# Repeats, now and then what is no plain text, and pieces that end inside of a character.
TEXTS = st.text("ab\n", max_size=20) | st.text(["a", "\u00e9", "\n", *ODD], max_size=8)
DATA = TEXTS.map(str.encode) | st.binary(max_size=20)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search a few bytes at a time."""
    monkeypatch.setattr(module, "_SEARCH_BYTES", 3)


@pytest.mark.usefixtures("short_search")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DATA, st.lists(st.integers(1, 9), max_size=6), st.data())
def test_what_is_told_of_the_bytes_is_true(tmp_path: Path, whole: bytes, sizes: list[int], data: st.DataObject) -> None:
    """In whatever pieces they are appended: the bytes, the lines, whether they are text, whether the end repeats."""
    spool, known = Spool(tmp_path), b""
    for size in [*sizes, len(whole)]:
        piece = whole[len(known) :][:size]
        spool.append(memoryview(piece))
        known += piece
        assert (spool.size, spool.lines) == (len(known), known.count(b"\n"))
        assert spool.is_text == (b"\0" not in known)
        assert spool.is_plain == (not any(odd.encode() in known for odd in ODD))
        end = known[-data.draw(st.integers(1, 9)) :]
        if end:
            assert spool.ends_once(len(end)) == (known.find(end) == len(known) - len(end))
    cut = data.draw(st.integers(0, len(known)))
    branch = spool.branch(tmp_path, cut)
    assert branch.read(0, 1000) == known[:cut]
    assert branch.lines == known[:cut].count(b"\n")
