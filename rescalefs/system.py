"""What the operating system says about mount points, how to unmount, and what it is asked for this process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

FUSE_DEVICE = Path("/dev/fuse")
FILE_SYSTEM_TYPE = "fuse.rescalefs"
_OCTAL = re.compile(r"\\([0-7]{3})")
# An unmount is done when the call returns; this is for helpers that hang.
_HELPER_S = 20.0
_POLL_S = 0.05
# What a mount is asked by name alone takes it milliseconds.
_ANSWER_S = 5.0
# Heaps of the process: what is free at the end of the first one can be given back, of others it cannot.
HEAPS = 1
_M_ARENA_MAX = -8  # of mallopt(3)
_STDERR = 2  # the last of the standard streams


class MountError(Exception):
    """A mount point cannot be used, or not be left; the text is one sentence with the remedy."""


class AlreadyMounted(MountError):
    """Something is mounted there."""


class FuseMissing(MountError):
    """FUSE does not work on this machine, or not for this user."""


class MountEntry(NamedTuple):
    """One line of the kernel's mount table."""

    mount_point: Path
    type: str


def mounts() -> Iterator[MountEntry]:
    """Yield what is mounted, from the kernel's table: it never touches, and so never waits for, a file system."""
    with open("/proc/self/mountinfo", "rb") as table:  # a carriage return in a name ends no line
        for line in table:
            fields, _, rest = os.fsdecode(line).partition(" - ")
            point = _OCTAL.sub(lambda found: chr(int(found.group(1), 8)), fields.split(" ")[4])
            yield MountEntry(Path(point), rest.split(" ")[0])


def mounted_type(mount_point: Path) -> str | None:
    """Return the type of the file system on top of *mount_point*, None where nothing is mounted."""
    found = [entry.type for entry in mounts() if entry.mount_point == mount_point]
    return found[-1] if found else None


def mount_point_of(path: Path) -> Path | None:
    """Return the mount of rescalefs that an absolute *path* is in, None if it is in none."""
    points = [entry.mount_point for entry in mounts() if entry.type == FILE_SYSTEM_TYPE]
    return next((place for place in (path, *path.parents) if place in points), None)


def place_of(path: Path) -> Path:
    """Return *path* as the mount table writes it: absolute, and followed where it leads over links.

    What is mounted there is not touched, because it may not answer: links are followed up to a mount of rescalefs.
    """
    place = Path(os.path.abspath(path))
    if mounted_type(place) is not None:
        return place
    followed = _followed(place, {entry.mount_point for entry in mounts() if entry.type == FILE_SYSTEM_TYPE})
    return followed if mount_point_of(followed) is not None else Path(os.path.realpath(place))


def _followed(place: Path, points: set[Path], most_links: int = 40) -> Path:
    """Follow the links of an absolute path as far as they are outside of *points*."""
    for step in (*reversed(place.parents), place):
        if step in points:
            break
        with contextlib.suppress(OSError):  # no link, or nothing there
            target = step.parent / os.readlink(step) / place.relative_to(step)
            if most_links:
                return _followed(Path(os.path.abspath(target)), points, most_links - 1)
    return place


def check_fuse() -> None:
    """Make sure that this user can mount FUSE file systems.

    Raises:
        FuseMissing: the device, the right to open it, or the helper program is missing.
    """
    if not FUSE_DEVICE.exists():
        raise FuseMissing(
            "there is no /dev/fuse: load the kernel module with  modprobe fuse  "
            "(in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
        )
    if os.geteuid() == 0:
        return
    if _fusermount() is None:
        raise FuseMissing("fusermount3 is missing: install it with  apt-get install fuse3")
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise FuseMissing("you may not open /dev/fuse: an administrator can allow it with  chmod 666 /dev/fuse")


def check_mount_point(mount_point: Path, *, may_be_filled: bool = False) -> None:
    """Make sure that something can be mounted at *mount_point*; clear what a dead mount left there.

    Raises:
        AlreadyMounted: something is mounted there.
        MountError: it is missing, no directory, not empty, not this user's, or in a mount of rescalefs.
    """
    if mounted_type(mount_point) is not None and is_dead(mount_point):
        try:
            unmount(mount_point, is_lazy=True)
        except MountError:
            if mounted_type(mount_point) is not None:  # else another process has cleared it just now
                raise
    _check_free(mount_point)
    if (above := mount_point_of(mount_point)) is not None:
        raise MountError(f"{mount_point} is in the mount of rescalefs on {above}: choose a directory outside of it")
    try:
        is_empty = not any(True for _ in os.scandir(mount_point))
    except FileNotFoundError:
        raise MountError(f"there is no directory {mount_point}: make it with  mkdir -p {mount_point}") from None
    except NotADirectoryError:
        raise MountError(f"{mount_point} is not a directory") from None
    except OSError as error:
        raise MountError(f"{mount_point} cannot be used: {error.strerror}") from None
    if not is_empty and not may_be_filled:
        raise MountError(f"{mount_point} is not empty: choose an empty directory, or mount over it with  -o nonempty")
    if os.geteuid() != 0 and not os.access(mount_point, os.W_OK):  # what fusermount3 asks for
        raise MountError(f"you may not write to {mount_point}: choose a directory of your own")


