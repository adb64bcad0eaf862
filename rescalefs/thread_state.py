"""Keeps Python's state of the threads that libfuse makes, from one callback to the next.

ctypes gives a thread that Python does not know a new state for each callback, and takes it away when that returns.
Since Python 3.11 the state has a memory map of its own, and giving one back interrupts all other processors: half of
the time of a small operation, and of a read from the disk cache. So the first callback holds on to its thread's state,
through Python's documented interface, and the end of the thread lets go of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import Any

_THREAD_END = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_WAS_HELD = 0  # PyGILState_LOCKED: what the state was before, and is again


class ThreadStates:
    """Holds on to the states of threads. Threads: any; where the C library has no hook for a thread's end, idle."""

    def __init__(self) -> None:
        self._held = threading.local()  # goes with the state
        self._at_thread_end: Any = None
        with contextlib.suppress(AttributeError):
            # By its name as a text: as an attribute, the compiler would put the name of this class before it.
            self._at_thread_end = getattr(ctypes.CDLL(None), "__cxa_thread_atexit_impl")
            self._at_thread_end.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self._let_go = _THREAD_END(self._release)  # C keeps the pointer, so this must live
        self._let_go_address = ctypes.cast(self._let_go, ctypes.c_void_p)

    def hold(self) -> None:
        """Hold on to the state of the thread that runs this callback. Cheap from the second time on."""
        if hasattr(self._held, "is_held") or self._at_thread_end is None:
            return
        self._held.is_held = True
        # The main thread's state is Python's own, and its end comes after Python's.
        if threading.get_ident() != threading.main_thread().ident:
            ctypes.pythonapi.PyGILState_Ensure()
            # The last argument is an address in the library that may not be unloaded before; this is in none.
            self._at_thread_end(self._let_go_address, None, self._let_go_address)

    @staticmethod
    def _release(_: object) -> None:
        """The thread ends. The last hold is this callback's own, and goes when it returns."""
        ctypes.pythonapi.PyGILState_Release(_WAS_HELD)
