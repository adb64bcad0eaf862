"""Where the bytes of live files rest: few descriptors, and another place where the cache has no room."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import Stale
from rescalefs.follow import Follower
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
