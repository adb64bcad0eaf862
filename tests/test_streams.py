"""Transfers side by side: a bounded number, readers before read-ahead, none lost and none twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from rescalefs.content.streams import Job, Streams

LONG_S = 30.0


class Work:
    """Jobs that note their order, and those that are held until they are let go."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.done: list[str] = []
        self.gate = threading.Event()
        self._changed = threading.Condition()
        self.running = self.most = 0

    def submit(self, name: str, *, is_urgent: bool = False, job: Job | None = None, is_held: bool = False) -> Job:
        job = job or Job(is_urgent=is_urgent)
        assert self.streams.submit(job, lambda: self._do(name, is_held))
        return job

    def hold(self, count: int, *, is_urgent: bool = False) -> None:
        """Let *count* jobs run until the gate opens; return when all of them have begun."""
        before = self.running
        for number in range(count):
            self.submit(f"held {number}", is_urgent=is_urgent, is_held=True)
        self.wait_until(lambda: self.running == before + count)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, LONG_S)

    def _do(self, name: str, is_held: bool) -> None:
        with self._changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self._changed.notify_all()
        if is_held:
            assert self.gate.wait(LONG_S)
        with self._changed:
            self.running -= 1
            if not is_held:
                self.done.append(name)
            self._changed.notify_all()


def working(threads: int, max_ahead: int) -> Iterator[Work]:
    """A pool at work; its gate is opened at the end, so that no thread stays."""
    with closing(Streams(threads, max_ahead)) as streams:
        streams.start()
        made = Work(streams)
        yield made
        made.gate.set()


@pytest.fixture
def one() -> Iterator[Work]:
    """A pool of one thread."""
    yield from working(1, 1)


@pytest.fixture
def four() -> Iterator[Work]:
    """A pool of four threads, two of them for read-ahead."""
    yield from working(4, 2)


def test_readers_go_before_read_ahead(one: Work) -> None:
    """Urgent jobs are done first, and each kind in the order in which it came."""
    one.hold(1)
    for number in range(3):
        one.submit(f"ahead {number}")
        one.submit(f"urgent {number}", is_urgent=True)
    one.gate.set()
    one.wait_until(lambda: len(one.done) == 6)
    assert one.done == [*(f"urgent {number}" for number in range(3)), *(f"ahead {number}" for number in range(3))]


def test_a_job_that_a_reader_comes_to_need_is_hurried(one: Work) -> None:
    """Read-ahead that is queued goes first once a reader waits for it; to hurry it twice changes nothing."""
    one.hold(1)
    jobs = [one.submit(f"ahead {number}") for number in range(3)]
    one.streams.hurry(jobs[2])
    one.streams.hurry(jobs[2])
    one.gate.set()
    one.wait_until(lambda: len(one.done) == 3)
    assert one.done == ["ahead 2", "ahead 0", "ahead 1"]


def test_a_job_that_is_hurried_before_it_is_queued_is_urgent(one: Work) -> None:
    """A reader may find a fetch that is reserved and not yet submitted."""
    one.hold(1)
    one.submit("ahead")
    job = Job(is_urgent=False)
    one.streams.hurry(job)
    one.submit("hurried", job=job)
    one.gate.set()
    one.wait_until(lambda: len(one.done) == 2)
    assert one.done == ["hurried", "ahead"]


def test_what_is_withdrawn_is_never_done(one: Work) -> None:
    """A job is taken back from either queue, and before it is queued; once it runs it is too late."""
    one.hold(1)
    queued = [one.submit("ahead"), one.submit("urgent", is_urgent=True), one.submit("hurried")]
    one.streams.hurry(queued[2])
    new = Job(is_urgent=True)
    assert [one.streams.withdraw(job) for job in [*queued, new]] == [True] * 4
    one.submit("new", job=new)
    one.submit("last")
    one.gate.set()
    one.wait_until(lambda: bool(one.done))
    assert one.done == ["last"]


def test_a_job_is_withdrawn_once(one: Work) -> None:
    """Who takes it back ends it; a second one, and one that comes while it runs or after, is told no."""
    one.hold(1)
    taken, running = one.submit("taken"), Job(is_urgent=True)
    assert [one.streams.withdraw(taken) for _ in range(2)] == [True, False]
    one.submit("running", job=running)
    one.gate.set()
    one.wait_until(lambda: bool(one.done))
    assert not one.streams.withdraw(running)
    one.streams.hurry(running)
    one.submit("after")
    one.wait_until(lambda: len(one.done) == 2)
    assert one.done == ["running", "after"]


