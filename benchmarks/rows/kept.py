"""Reads that need no request: from the disk cache, and from the kernel's memory."""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.checks import Outcome
from benchmarks.files import BIG, NOTE
from benchmarks.mounts import Mount, cool
from benchmarks.readers import Failed, check, read

# A mount that cannot fill its cache in this time has no figure.
FILL_S = 180.0
PEERS_THAT_KEEP = ("rclone", "httpdirfs")
# A virtual machine gives freed memory back to its host after 2 s, and pays for it anew at the next read: three times
# the time of a read from disk, measured. So everybody waits until it is gone, or some would find it there.
FREED_S = 4.0


def disk(bench: Bench, row: Outcome) -> None:
    """1 GiB from the disk cache, nothing in memory."""
    bench.origin.limit()

    # The first pass of each is not counted: under a virtual machine, it waits for the host's disk.
    def native() -> float:
        cool(bench.on_disk(BIG))
        time.sleep(FREED_S)
        return bench.seconds("fast", bench.on_disk(BIG), BIG)

    def filled(mount: Mount) -> list[float]:
        bench.seconds("whole", mount.file(BIG), BIG, FILL_S)
        samples = []
        for _ in range(1 + bench.repeat):
            mount.remount()
            bench.look(mount.file(BIG))
            time.sleep(FREED_S)
            samples.append(bench.seconds("fast", mount.file(BIG), BIG, FILL_S))
            if bench.origin.counts().content_bytes >= bench.sizes.big_bytes:
                raise Failed(f"{mount.name} fetched everything again")
        return samples[1:]

    native()
    with bench.mounted(has_budget=False) as mount:
        ours = row.figure("rescalefs", filled(mount))
        row.exactly("content requests", bench.origin.counts().content_requests, 0)
    row.at_least("speed, by the disk's", row.figure("disk", bench.once("disk native", native)) / ours, 0.5)
    for peer in PEERS_THAT_KEEP:
        bench.beside_all(row, peer, filled)


def warm(bench: Bench, row: Outcome) -> None:
    """1 GiB that was just read, from the kernel's page cache."""
    bench.origin.limit()

    def native() -> float:
        return bench.seconds("fast", bench.on_disk(BIG), BIG)

    def again(mount: Mount) -> list[float]:
        for _ in range(2):  # the second open is the first whose pages may stay
            bench.seconds("whole", mount.file(BIG), BIG, FILL_S)
        before_s = mount.cpu_s()
        samples = [bench.seconds("fast", mount.file(BIG), BIG, FILL_S) for _ in range(bench.repeat)]
        cpu.append((mount.cpu_s() - before_s) / bench.repeat)
        return samples

    cpu: list[float] = []
    with bench.mounted(has_budget=False) as mount:
        ours = row.figure("rescalefs", again(mount))
        row.at_most("CPU of the mount, each time", cpu[0], 0.05, "s")
    native()
    row.at_least("speed, by memory's", row.figure("memory", bench.once("warm native", native)) / ours, 0.25)
    for peer in PEERS_THAT_KEEP:
        bench.beside_all(row, peer, again)


def reopen(bench: Bench, row: Outcome) -> None:
    """Open, read and close a cached file of 4 KiB, many times; the mean."""
    bench.origin.limit()

    def mean(path: object) -> float:
        found = read("reopen", str(path), bench.sizes.reopens)
        check(found["sha512"], bench.checksum(NOTE), str(path))
        return float(found["seconds"])

    def measure(mount: Mount) -> list[float]:
        mean(mount.file(NOTE))
        return [mean(mount.file(NOTE)) for _ in range(bench.repeat)]

    with bench.mounted() as mount:
        ours = row.figure("rescalefs", measure(mount))
    native = row.figure("disk", bench.once("reopen native", lambda: mean(bench.on_disk(NOTE))))
    row.at_most("time, by the disk's", ours / native, 30)
    for peer in PEERS_THAT_KEEP:
        bench.beside_all(row, peer, measure)
