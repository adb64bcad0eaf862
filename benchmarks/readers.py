"""Running the programs that read: each with a deadline, none left behind."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# Longer than any row takes when all is well, by far.
DEADLINE_S = 600.0
# A killed reader is gone when its mount answers or ends; nobody waits longer for it.
KILLED_S = 2.0
ROOT = Path(__file__).parent.parent

Word = str | Path


class Failed(Exception):
    """A program failed, took too long, or read something wrong."""


@contextmanager
def _started(words: Sequence[Word]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*map(str, words)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            try:
                process.communicate(timeout=KILLED_S)
            except subprocess.TimeoutExpired:
                print(f"benchmarks: process {process.pid} is stuck, left to its mount's end", file=sys.stderr)


def _finish(process: subprocess.Popen[bytes], words: Sequence[Word], deadline_s: float) -> bytes:
    try:
        out, err = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]}: no end after {deadline_s:.0f} s") from None
    if process.returncode != 0:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise Failed(f"{words[0]} ended with {process.returncode}: {last}")
    return out


def run(*words: Word, deadline_s: float = DEADLINE_S) -> tuple[float, bytes]:
    """Run a program; return its wall time in seconds and what it printed.

    Raises:
        Failed: it failed or took longer.
    """
    begun = time.perf_counter()
    with _started(words) as process:
        out = _finish(process, words, deadline_s)
        return time.perf_counter() - begun, out


def read(program: str, *arguments: Word | int, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Run a program of `benchmarks.read`; return what it found.

    Raises:
        Failed: it failed or took longer.
    """
    words: list[Word] = [sys.executable, "-m", "benchmarks.read", program]
    _, out = run(*words, *(str(argument) for argument in arguments), deadline_s=deadline_s)
    found: dict[str, Any] = json.loads(out)
    return found


def read_side_by_side(count: int, program: str, path: Path, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
    """Run *count* readers of one file at once.

    Raises:
        Failed: one failed or took longer.
    """
    words: list[Word] = [sys.executable, "-m", "benchmarks.read", program, path]
    until = time.monotonic() + deadline_s
    with ExitStack() as stack:
        processes = [stack.enter_context(_started(words)) for _ in range(count)]
        return [json.loads(_finish(process, words, until - time.monotonic())) for process in processes]


@contextmanager
def stuck(paths: Sequence[Path], waited_s: float, deadline_s: float = 60.0) -> Iterator[None]:
    """Have a reader for each of *paths* wait for bytes that do not come, while the `with` block lasts.

    The block begins when they have waited for *waited_s*.

    Raises:
        Failed: the readers could not begin.
    """
    with _started([sys.executable, "-m", "benchmarks.read", "stuck", *paths]) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], deadline_s)
        if not readable or b"began" not in process.stdout.readline():
            raise Failed("the readers that shall be stuck could not open their files")
        time.sleep(waited_s)
        yield


def check(found: object, expected: object, what: str) -> None:
    """Compare a checksum.

    Raises:
        Failed: they differ.
    """
    if found != expected:
        raise Failed(f"{what}: wrong bytes were read")
