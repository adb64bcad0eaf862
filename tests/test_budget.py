"""The request budget on a clock of its own: never faster than its rates, and silent when the API asks for it."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rescalefs.budget import (
    CONTENTS,
    DEFAULT_RATES,
    FLOOR_PER_S,
    JOBS,
    RUNS,
    Budget,
    Priority,
    Rate,
    Turn,
    parse_rate,
    rates,
)
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import DeadlineExceeded
from tests.sleepers import Sleepers
from tests.stack import budget_on

NEVER_S = 1e6


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


def times_of(budget: Budget, clock: ManualClock, count: int, scope: str = "a") -> list[float]:
    """Take *count* times in a row; return when each request could go."""
    times = []
    for _ in range(count):
        budget.take(scope, NEVER_S)
        times.append(clock.now())
    return times


def throttle(budget: Budget, wait_s: float = 0.0, scope: str = "a") -> None:
    """Send a request and have it answered by a 429."""
    budget.throttled(scope, wait_s, budget.take(scope, NEVER_S))


def succeed(budget: Budget, count: int, scope: str = "a") -> None:
    """Send requests that are answered."""
    for _ in range(count):
        budget.succeeded(scope, budget.take(scope, NEVER_S))


# ---- how fast ----

RATES = st.builds(Rate, st.sampled_from([0.5, 1.0, 3.0, 20.0]), st.integers(1, 6))
ORDER = list(Priority)
STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 8)),
    st.tuples(st.just("pass"), st.sampled_from([0.01, 0.3, 1.0, 5.0])),
    st.tuples(st.just("throttled"), st.sampled_from([-1.0, 0.0, 0.5, 8.0])),
    st.tuples(st.just("succeeded"), st.integers(1, 20)),
)


@settings(max_examples=100, deadline=None)
@given(RATES, st.lists(STEPS, max_size=12), st.sampled_from([None, 0.5, 50.0]), st.permutations(ORDER))
@example(Rate(1, 5), [("take", 5), ("throttled", 0.0), ("take", 5)], None, ORDER)  # half the rate is no second burst
@example(Rate(1, 3), [("take", 9), ("throttled", 8.0), ("take", 5)], None, ORDER)  # who wait do not go together
@example(Rate(1, 3), [("throttled", 8.0), ("take", 9)], None, ORDER)
@example(Rate(1, 3), [("take", 3), ("throttled", 8.0), ("throttled", 9.0), ("pass", 5.0), ("take", 9)], None, ORDER)
def test_no_window_has_more_than_its_rate_and_a_burst(
    rate: Rate, steps: list[tuple[str, float]], remembered_per_s: float | None, priorities: list[Priority]
) -> None:
    """Between any two requests of a scope there is the time that they need, whoever waits, after every 429."""
    sleepers = Sleepers()
    remembered = {} if remembered_per_s is None else {"a": remembered_per_s}
    budget = Budget({"a": rate}, remembered=remembered, clock=sleepers.clock.now, wait=sleepers.wait)
    sent: list[float] = []
    taken: list[int] = [0]
    turns = itertools.cycle(priorities)

    def ask() -> None:
        taken.append(budget.take("a", NEVER_S, Turn(next(turns))))
        sent.append(sleepers.clock.now())

    for step, value in steps:
        match step:
            case "take":
                for _ in range(int(value)):
                    sleepers.begin(ask)
            case "pass":
                sleepers.let_pass(value)
            case "throttled":
                budget.throttled("a", value, taken[-1])
            case "succeeded":
                for _ in range(int(value)):
                    budget.succeeded("a", taken[-1])
    sleepers.let_pass(10_000)  # a hundred requests at the slowest rate, and all stops

    assert len(sent) == sum(int(value) for step, value in steps if step == "take")
    for first, begun in enumerate(sent):
        for count, ended in enumerate(sent[first:], 1):
            assert count <= rate.burst + rate.per_s * (ended - begun) + 1e-4


@given(RATES, st.integers(0, 30))
def test_an_idle_scope_gives_its_burst_at_once_and_then_its_rate(rate: Rate, count: int) -> None:
    """No request waits longer than the rate makes it."""
    clock = ManualClock(0.0)
    expected = [max(0, number - rate.burst + 1) / rate.per_s for number in range(count)]
    assert times_of(budget_on(clock, {"a": rate}), clock, count) == pytest.approx(expected)


def test_a_burst_comes_back_with_time(clock: ManualClock) -> None:
    """What was used is there again after the time that the rate needs for it, and no more than a burst."""
    budget = budget_on(clock, {"a": Rate(2, 4)})
    times_of(budget, clock, 4)
    clock.advance(1)
    assert times_of(budget, clock, 3) == pytest.approx([1, 1, 1.5])
    clock.advance(1000)
    assert times_of(budget, clock, 5) == pytest.approx([1001.5] * 4 + [1002])


def test_scopes_do_not_wait_for_each_other(clock: ManualClock) -> None:
    """One scope's requests cost another one nothing; a scope without a rate is not limited."""
    budget = budget_on(clock, {"a": Rate(1, 1), "b": Rate(1, 1)})
    assert times_of(budget, clock, 1, "a") + times_of(budget, clock, 1, "b") == [0, 0]
    assert times_of(budget, clock, 1000, "unknown") == [0] * 1000


