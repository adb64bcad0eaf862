"""What may go wrong between a mount and Rescale, and what a program in the mount must see of it: one table.

`tests/fault_table.py` tries each row on real mounts and prints the table; `tests/test_fault_table.py` asserts it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.network import HANGS, NO_NAME, NOBODY_LISTENS
from tests.raw_server import READ, RESET, RawServer, Script, header, reply

CAT, BIG_CAT, LIVE_CAT, LS, BIG_LS = "cat", "cat of 5 MiB", "cat of a live file", "ls", "ls of 1200 files"
ENDPOINTS = {CAT: "contents", BIG_CAT: "contents", LIVE_CAT: "tail", LS: "run_files", BIG_LS: "run_files"}
SMALL_BYTES = 3000
BIG_BYTES = (5 << 20) + 13
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"  # as far as it comes
HTML = b"<html><h1>Bad Gateway</h1></html>"

# Gives the address of a server that is asked for the row's bytes while its block lasts.
Server = Callable[[bytes], AbstractContextManager[str]]


@dataclass(frozen=True, eq=False)
class Fault:
    """One row: what happens to the requests of which operation, its errno (0: right data), and what the log says.

    It is done by the emulator (*effects*), by another server, to which the emulator redirects, or by losing the network
    in one of `tests/network.py`'s ways: a fault of all that the mount asks for.
    """

    name: str
    operation: str
    errno: int
    says: str
    effects: Mapping[str, Any]
    server: Server | None = None
    is_alone: bool = False  # it stops all that the mount asks for, for a moment
    is_of_key: bool = False  # the log names the key, in one line for all whom it is refused
    network: str | None = None
    wrong_bytes: int = 0  # that a program may see before the error

    @property
    def title(self) -> str:
        """What a report calls it."""
        return f"{self.name}: {self.operation}"

    def files(self) -> dict[str, bytes]:
        """Return the files of the run on which it is tried; no two rows have equal bytes, as these are fetched once."""
        if self.operation == BIG_LS:
            return {f"file{number}": b"" for number in range(1200)}
        size = BIG_BYTES if self.operation == BIG_CAT else SMALL_BYTES
        return {"file": hashlib.shake_128(self.title.encode()).digest(size)}


def _rows(
    name: str,
    codes: int | Mapping[str, int],
    says: str,
    *,
    server: Server | None = None,
    network: str | None = None,
    **effects: Any,
) -> list[Fault]:
    """Make a row for each operation that *codes* gives an errno for: for `cat` and `ls`, if it is one for both."""
    is_of_key = effects.get("status") == 401
    is_alone = is_of_key or bool({"retry_after", "retry_after_date"} & set(effects))
    codes = {CAT: codes, LS: codes} if isinstance(codes, int) else codes
    return [
        Fault(name, kind, code, says, effects, server, is_alone, is_of_key, network) for kind, code in codes.items()
    ]


def _playing(*scripts: Callable[[bytes], Script]) -> Server:
    """Serve scripts that are made of the row's bytes; getting the key is an error."""

    @contextlib.contextmanager
    def serve(data: bytes) -> Iterator[str]:
        with RawServer(*(script(data) for script in scripts)) as server:
            yield server.origin
            assert not [head for head in server.heads if header(head, "Authorization")], "the key went elsewhere"

    return serve


