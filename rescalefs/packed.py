"""A run's tree of uploaded files in one piece of memory: a fifth of what Python objects take.

    counts      of directories and entries
    directories their first entry, number of entries, newest upload
    entries     of one directory after the other, in order of the shown name
    heap        names, ids, checksums, and paths where these are not told by the names

Files are made into objects when they are asked for. The bytes are what is kept on disk, too.
Threads: any; nothing that is told changes once made.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence
from typing import overload

import xxhash

from rescalefs.models import Digest, RemoteFile
from rescalefs.rows import ALGORITHMS, FileRows
from rescalefs.tree import Line, Place, Tree, places_of

Buffer = bytes | memoryview
_COUNTS = struct.Struct("<4sIQ")
_DIRECTORY = struct.Struct("<QQq")
# Of a file: where its texts are, size, time, type, lengths of path, name, id and run id, checksum's algorithm, flags.
# Of a directory: the same, its number in place of the size.
_ENTRY = struct.Struct("<QqqIIHHHBB")
_NAME = struct.Struct("<Q24xH")  # of both: where the texts are, the name's length
_VERSION = b"rtr1"
_IS_DIRECTORY, _IS_UPLOADED, _IS_DELETED, _HAS_PATH, _HAS_RUN = 1, 2, 4, 8, 16
_ALGORITHM = {name: number for number, (name, _) in enumerate(ALGORITHMS)}

Record = tuple[int, int, int, int, int, int, int, int, int, int]


def pack(files: FileRows, came: Callable[[], None] = lambda: None) -> bytes:
    """Return the tree of uploaded files as bytes; the same files give the same bytes, however they are ordered.

    *came* is told of each step, for who waits: a million files take many seconds.

    Raises:
        ValueError: something in it has no place: a number or a text larger than any that Rescale sends.
    """
    places = places_of(map(files.path, range(len(files))))
    came()
    newest = _newest(places, files)
    directories, entries, heap = bytearray(), bytearray(), bytearray()
    numbers = [(0, "")]
    count = 0
    try:
        for number, place in numbers:  # grows while it is gone through: each directory after the one above it
            below = places[number].below
            names = places[number].names(files.path, files.id, lambda file: (-files.uploaded_ns(file), files.id(file)))
            came()
            directories += _DIRECTORY.pack(count, len(below) + len(names), newest[number])
            for name in sorted((*below, *names)):
                count += 1
                if name in below:
                    entries += _record(heap, name, number=len(numbers))
                    numbers.append((below[name], f"{place}{name}/"))
                else:
                    entries += _record(heap, name, files[names[name]], place + name)
    except struct.error as error:
        raise ValueError(f"the tree cannot be packed: {error}") from None
    return b"".join((_COUNTS.pack(_VERSION, len(places), count), directories, entries, heap))


def _newest(places: Sequence[Place], files: FileRows) -> Sequence[int]:
    """Return the newest upload below each directory."""
    newest = [max(map(files.uploaded_ns, place.files), default=0) for place in places]
    for number in reversed(range(len(places))):  # those below before those above
        below = places[number].below.values()
        newest[number] = max(newest[number], *(newest[other] for other in below), 0)
    return newest


def _record(heap: bytearray, name: str, file: RemoteFile | None = None, shown: str = "", number: int = 0) -> bytes:
    start = len(heap)
    text = name.encode()
    heap += text
    if file is None:
        return _ENTRY.pack(start, number, 0, 0, 0, len(text), 0, 0, 0, _IS_DIRECTORY)
    id = file.id.encode(errors="surrogatepass")
    digest = file.digest.value if file.digest else b""
    run = (file.run_id or "").encode(errors="surrogatepass")
    path = b"" if file.path == shown else file.path.encode(errors="surrogatepass")
    algorithm = _ALGORITHM[file.digest.algorithm if file.digest else ""]
    heap += id + digest + run + path
    flags = (
        (_IS_UPLOADED if file.is_uploaded else 0)
        | (_IS_DELETED if file.is_deleted else 0)
        | (_HAS_PATH if file.path != shown else 0)
        | (_HAS_RUN if file.run_id is not None else 0)
    )
    lengths = (len(path), len(text), len(id), len(run))
    return _ENTRY.pack(start, file.size, file.uploaded_ns, file.type_id, *lengths, algorithm, flags)


class PackedTree:
    """The reader of what `pack` made."""

    def __init__(self, data: Buffer) -> None:
        """Look at the frame only.

        Raises:
            ValueError: it is none.
        """
        view = memoryview(data)
        if len(view) < _COUNTS.size:
            raise ValueError("not a packed tree")
        version, directories, entries = _COUNTS.unpack_from(view)
        self._entries_at = _COUNTS.size + directories * _DIRECTORY.size
        self._heap_at = self._entries_at + entries * _ENTRY.size
        if version != _VERSION or directories < 1 or self._heap_at > len(view):
            raise ValueError("not a packed tree")
        self._view = view
        self.data = data
        # Names are looked up in order, most often: this is the next. No lock: any other number is as true.
        self._guess = 0
        self.file_count = entries - (directories - 1)

    @property
    def root(self) -> PackedBranch:
        """Return the top directory."""
        return PackedBranch(self, 0, "")

    def directory(self, number: int) -> tuple[int, int, int]:
        """Return first entry, number of entries and newest upload of a directory."""
        first, count, modified_ns = _DIRECTORY.unpack_from(self._view, _COUNTS.size + number * _DIRECTORY.size)
        return first, count, modified_ns

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Yield the records of entries."""
        start = self._entries_at + first * _ENTRY.size
        return _ENTRY.iter_unpack(self._view[start : start + count * _ENTRY.size])

    def name(self, record: Record) -> bytes:
        """Return an entry's name."""
        at = self._heap_at + record[0]
        return bytes(self._view[at : at + record[5]])

    def lines(self, first: int, count: int) -> Iterator[Line]:
        """Yield entries as a listing needs them: nothing is made of them but their names."""
        view, heap_at = self._view, self._heap_at
        for start, size, modified_ns, _, _, length, _, _, _, flags in self.records(first, count):
            at = heap_at + start
            name = str(view[at : at + length], "utf-8")
            if flags & _IS_DIRECTORY:
                yield name, True, 0, self.directory(size)[2]
            else:
                yield name, False, size, modified_ns

    def find(self, name: str, first: int, count: int) -> int | None:
        """Return the number of the entry of that name among *count* of one directory, None if there is none."""
        wanted = name.encode(errors="surrogatepass")
        unpack, view, entries_at, heap_at = _NAME.unpack_from, self._view, self._entries_at, self._heap_at
        low, high = first, first + count
        middle = self._guess  # then by halving
        if not low <= middle < high:
            middle = (low + high) // 2
        while low < high:  # the order of UTF-8 is that of its characters
            start, length = unpack(view, entries_at + middle * _ENTRY.size)
            found = view[heap_at + start : heap_at + start + length].tobytes()
            if found == wanted:
                self._guess = middle + 1
                return middle
            low, high = (middle + 1, high) if found < wanted else (low, middle)
            middle = (low + high) // 2
        return None

    def entry(self, record: Record, place: str) -> tuple[str, RemoteFile | PackedBranch]:
        """Return an entry of the directory shown at *place*, with its name."""
        at, size, uploaded_ns, type_id, path_length, name_length, id_length, run_length, algorithm, flags = record
        view = self._view
        at += self._heap_at
        name = str(view[at : (at := at + name_length)], "utf-8")
        if flags & _IS_DIRECTORY:
            return name, PackedBranch(self, size, f"{place}{name}/")
        id = str(view[at : (at := at + id_length)], "utf-8", "surrogatepass")
        kind, digest_length = ALGORITHMS[algorithm]
        digest = Digest(kind, bytes(view[at : (at := at + digest_length)])) if algorithm else None
        run = str(view[at : (at := at + run_length)], "utf-8", "surrogatepass") if flags & _HAS_RUN else None
        path = str(view[at : at + path_length], "utf-8", "surrogatepass") if flags & _HAS_PATH else place + name
        uploaded, deleted = bool(flags & _IS_UPLOADED), bool(flags & _IS_DELETED)
        return name, RemoteFile(id, path, size, uploaded_ns, type_id, uploaded, deleted, digest, run)


