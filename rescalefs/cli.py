"""The command line: `rescalefs mount`, `umount`, `refresh`; the other commands have modules of their own.

`terminal` lists the exit codes. Paths are of type `Path` and not of click's own, which looks at them before anything
else does: with errors and exit codes of its own, and without an end if a mount does not answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import click
import platformdirs

from rescalefs import __version__, log, mount, system
from rescalefs.binding import Binding, NoFuse, load
from rescalefs.budget import Rate, parse_rate
from rescalefs.cache_command import cache_command
from rescalefs.config import (
    DATA_DEADLINE_S,
    DEFAULT_CACHE_SIZE,
    METADATA_DEADLINE_S,
    Settings,
    parse_mount_options,
    parse_size,
)
from rescalefs.content.cache import segments_directory
from rescalefs.credentials import Account
from rescalefs.demo import demo
from rescalefs.doctor_command import doctor_command
from rescalefs.emulator.command import emulator
from rescalefs.kept import Kept
from rescalefs.listings import Listings, keep_owner, recall_owner
from rescalefs.namespace import refresh_path
from rescalefs.plain import plain
from rescalefs.private import NotPrivate, make_inside, make_top
from rescalefs.status_command import status_command
from rescalefs.terminal import (
    Exit,
    Failure,
    Seconds,
    Unreachable,
    hold_streams,
    leave,
    mounted_place,
    named_account,
    owner_of,
    tell,
)
from rescalefs.wait_command import wait_command
from rescalefs.warm_command import warm_command

_SECONDS = Seconds(min=0.1, max=3600.0)
# A mount whose process ends cleanly is gone in milliseconds.
_UNMOUNTED_S = 10.0
# The libraries that print for us.
_PRINTERS = ("click", "rich")


class _Commands(click.Group):
    """Commands whose every failure is said in the same form."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program."""
        try:
            return super().main(*args, **options)
        except OSError as error:
            if not _is_of_printing(error):
                raise
            with contextlib.suppress(OSError):
                tell(f"rescalefs: what it prints cannot be written: {error.strerror}")
            leave(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError:
            raise
        except click.ClickException as error:
            raise Failure(error.message, error.exit_code) from error
        except FileNotFoundError:
            try:
                os.getcwd()
            except FileNotFoundError:
                raise Failure("this directory is gone: go to another one, such as  cd ~", 1) from None
            raise


def _is_of_printing(error: OSError) -> bool:
    """Tell whether it was raised where something is printed. A pipe whose reader has gone is click's matter."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _PRINTERS


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Rate(click.ParamType[tuple[str, Rate]]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Rate]:
        try:
            return value if isinstance(value, tuple) else parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rescalefs")
def main() -> None:
    """Rescale jobs as folders."""
    hold_streams()
    logging.getLogger().addHandler(logging.NullHandler())  # what fails before the log is set up is said in one sentence


@main.command("mount")
@click.argument("mount_point", type=Path)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@click.option("--key-file", type=Path, help="File with the API key, mode 0600.")
@click.option("--profile", help="Profile in Rescale's apiconfig file to take key and address from.")
@click.option("--api-url", help="Address of the platform, such as https://eu.rescale.com.")
@click.option("--cache-dir", type=Path, help="Where downloaded bytes are kept.")
@click.option(
    "--cache-size", type=_Size(), default=DEFAULT_CACHE_SIZE, show_default=True, help="Most bytes kept there."
)
@click.option(
    "--verify",
    type=click.Choice(["last", "first"]),
    default="last",
    show_default=True,
    help="Compare files over 4 MiB with their checksum before the last, or before the first byte is read.",
)
@click.option(
    "--metadata-deadline",
    type=_SECONDS,
    default=METADATA_DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for names and sizes.",
)
@click.option(
    "--data-deadline",
    type=_SECONDS,
    default=DATA_DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for bytes.",
)
@click.option(
    "--rate",
    "rates",
    type=_Rate(),
    multiple=True,
    envvar="RESCALEFS_RATES",
    metavar="SCOPE=PER_S[:BURST]",
    help="Most requests a second of jobs-usage, file-access or runs-usage; may be given for each.",
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
@click.option("--log-file", type=Path, help="Log file of a mount in the background.")
def mount_command(
    mount_point: Path,
    foreground: bool,
    key_file: Path | None,
    profile: str | None,
    api_url: str | None,
    cache_dir: Path | None,
    cache_size: int,
    verify: str,
    metadata_deadline: float,
    data_deadline: float,
    rates: tuple[tuple[str, Rate], ...],
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
        mount_point=system.place_of(mount_point),
        cache_directory=Path(os.path.abspath(cache_dir or platformdirs.user_cache_path("rescalefs"))),
        cache_bytes=cache_size,
        is_verified_first=verify == "first",
        is_read_only=read_only,
        allow_other=allow_other,
        metadata_deadline_s=metadata_deadline,
        data_deadline_s=data_deadline,
        fuse_options=fuse_options,
        rates=dict(rates),
    )
    file = Path(os.path.abspath(log_file or platformdirs.user_state_path("rescalefs") / "rescalefs.log"))
    loaded = _check_fuse(settings, binding)
    _keep_outside(settings, settings.cache_directory, "--cache-dir")
    _check_cache(settings)
    account = named_account(key_file, api_url, profile)
    owner = _owner_of(account, settings)
    serve = partial(mount.serve, settings, account, owner, loaded)
    try:
        with system.claimed(settings.mount_point) as release:
            if foreground:
                log.set_up(log_level, None, os.environ)
                _serve(serve, release)
            _keep_outside(settings, file, "--log-file")
            _serve_in_background(serve, release, log_level, file)
    except system.MountError as error:
        raise _failure_of(error) from None
    click.echo(plain(f"{account.origin} is mounted on {settings.mount_point} (log: {file})"))


def _serve(serve: Callable[[Callable[[], None]], None], on_ready: Callable[[], None]) -> NoReturn:
    """Serve in this process, and leave it at once when done."""
    try:
        serve(on_ready)
    except NoFuse as error:
        raise Failure(f"{error}: the lines above say why", Exit.FUSE) from None
    leave(0)


def _serve_in_background(
    serve: Callable[[Callable[[], None]], None], on_ready: Callable[[], None], log_level: str, file: Path
) -> None:
    """Serve in another process, which logs into *file*; return when it is ready."""
    try:
        log.set_up(log_level, file, os.environ)
    except OSError as error:
        raise Failure(f"cannot write the log file {file}: {error.strerror}", Exit.CACHE) from None

    def serve_there(tell_ready: Callable[[], None]) -> None:
        def ready() -> None:
            on_ready()
            tell_ready()

        serve(ready)

    try:
        mount.run_in_background(serve_there, _detach)
    except NoFuse as error:
        raise Failure(f"{error}: the lines above, or {file}, say why", Exit.FUSE) from None


def _check_fuse(settings: Settings, binding: str) -> Binding:
    try:
        system.check_fuse()
        may_be_filled = bool(settings.fuse_options and settings.fuse_options.get("nonempty"))
        system.check_mount_point(settings.mount_point, may_be_filled=may_be_filled)
        return load(binding)
    except system.MountError as error:
        raise _failure_of(error) from None
    except NoFuse as error:
        raise Failure(str(error), Exit.FUSE) from None


def _failure_of(error: system.MountError) -> Failure:
    codes = {system.FuseMissing: Exit.FUSE, system.AlreadyMounted: Exit.MOUNTED}
    return Failure(str(error), codes.get(type(error), Exit.MOUNT_POINT))


def _keep_outside(settings: Settings, path: Path, option: str) -> None:
    """Refuse a path that the mount itself would cover: the mount would wait for itself, for ever."""
    if Path(os.path.realpath(path)).is_relative_to(settings.mount_point):
        raise Failure(f"{path} is inside the mount point: choose another place with {option}", Exit.CACHE)


def _check_cache(settings: Settings) -> None:
    directory = settings.cache_directory
    try:
        make_top(directory, with_parents=True)
        usable = os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    except NotPrivate as error:
        raise Failure(f"the cache directory {error}", Exit.CACHE) from None
    except OSError as error:
        raise Failure(f"the cache directory {directory} cannot be used: {error.strerror}", Exit.CACHE) from None
    if not usable:
        raise Failure(f"you may not write to the cache directory {directory}: choose one with --cache-dir", Exit.CACHE)
    for inside in (segments_directory(directory), mount.listings_directory(settings)):
        try:
            make_inside(inside)
        except NotPrivate as error:
            raise Failure(f"the cache directory {error}", Exit.CACHE) from None
        except OSError:
            continue  # a full disk: the mount is slower for it


def _owner_of(account: Account, settings: Settings) -> str:
    """Ask Rescale whose key it is; without a network, what was kept says it."""
    kept = Kept(mount.listings_directory(settings))
    try:
        owner = owner_of(account)
    except Unreachable as failure:
        known = recall_owner(kept, account.origin, account.key.authorization)
        if known is None or Listings(kept, mount.account_name(account.origin, known)).jobs() is None:
            raise
        tell(f"rescalefs: {account.origin} does not answer; showing what is here ({failure.error})")
        return known
    keep_owner(kept, account.origin, account.key.authorization, owner)
    return owner


def _detach() -> None:
    """Point the standard streams at nothing, in a process that stays when its terminal goes."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


@main.command("umount")
@click.argument("mount_point", type=Path)
@click.option("--lazy", is_flag=True, help="Detach now, end when the last open file is closed.")
def umount_command(mount_point: Path, lazy: bool) -> None:
    """Leave the mount on MOUNT_POINT.

    \b
    Example:  rescalefs umount ~/rescale
    """
    path = system.place_of(mount_point)
    if system.mounted_type(path) != system.FILE_SYSTEM_TYPE:
        point = system.mount_point_of(path)
        raise Failure(f"rescalefs is not mounted on {path}" + (f", but on {point}" if point else ""), Exit.MOUNTED)
    try:
        system.unmount(path, is_lazy=lazy)
    except system.MountError as error:
        raise Failure(str(error), Exit.MOUNT_POINT) from None
    if not system.wait_until_unmounted(path, _UNMOUNTED_S):
        raise Failure(f"{path} is still mounted", Exit.MOUNT_POINT)


@main.command("refresh")
@click.argument("path", type=Path)
def refresh_command(path: Path) -> None:
    """Have a mount ask Rescale again. It asks about the run or the job that PATH is in, or about everything.

    \b
    Example:  rescalefs refresh ~/rescale/jobs/kWdRa
    """
    point, place = mounted_place(path)
    control = point / refresh_path(PurePosixPath(place.relative_to(point)))
    try:
        control.write_bytes(b"1\n")
    except FileNotFoundError:
        raise Failure(f"there is no {path}: no job or run of that id", 1) from None
    except OSError as error:
        raise Failure(f"{control} cannot be written: {error.strerror}", 1) from None


for command in (status_command, warm_command, wait_command, cache_command, doctor_command):
    main.add_command(command)
main.add_command(demo)
main.add_command(emulator)

if __name__ == "__main__":
    main()