@contextlib.contextmanager
def _nobody(data: bytes) -> Iterator[str]:
    """Give an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def _untrusted(data: bytes) -> Iterator[str]:
    """Serve the bytes with a certificate that nobody has signed."""
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = f"{directory}/key", f"{directory}/certificate"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    with RawServer(_whole(data), tls=tls) as server:
        yield server.origin
        assert not server.heads, "it was trusted"


def _whole(data: bytes, more: bytes = b"") -> bytes:
    """Answer a range that is all of a file, and bytes that nobody asked for."""
    return reply(206, data + more, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}")


def _half(data: bytes) -> bytes:
    head, _, body = _whole(data).partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + body[: len(body) // 2]


EIO, ETIMEDOUT = errno.EIO, errno.ETIMEDOUT
FAULTS: list[Fault] = [
    *_rows("401", dict.fromkeys((CAT, LS, LIVE_CAT), errno.EACCES),
           "the API key from RESCALE_API_KEY is refused.*401", status=401),
    *_rows("403", dict.fromkeys((CAT, LS, LIVE_CAT), errno.EACCES), "403", status=403),
    *_rows("404", {CAT: errno.ESTALE, LS: errno.ENOENT, LIVE_CAT: errno.ENOENT}, "404", status=404),
    *_rows("409", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "409", status=409),
    *_rows("429 once, Retry-After in seconds", {CAT: 0, LS: 0, LIVE_CAT: 0}, "429.*again",
           status=429, retry_after=1, times=1),
    *_rows("429 once, Retry-After as a date", 0, "429.*again", status=429, retry_after_date=2, times=1),
    *_rows("429", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "429", status=429, retry_after=4),
    *_rows("500 once", {CAT: 0, LS: 0, LIVE_CAT: 0}, "500.*again", status=500, times=1),
    *_rows("500", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "500", status=500),
    *_rows("502 with HTML", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "502", late_status=502, body=HTML),
    *_rows("503 with HTML", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "503", late_status=503, body=HTML),
    *_rows("504 with HTML", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "504", late_status=504, body=HTML),
    *_rows("slow first byte", {CAT: 0, LS: 0, LIVE_CAT: 0}, "", latency_s=1.0),
    *_rows("no first byte", dict.fromkeys((CAT, LS, LIVE_CAT), ETIMEDOUT), "no answer", latency_s=60.0),
    *_rows("slow drip", {CAT: ETIMEDOUT, LS: ETIMEDOUT}, "no answer", stream_bytes_per_s=20),
    *_rows("slow drip", {LIVE_CAT: EIO}, "was cut: it gave [0-9]+ B/s", stream_bytes_per_s=20),
    *_rows("slow drip once", {CAT: 0, BIG_CAT: 0}, "the rest.*was cut: it gave [0-9]+ B/s",
           stream_bytes_per_s=20, times=1),
    *_rows("stall in mid-body", {CAT: ETIMEDOUT, BIG_CAT: ETIMEDOUT, LS: ETIMEDOUT}, "no answer", stall_after=100),
    *_rows("stall in mid-body", {LIVE_CAT: EIO}, "was cut: it gave [0-9]+ B/s", stall_after=100),
    *_rows("stall in mid-body once", {CAT: 0, BIG_CAT: 0}, "the rest.*was cut: it gave [0-9]+ B/s",
           stall_after=100, times=1),
    *_rows("short body once", {CAT: 0, BIG_CAT: 0}, "the rest.*its body ended", short_by=100, times=1),
    *_rows("short body", {CAT: EIO, BIG_CAT: EIO}, "was cut [0-9] times: .*its body ended", short_by=100),
    *_rows("cut in mid-body once", {CAT: 0, BIG_CAT: 0, LS: 0}, "IncompleteRead", cut_after=5, times=1),
    *_rows("cut in mid-body", {LIVE_CAT: EIO}, "was cut", cut_after=5),
    *_rows("cut in mid-body", {LS: EIO}, "cannot reach", cut_after=5),
    *_rows("cut before the first byte", {CAT: EIO}, "was cut [0-9] times: .*IncompleteRead", cut_after=0),
    *_rows("long body", {CAT: 0}, "", server=_playing(lambda data: _whole(data, b"more"))),
    *_rows("file longer than listed", {CAT: EIO}, "3004 bytes, 3000 were listed",
           server=_playing(lambda data: reply(200, data + b"more"))),
    *_rows("wrong Content-Range", {CAT: EIO}, "asked for bytes from 0, got 'bytes 5-9/10'",
           headers={"Content-Range": "bytes 5-9/10"}),
    *_rows("200 for a range", {CAT: 0}, "", ignore_range=True),  # the range is all of it
    *_rows("200 for a range", {BIG_CAT: 0}, "all of it comes, not the range", ignore_range=True),
    *_rows("wrong bytes once", {CAT: 0}, "does not match its sha512", wrong_byte_at=7, times=1),
    *_rows("wrong bytes", {CAT: EIO}, "does not match its checksum, twice", wrong_byte_at=7),
    Fault("wrong bytes", BIG_CAT, EIO, "proved to be wrong", {"wrong_byte_at": 70_000}, wrong_bytes=1),
    *_rows("closed without an answer once", {CAT: 0, LS: 0, LIVE_CAT: 0}, "again", drop=True, times=1),
    *_rows("closed without an answer", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "cannot reach", drop=True),
    *_rows("reset", EIO, "cannot reach.*[Rr]eset", server=_playing(lambda _: (READ, RESET))),
    *_rows("reset in mid-body", {CAT: EIO}, "asked for bytes from 1500",
           server=_playing(lambda data: (READ, _half(data), RESET))),
    *_rows("cut in the head", EIO, "cannot reach.*ended before the answer began", server=_playing(lambda _: HEAD)),
    *_rows("cut in the head", {LIVE_CAT: EIO}, "cannot reach.*ended before the answer began",
           server=_playing(lambda _: HEAD)),
    *_rows("no HTTP", EIO, "cannot reach", server=_playing(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n")),
    *_rows("bad JSON", {LS: EIO}, "is not JSON", bad_json=True),
    *_rows("truncated JSON", {LS: EIO}, "is not JSON", truncated_json=True),
    *_rows("HTML for bytes", {LIVE_CAT: EIO}, "the answer is text/html, not the bytes of a file", body=HTML),
    *_rows("HTML for JSON", {LS: EIO}, "is not JSON", body=HTML),
    *_rows("JSON of another kind", {LS: EIO}, "is not a listing", body=b"[1, 2]"),
    *_rows("page moved once", {BIG_LS: 0}, "changed while it was read", shift_rows=1, skip=1, times=1),
    *_rows("page moved, always alike", {BIG_LS: 0}, "changed while it was read", shift_rows=-1),
    *_rows("redirect to another host", {CAT: 0}, "", server=_playing(_whole)),
    *_rows("redirect without an end", EIO, "more than 4 redirects",
           server=_playing(lambda _: lambda head: reply(302, Location=f"http://{header(head, 'Host')}/on"))),
    *_rows("redirect to where nobody listens", EIO, "cannot reach.*[Rr]efused", server=_nobody),
    *_rows("TLS with a wrong certificate", EIO, "certificate", server=_untrusted),
    *_rows("connection refused", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "no way to Rescale.*[Rr]efused",
           network=NOBODY_LISTENS),
    *_rows("DNS failure", {CAT: EIO, LS: EIO, LIVE_CAT: EIO}, "no way to Rescale.*not known", network=NO_NAME),
    *_rows("a resolver that hangs", dict.fromkeys((CAT, LS, LIVE_CAT), ETIMEDOUT), "no answer", network=HANGS),
]  # fmt: skip
