"""Listings in pages: whole or an error, in as few requests as there are pages."""

from __future__ import annotations

import json
import string
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs import client as module
from rescalefs.client import Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.errors import AccessDenied, Corrupt, DeadlineExceeded, NotFound, Unavailable
from tests.raw_server import RawServer, Step, reply
from tests.stack import client_of

LONG_S = 1000.0
LETTERS = string.ascii_lowercase
INVALID_PAGE = reply(404, b'{"detail": "Invalid page."}')
Page = Mapping[str, Any]
ClientOf = Callable[..., Client]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def at(clock: ManualClock) -> float:
    """A deadline that no test reaches."""
    return clock.now() + LONG_S


@pytest.fixture(params=[True, False], ids=["parallel", "one by one"])
def asking(clock: ManualClock, request: pytest.FixtureRequest) -> Iterator[ClientOf]:
    """Make a client of a server, with threads for its pages and without: `asking(server)`."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(client_of(server.origin, clock, is_parallel=request.param))


@pytest.fixture
def client(clock: ManualClock, emulator: Emulator) -> Iterator[Client]:
    """A client of the emulator."""
    with client_of(emulator.origin, clock) as made:
        yield made


def row(id: str, **fields: Any) -> dict[str, Any]:
    """Write a file as a listing has it."""
    return {"id": id, "name": id, "relativePath": f"case/{id}", "decryptedSize": 5, "typeId": 5, **fields}


def page(ids: str, *, next: object = "http://x/?page=9", **fields: Any) -> Page:
    """Write a page of files, one for each letter; there is a `next` unless told otherwise."""
    return {"next": next, "previous": None, "results": [row(id) for id in ids], **fields}


def pages_of(ids: str, size: int, count: object) -> list[Page]:
    """Write all pages of a right listing, *size* rows each."""
    parts = [ids[start : start + size] for start in range(0, len(ids), size)] or [""]
    return [page(part, count=count, next="http://x/" if part is not parts[-1] else None) for part in parts]


def in_turn(*reads: Sequence[Page]) -> Step:
    """Answer by the number of the page; each request of page 1 begins the next of *reads*, the last one stays."""
    coming = list(reads)
    current: list[Page] = []

    def answer(head: str) -> bytes:
        number = number_of(head)
        if number == 1:
            current[:] = coming.pop(0) if len(coming) > 1 else coming[0]
        return reply(200, json.dumps(current[number - 1]).encode()) if number <= len(current) else INVALID_PAGE

    return answer


def number_of(head: str) -> int:
    """Return the number of the page that a request asks for."""
    return int(parse_qs(urlsplit(head.split()[1]).query)["page"][0])


def ids_of(client: Client, at: float) -> str:
    """List the files of a run; return their ids in order."""
    return "".join(file.id for file in client.files("J", "1", at))


# Listings: whole or an error.

# What the pages of one read say, and the files that are listed then.
READS: dict[str, tuple[list[Page], str]] = {
    "one page": (pages_of("abc", 5, 3), "abc"),
    "no rows": (pages_of("", 5, 0), ""),
    "no rows and a next": ([page("", count=0)], ""),
    "full pages": (pages_of("abcdef", 3, 6), "abcdef"),
    "a short last page": (pages_of("abcdefg", 3, 7), "abcdefg"),
    "no count": (pages_of("abcdefg", 3, None), "abcdefg"),
    "a count that is text": (pages_of("abcdefg", 3, "7"), "abcdefg"),
    "a count below zero": (pages_of("abcdefg", 3, -1), "abcdefg"),
    "a count too low": (pages_of("abcdefg", 3, 4), "abcdefg"),
    "a count too high": (pages_of("abcdefg", 3, 99), "abcdefg"),
    "a count of zero": (pages_of("abcdefg", 3, 0), "abcdefg"),
    "a senseless count": (pages_of("abcdefg", 3, 10**15), "abcdefg"),
    "an empty last page": ([page("abc", count=6), page("def", count=6), page("", count=6, next=None)], "abcdef"),
    "empty last pages without end": ([page("abc", count=3), *[page("", count=3)] * 3], "abc"),
    "a next beyond the end": ([page("abc", count=6), page("def", count=6)], "abcdef"),
    "an empty text for next": ([page("abc", count=3, next="")], "abc"),
    "one row a page": (pages_of("abcdefg", 1, 7), "abcdefg"),
}


@pytest.mark.parametrize(("read", "ids"), READS.values(), ids=READS)
def test_a_listing_that_stands_still_is_whole(asking: ClientOf, at: float, read: list[Page], ids: str) -> None:
    """Whatever `count` and `next` claim, every row is listed once and in order."""
    with RawServer(in_turn(read)) as server:
        assert ids_of(asking(server), at) == ids
        assert len(server.heads) <= 2 * (len(read) + 1 + module.PAGES_AHEAD)  # no count makes requests without end


CHANGES: dict[str, list[list[Page]]] = {
    "a row moved to the next page": [[page("abc", count=6), page("cde", count=6, next=None)]],
    "a row moved to the page before": [[page("abc", count=6), page("ef", count=5, next=None)]],
    "count grew while paging": [[page("abc", count=5), page("ef", count=6, next=None)]],
    "a page is short": [[page("abc"), page("e"), page("f", next=None)]],
    "the end went away": [[page("abc", count=7), page("def", count=7)]],
    "a page was empty once": [[page("abc", count=9), page("", count=9), page("def", count=9, next=None)]],
    "a page came twice": [[page("abc", count=6), page("abc", count=6, next=None)]],
    "the first page was empty once": [[page("", count=6)]],
    "three changes": [
        [page("abc", count=4), page("e", count=5)],
        [page("abc", count=5), page("cd", count=5)],
        [page("abc", count=6), page("def", count=7)],
    ],
}


@pytest.mark.parametrize("changing", CHANGES.values(), ids=CHANGES)
def test_a_listing_that_changed_is_read_again(asking: ClientOf, at: float, changing: list[list[Page]]) -> None:
    """Pages that disagree are not put together: the listing that stands still afterwards is the answer."""
    with RawServer(in_turn(*changing, pages_of("abcdef", 3, 6))) as server:
        assert ids_of(asking(server), at) == "abcdef"
        assert [number_of(head) for head in server.heads].count(1) == len(changing) + 1


NEVER_WHOLE: dict[str, list[list[Page]]] = {
    "another count each time": [[page("abc", count=6), page(last, count=7, next=None)] for last in "defgh"],
    "page 1 whatever is asked": [[page("abc", count=9)] * 3],
    "page 1 for ever": [[page("abc")] * 99],
    "page 2 for ever": [[page("abc"), *[page("def")] * 99]],
    "rows after an empty page": [[page("abc", count=9), page("", count=9), page("def", count=9, next=None)]],
}


@pytest.mark.parametrize("reads", NEVER_WHOLE.values(), ids=NEVER_WHOLE)
def test_a_listing_that_cannot_be_whole_is_an_error(asking: ClientOf, at: float, reads: list[list[Page]]) -> None:
    """After the last attempt it is `Corrupt`, never the part that was got; loops of `next` end."""
    with RawServer(in_turn(*reads)) as server:
        with pytest.raises(Corrupt, match="changed each of the 4 times"):
            ids_of(asking(server), at)
        assert [number_of(head) for head in server.heads].count(1) == module.LISTING_ATTEMPTS
        assert len(server.heads) <= 4 * module.LISTING_ATTEMPTS


def test_ever_new_rows_end_some_time(asking: ClientOf, clock: ManualClock) -> None:
    """A listing that goes on for ever is an error in the end."""

    def more(head: str) -> bytes:
        clock.advance(10)
        return reply(200, json.dumps({"next": "x", "results": [row(f"f{number_of(head)}")]}).encode())

    with RawServer(more) as server:
        with pytest.raises(DeadlineExceeded):
            asking(server).files("J", "1", clock.now() + 20)
        assert len(server.heads) == module.LISTING_S / 10


def test_each_page_has_the_time_of_the_first(asking: ClientOf, clock: ManualClock) -> None:
    """A listing takes as long as it must, if no page takes longer than one answer may; and it tells of each."""
    good = in_turn(pages_of(LETTERS, 1, 26))
    assert callable(good)
    came: list[float] = []
    slow: set[int] = set()

    def answer(head: str) -> bytes:
        clock.advance(30 if number_of(head) in slow else 1)
        return reply(503) if number_of(head) in slow else good(head)

    def ask() -> str:
        found = asking(server).files("J", "1", clock.now() + 20, came=lambda: came.append(clock.now()))
        return "".join(file.id for file in found)

    with RawServer(answer) as server:
        assert ask() == LETTERS
        assert len(came) == 26
        slow.add(7)
        with pytest.raises((Unavailable, DeadlineExceeded)):  # of this page, or of those beside it
            ask()


def test_a_page_that_fails_fails_the_listing(asking: ClientOf, at: float) -> None:
    """No error of a page is taken for the end, but for the 404 beyond it."""
    good = in_turn(pages_of("abcdefghi", 3, 9))
    assert callable(good)
    with RawServer(lambda head: reply(403) if number_of(head) == 2 else good(head)) as server:
        with pytest.raises(AccessDenied):
            ids_of(asking(server), at)
        assert [number_of(head) for head in server.heads].count(2) == 1


def test_a_first_page_that_is_missing_is_not_an_empty_listing(asking: ClientOf, at: float) -> None:
    """A 404 for page 1 means that there is no such job or run."""
    with RawServer(INVALID_PAGE) as server, pytest.raises(NotFound):
        ids_of(asking(server), at)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=3),
    st.integers(1, 4),
    st.integers(0, 9),
    st.booleans(),
)
def test_no_row_is_lost_while_files_are_added(
    added: list[tuple[int, int]], size: int, there: int, has_count: bool
) -> None:
    """Wherever and whenever new rows push others on, the rows of the beginning are listed, once each."""
    clock = ManualClock()
    names = [f"old{number}" for number in range(there)]
    moves = dict(added)  # after how many requests a row comes, and where

    def answer(head: str) -> bytes:
        start = (number_of(head) - 1) * size
        found = [row(name) for name in names[start : start + size]]
        body = {
            "count": len(names) if has_count else None,
            "next": "x" if names[start + size :] else None,
            "results": found,
        }
        if len(server.heads) in moves:
            names.insert(moves[len(server.heads)], f"new{len(names)}")
        return reply(200, json.dumps(body).encode()) if found or start == 0 else INVALID_PAGE

    with RawServer(answer) as server, client_of(server.origin, clock, is_parallel=False) as client:
        ids = [file.id for file in client.files("J", "1", clock.now() + LONG_S)]
    assert len(set(ids)) == len(ids)
    assert {f"old{number}" for number in range(there)} <= set(ids) <= set(names)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=3), st.integers(1, 4), st.integers(0, 12))
def test_no_row_is_lost_while_others_are_removed(removed: list[tuple[int, int]], size: int, there: int) -> None:
    """Rows that move up into a page that was read already are seen by the count, and the listing is read again."""
    clock = ManualClock()
    names = [f"old{number}" for number in range(there)]
    moves = dict(removed)  # after how many requests a row goes, and which

    def answer(head: str) -> bytes:
        start = (number_of(head) - 1) * size
        found = [row(name) for name in names[start : start + size]]
        body = {"count": len(names), "next": "x" if names[start + size :] else None, "results": found}
        if names and len(server.heads) in moves:
            names.pop(moves[len(server.heads)] % len(names))
        return reply(200, json.dumps(body).encode()) if found or start == 0 else INVALID_PAGE

    with RawServer(answer) as server, client_of(server.origin, clock, is_parallel=False) as client:
        try:
            ids = [file.id for file in client.files("J", "1", clock.now() + LONG_S)]
        except Corrupt:
            assert len(moves) >= 3  # it never stood still
            return
    assert len(set(ids)) == len(ids)
    assert set(names) <= set(ids)


WRONG_SHAPES = [
    [],
    [row("a")],
    None,
    "rows",
    7,
    {},
    {"results": None},
    {"results": {"a": row("a")}},
    {"results": "rows"},
    {"results": [row("a"), None]},
    {"results": [[row("a")]]},
    {"results": ["a"]},
    {"detail": "The run is not in progress."},
    {"results": [{}, {}]},
    {"results": [{"id": {}}]},
]


@pytest.mark.parametrize("shape", WRONG_SHAPES, ids=repr)
@pytest.mark.parametrize("method", ["files", "runs", "jobs"])
def test_what_is_no_listing_is_corrupt(asking: ClientOf, at: float, method: str, shape: object) -> None:
    """Another shape than that of a listing is an error, never an empty directory."""
    with RawServer(reply(200, json.dumps(shape).encode())) as server, pytest.raises(Corrupt):
        getattr(asking(server), method)(*{"jobs": (), "runs": ("J",), "files": ("J", "1")}[method], at)


# Pages as requests.


def test_next_is_rebuilt_on_the_configured_origin(asking: ClientOf, at: float) -> None:
    """A `next` that names another host, or forgets `page_size`, changes neither."""
    with RawServer(reply(200, b"{}")) as other:
        foreign = f"{other.origin}/api/v2/jobs/J/runs/1/files/?page=2"
        pages = [page("abc", count=5, next=foreign), page("de", count=5, next=None)]
        with RawServer(in_turn(pages)) as server:
            assert ids_of(asking(server), at) == "abcde"
            targets = sorted(head.split()[1] for head in server.heads)
        assert targets == [f"/api/v2/jobs/J/runs/1/files/?page={number}&page_size=1000" for number in (1, 2)]
        assert other.connections == 0


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000, 9001])
def test_a_listing_costs_one_request_a_page(
    client: Client, emulator: Emulator, run: Run, at: float, count: int
) -> None:
    """A run of n files is ceil(n / 1000) requests, at least one; nothing is asked for a single file."""
    run.files.clear()
    for number in range(count):
        run.add_file(f"{number}", b"")
    assert [file.path for file in client.files("AbCdE", "1", at)] == [f"{number}" for number in range(count)]
    assert emulator.requests == {"run_files": max(1, -(-count // 1000))}


@pytest.mark.parametrize(("effect", "requests"), [({"drop_page_size": True}, 3), ({"count_plus": 500}, 6)])
def test_what_the_api_does_wrong_costs_little(
    client: Client, emulator: Emulator, run: Run, at: float, effect: dict[str, Any], requests: int
) -> None:
    """A lost `page_size` costs nothing; a `count` that promises too much is one more look."""
    run.files.clear()
    for number in range(2500):
        run.add_file(f"more/{number}", b"")
    emulator.faults.add(endpoint="run_files", **effect)
    assert len(client.files("AbCdE", "1", at)) == len(run.files)
    assert emulator.requests["run_files"] == requests


@pytest.mark.parametrize("shift", [3, -3, -1000])
def test_rows_that_moved_once_are_all_there(
    client: Client, emulator: Emulator, run: Run, at: float, shift: int
) -> None:
    """Pages that begin late or early, as while files come and go, are read again."""
    for number in range(2500):
        run.add_file(f"more/{number}", b"")
    emulator.faults.add(endpoint="run_files", path="files/", skip=1, times=2, shift_rows=shift)
    assert {file.id for file in client.files("AbCdE", "1", at)} == {file.id for file in run.files}


def test_a_clamped_page_is_no_end(
    client: Client, emulator: Emulator, at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages shorter than asked for, as of a server with a lower maximum, are paged all the same."""
    monkeypatch.setattr(module, "FILES_PAGE", 5000)
    run = emulator.world.add_job("Many").add_run(finished=True, files={str(number): b"" for number in range(2500)})
    assert len(client.files("Many", run.id, at)) == 2500
    assert emulator.requests["run_files"] == 3


def test_pages_are_asked_for_side_by_side(clock: ManualClock, at: float) -> None:
    """With its threads a client has several pages under way at once, and never more than it says."""
    together = threading.Barrier(module.PARALLEL_PAGES, timeout=20)
    good = in_turn(pages_of("abcdefghi", 1, 9))
    assert callable(good)

    def answer(head: str) -> bytes:
        if number_of(head) > 1:
            together.wait()  # none is answered before all have come
        return good(head)

    with RawServer(answer) as server, client_of(server.origin, clock) as client:
        assert ids_of(client, at) == "abcdefghi"
        assert len(server.heads) == 9
