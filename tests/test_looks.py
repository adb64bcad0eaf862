"""Whether listings take attributes along: as long as somebody looks at the files."""

from __future__ import annotations

import pytest

from rescalefs.looks import FEW, SHOWN_BY, Looks, Told


def listed(looks: Looks, *directories: str) -> list[Told]:
    """List directories of a hundred entries."""
    return [looks.told(directory, 100, is_start=True) for directory in directories]


@pytest.fixture
def looks() -> Looks:
    """Nothing listed yet."""
    return Looks()


@pytest.fixture
def unseen(looks: Looks) -> Looks:
    """So many directories listed that nobody seems to look at files."""
    listed(looks, *(f"/unseen/{number}" for number in range(SHOWN_BY)))
    return looks


def test_who_looks_at_files_is_told_all_but_one_in_every_directory(looks: Looks) -> None:
    for number in range(10 * SHOWN_BY):
        assert listed(looks, f"/case/{number}") == [Told.ALL_BUT_ONE]
        looks.looked(f"/case/{number}/the one")


def test_who_does_not_is_soon_told_names(looks: Looks) -> None:
    assert listed(looks, *"123456") == [Told.ALL_BUT_ONE] * SHOWN_BY + [Told.DIRECTORIES] * (6 - SHOWN_BY)


def test_one_look_at_a_file_whose_name_was_told_brings_attributes_back(unseen: Looks) -> None:
    assert listed(unseen, "/case") == [Told.DIRECTORIES]
    unseen.looked("/case/file")
    assert unseen.told("/case", 100, is_start=False) is Told.ALL_BUT_ONE
    assert listed(unseen, "/next") == [Told.ALL_BUT_ONE]


@pytest.mark.parametrize("path", ["/other/file", "/case", "/case/below/file", "/file"])
def test_a_look_at_something_else_shows_nothing(path: str, unseen: Looks) -> None:
    listed(unseen, "/case")
    unseen.looked(path)
    assert listed(unseen, "/next") == [Told.DIRECTORIES]


def test_small_directories_are_told_whole_and_teach_nothing(unseen: Looks) -> None:
    for number in range(10):
        assert unseen.told(f"/small/{number}", FEW - 1, is_start=True) is Told.ALL
        unseen.looked(f"/small/{number}/file")
    assert listed(unseen, "/next") == [Told.DIRECTORIES]


def test_a_directory_that_is_read_in_parts_counts_once(looks: Looks) -> None:
    listed(looks, "/large")
    for _ in range(10 * SHOWN_BY):
        assert looks.told("/large", 100_000, is_start=False) is Told.ALL_BUT_ONE


def test_few_directories_are_remembered(looks: Looks) -> None:
    """The memory of a walk over any number of them is bounded."""
    listed(looks, *(str(number) for number in range(10_000)))
    assert len(looks._watched) < 100
