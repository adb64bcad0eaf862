"""`rescalefs status`: what the mounts are and how they do, as they tell it in their `.rescale` directories."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from rescalefs import system
from rescalefs.plain import plain
from rescalefs.terminal import Exit, Failure

_WIDTH = 26
# How long mounts are waited for, all together: what is asked of them costs no request.
ANSWER_S = 15.0


@click.command("status")
@click.argument("path", required=False, type=Path)
def status_command(path: Path | None) -> None:
    """Show how the mount does that PATH is in, or how all of them do.

    \b
    Example:  rescalefs status ~/rescale
    """
    if path is None:
        points = sorted({entry.mount_point for entry in system.mounts() if entry.type == system.FILE_SYSTEM_TYPE})
    else:
        point = system.mount_point_of(system.place_of(path))
        points = [] if point is None else [point]
    if not points:
        where = "nothing is mounted" if path is None else f"{path} is not in a mount of rescalefs"
        raise Failure(f"{where}: mount with  rescalefs mount DIR", Exit.MOUNTED)
    worst = 0
    for point, told in _all_told(points):
        click.echo(plain(str(point)))
        if isinstance(told, OSError):
            worst = 1
            click.echo(plain(f"  {_trouble(point, told)}"))
        else:
            for name, value in told:
                click.echo(plain(f"  {name:<{_WIDTH}} {value}"))
    raise SystemExit(worst)


def _all_told(points: Sequence[Path]) -> Iterator[tuple[Path, list[tuple[str, str]] | OSError]]:
    """Yield what each mount tells, or why it does not. One that is stopped would be waited for without an end."""
    told: dict[Path, list[tuple[str, str]] | OSError] = {}

    def ask(point: Path) -> None:
        try:
            told[point] = _told_by(point)
        except OSError as error:
            told[point] = error

    asking = [threading.Thread(target=ask, args=(point,), daemon=True) for point in points]
    for thread in asking:
        thread.start()
    end_at = time.monotonic() + ANSWER_S
    for point, thread in zip(points, asking, strict=True):
        thread.join(max(0.0, end_at - time.monotonic()))
        yield point, told.get(point) or TimeoutError(errno.ETIMEDOUT, f"in {ANSWER_S:.0f} s")


def _told_by(point: Path) -> list[tuple[str, str]]:
    own = point / ".rescale"
    lines = [("status", (own / "status").read_text().strip()), ("version", (own / "version").read_text().strip())]
    for name in ("config", "stats"):
        for line in (own / name).read_text(errors="replace").splitlines():
            key, _, value = line.partition(" ")
            if key != "mount_point":
                lines.append((key, value))
    return lines


def _trouble(point: Path, error: OSError) -> str:
    if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return "the process behind it is gone: mount again, it clears what was left"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "it is another user's"
    return f"it does not answer ({error.strerror}): its log says more"
