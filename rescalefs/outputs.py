"""Nodes of a run's files: uploaded, live, and on the way from one to the other."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rescalefs.content.engine import ContentEngine
from rescalefs.content.handle import ContentHandle
from rescalefs.errors import NotUploaded, ReadOnly, Repeated, RescaleError
from rescalefs.follow import Follower, LiveHandle
from rescalefs.models import RemoteFile, time_text
from rescalefs.nodes import Attributes, BytesHandle, File, Handle, ReadHandle
from rescalefs.tailing import LiveKey

# The kernel asks a second time for what its read-ahead could not get, within milliseconds; without this its reader
# would wait for twice the deadline.
_ASKED_AGAIN_S = 1.0

# Outputs are for everybody to read, and nobody to write.
FILE_MODE = stat.S_IFREG | 0o444


class _Failure(NamedTuple):
    start: int
    end: int
    failed_at: float
    error: RescaleError


class _OutputHandle(ReadHandle):
    def __init__(self, content: ContentHandle, *, is_direct: bool) -> None:
        self._content = content
        self.is_direct = is_direct
        self.identity = content.identity
        self.size = content.size
        self._failures: tuple[_Failure, ...] = ()  # of the last moment; replaced as a whole, by any thread

    def readinto(self, offset: int, buffer: memoryview) -> int:
        end = offset + len(buffer)
        for failure in self._failures:
            is_fresh = time.monotonic() - failure.failed_at < _ASKED_AGAIN_S
            if is_fresh and failure.start <= offset and end <= failure.end:
                raise Repeated(failure.error)
        try:
            return self._content.readinto(offset, buffer)
        except RescaleError as error:
            now = time.monotonic()
            fresh = [failure for failure in self._failures if now - failure.failed_at < _ASKED_AGAIN_S]
            self._failures = (*fresh, _Failure(offset, end, now, error))
            raise

    def close(self) -> None:
        self._content.close()


class OutputFile(File):
    """A file that has been uploaded; its bytes never change.

    While its run *may_change* the kernel may still know the size of the live file of that name, and would end a read
    through its page cache there. *opened* is called at each open.
    """

    stays = True

    def __init__(
        self,
        file: RemoteFile,
        engine: ContentEngine,
        job_id: str,
        run_id: str,
        opened: Callable[[], None],
        *,
        may_change: bool = False,
    ) -> None:
        self._opened = opened
        self._file = file
        self._engine = engine
        self._job_id = job_id
        self._run_id = run_id
        self._may_change = may_change

    def attributes(self) -> Attributes:
        """Size and time are the API's."""
        size = self._engine.size(self._file)
        lasts = not self._may_change and size == self._file.size
        return Attributes(FILE_MODE, size, self._file.uploaded_ns, lasts)

    def open(self, is_writing: bool) -> Handle:
        """Open the file without asking for a byte.

        Raises:
            NotUploaded: the API lists it, but does not have it yet.
        """
        if is_writing:
            raise ReadOnly("results cannot be changed")
        if not self._file.is_uploaded:
            raise NotUploaded(f"file {self._file.id} ({self._file.path}) is listed, but its upload is not complete")
        # Of a file that was listed with another size, others may know the old one.
        is_direct = self._may_change or self._engine.size(self._file) != self._file.size
        handle = _OutputHandle(self._engine.open(self._file), is_direct=is_direct)
        self._opened()
        return handle

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        """Ids, checksum, and how much of it is here."""
        digest = self._file.digest
        return {
            "file_id": lambda: self._file.id,
            "job_id": lambda: self._job_id,
            "run_id": lambda: self._run_id,
            "state": lambda: self._engine.state(self._file),
            "uploaded": lambda: time_text(self._file.uploaded_ns) or "",
            **({digest.algorithm: digest.value.hex} if digest else {}),
        }


class _FollowHandle(BytesHandle):
    def __init__(self, handle: LiveHandle) -> None:
        self._handle = handle

    def read(self, offset: int, size: int) -> bytes:
        return self._handle.read(offset, size)

    def close(self) -> None:
        self._handle.close()


class LiveOutput(File):
    """A file of a live run; it may grow while it is open."""

    stays = True

    def __init__(self, key: LiveKey, follower: Follower) -> None:
        self._key = key
        self._follower = follower

    def attributes(self) -> Attributes:
        """The size that the file was last seen with; the time is when it was last seen to change."""
        file = self._follower.file(self._key)
        size = file.size()
        return Attributes(FILE_MODE, size, file.changed_ns)

    def open(self, is_writing: bool) -> Handle:
        """Open the file, fetching it if it was never seen."""
        if is_writing:
            raise ReadOnly("results cannot be changed")
        return _FollowHandle(self._follower.open(self._key))

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        """Ids and state."""
        return {"job_id": lambda: self._key.job_id, "run_id": lambda: self._key.run_id, "state": lambda: "live"}


class EndingOutput(LiveOutput):
    """A live file that somebody has open, though its run lists the final one already.

    Until that takes its place for those who follow, stat tells what they are served, so that nothing seems to shrink.
    Who opens it gets the final file, or what is known until that is uploaded.
    """

    def __init__(self, key: LiveKey, follower: Follower, final: OutputFile, *, is_uploaded: bool) -> None:
        super().__init__(key, follower)
        self._final = final
        self._is_uploaded = is_uploaded

    def open(self, is_writing: bool) -> Handle:
        """Open the final file if it is there, the live one else."""
        return self._final.open(is_writing) if self._is_uploaded else super().open(is_writing)
