"""The benchmark program runs, ends, and reports what it says it reports. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.checks import Check, Figure, Outcome
from benchmarks.mounts import BINDINGS
from benchmarks.report import as_text
from benchmarks.rows import ROWS, title_of
from rescalefs import system
from tests.conftest import END_S, wait_for

ROOT = Path(__file__).parent.parent
NAMES = {fuse: name for name, fuse in BINDINGS.items()}


def benchmarks(tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    """Start the program, with its scratch directories below *tmp_path*."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--quick", *args],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def mounts_below(path: Path) -> list[str]:
    return [str(entry.mount_point) for entry in system.mounts() if path in entry.mount_point.parents]


@pytest.mark.mount
def test_rows_are_measured_and_written(binding: str, tmp_path: Path) -> None:
    """Four rows end with goals that a correct mount meets at any speed; nothing is left behind."""
    file = tmp_path / "figures.json"
    process = benchmarks(tmp_path, "--rows", "tail,twins,warm,find", "--binding", NAMES[binding], "--json", str(file))
    out, _ = process.communicate(timeout=100)

    assert process.returncode == 0, out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {"made", "machine", "repeat", "quick", "rows"} == set(found)
    assert {"kernel", "python", "cpus", "packages"} <= set(found["machine"])
    assert [(row["row"], row["binding"], row["failure"]) for row in found["rows"]] == [
        (name, NAMES[binding], None) for name in ("tail", "twins", "warm", "find")
    ]
    for row in found["rows"]:
        assert row["title"].split()[0] in out
        assert all(len(figure["samples"]) == 1 == found["repeat"] for figure in row["figures"])
        assert all({"name", "value", "sense", "goal", "unit", "met"} == set(check) for check in row["checks"])
        assert row["met"] == all(check["met"] for check in row["checks"])
    checks = {(row["row"], check["name"]): check["met"] for row in found["rows"] for check in row["checks"]}
    assert checks["twins", "content requests"]
    assert checks["tail", "content requests"]
    assert all(met for (row, name), met in checks.items() if row == "find" and name.startswith("requests"))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.mount
def test_an_interrupted_run_leaves_nothing(binding: str, tmp_path: Path) -> None:
    """Ctrl-C in a row that takes long unmounts, ends the origin, removes the files, and tells by its exit code."""
    process = benchmarks(tmp_path, "--rows", "shared", "--binding", NAMES[binding])
    wait_for(lambda: mounts_below(tmp_path) != [], 30, lambda: "no mount")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=2 * END_S)

    assert process.returncode == 1, out
    assert "interrupted" in out
    assert mounts_below(tmp_path) == list(tmp_path.iterdir()) == []


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    """A name that is no row ends with usage and the names that are."""
    process = benchmarks(tmp_path, "--rows", "tail,speed")
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 2
    assert "no row 'speed'" in out
    assert all(title_of(row) for row in ROWS.values())


def test_goals_are_judged() -> None:
    """A row is met when it ran and each of its checks is."""
    outcome = Outcome("row", "title", "fusepy")
    assert outcome.figure("ours", [3, 1, 2]) == 2
    outcome.at_most("time", 2, 2)
    outcome.at_least("speed", 3, 2.9)
    outcome.exactly("requests", 1, 1)
    assert outcome.is_met
    outcome.checks.append(Check("requests", 2, "==", 1, ""))
    assert not outcome.is_met
    assert not Outcome("row", "title", "fusepy", failure="no mount").is_met
    assert Figure("ours", (1.0, 2.0), "s").value == 1.5
    assert [as_text(*figure) for figure in ((1.5, "s"), (0.0202, "s"), (3, ""), (0.5, ""), (1 << 20, "bytes"))] == [
        "1.50 s",
        "20.2 ms",
        "3",
        "0.50×",
        "1.00 MiB",
    ]
