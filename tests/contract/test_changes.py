"""What would change a result, as docs/semantics.md promises it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from tests.tools import errno_of, posts, run_in

pytestmark = pytest.mark.mount

CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda top: os.open(top / "big.bin", os.O_WRONLY),
    "open for both": lambda top: os.open(top / "big.bin", os.O_RDWR),
    "open to append": lambda top: os.open(top / "big.bin", os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda top: os.open(top / "big.bin", os.O_WRONLY | os.O_TRUNC),
    "open a text for writing": lambda top: os.open(top / ".rescale/status", os.O_WRONLY),
    "open a table for writing": lambda top: os.open(top.parent.parent / "runs.csv", os.O_WRONLY),
    "create": lambda top: os.open(top / "new", os.O_WRONLY | os.O_CREAT, 0o600),
    "create a nameless file": lambda top: os.open(top, os.O_WRONLY | os.O_TMPFILE, 0o600),
    "mkdir": lambda top: os.mkdir(top / "new"),
    "mkdir of a job": lambda top: os.mkdir(top.parent.parent.parent / "NewJo"),
    "mkfifo": lambda top: os.mkfifo(top / "new"),
    "symlink": lambda top: os.symlink("a", top / "new"),
    "link": lambda top: os.link(top / "big.bin", top / "new"),
    "unlink": lambda top: os.unlink(top / "big.bin"),
    "unlink of a link": lambda top: os.unlink(top.parent / "latest"),
    "rmdir": lambda top: os.rmdir(top / "case"),
    "rename": lambda top: os.rename(top / "big.bin", top / "new"),
    "chmod": lambda top: os.chmod(top / "big.bin", 0o700),
    "chown": lambda top: os.chown(top / "big.bin", 1, 1),
    "utime": lambda top: os.utime(top / "big.bin"),
    "truncate": lambda top: os.truncate(top / "big.bin", 0),
    "setxattr": lambda top: os.setxattr(top / "big.bin", "user.x", b"y"),
    "removexattr": lambda top: os.removexattr(top / "big.bin", "user.rescale.file_id"),
}


def test_a_change_of_any_kind_is_refused(outputs: Path) -> None:
    expected = {"EROFS"} if os.getuid() == 0 else {"EROFS", "EACCES", "EPERM"}

    found = {name: errno_of(change, outputs) for name, change in CHANGES.items()}

    # Of nameless files the kernel says that there are none here. (ENOTSUP is EOPNOTSUPP.)
    assert found.pop("create a nameless file") in {"ENOTSUP", *expected}
    assert set(found.values()) <= expected, found


def test_a_refused_change_sends_nothing(outputs: Path, top: Path, emulator: Emulator) -> None:
    """Not even a question, where the name is known."""
    for path in (outputs / "big.bin", outputs / "case", outputs.parent / "latest", top / "log"):
        path.stat()
    emulator.reset_counts()
    for name in ("open for writing", "unlink", "chmod", "truncate", "setxattr"):
        errno_of(CHANGES[name], outputs)
    assert emulator.requests.total() == 0

    for change in CHANGES.values():
        errno_of(change, outputs)
        errno_of(change, top)
    assert posts(emulator) == 0


TOOLS = [
    "mkdir new",
    "rm -f big.bin",
    "rm -rf case",
    "touch new",
    "touch big.bin",
    "mv big.bin other",
    "chmod 777 big.bin",
    "setfattr -n user.x -v y big.bin",
    "ln -s a b",
    "sh -c 'echo x > big.bin'",
    "truncate -s 0 big.bin",
    "cp /etc/hostname big.bin",
    "sed -i s/a/b/ process_output.log",
    "rsync -a --delete /etc/hostname ./",
]


def test_tools_that_change_fail(outputs: Path) -> None:
    """With a message that says why."""
    before = sorted(os.listdir(outputs))
    for tool in TOOLS:
        done = run_in(tool, outputs)
        assert done.returncode != 0, tool
        messages = ("Read-only file system",) if os.getuid() == 0 else ("Read-only file system", "ermission denied")
        assert any(message in done.stderr for message in messages), done.stderr
    assert sorted(os.listdir(outputs)) == before
