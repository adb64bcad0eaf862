"""What this process is at, for a log: its threads by what they are doing, and the operations that the kernel waits for.

Frames are read as they are, so that nothing has to be noted while all is well. Names of functions, places in the source
and paths in the mount are told; no other value of a variable is, so neither the key nor bytes of a file can be in it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

# The function that stands around every operation, and what it has for locals: `operations.guarded`.
_GATE = ("rescalefs.operations", "run")


def process() -> str:
    """Return in a line what this process has of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    descriptors = len(os.listdir("/dev/fd")) - 1  # without that of this look
    rss_mib = pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return f"process {os.getpid()}: {threading.active_count()} threads, {descriptors} descriptors, {rss_mib} MiB"


def operations() -> Iterator[str]:
    """Yield a line for each operation that the kernel waits for, those that have waited longest first."""
    waiting = []
    for top in sys._current_frames().values():
        for frame in _frames(top):
            if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _GATE and "began" in frame.f_locals:
                known = frame.f_locals
                where = next((word for word in known["args"] if isinstance(word, str)), "")
                waiting.append((time.monotonic() - known["began"], known["name"], where))
    for seconds, name, where in sorted(waiting, reverse=True):
        yield f"operation {name} {where}: {seconds:.1f} s"


def threads() -> Iterator[str]:
    """Yield the stacks of all threads, innermost call last; those that are at the same place stand together."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    together: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for ident, top in sys._current_frames().items():
        stack = tuple(_place(frame) for frame in reversed(list(_frames(top))))
        together[stack].append(names.get(ident, str(ident)))
    for stack, who in sorted(together.items(), key=lambda item: -len(item[1])):
        yield f"{len(who)} threads: {' '.join(sorted(who))}" if len(who) > 1 else f"thread {who[0]}"
        yield from (f"  {place}" for place in stack)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