def test_a_deadline_takes_nothing(clock: ManualClock) -> None:
    """Who cannot go in time fails at once and without a wait, and costs those after him nothing."""
    budget = budget_on(clock, {"a": Rate(1, 1)})
    budget.take("a", 0)
    for _ in range(50):
        with pytest.raises(DeadlineExceeded, match="budget for a"):
            budget.take("a", 0.5)
    assert clock.now() == 0
    assert times_of(budget, clock, 2) == pytest.approx([1, 2])


# ---- 429 ----


def test_a_throttled_scope_stops_all(clock: ManualClock) -> None:
    """Nothing goes out for as long as the API wants to be left alone; a deadline before its end fails at once."""
    budget = budget_on(clock, {"a": Rate(10, 5), "b": Rate(10, 5)})
    throttle(budget, 30)
    for scope in ("a", "b", "without a rate"):
        with pytest.raises(DeadlineExceeded):
            budget.take(scope, 29)
    assert clock.now() == 0
    assert times_of(budget, clock, 2, "b") == pytest.approx([30, 30])


def test_a_429_halves_the_rate_and_answers_bring_it_back(clock: ManualClock) -> None:
    """The rate falls by half with each 429, to one in ten seconds at least, and is whole after enough answers."""
    budget = budget_on(clock, {"a": Rate(8, 1)})

    def interval_s() -> float:
        first, second = times_of(budget, clock, 2)[-2:]
        return second - first

    for expected in (1 / 8, 1 / 4, 1 / 2, 1):
        times_of(budget, clock, 1)
        assert interval_s() == pytest.approx(expected)
        throttle(budget)
    for _ in range(20):
        throttle(budget)
    times_of(budget, clock, 1)
    assert interval_s() == pytest.approx(1 / FLOOR_PER_S)
    assert budget.rates == {"a": FLOOR_PER_S}
    succeed(budget, 300)
    times_of(budget, clock, 1)
    assert interval_s() == pytest.approx(1 / 8)
    assert budget.rates == {"a": 8}


@pytest.mark.parametrize("parallel", [1, 2, 32])
def test_429s_of_requests_sent_together_halve_the_rate_once(clock: ManualClock, parallel: int) -> None:
    """What was sent before the first of them came says nothing new; what was sent after it does."""
    budget = budget_on(clock, {"a": Rate(8, 64)})
    taken = [budget.take("a", NEVER_S) for _ in range(parallel)]
    for each in taken:
        budget.throttled("a", 1, each)
    assert budget.rates == {"a": 4}
    for each in taken:
        budget.succeeded("a", each)
    assert budget.rates == {"a": 4}  # nor do answers that were sent at the old rate

    throttle(budget, 1)
    assert budget.rates == {"a": 2}


def test_a_rate_whose_limit_is_not_known_grows_until_a_429(clock: ManualClock) -> None:
    """Answers bring it to its upper end and not beyond, the burst stays as it was, a 429 halves what it has become."""
    budget = budget_on(clock, {"a": Rate(10, 5, 40)})
    succeed(budget, 400)
    clock.advance(100)
    times = times_of(budget, clock, 8)
    assert times[4] == pytest.approx(times[0])
    assert [later - earlier for earlier, later in pairwise(times[4:])] == [pytest.approx(1 / 40)] * 3

    throttle(budget)
    times_of(budget, clock, 5)
    first, second = times_of(budget, clock, 2)
    assert second - first == pytest.approx(1 / 20)


def test_after_a_429_a_rate_grows_with_time_and_not_with_itself(clock: ManualClock) -> None:
    """At a fiftieth of the full rate in a second of answers, whatever the rate is: the next 429 comes late."""
    budget = budget_on(clock, {"a": Rate(10, 5, 160)})
    succeed(budget, 2000)
    throttle(budget)
    times_of(budget, clock, 5)
    for per_s in (80, 90, 100):
        begun = clock.now()
        while budget.rates["a"] < per_s + 10:
            succeed(budget, 1)
        assert clock.now() - begun == pytest.approx(50, rel=0.05)


def test_growth_after_a_429_is_no_leap(clock: ManualClock) -> None:
    """An answer gains a hundredth of the full rate at most, though the next one may be seconds away."""
    budget = budget_on(clock, {"a": Rate(20, 1)})
    for _ in range(12):
        throttle(budget)
    succeed(budget, 1)
    assert budget.rates["a"] == pytest.approx(FLOOR_PER_S + 0.2)


