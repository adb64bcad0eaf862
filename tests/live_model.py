"""What a live file is for those who read it, written down plainly: the model that the follower is tested against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from rescalefs.errors import Stale
from rescalefs.follow import LiveHandle
from rescalefs.tailing import CHECK_S, DOUBT_S


@dataclass
class Reader:
    """One handle, and what it was served so far of one generation of the file."""

    handle: LiveHandle
    generation: int
    known: dict[int, int] = field(default_factory=dict)

    def read(self, offset: int, size: int) -> bytes | None:
        """Return what a read gives, None for Stale."""
        try:
            return self.handle.read(offset, size)
        except Stale:
            return None


class Model:
    """A live file and all that was seen of it: of each generation the longest content, the last one being served."""

    def __init__(self, data: bytes, *, has_ranges: bool) -> None:
        self.data = data  # what the file holds
        self.has_ranges = has_ranges
        self.failure: int | None = None  # a look fails after so many bytes
        self.generations = [data]
        self.requests = 1
        self.is_old = False
        self.checked_at = self.whole_until = 0.0
        self.doubts = 0

    @property
    def seen(self) -> bytes:
        """What is served."""
        return self.generations[-1]

    @property
    def generation(self) -> int:
        """The number of what is served."""
        return len(self.generations) - 1

    def look(self, now: float) -> None:
        """Look, if what is known is old."""
        if not self.is_old:
            return
        self.is_old = False
        is_asked = len(self.seen) >= PARTS_FROM and b"\0" not in self.seen
        is_asked = is_asked and now - self.checked_at < CHECK_S and now >= self.whole_until
        if not (is_asked and self.has_ranges and self._look_at_part(now)):
            self._look_at_whole(now, is_asked)

    def _look_at_part(self, now: float) -> bool:
        """A part that agrees where it must is believed, as far as it came; else it tells nothing."""
        self.requests += 1
        at = len(self.seen) - OVERLAP
        came = self.data[at:][: self.failure]
        is_refused = at >= len(self.data)
        if (
            is_refused
            or came[:OVERLAP] != self.seen[at:][: len(came)]
            or (self.failure is None and len(came) < OVERLAP)
        ):
            return False
        self.generations[-1] += came[OVERLAP:]
        if self.failure is None:
            self.doubts = 0
        else:
            self._doubt(now)
        return True

    def _look_at_whole(self, now: float, is_asked: bool) -> None:
        """What was seen must begin what is there now, or it is another file."""
        self.requests += 1
        came = self.data[: self.failure]
        if came.startswith(self.seen):
            self.generations[-1] = came
        elif self.failure is None:
            self.generations.append(came)
        if self.failure is None:
            self.checked_at = now
            self.doubts = self.doubts if self.has_ranges else 0
        elif is_asked and not self.has_ranges:
            self._doubt(now)

    def _doubt(self, now: float) -> None:
        """What failed when a part was asked for is left for a while, longer each time in a row."""
        self.whole_until = now + min(CHECK_S, DOUBT_S * 2**self.doubts)
        self.doubts += 1

    def change(self, action: str, value: Any) -> None:
        """Let the run write."""
        match action:
            case "append":
                self.data += value
            case "truncate":
                self.data = self.data[:value]
            case "replace":
                self.data = value
            case "overwrite":
                self.data = self.data[: len(self.data) // 2] + value


PARTS_FROM, OVERLAP = 8, 4
# Any bytes, and such as repeat themselves: an overlap of these agrees where it should not.
CONTENT = st.binary(max_size=12) | st.text("ab", max_size=30).map(str.encode)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(min_size=1, max_size=6) | st.sampled_from([b"a", b"b", b"aaaa"])),
        st.tuples(st.just("truncate"), st.integers(0, 20)),
        st.tuples(st.sampled_from(["replace", "overwrite"]), CONTENT),
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(0, 24), st.integers(1, 24)),
        st.tuples(st.just("read from 0"), st.integers(0, 3), st.integers(1, 24)),
        st.tuples(st.just("fail"), st.integers(0, 20)),
        st.sampled_from([("open",), ("stat",), ("wait",), ("wait",), ("wait", CHECK_S)]),
    ),
    min_size=5,
    max_size=40,
)
