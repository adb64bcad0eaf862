"""Bodies that are read as they come: ranges checked, cuts told, nothing read that is not the file."""

from __future__ import annotations

import gzip
import threading
from contextlib import closing
from typing import Any

import pytest

from rescalefs import transport as module
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import (
    Corrupt,
    NotFound,
    Unavailable,
)
from rescalefs.transfer import Transfer
from tests.asking import HTML, LONG_S
from tests.raw_server import READ, RESET, STALL, RawServer, Script, header, reply
from tests.stack import transport_to


def read(transfer: Transfer, piece: int = 1000) -> bytes:
    """Return the whole body."""
    buffer, data = memoryview(bytearray(piece)), b""
    with transfer:
        while count := transfer.readinto(buffer):
            data += buffer[:count]
    return data


def stream(server: RawServer, start: int = 0, end: int | None = None, *, clock: ManualClock | None = None) -> Any:
    """Return start, total and bytes of a stream."""
    clock = clock or ManualClock()
    with closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S, start=start, end=end)
        return transfer.start, transfer.total, read(transfer)


BODY = bytes(range(256)) * 8


def serve(first: int, stop: int, **headers: str) -> bytes:
    """Return a right answer to a range, but for *headers*."""
    named = {"Content_Range": f"bytes {first}-{stop - 1}/{len(BODY)}", **headers}
    return reply(206, BODY[first:stop], **named)


@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 6), (100, None), (2047, 2048), (1, 2048)])
def test_a_range_is_asked_and_checked(start: int, end: int | None) -> None:
    """A 206 with the right Content-Range gives its bytes, and the file's size."""
    with RawServer(serve(start, end or len(BODY))) as server:
        assert stream(server, start, end) == (start, len(BODY), BODY[start:end])

        last = "" if end is None else end - 1
        assert header(server.heads[0], "Range") == f"bytes={start}-{last}"
        assert header(server.heads[0], "Accept-Encoding") == "identity"


def test_the_whole_file_is_asked_without_a_range() -> None:
    """From the first byte to the end no Range is sent."""
    with RawServer(reply(200, BODY)) as server:
        assert stream(server) == (0, len(BODY), BODY)
        assert header(server.heads[0], "Range") is None


def test_a_200_to_a_range_is_the_whole_file() -> None:
    """A server that ignores ranges sends from byte 0, and the transfer says so."""
    with RawServer(reply(200, BODY)) as server:
        assert stream(server, 100, 200) == (0, len(BODY), BODY)


def test_a_chunked_body_has_no_known_size() -> None:
    """What comes in chunks is whole at the last one; its size is not told."""
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    with RawServer(chunks) as server:
        assert stream(server) == (0, None, b"abcde")


def test_an_empty_body_is_empty() -> None:
    """A file without bytes ends at once."""
    with RawServer(reply(200)) as server:
        assert stream(server) == (0, 0, b"")


def test_a_total_may_be_unknown() -> None:
    """`*` in Content-Range is a total that is not told."""
    with RawServer(reply(206, BODY[5:10], Content_Range="bytes 5-9/*")) as server:
        assert stream(server, 5, 10) == (5, None, BODY[5:10])


WRONG_RANGES = [
    "bytes 6-15/2048",
    "bytes 0-9/2048",
    "",
    "bytes",
    "items 5-14/2048",
    "bytes 5-14",
    "bytes */2048",
    "bytes -5-14/2048",
    "bytes x-y/z",
    "bytes \u00b5-14/2048",
    "bytes 5-\u00b2/2048",
    "bytes 5-14/\u00b2",
    "bytes 5-4/2048",
    "bytes 5-2048/2048",
    "bytes 5-14/0",
    "bytes 5-14/" + "9" * 5000,
]


@pytest.mark.parametrize("text", WRONG_RANGES)
def test_another_range_than_asked_is_corrupt(text: str) -> None:
    """A 206 whose Content-Range is not the one asked for, or no range at all, gives no bytes."""
    with RawServer(serve(5, 15, Content_Range=text)) as server, pytest.raises(Corrupt):
        stream(server, 5, 15)


def test_more_than_its_range_is_not_read() -> None:
    """Bytes of a 206 beyond its Content-Range are nobody's, however long the body is."""
    length = serve(5, 15, Content_Range="bytes 5-9/2048")
    chunks = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 5-9/2048\r\nTransfer-Encoding: chunked\r\n\r\na\r\n" + BODY[5:15]
    for answer in (length, chunks + b"\r\n0\r\n\r\n"):
        with RawServer(answer) as server:
            assert stream(server, 5, 15) == (5, len(BODY), BODY[5:10])


def test_a_range_that_was_read_leaves_its_connection_for_what_comes() -> None:
    """The last chunk of a 206 has no bytes, and is read all the same."""
    head = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 5-9/2048\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
    clock = ManualClock()
    answer = head + BODY[5:10] + b"\r\n0\r\n\r\n"
    with (
        RawServer((READ, answer, READ, answer)) as server,
        closing(transport_to(server.origin, clock)) as transport,
    ):
        for _ in range(2):
            assert read(transport.stream("e", "scope", "x/", clock.now() + LONG_S, start=5, end=15)) == BODY[5:10]
        assert server.connections == 1


