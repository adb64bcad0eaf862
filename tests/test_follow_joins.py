"""Long logs of a server without ranges, followed by their last lines: what it costs, and what is not believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rescalefs.errors import Corrupt, Refused, Stale, Unavailable
from rescalefs.tailing import CHECK_S, DOUBT_S, HELD_S, OVERLAP_BYTES, REFUTED_S
from tests.conftest import wait_for
from tests.live_source import KEY, Stack
from tests.test_follow_end import serve
from tests.test_follow_parts import LOG, MIB, lines

# What is left of a look that is over: its requests for bytes, by where they began, and for lines, by their number.
Look = tuple[list[int], list[int]]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A follower of a long log whose source serves lines and no ranges, which it knows by now."""
    with ExitStack() as exits:
        made = Stack(exits, tmp_path)
        made.source.data, made.source.has_lines = LOG, True
        assert made.size() == len(LOG)
        assert look(made) == ([len(LOG) - OVERLAP_BYTES], [])
        yield made


def look(stack: Stack, *, after_s: float = 0.0) -> Look:
    """Look once more."""
    tails, asked = len(stack.source.starts), len(stack.source.lines)
    stack.clock.advance(after_s)
    stack.poll()
    stack.size()
    return stack.source.starts[tails:], stack.source.lines[asked:]


def served(stack: Stack) -> bytes:
    """Return what is served now."""
    return stack.open().read(0, 10**8)


def joins(stack: Stack) -> int:
    return stack.follower.stats()["live.joins"]


def test_only_what_follows_is_asked_for(stack: Stack) -> None:
    """A look costs one request of a few hundred lines, and brings all but the newline of the last one."""
    handle = stack.open()
    for number in range(100):
        stack.source.data += b"one %d\ntwo %d\n" % (number, number)
        tails, asked = look(stack)
        assert (tails, len(asked)) == ([], 1)
        assert asked[0] < 400
        assert handle.read(0, 10**8) == stack.source.data[:-1]
    assert joins(stack) == 100
    look(stack)
    assert handle.read(0, 10**8) == stack.source.data[:-1]


def test_where_a_line_ends_that_none_follows_is_told_by_a_whole_read(stack: Stack) -> None:
    """Half a minute after it was written last; what ends without a newline then is read whole no more."""
    stack.source.data += b"one\n"
    assert look(stack)[0] == []
    assert served(stack) == LOG + b"one"
    stack.source.data += b"the last wo"
    assert [look(stack)[0] for _ in range(3)] == [[], [], []]
    assert served(stack) == LOG + b"one\nthe last wo"

    assert look(stack, after_s=HELD_S) == ([len(LOG) + 15 - OVERLAP_BYTES], [])
    assert [look(stack, after_s=HELD_S)[0] for _ in range(3)] == [[], [], []]
    stack.source.data += b"rds\n"
    assert look(stack)[0] == []
    assert served(stack) == LOG + b"one\nthe last words"
    assert look(stack, after_s=HELD_S)[0] != []
    assert served(stack) == LOG + b"one\nthe last words\n"


def test_as_much_is_asked_for_as_the_log_grows(stack: Stack) -> None:
    """A burst costs a second or third request, steady growth one; an outburst is read whole."""
    for count, requests in ((250, 3), (250, 1), (250, 1), (900, 2), (900, 1), (900, 1)):
        before = stack.source.data
        stack.source.data += lines(count, str(len(before)))
        tails, asked = look(stack)
        assert (tails, len(asked)) == ([], requests), (count, asked)
        assert served(stack) == stack.source.data[:-1]
    while stack.source.lines[-1] > 300:  # a log that grows less is asked for less
        assert len(look(stack)[1]) == 1
    stack.source.data += lines(20_000, "burst")
    tails, asked = look(stack)
    assert tails == [0]
    assert served(stack) == stack.source.data


def test_looks_that_were_long_ago_are_followed_by_more_lines(stack: Stack) -> None:
    """What grew while nobody looked is expected by the rate of before."""
    for number in range(10):
        stack.source.data += lines(20, f"steady {number}")
        look(stack)
    stack.source.data += lines(20 * 10, "meanwhile")

    tails, asked = look(stack, after_s=18)
    assert (tails, len(asked)) == ([], 1)
    assert stack.source.data.startswith(served(stack))
    assert joins(stack) == 11


# ---- what is read whole ----


@pytest.mark.parametrize(
    "data",
    [LOG + b"x\r\n", LOG + b"x\0y\n", LOG + "x\u2028y\n".encode(), LOG + b"\xff\n", LOG + b"same\n" * 2000],
    ids=["return", "NUL", "separator", "no UTF-8", "repeats its end"],
)
def test_a_file_that_lines_cannot_tell_is_read_whole(stack: Stack, data: bytes) -> None:
    """No line is asked for once what is known has such a place, at its end or where its end stands a second time."""
    stack.source.data = data
    look(stack, after_s=CHECK_S)
    for _ in range(3):
        stack.source.data += b"same\n"
        tails, asked = look(stack)
        assert (len(tails), asked) == (1, [])
        assert served(stack) == stack.source.data