class PackedBranch:
    """One directory of a packed tree."""

    __slots__ = ("_number", "_place", "_tree")

    def __init__(self, tree: PackedTree, number: int, place: str) -> None:
        self._tree = tree
        self._number = number
        self._place = place

    @property
    def modified_ns(self) -> int:
        """Return the newest upload below, 0 if there is none."""
        return self._tree.directory(self._number)[2]

    @property
    def entries(self) -> Mapping[str, RemoteFile | Tree]:
        """Return what is in it, by shown name."""
        first, count, _ = self._tree.directory(self._number)
        return _Entries(self._tree, first, count, self._place)

    def leaves(self) -> Iterator[RemoteFile]:
        """Yield every file below this directory."""
        below = [self]
        while below:
            branch = below.pop()
            first, count, _ = branch._tree.directory(branch._number)
            for record in branch._tree.records(first, count):
                _, entry = branch._tree.entry(record, branch._place)
                if isinstance(entry, PackedBranch):
                    below.append(entry)
                else:
                    yield entry

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[Line]:
        """Return the entries from number *start* up to *stop*, as a listing needs them."""
        first, count, _ = self._tree.directory(self._number)
        start, stop, _ = slice(start, stop).indices(count)
        return self._tree.lines(first + start, max(0, stop - start))

    def line(self, name: str) -> Line | None:
        """Return one entry as a listing needs it, None if there is none."""
        first, count, _ = self._tree.directory(self._number)
        number = self._tree.find(name, first, count)
        return None if number is None else next(self._tree.lines(number, 1))


