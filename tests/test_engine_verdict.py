"""Verdicts of the content engine: on all bytes that somebody has read, and on none that nobody has checked."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rescalefs.content.cache import DiskCache
from rescalefs.content.segment import BLOCK_BYTES, DATA_AT
from rescalefs.content.store import Store
from rescalefs.content.verify import Check, FirstSums, Verifier
from rescalefs.errors import Corrupt
from rescalefs.models import Digest
from tests.conftest import wait_for
from tests.disk_use import files
from tests.faulty_source import LONG_S
from tests.test_engine import LIMIT, MIB, Begin, made, read_through, settle, source_of
from tests.test_engine import begin as begin

SIZE = 20 * MIB


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_all_who_have_it_open_get_an_error_when_one_has_read_wrong_bytes(begin: Begin) -> None:
    """They share the kernel's pages, so bytes of two tries must not meet; who opens it later has the second one."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    has_read, has_not = engine.open(file), engine.open(file)
    source.files[file.id] = changed(data, 0)
    assert has_read.read(0, MIB) != data[:MIB]
    with pytest.raises(Corrupt, match="wrong"):
        read_through(has_read)
    source.wait_until(lambda: source.under_way == 0)
    source.files[file.id] = data
    later = engine.open(file)
    assert read_through(later) == data
    assert later.identity != has_not.identity == has_read.identity
    for handle in (has_read, has_not):
        with pytest.raises(Corrupt, match="wrong"):
            handle.read(0, 1)


def test_an_open_file_of_which_nobody_has_read_is_fetched_once_more(begin: Begin) -> None:
    """Wrong before anybody was served of it: whoever has it open gets the second try."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    handles = [engine.open(file) for _ in range(2)]
    source.files[file.id] = changed(data, 0)
    engine._fetcher.cover(handles[0].content, handles[0].content.pattern.note(0, SIZE), 0, SIZE)
    wait_for(lambda: handles[0].content.mismatches == 1, LONG_S, lambda: "nobody noticed")
    source.files[file.id] = data
    assert [read_through(handle) for handle in handles] == [data, data]


def test_a_file_that_stays_wrong_is_an_error_for_all_and_tried_anew_for_who_comes_later(begin: Begin) -> None:
    """Twice wrong is Corrupt for every open handle; who opens it then gets a new try."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    source.files[file.id] = changed(data, SIZE // 2)
    handles = [engine.open(file) for _ in range(3)]
    for handle in handles:
        with pytest.raises(Corrupt):
            read_through(handle)
    source.files[file.id] = data
    for handle in handles:
        with pytest.raises(Corrupt):
            handle.read(0, 1)
    assert read_through(engine.open(file)) == data


def test_bytes_that_replace_wrong_ones_do_not_hide_them(begin: Begin) -> None:
    """Read wrong, gone from the cache, and come again right: who read them gets an error all the same."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    source.files[file.id] = changed(data, 5)
    handle = engine.open(file)
    assert handle.read(0, 10) != data[:10]
    source.wait_until(lambda: source.under_way == 0)
    settle(engine)
    engine._store.drop(engine.identity(file), SIZE)  # as an eviction does
    source.files[file.id] = data
    with pytest.raises(Corrupt):
        read_through(handle)
    assert read_through(engine.open(file)) == data


def test_a_server_without_ranges_that_changes_its_mind_is_found(begin: Begin) -> None:
    """A transfer that begins anew at byte 0 may not put right bytes in the place of wrong ones that were read."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    source.has_ranges = False
    engine = begin(source)
    source.files[file.id] = changed(data, 5)
    source.held = lambda file_id, at: at >= 2 * MIB
    handle = engine.open(file)
    assert handle.read(0, 10) != data[:10]
    handle.close()
    handle = engine.open(file)
    source.let_go()
    source.wait_until(lambda: source.under_way == 0)
    assert handle.read(0, 10) != data[:10]
    source.files[file.id] = data
    with pytest.raises(Corrupt):
        read_through(handle)


