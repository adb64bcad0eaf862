"""Who waits for a verdict waits as long as there is progress: a deadline is for what does not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from rescalefs.content.engine import ContentEngine
from rescalefs.content.verify import Check
from rescalefs.errors import DeadlineExceeded
from rescalefs.models import RemoteFile
from rescalefs.timing import within
from tests.faulty_source import LONG_S
from tests.test_engine import MIB, Begin, made, read_through, source_of
from tests.test_engine import begin as begin
from tests.test_engine_verdict import SIZE

DEADLINE_S = 3.0
# A piece takes so long that all of them take longer than the deadline.
PIECE_S = 2 * DEADLINE_S / (SIZE / MIB)


def here_from_before(begin: Begin, may_go_on: Callable[[], object]) -> tuple[ContentEngine, bytes, RemoteFile]:
    """An engine that has all of a large file, without a verdict; each piece of its checksum waits."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    engine = begin(source)
    engine._store.write(engine.identity(file), 0, memoryview(data), SIZE)
    follow = engine._verifier._follow

    def slowly(check: Check) -> bool:
        may_go_on()
        return follow(check)

    engine._verifier._follow = slowly  # type: ignore[method-assign]
    engine._deadline_s = DEADLINE_S
    return engine, data, file


def test_the_end_is_waited_for_as_long_as_the_checksum_is_being_computed(begin: Begin) -> None:
    """Of a huge file that is here from before: all is well, so its reader gets no error."""
    engine, data, file = here_from_before(begin, lambda: time.sleep(PIECE_S))
    handle = engine.open(file)
    with within(DEADLINE_S):
        assert handle.read(0, SIZE) == data
    assert handle.content.check is not None
    assert handle.content.check.verdict


def test_who_was_killed_is_not_kept_by_a_checksum(begin: Begin) -> None:
    """He waits no longer than for anything; the checksum goes on, and who reads then has the verdict."""
    engine, data, file = here_from_before(begin, lambda: time.sleep(PIECE_S))
    handle = engine.open(file)
    with within(DEADLINE_S, lambda: False), pytest.raises(DeadlineExceeded, match="checksum"):
        handle.read(0, SIZE)
    assert handle.content.check is not None
    assert handle.content.check.idle.wait(LONG_S)
    assert read_through(handle) == data


def test_a_checksum_that_does_not_go_on_is_waited_for_in_vain(begin: Begin) -> None:
    """Nothing is waited for without a deadline."""
    may_go_on = threading.Event()
    engine, data, file = here_from_before(begin, lambda: may_go_on.wait(LONG_S))
    handle = engine.open(file)
    with pytest.raises(DeadlineExceeded, match="checksum"):
        handle.read(0, SIZE)
    may_go_on.set()
    assert read_through(handle) == data


def test_a_file_that_is_verified_first_is_waited_for_as_long_as_it_comes(begin: Begin) -> None:
    """All of it takes longer than a reader may be kept waiting for bytes."""
    source, (data, file) = source_of(SIZE), made(SIZE)
    source.held = lambda _id, _at: bool(time.sleep(PIECE_S / 5))  # of 200 KB
    engine = begin(source, is_verified_first=True)
    engine._deadline_s = DEADLINE_S
    with within(DEADLINE_S):
        assert engine.open(file).read(0, 10) == data[:10]
