"""The raw server does to a client exactly what its script says."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.raw_server import READ, RESET, STALL, RawServer, header, reply

GET = b"GET /a HTTP/1.1\r\nHost: x\r\nX-Is: here\r\n\r\n"


def talk(server: RawServer, *sent: bytes) -> bytes:
    """Send *sent* on one connection and return everything that comes."""
    port = int(server.origin.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for data in sent:
            connection.sendall(data)
        answer = b""
        while data := connection.recv(1000):
            answer += data
        return answer


def test_connections_follow_their_scripts_and_the_last_repeats() -> None:
    """The nth connection gets the nth script, later ones the last; every head is kept."""
    with RawServer(b"first", lambda head: head.split()[1].encode()) as server:
        assert [talk(server, GET) for _ in range(3)] == [b"first", b"/a", b"/a"]

        assert (server.connections, server.requests("GET"), server.requests("POST")) == (3, 3, 0)
        assert [header(head, "x-is") for head in server.heads] == ["here"] * 3
        assert header(server.heads[0], "absent") is None


def test_one_connection_serves_several_requests() -> None:
    """A script reads as often as it says, bodies included."""
    post = b"POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    with RawServer((READ, b"1", READ, b"2")) as server:
        assert talk(server, post, GET) == b"12"

        assert [head.split()[0] for head in server.heads] == ["POST", "GET"]


def test_a_reset_is_a_reset() -> None:
    """RESET after some bytes makes the client's next read fail, where a plain end would be an end."""
    with RawServer((READ, b"some", RESET)) as server, pytest.raises(ConnectionResetError):
        talk(server, GET)


def test_a_script_may_close_without_reading() -> None:
    """An empty script accepts and closes; nothing was read."""
    with RawServer(()) as server:
        assert talk(server) == b""

        assert (server.connections, server.heads) == (1, [])


def test_a_stall_ends_with_the_server_and_leaves_no_thread() -> None:
    """A stalled client sees the end when the server ends, and all threads are joined."""
    before = set(threading.enumerate())
    with RawServer((READ, b"some", STALL)) as server:
        port = int(server.origin.rpartition(":")[2])
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        connection.sendall(GET)
        assert connection.recv(100) == b"some"
    with connection:
        assert connection.recv(100) == b""
    assert set(threading.enumerate()) <= before  # one of another test may just end


def test_reply_is_a_whole_answer() -> None:
    """`reply` writes status line, length, given headers and the body."""
    assert reply(503, b"no", Retry_After="3") == (
        b"HTTP/1.1 503 Whatever\r\nContent-Length: 2\r\nConnection: close\r\nRetry-After: 3\r\n\r\nno"
    )
