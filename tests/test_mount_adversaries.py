"""Logs that only seem to go on, followed by their last lines on a real mount: what was served wrongly is counted."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.files import LiveFile
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.test_mount_followers import live_stats
from tests.test_mount_live import LOG, SOON_S, refresh, serve_tail

pytestmark = pytest.mark.mount

SHORT_S = 4.0
# Longer than a file may be followed in parts without a look at the whole.
LONG_S = 660.0


def more(chance: random.Random) -> bytes:
    """Some lines, no two alike."""
    return b"".join(b"%d\n" % chance.getrandbits(80) for _ in range(chance.randint(1, 30)))


def repeating(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """What it ends with, or a line, many times."""
    yield data + chance.choice([data[-6000:], b"the same line\n" * 600, more(chance)])


def middle(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A few bytes in the middle are others, and it goes on."""
    at = len(LOG) // 2
    yield data[:at] + b"%04d" % chance.randrange(10_000) + data[at + 4 :] + more(chance)


def head(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A counter in the first line, as formats have it that tell their own size."""
    yield b"%08d\n" % len(data) + data[9:] + more(chance)


def rotated(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Another file that begins with the end of the one before, and is no shorter than that."""
    another = bytearray(data[-20_000:])
    while len(another) <= len(data):
        another += more(chance)
    yield bytes(another)


def returning(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A line that is written over itself on a terminal."""
    yield data + b"%d %%\r" % chance.randrange(100) + more(chance)


def binary(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """NUL bytes between lines, and a head that changes."""
    yield data[:50] + b"%04d" % chance.randrange(10_000) + data[54:] + b"\0" + more(chance)


def in_pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Pieces that end anywhere, in a character too."""
    text = f"Temp\u00e9rature {chance.random()}\n".encode()
    at = chance.randrange(len(text))
    yield data + text[:at]
    yield data + text


def many_at_once(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Some of the others within one look, and truncations."""
    for _ in range(chance.randint(2, 5)):
        change = chance.choice([repeating, middle, head, rotated, in_pieces, truncated])
        for version in change(data, chance):
            yield version
            data = version


def truncated(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A part of what it was, and then more."""
    yield data[: chance.choice([0, 5000, len(data) // 2, len(data) - 50])]
    yield data[: len(data) // 2] + b"".join(more(chance) for _ in range(100))


def growing(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A log as logs are."""
    yield data + more(chance)


Adversary = Callable[[bytes, random.Random], Iterator[bytes]]
ADVERSARIES: list[Adversary] = [
    *(growing, repeating, middle, head, rotated, returning, binary, in_pieces, many_at_once),
]
# Those that can be told from a log that goes on by nothing but the whole.
UNSEEN = {"middle", "head"}


class Log:
    """A file of the run, and all that it ever held, but what a later version begins with."""

    def __init__(self, file: LiveFile) -> None:
        self._file = file
        self.versions = [file.read()]

    def write(self, change: Adversary, chance: random.Random) -> None:
        for data in change(self.versions[-1], chance):
            if data.startswith(self.versions[-1]):
                self.versions[-1] = data
            else:
                self.versions.append(data)
            self._file.replace(data)

    def has_begun_with(self, data: bytes) -> bool:
        return any(version.startswith(data) for version in self.versions)


class Reader(threading.Thread):
    """Keeps a file open and reads on; what it was served, by generations."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.served = [b""]
        self.error: OSError | None = None
        self._is_over = threading.Event()
        self._descriptor = os.open(path, os.O_RDONLY)

    def run(self) -> None:
        while not self._is_over.wait(0.2):
            try:
                self.read()
            except OSError as error:
                self.error = error
                return

    def read(self) -> None:
        try:
            self.served[-1] += os.pread(self._descriptor, 8 << 20, len(self.served[-1]))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self.served.append(os.pread(self._descriptor, 8 << 20, 0))

    def close(self) -> None:
        self._is_over.set()
        self.join()
        os.close(self._descriptor)


def are_uploaded(top: Path) -> bool:
    """Tell whether those who follow the logs are in the final files."""
    refresh(top)
    return all(os.getxattr(top / change.__name__, "user.rescale.state") != b"live" for change in ADVERSARIES)


@pytest.mark.parametrize(
    "seconds", [SHORT_S, pytest.param(LONG_S, marks=[pytest.mark.long, pytest.mark.timeout(LONG_S + 180)])]
)
def test_a_log_that_only_seems_to_go_on_is_refuted_and_counted(
    seconds: float, world: World, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Whatever is written, a reader has what the file began with at some time, or a generation that was refuted.

    A log that grows is read in one generation beside all that, and everybody has the final files in the end.
    """
    serve_tail(emulator, "joins")
    mounted, chance = mount_of(emulator, RESCALEFS_BUDGET="off"), random.Random(7)
    run: Run = world.add_job("LiveR").add_run(live={change.__name__: LOG for change in ADVERSARIES})
    top = mounted.top(run)
    logs = {change: Log(run.live[change.__name__]) for change in ADVERSARIES}
    readers = {change: Reader(top / change.__name__) for change in ADVERSARIES}
    try:
        for change, reader in readers.items():
            wait_for(lambda: reader.read() or reader.served == [LOG], SOON_S, lambda: change.__name__)  # type: ignore[func-returns-value]  # noqa: B023
            reader.start()
        time.sleep(2.5)  # a look that learns that there are no ranges
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            for change, log in logs.items():
                # Most of the time all of them grow: what is always rewritten is soon read whole.
                log.write(change if chance.random() < 0.3 or seconds == SHORT_S else growing, chance)
            time.sleep(chance.choice([0.3, 1.0, 2.5]))
        joins = live_stats(mounted)["live.joins"]
        run.finish()
        wait_for(lambda: are_uploaded(top), SOON_S, lambda: "still live")
        for change, reader in readers.items():
            last = logs[change].versions[-1]
            wait_for(lambda: reader.error or reader.served[-1] == last, SOON_S, lambda: change.__name__)  # type: ignore[arg-type,return-value]  # noqa: B023
    finally:
        for reader in readers.values():
            reader.close()
    assert {change.__name__: reader.error for change, reader in readers.items() if reader.error} == {}
    wrong = [
        change.__name__
        for change, reader in readers.items()
        for served in reader.served
        if not logs[change].has_begun_with(served)
    ]
    stats = live_stats(mounted)
    assert len(readers[growing].served) == 1
    assert set(wrong) >= UNSEEN
    assert not set(wrong) & {"growing", "returning", "binary"}
    assert len(wrong) <= stats["live.refuted"] <= stats["live.replaced"]
    assert joins > len(ADVERSARIES)
