"""Whether last lines continue what is known: against a plain server of them, and by what must never be believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rescalefs import joining
from rescalefs.joining import NoJoin, is_too_much, join, lines_to_ask, lines_to_try, overlap_of
from rescalefs.models import LastLines

TYPE = "/home/job_J/work/a: b/text.log: "
NUMBERED = b"".join(b"Time = %d\n" % number for number in range(1000))
shared = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told(data: bytes, lines: int, *, keeps_empty: bool = False) -> LastLines:
    """Answer as a server does: of a text that ends in a newline, some also tell the empty rest after it."""
    parts = data.decode(errors="replace").split("\n")
    if parts[-1] == "" and not keeps_empty:
        parts.pop()
    return LastLines(TYPE + "ASCII text", tuple(parts[-lines:]))


def joined(known: bytes, answer: LastLines, asked: int) -> bytes | NoJoin:
    """Join as one does who knows all of *known*."""
    overlap = overlap_of(known)
    assert overlap is not None
    return join(answer, asked, known, len(known), overlap)


def places_of(part: bytes, data: bytes) -> list[int]:
    """Return where *part* stands in *data*."""
    return [at for at in range(len(data)) if data.startswith(part, at)]


@pytest.fixture
def short_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few bytes and lines be enough."""
    monkeypatch.setattr(joining, "OVERLAP_BYTES", 6)
    monkeypatch.setattr(joining, "OVERLAP_LINES", 2)


# ---- against the server ----

TEXTS = (
    st.lists(st.text("ab ", max_size=4) | st.text("ab\u00e9", max_size=2), max_size=14).map("\n".join).map(str.encode)
)


@pytest.mark.usefixtures("short_overlap")
@shared
@given(TEXTS, TEXTS, st.integers(1, 30), st.booleans(), st.booleans())
@example(b"aaa\n" * 4, b"aaa\n", 6, False, True)
def test_what_is_believed_is_what_the_server_would_say_of_it(
    known: bytes, other: bytes, asked: int, is_grown: bool, keeps_empty: bool
) -> None:
    """Of any two texts, related or not: a join means that what is known, so continued, has those last lines.

    Of a file that did grow without a repeat of the overlap it is what follows there, but for the last newline.
    """
    overlap = overlap_of(known)
    if overlap is None:
        return
    assert known.endswith(overlap)
    assert overlap.count(b"\n") >= 2
    assert len(overlap) >= 6
    file = known + other if is_grown else other
    answer = told(file, asked, keeps_empty=keeps_empty)
    found = joined(known, answer, asked)
    text = "\n".join(answer.lines).encode() + b"\n"
    places = places_of(overlap, text)
    if not isinstance(found, bytes):
        assert found is not NoJoin.UNFIT
        assert found is not NoJoin.TOO_SHORT or not places
        return
    assert len(places) == 1
    whole = known + found
    ends = [whole, whole + b"\n"]
    assert answer.lines in [told(end, len(answer.lines), keeps_empty=keeps_empty).lines for end in ends]
    if is_grown and len(places_of(overlap, file + b"\n")) == 1:
        assert file in ends


@shared
@given(st.integers(400, 900), st.integers(0, 8), st.integers(0, 100), st.integers(0, 8), st.booleans())
def test_growth_is_always_joined(lines: int, cut: int, grown: int, more: int, keeps_empty: bool) -> None:
    """Of a log without repeats, cut anywhere and grown by as many lines as were expected: all but the last newline."""
    known = b"".join(NUMBERED.splitlines(keepends=True)[:lines]) + (b"Time = %d\n" % lines)[:cut]
    file = b"".join(NUMBERED.splitlines(keepends=True)[: lines + grown]) + (b"Time = %d\n" % (lines + grown))[:more]
    overlap = overlap_of(known)
    assert overlap is not None
    asked = lines_to_ask(overlap, grown / 2)
    found = joined(known, told(file, asked, keeps_empty=keeps_empty), asked)

    if not file.startswith(known):  # it was cut inside of its last line, with nothing after it
        assert found in (NoJoin.TOO_SHORT, NoJoin.ANOTHER, b"")
        return
    assert isinstance(found, bytes)
    assert known + found in (file, file.removesuffix(b"\n"))