def test_no_more_run_at_a_time_than_threads(four: Work) -> None:
    """However many are urgent, four run, and all are done in the end."""
    four.hold(4, is_urgent=True)
    for number in range(20):
        four.submit(str(number), is_urgent=True)
    four.gate.set()
    four.wait_until(lambda: len(four.done) == 20)
    assert four.most == 4


def test_a_thread_that_is_about_to_wake_counts_for_one_job(four: Work) -> None:
    """Where one thread is idle and jobs come all at once, each of them gets a thread."""
    four.submit("first")
    four.wait_until(lambda: four.done == ["first"])
    four.hold(4, is_urgent=True)
    four.gate.set()


def test_read_ahead_leaves_room_for_readers(four: Work) -> None:
    """Of four threads read-ahead takes two: a reader that comes finds a free one at once, while all else stands."""
    four.hold(2)
    for number in range(5):
        four.submit(f"ahead {number}")
    for number in range(5):
        four.submit(f"urgent {number}", is_urgent=True)
    four.wait_until(lambda: len(four.done) == 5)
    assert [name.split()[0] for name in four.done] == ["urgent"] * 5
    four.gate.set()
    four.wait_until(lambda: len(four.done) == 10)


def test_hurried_read_ahead_runs_where_read_ahead_may_not(four: Work) -> None:
    """What a reader waits for does not stand behind the share of read-ahead."""
    four.hold(2)
    jobs = [four.submit(f"ahead {number}") for number in range(3)]
    four.streams.hurry(jobs[1])
    four.wait_until(lambda: bool(four.done))
    assert four.done == ["ahead 1"]


def test_each_job_is_done_once(four: Work) -> None:
    """Submitted, hurried and withdrawn by many threads at once: each is done or withdrawn, none both or twice."""
    outcomes: list[str] = []

    def submit(seed: int) -> None:
        order = random.Random(seed)
        for number in range(100):
            name = f"{seed}.{number}"
            job = four.submit(name, is_urgent=order.random() < 0.5)
            if order.random() < 0.5:
                four.streams.hurry(job)
            if order.random() < 0.5 and four.streams.withdraw(job):
                outcomes.append(name)

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    four.wait_until(lambda: len(four.done) + len(outcomes) >= 600)
    assert sorted([*four.done, *outcomes]) == sorted(f"{seed}.{number}" for seed in range(6) for number in range(100))
    assert four.most <= 4


def test_a_closed_pool_takes_nothing_and_drops_what_is_queued(one: Work) -> None:
    """What runs is ended by its own means; what is queued never begins."""
    one.hold(1)
    one.submit("queued", is_urgent=True)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]
    one.streams.close()
    assert not one.streams.submit(Job(is_urgent=True), lambda: pytest.fail("no work"))
    one.gate.set()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert one.done == []


def test_a_pool_that_is_not_started_takes_nothing() -> None:
    """No thread is made before the process has become a daemon."""
    assert not Streams().submit(Job(is_urgent=True), lambda: pytest.fail("no work"))


def test_a_pool_begun_again_has_all_its_threads(one: Work) -> None:
    """Threads that have ended count no more."""
    one.submit("first")
    one.wait_until(lambda: one.done == ["first"])
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]
    one.streams.close()
    for thread in threads:
        thread.join(LONG_S)
    one.streams.start()
    one.submit("second")
    one.wait_until(lambda: one.done == ["first", "second"])


def test_a_thread_that_cannot_be_made_is_made_later(four: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without room for threads is an error for who finds none at all, and costs nothing afterwards."""

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        jobs = [Job(is_urgent=True) for _ in range(4)]
        assert not any(four.streams.submit(job, lambda: pytest.fail("no work")) for job in jobs)
    four.hold(1, is_urgent=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        waiting = four.submit("waits for the one that there is", is_urgent=True)
    four.hold(3, is_urgent=True)
    four.gate.set()
    four.wait_until(lambda: four.done == ["waits for the one that there is"])
    assert not four.streams.withdraw(waiting)


def test_a_job_that_fails_costs_no_thread(one: Work, caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen error is logged, and the next job finds the thread."""
    assert one.streams.submit(Job(is_urgent=False), lambda: [].pop())
    one.submit("next")
    one.wait_until(lambda: one.done == ["next"])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
