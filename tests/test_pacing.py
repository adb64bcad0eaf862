"""Pacing through the layers: how urgent each request is, and what a mount tells and remembers of its budget."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rescalefs.budget import DEFAULT_RATES, JOBS, Budget, Priority, Turn
from rescalefs.client import Client
from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.credentials import Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.kept import Kept
from rescalefs.listings import RATES_TRUSTED_S, keep_rates, recall_rates
from rescalefs.transport import Transport
from tests.conftest import Mounted, wait_for
from tests.test_cli import rescalefs
from tests.test_content import SMALL, Source, Stream, remote

LONG_S = 1000.0


class Recorder(Budget):
    """A budget that notes how urgent each request is, and limits none."""

    def __init__(self) -> None:
        super().__init__({})
        self.priorities: list[Priority] = []

    def take(self, scope: str, deadline_at: float, turn: Turn | None = None) -> int:
        assert turn is not None
        self.priorities.append(turn.priority)
        return super().take(scope, deadline_at, turn)


def test_each_request_knows_how_urgent_it_is(emulator: Emulator, run: Run, live: Run) -> None:
    """Bytes and acts that somebody waits for first, listings next, looks at what is known last."""
    budget = Recorder()
    with (
        closing(Transport(emulator.origin, Key(lambda: emulator.key, "a test"), budget)) as transport,
        closing(Client(transport)) as client,
    ):
        at = Budget()._clock() + LONG_S
        ask: dict[Callable[[], object], Priority] = {
            lambda: client.jobs(at): Priority.LISTING,
            lambda: client.runs("AbCdE", at): Priority.LISTING,
            lambda: client.files("AbCdE", "1", at): Priority.LISTING,
            lambda: client.live_paths("LiveR", "1", at): Priority.LISTING,
            lambda: client.tail("LiveR", "1", "log", deadline_at=at).close(): Priority.READ,
            lambda: client.tail("LiveR", "1", "log", is_retried=False, deadline_at=at).close(): Priority.AHEAD,
            lambda: client.act("stop", "LiveR", "1", at): Priority.READ,
            lambda: client.contents(run.files[0].id, 0, 1, deadline_at=at).close(): Priority.READ,
            lambda: client.contents(
                run.files[0].id, 0, 1, turn=Turn(Priority.AHEAD), deadline_at=at
            ).close(): Priority.AHEAD,
        }
        for question in ask:
            question()
    assert budget.priorities == list(ask.values())


class Waiting(Source):
    """Lets its answers wait, as a budget that is used up does, and notes how urgent they are."""

    def __init__(self, **files: bytes) -> None:
        super().__init__(**files)
        self.turns: list[Turn] = []
        self.may_go = threading.Event()

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> Stream:
        self.turns.append(turn)
        assert self.may_go.wait(20)
        return super().contents(file_id, start, end, turn=turn, deadline_at=deadline_at)


def test_a_file_ahead_becomes_urgent_when_its_reader_comes(tmp_path: Path) -> None:
    """The request that waits for the budget already moves up; no second one is made."""
    source, file = Waiting(f=SMALL), remote("f", SMALL)
    with closing(
        ContentEngine(DiskCache(tmp_path, 1 << 30, min_free_bytes=0), source, account="a", deadline_s=20)
    ) as engine:
        engine.start()
        assert engine.prefetch(file)
        wait_for(lambda: bool(source.turns), 20, lambda: "nothing was asked")
        assert source.turns[0].priority is Priority.AHEAD

        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(engine.open(file).read(0, len(SMALL))))
        reader.start()
        wait_for(lambda: source.turns[0].priority is Priority.READ, 20, lambda: "nobody hurried")
        source.may_go.set()
        reader.join(20)
    assert read == [SMALL]
    assert len(source.turns) == 1


def test_rates_are_remembered_for_a_day_and_for_their_account(tmp_path: Path) -> None:
    """What is older, from the future, or another account's is not believed."""
    clock = ManualClock(1e9)
    kept = Kept(tmp_path, wall_clock=clock.now)
    keep_rates(kept, "us someone", {JOBS: 2.5})

    assert recall_rates(kept, "us someone", clock.now() + RATES_TRUSTED_S - 1) == {JOBS: 2.5}
    for account, now_s in (
        ("us someone", clock.now() + RATES_TRUSTED_S + 1),
        ("us someone", clock.now() - 1),
        ("eu someone", clock.now()),
    ):
        assert recall_rates(kept, account, now_s) == {}


def stats_of(mounted: Mounted) -> dict[str, float]:
    """Return `.rescale/stats`."""
    lines = (mounted.path / ".rescale/stats").read_text().splitlines()
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


@pytest.mark.mount
def test_stats_tell_what_was_asked_and_how_fast_one_may_ask(run: Run, mounted: Mounted, emulator: Emulator) -> None:
    """Requests by endpoint as the API counts them, bytes, hits and misses, and the rate of each scope."""
    emulator.reset_counts()
    before = stats_of(mounted)
    outputs = mounted.jobs / "AbCdE/runs/1"
    sizes = [len(path.read_bytes()) for path in outputs.rglob("*") if path.is_file()]
    after = stats_of(mounted)

    asked = {name.removeprefix("requests."): value for name, value in after.items() if name.startswith("requests.")}
    for name, count in emulator.requests.items():
        assert asked[name] == before.get(f"requests.{name}", 0) + count
    assert after["content.fetched_bytes"] == sum(sizes) > 0
    assert after["content.misses"] > 0
    assert after["throttled_s"] == 0
    for scope, rate in DEFAULT_RATES.items():
        assert after[f"rate.{scope}"] >= rate.per_s


@pytest.mark.mount
def test_a_mount_remembers_how_fast_it_may_ask(run: Run, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """A 429 halves the rate that was chosen; the next mount begins there, and tells both."""
    first = mount_of(emulator, "--rate", "jobs-usage=8:20")
    assert "rate.jobs-usage 8:20\n" in (first.path / ".rescale/config").read_text()
    assert stats_of(first)["rate.jobs-usage"] == 8
    throttled = emulator.faults.add(endpoint="jobs", times=1, status=429, headers={"Retry-After": "1"})
    assert [path.name for path in first.jobs.iterdir()] == ["AbCdE"]
    assert throttled.hits == 1
    left = stats_of(first)
    assert 4 <= left["rate.jobs-usage"] < 5
    assert left["throttled_s"] == 1
    first.unmount()

    first.mount()
    assert stats_of(first)["rate.jobs-usage"] == pytest.approx(left["rate.jobs-usage"], abs=0.1)


def test_a_rate_that_is_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """The option says how it is written, wherever it came from."""
    for args, environ in ((("--rate", "jobs=1"), {}), ((), {"RESCALEFS_RATES": "jobs-usage=2 jobs=1"})):
        done = rescalefs(tmp_path, "mount", *args, str(tmp_path), **environ)
        assert done.returncode == 2
        assert "'jobs=1' is no rate; write SCOPE=PER_S" in done.stderr
