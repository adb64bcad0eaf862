"""The states of threads that Python did not make, in threads of the C library."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import pytest

from rescalefs.thread_state import ThreadStates

_LIBC = ctypes.CDLL(None)
_START = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_THREAD_END = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_AT_THREAD_END = "__cxa_thread_atexit_impl"

pytestmark = pytest.mark.skipif(
    not hasattr(_LIBC, _AT_THREAD_END), reason="this C library has no hook for the end of a thread"
)


def states() -> int:
    """How many threads the interpreter has a state of, but for `threading`'s: one of another test may just end."""
    api = ctypes.pythonapi
    for function in (api.PyInterpreterState_Head, api.PyInterpreterState_ThreadHead, api.PyThreadState_Next):
        function.restype = ctypes.c_void_p
    count, state = 0, api.PyInterpreterState_ThreadHead(ctypes.c_void_p(api.PyInterpreterState_Head()))
    while state:
        count, state = count + 1, api.PyThreadState_Next(ctypes.c_void_p(state))
    return count - threading.active_count()


def call_back_twice(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Have a thread of C call *first*, later *second*, and wait for its end."""
    at_thread_end = getattr(_LIBC, _AT_THREAD_END)
    later = _THREAD_END(lambda _: second())
    address = ctypes.cast(later, ctypes.c_void_p)

    def start(_: object) -> None:
        first()
        at_thread_end(address, None, address)

    begin, thread = _START(start), ctypes.c_ulong()
    assert _LIBC.pthread_create(ctypes.byref(thread), None, begin, None) == 0
    assert _LIBC.pthread_join(thread, None) == 0


@pytest.mark.parametrize("is_held", [True, False])
def test_a_held_state_lasts_to_the_next_callback_and_no_longer_than_its_thread(is_held: bool) -> None:
    held, local, seen, counts = ThreadStates(), threading.local(), [], []

    def first() -> None:
        if is_held:
            held.hold()
            held.hold()
        local.known = True

    def second() -> None:
        seen.append(hasattr(local, "known"))
        counts.append(states())

    before = states()
    for _ in range(50):
        call_back_twice(first, second)
    assert seen == [is_held] * 50
    assert counts == [before + 1] * 50
    assert states() == before


def test_the_main_thread_is_let_alone() -> None:
    before = states()
    ThreadStates().hold()
    assert states() == before
