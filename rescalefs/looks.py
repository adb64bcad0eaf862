"""Whether those who list directories look at the files, too, as `ls -l` does and `find` does not.

With libfuse3 a listing can take along what stat tells of each file. That saves who looks at them a request for each,
and costs who does not half of his time, in the kernel and here. The kernel asks for it at the beginning of every
directory, as it cannot know either. So of a directory's files one is told by its name alone: a question about it shows
that somebody looks. When none comes for several directories, files are told by name alone until one does.
"""

from __future__ import annotations

from enum import Enum, auto

# Directories with fewer files cost so little that nothing is to be learned from them.
FEW = 32
# Listed without a look, so many directories in a row show that nobody looks. Programs that go through a tree look at
# the files of some directories only after having listed others.
SHOWN_BY = 4
# Directories whose files are waited for.
_MAX_WATCHED = 64


class Told(Enum):
    """Of which entries a listing takes attributes along; with directories it does, for who goes on into them."""

    NAMES = auto()  # of none
    DIRECTORIES = auto()
    ALL_BUT_ONE = auto()  # but for one file
    ALL = auto()


class Looks:
    """Learns from what is listed and looked at. Threads: any; a slip costs no more than time, so there is no lock."""

    def __init__(self) -> None:
        self._watched: dict[str, None] = {}
        self._unseen = 0  # directories listed since somebody looked

    def told(self, directory: str, count: int, *, is_start: bool) -> Told:
        """Return of which files attributes should be told in a listing of *count* entries; *is_start* at its begin."""
        if count < FEW:
            return Told.ALL
        told = Told.ALL_BUT_ONE if self._unseen < SHOWN_BY else Told.DIRECTORIES
        if is_start:
            self._unseen += 1
            if len(self._watched) >= _MAX_WATCHED:
                self._watched.clear()
            self._watched[directory] = None
        return told

    def looked(self, path: str) -> None:
        """Somebody asks what stat tells of a file."""
        if self._watched and path[: path.rindex("/")] in self._watched:
            self._unseen = 0
            self._watched.clear()
