"""Who goes first when the request budget is used up, on a clock of its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs.budget import OVERTAKEN, Budget, Priority, Rate, Turn
from rescalefs.errors import DeadlineExceeded
from tests.sleepers import Sleepers

NEVER_S = 1e6


class Queue:
    """A budget of one request a second that somebody has just used, and those who wait for it."""

    def __init__(self, scope: str = "a") -> None:
        self.sleepers = Sleepers()
        self.budget = Budget({"a": Rate(1, 1)}, clock=self.sleepers.clock.now, wait=self.sleepers.wait)
        self.budget.take("a", 0)
        self.events: list[tuple[str, float]] = []

    def ask(self, name: str, priority: Priority, deadline_at: float = NEVER_S) -> Turn:
        """Have somebody wait under a *name*."""
        turn = Turn(priority)

        def work() -> None:
            try:
                self.budget.take("a", deadline_at, turn)
                self.events.append((name, round(self.sleepers.clock.now(), 1)))
            except DeadlineExceeded:
                self.events.append((f"{name} gave up", round(self.sleepers.clock.now(), 1)))

        self.sleepers.begin(work)
        return turn

    def order(self) -> list[str]:
        """Let all go; return their names as they went, having checked that each had a second of his own."""
        self.sleepers.let_pass(1000)
        times = [at for _, at in self.events]
        assert times == [float(second) for second in range(1, len(times) + 1)]
        return [name for name, _ in self.events]


def test_reads_go_before_listings_and_listings_before_what_is_fetched_ahead() -> None:
    """Whoever came first goes first only among equals."""
    queue = Queue()
    for name, priority in (
        ("ahead", Priority.AHEAD),
        ("list 1", Priority.LISTING),
        ("read 1", Priority.READ),
        ("list 2", Priority.LISTING),
        ("read 2", Priority.READ),
    ):
        queue.ask(name, priority)
    assert queue.order() == ["read 1", "read 2", "list 1", "ahead", "list 2"]  # the one ahead was overtaken three times


def test_what_is_fetched_ahead_and_becomes_urgent_moves_up() -> None:
    """It goes when it would have gone had it been urgent from the beginning."""
    queue = Queue()
    turns = [queue.ask(f"ahead {number}", Priority.AHEAD) for number in (1, 2, 3)]
    queue.ask("read", Priority.READ)
    turns[1].hurry()
    assert queue.order() == ["ahead 2", "read", "ahead 1", "ahead 3"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(list(Priority)), min_size=1, max_size=25))
def test_nobody_is_overtaken_for_ever_and_the_urgent_hardly_wait(priorities: list[Priority]) -> None:
    """Who has waited longest is overtaken three times at most; a read waits for older reads, and one in four others."""
    queue = Queue()
    for number, priority in enumerate(priorities):
        queue.ask(str(number), priority)
    order = [int(name) for name in queue.order()]
    assert sorted(order) == list(range(len(priorities)))

    for number, priority in enumerate(priorities):
        before = order[: order.index(number)]
        assert len(before) <= (OVERTAKEN + 1) * (number + 1) - 1
        if priority is Priority.READ:
            reads = [other for other in before if priorities[other] is Priority.READ]
            assert len(before) - len(reads) <= len(reads) / OVERTAKEN
            assert max(reads, default=-1) < number


def test_who_gives_up_lets_the_others_go() -> None:
    """A deadline that more urgent ones leave no time for ends the wait when that is sure, and costs nobody a turn."""
    queue = Queue()
    queue.ask("ahead", Priority.AHEAD, deadline_at=1.5)
    queue.ask("list", Priority.LISTING)
    queue.ask("read", Priority.READ)
    queue.ask("late", Priority.AHEAD, deadline_at=3.5)
    assert queue.events == [("late gave up", 0.0)]  # three go before it
    queue.events.clear()
    queue.sleepers.let_pass(1000)
    assert queue.events == [("read", 1.0), ("ahead gave up", 1.0), ("list", 2.0)]


def test_a_stop_that_comes_while_one_waits_holds_for_it() -> None:
    """Who waits when the 429 comes waits on, or gives up at once if his deadline is before the end of the stop."""
    queue = Queue()
    queue.ask("patient", Priority.LISTING)
    queue.ask("hasty", Priority.LISTING, deadline_at=5)
    queue.budget.throttled("a", 60, 0)
    queue.sleepers.let_pass(100)
    assert queue.events == [("hasty gave up", 0.0), ("patient", 61.0)]
