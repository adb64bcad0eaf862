"""`rescalefs status`: what the mounts are and how they do, as they tell it in their `.rescale` directories."""

from __future__ import annotations

import errno
from pathlib import Path

import click

from rescalefs import system
from rescalefs.plain import plain
from rescalefs.terminal import Exit, Failure

_WIDTH = 26


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
    for point in points:
        click.echo(plain(str(point)))
        try:
            for name, value in _told_by(point):
                click.echo(plain(f"  {name:<{_WIDTH}} {value}"))
        except OSError as error:
            worst = 1
            click.echo(plain(f"  {_trouble(point, error)}"))
    raise SystemExit(worst)


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
