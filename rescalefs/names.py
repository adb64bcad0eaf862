"""How a name from the API becomes a name in the mount: the escaping table.

| in the API                              | in the mount                         |
| --------------------------------------- | ------------------------------------ |
| any text that is a file name            | itself                               |
| a NUL, half a surrogate pair, a `/` in the name of a job | `%XX` for each of its bytes |
| `%` in a segment that had to be escaped, or that already looks escaped | `%25` |
| `.` and `..`                            | `%2E`, `%2E%2E`                      |
| an empty segment (`a//b`, `/a`)         | `%2F`                                |
| over 255 bytes                          | cut, then `~` and the file's id      |

Two different segments never become the same name (but for over-long ones, which the id keeps apart).
A name from the API never becomes a path on the local disk; this table is for the mount alone.
"""

from __future__ import annotations

import re

MAX_NAME_BYTES = 255  # NAME_MAX of Linux
_LOOKS_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_CANNOT_STAND = re.compile("[\0/\ud800-\udfff]")
_WHOLE = {"": "%2F", ".": "%2E", "..": "%2E%2E"}


def escape(segment: str) -> str:
    """Return the name under which a job's name, or one segment of a path, is shown, however long."""
    if segment in _WHOLE:
        return _WHOLE[segment]
    if _CANNOT_STAND.search(segment) or _LOOKS_ESCAPED.search(segment):
        segment = segment.replace("%", "%25")
        return _CANNOT_STAND.sub(lambda found: _percent(found.group()), segment)
    return segment


def fit(name: str, id: str) -> str:
    """Return *name*, cut to what a file name may have and marked with *id* if it is longer."""
    return name if is_short(name) else with_id(name, id)


def is_short(name: str) -> bool:
    """Tell whether a file name may be as long as *name*."""
    # At most four bytes a character: most names need no encoding.
    return len(name) * 4 <= MAX_NAME_BYTES or len(name.encode()) <= MAX_NAME_BYTES


def with_id(name: str, id: str) -> str:
    """Return `name~id`, cut in its first part where the whole would be over-long."""
    mark = f"~{escape(id)}"
    room_bytes = MAX_NAME_BYTES - len(mark.encode())
    return name.encode()[:room_bytes].decode(errors="ignore") + mark


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
