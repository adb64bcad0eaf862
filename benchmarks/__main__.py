"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import files, report
from benchmarks.bench import Bench
from benchmarks.checks import Outcome
from benchmarks.client import running
from benchmarks.mounts import BINDINGS
from benchmarks.readers import Failed
from benchmarks.rows import LONG, ROWS, title_of


def _rows(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    names = value.split(",") if value else [name for name in ROWS if name not in LONG]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise click.BadParameter(f"there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    return names


@click.command()
@click.option("--rows", metavar="NAME,...", callback=_rows, help=f"Rows to run, of: {', '.join(ROWS)}.")
@click.option(
    "--binding", type=click.Choice([*BINDINGS, "both"]), default="both", show_default=True, help="FUSE binding."
)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Samples of each figure.")
@click.option("--quick", is_flag=True, help="Small sizes, one sample: tells that it works, not how fast.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything there too.")
def main(rows: list[str], binding: str, repeat: int, quick: bool, json_file: Path | None) -> None:
    """Measure rescalefs beside other ways to the same bytes; see the package's docstring.

    The exit code is 1 if a row could not be measured, whether or not goals are met.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    bindings = list(BINDINGS) if binding == "both" else [binding]
    sizes = files.QUICK if quick else files.Sizes()
    repeat = 1 if quick else repeat
    outcomes: list[Outcome] = []
    errors = Console(stderr=True)
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        files.make(root, sizes)
        with running(root, is_quick=quick, has_vast="vast" in rows) as origin:
            first = Bench(origin, root, sizes, repeat, bindings[0])
            benches = [first, *(first.with_binding(name) for name in bindings[1:])]
            for name, bench in itertools.product(rows, benches):
                outcomes.append(_measure(name, bench, errors))
                if json_file is not None:  # after each, so that what took an hour is not lost
                    report.write(outcomes, json_file, repeat=repeat, is_quick=quick)
    except KeyboardInterrupt:
        errors.print("interrupted; the rows so far:")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report.show(outcomes, Console(width=None if sys.stdout.isatty() else 120), is_quick=quick)
    missing = len(rows) * len(bindings) - len(outcomes)
    sys.exit(int(missing > 0 or any(outcome.failure for outcome in outcomes)))


def _measure(name: str, bench: Bench, errors: Console) -> Outcome:
    row = ROWS[name]
    outcome = Outcome(name, title_of(row), bench.binding)
    begun = time.monotonic()
    try:
        row(bench, outcome)
    except Failed as error:
        outcome.failure = str(error)
    except Exception as error:  # what a row did not foresee is its own failure, not the end of the others
        outcome.failure = f"{type(error).__name__}: {error}"
    finally:
        bench.origin.limit()
    word = "failed" if outcome.failure else "met" if outcome.is_met else "missed"
    errors.print(f"{name} ({bench.binding}): {word}, {time.monotonic() - begun:.0f} s", highlight=False)
    return outcome


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
