"""Rows are the files that a listing told, however they are put together and taken apart."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from rescalefs.models import RemoteFile
from rescalefs.rows import FileRows
from tests.test_packed import DIGESTS

TEXTS = st.text(st.sampled_from("ab/é\0\udc80"), max_size=6)
FILES = st.lists(
    st.builds(
        RemoteFile,
        st.sampled_from(["a", "b", "c", "é\udc80", ""]),
        TEXTS,
        st.integers(0, 2**63 - 1),
        st.integers(-(2**70), 2**70),
        st.integers(0, 2**63 - 1),
        st.booleans(),
        st.booleans(),
        DIGESTS,
        st.none() | TEXTS,
    ),
    max_size=8,
)


@given(FILES)
def test_rows_are_the_files(files: list[RemoteFile]) -> None:
    """Every field of every file, in their order, by number and by part."""
    rows = FileRows.of(files)

    assert list(rows) == files
    assert [rows[number] for number in range(-len(files), len(files))] == files * 2
    assert list(rows[1:]) == files[1:]
    assert [(rows.path(at), rows.id(at), rows.uploaded_ns(at)) for at in range(len(rows))] == [
        (file.path, file.id, file.uploaded_ns) for file in files
    ]


@given(st.lists(FILES, max_size=4))
def test_rows_are_joined_in_order(pages: list[list[RemoteFile]]) -> None:
    """Pages, empty ones too, become one listing, which is as if it had come at once."""
    joined = FileRows.joined([FileRows.of(page) for page in pages])

    assert list(joined) == [file for page in pages for file in page]
    assert joined == FileRows.of(list(joined))
    assert hash(joined) == hash(FileRows.of(list(joined)))


@given(FILES, FILES)
def test_rows_of_other_files_are_others(one: list[RemoteFile], other: list[RemoteFile]) -> None:
    """Pages that came twice are told from pages that did not."""
    assert (FileRows.of(one) == FileRows.of(other)) == (one == other)


@given(FILES)
def test_rows_are_chosen(files: list[RemoteFile]) -> None:
    """Once each by their id, the last of it in the place of the first; those that are there; those of a run."""
    rows = FileRows.of(files)
    runs: dict[str | None, list[RemoteFile]] = defaultdict(list)
    for file in files:
        runs[file.run_id].append(file)

    assert list(rows.unique()) == list({file.id: file for file in files}.values())
    assert list(rows.present()) == [file for file in files if not file.is_deleted]
    assert {run: list(found) for run, found in rows.by_run().items()} == runs
