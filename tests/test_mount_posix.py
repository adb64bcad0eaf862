"""What POSIX programs may try on a mount that is read-only, on both bindings.

Whatever maps a file, or could hang, runs in a process of its own: the emulator lives in this one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.tools import FILES, MIB

pytestmark = pytest.mark.mount
LONG_NAME = "n" * 256


def python(code: str, *args: Path | str) -> str:
    """Run Python code in another process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errno_of(call: Callable[[], object]) -> str:
    """Return the name of the errno that *call* fails with, "" if it works."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


# ---- errors ----

REFUSED: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda top: os.open(top / "big.bin", os.O_WRONLY),
    "open for both": lambda top: os.open(top / "big.bin", os.O_RDWR),
    "open to append": lambda top: os.open(top / "big.bin", os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda top: os.open(top / "big.bin", os.O_WRONLY | os.O_TRUNC),
    "create": lambda top: os.open(top / "new", os.O_WRONLY | os.O_CREAT, 0o600),
    "create a nameless file": lambda top: os.open(top, os.O_WRONLY | os.O_TMPFILE, 0o600),
    "mkdir": lambda top: os.mkdir(top / "new"),
    "mkfifo": lambda top: os.mkfifo(top / "new"),
    "symlink": lambda top: os.symlink("a", top / "new"),
    "link": lambda top: os.link(top / "big.bin", top / "new"),
    "unlink": lambda top: os.unlink(top / "big.bin"),
    "rmdir": lambda top: os.rmdir(top / "case"),
    "rename": lambda top: os.rename(top / "big.bin", top / "new"),
    "chmod": lambda top: os.chmod(top / "big.bin", 0o700),
    "chown": lambda top: os.chown(top / "big.bin", 1, 1),
    "utime": lambda top: os.utime(top / "big.bin"),
    "truncate": lambda top: os.truncate(top / "big.bin", 0),
    "setxattr": lambda top: os.setxattr(top / "big.bin", "user.x", b"y"),
    "removexattr": lambda top: os.removexattr(top / "big.bin", "user.rescale.file_id"),
}


def test_every_change_is_refused(outputs: Path, emulator: Emulator) -> None:
    """A change of any kind is EROFS, or EACCES where the kernel's own check of the mode comes first."""
    expected = {"EROFS"} if os.getuid() == 0 else {"EROFS", "EACCES", "EPERM"}

    found = {name: errno_of(lambda change=change: change(outputs)) for name, change in REFUSED.items()}  # type: ignore[misc]

    # Of nameless files the kernel says that there are none here. (ENOTSUP is EOPNOTSUPP.)
    assert found.pop("create a nameless file") in {"ENOTSUP", *expected}
    assert set(found.values()) <= expected, found
    assert emulator.methods["POST"] == 0


MISTAKES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no such name": ("ENOENT", lambda top: os.stat(top / "nothing")),
    "no such directory": ("ENOENT", lambda top: os.listdir(top / "nothing")),
    "below a file": ("ENOTDIR", lambda top: os.stat(top / "big.bin/x")),
    "a file as a directory": ("ENOTDIR", lambda top: os.listdir(top / "big.bin")),
    "a file opened as a directory": ("ENOTDIR", lambda top: os.open(top / "big.bin", os.O_DIRECTORY)),
    "a directory opened for writing": ("EISDIR", lambda top: os.open(top / "case", os.O_WRONLY)),
    "a directory read": ("EISDIR", lambda top: (top / "case").read_bytes()),
    "a name too long": ("ENAMETOOLONG", lambda top: os.stat(top / LONG_NAME)),
    "a link that is none": ("EINVAL", lambda top: os.readlink(top / "big.bin")),
    "a link not to be followed": ("ELOOP", lambda top: os.open(top / "../latest", os.O_RDONLY | os.O_NOFOLLOW)),
    "a negative offset": ("EINVAL", lambda top: _pread_at(top / "big.bin", -1)),
    "an attribute that is none": ("ENODATA", lambda top: os.getxattr(top / "big.bin", "user.none")),
}


def _pread_at(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), 1, offset)


def test_each_mistake_has_its_errno(outputs: Path) -> None:
    """What a disk says of it."""
    found = {name: errno_of(lambda mistake=mistake: mistake(outputs)) for name, (_, mistake) in MISTAKES.items()}  # type: ignore[misc]

    assert found == {name: expected for name, (expected, _) in MISTAKES.items()}


def test_access_tells_what_may_be_done(live: Run, outputs: Path, mounted: Mounted) -> None:
    """Outputs may be read and not executed, directories read and searched, control files written by their owner."""
    assert os.access(outputs / "big.bin", os.R_OK)
    assert not os.access(outputs / "big.bin", os.X_OK)
    assert os.access(outputs / "case", os.R_OK | os.X_OK)
    assert os.access(mounted.jobs / "LiveR/runs/1/stop", os.R_OK | os.W_OK)


# ---- directories ----

SEEK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_ulong), ("off", ctypes.c_long), ("reclen", ctypes.c_ushort),
                ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
directory = ctypes.c_void_p(libc.opendir(os.fsencode(sys.argv[1])))
seen = []
while True:
    place = libc.telldir(directory)
    entry = libc.readdir(directory)
    if not entry:
        break
    seen.append((place, entry.contents.name))
