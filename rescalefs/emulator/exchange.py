"""One request on its way through the emulator, and the answer to it; no HTTP library here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from rescalefs.emulator import wire
from rescalefs.emulator.content import Bytes, Content

JSON = "application/json"
# Bodies for statuses that nobody describes further. The texts of 401 to 405 are Django REST Framework's.
DETAILS = {
    400: "Bad request.",
    401: "Invalid token.",
    403: "You do not have permission to perform this action.",
    404: "Not found.",
    500: "Server error.",
    502: "Bad gateway.",
    503: "Service unavailable.",
    504: "Gateway timeout.",
}


@dataclass
class Answer:
    """A status, headers, and bytes [start, stop) of a content, with what shall go wrong while they leave."""

    status: int
    content: Content
    headers: dict[str, str] = field(default_factory=dict)
    start: int = 0
    stop: int = -1
    chunked: bool = False  # Without Content-Length.
    bytes_per_s: float | None = None
    cut_after: int | None = None  # Body bytes after which the connection closes.
    stall_after: int | None = None  # Body bytes after which nothing more comes.
    is_dropped: bool = False  # The connection closes without any answer.

    def __post_init__(self) -> None:
        """Send everything unless told otherwise."""
        if self.stop < 0:
            self.stop = self.content.size

    @property
    def length(self) -> int:
        """Return the number of body bytes."""
        return self.stop - self.start

    def replace_body(self, body: bytes, content_type: str) -> None:
        """Send *body* instead."""
        self.content, self.start, self.stop = Bytes(body), 0, len(body)
        self.headers["Content-Type"] = content_type

    def body(self) -> bytes:
        """Return the body; meant for small ones."""
        return self.content.read(self.start, self.stop)


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    """Return *value* as JSON."""
    return raw_json(wire.dump(value), status, **headers)


def raw_json(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Return JSON that is already written; `_` in header names stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, Bytes(body), {"Content-Type": JSON, **named})


def error(status: int, detail: str | None = None, **headers: str) -> Answer:
    """Return an error as Django REST Framework writes it."""
    return json_answer({"detail": detail or DETAILS.get(status, "Error.")}, status, **headers)


@dataclass
class Exchange:
    """A request, and what faults have decided about it before it is handled."""

    endpoint: str
    scope: str  # Of the rate limits.
    method: str
    origin: str  # As the client spelled it: `http://127.0.0.1:8970`.
    prefix: str  # `/api/v2`, `/api/v3` or `/api`.
    path: str  # Percent-encoded, without the query.
    query_string: str = ""
    range: str | None = None
    delay_s: float = 0.0  # Seconds before anything is looked at.
    held_until: threading.Event | None = None  # Nor is anything before this is set.
    instead: Answer | None = None  # Sent without asking the world, so nothing happens there.
    edits: list[Callable[[Answer], None]] = field(default_factory=list)  # Done to the answer, in order.
    count_plus: int = 0  # By how much a listing's `count` lies.
    drop_page_size: bool = False  # `next` loses `page_size`.
    shift_rows: int = 0  # Rows by which pages after the first begin late (or, negative, early).

    @property
    def query(self) -> dict[str, str]:
        """Return the query, the last value of each name."""
        parsed = parse_qs(self.query_string, keep_blank_values=True)
        return {name: values[-1] for name, values in parsed.items()}

    @property
    def api(self) -> str:
        """Return the address that was asked, up to `/api/v2`; unversioned is answered as v2."""
        return self.origin + ("/api/v2" if self.prefix == "/api" else self.prefix)


Effect = Callable[[Exchange, Any], None]
