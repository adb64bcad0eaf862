"""`rescalefs cache`: how large it is, what is in it, and how it is emptied."""

from __future__ import annotations

import os
from pathlib import Path

import click
import platformdirs

from rescalefs.content.survey import clear, survey
from rescalefs.mount import LISTINGS
from rescalefs.plain import plain
from rescalefs.terminal import Exit, Failure, size_text


@click.command("cache")
@click.option("--cache-dir", type=Path, help="The directory, if it is not the usual one.")
@click.option("--clear", "is_clearing", is_flag=True, help="Remove all that is kept; mounts go on beside it.")
def cache_command(cache_dir: Path | None, is_clearing: bool) -> None:
    """Show what is kept on this disk, or remove it.

    \b
    Example:  rescalefs cache --clear
    """
    directory = Path(os.path.abspath(cache_dir or platformdirs.user_cache_path("rescalefs")))
    listings = directory / LISTINGS
    try:
        found = survey(directory, listings)
        if is_clearing:
            clear(directory, listings)
            left = survey(directory, listings)
    except OSError as error:
        raise Failure(f"the cache directory {directory} cannot be used: {error.strerror}", Exit.CACHE) from None
    if is_clearing:
        kept = [sum(kind.used_bytes for kind in (each.content, each.listings, each.others)) for each in (found, left)]
        click.echo(plain(f"{size_text(kept[0] - kept[1])} removed from {directory}"))
        return
    click.echo(plain(f"{directory}: {'used by a mount' if found.is_used else 'not used by a mount now'}"))
    for name, kind, what in (
        ("contents", found.content, f"{found.content.contents} files of jobs"),
        ("listings", found.listings, f"{found.listings.files} lists of jobs, runs and files"),
        ("others", found.others, "of other versions of rescalefs"),
    ):
        click.echo(f"  {name:<9} {size_text(kind.used_bytes):>8}  {what}")
