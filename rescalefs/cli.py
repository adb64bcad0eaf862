"""The command line: `rescalefs mount`, `umount`, `refresh`, `demo`, `emulator`.

Every failure is one sentence with its remedy on standard error, and an exit code:

    0  done
    1  something unforeseen
    2  the command line itself is wrong
    3  no API key, or Rescale refused it
    4  Rescale cannot be reached
    5  the mount point cannot be used (missing, not empty, not a directory)
    6  FUSE is missing, or not for this user
    7  something is mounted there already, or nothing is (umount, refresh)
    8  the cache directory cannot be used
    9  the emulator's world file has a mistake
"""

from __future__ import annotations

import enum
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import click
import platformdirs

from rescalefs import __version__, log, mount, system
from rescalefs.binding import Binding, NoFuse, load
from rescalefs.budget import Budget
from rescalefs.client import Client
from rescalefs.config import (
    DEFAULT_CACHE_SIZE,
    METADATA_DEADLINE_S,
    Settings,
    parse_mount_options,
    parse_size,
)
from rescalefs.credentials import Account, CredentialError, find_account
from rescalefs.demo import demo
from rescalefs.emulator.command import emulator
from rescalefs.errors import AccessDenied, NotFound, RescaleError
from rescalefs.kept import Kept
from rescalefs.listings import Listings, keep_owner, recall_owner
from rescalefs.namespace import refresh_path
from rescalefs.reach import Reach
from rescalefs.transport import Transport

F = TypeVar("F", bound=Callable[..., Any])
# A mount whose process ends cleanly is gone in milliseconds.
_UNMOUNTED_S = 10.0


class Exit(enum.IntEnum):
    """Exit codes; the module's docstring says what each means."""

    CREDENTIALS = 3
    UNREACHABLE = 4
    MOUNT_POINT = 5
    FUSE = 6
    MOUNTED = 7
    CACHE = 8


class Failure(click.ClickException):
    """A sentence for standard error, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares a class variable, and reads the instance's

    def show(self, file: Any = None) -> None:
        """Print the sentence after the program's name."""
        click.echo(f"rescalefs: {self.message}", err=True)