def _check_free(mount_point: Path) -> None:
    kind = mounted_type(mount_point)
    if kind is not None:
        is_ours = kind == FILE_SYSTEM_TYPE
        remedy = f"leave it with  rescalefs umount {mount_point}" if is_ours else "choose another directory"
        raise AlreadyMounted(f"{'rescalefs' if is_ours else kind} is mounted on {mount_point} already: {remedy}")


@contextlib.contextmanager
def claimed(mount_point: Path) -> Iterator[Callable[[], None]]:
    """Keep others from mounting on *mount_point*, until what is yielded is called, from any thread.

    A process that is forked meanwhile must call it, too. Where the file system knows no locks, nobody is kept.

    Raises:
        AlreadyMounted: another process is about to mount there or has locked it, or has mounted since it was checked.
        MountError: it is gone.
    """
    _check_free(mount_point)  # what has been mounted since may not answer, and is not opened
    with contextlib.ExitStack() as claim:
        try:
            descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
            claim.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyMounted(
                f"another process has locked {mount_point}, as a rescalefs that is about to mount there does: "
                "wait for it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise MountError(f"{mount_point} cannot be used: {error.strerror}") from None
        _check_free(mount_point)
        yield claim.close


def is_dead(mount_point: Path) -> bool:
    """True if the process behind a FUSE mount is gone; one that is stopped does not answer, and is not waited for."""
    return _answer(mount_point) in (errno.ENOTCONN, errno.ECONNABORTED)


def is_silent(mount_point: Path) -> bool:
    """True if the process behind a FUSE mount is there and does not answer, as one that is stopped."""
    return _answer(mount_point) is None


def _answer(mount_point: Path) -> int | None:
    """Return the error number that a FUSE mount answers with, 0 if all is well, None if it does not answer."""
    codes: list[int] = []

    def look() -> None:
        try:
            os.statvfs(mount_point)
        except OSError as error:
            codes.append(error.errno or errno.EIO)
        else:
            codes.append(0)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return codes[0] if codes else None


def unmount(mount_point: Path, *, is_lazy: bool = False) -> None:
    """Unmount a FUSE file system, as root or as the user who mounted it.

    Raises:
        MountError: it is busy, or the system refused.
    """
    helper = _fusermount()
    if os.geteuid() == 0:
        command = ["umount", *(["-l"] if is_lazy else []), str(mount_point)]
    elif helper is not None:
        command = [helper, "-u", *(["-z"] if is_lazy else []), str(mount_point)]
    else:
        raise MountError("fusermount3 is missing: install it with  apt-get install fuse3")
    try:
        done = subprocess.run(  # a fixed program, the path as one argument
            command, capture_output=True, text=True, errors="replace", timeout=_HELPER_S, check=False
        )
    except FileNotFoundError:
        raise MountError(f"there is no {command[0]} on the PATH, which is {os.environ.get('PATH')}") from None
    except subprocess.TimeoutExpired:
        remedy = "" if is_lazy else f": detach it with  rescalefs umount --lazy {mount_point}"
        raise MountError(f"{mount_point} does not answer{remedy}") from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"{command[0]} failed with code {done.returncode}"
        if "busy" in reason:
            remedy = f"close what is open there, or detach it with  rescalefs umount --lazy {mount_point}"
            reason = f"{mount_point} is in use: {remedy}"
        elif "not found in /etc/mtab" in reason:  # fusermount3 looks for mounts of this user alone
            reason = f"{mount_point} was mounted by another user: let that user or root leave it"
        raise MountError(reason)


def wait_until_unmounted(mount_point: Path, deadline_s: float) -> bool:
    """Wait until nothing is mounted at *mount_point*; False if it takes longer."""
    give_up_at = time.monotonic() + deadline_s
    while mounted_type(mount_point) is not None:
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def share_heaps() -> None:
    """Let all threads have their memory from one heap, where the C library is glibc. Called before there are threads.

    It would make up to eight a core, each with holes that no other thread fills: twice the memory after a few minutes.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, and return how many these are.

    The usual 1024 are for programs that use `select`; the hard limit is there for those that do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


# `prctl` of Linux; Python has no name for it.
_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Let nobody but root have this process's memory, as ssh-agent does: the key is in it, and in its environment.

    No core dump is written, not even to a handler such as systemd-coredump, to which the limit on the size of cores
    does not apply; and other processes of the same user can neither trace this one nor read its environment in /proc.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # all that there is on other systems than Linux
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def close_inherited() -> None:
    """Close what this process was started with but the standard streams: its caller's locks and pipes are not ours.

    What Python opens by itself cannot be inherited (PEP 446), so that tells them apart.
    """
    with contextlib.suppress(OSError):  # there is no /proc
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # the one by which the list was read is closed
                if descriptor > _STDERR and os.get_inheritable(descriptor):
                    os.close(descriptor)


def give_back_memory() -> None:
    """Return memory that is free within this process to the system, which glibc does not do by itself."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _fusermount() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")
