"""Files fetched ahead: the orders in which people read, and how little is fetched in vain."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescalefs.ahead import MAX_AHEAD, FilesAhead, Order, same_after, walk_after
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.models import RemoteFile
from rescalefs.tree import Branch, Line, build_tree
from tests.conftest import Mounted, wait_for

TIMES = [f"{number:03}" for number in range(60)]


def remote(path: str) -> RemoteFile:
    return RemoteFile(path, path, 100, 0, 5, True, False, None)


def series() -> Branch:
    """A case with two fields for each time, and a log."""
    return build_tree([remote(f"{time}/{field}") for time in TIMES for field in ("U", "p")] + [remote("log")])


def opened(root: Branch, path: str) -> tuple[str, tuple[Branch, ...], tuple[str, ...], RemoteFile]:
    """What an open of *path* tells."""
    names = tuple(path.split("/"))
    branches = [root]
    for name in names[:-1]:
        below = branches[-1].entries[name]
        assert isinstance(below, Branch)
        branches.append(below)
    leaf = branches[-1].entries[names[-1]]
    assert isinstance(leaf, RemoteFile)
    return "job/1", tuple(branches), names, leaf


class Recorder:
    """Notes what was to be fetched, each file once, as the engine does."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def prefetch(self, file: RemoteFile) -> bool:
        if file.path not in self.fetched:
            self.fetched.append(file.path)
        return True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def ahead(recorder: Recorder) -> Iterator[FilesAhead]:
    watcher = FilesAhead(recorder)
    watcher.start()
    yield watcher
    watcher.close()


class Counted(Branch):
    """A directory that counts the names that are made of it, or gone through."""

    made = 0

    class Entries(dict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            for name in super().__iter__():
                Counted.made += 1
                yield name

    def lines(self, start: int = 0, stop: int | None = None) -> list[Line]:
        lines = super().lines(start, stop)
        Counted.made += len(lines)
        return lines


def test_who_reads_a_large_directory_in_no_order_does_not_have_it_gone_through(recorder: Recorder) -> None:
    """As programs that learn from files do: each open costs a few names, not all before it."""
    plain = build_tree([remote(f"{number:05}") for number in range(20_000)])
    root = Counted(Counted.Entries(plain.entries))
    watcher, order = FilesAhead(recorder), random.Random(1)
    opens = [opened(root, f"{order.randrange(20_000):05}") for _ in range(50)]
    Counted.made = 0
    for open_ in opens:
        watcher._follow(*open_)
    assert Counted.made < 50 * 100
    assert recorder.fetched == []


def test_a_walk_goes_through_directories_in_order() -> None:
    """What follows a file are the rest of its directory and of those above it, as a listing has them."""
    root = series()
    paths = [file.path for file in walk_after(*opened(root, "057/U")[1:3])]
    assert paths == ["057/p", "058/U", "058/p", "059/U", "059/p", "log"]


def test_the_same_name_follows_in_sibling_directories() -> None:
    """What follows 057/U in a time series is 058/U."""
    root = series()
    assert [file.path for file in same_after(*opened(root, "057/U")[1:3])] == ["058/U", "059/U"]


def test_one_open_fetches_nothing(ahead: FilesAhead, recorder: Recorder) -> None:
    """A single file, and files in no order, cost nothing but themselves."""
    root = series()
    for path in ("030/U", "007/p", "045/U", "log", "000/p"):
        ahead.opened(*opened(root, path))
    ahead.opened(*opened(root, "050/U"))
    ahead.opened(*opened(root, "050/p"))  # the first in order: all before it was looked at
    wait_for(lambda: bool(recorder.fetched), 20, lambda: "nothing was fetched")
    assert all(path >= "051" for path in recorder.fetched)


@pytest.mark.parametrize("field", ["U", "p"])
def test_a_time_series_is_fetched_ahead(ahead: FilesAhead, recorder: Recorder, field: str) -> None:
    """Who opens 000/U, 001/U, 002/U gets the next ones, and of no other field."""
    root = series()
    for time in TIMES[:3]:
        ahead.opened(*opened(root, f"{time}/{field}"))
    wait_for(lambda: f"006/{field}" in recorder.fetched, 20, lambda: f"{recorder.fetched}")
    assert [path for path in recorder.fetched if path.endswith(field)] == [f"{time}/{field}" for time in TIMES[2:7]]


@given(count=st.integers(1, 300), read=st.integers(1, 300))
def test_little_is_fetched_in_vain(count: int, read: int) -> None:
    """At any time no more files are ahead than twice those read in order, and never more than the bound."""
    files = [remote(f"{number:04}") for number in range(count)]
    order = Order(iter(files[1:]))
    begun: list[str] = []
    for number, file in enumerate(files[1 : read + 1], start=1):
        assert order.step(file)
        begun += [each.id for each in order.take()]
        ahead = [each for each in begun if each > file.id]
        assert len(ahead) <= min(MAX_AHEAD, 2**number)
    assert begun == sorted(set(begun))  # each once


def test_a_file_left_out_does_not_end_the_order() -> None:
    """Who skips a file or two goes on in order; who goes elsewhere does not."""
    files = [remote(f"{number:04}") for number in range(20)]
    order = Order(iter(files[1:]))
    assert order.step(files[2])
    assert order.step(files[5])
    assert not order.step(files[1])
    assert not order.step(files[15])


# On a mount, as its counters tell.

FILES = {f"{time}/{field}": f"{time} {field}".encode() * 99 for time in TIMES[:30] for field in ("U", "k", "p", "phi")}


def counts(mounted: Mounted) -> tuple[int, int]:
    """Files fetched ahead so far, and those of them that were opened later."""
    lines = (mounted.path / ".rescale/stats").read_text().splitlines()
    stats = dict(line.split() for line in lines)
    return int(stats["content.files_ahead"]), int(stats["content.files_ahead_read"])


@pytest.mark.mount
def test_a_walk_has_its_files_ahead_and_none_in_vain(world: World, mounted: Mounted, emulator: Emulator) -> None:
    """Who reads all in order has nearly all of them fetched ahead, and each of them once."""
    world.add_job("AbCdE").add_run(finished=True, files=FILES)
    top = mounted.jobs / "AbCdE/runs/1"
    read = 0

    def next_is_on_its_way() -> bool:
        return emulator.requests["contents"] > read

    for path, data in FILES.items():
        assert (top / path).read_bytes() == data
        read += 1
        if 2 <= read < len(FILES):  # in order, so that it is, however late
            wait_for(next_is_on_its_way, 20, lambda: "nothing is fetched ahead")
    wait_for(lambda: len(set(counts(mounted))) == 1, 20, lambda: f"ahead, and read of these: {counts(mounted)}")
    assert counts(mounted)[0] > len(FILES) // 2
    assert emulator.requests["contents"] == len(FILES)


@pytest.mark.mount
def test_files_read_in_no_order_are_not_fetched_in_vain(world: World, mounted: Mounted) -> None:
    """Who picks files here and there has less than one in ten fetched for nothing."""
    world.add_job("AbCdE").add_run(finished=True, files=FILES)
    top = mounted.jobs / "AbCdE/runs/1"
    for path in random.Random(1).sample(sorted(FILES), 40):
        assert (top / path).read_bytes() == FILES[path]
    ahead, read = counts(mounted)
    assert ahead - read <= 4
