"""Files read from one end to the other, or only at an end."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks.bench import Bench, most
from benchmarks.checks import Outcome
from benchmarks.competitors import curl, downloader
from benchmarks.files import BIG, MIB, SEQ, checksum
from benchmarks.mounts import Mount
from benchmarks.readers import check, read_side_by_side, run

PAGE_BYTES = 4096
READERS = 8


def stream(bench: Bench, row: Outcome) -> None:
    """Cold sequential read of 256 MiB, 50 ms, 8.5 MB/s a stream."""
    bench.far()

    def measure(mount: Mount) -> float:
        bench.look(mount.file(SEQ))
        return bench.seconds("fast", mount.file(SEQ), SEQ)

    one = bench.once(
        "stream curl", lambda: curl(bench.origin, bench.root, [(SEQ, None)], bench.checksum(SEQ)), repeat=1
    )
    all16 = bench.once("stream 16", lambda: downloader(bench.origin, bench.root, SEQ, bench.on_disk(SEQ)))
    samples, counts = bench.cold(measure)
    ours = row.figure("rescalefs", samples)
    row.at_least("speed, by curl's", row.figure("curl", one) / ours, 12)
    row.at_least("speed, by that of 16 threads", row.figure("16 threads", all16) / ours, 0.9)
    row.at_most("content requests", most(counts, lambda count: count.content_requests), 48)
    row.figure("bytes sent", [count.content_bytes for count in counts], "bytes")
    for peer in ("rclone", "rclone, 16 streams"):
        bench.beside(row, peer, measure)


def verified(bench: Bench, row: Outcome) -> None:
    """Cold sequential read of 1 GiB with sha512, 20 ms, streams not limited."""
    bench.near()

    def measure(mount: Mount) -> float:
        bench.look(mount.file(BIG))
        return bench.seconds("whole", mount.file(BIG), BIG)

    samples, counts = bench.cold(measure)
    ours = row.figure("rescalefs", samples)
    row.figure("content requests", [count.content_requests for count in counts], "")
    peer = bench.beside(row, "rclone", measure)
    if peer is not None:
        row.at_most("time, by rclone's", ours / peer, 2)


def head(bench: Bench, row: Outcome) -> None:
    """First 4096 bytes of 1 GiB (head -c), 50 ms."""
    bench.far()
    seconds = _one_end(bench, row, "head", 0, requests=1, sent_bytes=MIB)
    expected = checksum(bench.on_disk(BIG), 0, PAGE_BYTES)
    request = [(BIG, (0, PAGE_BYTES))]
    one = row.figure("curl", bench.once("head curl", lambda: curl(bench.origin, bench.root, request, expected)))
    row.at_most("time, by curl's", seconds / one, 1.5)


def tail(bench: Bench, row: Outcome) -> None:
    """Last 4096 bytes of 1 GiB (tail -c), 50 ms."""
    bench.far()
    _one_end(bench, row, "tail", bench.sizes.big_bytes - PAGE_BYTES, requests=2, sent_bytes=2 * MIB)


def _one_end(bench: Bench, row: Outcome, program: str, start: int, *, requests: int, sent_bytes: int) -> float:
    expected = checksum(bench.on_disk(BIG), start, PAGE_BYTES)

    def measure(mount: Mount) -> float:
        bench.look(mount.file(BIG))
        seconds, out = run(program, "-c", str(PAGE_BYTES), mount.file(BIG))
        check(hashlib.sha512(out).hexdigest(), expected, program)
        return seconds

    samples, counts = bench.cold(measure)
    row.at_most("content requests", most(counts, lambda count: count.content_requests), requests)
    row.at_most("bytes sent", most(counts, lambda count: count.content_bytes), sent_bytes, "bytes")
    return row.figure("rescalefs", samples)


def shared(bench: Bench, row: Outcome) -> None:
    """Eight readers of one cold file of 256 MiB at once, 50 ms, 8.5 MB/s a stream."""
    bench.far()

    def measure(mount: Mount) -> float:
        path: Path = mount.file(SEQ)
        bench.look(path)
        all_found = read_side_by_side(READERS, "whole", path)
        for found in all_found:
            check(found["sha512"], bench.checksum(SEQ), str(path))
        return max(float(found["seconds"]) for found in all_found)

    samples, counts = bench.cold(measure)
    row.figure("rescalefs", samples)
    sent = most(counts, lambda count: count.content_bytes)
    row.at_most("bytes sent, by the file's", sent / bench.sizes.seq_bytes, 1.02)
