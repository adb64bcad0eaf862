"""The error gate and the rules of opening, without FUSE: a fake tree behind real operations."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from rescalefs import errors
from rescalefs.kernel import KernelMemory
from rescalefs.nodes import Attributes, Directory, Entry, File, Fixed, Handle, Node
from rescalefs.open_directory import inode_of
from rescalefs.operations import ERRNO, OPERATIONS, Gate, Operations, errno_of
from rescalefs.timing import patience_s


class FakeHandle:
    def __init__(self, identity: str | None, *, is_direct: bool = False) -> None:
        self.identity = identity
        self.is_direct = is_direct
        self.is_closed = False

    def readinto(self, offset: int, buffer: memoryview) -> int:
        data = b"0123456789"[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: bytes) -> None:
        raise errors.ReadOnly("no")

    def close(self) -> None:
        self.is_closed = True


class FakeFile(File):
    identity: str | None = "one"
    is_direct = False

    def attributes(self) -> Attributes:
        return Attributes(stat.S_IFREG | 0o444, 10, 5)

    def open(self, is_writing: bool) -> Handle:
        if is_writing:
            raise errors.ReadOnly("no")
        return FakeHandle(FakeFile.identity, is_direct=FakeFile.is_direct)


class FailingDirectory(Directory):
    """A listing that fails half-way."""

    def child(self, name: str) -> Node:
        raise errors.NotFound(name)

    def entries(self) -> Iterator[Entry]:
        yield Entry("first", stat.S_IFREG)
        raise errors.Unavailable("the second page did not come")


class FakeNamespace:
    def __init__(self) -> None:
        self.root = Fixed({"file": FakeFile, "failing": FailingDirectory})

    def node(self, path: str) -> Node:
        return self.root if path == "/" else self.root.child(path[1:])

    def attributes(self, path: str) -> Attributes:
        return self.node(path).attributes()


def operations_of(tmp_path: Path, **deadlines: float) -> Operations:
    """Return operations on the fake tree, without a kernel."""
    deadlines = {"metadata_deadline_s": 1, "data_deadline_s": 1, **deadlines}
    return Operations(FakeNamespace(), KernelMemory(), tmp_path, **deadlines)  # type: ignore[arg-type]


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    """The operations as a binding sees them."""
    return Gate(operations_of(tmp_path))


def kinds(base: type[errors.RescaleError]) -> Iterator[type[errors.RescaleError]]:
    yield base
    for below in base.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", list(kinds(errors.RescaleError)))
def test_every_error_of_ours_has_an_errno(kind: type[errors.RescaleError]) -> None:
    """Each class of the tree ends in a positive errno, its own or its base's."""
    error = kind("text", 500) if kind is errors.Refused else kind("text")

    assert errno_of(error) == next(ERRNO[base] for base in kind.__mro__ if base in ERRNO) > 0


