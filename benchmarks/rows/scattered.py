"""Reads here and there: in one large file, and over many small ones."""

from __future__ import annotations

import random as random_numbers

from benchmarks.bench import Bench, most
from benchmarks.checks import Outcome
from benchmarks.competitors import curl
from benchmarks.files import BIG, MIB, TWIN, checksum, checksum_of_parts
from benchmarks.mounts import Mount
from benchmarks.readers import Failed, check, read, run

CHUNK_BYTES = 64 << 10
SEED = 7


def random(bench: Bench, row: Outcome) -> None:
    """100 random reads of 64 KiB in 1 GiB, one after the other, 50 ms, 8.5 MB/s a stream."""
    bench.far()
    chunks = random_numbers.Random(SEED).sample(range(bench.sizes.big_bytes // CHUNK_BYTES), bench.sizes.random_reads)
    parts = [(chunk * CHUNK_BYTES, CHUNK_BYTES) for chunk in chunks]
    expected = checksum_of_parts(bench.on_disk(BIG), parts)
    wanted_bytes = len(parts) * CHUNK_BYTES

    def measure(mount: Mount) -> float:
        bench.look(mount.file(BIG))
        found = read("random", mount.file(BIG), CHUNK_BYTES, *(start for start, _ in parts))
        check(found["sha512"], expected, mount.name)
        return float(found["seconds"])

    def fetch() -> float:
        return curl(bench.origin, bench.root, [(BIG, part) for part in parts], expected)

    samples, counts = bench.cold(measure)
    ours = row.figure("rescalefs", samples)
    row.at_most("time, by curl's", ours / row.figure("curl", bench.once("random curl", fetch)), 1.2)
    row.at_most("bytes sent, by those read", most(counts, lambda count: count.content_bytes) / wanted_bytes, 4)
    row.at_most("content requests", most(counts, lambda count: count.content_requests), len(parts))
    bench.beside(row, "rclone", measure)


def small(bench: Bench, row: Outcome) -> None:
    """md5sum of 1000 files of 100 KB in 20 directories, 20 ms, request budget off."""
    bench.near()
    names = bench.sizes.small_names
    again, remounted = [], []

    def measure(mount: Mount) -> float:
        bench.look(mount.file(names[0]))
        seconds = _md5sum(bench, mount)
        first = bench.origin.counts().content_requests
        _md5sum(bench, mount)
        again.append(bench.origin.counts().content_requests - first)
        mount.remount()
        bench.origin.reset()
        _md5sum(bench, mount)
        remounted.append(bench.origin.counts().content_requests)
        firsts.append(first)
        return seconds

    firsts: list[int] = []
    samples, _ = bench.cold(measure, has_budget=False)
    ours = row.figure("rescalefs", samples)
    row.at_least("speed, by one request at a time", row.figure("curl", _one_by_one(bench)) / ours, 6)
    row.exactly("content requests", _odd_one(firsts, len(names)), len(names))
    row.exactly("content requests, again", max(again), 0)
    row.exactly("content requests, after a remount", max(remounted), 0)


def small_budget(bench: Bench, row: Outcome) -> None:
    """The same md5sum with the request budget."""
    bench.near()

    def measure(mount: Mount) -> float:
        bench.look(mount.file(bench.sizes.small_names[0]))
        return _md5sum(bench, mount)

    samples, counts = bench.cold(measure)
    row.figure("rescalefs", samples)
    row.figure("curl", _one_by_one(bench))
    wanted = len(bench.sizes.small_names)
    row.exactly("content requests", _odd_one([count.content_requests for count in counts], wanted), wanted)


def _one_by_one(bench: Bench) -> tuple[float, ...]:
    names = bench.sizes.small_names

    def fetch() -> float:
        return curl(bench.origin, bench.root, [(name, None) for name in names], bench.checksum_of_all(names))

    return bench.once("small curl", fetch)


def _odd_one(found: list[int], expected: int) -> int:
    """Return a count that is not *expected*, if there is one."""
    return next((count for count in found if count != expected), expected)


def _md5sum(bench: Bench, mount: Mount) -> float:
    names = bench.sizes.small_names
    seconds, out = run("md5sum", *(mount.file(name) for name in names))
    for line, name in zip(out.decode().splitlines(), names, strict=True):
        if line.split()[0] != checksum(bench.on_disk(name), algorithm="md5"):
            raise Failed(f"{name}: wrong bytes were read")
    return seconds


def twins(bench: Bench, row: Outcome) -> None:
    """The same file of 1 MiB in 12 runs, read in each, 50 ms."""
    bench.far()
    runs = range(1, bench.sizes.twin_runs + 1)

    def measure(mount: Mount) -> float:
        paths = [mount.file(TWIN, number) for number in runs]
        bench.look(*paths)
        return sum(bench.seconds("whole", path, TWIN) for path in paths)

    samples, counts = bench.cold(measure)
    row.figure("rescalefs", samples)
    row.exactly("content requests", most(counts, lambda count: count.content_requests), 1)
    row.at_most("bytes sent", most(counts, lambda count: count.content_bytes), MIB, "bytes")
