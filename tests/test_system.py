"""What this program asks of the operating system for itself: room for descriptors, and a memory of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from rescalefs.config import parse_mount_options
from rescalefs.system import HEAPS
from tests.test_cli import ROOT


def in_a_process(code: str) -> str:
    """Run lines of Python in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("soft", "hard"), [(256, 1024), (512, 512)])
def test_all_descriptors_that_may_be_had_are_had(soft: int, hard: int) -> None:
    """The soft limit is raised to the hard one."""
    said = in_a_process(
        "import resource; from rescalefs.system import raise_descriptor_limit as r\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(r(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert said == f"{hard} ({hard}, {hard})"


def test_a_process_with_a_key_leaves_no_core() -> None:
    """It is killed as if to leave one, and another process of its user may not read its environment."""
    said = in_a_process(
        "import ctypes, os, resource\n"
        "from rescalefs.system import keep_memory_private\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, -1))\n"
        "keep_memory_private()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), os.stat('/proc/self/environ').st_uid, end=' ', flush=True)\n"
        "child = os.fork()\n"
        "child or os.abort()\n"
        "print(os.WCOREDUMP(os.waitpid(child, 0)[1]))\n"
    )
    assert said == "0 0 False"


ALLOCATE = """
import os, threading
from rescalefs.system import share_heaps
{call}
all_have = threading.Barrier(16)
def allocate():
    kept = [bytes(1000) for _ in range(1000)]
    all_have.wait(30)
threads = [threading.Thread(target=allocate) for _ in range(15)]
for thread in threads: thread.start()
all_have.wait(30)
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps") if " rw-p 00000000 00:00 0" in line]
print(sum(start % (64 << 20) == 0 for start in starts))
for thread in threads: thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have one heap")
def test_threads_share_few_heaps() -> None:
    """Their number does not grow with the threads; without being asked it does."""
    assert int(in_a_process(ALLOCATE.format(call="share_heaps()"))) < HEAPS
    assert int(in_a_process(ALLOCATE.format(call=""))) > HEAPS


@pytest.mark.parametrize("word", ["default_permissions", "default_permissions=0", "defaults,default_permissions=no"])
def test_the_kernel_always_checks_modes(word: str) -> None:
    """No option turns that off: control files would be open to everybody under allow_other."""
    assert parse_mount_options((word, "allow_other")) == {"allow_other": True}