@pytest.mark.parametrize(
    "data",
    [LOG[:-40], LOG[:3000], b"", lines(5000, "x"), lines(9000, "x"), LOG[-OVERLAP_BYTES - 200 :] + b"more\n"],
    ids=["a line less", "short", "empty", "another", "another, longer", "its own end"],
)
def test_a_log_that_was_cut_or_replaced_is_read_whole_at_once(stack: Stack, data: bytes) -> None:
    """Lines that are not what they were, or begin where the file does, are no answer: the same look starts over."""
    handle = stack.open()
    stack.source.data = data
    assert look(stack)[0] == [0]

    with pytest.raises(Stale):
        handle.read(5, 100)
    assert handle.read(0, 10**8) == data
    assert stack.follower.stats()["live.refuted"] == 0


@pytest.mark.parametrize("type_", ["data", "ISO-8859 text", "ASCII text, with CRLF line terminators"])
def test_what_is_no_plain_text_on_the_cluster_is_read_whole(stack: Stack, type_: str) -> None:
    """What file(1) says there decides, and it is not asked again soon."""
    stack.source.file_type = type_
    stack.source.data += b"one\ntwo\n"
    assert [len(asked) for asked in look(stack)] == [1, 1]
    assert served(stack) == stack.source.data
    assert [len(asked) for asked in look(stack)] == [1, 0]


@pytest.mark.parametrize("error", [Refused("400", 400), Corrupt("not JSON"), Refused("too many bytes", 200)], ids=repr)
def test_a_server_that_cannot_tell_lines_is_asked_for_them_less_and_less(stack: Stack, error: Exception) -> None:
    """The look that learns it reads the whole, and so do the next ones: at most ten in an hour ask for lines."""
    stack.source.lines_error = error
    for number in range(1800):
        stack.source.data += b"more %d\n" % number
        assert len(look(stack)[0]) == 1
        assert stack.size() == len(stack.source.data)
    assert 6 <= len(stack.source.lines) <= 12

    stack.source.lines_error = None
    look(stack, after_s=CHECK_S)
    assert [look(stack)[0] for _ in range(3)] == [[], [], []]


def test_lines_that_fail_once_are_asked_for_again_soon(stack: Stack) -> None:
    """A hiccup may have nothing to do with lines: one look reads the whole, the later ones do not."""
    stack.source.lines_error = Unavailable("503")
    stack.source.data += b"one\ntwo\n"
    assert look(stack) == ([], [stack.source.lines[-1]])
    assert served(stack) == LOG

    stack.source.lines_error = None
    assert len(look(stack)[0]) == 1
    assert served(stack) == stack.source.data
    assert look(stack, after_s=DOUBT_S)[0] == []


# ---- what is checked ----


def test_ranges_are_tried_again_when_the_whole_is_wanted_anyway(stack: Stack) -> None:
    """The check every ten minutes asks for a range: a 200 is the check, a 206 tells that ranges are served by now."""
    assert look(stack)[0] == []
    assert look(stack, after_s=CHECK_S) == ([len(LOG) - OVERLAP_BYTES], [])
    assert look(stack)[0] == []

    stack.source.has_ranges = True
    stack.source.data += b"one\ntwo\n"
    assert look(stack)[0] == []  # nobody knows yet
    size = stack.size()
    assert look(stack, after_s=CHECK_S) == ([size - OVERLAP_BYTES, 0], [])
    asked = len(stack.source.lines)
    for _ in range(3):
        size = len(stack.source.data)
        stack.source.data += b"more\n"
        assert look(stack)[0] == [size - OVERLAP_BYTES]
    assert len(stack.source.lines) == asked
    assert served(stack) == stack.source.data


def rotated(data: bytes) -> bytes:
    """Another file, longer, that ends like it."""
    return lines(4900, "rotated") + data[-20_000:]


@pytest.mark.parametrize(
    "change", [lambda data: data[:100] + b"x" * 100 + data[200:], rotated], ids=["rewritten", "rotated"]
)
def test_a_wrong_join_is_refuted_within_ten_minutes(stack: Stack, change: Callable[[bytes], bytes]) -> None:
    """A file whose end alone is what it was is joined; the next whole read starts over, counts, and ends the joins."""
    handle = stack.open()
    stack.source.data = change(LOG) + b"one\ntwo\n"
    assert look(stack)[0] == []
    assert handle.read(len(LOG), 100) == b"one\ntwo"

    assert len(look(stack, after_s=CHECK_S)[0]) == 1
    stats = stack.follower.stats()
    assert (stats["live.refuted"], stats["live.replaced"]) == (1, 1)
    with pytest.raises(Stale):
        handle.read(len(LOG), 100)
    assert handle.read(0, 10**8) == stack.source.data

    asked = len(stack.source.lines)
    began = stack.clock.now()
    while stack.clock.now() - began < REFUTED_S - 60:
        assert len(look(stack, after_s=50)[0]) == 1
    assert len(stack.source.lines) == asked
    look(stack, after_s=60)
    assert look(stack)[0] == []
    assert stack.follower.stats()["live.refuted"] == 1


