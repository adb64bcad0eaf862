"""Pacing through the layers: how urgent each request is, and which rates a mount begins with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from rescalefs.budget import CONTENTS, JOBS, Budget, Priority, Rate, Turn, parse_rate
from rescalefs.client import Client
from rescalefs.config import Settings
from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.content.flight import OnItsWay
from rescalefs.credentials import Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.kept import Kept
from rescalefs.listings import RATES_TRUSTED_S, keep_rates, recall_rates
from rescalefs.transport import Transport
from tests.conftest import wait_for
from tests.raw_server import RawServer, reply
from tests.stack import budget_on
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


def test_requests_that_are_throttled_together_halve_the_rate_once() -> None:
    """Eight streams that meet the limit at once find the rate at a half, not at its floor, and all succeed then."""
    clock = ManualClock()
    budget = budget_on(clock, {CONTENTS: Rate(64, 64)})
    all_sent = threading.Barrier(8)
    throttled: list[str] = []

    def answer(head: str) -> bytes:
        if len(throttled) >= 8:
            return reply(200, b"data")
        throttled.append(head)
        all_sent.wait(20)
        return reply(429, Retry_After="3")

    with (
        RawServer(answer) as server,
        closing(
            Transport(server.origin, Key(lambda: "k", "a test"), budget, clock=clock.now, sleep=clock.advance)
        ) as to,
        closing(Client(to)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        at = clock.now() + LONG_S
        transfers = list(pool.map(lambda _: client.contents("f", 0, None, deadline_at=at), range(8)))
        for transfer in transfers:
            transfer.close()
        assert len(server.heads) == 16
    assert 32 <= budget.rates[CONTENTS] < 33


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
        assert engine.transfers() == [OnItsWay(file, 0, file.size, 0, is_urgent=False)]

        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(engine.open(file).read(0, len(SMALL))))
        reader.start()
        wait_for(lambda: source.turns[0].priority is Priority.READ, 20, lambda: "nobody hurried")
        assert engine.transfers() == [OnItsWay(file, 0, file.size, 0, is_urgent=True)]
        source.may_go.set()
        reader.join(20)
        assert engine.transfers() == []
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


def test_chosen_rates_are_shown(tmp_path: Path) -> None:
    """`.rescale/config` tells each as it may be written."""
    settings = Settings(tmp_path, tmp_path, 0, rates={JOBS: Rate(8, 20), CONTENTS: Rate(0.5, 1)})
    assert settings.public()["rate.jobs-usage"] == "8:20"
    assert parse_rate(f"file-access={settings.public()['rate.file-access']}") == (CONTENTS, Rate(0.5, 1))


def test_a_rate_that_is_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """The option says how it is written, wherever it came from."""
    for args, environ in ((("--rate", "jobs=1"), {}), ((), {"RESCALEFS_RATES": "jobs-usage=2 jobs=1"})):
        done = rescalefs(tmp_path, "mount", *args, str(tmp_path), **environ)
        assert done.returncode == 2
        assert "'jobs=1' is no rate; write SCOPE=PER_S" in done.stderr
