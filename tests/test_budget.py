"""The request budget on a clock of its own: never faster than its rates, and silent when the API asks for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rescalefs.budget import CONTENTS, DEFAULT_RATES, JOBS, RUNS, Budget, Rate
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import DeadlineExceeded

NEVER_S = 1e6


class Sleepers:
    """Threads that sleep on one clock, which goes on only when all of them sleep."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self._awake = 0
        self._asleep: list[tuple[float, int, threading.Event]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()

    def begin(self, work: Callable[[], None]) -> None:
        """Do *work* on a thread until it ends or sleeps."""

        def run() -> None:
            work()
            self._rest()

        self._awake += 1
        threading.Thread(target=run, daemon=True).start()
        self._settle()

    def sleep(self, seconds: float) -> None:
        """Sleep on the clock."""
        woken = threading.Event()
        self._asleep.append((self.clock.now() + seconds, next(self._order), woken))
        self._rest()
        assert woken.wait(20)

    def let_pass(self, seconds: float) -> None:
        """Wake whoever is due in the next *seconds*, in order."""
        until = self.clock.now() + seconds
        while self._asleep and min(self._asleep)[0] <= until:
            due = min(self._asleep)
            self._asleep.remove(due)
            self.clock.advance(due[0] - self.clock.now())
            self._awake += 1
            due[2].set()
            self._settle()
        self.clock.advance(until - self.clock.now())

    def _rest(self) -> None:
        with self._changed:
            self._awake -= 1
            self._changed.notify_all()

    def _settle(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._awake == 0, 20)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


def budget_on(clock: ManualClock, **rates: Rate) -> Budget:
    """Return a budget whose sleeps move *clock*."""
    return Budget(rates, clock=clock.now, sleep=clock.advance)


def times_of(budget: Budget, clock: ManualClock, count: int, scope: str = "a") -> list[float]:
    """Take *count* times in a row; return when each request could go."""
    times = []
    for _ in range(count):
        budget.take(scope, NEVER_S)
        times.append(clock.now())
    return times


RATES = st.builds(Rate, st.sampled_from([0.5, 1.0, 3.0, 20.0]), st.integers(1, 6))
STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 8)),
    st.tuples(st.just("pass"), st.sampled_from([0.01, 0.3, 1.0, 5.0])),
    st.tuples(st.just("throttled"), st.sampled_from([-1.0, 0.0, 0.5, 8.0])),
    st.tuples(st.just("succeeded"), st.integers(1, 20)),
)


@settings(max_examples=100, deadline=None)
@given(RATES, st.lists(STEPS, max_size=12))
@example(Rate(1, 5), [("take", 5), ("throttled", 0.0), ("take", 5)])  # half the rate is no second burst
@example(Rate(1, 3), [("take", 9), ("throttled", 8.0), ("take", 5)])  # those who wait do not go together
@example(Rate(1, 3), [("throttled", 8.0), ("take", 9)])
@example(Rate(1, 3), [("take", 3), ("throttled", 8.0), ("throttled", 9.0), ("pass", 5.0), ("take", 9)])
def test_no_window_has_more_than_its_rate_and_a_burst(rate: Rate, steps: list[tuple[str, float]]) -> None:
    """Between any two requests of a scope there is the time that they need, whoever waits, after every 429."""
    sleepers = Sleepers()
    budget = Budget({"a": rate}, clock=sleepers.clock.now, sleep=sleepers.sleep)
    sent: list[float] = []

    def ask() -> None:
        budget.take("a", NEVER_S)
        sent.append(sleepers.clock.now())

    for step, value in steps:
        match step:
            case "take":
                for _ in range(int(value)):
                    sleepers.begin(ask)
            case "pass":
                sleepers.let_pass(value)
            case "throttled":
                budget.throttled("a", value)
            case "succeeded":
                for _ in range(int(value)):
                    budget.succeeded("a")
    sleepers.let_pass(10_000)  # a hundred requests at the slowest rate, and all stops

    assert len(sent) == sum(int(value) for step, value in steps if step == "take")
    for first, begun in enumerate(sent):
        for count, ended in enumerate(sent[first:], 1):
            assert count <= rate.burst + rate.per_s * (ended - begun) + 1e-6


@given(RATES, st.integers(0, 30))
def test_an_idle_scope_gives_its_burst_at_once_and_then_its_rate(rate: Rate, count: int) -> None:
    """No request waits longer than the rate makes it."""
    clock = ManualClock(0.0)
    expected = [max(0, number - rate.burst + 1) / rate.per_s for number in range(count)]
    assert times_of(budget_on(clock, a=rate), clock, count) == pytest.approx(expected)


def test_a_burst_comes_back_with_time(clock: ManualClock) -> None:
    """What was used is there again after the time that the rate needs for it, and no more than a burst."""
    budget = budget_on(clock, a=Rate(2, 4))
    times_of(budget, clock, 4)
    clock.advance(1)
    assert times_of(budget, clock, 3) == pytest.approx([1, 1, 1.5])
    clock.advance(1000)
    assert times_of(budget, clock, 5) == pytest.approx([1001.5] * 4 + [1002])


