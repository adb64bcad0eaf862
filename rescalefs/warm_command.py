"""`rescalefs warm`: fetch what is below a path of a mount now, by reading it through the mount."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rescalefs import system
from rescalefs.terminal import Exit, Failure, size_text, tell

# Files read side by side: enough for small ones, which take a request each; a large one has streams of its own.
_READERS = 8
_PIECE_BYTES = 1 << 20


class _Output(NamedTuple):
    path: str
    size: int


@click.command("warm")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def warm_command(paths: tuple[Path, ...]) -> None:
    """Fetch the files below PATHS, so that they are here when they are read. What is still being computed is left out.

    \b
    Example:  rescalefs warm ~/rescale/jobs/kWdRa/runs/1
    """
    files: dict[str, _Output] = {}
    troubles: list[str] = []
    for path in paths:
        place = os.path.realpath(path)
        if system.mount_point_of(Path(place)) is None:
            raise Failure(f"{path} is not in a mount of rescalefs", Exit.MOUNTED)
        for found in _outputs(place, troubles):
            files[found.path] = found
    total = sum(file.size for file in files.values())
    speed = (TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), *speed)
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{len(files)} files", total=total)

        def fetch(file: _Output) -> None:
            try:
                _read(file, lambda count: progress.advance(task, count))
            except OSError as error:
                troubles.append(f"{file.path}: {error.strerror}")

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(fetch, files.values()))
    for trouble in troubles:
        tell(f"rescalefs: {trouble}")
    if troubles:
        raise Failure(f"{len(troubles)} of {len(files)} files could not be fetched", 1)
    click.echo(f"{len(files)} files, {size_text(total)}")


def _outputs(place: str, troubles: list[str]) -> Iterator[_Output]:
    """Yield the final files at or below a place; what they are is asked first: the size of a live file takes a read."""
    try:
        if not os.path.isdir(place):
            if _is_final(place):
                yield _Output(place, os.stat(place).st_size)
            return
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _outputs(entry.path, troubles)
            elif entry.is_file(follow_symlinks=False) and _is_final(entry.path):
                yield _Output(entry.path, os.stat(entry.path).st_size)
    except OSError as error:
        troubles.append(f"{place}: {error.strerror}")


def _is_final(path: str) -> bool:
    try:
        return os.getxattr(path, "user.rescale.state") != b"live"
    except OSError:
        return False  # a file that the mount makes itself, or a control file


def _read(file: _Output, advance: Callable[[int], None]) -> None:
    with open(file.path, "rb", buffering=0) as opened:
        while data := opened.read(_PIECE_BYTES):
            advance(len(data))
