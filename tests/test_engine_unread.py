"""Who may have all of a large file waits for its verdict, whoever has brought the bytes and whenever they were read."""

from __future__ import annotations

import hashlib
import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from rescalefs.content.handle import ContentHandle
from rescalefs.content.segment import BLOCK_BYTES, SEGMENT_BYTES, segment_name
from rescalefs.content.verify import Check
from rescalefs.errors import Corrupt, Unavailable
from rescalefs.models import Digest
from tests.conftest import wait_for
from tests.faulty_source import LONG_S
from tests.test_engine import MIB, Begin, made, read_through, settle, source_of
from tests.test_engine import begin as begin
from tests.test_engine_verdict import SIZE, changed


def read_part(handle: ContentHandle, start: int, end: int) -> bytes:
    return b"".join(handle.read(at, MIB) for at in range(start, end, MIB))


def test_a_hit_that_completes_a_file_waits_for_the_verdict(begin: Begin) -> None:
    """Read from its end, all but its first bytes: what a fetch brings beyond its reader's wish completes it, too."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    source.files[file.id] = changed(data, 0)
    engine = begin(source)
    handle = engine.open(file)
    for start in reversed(range(MIB, SIZE, MIB)):
        assert handle.read(start, MIB) == data[start : start + MIB]
    source.held = lambda _id, at: 4 * BLOCK_BYTES <= at < MIB
    assert handle.read(0, BLOCK_BYTES) == changed(data, 0)[:BLOCK_BYTES]  # nobody can know yet
    follow, may_go_on = engine._verifier._follow, threading.Event()

    def slowly(check: Check) -> bool:
        assert may_go_on.wait(LONG_S)
        return follow(check)

    engine._verifier._follow = slowly  # type: ignore[method-assign]
    source.let_go()
    store = engine._store
    wait_for(lambda: store.missing(handle.content.identity, 0, SIZE, SIZE) is None, LONG_S, lambda: "it does not come")
    threading.Timer(0.2, may_go_on.set).start()
    with pytest.raises(Corrupt, match="wrong"):
        handle.read(BLOCK_BYTES, MIB - BLOCK_BYTES)


def test_a_hit_that_completes_a_file_waits_though_another_process_brought_the_bytes(begin: Begin) -> None:
    """Two mounts share a cache; what one of them fetched wrongly may not complete what the other one's reader has."""
    (data, file), wrong = made(SIZE), source_of(SIZE)
    wrong.files[file.id] = changed(data, 5)
    here, other = begin(source_of(SIZE)), begin(wrong)
    other._verifier._follow = lambda _check: False  # type: ignore[method-assign]  # it finds nothing out by itself
    handle = here.open(file)
    for start in reversed(range(SEGMENT_BYTES, SIZE, MIB)):
        assert handle.read(start, MIB) == data[start : start + MIB]
    with closing(other.open(file)) as reader:
        assert read_part(reader, 0, SEGMENT_BYTES) != data[:SEGMENT_BYTES]
    hits = here.stats()["content.hits"]
    with pytest.raises(Corrupt, match="wrong"):
        read_part(handle, 0, SEGMENT_BYTES)
    assert here.stats()["content.hits"] == hits + SEGMENT_BYTES // MIB


def test_who_has_read_wrong_bytes_learns_it_though_another_process_has_removed_them(begin: Begin) -> None:
    """What another mount brought and read here is looked at as it is read: it may be gone when the file is complete."""
    (data, file), wrong = made(SIZE), source_of(SIZE)
    wrong.files[file.id] = changed(data, 5)
    right = source_of(SIZE)
    here, other = begin(right), begin(wrong)
    reader = other.open(file)
    wrong.held = lambda _id, at: at >= 2 * MIB
    reader.read(0, 2 * MIB)
    handle = here.open(file)
    assert handle.read(0, MIB) == changed(data, 5)[:MIB]
    right.wait_until(lambda: right.under_way == 0)
    settle(here)
    check = handle.content.check
    assert check is not None
    here._verifier.go_on(check, 0, SIZE)
    wait_for(lambda: check.at > 2 * MIB, LONG_S, lambda: f"looked at up to {check.at}")  # so is what comes again
    wrong.let_go()
    with pytest.raises(Corrupt):
        read_through(reader)
    for segment in here._cache._opened.values():
        segment.note_use_on_disk()  # as within a minute, and sees that it is gone
    with pytest.raises(Corrupt):
        read_part(handle, MIB, SIZE)


