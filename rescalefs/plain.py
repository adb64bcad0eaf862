"""Text from elsewhere, made fit for one line of a terminal or a log.

Names and messages of the API may hold anything: a newline that would forge a second log line, an escape sequence that
would move a terminal's cursor, a mark that turns the direction of what follows.
"""

from __future__ import annotations

import re

# Controls of both tables, the separators of lines and paragraphs, marks of direction, half surrogate pairs.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    r"""Return *text* with what is no plain character written as in Python: `\n`, `\x1b`, `\u202e`."""
    return _UNFIT.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)