def test_a_file_larger_than_the_cache_is_verified_as_it_passes(begin: Begin) -> None:
    """Read in order, a wrong byte that has left the cache long since is still found at the end."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source, 12 * MIB)
    for wrong in (5, SIZE - 5, None):
        source.files[file.id] = data if wrong is None else changed(data, wrong)
        handle = engine.open(file)
        is_found = False
        try:
            for at in range(0, SIZE, MIB):
                handle.read(at, MIB)
                source.wait_until(lambda: source.under_way == 0)
                settle(engine)
        except Corrupt:
            is_found = True
        assert is_found == (wrong is not None)
        assert is_found or (handle.content.check is not None and handle.content.check.verdict)
        handle.close()


def test_who_reads_the_end_waits_for_the_verdict_though_the_beginning_is_gone(begin: Begin) -> None:
    """What has left the cache was looked at: the last bytes are not served before it is known to be right."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source, 12 * MIB)
    source.files[file.id] = changed(data, 5)
    handle = engine.open(file)
    check = handle.content.check
    assert check is not None
    is_waited_for, conclude, wait = threading.Event(), check.conclude, check.idle.wait

    def conclude_late() -> None:
        assert is_waited_for.wait(LONG_S)
        conclude()

    def wait_for_it(timeout: float | None = None) -> bool:
        is_waited_for.set()
        return wait(timeout)

    check.conclude = conclude_late  # type: ignore[method-assign]
    check.idle.wait = wait_for_it  # type: ignore[method-assign]

    def read_to_the_end() -> None:
        for at in range(0, SIZE, MIB):
            handle.read(at, MIB)
            source.wait_until(lambda: source.under_way == 0)
            while check.at < at + MIB:
                pass

    try:
        with pytest.raises(Corrupt):
            read_to_the_end()
    finally:
        is_waited_for.set()


@pytest.mark.parametrize("is_right", [True, False])
def test_what_replaces_a_damaged_block_of_a_verified_file_is_verified(
    begin: Begin, tmp_path: Path, is_right: bool
) -> None:
    """The mark on disk says nothing of bytes that came after it, neither in this process nor in the next one."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    with_mark = begin(source)
    assert read_through(with_mark.open(file)) == data
    assert with_mark.state(file) == "verified"
    with_mark.close()
    (first,) = [path for path in files(tmp_path) if path.suffix == ".0"]
    with first.open("r+b") as segment:
        segment.seek(DATA_AT + 3 * BLOCK_BYTES)
        segment.write(b"damage")
    source.files[file.id] = data if is_right else changed(data, 3 * BLOCK_BYTES)

    engine = begin(source)
    handle = engine.open(file)
    assert handle.read(SIZE - 10, 10) == data[-10:]  # all of it is here, and verified
    if is_right:
        assert read_through(handle) == data
        settle(engine)
        assert engine.state(file) == "verified"
    else:
        with pytest.raises(Corrupt):
            read_through(handle)


def test_a_block_that_comes_while_the_mark_is_looked_at_is_verified(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark was there when it was looked at, and is of the bytes that were there before."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    with_mark = begin(source)
    assert read_through(with_mark.open(file)) == data
    with_mark.close()
    (first,) = [path for path in files(tmp_path) if path.suffix == ".0"]
    with first.open("r+b") as segment:
        segment.seek(DATA_AT + 3 * BLOCK_BYTES)
        segment.write(b"damage")
    source.files[file.id] = changed(data, 3 * BLOCK_BYTES)

    engine = begin(source)
    has_looked, has_come, is_verified = threading.Event(), threading.Event(), engine._cache.is_verified

    def slow(identity: str, content_bytes: int) -> bool:
        is_marked = is_verified(identity, content_bytes)
        has_looked.set()
        assert has_come.wait(10)
        return is_marked

    monkeypatch.setattr(engine._cache, "is_verified", slow)
    handle = engine.open(file)
    assert handle.read(0, 10) == data[:10]
    assert has_looked.wait(10)
    handle.read(3 * BLOCK_BYTES, 10)
    has_come.set()
    with pytest.raises(Corrupt):
        read_through(handle)


def test_any_id_names_a_content(begin: Begin) -> None:
    """JSON may tell of half of a surrogate pair, which is no text; a file without a checksum is known by its id."""
    engine = begin(source_of(SIZE))
    names = {
        engine.identity(replace(made(SIZE)[1], id=each, digest=None)) for each in ("half\udc80", "half\udc81", "id")
    }
    assert len(names) == 3


def test_a_block_that_comes_again_to_a_verified_file_must_be_the_same(begin: Begin) -> None:
    """Known to be right, then evicted, then sent otherwise: it is asked for again, and nothing else is lost."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    handle = engine.open(file)
    assert read_through(handle) == data
    engine._cache.drop(engine.identity(file), SIZE)
    source.files[file.id] = changed(data, 5)
    asked = len(source.asked)
    source.held = lambda file_id, at: len(source.asked) > asked + 1 and source.files.update({file_id: data}) is not None
    assert handle.read(0, MIB) == data[:MIB]
    assert read_through(handle) == data