LINES = st.lists(st.text("ab ", max_size=6), max_size=12).map("\n".join).map(str.encode)
# How a server may spoil lines.
SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "begin": bytes.lstrip,
    "end": bytes.rstrip,
    "both": bytes.strip,
    "cut": lambda line: line[:3],
}


@shared
@given(LINES, st.sampled_from(sorted(SPOILED)))
def test_a_trial_holds_what_a_server_would_spoil(known: bytes, how: str) -> None:
    """If any whole line would be told otherwise than it is, one of those asked for is."""
    whole = known.split(b"\n")[1:-1]
    asked = known.split(b"\n")[-lines_to_try(known) :]
    if any(SPOILED[how](line) != line for line in whole):
        assert any(SPOILED[how](line) != line for line in asked[:-1])


# ---- what is no overlap ----


@pytest.mark.parametrize(
    "known",
    [
        b"",
        NUMBERED[:4000],
        b"x" * 100_000,
        b"x" * 5000 + b"\n" * 32,
        (b"y" * 5000 + b"\n") * 20,
        b"\xff" + NUMBERED[-3000:] + b"\xff" + NUMBERED[-3000:],
        NUMBERED + "\u00e9".encode()[:1],
    ],
    ids=["empty", "short", "one line", "few lines", "long lines", "no UTF-8", "half a character"],
)
def test_what_ends_in_too_little_has_no_overlap(known: bytes) -> None:
    """Fewer than 4 KiB or 32 whole lines in what is looked at, or bytes that no text has: no join is possible."""
    assert overlap_of(known[-joining.MAX_OVERLAP_BYTES :]) is None


@pytest.mark.parametrize("end", [b"", b"Time = "], ids=["whole", "in a line"])
def test_an_overlap_is_no_longer_than_it_must_be(end: bytes) -> None:
    """Of short lines 4 KiB and the line that begins them, of long ones 32."""
    overlap = overlap_of(NUMBERED + end)
    assert overlap is not None
    assert 4096 <= len(overlap) < 4096 + 20
    assert (b"\n" + overlap) in NUMBERED + end

    long = [b"%d " % number + b"x" * 500 for number in range(50)]
    assert overlap_of(b"\n".join([*long, end])) == b"\n".join([*long[-32:], end])


# ---- what is not believed ----

GROWN = NUMBERED + b"Time = 1000\nTime = 1001\n"
ASKED = 500
END = overlap_of(NUMBERED) or b""


def test_the_example_is_believed() -> None:
    """What the cases below differ from by one thing each; the last newline waits for another line."""
    assert joined(NUMBERED, told(GROWN, ASKED), ASKED) == b"Time = 1000\nTime = 1001"
    assert joined(NUMBERED, told(GROWN, ASKED, keeps_empty=True), ASKED) == b"Time = 1000\nTime = 1001\n"
    assert joined(NUMBERED, told(NUMBERED, ASKED), ASKED) == b""
    assert joined(NUMBERED, told(NUMBERED[:-1], ASKED), ASKED) == b""
    assert joined(NUMBERED + b"Time =", told(GROWN, ASKED), ASKED) == b" 1000\nTime = 1001"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data.replace(b"1000", b"10\r00"), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", b"10\0 00"), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", b"10\xff00"), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", "10\ufffd00".encode()), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", "10\u202800".encode()), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", b"10\x0c00"), NoJoin.UNFIT),
        (lambda data: data.replace(b"1000", "10\u00e900".encode()), NoJoin.ANOTHER),
        (lambda data: data.replace(b"Time = 990", b"Time = 099"), NoJoin.TOO_SHORT),
        (lambda data: data.replace(b"Time = 550", b"Time = 055"), NoJoin.ANOTHER),
        (lambda data: data + END + b"more\n", NoJoin.ANOTHER),
        (lambda data: b"x" + data[-5000:], NoJoin.ANOTHER),
        (lambda data: data[-5000:], NoJoin.ANOTHER),
        (lambda _: b"Time = 0\n", NoJoin.ANOTHER),
        (lambda _: b"", NoJoin.ANOTHER),
    ],
    ids=[
        "return",
        "NUL",
        "bytes that are no text",
        "replacement",
        "separator",
        "form feed",
        "first that is not ASCII",
        "overlap",
        "before it",
        "overlap twice",
        "line cut at its start",
        "file of fewer lines",
        "short",
        "empty",
    ],
)
def test_an_answer_that_is_not_the_growth_is_not_believed(change: Callable[[bytes], bytes], why: NoJoin) -> None:
    """One thing that is not as it should be, and nothing is appended."""
    assert joined(NUMBERED, told(change(GROWN), ASKED), ASKED) is why