class _Entries(Mapping[str, "RemoteFile | Tree"]):
    """The entries of one directory; a name is found by halving, so nothing is made for it."""

    def __init__(self, tree: PackedTree, first: int, count: int, place: str) -> None:
        self._tree, self._first, self._count, self._place = tree, first, count, place

    def __getitem__(self, name: str) -> RemoteFile | Tree:
        number = self._tree.find(name, self._first, self._count)
        if number is None:
            raise KeyError(name)
        return self._tree.entry(next(self._tree.records(number, 1)), self._place)[1]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (self._tree.name(record).decode() for record in self._tree.records(self._first, self._count))

    def items(self) -> ItemsView[str, RemoteFile | Tree]:
        return _Items(self)

    def pairs(self) -> Iterator[tuple[str, RemoteFile | Tree]]:
        """Yield names and entries, in order."""
        tree, place = self._tree, self._place
        return (tree.entry(record, place) for record in tree.records(self._first, self._count))


class _Items(ItemsView[str, "RemoteFile | Tree"]):
    """Goes through a directory without looking each name up."""

    _mapping: _Entries

    def __iter__(self) -> Iterator[tuple[str, RemoteFile | Tree]]:
        return self._mapping.pairs()


class PackedFiles(Sequence[RemoteFile]):
    """All files of a packed tree, made when they are asked for; their order is the tree's."""

    def __init__(self, tree: PackedTree) -> None:
        self.tree = tree

    @property
    def fingerprint(self) -> int:
        """Return a number that is the same for equal trees alone."""
        return xxhash.xxh3_64_intdigest(self.tree.data)

    def __len__(self) -> int:
        count: int = self.tree.file_count
        return count

    def __iter__(self) -> Iterator[RemoteFile]:
        return self.tree.root.leaves()

    @overload
    def __getitem__(self, index: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RemoteFile]: ...
    def __getitem__(self, index: int | slice) -> RemoteFile | Sequence[RemoteFile]:
        return tuple(self)[index]


def same_files(one: Collection[RemoteFile], other: Collection[RemoteFile]) -> bool:
    """Tell whether there are the same files in both, in whatever order."""
    if isinstance(one, PackedFiles) and isinstance(other, PackedFiles):
        return one.tree.data == other.tree.data
    return len(one) == len(other) and set(one) == set(other)
