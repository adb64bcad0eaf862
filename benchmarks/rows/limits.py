"""What must not grow: memory with many readers, and the wait for names while bytes do not come."""

from __future__ import annotations

from benchmarks.bench import FAR_BYTES_PER_S, Bench
from benchmarks.checks import Outcome
from benchmarks.files import MIB, STEP_BYTES, checksum
from benchmarks.mounts import Mount
from benchmarks.readers import check, read
from benchmarks.readers import stuck as stuck_readers

# How many names are looked at while others wait, and how long the others have waited by then.
NAMES = 100
WAITED_S = 1.0


def memory(bench: Bench, row: Outcome) -> None:
    """200 files of 64 MiB read at once, 4 MiB of each, 8.5 MB/s a stream, request budget off."""
    bench.origin.limit(bytes_per_s=FAR_BYTES_PER_S)
    names = bench.sizes.many_names[: bench.sizes.readers_in_memory]
    size = bench.sizes.memory_read_bytes
    base = bench.root / "base.bin"
    expected = [checksum(base, number * STEP_BYTES, size) for number in range(len(names))]
    peaks: list[float] = []

    def measure(mount: Mount) -> float:
        bench.look(*(mount.file(name) for name in names))
        found = read("together", size, *(mount.file(name) for name in names))
        check(found["sha512"], expected, "many readers")
        peaks.append(mount.peak_bytes())
        return float(found["seconds"])

    samples, _ = bench.cold(measure, has_budget=False)
    row.figure("rescalefs", samples)
    row.figure("most memory", peaks, "bytes")
    row.at_most("most memory", max(peaks), 300 * MIB, "bytes")


def stuck(bench: Bench, row: Outcome) -> None:
    """stat of 100 known files while 300 readers wait for an origin that hangs."""
    bench.origin.limit()
    names = bench.sizes.small_names[:NAMES]
    slowest: list[float] = []
    sent_bytes: list[float] = []

    def measure(mount: Mount) -> float:
        read("stat", mount.file(names[0]))  # one look, and the listing has them all
        waiting = [mount.file(name) for name in bench.sizes.many_names]
        bench.look(waiting[0])
        bench.origin.limit(hangs=True)
        with stuck_readers(waiting, WAITED_S):
            try:
                found = read("stat", *(mount.file(name) for name in names), deadline_s=60)
                sent_bytes.append(bench.origin.counts().content_bytes)
            finally:
                bench.origin.limit()  # before the readers are killed: those in an unanswered read cannot go
        slowest.append(max(found["each"]))
        return float(found["seconds"]) / len(names)

    samples, _ = bench.cold(measure, has_budget=False)
    row.figure("mean", samples)
    row.exactly("bytes that a reader got", max(sent_bytes), 0, "bytes")  # else they did not wait
    row.at_most("slowest", max(slowest), 0.05, "s")