def test_the_repeat_of_an_overlap_may_share_bytes_with_it() -> None:
    """Lines that repeat at once stand in two places that overlap each other."""
    known = b"header\n" * 10 + b"the same line\n" * 400
    assert joined(known, told(known + b"the same line\n" * 3, 350), 350) is NoJoin.ANOTHER


def test_a_character_that_was_seen_to_come_through_may_come_again() -> None:
    """Where the part that is known holds one, the server's text has it as UTF-8 means it."""
    known = NUMBERED + "Temp\u00e9rature\n".encode()
    grown = known + "Temp\u00e9rature\nend\n".encode()
    assert joined(known, told(grown, ASKED), ASKED) == "Temp\u00e9rature\nend".encode()


@pytest.mark.parametrize("lines", [("a\nb",), ("half a pair \ud800",), ("ends in one\n", "x\n")], ids=repr)
def test_lines_that_are_no_lines_are_unfit(lines: tuple[str, ...]) -> None:
    """A newline inside of one, and what has no bytes."""
    answer = told(GROWN, ASKED)
    assert joined(NUMBERED, LastLines(answer.file_type, answer.lines + lines), ASKED) is NoJoin.UNFIT


@pytest.mark.parametrize(
    ("says", "is_believed"),
    [
        ("ASCII text", True),
        ("ASCII English text", True),
        ("UTF-8 Unicode text, with very long lines (310)", True),
        ("Unicode text, UTF-8 text", True),
        ("C++ source, ASCII text", True),
        ("CSV text", True),
        ("ASCII text, with no line terminators", True),
        ("data", False),
        ("empty", False),
        ("JSON data", False),
        ("ISO-8859 text", False),
        ("Non-ISO extended-ASCII text", False),
        ("Little-endian UTF-16 Unicode text", False),
        ("ASCII text, with CRLF line terminators", False),
        ("ASCII text, with CRLF, LF line terminators", False),
        ("Hierarchical Data Format (version 5) data", False),
        ("cannot open (No such file or directory)", False),
    ],
)
def test_only_text_of_known_bytes_is_believed(says: str, is_believed: bool) -> None:
    """What file(1) says decides, not what the path before it looks like."""
    found = joined(NUMBERED, LastLines(TYPE + says, told(GROWN, ASKED).lines), ASKED)
    assert isinstance(found, bytes) is is_believed


# ---- how many lines ----


def test_what_is_asked_for_reaches_back_and_costs_less_than_the_file() -> None:
    """The lines of the overlap, twice the growth, and some; a file hardly longer is read whole instead."""
    lines = lines_to_ask(END, 50)
    assert lines >= END.count(b"\n") + 100
    assert not is_too_much(END, lines, 10**6)
    assert is_too_much(END, lines, 8000)
    assert is_too_much(END, lines_to_ask(END, 10**6), 10**9)