def test_after_many_429s_what_takes_some_requests_has_its_answer_in_time(clock: ManualClock) -> None:
    """They were about what is over: nobody is to wait for a mount that still asks once in ten seconds."""
    budget = budget_on(clock, {"a": Rate(20, 40)})
    for _ in range(12):
        throttle(budget, 1.0)
    clock.advance(1.0)
    begun = clock.now()
    for _ in range(5):
        budget.take("a", begun + 15)  # raises where there is no time
    assert clock.now() <= begun + 15


def test_a_429_makes_no_rate_grow(clock: ManualClock) -> None:
    """One that was chosen may be below the floor."""
    budget = budget_on(clock, {"a": Rate(0.2, 1)})
    throttle(budget)
    assert budget.rates == {"a": 0.2}


@given(st.lists(st.tuples(st.floats(-5, 20), st.floats(0, 20)), max_size=8))
def test_the_time_throttled_is_the_time_stopped(stops: list[tuple[float, float]]) -> None:
    """Stops that overlap count once, and shorter ones inside longer ones not at all."""
    clock = ManualClock(0.0)
    budget = budget_on(clock, {"a": Rate(1, 1)})
    stopped_s = stopped_until = 0.0
    for wait_s, then_s in stops:
        budget.throttled("a", wait_s, 0)
        end = max(stopped_until, clock.now() + wait_s)
        stopped_s += max(0.0, end - max(stopped_until, clock.now()))
        stopped_until = end
        clock.advance(then_s)
    assert budget.throttled_s == pytest.approx(stopped_s)
    assert budget.throttled_s <= clock.now() + 20


# ---- what is learnt, and what is chosen ----


def test_what_a_429_teaches_is_told_and_a_later_budget_begins_with_it(clock: ManualClock) -> None:
    """At the rate that was left, growing gently from there; other scopes begin at their own."""
    told: list[dict[str, float]] = []
    full = {"a": Rate(8, 1), "b": Rate(4, 1)}
    budget = budget_on(clock, full, on_learnt=lambda rates: told.append(dict(rates)))
    throttle(budget)
    throttle(budget)
    succeed(budget, 1)
    assert told == [{"a": 4}, {"a": 2}]
    assert budget.learnt == {"a": pytest.approx(2.08)}

    later = budget_on(clock, full, remembered=budget.learnt)
    assert later.rates == {"a": pytest.approx(2.08), "b": 4}
    succeed(later, 1)
    assert later.rates["a"] - 2.08 == pytest.approx(8 * 0.02 / 2.08)
    succeed(later, 300)
    assert later.learnt == {}


@pytest.mark.parametrize(("remembered_per_s", "begun_per_s"), [(1e9, 40), (0.0, FLOOR_PER_S), (7.0, 7.0)])
def test_a_remembered_rate_stays_within_what_is_allowed(
    clock: ManualClock, remembered_per_s: float, begun_per_s: float
) -> None:
    """A rate chosen lower since, or a damaged number, does no harm."""
    budget = budget_on(clock, {"a": Rate(10, 5, 40)}, remembered={"a": remembered_per_s, "gone": 3.0})
    assert budget.rates == {"a": begun_per_s}


def test_the_default_rates_stay_below_the_documented_ones() -> None:
    """The user's other tools share 25 requests a second of job queries; live endpoints go gently."""
    assert set(DEFAULT_RATES) == {JOBS, CONTENTS, RUNS}
    assert DEFAULT_RATES[JOBS].per_s < 25
    assert DEFAULT_RATES[RUNS].per_s <= 2


@pytest.mark.parametrize(
    ("text", "scope", "rate"),
    [
        ("jobs-usage=10", JOBS, Rate(10, DEFAULT_RATES[JOBS].burst)),
        (" file-access=0.5:7 ", CONTENTS, Rate(0.5, 7)),
        ("runs-usage=4.25:1", RUNS, Rate(4.25, 1)),
    ],
)
def test_a_rate_can_be_chosen(text: str, scope: str, rate: Rate) -> None:
    """It takes the place of the default one of its scope, and does not grow beyond what was chosen."""
    assert parse_rate(text) == (scope, rate)
    assert rates({}, dict([parse_rate(text)])) == {**DEFAULT_RATES, scope: rate}
    assert rates({"RESCALEFS_BUDGET": "off"}, {scope: rate}) == {}


@pytest.mark.parametrize(
    "text", ["", "10", "jobs-usage", "jobs-usage=", "jobs-usage=0", "jobs-usage=-1", "jobs-usage=1:0", "jobs-usage=1:",
             "jobs=1", "jobs-usage=inf", "jobs-usage=1,runs-usage=1"]
)  # fmt: skip
def test_what_is_no_rate_is_refused(text: str) -> None:
    """The error says how to write one, and for what."""
    with pytest.raises(ValueError, match="jobs-usage"):
        parse_rate(text)