# ---- over HTTP ----


def test_a_log_of_fifty_megabytes_costs_kilobytes_a_look(tmp_path: Path) -> None:
    """It grows by 1 KiB a look, with eight who follow: one request of at most 64 KiB, all text for all."""
    with ExitStack() as exits:
        ending = serve(exits, tmp_path, lines(50 * MIB // 40), 0.0)
        emulator, follower, log = ending.emulator, ending.follower, ending.run.live["case/log"]

        def joined() -> int:
            return follower.stats()["live.joins"]

        handles = [follower.open(KEY) for _ in range(8)]
        # The whole comes once more, in its time, before the first join.
        wait_for(lambda: ending.pass_s(2) or joined() >= 1, 20, lambda: str(follower.stats()))  # type: ignore[func-returns-value]
        wait_for(lambda: not emulator.under_way, 20, lambda: "requests go on")
        before = joined()
        size = follower.file(KEY).size()
        assert size == len(log.read()) > 48 * MIB
        emulator.reset_counts()
        with ThreadPoolExecutor(8) as pool:
            for number in range(10):
                log.append(b"".join(b"%4d %58d\n" % (number, line) for line in range(16)))
                ending.clock.advance(2.5)
                written = log.read()[size:-1]  # all but the last newline
                for got in pool.map(lambda handle: handle.read(size, MIB), handles):
                    assert got in (written, written[: -16 * 64])  # who does not wait long enough sees it the next time
                end = size + len(written)
                wait_for(lambda end=end: follower.file(KEY).size() == end, 20, lambda: "not seen")  # type: ignore[misc]

        assert emulator.requests["tail"] == 10
        assert emulator.bytes_sent["tail"] <= 10 * 64 * 1024
        assert joined() - before == 10


def test_the_end_of_the_run_refutes_a_wrong_join(tmp_path: Path) -> None:
    """A final file that does not begin with what was joined is another one, and counted."""
    with ExitStack() as exits:
        ending = serve(exits, tmp_path, LOG, 0.0)
        handle, log = ending.follower.open(KEY), ending.run.live["case/log"]
        ending.pass_s(4)
        log.replace(rotated(LOG) + b"one\ntwo\n")
        ending.pass_s(4)
        assert handle.read(len(LOG), 100) == b"one\ntwo"
        ending.run.finish()
        ending.pass_s(100)

        with pytest.raises(Stale):
            handle.read(len(LOG), 100)
        assert handle.read(0, 10**8) == rotated(LOG) + b"one\ntwo\n"
        assert ending.follower.stats()["live.refuted"] == 1


@pytest.mark.parametrize("dead", [404, 400, 500, "detail", "empty"])
def test_a_run_that_ends_between_joins_goes_on_as_its_final_file(dead: Any, tmp_path: Path) -> None:
    """Whatever a dead tail says to the question for lines: the last newline and the rest come from the upload."""
    with ExitStack() as exits:
        ending = serve(exits, tmp_path, LOG, 10.0)
        ending.emulator.habits.dead_live = dead
        handle, log = ending.follower.open(KEY), ending.run.live["case/log"]
        ending.pass_s(4)
        log.append(b"one\ntwo\n")
        ending.pass_s(4)
        assert handle.read(len(LOG), 100) == b"one\ntwo"
        log.append(b"three\n")
        ending.run.finish()
        ending.pass_s(200)

        assert handle.read(len(LOG) + 7, 100) == b"\nthree\n"
        assert ending.follower.stats()["live.replaced"] == 0


def test_an_answer_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    """Lines that are much longer than the ones before lead to a whole read, not to megabytes of JSON in memory."""
    with ExitStack() as exits:
        ending = serve(exits, tmp_path, lines(250_000), 0.0)
        log = ending.run.live["case/log"]
        handle = ending.follower.open(KEY)
        ending.pass_s(4)
        log.append(b"x" * 5_000_000 + b"\n" + lines(10, "more"))
        ending.emulator.reset_counts()
        ending.clock.advance(2.5)
        # A reader who knows something is not kept waiting for megabytes.
        wait_for(lambda: handle.read(0, 10**8) == log.read(), 20, lambda: "what was added is not seen")
        assert ending.emulator.requests["tail"] == 2
