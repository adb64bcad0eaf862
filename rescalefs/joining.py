"""Whether the last lines of a live file, as the API tells them, continue what is known of it.

`tail` with `lines` tells the text of the last lines, newlines stripped, and no offset, so that they continue what is
known is an inference. It is drawn only when the end of what is known, its *overlap*, stands in the answer in one place,
and everything before it there is what is known, too. What the answer cannot tell is never made up: its last line may be
without a newline, or be written at this moment, so the newline is left out until another line follows it. The text is
not: whatever is still to be written, even blanks that a server strips at the end of each line, comes after it.

All functions are pure. That the overlap occurs once in all that is known is for the caller to see to, who has it.
"""

from __future__ import annotations

import re
from enum import Enum

from rescalefs.models import LastLines

# So much must be the same. Both, because a hundred short lines may be a table's, and a long one a separator.
OVERLAP_BYTES = 4 * 1024
OVERLAP_LINES = 32
# An overlap longer than this, of very long lines, costs what joins are to save.
MAX_OVERLAP_BYTES = 24 * 1024
# How far back a trial reaches, once for each file: ten overlaps, and no more than any look may cost.
TRIAL_BYTES = 40 * 1024
# Lines asked for beyond the overlap and twice the growth that is expected: a burst is not worth a second request.
SPARE_LINES = 32
# An answer beyond this is not read to its end: joins are for files that grow little between two looks.
MAX_ANSWER_BYTES = 1024 * 1024
# What may end a line for who made the answer (Python's `splitlines`, universal newlines), or stands for what he could
# not read, and does not for file(1) or here: where it occurs, lines told are not the bytes between newlines.
ODD = ("\0", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\ufffd")
ODD_BYTES = tuple(text.encode() for text in ODD)
# What file(1) says of texts in other encodings, or with other line ends than "\n".
_OTHER_TEXT = re.compile(r"\b(?:ISO|EBCDIC|extended|UTF-(?!8\b))|(?<!\bno )\bline terminators\b")


class NoJoin(Enum):
    """Why an answer is not believed to continue what is known."""

    TOO_SHORT = "it does not reach back to what is known"  # more lines may
    ANOTHER = "it is not what is known"
    UNFIT = "it is no plain text"


def overlap_of(end: bytes) -> bytes | None:
    """Return the last lines that an answer must hold, *end* being the last `MAX_OVERLAP_BYTES` of what is known.

    They begin with a line's first byte, and may end inside of a line. None where no join is possible: there are too
    few lines, or too long ones, or they are no UTF-8.
    """
    lines = end.rsplit(b"\n", OVERLAP_LINES + 1)
    if len(lines) < OVERLAP_LINES + 2:
        return None
    by_lines = len(lines[0]) + 1
    by_bytes = end.rfind(b"\n", 0, max(0, len(end) - OVERLAP_BYTES)) + 1
    overlap = end[min(by_lines, by_bytes) :]
    if by_bytes == 0:
        return None
    try:
        overlap.decode()
    except UnicodeDecodeError:
        return None
    return overlap


def lines_to_ask(overlap: bytes, expected_lines: float) -> int:
    """Return how many last lines hold *overlap* when about *expected_lines* have followed it."""
    return overlap.count(b"\n") + 1 + SPARE_LINES + round(2 * expected_lines)


def lines_to_try(end: bytes) -> int:
    """Return how many last lines hold those which a server that tells lines otherwise than they are would spoil.

    *end* is of what is known. They are the longest whole line, the last that begins with a blank, and the last that
    ends with one: a server may cut lines, or strip them.
    """
    lines = end[-TRIAL_BYTES:].split(b"\n")[-2:0:-1]  # the last one first; what may be cut at either end is left out
    longest = max(map(len, lines), default=0)
    found = (
        [len(line) == longest for line in lines],
        [line[:1].isspace() for line in lines],
        [line[-1:].isspace() for line in lines],
    )
    return 2 + max(each.index(True) if True in each else 0 for each in found)


def is_too_much(overlap: bytes, lines: int, known_bytes: int) -> bool:
    """Tell whether so many *lines* like those of *overlap* cost about what reading the whole file does."""
    expected_bytes = lines * len(overlap) / overlap.count(b"\n")
    return expected_bytes > min(MAX_ANSWER_BYTES, known_bytes) / 2


def join(answer: LastLines, asked: int, end: bytes, size: int, overlap: bytes) -> bytes | NoJoin:
    """Return what *answer*, of the last *asked* lines, tells of what follows what is known; all but the last newline.

    *size* bytes are known; they end in *end*, which is all of them or as long as any answer, and that in *overlap*.
    """
    if not answer.lines:
        return NoJoin.ANOTHER
    text = "\n".join(answer.lines)
    is_lines = text.count("\n") == len(answer.lines) - 1
    if not is_lines or not _is_text(answer.file_type) or any(odd in text for odd in ODD):
        return NoJoin.UNFIT
    try:
        body = text.encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair
        return NoJoin.UNFIT
    at = body.find(overlap)
    if at < 0:
        return NoJoin.TOO_SHORT if len(answer.lines) >= asked else NoJoin.ANOTHER
    begin = size - len(overlap) - at  # where the answer begins in the file, if it continues what is known
    is_line = begin == 0 or end[: begin - (size - len(end))].endswith(b"\n")
    is_known = end.endswith(body[: at + len(overlap)]) and is_line
    if body.find(overlap, at + 1) >= 0 or not is_known or (begin > 0 and len(answer.lines) < asked):
        return NoJoin.ANOTHER  # a file of fewer lines than asked for is told from its beginning
    known, new = body[: at + len(overlap)], body[at + len(overlap) : -1]
    if not new.isascii() and known.isascii():
        return NoJoin.ANOTHER  # nothing shows that such characters come through as the bytes they are
    return new


def _is_text(file_type: str) -> bool:
    """Tell whether file(1) says of a file that it is lines of ASCII or UTF-8; its path comes first."""
    says = file_type.rpartition(": ")[2]
    return re.search(r"\btext\b", says) is not None and _OTHER_TEXT.search(says) is None
