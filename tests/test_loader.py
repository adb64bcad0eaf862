"""Single flight: one piece of work for all who ask, an end for all who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing
from typing import Any

import pytest

from rescalefs.errors import DeadlineExceeded, NotFound, Unavailable
from rescalefs.loader import Flight, Loader
from rescalefs.timing import patience_s, remaining_s, within

LONG_S = 30.0
CALLERS = 8


@pytest.fixture
def loader() -> Iterator[Loader]:
    with closing(Loader("test", 2, LONG_S)) as made:
        made.start()
        yield made


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Work may wait for this; it is opened at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def from_all(call: Callable[[], Any]) -> list[Future[Any]]:
    """Let many threads *call*; return their answers to come."""
    with ThreadPoolExecutor(CALLERS) as pool:
        return [pool.submit(call) for _ in range(CALLERS)]


def test_equal_questions_in_flight_are_one_piece_of_work(loader: Loader, gate: threading.Event) -> None:
    """Who asks while the answer is on its way gets that answer; the work is done once."""
    done: list[int] = []

    def work() -> object:
        assert gate.wait(LONG_S)
        done.append(1)
        return object()

    flights = [loader.begin("key", work) for _ in range(CALLERS)]
    assert len({id(flight) for flight in flights}) == 1
    gate.set()
    assert len({id(loader.result(flight, "x")) for flight in flights}) == 1
    assert done == [1]


def test_many_threads_share_one_answer(loader: Loader, gate: threading.Event) -> None:
    """Callers on threads of their own get one and the same object."""
    asked = threading.Barrier(CALLERS, action=gate.set, timeout=LONG_S)

    def ask() -> object:
        flight = loader.begin("key", lambda: (gate.wait(LONG_S), object())[1])
        asked.wait()  # the work ends when all have asked
        return loader.result(flight, "x")

    assert len({id(answer.result()) for answer in from_all(ask)}) == 1


def test_an_answer_is_not_kept(loader: Loader) -> None:
    """Who asks later asks anew: keeping is the business of others."""
    answers = iter([1, 2])
    assert [loader.load("key", lambda: next(answers), "x") for _ in range(2)] == [1, 2]


def test_who_joins_a_flight_whose_time_is_over_has_a_try_of_his_own(gate: threading.Event) -> None:
    """The deadline of those who asked first is not that of who came later: he asks again."""

    class Watched(Loader):
        def result(self, flight: Future[Any], what: str) -> Any:
            gate.set()  # the caller has joined
            return super().result(flight, what)

    def late() -> object:
        assert gate.wait(LONG_S)
        raise DeadlineExceeded("no answer in time")

    with closing(Watched("test", 2, LONG_S)) as loader:
        loader.start()
        loader.begin("key", late)
        assert loader.load("key", lambda: "an answer", "x") == "an answer"
        with pytest.raises(DeadlineExceeded):
            loader.load("key", late, "x")  # his own


def test_different_questions_are_different_work(loader: Loader, gate: threading.Event) -> None:
    """A question that hangs holds up its own askers alone."""
    hanging = loader.begin("slow", lambda: gate.wait(LONG_S))
    assert loader.load("fast", lambda: "here", "x") == "here"
    assert not hanging.done()


@pytest.mark.parametrize("error", [NotFound("no such run"), ValueError("unforeseen"), KeyboardInterrupt("of a thread")])
def test_an_error_is_shared_and_forgotten(loader: Loader, gate: threading.Event, error: BaseException) -> None:
    """All who wait get the error of the work, whatever it is; the next one to ask gets a new try."""

    def fail() -> None:
        assert gate.wait(LONG_S)
        raise error

    flights = [loader.begin("key", fail) for _ in range(3)]
    gate.set()
    for flight in flights:
        with pytest.raises(type(error)) as caught:
            loader.result(flight, "x")
        assert caught.value is error
    assert loader.load("key", lambda: "well again", "x") == "well again"


def test_a_key_is_free_when_its_answer_is_there(loader: Loader, gate: threading.Event) -> None:
    """Who has an answer and asks again at once does not join the flight that has just landed."""
    again: Future[Future[str]] = Future()
    flight = loader.begin("key", lambda: str(gate.wait(LONG_S)))
    flight.add_done_callback(lambda _: again.set_result(loader.begin("key", lambda: "new")))
    gate.set()
    assert loader.result(again.result(LONG_S), "x") == "new"


def test_closing_lands_all_who_wait(loader: Loader, gate: threading.Event) -> None:
    """Work under way and work that never began: their callers get an error when the mount goes away."""
    flights = [loader.begin(number, lambda: gate.wait(LONG_S)) for number in range(6)]  # two threads: four never begin
    loader.close()
    for flight in flights:
        with pytest.raises(Unavailable, match="closing"):
            loader.result(flight, "x")


def test_a_closed_loader_takes_no_work(loader: Loader) -> None:
    """After `close`, and before `start`, a question is an error at once; to close twice is none."""
    loader.close()
    loader.close()
    for one in (loader, Loader("test", 1, LONG_S)):
        with pytest.raises(Unavailable):
            one.load("key", lambda: pytest.fail("no work"), "x")


def test_work_that_ends_after_closing_changes_nothing(loader: Loader, gate: threading.Event) -> None:
    """A late answer neither replaces the error that was given nor forgets what a loader begun again is at."""
    flight = loader.begin("key", lambda: gate.wait(LONG_S))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("test_")]
    loader.close()
    loader.start()
    second_gate = threading.Event()
    again = loader.begin("key", lambda: second_gate.wait(LONG_S))
    gate.set()
    for thread in threads:
        thread.join(LONG_S)
    assert isinstance(flight.exception(LONG_S), Unavailable)
    assert loader.begin("key", lambda: False) is again
    second_gate.set()
    assert loader.result(again, "x") is True


def test_a_caller_waits_no_longer_than_the_loader_lets_it(gate: threading.Event) -> None:
    """The answer that does not come in time is named; the work goes on, and who asks later still gets it."""
    with closing(Loader("test", 1, 0.01)) as loader:
        loader.start()
        flight = loader.begin("key", lambda: (gate.wait(LONG_S), "late")[1])
        with pytest.raises(DeadlineExceeded, match="the files of run 1: no answer"):
            loader.result(flight, "the files of run 1")
        assert loader.begin("key", lambda: "other") is flight
        gate.set()
        assert flight.result(LONG_S) == "late"


@pytest.mark.parametrize("kind", [TimeoutError, FutureTimeout])
def test_a_time_out_of_the_work_is_no_deadline(loader: Loader, kind: type[Exception]) -> None:
    """Work that itself raises a TimeoutError has failed; its caller has not waited too long."""

    def work() -> None:
        raise kind("the disk did not answer")

    with pytest.raises(Unavailable, match="the size: the disk did not answer"):
        loader.load("key", work, "the size")


def test_an_answer_that_comes_with_the_deadline_is_not_an_error_of_the_work(loader: Loader) -> None:
    """A flight that lands just after its caller gave up is late, not failed."""

    class Late(Flight[str]):
        def result(self, timeout: float | None = None) -> str:
            self.set_result("late")
            raise FutureTimeout

    with pytest.raises(DeadlineExceeded):
        loader.result(Late(), "x")


# Lanes.


def test_a_lane_that_hangs_leaves_threads_for_others(gate: threading.Event) -> None:
    """It takes its part of the threads alone; what waits in it is done when it goes on."""
    done: list[int] = []

    def work(number: int) -> None:
        assert gate.wait(LONG_S)
        done.append(number)

    with closing(Loader("test", 3, LONG_S, 2)) as loader:
        loader.start()
        stuck = [loader.begin(number, lambda number=number: work(number), "lane") for number in range(10)]  # type: ignore[misc]
        assert loader.load("other", lambda: "here", "x", "other lane") == "here"
        assert loader.load("more", lambda: "here", "x") == "here"
        assert not any(flight.done() for flight in stuck)
        assert loader.begin(9, lambda: pytest.fail("twice"), "lane") is stuck[9]
        gate.set()
        for flight in stuck:
            loader.result(flight, "x")
        assert sorted(done) == list(range(10))
        assert loader.load("again", lambda: "here", "x", "lane") == "here"


def test_closing_lands_what_waits_in_a_lane(gate: threading.Event) -> None:
    """Nothing of it begins any more; a loader begun again has lanes of its own."""
    loader = Loader("test", 2, LONG_S, 1)
    loader.start()
    flights = [loader.begin(number, lambda: gate.wait(LONG_S), "lane") for number in range(4)]
    loader.close()
    for flight in flights:
        with pytest.raises(Unavailable, match="closing"):
            loader.result(flight, "x")
    loader.start()
    assert loader.load("key", lambda: "new", "x", "lane") == "new"
    gate.set()
    assert loader.load("key", lambda: "newer", "x", "lane") == "newer"
    loader.close()


# The time of a callback.


def test_a_callback_bounds_all_its_waits(loader: Loader, gate: threading.Event) -> None:
    """In `within` a caller waits no longer than what is left, however patient the loader is."""
    flight = loader.begin("key", lambda: gate.wait(LONG_S))
    with within(0.02):
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                loader.result(flight, "x")
        assert patience_s(LONG_S) == 0
    assert patience_s(LONG_S) == LONG_S


def test_an_answer_that_is_there_needs_no_time(loader: Loader) -> None:
    """With no time left, what has come already is still given."""
    flight = loader.begin("key", lambda: "here")
    flight.result(LONG_S)
    with within(0):
        assert loader.result(flight, "x") == "here"


def test_an_inner_bound_does_not_loosen_an_outer_one() -> None:
    """Of two bounds the nearer one counts, and each ends with its block, by an error too."""
    with within(0):
        with within(LONG_S):
            assert patience_s(LONG_S) == 0
        assert patience_s(LONG_S) == 0
    with pytest.raises(NotFound), within(0):
        raise NotFound("x")
    with within(LONG_S), within(1):
        assert 0 < patience_s(LONG_S) <= 1


def test_a_bound_is_of_its_thread(loader: Loader) -> None:
    """The work that a callback begins has its own deadlines, not those of who asked first."""
    with within(1):
        flight = loader.begin("key", lambda: patience_s(LONG_S))
        assert loader.result(flight, "x") == LONG_S


def test_what_remains_is_positive_or_an_error() -> None:
    """At the deadline nothing is left, and the error names what was waited for."""
    assert remaining_s(12.0, "x", lambda: 10.0) == 2.0
    for now in (12.0, 13.0):
        with pytest.raises(DeadlineExceeded, match="the list: no answer"):
            remaining_s(12.0, "the list", lambda now=now: now)  # type: ignore[misc]
    assert remaining_s(time.monotonic() + LONG_S, "x") > 0


# What a caller waits here, how often a part of its answer comes, and for how long: several times what it waits.
WAIT_S, PART_S, PARTS = 3.0, 0.05, 130


@pytest.fixture
def slow() -> Iterator[Loader]:
    with closing(Loader("test", 2, WAIT_S)) as made:
        made.start()
        yield made


def in_parts(loader: Loader) -> str:
    """Answer part by part."""
    came = loader.part_came()
    for _ in range(PARTS):
        time.sleep(PART_S)
        came()
    return "whole"


def test_who_waits_for_an_answer_in_parts_waits_as_long_as_they_come(slow: Loader) -> None:
    """Longer than a caller waits, longer than its callback may take; and what follows has time again."""
    began = time.monotonic()
    with within(WAIT_S):
        assert slow.load("key", lambda: in_parts(slow), "x") == "whole"
        assert time.monotonic() - began > 2 * WAIT_S
        assert patience_s(LONG_S) > 0
        assert slow.load("next", lambda: "next", "x") == "next"


def test_when_no_part_comes_any_more_they_wait_in_vain(slow: Loader, gate: threading.Event) -> None:
    """Nobody waits for ever for the rest of an answer."""

    def work() -> str:
        whole = in_parts(slow)
        gate.wait(LONG_S)
        return whole

    with pytest.raises(DeadlineExceeded):
        slow.load("key", work, "x")
    gate.set()
    assert slow.load("key", work, "x") == "whole"


def test_who_may_not_go_on_does_not_wait_for_parts(slow: Loader) -> None:
    """His time ends, whatever comes."""
    began = time.monotonic()
    with within(WAIT_S, lambda: False), pytest.raises(DeadlineExceeded):
        slow.load("key", lambda: in_parts(slow), "x")
    assert time.monotonic() - began < PARTS * PART_S
