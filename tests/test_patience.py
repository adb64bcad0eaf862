"""Who waits for bytes that do not come gets an error in time, whatever is silent; and does not wait in vain twice."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rescalefs.budget import Turn
from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.content.segment import BLOCK_BYTES
from rescalefs.content.verify import Check, Verifier
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import DeadlineExceeded, Repeated, Unavailable
from rescalefs.follow import SILENT_FILES, Follower
from rescalefs.patience import MAX_SILENCE_S
from rescalefs.tailing import LiveKey
from rescalefs.timing import within
from tests.conftest import wait_for
from tests.faulty_source import LONG_S, FaultySource, FaultyStream, remote
from tests.stack import client_of, loader
from tests.test_engine import LIMIT, made

MIB = 1 << 20
SIZE = 20 * MIB
DATA, FILE = made(SIZE)
# How long is waited in these tests; what takes as long as LONG_S has not looked at it.
SHORT_S, MOMENT_S = 0.3, 4.0


class SilentSource(FaultySource):
    """One whose requests are not answered until it is told to."""

    def __init__(self, *, is_deaf: bool = False, cuts_at: int | None = None) -> None:
        super().__init__({FILE.id: DATA})
        self.may_answer = threading.Event()
        if not is_deaf:
            self.may_answer.set()
        self._cuts_at = cuts_at

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> FaultyStream:
        assert end is not None
        if not self.may_answer.wait(LONG_S):
            raise Unavailable("nobody told")
        if self._cuts_at is not None:  # a few bytes each time, and so no end
            end = min(end, start + self._cuts_at)
        return super().contents(file_id, start, end, turn=turn, deadline_at=deadline_at)

    def let_go(self) -> None:
        self._cuts_at = None
        self.may_answer.set()
        super().let_go()


@contextmanager
def engine_on(
    root: Path, source: SilentSource, *, deadline_s: float = LONG_S, limit: int = LIMIT, is_verified_first: bool = False
) -> Iterator[ContentEngine]:
    cache = DiskCache(root, limit, min_free_bytes=0)
    engine = ContentEngine(cache, source, account="a", deadline_s=deadline_s, is_verified_first=is_verified_first)
    engine.start()
    try:
        yield engine
    finally:
        source.let_go()
        engine.close()


def held_from(place: int) -> SilentSource:
    source = SilentSource()
    source.held = lambda _file_id, at: at >= place
    return source


SILENCES: dict[str, Callable[[], SilentSource]] = {
    "no answer": lambda: SilentSource(is_deaf=True),
    "no byte": lambda: held_from(0),
    "some bytes": lambda: held_from(1),
    "some blocks": lambda: held_from(3 * BLOCK_BYTES + 1),
    "cut without an end": lambda: SilentSource(cuts_at=1),
}


@pytest.mark.parametrize("is_verified_first", [False, True])
@pytest.mark.parametrize("limit", [LIMIT, 0])
@pytest.mark.parametrize("silence", SILENCES)
def test_a_read_ends_with_the_time_of_its_caller(
    silence: str, limit: int, is_verified_first: bool, tmp_path: Path
) -> None:
    """Whatever it waits for, one after the other, and however long the engine would wait for each.

    But a file that is verified first has the engine's time anew for each block that comes.
    """
    source, deadline_s = SILENCES[silence](), 10 * SHORT_S if is_verified_first else LONG_S
    with engine_on(tmp_path, source, deadline_s=deadline_s, limit=limit, is_verified_first=is_verified_first) as engine:
        with closing(engine.open(FILE)) as handle:
            began = time.monotonic()
            with within(SHORT_S), pytest.raises(DeadlineExceeded):
                handle.read(0, 8 * MIB)
            assert time.monotonic() - began < LONG_S
        source.let_go()
        with closing(engine.open(FILE)) as handle:
            assert handle.read(0, 8 * MIB) == DATA[: 8 * MIB]


def test_a_read_whose_verdict_does_not_come_ends_with_the_time_of_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes are here, and nobody looks at them."""
    may_look = threading.Event()
    follow = Verifier._follow

    def slow(self: Verifier, check: Check) -> bool:
        assert may_look.wait(LONG_S)
        return follow(self, check)

    monkeypatch.setattr(Verifier, "_follow", slow)
    with engine_on(tmp_path, SilentSource()) as engine, closing(engine.open(FILE)) as handle:
        with within(SHORT_S), pytest.raises(DeadlineExceeded):
            handle.read(0, SIZE)
        may_look.set()
        assert handle.read(0, SIZE) == DATA