def test_pages_of_what_nobody_has_checked_do_not_outlive_the_last_close(begin: Begin) -> None:
    """The kernel would not ask for them again, so nobody would know that their reader has all of the file."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    with closing(engine.open(file)) as first, closing(engine.open(file)) as second:
        first.read(0, MIB)
        assert second.identity == first.identity
    with closing(engine.open(file)) as later:
        assert later.identity != first.identity
        assert read_through(later) == data
    with closing(engine.open(file)) as after:
        assert after.identity == later.identity
    with closing(engine.open(file)) as last:  # the pages were enough for who came before
        last.read(SIZE - 100, 100)
        settle(engine)
    with closing(engine.open(file)) as last:
        assert last.identity == later.identity


def test_a_checksum_goes_no_farther_than_somebody_has_read(begin: Begin) -> None:
    """Who looks at the head of a huge file that is here from before does not have all of it hashed, nor at its end."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    identity = engine.identity(file)
    engine._store.write(identity, 0, memoryview(data), SIZE)
    handle = engine.open(file)
    check = handle.content.check
    assert check is not None
    handle.read(0, 100)
    handle.read(SIZE - 100, 100)
    settle(engine)
    assert (check.at, source.asked) == (BLOCK_BYTES, [])
    assert read_through(handle) == data
    assert (check.verdict, source.asked) == (True, [])


def test_without_a_verdict_the_end_is_an_error(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All is here, and whether it is right cannot be told: nobody gets all of it."""
    source, (_, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    monkeypatch.setattr(engine, "_judge", lambda *_: 1 / 0)
    with pytest.raises(Unavailable, match="checksum"):
        read_through(engine.open(file))
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    caplog.clear()


@pytest.mark.parametrize("size", [MIB, SIZE])
def test_checksums_serve_no_security_here(begin: Begin, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Where policy forbids MD5 and SHA-1, as FIPS does, files that have no other checksum can be read all the same."""
    new = hashlib.new

    def strict(name: str, *args: Any, usedforsecurity: bool = True) -> Any:
        if name == "md5" and usedforsecurity:
            raise ValueError("disabled for FIPS")
        return new(name, *args)

    source, (data, file) = source_of(size), made(size)
    file = replace(file, digest=Digest("md5", hashlib.md5(data, usedforsecurity=False).digest()))
    monkeypatch.setattr(hashlib, "new", strict)
    engine = begin(source)
    assert read_through(engine.open(file)) == data
    assert engine.state(file) == "verified"


def test_what_comes_anew_beside_pages_that_the_kernel_kept_is_verified(begin: Begin) -> None:
    """Read and verified, then its beginning is gone, and comes again otherwise: its reader has the rest already."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    with closing(engine.open(file)) as first:
        assert read_through(first) == data
    with closing(engine.open(file)) as second:
        assert second.identity == first.identity
    engine._cache._forget(segment_name(engine.identity(file), 0))
    source.files[file.id] = changed(data, 5)
    with closing(engine.open(file)) as third:
        assert third.identity == first.identity  # so the kernel asks for what it has not kept
        with pytest.raises(Corrupt):
            read_part(third, 0, SEGMENT_BYTES)


def test_a_file_of_any_size_that_is_listed_is_closed_at_once(begin: Begin) -> None:
    """And its state is told: what there is of it counts, not how many segments there might be."""
    source, (data, file) = source_of(MIB + 17), made(MIB + 17)
    engine = begin(source)
    huge = replace(file, size=1 << 62, digest=None)
    engine.open(huge).close()
    assert engine.state(huge) == "remote"
    engine._store.write(engine.identity(huge), 7 * BLOCK_BYTES, memoryview(data)[:BLOCK_BYTES], huge.size)
    assert engine.state(huge) == "partial"
    with closing(engine.open(file)) as handle:
        assert read_through(handle) == data