def test_less_than_its_range_is_cut() -> None:
    """Where nothing but its Content-Range tells how long a 206 is."""
    with RawServer(b"HTTP/1.1 206 OK\r\nContent-Range: bytes 5-14/2048\r\n\r\n" + BODY[5:10]) as server:
        with pytest.raises(Unavailable, match="was cut"):
            stream(server, 5, 15)
        assert server.connections == 1


@pytest.mark.parametrize("first", [0, 5])
def test_a_206_to_a_whole_file_is_not_the_file(first: int) -> None:
    """An unasked part is not taken for the whole: a live file would be cut where it ends."""
    with RawServer(serve(first, 15)) as server, pytest.raises(Corrupt):
        stream(server)


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked ", "identity", "chunked, chunked"])
def test_a_body_in_another_form_is_not_the_file(coding: str) -> None:
    """What http.client does not take for chunks it gives as it comes, lengths of chunks and all."""
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\nConnection: close\r\n\r\n".encode()
    with RawServer(head + b"5\r\nhello\r\n0\r\n\r\n") as server, pytest.raises(Corrupt, match="form"):
        stream(server)


def test_packed_bytes_are_not_the_file() -> None:
    """A body that something on the way has compressed is not served as the file's bytes."""
    with (
        RawServer(reply(200, gzip.compress(BODY), Content_Encoding="gzip")) as server,
        pytest.raises(Corrupt),
    ):
        stream(server)


def test_a_wrong_range_that_passes_is_mended() -> None:
    """One wrong answer is asked again, as a cut one is."""
    with RawServer(serve(5, 15, Content_Range="bytes 0-9/2048"), serve(5, 15)) as server:
        assert stream(server, 5, 15) == (5, len(BODY), BODY[5:15])


CUTS: dict[str, Script] = {
    "an early end": reply(200, BODY[:700], Content_Length="2048"),
    "a reset": (READ, reply(200, BODY[:700], Content_Length="2048"), RESET),
    "a chunk cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" + BODY[:700],
    "the last chunk missing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2bc\r\n" + BODY[:700] + b"\r\n",
    "a chunk without a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY[:700],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_transfer_raises_and_lies_not(cut: Script) -> None:
    """The bytes before the cut are right, the cut is `Unavailable`, never an end."""
    data = b""
    clock = ManualClock()
    buffer = memoryview(bytearray(256))
    with RawServer(cut) as server, closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S)
        with transfer, pytest.raises(Unavailable):  # noqa: PT012 - what came before the cut is looked at
            while count := transfer.readinto(buffer):
                data += buffer[:count]
    assert data == BODY[: len(data)]
    assert server.connections == 1


def test_bytes_are_given_as_they_come() -> None:
    """A reader with a large buffer gets the first bytes before the next ones were sent."""
    more = threading.Event()

    def second(head: str) -> bytes:
        assert more.wait(20)
        return b"second"

    clock = ManualClock()
    with (
        RawServer((READ, reply(200, b"first", Content_Length="11"), second)) as server,
        closing(transport_to(server.origin, clock)) as transport,
        transport.stream("e", "scope", "x/", clock.now() + LONG_S) as transfer,
    ):
        buffer = memoryview(bytearray(1000))
        assert bytes(buffer[: transfer.readinto(buffer)]) == b"first"
        more.set()
        assert bytes(buffer[: transfer.readinto(buffer)]) == b"second"
        assert transfer.readinto(buffer) == 0


def test_more_than_promised_is_not_read() -> None:
    """Bytes beyond Content-Length are not of this body."""
    with RawServer(reply(200, BODY + b"beyond", Content_Length=str(len(BODY)))) as server:
        assert stream(server) == (0, len(BODY), BODY)


def test_a_transfer_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence longer than any healthy one ends the transfer with an error."""
    monkeypatch.setattr(module, "SILENCE_S", 0.2)
    with (
        RawServer((READ, reply(200, b"some", Content_Length="9"), STALL)) as server,
        pytest.raises(Unavailable),
    ):
        stream(server)


def test_a_closed_transfer_raises() -> None:
    """Reading on after `close`, as another thread may, is an error of ours and no end of file."""
    clock = ManualClock()
    with RawServer(reply(200, BODY)) as server, closing(transport_to(server.origin, clock)) as transport:
        transfer = transport.stream("e", "scope", "x/", clock.now() + LONG_S)
        transfer.close()
        with pytest.raises(Unavailable):
            transfer.readinto(memoryview(bytearray(10)))


def test_a_missing_file_is_not_found() -> None:
    """Errors of a stream are the errors of a document."""
    with RawServer(reply(404, b'{"detail": "Not found."}')) as server, pytest.raises(NotFound):
        stream(server, 5, 10)
    assert server.connections == 1


def test_a_stream_is_begun_again_after_what_may_pass() -> None:
    """Until the first byte, a stream is retried as a document is, with the same range."""
    with RawServer(reply(502, HTML), (READ, RESET), serve(5, 10)) as server:
        assert stream(server, 5, 10) == (5, len(BODY), BODY[5:10])
        assert [header(head, "Range") for head in server.heads] == ["bytes=5-9"] * 3
