"""Names of large runs: found, found again, listed with all they have, looked at; and what they weigh."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.bench import NEAR_LATENCY_S, Bench, most
from benchmarks.checks import Outcome
from benchmarks.files import FLAT, SWEEP, VAST, WIDE
from benchmarks.mounts import Mount, forget_names
from benchmarks.readers import Failed, read, run

MB = 1_000_000
# Looks at one file, many times: a mean that the clock can tell.
LOOKS = 20_000
# What a look at the run's files may cost besides its pages: the list of jobs, the runs, and one to spare.
BESIDES = 3


def find(bench: Bench, row: Outcome) -> None:
    """find -type f in a run of 100,000 files, 20 ms, request budget off; then again, and after a remount."""
    bench.near()
    again, remounted, firsts, weights = [], [], [], []

    def measure(mount: Mount) -> float:
        bench.origin.reset()
        seconds = _find(bench, mount)
        firsts.append(_requests(bench))
        _find(bench, mount)
        again.append(_requests(bench) - firsts[-1])
        weights.append(mount.resident_bytes())
        mount.remount()
        bench.origin.reset()
        begun, _ = run("ls", _place(mount))
        starts.append(begun)
        _find(bench, mount)
        counts = bench.origin.counts().requests
        remounted.append(counts.get("run_files", 0))
        others.append(sum(counts.values()) - counts.get("users_me", 0))
        return seconds

    starts: list[float] = []
    others: list[int] = []
    samples, _ = bench.cold(measure, has_budget=False)
    row.at_most("time", row.figure("rescalefs", samples), 6, "s")
    row.at_most("requests", max(firsts), -(-bench.sizes.wide_files // 1000) + BESIDES)
    row.exactly("requests, again", max(again), 0)
    row.exactly("requests for files, after a remount", max(remounted), 0)
    row.at_most("requests, after a remount", max(others), 2)
    row.at_most("first ls, after a remount", row.figure("first ls", starts), 1, "s")
    row.at_most("memory of the mount", row.figure("memory", weights, "bytes"), 80 * MB, "bytes")


def names(bench: Bench, row: Outcome) -> None:
    """find -type f of the same run, its listing known, the kernel knowing nothing."""
    row.at_most("time, by the disk's", _beside_disk(bench, row, "find", _find), 9)


def details(bench: Bench, row: Outcome) -> None:
    """ls -lR of the same run, its listing known, the kernel knowing nothing."""

    def list_all(bench: Bench, mount: Mount | None) -> float:
        seconds, out = run("ls", "-lR", _place(mount) if mount else _on_disk(bench))
        _check(out.count(b"\n-r"), bench.sizes.wide_files)
        return seconds

    goal = 1.5 if bench.binding == "mfusepy" else 6
    row.at_most("time, by the disk's", _beside_disk(bench, row, "ls", list_all), goal)


def looks(bench: Bench, row: Outcome) -> None:
    """stat of one final file, again and again; the mean."""

    def mean(path: Path) -> float:
        return float(read("look", path, LOOKS)["seconds"])

    name = bench.sizes.wide_names[0]
    with bench.mounted() as mount:
        run("ls", "-l", mount.file(name).parent)
        ours = row.figure("rescalefs", [mean(mount.file(name)) for _ in range(bench.repeat)])
    native = row.figure(
        "disk", bench.once("looks native", lambda: mean(_on_disk(bench) / Path(name).relative_to(WIDE)))
    )
    if bench.binding == "mfusepy":
        row.at_most("time, by the disk's", ours / native, 1.3)


def flat(bench: Bench, row: Outcome) -> None:
    """ls -f and ls -l of one directory of 100,000 files, its listing known, the kernel knowing nothing."""
    bench.near()
    sorted_s, detailed_s, firsts = [], [], []
    with bench.mounted(has_budget=False) as mount:
        place = mount.file(f"{FLAT}/all")
        run("ls", place.parent)
        for _ in range(bench.repeat):
            mount.remount()
            firsts.append(run("bash", "-c", f"ls -f '{place}' | head -c 1")[0])
            seconds, out = run("ls", "-f", place)
            sorted_s.append(seconds)
            _check(out.count(b".dat\n"), bench.sizes.flat_files)
            mount.remount()
            seconds, out = run("ls", "-l", place)
            detailed_s.append(seconds)
            _check(out.count(b"\n-r"), bench.sizes.flat_files)
        row.figure("ls -f", sorted_s)
        row.figure("ls -l", detailed_s)
        row.at_most("first byte, after a remount", row.figure("first byte", firsts), 1, "s")
        row.figure("memory", [mount.resident_bytes()], "bytes")


def sweep(bench: Bench, row: Outcome) -> None:
    """find -type f in 121 runs of 66 files, 20 ms, request budget off; beside one listing a run."""
    bench.near()
    requests = []

    def measure(mount: Mount) -> float:
        bench.origin.reset()
        seconds, out = run("find", mount.file(f"{SWEEP}/x").parents[1], "-type", "f")
        _check(out.count(b"\n"), bench.sizes.sweep_runs * bench.sizes.sweep_files)
        requests.append(_requests(bench))
        return seconds

    def one_by_one() -> float:
        begun = time.perf_counter()
        for number in range(1, bench.sizes.sweep_runs + 1):
            _check(bench.origin.rows(f"jobs/{SWEEP}/runs/{number}/files/"), bench.sizes.sweep_files)
        return time.perf_counter() - begun

    samples, _ = bench.cold(measure, has_budget=False)
    row.figure("rescalefs", samples)
    row.figure("one listing a run", bench.once("sweep one by one", one_by_one))
    row.at_most("requests", max(requests), 12)


def vast(bench: Bench, row: Outcome) -> None:
    """find -type f in a run of 1,000,000 files, 20 ms, request budget off; then after a remount."""
    bench.near()
    with bench.mounted(has_budget=False) as mount:
        place = mount.file(f"{VAST}/x").parent

        def find() -> float:
            bench.origin.reset()
            seconds, out = run("find", place, "-type", "f")
            _check(out.count(b"\n"), bench.sizes.vast_files)
            return seconds

        row.figure("rescalefs", [find()])
        row.at_most("requests", _requests(bench), -(-bench.sizes.vast_files // 1000) + BESIDES)
        row.at_most("memory of the mount", row.figure("memory", [mount.resident_bytes()], "bytes"), 800 * MB, "bytes")
        row.figure("peak of memory", [mount.peak_bytes()], "bytes")
        mount.remount()
        first, _ = run("bash", "-c", f"ls -f '{place}' | head -c 1")
        row.at_most("first byte of ls, after a remount", row.figure("first byte", [first]), 1, "s")
        row.figure("find, after a remount", [find()])
        row.exactly("requests for files, after a remount", bench.origin.counts().requests.get("run_files", 0), 0)


def weight(bench: Bench, row: Outcome) -> None:
    """The catalog alone, without a mount: 100,000 and 1,000,000 files with sha512."""
    for count, goal in ((100_000, 40 * MB), (1_000_000, 400 * MB)):
        count = count if bench.sizes.wide_files >= 100_000 else count // 100
        found = bench.once(f"weight {count}", lambda count=count: _weigh(count), repeat=1)  # type: ignore[misc]
        row.at_most(f"memory of {count} files", row.figure(f"{count} files", found, "bytes"), goal, "bytes")


def _weigh(count: int) -> float:
    _, out = run(sys.executable, "-m", "benchmarks.weight", str(count))
    return float(out)


def _beside_disk(bench: Bench, row: Outcome, key: str, measure: object) -> float:
    """Return the time of *measure* in a mount that has just been made, by that of the disk."""
    assert callable(measure)
    bench.origin.limit(NEAR_LATENCY_S)
    samples = []
    with bench.mounted(has_budget=False) as mount:
        run("ls", _place(mount))
        for _ in range(bench.repeat):
            mount.remount()
            run("ls", _place(mount))  # the listing comes from disk
            samples.append(measure(bench, mount))

    def natively() -> float:
        _on_disk(bench)
        forget_names()
        return float(measure(bench, None))

    native = bench.once(f"{key} native", natively)
    return row.figure("rescalefs", samples) / row.figure("disk", native)


def _place(mount: Mount) -> Path:
    return mount.file(f"{WIDE}/x").parent


def _on_disk(bench: Bench) -> Path:
    """Return the same tree on disk, with empty files, made when first asked for; as deep as it is in a mount."""
    top = bench.root / "native/disk/jobs" / WIDE / "runs/1"
    if not top.exists():
        for name in bench.sizes.wide_names:
            path = top / Path(name).relative_to(WIDE)
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
    return top


def _find(bench: Bench, mount: Mount | None) -> float:
    seconds, out = run("find", _place(mount) if mount else _on_disk(bench), "-type", "f")
    _check(out.count(b"\n"), bench.sizes.wide_files)
    return seconds


def _check(found: int, expected: int) -> None:
    if found != expected:
        raise Failed(f"{found} of {expected} files were found")


def _requests(bench: Bench) -> int:
    return most([bench.origin.counts()], lambda count: sum(count.requests.values()))
