"""`rescalefs wait`: for scripts that go on when a run has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from rescalefs.budget import Budget
from rescalefs.catalog import Catalog
from rescalefs.client import Client
from rescalefs.config import METADATA_DEADLINE_S
from rescalefs.credentials import Account
from rescalefs.errors import AccessDenied, NotFound
from rescalefs.known import Lifetimes
from rescalefs.loader import Loader
from rescalefs.terminal import Exit, Failure, Seconds, leave, named_account, owner_of, tell
from rescalefs.transport import Transport
from rescalefs.waiting import Goal, Waiter


class Progress:
    """One line on standard error: rewritten on a terminal, a new one for each change elsewhere."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._began = time.monotonic()
        self._said = ""
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, words: str) -> None:
        """Say where it stands."""
        line = f"{self._target}: {words}"
        if self._is_terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
            tell(f"{line} ({time.monotonic() - self._began:.0f} s)", ends="")
        elif line != self._said:
            tell(line)
        self._said = line

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal and self._said:
            click.echo(err=True)


@click.command("wait")
@click.argument("target", metavar="JOB[/RUN]")
@click.option(
    "--for",
    "goal",
    type=click.Choice([goal.value for goal in Goal]),
    default=Goal.ENDED.value,
    show_default=True,
    help="What to wait for: the end of the computation, or all outputs uploaded.",
)
@click.option(
    "--timeout", "timeout_s", type=Seconds(min=0), metavar="SECONDS", help="When to give up.  [default: never]"
)
@click.option(
    "--every",
    "every_s",
    type=Seconds(min=1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long from look to look.",
)
@click.option("--key-file", type=Path, help="File with the API key, mode 0600.")
@click.option("--profile", help="Profile in Rescale's apiconfig file to take key and address from.")
@click.option("--api-url", help="Address of the platform, such as https://eu.rescale.com.")
def wait_command(
    target: str,
    goal: str,
    timeout_s: float | None,
    every_s: float,
    key_file: Path | None,
    profile: str | None,
    api_url: str | None,
) -> None:
    """Wait for a job, or for one run of it. The exit code is 0 if it went well, 10 if it failed or was stopped.

    No mount is needed. Progress goes to standard error.

    \b
    Example:  rescalefs wait LvGjn --for final && rsync -a ~/rescale/jobs/LvGjn/runs/1/ results/
    """
    account = named_account(key_file, api_url, profile)
    owner_of(account)
    progress = Progress(target)
    try:
        words = _wait(account, target, Goal(goal), float("inf") if timeout_s is None else timeout_s, every_s, progress)
    except Failure as failure:
        progress.end()
        failure.show()
        leave(failure.exit_code)
    progress.end()
    tell(f"rescalefs: {target}: {words}")
    leave(0)


def _wait(
    account: Account, target: str, goal: Goal, timeout_s: float, every_s: float, tell: Callable[[str], None]
) -> str:
    """Wait; return in a few words how well it went."""
    job_id, _, run_id = target.partition("/")
    none_such = Failure(f"there is no {target}: check the id on the job's web page", Exit.NO_SUCH)
    if not job_id.isalnum() or run_id in (".", ".."):
        raise none_such  # Rescale cannot even be asked for it, which is no outage to be waited out
    loader = Loader("wait", 2, METADATA_DEADLINE_S)
    loader.start()
    fresh_s = every_s * 0.9  # whatever was known at one look is old at the next
    catalog = Catalog(
        Client(Transport(account.origin, account.key, Budget())),
        loader,
        deadline_s=METADATA_DEADLINE_S,
        lifetimes=Lifetimes(jobs_s=fresh_s, status_s=fresh_s, live_s=fresh_s, settling_s=fresh_s),
    )
    try:
        outcome = Waiter(catalog, every_s=every_s, tell=tell).wait(job_id, run_id or None, goal, timeout_s)
    except NotFound:
        raise none_such from None
    except AccessDenied as error:
        raise Failure(f"{account.origin} refuses the key by now ({error})", Exit.CREDENTIALS) from None
    if outcome is None:
        raise Failure(f"{target} has not come to its end: wait again, or longer", Exit.TIMEOUT)
    if not outcome.is_success:
        raise Failure(f"{target}: {outcome.text}", Exit.FAILED)
    return outcome.text
