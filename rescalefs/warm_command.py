"""`rescalefs warm`: fetch what is below a path of a mount now, by reading it through the mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click

from rescalefs.terminal import Failure, mounted_place, size_text, tell

# Files read side by side: enough for small ones, which take a request each; a large one has streams of its own.
_READERS = 8
_PIECE_BYTES = 1 << 20
# jobs/<id>/runs/<n>
_RUN_DEPTH = 4


class _Output(NamedTuple):
    path: Path
    size: int


@click.command("warm")
@click.argument("paths", nargs=-1, required=True, type=Path)
def warm_command(paths: tuple[Path, ...]) -> None:
    """Fetch the files below PATHS now. Runs that still compute are left out.

    \b
    Example:  rescalefs warm ~/rescale/jobs/kWdRa/runs/1
    """
    # Here, so that mounts need not have it in memory.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    files: dict[Path, int] = {}
    live: set[Path] = set()
    troubles: list[str] = []
    for path in paths:
        point, place = mounted_place(path)
        files.update(_outputs(point, place, live, troubles))
    total = sum(files.values())
    speed = (TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), *speed)
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{len(files)} files", total=total)

        def fetch(path: Path) -> None:
            try:
                _read(path, lambda count: progress.advance(task, count))
            except OSError as error:
                troubles.append(f"{path}: {error.strerror}")

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(fetch, files))
    for trouble in troubles:
        tell(f"rescalefs: {trouble}")
    if troubles:
        raise Failure(f"not everything could be fetched (failures: {len(troubles)})", 1)
    left_out = f"; runs left out because they still compute: {len(live)}" if live else ""
    click.echo(f"{len(files)} files, {size_text(total)}{left_out}")


def _outputs(point: Path, place: Path, live: set[Path], troubles: list[str]) -> Iterator[_Output]:
    """Yield the outputs of ended runs at or below a place in a mount; note the runs that are *live*."""
    parts = place.relative_to(point).parts
    try:
        if len(parts) >= _RUN_DEPTH and _is_live(point.joinpath(*parts[:_RUN_DEPTH]), live):
            return  # before anything else is asked: the size of a live file takes a read
        info = place.stat()
        if stat.S_ISDIR(info.st_mode):
            yield from _below(place, len(parts), live, troubles)
        elif len(parts) > _RUN_DEPTH:
            yield _Output(place, info.st_size)
    except OSError as error:
        troubles.append(f"{place}: {error.strerror}")


def _below(directory: Path, depth: int, live: set[Path], troubles: list[str]) -> Iterator[_Output]:
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if depth + 1 != _RUN_DEPTH or not _is_live(path, live):
                    yield from _below(path, depth + 1, live, troubles)
            elif entry.is_file(follow_symlinks=False) and depth >= _RUN_DEPTH:  # above there are tables
                yield _Output(path, path.stat().st_size)
    except OSError as error:
        troubles.append(f"{directory}: {error.strerror}")


def _is_live(run: Path, live: set[Path]) -> bool:
    if (run / ".rescale/status").read_text().strip() == "live":
        live.add(run)
    return run in live


def _read(path: Path, advance: Callable[[int], None]) -> None:
    with open(path, "rb", buffering=0) as opened:
        while data := opened.read(_PIECE_BYTES):
            advance(len(data))
