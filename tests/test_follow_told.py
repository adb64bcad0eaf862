"""Last lines that a server tells otherwise than they are, and files that only seem to go on: what is served of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import joining, tailing
from rescalefs.errors import Stale
from rescalefs.follow import LiveHandle
from rescalefs.spool import Spool
from rescalefs.tailing import CHECK_S
from tests.live_source import KEY, Stack
from tests.test_follow_joins import look
from tests.test_follow_parts import LOG

# The documentation says that newlines are stripped, and no more.
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


@dataclass
class Reading:
    """One handle, and what it was served since its last beginning."""

    handle: LiveHandle
    served: bytes = b""

    def read(self) -> None:
        """Read on, from the beginning where the file is another one."""
        try:
            self.served += self.handle.read(len(self.served), 10_000)
        except Stale:
            self.served = self.handle.read(0, 10_000)


@pytest.fixture
def short_overlap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have files of a few bytes joined by a few lines."""
    monkeypatch.setattr(tailing, "PARTS_FROM_BYTES", 12)
    monkeypatch.setattr(tailing, "OVERLAP_BYTES", 4)
    monkeypatch.setattr(tailing, "is_too_much", lambda *_: False)
    monkeypatch.setattr(joining, "OVERLAP_BYTES", 6)
    monkeypatch.setattr(joining, "OVERLAP_LINES", 2)
    monkeypatch.setattr(joining, "SPARE_LINES", 3)


LINES = st.lists(st.text("ab ", max_size=5), min_size=1, max_size=5).map("\n".join).map(str.encode)
# No two alike, with blanks at their ends or too long for some.
NUMBERED = st.builds(
    lambda form, number: (form % number).encode(),
    st.sampled_from(["%d\n", "%d\n", " %d\n", "%d \n", "%d", "\n%d", "%040d\n"]),
    st.integers(0, 10**6),
)
ODD = st.sampled_from([b"\n", b"\r\n", b"\0", b"\xff", "\u2028".encode()])
# Logs with a part that repeats, lines of any kind, other bytes; cut and rewritten at any place.
STEPS = st.lists(
    st.one_of(
        *[st.tuples(st.just("append"), NUMBERED)] * 6,
        st.tuples(st.just("append"), LINES | ODD),
        st.tuples(st.sampled_from(["truncate", "rewrite", "rewrite"]), st.integers(0, 60)),
        st.tuples(st.just("replace"), LINES),
        *[st.just(("look",))] * 6,
        st.sampled_from([("check",), ("open",)]),
    ),
    min_size=10,
    max_size=40,
)


@pytest.mark.usefixtures("short_overlap")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, STEPS, st.sampled_from(sorted(TELLS)))
def test_what_is_served_is_what_was_there_or_is_refuted_and_counted(
    tmp_path: Path, begin: bytes, steps: list[tuple[str, bytes]], how: str
) -> None:
    """However a file changes and lines are told: each generation is what the file began with at some time, or refuted.

    The whole look that ends each history finds what was not, so that everybody has the file, as it is, from then on.
    """
    with ExitStack() as exits:
        stack = Stack(exits, tmp_path)
        stack.source.data = b"one\ntwo\nthree\nfour\n" + begin
        stack.source.has_lines, stack.source.tells = True, TELLS[how]
        there, generations = [stack.source.data], dict[int, tuple[Spool, bytes]]()
        readers = [Reading(stack.open())]
        file = stack.follower.file(KEY)

        def see() -> None:
            spool = file.tailed.spool
            assert spool is not None
            generations[id(spool)] = (spool, spool.read(0, spool.size))
            for reader in readers:
                reader.read()

        for step in [*steps, ("check", b"")]:
            match step:
                case ("append", data):
                    stack.source.data += data
                case ("truncate", at):
                    stack.source.data = stack.source.data[: int(at)]
                case ("rewrite", at):
                    stack.source.data = stack.source.data[: int(at)] + b"z" + stack.source.data[int(at) + 1 :]
                case ("replace", data):
                    stack.source.data = data
                case ("open", *_):
                    readers.append(Reading(stack.open()))
                case (name, *_):
                    stack.clock.advance(CHECK_S if name == "check" else 0)
                    stack.poll()
                    stack.size()
                    see()
            there.append(stack.source.data)

        wrong = [data for _, data in generations.values() if not any(each.startswith(data) for each in there)]
        assert len(wrong) <= stack.follower.stats()["live.refuted"]
        assert {reader.served for reader in readers} == {stack.source.data}
