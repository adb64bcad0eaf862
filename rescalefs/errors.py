"""What can go wrong, as the rest of the program sees it.

    RescaleError
    ├── NotFound            no such job, run or file
    ├── NameTooLong         a name that no file can have
    ├── NotADirectory       a path goes on below a file
    ├── IsADirectory        a directory was opened as a file
    ├── ReadOnly            a change that no mount of results can make
    ├── AccessDenied        the key is missing, wrong, expired or lacks the right
    │   └── KeyRefused          the key itself is refused, whatever it is used for
    ├── BadCommand          a control file was given another payload than its own
    ├── NotPossibleNow      the run is not live, so it cannot be stopped or snapshot
    ├── Busy                the same act is already under way
    ├── Stale               the file changed or went away under an open handle
    │   └── Replaced            a path is of another kind than the kernel thinks
    ├── DeadlineExceeded    no answer in the time that a caller may be kept waiting
    ├── NoAttribute         no such extended attribute
    ├── NotSupported        a class of extended attributes that does not exist here
    ├── Repeated            what failed a moment ago was asked for once more
    └── Unavailable         the API or the network failed; nothing is known about the data
        ├── Refused         the API answered, and said no in a way no retry mends
        ├── Offline         there is no network, or the API is down; nothing was asked
        ├── NotUploaded     the API lists the file, but its bytes have not arrived there
        ├── Unseen          a live run's files cannot be listed, and are not known from shortly before
        └── Corrupt         what came is not what was promised (length, range, checksum)

This module knows neither HTTP nor errno: `client` turns answers into these, `operations` turns these into errno.
"""


class RescaleError(Exception):
    """Base of every error that this program raises on purpose; the text is one sentence for a log or a user."""


class NotFound(RescaleError):
    """No such job, run, file or name."""


class NameTooLong(RescaleError):
    """A name is longer than any name in the mount can be."""


class NotADirectory(RescaleError):
    """A path goes on below something that is not a directory."""


class IsADirectory(RescaleError):
    """A directory was used as a file."""


class ReadOnly(RescaleError):
    """Results cannot be changed through a mount."""


class AccessDenied(RescaleError):
    """The API refused the key, or the key's owner lacks the right (401, 403)."""


class KeyRefused(AccessDenied):
    """The API does not accept the key (401); the log says so once for all who are refused."""


class BadCommand(RescaleError):
    """The bytes written to a control file are not its payload; nothing was sent."""


class NotPossibleNow(RescaleError):
    """The act needs a live run; nothing was sent."""


class Busy(RescaleError):
    """The same act is under way already; nothing was sent."""


class Stale(RescaleError):
    """The bytes behind this handle are no longer those that it was opened on."""


class Replaced(Stale):
    """What stands at a path is of another kind than the kernel thinks; it asks again."""


class DeadlineExceeded(RescaleError):
    """The answer did not come within the time that a caller may be kept waiting."""


class NoAttribute(RescaleError):
    """No extended attribute of that name."""


class NotSupported(RescaleError):
    """Extended attributes of that class do not exist here."""


class Repeated(RescaleError):
    """The same bytes were asked for again right after they could not be had; *first* is what kept them away."""

    def __init__(self, first: RescaleError) -> None:
        super().__init__(str(first))
        self.first = first


class Unavailable(RescaleError):
    """The API or the way to it failed."""


class Refused(Unavailable):
    """The API answered with a status that asking again does not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Offline(Unavailable):
    """There is no way to the API now, or it fails for everybody; nothing was asked."""


class NotUploaded(Unavailable):
    """The file is listed, but its upload is not complete."""


class Unseen(Unavailable):
    """The live view of a run failed, and what it would tell is not known from shortly before."""


class Corrupt(Unavailable):
    """The bytes or the answer contradict what the API said about them."""


# Rescale fails, or does not answer: not that it says something else than before.
FAILURES = (Unavailable, DeadlineExceeded)
