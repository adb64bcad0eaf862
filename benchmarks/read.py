"""The program that reads files through mounts; a process of its own, so that a stuck mount holds nobody else.

    python -m benchmarks.read whole FILE                  sequentially, summed as it comes
    python -m benchmarks.read fast FILE                   sequentially, timed; then once more, summed
    python -m benchmarks.read random FILE SIZE OFFSET...  at the offsets, one after the other
    python -m benchmarks.read reopen FILE COUNT           open, read, close, again and again
    python -m benchmarks.read together BYTES FILE...      the first BYTES of each, all at once, a thread for each
    python -m benchmarks.read stuck FILE...               like `together`, telling when all have begun
    python -m benchmarks.read look FILE COUNT             stat, again and again
    python -m benchmarks.read stat FILE...                one after the other, each timed

It prints one JSON object: `seconds` without the start of Python, checksums (`sha512`), and what else is above.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable

# One read(2) of a sequential reader, as cp and cat make them.
READ_BYTES = 1 << 17
# What each of the stuck readers wants.
STUCK_BYTES = 4096


def whole(path: str) -> dict[str, object]:
    """Read all of *path*; the sum is part of the time."""
    digest = hashlib.sha512()
    begun = time.perf_counter()
    size = _through(path, digest.update)
    return {"seconds": time.perf_counter() - begun, "sha512": digest.hexdigest(), "bytes": size}


def fast(path: str) -> dict[str, object]:
    """Read all of *path* as fast as it comes, then sum what is there."""
    begun = time.perf_counter()
    size = _through(path, lambda data: None)
    seconds = time.perf_counter() - begun
    return {**whole(path), "seconds": seconds, "bytes": size}


def _through(path: str, use: Callable[[memoryview], object]) -> int:
    buffer, total = memoryview(bytearray(READ_BYTES)), 0
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            use(buffer[:size])
            total += size
    return total


def random(path: str, size: str, *offsets: str) -> dict[str, object]:
    """Read *size* bytes at each of *offsets*, as a program does that knows where it looks."""
    digest = hashlib.sha512()
    begun = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        for offset in offsets:
            digest.update(os.pread(file.fileno(), int(size), int(offset)))
    return {"seconds": time.perf_counter() - begun, "sha512": digest.hexdigest()}


def reopen(path: str, count: str) -> dict[str, object]:
    """Open, read and close *path*; seconds are those of one time."""
    data = b""
    begun = time.perf_counter()
    for _ in range(int(count)):
        descriptor = os.open(path, os.O_RDONLY)
        data = os.read(descriptor, 1 << 20)
        os.close(descriptor)
    seconds = (time.perf_counter() - begun) / int(count)
    return {"seconds": seconds, "sha512": hashlib.sha512(data).hexdigest()}


def together(size: str, *paths: str) -> dict[str, object]:
    """Read the first *size* bytes of all *paths* side by side."""
    sums: dict[str, str] = {}
    gate = threading.Barrier(len(paths) + 1)

    def read(path: str) -> None:
        left, digest = int(size), hashlib.sha512()
        with open(path, "rb", buffering=0) as file:
            gate.wait()
            while left and (data := file.read(min(READ_BYTES, left))):
                digest.update(data)
                left -= len(data)
        sums[path] = digest.hexdigest()

    threads = [threading.Thread(target=read, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - begun, "sha512": [sums.get(path) for path in paths]}


def stuck(*paths: str) -> dict[str, object]:
    """Read the first bytes of all *paths* from a mount that does not answer; never returns if it does not."""
    gate = threading.Barrier(len(paths) + 1)

    def read(path: str) -> None:
        with open(path, "rb", buffering=0) as file:
            gate.wait()
            file.read(STUCK_BYTES)

    for path in paths:
        threading.Thread(target=read, args=(path,)).start()
    gate.wait()
    return {"began": len(paths)}


def stat(*paths: str) -> dict[str, object]:
    """Look at *paths* one after the other."""
    each = []
    for path in paths:
        begun = time.perf_counter()
        os.stat(path)
        each.append(time.perf_counter() - begun)
    return {"seconds": sum(each), "each": each}


def look(path: str, count: str) -> dict[str, object]:
    """Look at *path*, again and again; seconds are those of one time."""
    begun = time.perf_counter()
    for _ in range(int(count)):
        os.stat(path)
    return {"seconds": (time.perf_counter() - begun) / int(count)}


PROGRAMS: dict[str, Callable[..., dict[str, object]]] = {
    program.__name__: program for program in (whole, fast, random, reopen, together, stuck, look, stat)
}

if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])), flush=True)
