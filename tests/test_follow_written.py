"""A log however written, and however a server without ranges tells its last lines.

What joins make of them is the file, or is refuted and counted.
"""

from __future__ import annotations

from collections.abc import Callable
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
from tests.test_follow_parts import LOG

# How servers may tell lines. The documentation says that their newlines are stripped, and no more.
TELLS: dict[str, Callable[[list[str]], list[str]]] = {
    "as they are": list,
    "with what follows the last newline": lambda lines: [*lines, ""],
    "stripped right": lambda lines: [line.rstrip() for line in lines],
    "stripped": lambda lines: [line.strip() for line in lines],
    "stripped as one": lambda lines: "\n".join(lines).strip().split("\n"),
    "cut": lambda lines: [line[:30] for line in lines],
    "cut, and marked": lambda lines: [line if len(line) < 30 else line[:27] + "..." for line in lines],
}


@pytest.mark.parametrize("how", ["stripped right", "stripped", "cut", "cut, and marked"])
def test_a_server_that_spoils_lines_is_found_out_before_it_is_believed(how: str, tmp_path: Path) -> None:
    """The first last lines that are asked for hold some that it would spoil; then all is read whole, at no great cost.

    So it is asked for lines about ten times an hour, three times each at most.
    """
    with ExitStack() as exits:
        stack = Stack(exits, tmp_path)
        odd = b"  begins\nends  \n" if "strip" in how else b"x" * 60 + b"\n"
        short = b"".join(b"%d\n" % number for number in range(6000))
        stack.source.data, stack.source.has_lines = LOG + odd + short, True
        stack.source.tells = TELLS[how]
        stack.size()
        look(stack)
        for number in range(1800):
            stack.source.data += b"  more of the same length %d  \n" % number
            assert len(look(stack)[0]) == 1
            assert stack.size() == len(stack.source.data)
        assert stack.follower.stats()["live.joins"] == 0
        assert 6 <= len(stack.source.lines) <= 36


def test_a_trial_costs_what_a_look_may(tmp_path: Path) -> None:
    """It reaches no further back than 40 KiB, whatever is there, and is not repeated."""
    with ExitStack() as exits:
        stack = Stack(exits, tmp_path)
        far, near = b"x" * 60 + b"\n", b"y" * 50 + b"\n"
        stack.source.data, stack.source.has_lines = LOG + far + LOG[-10_000:] + near + LOG[-36_000:], True
        stack.size()
        look(stack)
        asked = []
        for number in range(3):
            stack.source.data += b"more %d\n" % number
            asked += look(stack)[1]
        assert 900 < asked[0] < 1000  # of 38 bytes, back to the longest within reach
        assert max(asked[1:]) < 300


# ---- any history ----

PIECES = st.sampled_from(["begin of a line", " end\n", "  blanks\n", "blanks \n", "x" * 40 + "\n"])
STEPS = st.lists(
    st.one_of(
        *[st.tuples(st.just("number"), st.integers(1, 4))] * 4,
        st.tuples(st.just("append"), PIECES),
        st.tuples(st.just("append"), st.text("ab\n", min_size=1, max_size=12) | st.text("a\u00e9\r\n", max_size=6)),
        st.tuples(st.sampled_from(["rewrite", "truncate"]), st.integers(0, 60)),
        st.tuples(st.just("rotate"), st.integers(4, 60)),
        st.tuples(st.just("replace"), st.text("ab\n", max_size=60)),
        *[st.just(("look", 0.0))] * 5,
        st.sampled_from([("look", HELD_S), ("look", CHECK_S)]),
    ),
    min_size=10,
    max_size=40,
)


class Log:
    """A file that a run writes, as bytes."""

    def __init__(self) -> None:
        self.data = b""
        self._count = 0
        self.write("number", 16)

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
    monkeypatch.setattr(tailing, "is_too_much", lambda *_: False)
    monkeypatch.setattr(tailing, "DOUBT_S", 0.0)
    monkeypatch.setattr(tailing, "REFUTED_S", 0.0)


@pytest.mark.usefixtures("short")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.booleans(), st.sampled_from(sorted(TELLS)))
def test_what_joins_tell_is_the_file_or_is_refuted(
    tmp_path: Path, steps: list[tuple[Any, ...]], grows_only: bool, how: str
) -> None:
    """However a file is written: a whole read is the file, a join only adds, and one that was wrong is counted.

    A file that only grows, by lines of which no two are alike, is never read wrongly.
    """
    with ExitStack() as exits:
        stack, log = Stack(exits, tmp_path), Log()
        stack.source.data = known = log.data
        is_pending, replaced, refuted = False, 0, 0
        handle = stack.open()
        stack.source.has_lines, stack.source.tells = True, TELLS[how]
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
