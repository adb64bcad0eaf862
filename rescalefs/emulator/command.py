"""The command `rescalefs emulator`: serve a world until Ctrl-C or SIGTERM.

What it serves with is imported when the command runs, not before: aiohttp is an extra, and mounts need none of it.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import click

DEFAULT_PORT = 8970
# Not a secret: the emulator listens on loopback and has nothing of anybody's.
DEFAULT_KEY = "demo-key"
WORLD_EXIT_CODE = 9


class _BadWorld(click.ClickException):
    exit_code = WORLD_EXIT_CODE


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    metavar="NUMBER",
    help="Port on 127.0.0.1; 0 takes any.",
)
@click.option("--world", "world_file", type=Path, help="World to serve, a JSON file.")
@click.option("--latency", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Let every request wait.")
@click.option("--stream-rate", type=click.FloatRange(min=1), metavar="BYTES", help="Bytes a second of each download.")
@click.option("--tail-range", is_flag=True, help="Serve ranges of live files; Rescale's documents are silent on it.")
@click.option("--key", default=DEFAULT_KEY, show_default=True, help="API key that is let in.")
def emulator(
    port: int, world_file: Path | None, latency: float, stream_rate: float | None, tail_range: bool, key: str
) -> None:
    """Serve the Rescale API from a made-up world. It listens on this machine only.

    \b
    Example:
        rescalefs emulator --latency 0.1 &
        RESCALE_API_URL=http://127.0.0.1:8970 RESCALE_API_KEY=demo-key rescalefs mount ~/rescale
    """
    try:
        from rescalefs.emulator.server import Emulator
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the emulator needs {error.name}; install it with: pip install 'rescalefs[emulator]'"
        ) from error
    from rescalefs.emulator.demo_world import demo_world
    from rescalefs.emulator.world import World, WorldError

    try:
        world = World.from_file(world_file) if world_file else demo_world()
    except WorldError as error:
        raise _BadWorld(str(error)) from error
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    served = Emulator(world, port=port, key=key, latency_s=latency, stream_bytes_per_s=stream_rate)
    served.habits.tail_honours_range = tail_range
    try:
        served.start()
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on port {port}: {os.strerror(error.errno or 0)}; choose another --port"
        ) from error
    click.echo(served.origin)
    click.echo("Mount it from another terminal (Ctrl-C here ends it):")
    click.echo(f"    RESCALE_API_URL={served.origin} RESCALE_API_KEY={key} rescalefs mount DIR")
    stopped.wait()
    served.stop()


if __name__ == "__main__":
    emulator()
