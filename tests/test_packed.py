"""A packed tree is the tree: names, files, order and times, whatever the names are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rescalefs.models import Digest, RemoteFile
from rescalefs.packed import PackedBranch, PackedFiles, PackedTree, pack
from rescalefs.rows import FileRows
from rescalefs.tree import Branch, Tree, build_tree
from tests.test_tree import PATHS

DIGESTS = st.none() | st.builds(
    lambda kind, seed: Digest(kind[0], bytes([seed]) * kind[1]),
    st.sampled_from([("sha512", 64), ("sha256", 32), ("sha1", 20), ("md5", 16)]),
    st.integers(0, 255),
)
FILES = st.lists(
    st.builds(
        RemoteFile,
        st.text(st.sampled_from("abcé\udc80"), min_size=1, max_size=4),
        PATHS,
        st.integers(0, 2**63 - 1),
        st.integers(0, 4),
        st.integers(0, 13),
        st.booleans(),
        st.booleans(),
        DIGESTS,
        st.none() | st.sampled_from(["", "1", "é"]),
    ),
    max_size=12,
    unique_by=lambda file: file.id,
)


def unpacked(branch: Tree) -> tuple[int, dict[str, Any]]:
    """Return a tree as plain values, its entries in order."""
    entries = {
        name: entry if isinstance(entry, RemoteFile) else unpacked(entry)  # type: ignore[arg-type]
        for name, entry in branch.entries.items()
    }
    return branch.modified_ns, entries


def in_order(value: tuple[int, dict[str, Any]]) -> list[object]:
    return [(name, in_order(entry) if isinstance(entry, tuple) else entry) for name, entry in value[1].items()]


@given(FILES)
@example([])
def test_a_packed_tree_is_the_tree(files: list[RemoteFile]) -> None:
    """Every directory has the same entries in the same order, every file all of its fields, each name is found."""
    plain = build_tree(files)
    tree = PackedTree(pack(FileRows.of(files)))

    assert unpacked(tree.root) == unpacked(plain)
    assert in_order(unpacked(tree.root)) == in_order(unpacked(plain))
    assert sorted(PackedFiles(tree), key=lambda file: file.id) == sorted(files, key=lambda file: file.id)
    assert len(PackedFiles(tree)) == len(files)
    assert_names_are_found(plain, tree.root)


def assert_names_are_found(plain: Branch, packed: Tree) -> None:
    assert list(packed.entries) == list(plain.entries)
    assert len(packed.entries) == len(plain.entries)
    for name, entry in plain.entries.items():
        found = packed.entries[name]
        if isinstance(entry, Branch):
            assert isinstance(found, PackedBranch)
            assert_names_are_found(entry, found)
        else:
            assert found == entry
        for other in (f"{name}x", name[:-1], "", "\udc80"):
            assert (other in packed.entries) == (other in plain.entries)


@given(FILES, st.randoms())
def test_equal_trees_are_equal_bytes(files: list[RemoteFile], order: Any) -> None:
    """However the listing was ordered."""
    before = pack(FileRows.of(files))
    order.shuffle(files)

    assert pack(FileRows.of(files)) == before


@pytest.mark.parametrize(
    "file",
    [
        RemoteFile("i", "p", 0, 2**63, 5, True, False, None),
        RemoteFile("i", "p", 0, 0, 2**32, True, False, None),
        RemoteFile("i" * 70_000, "p", 0, 0, 5, True, False, None),
    ],
)
def test_what_has_no_place_is_not_packed(file: RemoteFile) -> None:
    """Values beyond all that a listing has are refused, never cut."""
    with pytest.raises(ValueError, match="packed"):
        pack(FileRows.of([file]))


@pytest.mark.parametrize("data", [b"", b"rtr1", b"x" * 100, pack(FileRows())[:-5], b"rtr0" + bytes(100)])
def test_what_is_no_packed_tree_is_refused(data: bytes) -> None:
    """A frame that is none, or promises more than there is."""
    with pytest.raises(ValueError, match="not a packed tree"):
        PackedTree(data)
