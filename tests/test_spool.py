"""What is known of a live file: bytes, and what a join must know of them, however they came."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs import spool as module
from rescalefs.joining import ODD
from rescalefs.spool import Spool

# Repeats, now and then what is no plain text, and pieces that end inside of a character.
TEXTS = st.text("ab\n", max_size=20) | st.text(["a", "\u00e9", "\n", *ODD], max_size=8)
DATA = TEXTS.map(str.encode) | st.binary(max_size=20)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search a few bytes at a time."""
    monkeypatch.setattr(module, "_SEARCH_BYTES", 3)


@pytest.mark.usefixtures("short_search")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DATA, st.lists(st.integers(1, 9), max_size=6), st.data())
def test_what_is_told_of_the_bytes_is_true(tmp_path: Path, whole: bytes, sizes: list[int], data: st.DataObject) -> None:
    """In whatever pieces they are appended: the bytes, the lines, whether they are text, whether the end repeats."""
    spool, known = Spool(tmp_path), b""
    for size in [*sizes, len(whole)]:
        piece = whole[len(known) :][:size]
        spool.append(memoryview(piece))
        known += piece
        assert (spool.size, spool.lines) == (len(known), known.count(b"\n"))
        assert spool.is_text == (b"\0" not in known)
        assert spool.is_plain == (not any(odd.encode() in known for odd in ODD))
        end = known[-data.draw(st.integers(1, 9)) :]
        if end:
            assert spool.ends_once(len(end)) == (known.find(end) == len(known) - len(end))
    cut = data.draw(st.integers(0, len(known)))
    branch = spool.branch(tmp_path, cut)
    assert branch.read(0, 1000) == known[:cut]
    assert branch.lines == known[:cut].count(b"\n")
