"""What was shown of each run, so that the kernel is told when it is shown otherwise.

The kernel believes for an hour what it was told of a final run, and for a second what it was told of another. So a
view of a final run is compared by its fingerprint with the last one, and what takes the place of a final view, or is
the first final one, makes the kernel forget. A live run changes all the time, which needs no call, unless a file has
become a directory or the other way round: the kernel takes such an answer for an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rescalefs.kernel import AGAIN_S, FINAL_S
from rescalefs.models import RemoteFile
from rescalefs.packed import PackedFiles
from rescalefs.timing import Clock
from rescalefs.tree import Tree, changed_kinds

# Told of a change: job, run, and the paths that are of another kind now.
Changed = Callable[[str, str, Collection[str]], None]


@dataclass(frozen=True, slots=True)
class _Last:
    """What was shown last: a final run's fingerprint, or the tree of another."""

    fingerprint: int | None
    root: Tree | None
    steady_at: float


class Shown:
    """What was shown last, by job and run. Threads: any."""

    def __init__(self, changed: Changed, clock: Clock) -> None:
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()  # guards the field below; nothing else is done under it
        self._last: dict[tuple[str, str], _Last] = {}

    def show(self, run: tuple[str, str], root: Tree, finals: Collection[RemoteFile] | None) -> float:
        """Take note that a run is shown as *root*, a final one with all its files.

        Return from when on (by the clock) nobody can remember anything else of it: before that, no size that the
        kernel has may be relied on. Calls *changed*, and so takes as long as that.
        """
        fingerprint = None if finals is None else _fingerprint(finals)
        with self._lock:
            before = self._last.get(run)
        steady_at = float("-inf") if before is None else before.steady_at
        has_changed, replaced = False, []
        if before is None or (fingerprint is not None and before.fingerprint == fingerprint):
            pass
        elif before.root is None:  # it was final, and believed for long
            steady_at, has_changed = self._clock() + FINAL_S + AGAIN_S, True
        else:
            steady_at = max(steady_at, self._clock() + AGAIN_S)
            replaced = list(changed_kinds(before.root, root))
            has_changed = fingerprint is not None or bool(replaced)
        with self._lock:
            self._last[run] = _Last(fingerprint, root if fingerprint is None else None, steady_at)
        if has_changed:
            self._changed(*run, replaced)
        return steady_at


def _fingerprint(files: Collection[RemoteFile]) -> int:
    return files.fingerprint if isinstance(files, PackedFiles) else hash(tuple(files))
