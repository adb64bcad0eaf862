"""The files that a listing tells, in one piece of memory: what the API sends in pages becomes this page by page.

As objects they would take four times as much, and leave the process's memory in pieces that it cannot give back.

    rows     size, seconds and nanoseconds of the upload, type, lengths of path, id and run id, checksum's algorithm,
             flags; then these texts and the checksum
    starts   where in it each row begins

Files are made into objects when they are asked for. Threads: any; nothing changes once made.
"""

from __future__ import annotations

import struct
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import overload

from rescalefs.models import Digest, RemoteFile

_ROW = struct.Struct("<qqIqIIIBB")
_IS_UPLOADED, _IS_DELETED, _HAS_RUN = 1, 2, 4
# The checksums that there are: name, and length in bytes.
ALGORITHMS = (("", 0), ("sha512", 64), ("sha256", 32), ("sha1", 20), ("md5", 16))
_ALGORITHM = {name: number for number, (name, _) in enumerate(ALGORITHMS)}
_NS = 1_000_000_000


class FileRows(Sequence[RemoteFile]):
    """Files in the order in which they were told."""

    __slots__ = ("_data", "_starts")

    def __init__(self, rows: Sequence[bytes] = ()) -> None:
        self._data = b"".join(rows)
        self._starts = array("Q", accumulate(map(len, rows), initial=0))  # the last one is the end

    @classmethod
    def of(cls, files: Iterable[RemoteFile]) -> FileRows:
        """Return *files* as rows."""
        return cls([_row(file) for file in files])

    @classmethod
    def joined(cls, parts: Sequence[FileRows]) -> FileRows:
        """Return the rows of all *parts*, one after the other."""
        whole = cls()
        whole._data = b"".join(part._data for part in parts)
        for part in parts:
            end = whole._starts.pop()
            whole._starts.extend(end + start for start in part._starts)
        return whole

    def unique(self) -> FileRows:
        """Return the files once each, of several rows of one id the last one."""
        last = {self.id(number): number for number in range(len(self))}
        return self if len(last) == len(self) else self._some(last.values())

    def present(self) -> FileRows:
        """Return the files that are not deleted."""
        found = [number for number in range(len(self)) if not self._head(number)[8] & _IS_DELETED]
        return self if len(found) == len(self) else self._some(found)

    def by_run(self) -> Mapping[str | None, FileRows]:
        """Return the files of each run that is told, and those whose run is not."""
        numbers: dict[str | None, list[int]] = defaultdict(list)
        for number in range(len(self)):
            numbers[self._run(number)].append(number)
        return {run: self._some(found) for run, found in numbers.items()}

    def path(self, number: int) -> str:
        """Return the path of one file."""
        start = self._starts[number] + _ROW.size
        return str(self._data[start : start + self._head(number)[4]], "utf-8", "surrogatepass")

    def id(self, number: int) -> str:
        """Return the id of one file."""
        head = self._head(number)
        start = self._starts[number] + _ROW.size + head[4]
        return str(self._data[start : start + head[5]], "utf-8", "surrogatepass")

    def uploaded_ns(self, number: int) -> int:
        """Return when one file was uploaded."""
        _, seconds, fraction, *_ = self._head(number)
        return seconds * _NS + fraction

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileRows) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __iter__(self) -> Iterator[RemoteFile]:
        return map(self._file, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, index: slice) -> FileRows: ...
    def __getitem__(self, index: int | slice) -> RemoteFile | FileRows:
        numbers = range(len(self))[index]
        return self._file(numbers) if isinstance(numbers, int) else self._some(numbers)

    def _some(self, numbers: Iterable[int]) -> FileRows:
        data, starts = self._data, self._starts
        return FileRows([data[starts[number] : starts[number + 1]] for number in numbers])

    def _head(self, number: int) -> tuple[int, ...]:
        return _ROW.unpack_from(self._data, self._starts[number])

    def _run(self, number: int) -> str | None:
        run_length, _, flags = self._head(number)[6:]
        end = self._starts[number + 1]
        return str(self._data[end - run_length : end], "utf-8", "surrogatepass") if flags & _HAS_RUN else None

    def _file(self, number: int) -> RemoteFile:
        data, at = self._data, self._starts[number]
        size, seconds, fraction, type_id, path_length, id_length, _, algorithm, flags = _ROW.unpack_from(data, at)
        at += _ROW.size
        path = str(data[at : (at := at + path_length)], "utf-8", "surrogatepass")
        id = str(data[at : (at := at + id_length)], "utf-8", "surrogatepass")
        kind, digest_length = ALGORITHMS[algorithm]
        digest = Digest(kind, data[at : at + digest_length]) if algorithm else None
        uploaded, deleted = bool(flags & _IS_UPLOADED), bool(flags & _IS_DELETED)
        run = self._run(number)
        return RemoteFile(id, path, size, seconds * _NS + fraction, type_id, uploaded, deleted, digest, run)


def _row(file: RemoteFile) -> bytes:
    path = file.path.encode(errors="surrogatepass")
    id = file.id.encode(errors="surrogatepass")
    run = b"" if file.run_id is None else file.run_id.encode(errors="surrogatepass")
    algorithm, digest = (_ALGORITHM[file.digest.algorithm], file.digest.value) if file.digest else (0, b"")
    assert len(digest) == ALGORITHMS[algorithm][1]
    seconds, fraction = divmod(file.uploaded_ns, _NS)
    flags = (
        (_IS_UPLOADED if file.is_uploaded else 0)
        | (_IS_DELETED if file.is_deleted else 0)
        | (0 if file.run_id is None else _HAS_RUN)
    )
    lengths = len(path), len(id), len(run)
    head = _ROW.pack(file.size, seconds, fraction, file.type_id, *lengths, algorithm, flags)
    return b"".join((head, path, id, digest, run))