class _Commands(click.Group):
    """Commands whose every failure is said in the same form."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError:
            raise
        except click.ClickException as error:
            raise Failure(error.message, error.exit_code) from error


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rescalefs")
def main() -> None:
    """Rescale jobs as folders."""
    logging.getLogger().addHandler(logging.NullHandler())  # what fails before the log is set up is said in one sentence


@main.command("mount")
@click.argument("mount_point", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@click.option("--key-file", type=click.Path(path_type=Path), help="File with the API key, mode 0600.")
@click.option("--profile", help="Profile in Rescale's apiconfig file to take key and address from.")
@click.option("--api-url", help="Address of the platform, such as https://eu.rescale.com.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where downloaded bytes are kept.")
@click.option(
    "--cache-size", type=_Size(), default=DEFAULT_CACHE_SIZE, show_default=True, help="Most bytes kept there."
)
@click.option("--read-only", is_flag=True, help="Refuse stop and snapshot.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine read the mount.")
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT]", help="Options as in fstab: ro, allow_other, …")
@click.option(
    "--binding",
    type=click.Choice(["auto", "fuse3", "fuse2"]),
    default="auto",
    show_default=True,
    help="FUSE library.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least important line that is logged.",
)
@click.option("--log-file", type=click.Path(path_type=Path), help="Log file of a mount in the background.")
def mount_command(
    mount_point: Path,
    foreground: bool,
    key_file: Path | None,
    profile: str | None,
    api_url: str | None,
    cache_dir: Path | None,
    cache_size: int,
    read_only: bool,
    allow_other: bool,
    options: tuple[str, ...],
    binding: str,
    log_level: str,
    log_file: Path | None,
) -> None:
    """Mount your jobs on the empty directory MOUNT_POINT.

    \b
    Example:  mkdir ~/rescale; rescalefs mount ~/rescale; ls ~/rescale/jobs
    """
    fuse_options = parse_mount_options(options)
    read_only = bool(fuse_options.pop("ro", False)) or read_only
    allow_other = bool(fuse_options.pop("allow_other", False)) or allow_other
    settings = Settings(
        mount_point=Path(os.path.abspath(mount_point)),
        cache_directory=Path(os.path.abspath(cache_dir or platformdirs.user_cache_path("rescalefs"))),
        cache_bytes=cache_size,
        is_read_only=read_only,
        allow_other=allow_other,
        fuse_options=fuse_options,
    )
    loaded = _check_fuse(settings, binding)
    _check_cache(settings.cache_directory)
    account, owner = _check_account(settings, key_file, api_url, profile)
    if foreground:
        log.set_up(log_level, None, os.environ)
        _serve(settings, account, owner, loaded, lambda: None)
    file = log_file or platformdirs.user_state_path("rescalefs") / "rescalefs.log"
    try:
        log.set_up(log_level, Path(os.path.abspath(file)), os.environ)
    except OSError as error:
        raise Failure(f"cannot write the log file {file}: {error.strerror}", Exit.CACHE) from None

    def serve(ready: Callable[[], None]) -> None:
        mount.serve(settings, account, owner, loaded, ready)

    if not mount.run_in_background(serve, _detach):
        raise Failure(f"the mount did not come up; {file} may say why", Exit.FUSE)
    click.echo(f"{account.origin} is mounted on {settings.mount_point} (log: {file})")


def _serve(settings: Settings, account: Account, owner: str, binding: Binding, on_ready: Callable[[], None]) -> None:
    """Serve in this process, and leave it at once when done: threads that wait for a resolver must not hold it."""
    try:
        mount.serve(settings, account, owner, binding, on_ready)
    except NoFuse as error:
        raise Failure(str(error), Exit.FUSE) from None
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _check_fuse(settings: Settings, binding: str) -> Binding:
    try:
        system.check_fuse()
        may_be_filled = bool(settings.fuse_options and settings.fuse_options.get("nonempty"))
        system.check_mount_point(settings.mount_point, may_be_filled=may_be_filled)
        return load(binding)
    except system.FuseMissing as error:
        raise Failure(str(error), Exit.FUSE) from None
    except system.AlreadyMounted as error:
        raise Failure(str(error), Exit.MOUNTED) from None
    except system.MountError as error:
        raise Failure(str(error), Exit.MOUNT_POINT) from None
    except NoFuse as error:
        raise Failure(str(error), Exit.FUSE) from None


def _check_cache(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    except OSError as error:
        raise Failure(f"the cache directory {directory} cannot be used: {error.strerror}", Exit.CACHE) from None
    if not usable:
        raise Failure(f"you may not write to the cache directory {directory}: choose one with --cache-dir", Exit.CACHE)


def _check_account(
    settings: Settings, key_file: Path | None, api_url: str | None, profile: str | None
) -> tuple[Account, str]:
    """Find key and origin, and ask Rescale whose key it is; without a network, what was kept says it."""
    try:
        account = find_account(os.environ, Path.home(), key_file=key_file, api_url=api_url, profile=profile)
    except CredentialError as error:
        raise Failure(str(error), Exit.CREDENTIALS) from None
    client = Client(Transport(account.origin, account.key, Budget(), reach=Reach()))
    kept = Kept(mount.listings_directory(settings))
    try:
        owner = client.whoami(time.monotonic() + METADATA_DEADLINE_S)
        keep_owner(kept, account.origin, account.key.authorization, owner)
        return account, owner
    except AccessDenied as error:
        raise Failure(
            f"{account.origin} refused the key from {account.key.source}: make one under Settings > API there, "
            f"and check that it is of this platform ({error})",
            Exit.CREDENTIALS,
        ) from None
    except NotFound:
        raise Failure(f"{account.origin} is no Rescale platform: check --api-url", Exit.UNREACHABLE) from None
    except RescaleError as error:
        known = recall_owner(kept, account.origin, account.key.authorization)
        if known is not None and Listings(kept, mount.account_name(account.origin, known)).jobs() is not None:
            click.echo(f"rescalefs: {account.origin} does not answer; showing what is here ({error})", err=True)
            return account, known
        raise Failure(f"{account.origin} does not answer: check the network ({error})", Exit.UNREACHABLE) from None


def _detach() -> None:
    """Point the standard streams at nothing, in a process that stays when its terminal goes."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


@main.command("umount")
@click.argument("mount_point", type=click.Path(path_type=Path))
@click.option("--lazy", is_flag=True, help="Detach now, end when the last open file is closed.")
def umount_command(mount_point: Path, lazy: bool) -> None:
    """Leave the mount on MOUNT_POINT.

    \b
    Example:  rescalefs umount ~/rescale
    """
    path = Path(os.path.abspath(mount_point))
    if system.mounted_type(path) != system.FILE_SYSTEM_TYPE:
        raise Failure(f"rescalefs is not mounted on {path}", Exit.MOUNTED)
    try:
        system.unmount(path, is_lazy=lazy)
    except system.MountError as error:
        raise Failure(str(error), Exit.MOUNT_POINT) from None
    if not system.wait_until_unmounted(path, _UNMOUNTED_S):
        raise Failure(f"{path} is still mounted", Exit.MOUNT_POINT)


@main.command("refresh")
@click.argument("path", type=click.Path(path_type=Path))
def refresh_command(path: Path) -> None:
    """Have a mount ask Rescale again about the run or the job that PATH is in, or about everything.

    \b
    Example:  rescalefs refresh ~/rescale/jobs/kWdRa
    """
    place = Path(os.path.realpath(path))
    point = system.mount_point_of(place)
    if point is None:
        raise Failure(f"{path} is not in a mount of rescalefs", Exit.MOUNTED)
    control = point / refresh_path(PurePosixPath(place.relative_to(point)))
    try:
        control.write_bytes(b"1\n")
    except OSError as error:
        raise Failure(f"{control} cannot be written: {error.strerror}", 1) from None


main.add_command(demo)
main.add_command(emulator)

if __name__ == "__main__":
    main()
