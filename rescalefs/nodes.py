"""What can stand at a path: directories, links, output files, live files, generated texts, control files.

A node answers for itself (attributes, entries, target, opening); a handle is one open file.
Nodes know neither FUSE nor errno; they raise rescalefs errors.
"""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from rescalefs.control import ActKey, Controls, check_payload
from rescalefs.errors import BadCommand, NotFound, ReadOnly

# A directory is for everybody to read, and nobody to write.
DIRECTORY_MODE = stat.S_IFDIR | 0o555


class Attributes(NamedTuple):
    """What stat tells: mode with the kind's bits, size in bytes, time in nanoseconds since the epoch.

    What *lasts* will not be otherwise, as far as is known, and may be believed for an hour.
    """

    mode: int
    size: int
    modified_ns: int
    lasts: bool = False


class Entry(NamedTuple):
    """One line of a directory: a name, and what stat tells of it.

    `size` is None where telling it would need a request; the kind's bits of `mode` are always known.
    """

    name: str
    mode: int
    size: int | None = None
    modified_ns: int = 0
    lasts: bool = False


class Handle(Protocol):
    """An open file. Threads: any.

    `is_direct` keeps the kernel's page cache away (the bytes may change), `identity` names bytes that never change,
    and `size` is how many those are.
    """

    is_direct: bool
    identity: str | None
    size: int

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* with the bytes from *offset* on and return how many they are, fewer at the end only."""

    def write(self, data: bytes) -> None:
        """Take one command."""

    def close(self) -> None:
        """Let go of the file."""


class Node(ABC):
    """One thing in the tree."""

    @abstractmethod
    def attributes(self) -> Attributes:
        """Return what stat tells of this node."""

    def entry(self, name: str) -> Entry:
        """Return the line that a directory has for this node under *name*."""
        return Entry(name, *self.attributes())

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        """Return what tells the extended attributes `user.rescale.*`, by name without that prefix.

        The names are known without asking, because programs list them for every file they come by.
        """
        return {}


class Directory(Node):
    """A node with named children."""

    modified_ns: int = 0

    def attributes(self) -> Attributes:
        """Nothing is known of it but a time."""
        return directory_attributes(self.modified_ns)

    @abstractmethod
    def child(self, name: str) -> Node:
        """Return the child of that name.

        Raises:
            NotFound: there is none.
        """

    def attributes_of(self, name: str) -> Attributes:
        """Return what stat tells of the child of that name.

        Raises:
            NotFound: there is none.
        """
        return self.child(name).attributes()

    @abstractmethod
    def entries(self) -> Iterable[Entry]:
        """Return the children that are listed, all of them or an error.

        What comes as a sequence does not change, and is asked for in parts.
        """


class File(Node):
    """A node that can be opened.

    While somebody has one open that *stays*, it answers for itself, though Rescale fails to tell that it is there.
    """

    stays = False

    @abstractmethod
    def open(self, is_writing: bool) -> Handle:
        """Open the file.

        Raises:
            ReadOnly: it was opened for writing and is no control file.
        """

    def truncate(self) -> None:
        """Set the size: what a shell does before it writes.

        Raises:
            ReadOnly: it is no control file.
        """
        raise ReadOnly("results cannot be changed")


class Link(Node):
    """A symbolic link."""

    def __init__(self, target: str, modified_ns: int) -> None:
        self.target = target
        self._modified_ns = modified_ns

    def attributes(self) -> Attributes:
        """A link is as long as its target."""
        return Attributes(stat.S_IFLNK | 0o777, len(self.target.encode()), self._modified_ns)


class Fixed(Directory):
    """A directory whose children are made by name; those in *hidden* are reached by name but not listed."""

    def __init__(
        self,
        listed: Mapping[str, Callable[[], Node]],
        hidden: Mapping[str, Callable[[], Node]] | None = None,
        modified_ns: int = 0,
    ) -> None:
        self._listed = listed
        self._hidden = hidden or {}
        self.modified_ns = modified_ns

    def child(self, name: str) -> Node:
        """Make the child."""
        make = self._listed.get(name) or self._hidden.get(name)
        if make is None:
            raise NotFound(f"no {name} here")
        return make()

    def entries(self) -> Iterator[Entry]:
        """Return what is listed."""
        for name, make in self._listed.items():
            yield make().entry(name)


class ReadHandle:
    """What reading handles share: a write is refused."""

    is_direct = True
    identity: str | None = None
    size = 0

    def write(self, data: bytes) -> None:
        """Refuse.

        Raises:
            ReadOnly: always.
        """
        raise ReadOnly("results cannot be changed")

    def close(self) -> None:
        """Let go of nothing."""


class BytesHandle(ReadHandle):
    """A handle that has its bytes as such, and copies them into the buffer."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* with the bytes from *offset* on and return how many they are, fewer at the end only."""
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer at the end only."""
        raise NotImplementedError


class _TextHandle(BytesHandle):
    def __init__(self, text: bytes) -> None:
        self._text = text

    def read(self, offset: int, size: int) -> bytes:
        return self._text[offset : offset + size]


class Text(File):
    """A generated file; its text is made anew at each open, and stays the same for that handle."""

    def __init__(self, render: Callable[[], bytes], modified_ns: int) -> None:
        self._render = render
        self._modified_ns = modified_ns

    def attributes(self) -> Attributes:
        """The size is that of the text as it would be now."""
        return Attributes(stat.S_IFREG | 0o444, len(self._render()), self._modified_ns)

    def open(self, is_writing: bool) -> Handle:
        """Render the text."""
        if is_writing:
            raise ReadOnly("this file is generated")
        return _TextHandle(self._render())


class _GrowingHandle(BytesHandle):
    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text

    def read(self, offset: int, size: int) -> bytes:
        return self._text()[offset : offset + size]


class Growing(File):
    """A generated file whose text is only ever added to, and can be followed.

    *look* returns the text as it is now and when it was added to last, 0 for never.
    """

    def __init__(self, look: Callable[[], tuple[bytes, int]], modified_ns: int) -> None:
        self._look = look
        self._modified_ns = modified_ns

    def attributes(self) -> Attributes:
        """The size and time of this moment."""
        text, changed_ns = self._look()
        return Attributes(stat.S_IFREG | 0o444, len(text), changed_ns or self._modified_ns)

    def open(self, is_writing: bool) -> Handle:
        """Open it; each read sees what was added."""
        if is_writing:
            raise ReadOnly("this file is generated")
        return _GrowingHandle(lambda: self._look()[0])


class Table(Text):
    """A generated file whose text takes requests; a listing names it without them."""

    def entry(self, name: str) -> Entry:
        """Leave the size to who asks for it."""
        return Entry(name, stat.S_IFREG)


class _CommandHandle(_TextHandle):
    def __init__(self, text: bytes, command: Callable[[bytes], None]) -> None:
        super().__init__(text)
        self._command = command
        self._is_spoilt = False

    def write(self, data: bytes) -> None:
        # Who has written something else means no command: a countdown, or a log, may have a line that is one.
        if self._is_spoilt:
            raise BadCommand("something else was written before: open the file anew")
        try:
            self._command(data)
        except BadCommand:
            self._is_spoilt = True
            raise


class Command(File):
    """A control file: what is written to it is one command; reading it tells how the last one went."""

    def __init__(
        self,
        command: Callable[[bytes], None],
        report: Callable[[], bytes],
        modified_ns: int,
        *,
        is_read_only: bool,
    ) -> None:
        self._command = command
        self._report = report
        self._modified_ns = modified_ns
        self._is_read_only = is_read_only

    def attributes(self) -> Attributes:
        """The owner alone may read and write it."""
        mode = stat.S_IFREG | (0o400 if self._is_read_only else 0o600)
        return Attributes(mode, len(self._report()), self._modified_ns)

    def open(self, is_writing: bool) -> Handle:
        """Open it; nothing happens before a write."""
        if is_writing and self._is_read_only:
            raise ReadOnly("mounted with --read-only")
        return _CommandHandle(self._report(), self._command) if is_writing else _TextHandle(self._report())

    def truncate(self) -> None:
        """Do nothing: `echo 1 > stop` truncates before it writes."""
        if self._is_read_only:
            raise ReadOnly("mounted with --read-only")


def act_file(controls: Controls, key: ActKey, modified_ns: int, *, is_read_only: bool) -> Command:
    """Return the control file of one act on one run."""
    return Command(
        lambda data: controls.write(key, data),
        lambda: controls.report(key),
        modified_ns,
        is_read_only=is_read_only,
    )


def refresh_file(refresh: Callable[[], None], modified_ns: int) -> Command:
    """Return a control file that drops what is known; it changes nothing on Rescale, so --read-only keeps it."""

    def command(data: bytes) -> None:
        check_payload(data, "refresh")
        refresh()

    return Command(command, lambda: b"write 1 to ask Rescale again\n", modified_ns, is_read_only=False)


def directory_attributes(modified_ns: int, *, lasts: bool = False) -> Attributes:
    """Return the attributes of every directory in the mount."""
    return Attributes(DIRECTORY_MODE, 0, modified_ns, lasts)