FOREIGN = [
    requests.ConnectionError("errno is None"),
    TimeoutError("errno is None too"),
    OSError(errno.ENOSPC, "a local fault"),
    KeyError("x"),
    RecursionError(),
    MemoryError(),
    SystemExit(3),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_foreign_exception_leaves_an_operation(
    name: str, foreign: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong inside, a binding sees an OSError with EIO, and the log has one record."""
    operations = operations_of(tmp_path)

    def fail(*_: object) -> None:
        raise foreign

    setattr(operations, name, fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        getattr(Gate(operations), name)("/some/path")

    assert caught.value.errno == errno.EIO
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_listing_that_fails_half_way_gives_no_entry(gate: Any) -> None:
    """A directory is read as a whole when it is opened, so it is complete or an error."""
    with pytest.raises(OSError, match="Input/output") as caught:
        gate.opendir("/failing")

    assert caught.value.errno == errno.EIO


def test_pages_are_kept_only_for_the_same_content(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """keep_cache is set when the previous open of that path had the same identity, and not otherwise."""
    seen = []
    for identity in ("one", "one", "two", "two", "one"):
        monkeypatch.setattr(FakeFile, "identity", identity)
        info = SimpleNamespace(flags=os.O_RDONLY, fh=0, direct_io=9, keep_cache=0)
        gate.open("/file", info)
        seen.append(info.keep_cache)
        gate.release("/file", info)

    assert seen == [0, 1, 0, 1, 0]


def test_no_page_of_a_direct_handle_stays(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a handle past the page cache is open, and at the first opening after it, pages of the path are dropped.

    A private map of such a handle fills pages, with what a live file is at that moment.
    """

    def opened(is_direct: bool = False) -> Any:
        monkeypatch.setattr(FakeFile, "is_direct", is_direct)
        info = SimpleNamespace(flags=os.O_RDONLY, fh=0, direct_io=9, keep_cache=0)
        gate.open("/file", info)
        return info

    live = opened(is_direct=True)
    assert (live.direct_io, live.keep_cache) == (1, 0)
    assert [opened().keep_cache for _ in range(3)] == [0, 0, 0]
    gate.release("/file", live)
    assert [opened().keep_cache for _ in range(3)] == [0, 1, 1]
    gate.release("/file", opened(is_direct=True))
    assert [opened().keep_cache for _ in range(2)] == [0, 1]


def test_a_handle_is_closed_when_it_is_released(gate: Any) -> None:
    """Release closes the node's handle, once, and forgets it."""
    info = SimpleNamespace(flags=os.O_RDONLY, fh=0, direct_io=0, keep_cache=0)
    gate.open("/file", info)

    assert gate.read("/file", 4, 3, info) == b"3456"
    gate.release("/file", info)
    with pytest.raises(OSError, match="Input/output"):
        gate.read("/file", 4, 3, info)


@pytest.mark.parametrize(
    "call",
    [
        ("create", "/new", 0o644, None),
        ("mkdir", "/new", 0o755),
        ("mknod", "/new", 0o644, 0),
        ("unlink", "/file"),
        ("rmdir", "/failing"),
        ("rename", "/file", "/other"),
        ("link", "/new", "/file"),
        ("symlink", "/new", "/file"),
        ("chmod", "/file", 0o777),
        ("chown", "/file", 0, 0),
        ("truncate", "/file", 0),
        ("utimens", "/file", (0, 0)),
        ("setxattr", "/file", "user.x", b"", 0),
        ("removexattr", "/file", "user.x"),
    ],
    ids=lambda call: call[0],
)
def test_changes_are_refused_as_read_only(gate: Any, call: tuple[Any, ...]) -> None:
    """Every operation that would change something answers EROFS."""
    name, *args = call
    with pytest.raises(OSError, match="Read-only") as caught:
        getattr(gate, name)(*args)

    assert caught.value.errno == errno.EROFS


def test_inodes_are_stable_and_never_reserved() -> None:
    """The inode number depends on the path alone, fits 63 bits, and is neither 0 nor 1."""
    assert inode_of("/jobs/AbCdE") == inode_of("/jobs/AbCdE") != inode_of("/jobs/AbCdF")
    assert all(2 <= inode_of(f"/jobs/{i}") < 2**63 for i in range(1000))


def test_attributes_of_other_classes_are_refused_from_memory(gate: Any) -> None:
    """`security.*` and the like do not exist here, so that `ls -l` stops asking; an absent `user.*` is no data."""
    for name, expected in (("security.capability", errno.EOPNOTSUPP), ("user.rescale.nothing", errno.ENODATA)):
        with pytest.raises(OSError, match=r"not supported|No data") as caught:
            gate.getxattr("/file", name)
        assert caught.value.errno == expected


def test_all_waits_of_an_operation_share_its_deadline(tmp_path: Path) -> None:
    """Whatever an operation waits for inside, it may wait for as long as one deadline altogether."""
    operations = operations_of(tmp_path, metadata_deadline_s=3, data_deadline_s=7)
    for name in ("getattr", "read"):
        setattr(operations, name, lambda: patience_s(100))
    gate: Any = Gate(operations)

    assert 0 < gate.getattr() <= 3 < gate.read() <= 7
    assert patience_s(100) == 100
