"""A log however written, of a server without ranges: what joins tell of it is the file, or is refuted and counted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import joining, tailing
from rescalefs.errors import Stale
from rescalefs.tailing import CHECK_S, HELD_S
from tests.live_source import Stack
from tests.test_follow_joins import joins, look, served

WRITES = st.one_of(
    st.tuples(st.just("append"), st.text("ab\n", min_size=1, max_size=12) | st.text("a\u00e9\r\n", max_size=6)),
    st.tuples(st.just("number"), st.integers(1, 12)),
    st.tuples(st.just("rewrite"), st.integers(0, 60)),
    st.tuples(st.just("rotate"), st.integers(4, 60)),
    st.tuples(st.just("truncate"), st.integers(0, 60)),
    st.tuples(st.just("replace"), st.text("ab\n", max_size=60)),
)
STEPS = st.lists(WRITES | st.sampled_from([("look", 0.0), ("look", HELD_S), ("look", CHECK_S)]), max_size=40)


class Log:
    """A file that a run writes, as bytes."""

    def __init__(self) -> None:
        self.data = b""
        self._count = 0

    def write(self, action: str, value: Any) -> None:
        match action:
            case "append":
                self.data += value.encode()
            case "number":
                self.data += b"".join(b"%d\n" % number for number in range(self._count, self._count + value))
                self._count += value
            case "rewrite":
                self.data = self.data[:value] + b"?" + self.data[value + 1 :]
            case "rotate":
                self.data = b"new\n" * value + self.data[-value:]
            case "truncate":
                self.data = self.data[:value]
            case "replace":
                self.data = value.encode()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have joins made of files of a few bytes, and tried again whatever became of them."""
    monkeypatch.setattr(joining, "OVERLAP_BYTES", 6)
    monkeypatch.setattr(joining, "OVERLAP_LINES", 2)
    monkeypatch.setattr(joining, "SPARE_LINES", 1)
    monkeypatch.setattr(tailing, "PARTS_FROM_BYTES", 12)
    monkeypatch.setattr(tailing, "OVERLAP_BYTES", 4)
    monkeypatch.setattr(tailing, "DOUBT_S", 0.0)
    monkeypatch.setattr(tailing, "REFUTED_S", 0.0)


@pytest.mark.usefixtures("short")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.booleans())
def test_what_joins_tell_is_the_file_or_is_refuted(
    tmp_path: Path, steps: list[tuple[Any, ...]], grows_only: bool
) -> None:
    """However a file is written: a whole read is the file, a join only adds, and one that was wrong is counted.

    A file that only grows, by lines of which no two are alike, is never read wrongly.
    """
    with ExitStack() as exits:
        stack, log = Stack(exits, tmp_path), Log()
        known, is_pending, replaced, refuted = b"", False, 0, 0
        handle = stack.open()
        stack.source.has_lines = True
        for action, value in [*steps, ("look", CHECK_S)]:
            if action != "look":
                if not grows_only or action == "number":
                    log.write(action, value)
                    stack.source.data = log.data
                continue
            before = joins(stack)
            look(stack, after_s=value)
            now = served(stack)
            if joins(stack) > before:
                assert now.startswith(known)
                is_pending |= now != known
                if grows_only:
                    assert log.data.startswith(now)
            else:
                assert now == log.data
                if not now.startswith(known):
                    replaced += 1
                    refuted += is_pending
                    with pytest.raises(Stale):
                        handle.read(1, 10)
                    handle.read(0, 1)
                is_pending = False
            known = now
            assert handle.read(1, 10**6) == known[1:]
            stats = stack.follower.stats()
            assert (stats["live.replaced"], stats["live.refuted"]) == (replaced, refuted)
        assert known == log.data
        assert not (grows_only and replaced)
