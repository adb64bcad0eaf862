"""What the kernel is made to forget, and when; without a kernel."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rescalefs.emulator.clock import ManualClock
from rescalefs.kernel import AGAIN_S, DROPPED_S, MAX_TOLD, KernelMemory
from tests.conftest import wait_for

SOON_S = 20.0
EVERYTHING = "everything"


class Calls:
    """Keeps the calls instead of making them; `hold` lets them wait, as an operation in flight does."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.begun: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def drop_attributes(self, path: str) -> None:
        self.begun.append(path)
        assert self.hold.wait(SOON_S)
        self.made.append(path)

    def drop_names(self) -> None:
        assert self.hold.wait(SOON_S)
        self.made.append(EVERYTHING)

    def look(self, path: str) -> None:
        self.made.append(f"look at {path}")


@pytest.fixture
def calls() -> Calls:
    """What is dropped."""
    return Calls()


@pytest.fixture
def clock() -> ManualClock:
    """The kernel's time."""
    return ManualClock()


@pytest.fixture
def kernel(calls: Calls, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelMemory]:
    """The memory of a kernel in which one file is open; who makes it forget waits as long as that takes."""
    monkeypatch.setattr("rescalefs.kernel.FORGET_S", SOON_S)
    memory = KernelMemory(clock.now)
    memory.start(calls, lambda: ["/open"])
    yield memory
    calls.hold.set()
    memory.close()


def test_what_was_told_is_dropped_once_and_sure_again(kernel: KernelMemory, calls: Calls, clock: ManualClock) -> None:
    """Told many times, a path is dropped once its last time is over; until then it is unsure."""
    for _ in range(100):
        kernel.told("/live")
    assert kernel.is_unsure("/live")
    assert not kernel.is_unsure("/other")

    clock.advance(DROPPED_S)
    wait_for(lambda: not kernel.is_unsure("/live"), SOON_S, lambda: f"{calls.made}")
    assert calls.made == ["/live"]


def test_a_path_is_unsure_while_the_kernel_is_kept_from_forgetting_it(
    kernel: KernelMemory, calls: Calls, clock: ManualClock
) -> None:
    """An operation in flight may keep the call waiting; what is told meanwhile is dropped after it."""
    calls.hold.clear()
    kernel.told("/live")
    clock.advance(DROPPED_S)
    wait_for(lambda: calls.begun == ["/live"], SOON_S, lambda: "it is not dropped")
    assert kernel.is_unsure("/live")
    kernel.told("/live")
    clock.advance(DROPPED_S)
    calls.hold.set()

    wait_for(lambda: not kernel.is_unsure("/live"), SOON_S, lambda: f"{calls.made}")
    assert calls.made == ["/live", "/live"]


def test_forgetting_takes_everything_and_what_is_open(kernel: KernelMemory, calls: Calls) -> None:
    """It has happened when the call returns."""
    before = kernel.generation
    kernel.forget()

    assert calls.made == [EVERYTHING, "/open"]
    assert kernel.generation == before + 1


def test_the_kernel_looks_at_what_is_open_and_of_another_kind(calls: Calls, clock: ManualClock) -> None:
    """Such a name cannot be dropped: after those who wait, and once more when no answer from before is under way."""
    look = "look at /open"
    memory = KernelMemory(clock.now)
    memory.start(calls, lambda: ["/open"])
    memory.forget(["/open", "/closed"])
    wait_for(lambda: calls.made == [EVERYTHING, "/open", look], SOON_S, lambda: f"{calls.made}")
    clock.advance(AGAIN_S)
    memory.told("/other")  # wakes the thread, whose clock stands still
    wait_for(lambda: calls.made == [EVERYTHING, "/open", look] * 2, SOON_S, lambda: f"{calls.made}")
    memory.forget()
    memory.close()

    assert calls.made[6:] == [EVERYTHING, "/open"]


def test_forgetting_waits_for_nobody_for_long(
    kernel: KernelMemory, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that cannot forget yet holds nobody for ever; an answer from before is known as such at once."""
    monkeypatch.setattr("rescalefs.kernel.FORGET_S", 0.2)
    calls.hold.clear()
    before = kernel.generation
    kernel.forget()
    assert (kernel.generation, calls.made) == (before + 1, [])
    calls.hold.set()

    wait_for(lambda: calls.made[:1] == [EVERYTHING], SOON_S, lambda: f"{calls.made}")


def test_what_was_replaced_is_told_to_answers_from_before_alone(kernel: KernelMemory) -> None:
    """Who began before is to look anew; who begins afterwards has the truth."""
    before = kernel.generation
    kernel.forget(["/a"])

    assert kernel.is_replaced("/a", before)
    assert not kernel.is_replaced("/b", before)
    assert not kernel.is_replaced("/a", kernel.generation)


def test_there_is_no_room_for_ever(calls: Calls, clock: ManualClock) -> None:
    """Listings are asked to tell less when many paths wait to be dropped; time makes room."""
    memory = KernelMemory(clock.now)
    memory.start(calls, list)
    for number in range(MAX_TOLD):
        memory.told(f"/{number}")
    assert not memory.has_room
    clock.advance(DROPPED_S)
    memory.forget()  # wakes the thread, whose clock stands still

    wait_for(lambda: memory.has_room, SOON_S, lambda: "no room")
    memory.close()


def test_who_looks_every_second_is_answered_by_the_mount(calls: Calls, clock: ManualClock) -> None:
    """`tail -f` asks for the size a second after it had it: what the kernel kept is dropped before, with time left."""
    memory = KernelMemory(clock.now)
    memory.start(calls, list)
    memory.told("/log")
    clock.advance(0.6)
    memory.forget()  # wakes the thread, whose clock stands still

    wait_for(lambda: not memory.is_unsure("/log"), SOON_S, lambda: f"{calls.made}")
    assert "/log" in calls.made
    memory.close()


def test_without_a_kernel_there_is_nothing_to_do() -> None:
    """Before the mount has begun nothing waits and nothing is kept."""
    memory = KernelMemory()
    memory.told("/a")
    memory.forget()
    memory.close()

    assert not memory.is_unsure("/a")