def test_scopes_do_not_wait_for_each_other(clock: ManualClock) -> None:
    """One scope's requests cost another one nothing; a scope without a rate is not limited."""
    budget = budget_on(clock, a=Rate(1, 1), b=Rate(1, 1))
    assert times_of(budget, clock, 1, "a") + times_of(budget, clock, 1, "b") == [0, 0]
    assert times_of(budget, clock, 1000, "unknown") == [0] * 1000


def test_a_deadline_takes_nothing(clock: ManualClock) -> None:
    """Who cannot go in time fails at once and without a sleep, and costs those after him nothing."""
    budget = budget_on(clock, a=Rate(1, 1))
    budget.take("a", 0)
    for _ in range(50):
        with pytest.raises(DeadlineExceeded, match="budget for a"):
            budget.take("a", 0.5)
    assert clock.now() == 0
    assert times_of(budget, clock, 2) == [1, 2]


def test_a_throttled_scope_stops_all(clock: ManualClock) -> None:
    """Nothing goes out for as long as the API wants to be left alone; a deadline before its end fails at once."""
    budget = budget_on(clock, a=Rate(10, 5), b=Rate(10, 5))
    budget.throttled("a", 30)
    with pytest.raises(DeadlineExceeded):
        budget.take("b", 29)
    assert clock.now() == 0
    assert times_of(budget, clock, 2, "b") == [30, 30]


def test_a_stop_that_comes_while_one_waits_holds_for_it() -> None:
    """Who waits when the 429 comes waits on, or gives up if his deadline is before the end of the stop."""
    sleepers = Sleepers()
    budget = Budget({"a": Rate(1, 1)}, clock=sleepers.clock.now, sleep=sleepers.sleep)
    events: list[tuple[str, float]] = []

    def ask(deadline_at: float) -> None:
        try:
            budget.take("a", deadline_at)
            events.append(("went", sleepers.clock.now()))
        except DeadlineExceeded:
            events.append(("gave up", sleepers.clock.now()))

    for deadline_at in (NEVER_S, NEVER_S, 5):
        sleepers.begin(lambda deadline_at=deadline_at: ask(deadline_at))
    budget.throttled("a", 60)
    sleepers.let_pass(100)
    assert events == [("went", 0), ("gave up", 2), ("went", 61)]


def test_a_429_halves_the_rate_and_answers_bring_it_back(clock: ManualClock) -> None:
    """The rate falls by half with each 429, to one in ten seconds at least, and is whole after enough answers."""
    budget = budget_on(clock, a=Rate(8, 1))

    def interval_s() -> float:
        first, second = times_of(budget, clock, 2)[-2:]
        return second - first

    for expected in (1 / 8, 1 / 4, 1 / 2, 1):
        times_of(budget, clock, 1)
        assert interval_s() == pytest.approx(expected)
        budget.throttled("a", 0)
    for _ in range(20):
        budget.throttled("a", 0)
    times_of(budget, clock, 1)
    assert interval_s() == pytest.approx(10)
    for _ in range(100):
        budget.succeeded("a")
    times_of(budget, clock, 1)
    assert interval_s() == pytest.approx(1 / 8)


def test_a_rate_whose_limit_is_not_known_grows_until_a_429(clock: ManualClock) -> None:
    """Answers bring it to its upper end and not beyond, the burst stays as it was, a 429 halves what it has become."""
    budget = budget_on(clock, a=Rate(10, 5, 40))
    for _ in range(1000):
        budget.succeeded("a")
    times = times_of(budget, clock, 8)
    assert times[4] == times[0]
    assert [later - earlier for earlier, later in pairwise(times[4:])] == [pytest.approx(1 / 40)] * 3

    budget.throttled("a", 0)
    times_of(budget, clock, 5)
    first, second = times_of(budget, clock, 2)
    assert second - first == pytest.approx(1 / 20)


@given(st.lists(st.tuples(st.floats(-5, 20), st.floats(0, 20)), max_size=8))
def test_the_time_throttled_is_the_time_stopped(stops: list[tuple[float, float]]) -> None:
    """Stops that overlap count once, and shorter ones inside longer ones not at all."""
    clock = ManualClock(0.0)
    budget = budget_on(clock, a=Rate(1, 1))
    stopped_s = stopped_until = 0.0
    for wait_s, then_s in stops:
        budget.throttled("a", wait_s)
        end = max(stopped_until, clock.now() + wait_s)
        stopped_s += max(0.0, end - max(stopped_until, clock.now()))
        stopped_until = end
        clock.advance(then_s)
    assert budget.throttled_s == pytest.approx(stopped_s)
    assert budget.throttled_s <= clock.now() + 20


def test_the_default_rates_stay_below_the_documented_ones() -> None:
    """The user's other tools share 25 requests a second of job queries; live endpoints go gently."""
    assert set(DEFAULT_RATES) == {JOBS, CONTENTS, RUNS}
    assert DEFAULT_RATES[JOBS].per_s < 25
    assert DEFAULT_RATES[RUNS].per_s <= 2
