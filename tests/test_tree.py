"""Names and trees against the reference model."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from rescalefs.models import RemoteFile
from rescalefs.names import escape, fit
from rescalefs.tree import Branch, LivePath, build_tree, changed_kinds
from tests.faulty_source import remote
from tests.reference import shown_paths

# Few letters, so that paths collide; all that is special, so that nothing special is missed.
SEGMENTS = st.text(st.sampled_from("ab%2F.~\0\n \udc80é"), max_size=5) | st.sampled_from(
    [".rescale", "stop", "x" * 300]
)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


def file(id: str, path: str, uploaded: int) -> RemoteFile:
    return RemoteFile(id, path, 1, uploaded, 5, True, False, None)


def shown(branch: Branch, prefix: str = "") -> dict[str, str]:
    """Return the shown path of each leaf by its id."""
    found: dict[str, str] = {}
    for name, entry in branch.entries.items():
        if isinstance(entry, Branch):
            found |= shown(entry, f"{prefix}{name}/")
        else:
            assert entry.id not in found
            found[entry.id] = prefix + name
    return found


@given(SEGMENTS)
def test_an_escaped_name_is_a_file_name(segment: str) -> None:
    """Whatever the server says, the name has 1 to 255 bytes of UTF-8, no "/" nor NUL, and is not "." or ".."."""
    name = fit(escape(segment), "AbCdEf")

    assert 1 <= len(name.encode()) <= 255
    assert not set(name) & {"/", "\0"}
    assert name not in (".", "..")


@given(SEGMENTS, SEGMENTS)
@example("%2F", "")
@example("%252F", "%2F")
@example("a\0", "a%00")
def test_different_segments_have_different_names(one: str, other: str) -> None:
    """Escaping loses nothing."""
    assert (escape(one) == escape(other)) == (one == other)


@given(st.lists(st.tuples(PATHS, st.integers(0, 2)), max_size=12), st.randoms())
@example([("a", 0), ("a/b", 0), ("a", 1), ("a~f0", 2)], None)
@example([(".rescale", 0), (".rescale/a", 0), ("a/.rescale", 0)], None)
def test_a_tree_shows_every_file_where_the_reference_says(paths: list[tuple[str, int]], order: object) -> None:
    """Duplicates, conflicts of files and directories, hostile names: no file is lost, and the order does not matter."""
    files = [file(f"f{number}", path, uploaded) for number, (path, uploaded) in enumerate(paths)]
    expected = shown_paths([(one.id, one.path, one.uploaded_ns) for one in files])
    if any(len(segment) > 200 for path, _ in paths for segment in path.split("/")[:-1]):
        assert len(set(shown(build_tree(files)).values())) == len(files)  # long directories are cut, nothing is lost
        return

    assert shown(build_tree(files)) == expected
    if order is not None:
        order.shuffle(files)  # type: ignore[attr-defined]
        assert shown(build_tree(files)) == expected


def test_an_uploaded_file_replaces_the_live_one_of_its_path() -> None:
    """Of a path that both listings have, the upload is shown; other live paths stay."""
    root = build_tree([file("f", "log", 1)], ["log", "case/U", "case/U"])

    assert isinstance(root.entries["log"], RemoteFile)
    case = root.entries["case"]
    assert isinstance(case, Branch)
    assert case.entries == {"U": LivePath("case/U")}


def test_a_directory_is_as_new_as_its_newest_file() -> None:
    """Times of directories come from below; entries are in order of name."""
    root = build_tree([file("1", "b/x", 5), file("2", "a/y", 7), file("3", "b/c/z", 6)])

    assert list(root.entries) == ["a", "b"]
    assert (root.modified_ns, root.entries["b"].modified_ns) == (7, 6)  # type: ignore[union-attr]


def test_a_path_may_have_any_number_of_levels() -> None:
    """More than Python calls itself: it is there, ordered and dated as any other."""
    path = "a/" * 3000 + "file"
    file = remote("F", b"1")
    deep = replace(file, path=path, uploaded_ns=7)
    root = build_tree([deep, replace(file, id="G", path="b/file", uploaded_ns=5)], [path.replace("file", "live")])

    assert [leaf.path for leaf in root.leaves()] == [path, path.replace("file", "live"), "b/file"]
    assert list(root.entries) == ["a", "b"]
    assert root.modified_ns == 7
    assert list(changed_kinds(root, root)) == []
