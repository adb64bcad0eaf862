"""`rescalefs demo`: emulator, mount and a short tour with real output, without an account.

The tour runs the commands that a user would type, in a shell, and shows them with what they print.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rescalefs import system

if TYPE_CHECKING:
    from rich.console import Console

# The kernel, the emulator and Python's start take about a second together.
_READY_S = 30.0
_STEP_S = 30.0
_POLL_S = 0.05


@click.command()
@click.argument("mount_point", required=False, type=Path)
@click.option("--tour-only", is_flag=True, help="Leave after the tour.")
def demo(mount_point: Path | None, tour_only: bool) -> None:
    """Show everything on an emulated platform: no account needed.

    \b
    Example:  rescalefs demo --tour-only
    """
    from rich.console import Console  # here, so that mounts need not have it in memory

    try:
        from rescalefs.emulator.demo_world import demo_world
        from rescalefs.emulator.server import Emulator
    except ImportError as error:
        raise click.ClickException(f"the demo needs more: pip install 'rescalefs[demo]' ({error})") from None
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="rescalefs-demo-") as scratch:
        if mount_point is None:
            mount_point = Path(scratch, "rescale")
            mount_point.mkdir()
        point = system.place_of(mount_point)
        with _interruptible(), Emulator(demo_world()) as emulator:
            environ = {
                **os.environ,
                "RESCALE_API_URL": emulator.origin,
                "RESCALE_API_KEY": emulator.key,
                "RESCALE_CONFIG_FILE": os.devnull,
            }
            with _mounted(point, Path(scratch, "cache"), environ):
                _tour(console, point)
                if not tour_only:
                    console.print(f"\nThe mount stays on [bold]{point}[/bold] until you press Ctrl-C.")
                    with contextlib.suppress(KeyboardInterrupt):
                        threading.Event().wait()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the demo the way Ctrl-C does, so that it cleans up.

    SIGINT too is taken here: a shell's background job starts with it ignored.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _mounted(point: Path, cache: Path, environ: dict[str, str]) -> Iterator[None]:
    """Mount in a process of its own, as a user would, and unmount at the end whatever happened."""
    command = [sys.executable, "-m", "rescalefs", "mount", "--foreground", "--log-level", "error"]
    # A session of its own: Ctrl-C is for this process, which then ends the mount in order.
    process = subprocess.Popen(  # this very program
        [*command, "--cache-dir", str(cache), str(point)], env=environ, start_new_session=True
    )
    try:
        _wait_for_mount(process, point)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STEP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with contextlib.suppress(system.MountError):
                system.unmount(point, is_lazy=True)


def _wait_for_mount(process: subprocess.Popen[bytes], point: Path) -> None:
    give_up_at = time.monotonic() + _READY_S
    while system.mounted_type(point) is None:
        if process.poll() is not None:
            raise SystemExit(process.returncode)  # it has said why
        if time.monotonic() > give_up_at:
            raise click.ClickException("the mount did not come up")
        time.sleep(_POLL_S)


def _tour(console: Console, point: Path) -> None:
    """Run the tour's commands in the mount."""
    from rescalefs.emulator import demo_world as world

    airfoil = f"jobs/{world.AIRFOIL_JOB}/runs/1"
    live = f"jobs/{world.LIVE_JOB}/runs/1"
    steps = [
        ("Every job is a folder.", "ls -l jobs"),
        ("A finished run holds its outputs, with their sizes and times.", f"ls -l {airfoil}"),
        ("Files are fetched when they are read.", f"tail -n 4 {airfoil}/process_output.log"),
        ("grep, find and the like just work.", f"grep -h internalField {airfoil}/*/p | sort | uniq -c"),
        (
            "A running run looks the same, and its files grow.",
            f"ls {live}; tail -n 3 {live}/process_output.log",
        ),
        ("Seconds later:", f"sleep 3; tail -n 3 {live}/process_output.log"),
        ("Writing 1 to a control file acts; anything else is refused.", f"echo hello > {live}/stop"),
        ("", f"echo 1 > {live}/stop; cat {live}/.rescale/stop"),
        ("What has ended cannot be stopped.", f"echo 1 > {airfoil}/.rescale/stop"),
    ]
    for text, command in steps:
        if text:
            console.print(f"\n[bold]{text}[/bold]")
        console.print(f"[green]$ {command}[/green]")
        shell = shutil.which("bash") or "sh"
        done = subprocess.run(  # the commands above
            [shell, "-c", command],
            cwd=point,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_STEP_S,
            check=False,
        )
        output = (done.stdout + done.stderr).replace(f"{shell}: line 1: ", "")
        console.print(output.rstrip(), markup=False)
    console.print(f"\nParaView opens [bold]{point / airfoil / 'airfoil.foam'}[/bold].")
