"""What the commands share: how failures are said, exit codes, finding the account.

Every failure is one sentence with its remedy on standard error, and an exit code:

    0  done
    1  not everything could be done, or something unforeseen happened
    2  the command line itself is wrong
    3  no API key, or Rescale refused it
    4  Rescale cannot be reached
    5  the mount point cannot be used (missing, not empty, not a directory, in use)
    6  FUSE is missing, or not for this user
    7  something is mounted there already, or nothing is (umount, refresh)
    8  the cache directory or the log file cannot be used
    9  the emulator's world file has a mistake
    10  what was waited for has ended, but failed or was stopped (wait)
    11  there is no such job or run (wait)
    12  it did not happen in the time that --timeout gave (wait)
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from rescalefs import system
from rescalefs.budget import Budget
from rescalefs.client import Client
from rescalefs.config import METADATA_DEADLINE_S
from rescalefs.credentials import Account, CredentialError, find_account
from rescalefs.errors import AccessDenied, NotFound, RescaleError
from rescalefs.plain import plain
from rescalefs.reach import Reach
from rescalefs.transport import Transport


class Exit(enum.IntEnum):
    """Exit codes; the module's docstring says what each means."""

    CREDENTIALS = 3
    UNREACHABLE = 4
    MOUNT_POINT = 5
    FUSE = 6
    MOUNTED = 7
    CACHE = 8
    FAILED = 10
    NO_SUCH = 11
    TIMEOUT = 12


class Seconds(click.FloatRange):
    """A number of seconds. NaN is in every range of click's, and no time would ever be over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is no number of seconds", param, ctx) if math.isnan(number) else number


class Failure(click.ClickException):
    """A sentence for standard error, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares a class variable, and reads the instance's

    def show(self, file: Any = None) -> None:
        """Print the sentence after the program's name."""
        tell(f"rescalefs: {self.message}")


def tell(text: str, *, ends: str = "\n") -> None:
    """Print a line on standard error; what Rescale or a file name says in it moves no cursor and begins no line."""
    click.echo(f"{plain(text)}{ends}", err=True, nl=False)


def hold_streams() -> None:
    """Open what the caller has closed of the standard streams: what is opened next would take their numbers.

    What is printed would go there, and a mount in the background, which lets go of its streams, would close it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # a file gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def size_text(count: int) -> str:
    """Return bytes in the unit that suits them, as `--cache-size` takes them."""
    value, unit = float(count), "B"
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"


def leave(code: int) -> NoReturn:
    """End this process now: threads that wait for a resolver or a server must not hold it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever printed what cannot be written has had the error
            stream.flush()
    os._exit(code)


def mounted_place(path: Path) -> tuple[Path, Path]:
    """Return the mount that *path* is in, and where it leads to over links.

    Raises:
        Failure: it is in none, or in one that does not answer.
    """
    point = system.mount_point_of(system.place_of(path))
    if point is not None and system.is_silent(point):
        raise Failure(f"{point} does not answer: its log says more", 1)
    place = Path(os.path.realpath(path))
    point = system.mount_point_of(place)
    if point is None:
        raise Failure(f"{path} is not in a mount of rescalefs", Exit.MOUNTED)
    return point, place


class Unreachable(Failure):
    """Rescale does not answer."""

    def __init__(self, origin: str, error: RescaleError) -> None:
        super().__init__(f"{origin} does not answer: check the network ({error})", Exit.UNREACHABLE)
        self.error = error


def named_account(key_file: Path | None, api_url: str | None, profile: str | None) -> Account:
    """Find key and origin, where the options or the environment say.

    Raises:
        Failure: there is no key, or a use of it would not be safe.
    """
    system.keep_memory_private()
    try:
        return find_account(os.environ, Path.home(), key_file=key_file, api_url=api_url, profile=profile)
    except CredentialError as error:
        raise Failure(str(error), Exit.CREDENTIALS) from None


def owner_of(account: Account) -> str:
    """Ask Rescale whose key it is.

    Raises:
        Unreachable: it does not answer.
        Failure: it refused the key, or is no Rescale.
    """
    client = Client(Transport(account.origin, account.key, Budget(), reach=Reach()))
    try:
        return client.whoami(time.monotonic() + METADATA_DEADLINE_S)
    except AccessDenied as error:
        raise Failure(
            f"{account.origin} refused the key from {account.key.source}: make one under Settings > API there, "
            f"and check that it is of this platform ({error})",
            Exit.CREDENTIALS,
        ) from None
    except NotFound:
        raise Failure(f"{account.origin} is no Rescale platform: check --api-url", Exit.UNREACHABLE) from None
    except RescaleError as error:
        raise Unreachable(account.origin, error) from None