def test_who_waited_in_vain_does_not_wait_for_other_bytes_at_once(tmp_path: Path) -> None:
    """One silence is one wait, for all of a file and without another request; what is here is read all the same."""
    source = held_from(BLOCK_BYTES)
    with engine_on(tmp_path, source, deadline_s=MOMENT_S) as engine, closing(engine.open(FILE)) as handle:
        assert handle.read(0, 10) == DATA[:10]
        with pytest.raises(DeadlineExceeded):
            handle.read(MIB, 10)
        asked = len(source.asked)
        for place in range(2 * MIB, SIZE, MIB):
            with pytest.raises(Repeated):
                handle.read(place, 10)
        assert len(source.asked) == asked
        assert handle.read(0, 10) == DATA[:10]

        with closing(engine.open(FILE)) as other, pytest.raises(DeadlineExceeded):
            other.read(8 * MIB, 10)  # who opens it anew has waited for nothing yet
        assert len(source.asked) > asked

        source.let_go()
        with closing(engine.open(FILE)) as other:
            assert other.read(9 * MIB, 10) == DATA[9 * MIB : 9 * MIB + 10]
        assert handle.read(10 * MIB, 10) == DATA[10 * MIB : 10 * MIB + 10]  # something has come


def test_the_silence_is_over_by_itself(tmp_path: Path) -> None:
    """As long as it was waited for; then it is tried again."""
    source = held_from(0)
    with engine_on(tmp_path, source, deadline_s=MOMENT_S) as engine, closing(engine.open(FILE)) as handle:
        with pytest.raises(DeadlineExceeded):
            handle.read(0, 10)
        source.held = lambda _file_id, _at: False  # nobody is told
        with pytest.raises(Repeated):
            handle.read(8 * MIB, 10)

        def comes() -> bool:
            with contextlib.suppress(Repeated):
                return handle.read(8 * MIB, 10) == DATA[8 * MIB : 8 * MIB + 10]
            return False

        wait_for(comes, LONG_S, lambda: "it is never tried again")


def test_many_files_of_another_size_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """More than there are transfers at a time: the right size of each is found, and bytes of others come meanwhile."""
    files = {str(number): b"%03d" % number * 1000 for number in range(100)}
    source = FaultySource(dict(files))
    cache = DiskCache(tmp_path, LIMIT, min_free_bytes=0)
    with closing(ContentEngine(cache, source, account="a", deadline_s=LONG_S)) as engine:
        engine.start()
        listed = [remote(id, data) for id, data in files.items()]
        wrong = [replace(file, size=file.size - 7) for file in listed]

        def read(number: int) -> None:
            with closing(engine.open(wrong[number])) as handle, pytest.raises(Unavailable):
                handle.read(0, 10)

        with ThreadPoolExecutor(len(wrong)) as pool:
            list(pool.map(read, range(len(wrong))))
        give_up_at = time.monotonic() + LONG_S / 2
        while len(engine.other_sizes) < len(wrong):
            assert time.monotonic() < give_up_at, f"{len(engine.other_sizes)} of {len(wrong)} sizes are known"
            time.sleep(0.01)
        for file in wrong:
            with closing(engine.open(file)) as handle:
                assert handle.read(0, 10_000) == files[file.id]


# ---- live files ----


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Emulator, ManualClock, Follower]]:
    """A follower of an emulated live run with ten files; retries move the clock."""
    clock = ManualClock()
    world = World(clock=clock)
    world.add_job("LiveR").add_run(live={f"f{number}": b"%d" % number for number in range(10)})
    with Emulator(world) as emulator, client_of(emulator.origin, clock) as client, loader() as running:
        yield emulator, clock, Follower(client, running, lambda: tmp_path, clock=clock.now)


def live_file(number: int) -> LiveKey:
    return LiveKey("LiveR", "1", f"f{number}")


def test_a_run_of_which_nothing_comes_is_not_waited_for_file_by_file(
    live: tuple[Emulator, ManualClock, Follower],
) -> None:
    """As `ls -l` goes through it: two files are asked for, the others fail at once; later all are there."""
    emulator, clock, follower = live
    fault = emulator.faults.add(endpoint="tail", status=503)
    for number in range(SILENT_FILES):
        with pytest.raises(Unavailable):
            follower.file(live_file(number)).size()
    hits = fault.hits
    for number in range(SILENT_FILES, 10):
        with pytest.raises(Repeated):
            follower.file(live_file(number)).size()
    assert fault.hits == hits

    emulator.faults.clear()
    clock.advance(MAX_SILENCE_S)
    assert [follower.file(live_file(number)).size() for number in range(10)] == [1] * 10


def test_a_file_that_does_not_come_says_nothing_of_others_that_do(live: tuple[Emulator, ManualClock, Follower]) -> None:
    """Every other one fails: each is asked for."""
    emulator, _, follower = live
    emulator.faults.add(endpoint="tail", path="f[13579]", status=503)
    for number in range(10):
        if number % 2:
            with pytest.raises(Unavailable):
                follower.file(live_file(number)).size()
        else:
            assert follower.file(live_file(number)).size() == 1


def test_one_file_that_is_asked_for_again_and_again_says_nothing_of_others(
    live: tuple[Emulator, ManualClock, Follower],
) -> None:
    """It may be the file: only another one that fails, too, makes it the run."""
    emulator, _, follower = live
    emulator.faults.add(endpoint="tail", path="f1", status=503)
    for _ in range(3):
        with pytest.raises(Unavailable):
            follower.file(live_file(1)).size()
    assert follower.file(live_file(2)).size() == 1