for place, name in seen[::-1] + seen[::7]:
    libc.seekdir(directory, place)
    assert libc.readdir(directory).contents.name == name, name
libc.rewinddir(directory)
again = []
while entry := libc.readdir(directory):
    again.append(entry.contents.name)
assert again == [name for _, name in seen]
print(len(seen))
"""


def test_a_directory_can_be_read_from_any_place(world: World, mounted: Mounted) -> None:
    """seekdir to what telldir said gives that entry, and rewinddir all of them again, in a directory of many."""
    run = world.add_job("ManyF").add_run(finished=True)
    for number in range(1500):
        run.add_file(f"file number {number}", b"")

    assert python(SEEK, mounted.jobs / "ManyF/runs/1") == "1502\n"


def test_inodes_are_stable_and_distinct(outputs: Path) -> None:
    """A path has one inode number, another path another one, and equal files are not links of each other."""
    paths = [outputs, *outputs.rglob("*")]
    first = {path: path.stat().st_ino for path in paths}

    assert first == {path: path.stat().st_ino for path in paths}
    assert len(set(first.values())) == len(paths)
    assert {path.stat().st_nlink for path in paths} == {1}


# ---- ways to read ----

DIRECT = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
while count := os.readv(descriptor, [buffer]):
    sys.stdout.buffer.write(buffer[:count])
"""
SENDFILE = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
at = 0
while count := os.sendfile(target, source, at, 1 << 30):
    at += count
"""


def test_direct_reads_give_the_bytes(outputs: Path) -> None:
    """O_DIRECT goes around the kernel's pages, and gives the same bytes."""
    done = subprocess.run([sys.executable, "-c", DIRECT, outputs / "big.bin"], capture_output=True, timeout=60)

    assert done.stdout == FILES["big.bin"], done.stderr


def test_the_kernel_copies_the_bytes(outputs: Path, tmp_path: Path) -> None:
    """sendfile, as web servers and shutil use it: nobody looks at the bytes on the way."""
    python(SENDFILE, outputs / "big.bin", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == FILES["big.bin"]


MAPS = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    for flags, access in ((mmap.MAP_SHARED, mmap.PROT_READ), (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)):
        with mmap.mmap(file.fileno(), 0, flags=flags, prot=access) as view:
            print(hashlib.sha512(view).hexdigest())
            if access & mmap.PROT_WRITE:
                view[:4] = b"mine"
    assert file.read(4) != b"mine"
"""


def test_final_files_are_mapped_shared_and_private(outputs: Path) -> None:
    """Both kinds of maps show the bytes; what is written to a private one stays there."""
    assert set(python(MAPS, outputs / "big.bin").split()) == {hashlib.sha512(FILES["big.bin"]).hexdigest()}


LIVE_MAPS = """
import errno, mmap, sys
with open(sys.argv[1], "rb") as file:
    try:
        mmap.mmap(file.fileno(), 9, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except OSError as error:
        print(errno.errorcode[error.errno])
    with mmap.mmap(file.fileno(), 9, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
        print(view[:9])
"""


def test_a_live_file_is_mapped_private_only(live: Run, mounted: Mounted) -> None:
    """A shared map of what may change is ENODEV, a private one works."""
    assert python(LIVE_MAPS, mounted.jobs / "LiveR/runs/1/log") == f"ENODEV\n{b'Time = 0' + bytes([10])!r}\n"


def test_locks_are_the_kernels(outputs: Path) -> None:
    """flock and POSIX locks work between processes, and the network knows nothing of them."""
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB); print('mine')"
    assert python(code, outputs / "big.bin") == "mine\n"
    held = "import fcntl, sys; held = open(sys.argv[1]); fcntl.flock(held, fcntl.LOCK_EX); exec(sys.argv[2])"
    inner = "import subprocess; print(subprocess.run(['flock', '-n', sys.argv[1], 'true']).returncode)"
    assert python(held, outputs / "big.bin", inner) == "1\n"
    shared = "import fcntl, sys; fcntl.lockf(open(sys.argv[1]), fcntl.LOCK_SH | fcntl.LOCK_NB); print('shared')"
    assert python(shared, outputs / "big.bin") == "shared\n"


def test_a_handle_reads_on_after_its_run_is_forgotten(outputs: Path, mounted: Mounted, run: Run) -> None:
    """An open file is what it was, whatever happens to the listing."""
    with open(outputs / "big.bin", "rb", buffering=0) as file:
        assert file.read(10) == FILES["big.bin"][:10]
        (mounted.path / ".rescale/refresh").write_text("1")
        os.listdir(outputs)
        assert os.pread(file.fileno(), 10, 5 * MIB) == FILES["big.bin"][5 * MIB : 5 * MIB + 10]
        assert os.fstat(file.fileno()).st_size == len(FILES["big.bin"])


def test_wrong_bytes_are_never_seen_with_verify_first(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """--verify first: a big file with one wrong byte is EIO before its first byte, and right when it is mended."""
    mounted = mount_of(emulator, "--verify", "first")
    fault = emulator.faults.add(endpoint="contents", wrong_byte_at=4 * MIB)
    path = mounted.jobs / "AbCdE/runs/1/big.bin"
    with path.open("rb", buffering=0) as file:
        assert errno_of(lambda: file.read(1)) == "EIO"

    emulator.faults.remove(fault)
    assert path.read_bytes() == FILES["big.bin"]
