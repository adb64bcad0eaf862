"""A program that does this and that in a mount of `stress_world`, on several threads, and looks at every byte.

    python -m tests.stress_worker DIRECTORY THREADS SEED SECONDS

It prints one JSON object: how often each operation was done, which errors there were, how long the slowest of each
kind of system call took, and what was wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rescalefs.emulator.content import Generated
from rescalefs.emulator.world import Run, World

KIB, MIB = 1 << 10, 1 << 20
SIZES = [0, 1, 700, 64 * KIB, 300 * KIB, MIB, 4 * MIB, 5 * MIB + 13, 9 * MIB]
FINAL_JOBS = ("FinaA", "FinaB")
LIVE_JOB = "LiveR"
# The files of each job that is over, in two directories; no two of one job are equal, those of two jobs are.
FILES = {
    f"case/{number % 2}/{size}.{number}": Generated(size, f"{size}.{number}")
    for size in SIZES
    for number in range(6 if size < MIB else 3)
}
# What may come of a fault.
EXCUSED = {errno.EIO, errno.ETIMEDOUT}
# Between two operations of a thread, at most: the machine is for the mount, and for others.
_PAUSE_S = 0.02


def line(number: int) -> bytes:
    """Return one line of the live log, which is made of them in order."""
    return b"Time = %d, residual %d\n" % (number, number * 7919 % 10007)


def stress_world() -> tuple[World, Run]:
    """Make two jobs that are over, with equal files, and one with a live run, which is returned too."""
    world = World()
    for job in FINAL_JOBS:
        world.add_job(job).add_run(finished=True, files=FILES)
    return world, world.add_job(LIVE_JOB).add_run(live={"log": line(0)})


class Worker:
    """What one thread does."""

    def __init__(self, top: Path, seed: int) -> None:
        self._top = top
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.wrong: list[str] = []
        self._log_bytes = 0

    def work_until(self, end_at: float) -> None:
        """Do one thing after the other."""
        chances: dict[Callable[[], None], int] = {
            self._read: 30,
            self._stat: 20,
            self._list: 15,
            self._tail: 10,
            self._xattr: 8,
            self._text: 6,
            self._miss: 4,
            self._write: 3,
            self._payload: 2,
            self._refresh: 1,
            self._df: 3,
        }
        while time.monotonic() < end_at:
            (thing,) = self._random.choices(list(chances), list(chances.values()))
            name = thing.__name__.lstrip("_")
            self.counts[name] += 1
            try:
                thing()
            except OSError as error:
                code = errno.errorcode.get(error.errno or 0, str(error.errno))
                self.errors[f"{name} {code}"] += 1
                if error.errno not in EXCUSED:
                    self.wrong.append(f"{name}: {error}")
            time.sleep(self._random.random() * _PAUSE_S)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - began)

    def _check(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.wrong.append(what)

    def _run(self) -> Path:
        return self._top / "jobs" / self._random.choice(FINAL_JOBS) / "runs" / self._random.choice(["1", "latest"])

    def _file(self) -> tuple[Path, Generated]:
        path = self._random.choice(list(FILES))
        return self._run() / path, FILES[path]

    def _read(self) -> None:
        path, content = self._file()
        with self._timed("open"):
            descriptor = os.open(path, os.O_RDONLY)
        try:
            places = [self._random.randrange(content.size + 1) for _ in range(self._random.randint(1, 5))]
            sizes = [self._random.choice([1, 4 * KIB, 100 * KIB, MIB]) for _ in places]
            if self._random.random() < 0.3:
                places, sizes = list(range(0, content.size + 1, MIB)), [MIB] * (content.size // MIB + 1)
            for place, size in zip(places, sizes, strict=True):
                self._read_all(descriptor, path, content, place, min(content.size, place + size))
        finally:
            with self._timed("close"):
                os.close(descriptor)

    def _read_all(self, descriptor: int, path: Path, content: Generated, place: int, end: int) -> None:
        """Read until all is there or an error comes: the kernel returns what precedes an error as a short read."""
        while place < end:
            with self._timed("read"):
                data = os.pread(descriptor, end - place, place)
            self._check(bool(data), f"{path} ends at {place}, not at {content.size}")
            self._check(
                data == content.read(place, place + len(data)), f"{path} is wrong at {place}, {len(data)} bytes"
            )
            place += len(data) or end

    def _stat(self) -> None:
        path, content = self._file()
        with self._timed("stat"):
            found = path.stat()
        self._check((found.st_size, found.st_mode) == (content.size, stat.S_IFREG | 0o444), f"{path} is {found}")

    def _list(self) -> None:
        branch = self._random.choice(["case", "case/0", "case/1"])
        path = self._run() / branch
        with self._timed("list"):
            names = set(os.listdir(path))
        below = {name.removeprefix(f"{branch}/").partition("/")[0] for name in FILES if name.startswith(f"{branch}/")}
        self._check(names == below, f"{path} has {sorted(names ^ below)} more or less")

    def _tail(self) -> None:
        path = self._top / "jobs" / LIVE_JOB / "runs/1/log"
        with self._timed("open"):
            descriptor = os.open(path, os.O_RDONLY)
        try:
            data = b""
            while True:
                with self._timed("read of a live file"):
                    more = os.read(descriptor, 100 * KIB)
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
        number, expected = 0, bytearray()
        while len(expected) < len(data):
            expected += line(number)
            number += 1
        self._check(bytes(expected[: len(data)]) == data, f"{path}: other bytes than were written")
        self._check(len(data) >= self._log_bytes, f"{path}: {len(data)} bytes after {self._log_bytes}")
        self._log_bytes = len(data)

    def _xattr(self) -> None:
        path, _ = self._file()
        with self._timed("xattr"):
            names = os.listxattr(path)
        self._check("user.rescale.sha512" in names, f"{path} has {names}")
        with self._timed("xattr"):
            self._check(os.getxattr(path, "user.rescale.run_id") == b"1", f"{path} is of another run")

    def _text(self) -> None:
        name = self._random.choice(["status", "stats", "config", "version"])
        with self._timed("text"):
            self._check(bool((self._top / ".rescale" / name).read_text()), f"{name} is empty")
        name = self._random.choice(["jobs.csv", "jobs/FinaA/runs.csv", "jobs/FinaA/.rescale/status"])
        with self._timed("text"):
            self._check(bool((self._top / name).read_text()), f"{name} is empty")

    def _miss(self) -> None:
        path = self._run() / self._random.choice([".git", "desktop.ini", "case/nothing", "x" * 255])
        try:
            with self._timed("stat"):
                path.stat()
            self.wrong.append(f"{path} is there")
        except FileNotFoundError:
            pass

    def _write(self) -> None:
        path, _ = self._file()
        try:
            with self._timed("open"):
                os.close(os.open(path, os.O_WRONLY))
            self.wrong.append(f"{path} may be written")
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise

    def _payload(self) -> None:
        path = self._top / "jobs" / LIVE_JOB / "runs/1/.rescale" / self._random.choice(["stop", "snapshot", "refresh"])
        try:
            with self._timed("control"):
                path.write_bytes(self._random.choice([b"0", b"yes\n", b"11", b"\xff" * 5000]))
            self.wrong.append(f"{path} took it")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def _refresh(self) -> None:
        level = self._random.choice(["", "jobs/FinaA", "jobs/FinaB/runs/1"])
        with self._timed("control"):
            (self._top / level / ".rescale/refresh").write_bytes(b"1\n")

    def _df(self) -> None:
        with self._timed("df"):
            os.statvfs(self._top)


def main(top: str, threads: str, seed: str, seconds: str) -> None:
    """Work and print what was seen."""
    workers = [Worker(Path(top), int(seed) * 1000 + number) for number in range(int(threads))]
    end_at = time.monotonic() + float(seconds)
    running = [threading.Thread(target=worker.work_until, args=(end_at,)) for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    slowest = {
        name: max(worker.slowest.get(name, 0.0) for worker in workers) for worker in workers for name in worker.slowest
    }
    report = {
        "counts": sum((worker.counts for worker in workers), Counter()),
        "errors": sum((worker.errors for worker in workers), Counter()),
        "slowest": slowest,
        "wrong": [text for worker in workers for text in worker.wrong][:20],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
