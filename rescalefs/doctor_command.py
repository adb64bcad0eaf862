"""`rescalefs doctor`: looks at everything that a mount needs, a line each, with the remedy for what is missing."""

from __future__ import annotations

import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import click
import platformdirs

from rescalefs import system
from rescalefs.binding import NoFuse, load
from rescalefs.config import METADATA_DEADLINE_S
from rescalefs.credentials import Account
from rescalefs.plain import plain
from rescalefs.private import NotPrivate, make_top
from rescalefs.terminal import Exit, Failure, named_account, owner_of, size_text

# A clock that is wrong by more makes runs look older or younger than they are, and certificates invalid.
_MAX_SKEW_S = 60.0
_LITTLE_ROOM_BYTES = 1 << 30


@click.command("doctor")
@click.option("--key-file", type=Path, help="File with the API key, mode 0600.")
@click.option("--profile", help="Profile in Rescale's apiconfig file to take key and address from.")
@click.option("--api-url", help="Address of the platform, such as https://eu.rescale.com.")
@click.option("--cache-dir", type=Path, help="Where downloaded bytes are kept.")
def doctor_command(key_file: Path | None, profile: str | None, api_url: str | None, cache_dir: Path | None) -> None:
    """Check what a mount needs: FUSE, key, platform, clock, cache. The exit code is that of the first that is missing.

    \b
    Example:  rescalefs doctor
    """
    directory = Path(os.path.abspath(cache_dir or platformdirs.user_cache_path("rescalefs")))
    codes = [_look("FUSE", _fuse), _look("library", _library)]
    accounts: list[Account] = []

    def key() -> str:
        accounts.append(named_account(key_file, api_url, profile))
        return f"from {accounts[0].key.source}"

    codes.append(_look("key", key))
    if accounts:
        account = accounts[0]
        codes.append(_look("platform", lambda: f"{account.origin} knows {owner_of(account)}"))
        if codes[-1] == Exit.UNREACHABLE:
            click.echo(f"skip  {'clock':<9} not checked: there is no platform to compare it with")
        else:
            codes.append(_look("clock", lambda: _clock(account.origin)))
    codes.append(_look("cache", lambda: _cache(directory)))
    raise SystemExit(next((code for code in codes if code), 0))


def _look(name: str, check: Callable[[], str]) -> int:
    """Do one check and tell how it went; return its exit code, 0 if all is well."""
    try:
        click.echo(plain(f"ok    {name:<9} {check()}"))
    except Failure as failure:
        click.echo(plain(f"FAIL  {name:<9} {failure.message}"))
        return failure.exit_code
    return 0


def _fuse() -> str:
    try:
        system.check_fuse()
    except system.FuseMissing as error:
        raise Failure(str(error), Exit.FUSE) from None
    return f"{system.FUSE_DEVICE} may be used"


def _library() -> str:
    try:
        return load().name
    except NoFuse as error:
        raise Failure(str(error), Exit.FUSE) from None


def _clock(origin: str) -> str:
    """Compare this machine's clock with the platform's, which dates its answers; the key is not needed for one."""
    request = urllib.request.Request(f"{origin}/api/v2/users/me/")  # noqa: S310  # an origin that was checked
    try:
        with urllib.request.urlopen(request, timeout=METADATA_DEADLINE_S) as answer:  # noqa: S310
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:  # it wants a key: an answer all the same
        date = error.headers["Date"]
        error.close()
    except OSError as error:
        raise Failure(f"{origin} does not tell the time: {error}", Exit.UNREACHABLE) from None
    try:
        ahead_s = time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return "the platform does not tell the time"
    if abs(ahead_s) > _MAX_SKEW_S:
        way = "ahead" if ahead_s > 0 else "behind"
        raise Failure(f"this machine is {abs(ahead_s):.0f} s {way}: set it with  timedatectl set-ntp true", 1)
    return "agrees with the platform's"


def _cache(directory: Path) -> str:
    try:
        make_top(directory, with_parents=True)
    except NotPrivate as error:
        raise Failure(str(error), Exit.CACHE) from None
    except OSError as error:
        raise Failure(f"{directory} cannot be used: {error.strerror}", Exit.CACHE) from None
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise Failure(f"you may not write to {directory}: choose one with --cache-dir", Exit.CACHE)
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < _LITTLE_ROOM_BYTES:
        left = size_text(free_bytes)
        raise Failure(f"{directory} has {left} left: make room, or choose another --cache-dir", Exit.CACHE)
    return f"{directory}, {size_text(free_bytes)} free"