def test_nothing_is_served_before_the_verdict_if_so_wished(begin: Begin) -> None:
    """Verified first: a wrong byte anywhere, and not even a right one elsewhere is seen; the second try is."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source, is_verified_first=True)
    source.files[file.id] = changed(data, SIZE - 1)
    with pytest.raises(Corrupt, match="twice"):
        engine.open(file).read(0, 10)
    source.files[file.id] = data
    source.taken_bytes = 0
    handle = engine.open(file)
    assert handle.read(0, 10) == data[:10]
    assert source.taken_bytes == SIZE
    assert read_through(handle) == data
    assert source.taken_bytes == SIZE


def test_what_was_verified_is_not_asked_for_or_hashed_again(begin: Begin) -> None:
    """The mark outlives the process."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    assert read_through(begin(source).open(file)) == data
    source.asked.clear()
    handle = begin(source, is_verified_first=True).open(file)
    assert read_through(handle) == data
    assert handle.content.check is not None
    assert (source.asked, handle.content.check.at) == ([], 0)


# The parts.


def test_nobody_waits_for_a_verifier_that_has_ended(tmp_path: Path) -> None:
    """After closing, a check is idle at once and stays so."""
    verifier = Verifier(Store(DiskCache(tmp_path, 0)))
    verifier.start()
    verifier.close()
    check = Check("0" * 40, 5, Digest("sha512", b""), lambda check, is_right: None)
    verifier.go_on(check, 0, 5)
    assert check.idle.wait(LONG_S)


def test_a_check_that_fails_does_not_end_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen error in one verdict is logged; the next content is followed."""
    told = threading.Event()

    def fail(check: Check, is_right: bool) -> None:
        raise ValueError

    verifier = Verifier(Store(DiskCache(tmp_path, 0)))
    verifier.start()
    verifier.go_on(Check("0" * 40, 0, Digest("sha512", b""), fail), 0, 0)
    verifier.go_on(Check("1" * 40, 0, Digest("sha512", b""), lambda check, is_right: told.set()), 0, 0)
    assert told.wait(LONG_S)
    verifier.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_huge_file_does_not_keep_others_from_their_verdict(tmp_path: Path) -> None:
    """Checksums are computed in turns, a piece of each."""
    with closing(DiskCache(tmp_path, LIMIT, min_free_bytes=0)) as cache:
        cache.start()
        store, contents = Store(cache), {str(number) * 40: made(size) for number, size in enumerate([SIZE, 6 * MIB])}
        for identity, (data, _) in contents.items():
            store.write(identity, 0, memoryview(data), len(data))
        verifier, verdicts, told = Verifier(store), [], threading.Event()
        checks = []

        def note(check: Check, is_right: bool) -> None:
            verdicts.append((check.identity[0], is_right, checks[0].at))
            if len(verdicts) == len(checks):
                told.set()

        for identity, (data, file) in contents.items():
            assert file.digest is not None
            checks.append(Check(identity, len(data), file.digest, note))
            verifier.go_on(checks[-1], 0, len(data))
        verifier.start()
        assert told.wait(LONG_S)
        verifier.close()
    assert [verdict[:2] for verdict in verdicts] == [("1", True), ("0", True)]
    assert verdicts[0][2] < SIZE


def test_first_sums_tell_what_is_new_and_what_is_another() -> None:
    """New blocks are told by the first one, the same again is the same, another is refused and not kept."""
    sums = FirstSums(10 * BLOCK_BYTES)
    one, two, three = (bytes([number]) * 8 for number in (1, 2, 3))
    assert sums.note(2 * BLOCK_BYTES, one + two) == (True, 2 * BLOCK_BYTES)
    assert sums.note(2 * BLOCK_BYTES, one + two) == (True, None)
    assert sums.note(3 * BLOCK_BYTES, two + three) == (True, 4 * BLOCK_BYTES)
    assert sums.note(BLOCK_BYTES, three + two)[0] is False
    assert sums.note(2 * BLOCK_BYTES, one) == (True, None)
