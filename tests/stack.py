"""The client's layers over a server, on a clock that moves only when a test or a sleep of the client moves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescalefs.breaker import Breaker
from rescalefs.budget import Budget, Rate
from rescalefs.catalog import Catalog, RunView
from rescalefs.client import Client
from rescalefs.control import Controls
from rescalefs.credentials import Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.kept import Kept
from rescalefs.listings import Listings
from rescalefs.loader import Loader
from rescalefs.reach import Reach
from rescalefs.shown import Changed
from rescalefs.stalls import Stalls
from rescalefs.sweeps import Sweeps
from rescalefs.transport import Transport

KEY = "test-key"
# Of the clock that is moved by hand: what one question may take, retries and all.
DEADLINE_S = 15.0
# Real seconds that a caller waits for our own threads; no test comes near them.
WAIT_S = 30.0


def budget_on(clock: ManualClock, rates: Mapping[str, Rate], **more: Any) -> Budget:
    """Return a budget whose waits move *clock* and take no time."""
    return Budget(rates, clock=clock.now, wait=lambda _woken, seconds: clock.advance(seconds), **more)


def transport_to(
    origin: str,
    clock: ManualClock,
    *,
    key: Key | None = None,
    rates: dict[str, Rate] | None = None,
    reach: Reach | None = None,
    breaker: Breaker | None = None,
    stalls: Stalls | None = None,
) -> Transport:
    """Return a transport without limits but *rates*; its sleeps move *clock* and take no time."""
    budget = budget_on(clock, rates or {})
    key = key or Key(lambda: KEY, "a test")
    return Transport(
        origin, key, budget, reach=reach, breaker=breaker, stalls=stalls, clock=clock.now, sleep=clock.advance
    )


@contextmanager
def client_of(
    origin: str,
    clock: ManualClock,
    *,
    is_parallel: bool = True,
    reach: Reach | None = None,
    stalls: Stalls | None = None,
) -> Iterator[Client]:
    """Serve a client of *origin*, its pages read in parallel or one after the other."""
    with (
        closing(transport_to(origin, clock, reach=reach, stalls=stalls)) as transport,
        closing(Client(transport)) as client,
    ):
        if is_parallel:
            client.start()
        yield client


@contextmanager
def loader(wait_s: float = WAIT_S) -> Iterator[Loader]:
    """Serve a loader whose callers wait for at most *wait_s* real seconds."""
    with closing(Loader("test", 16, wait_s)) as running:
        running.start()
        yield running


@dataclass(frozen=True)
class Acting:
    """What an act goes through."""

    client: Client
    catalog: Catalog
    controls: Controls
    loader: Loader  # of the acts


@contextmanager
def acting_on(origin: str, clock: ManualClock, *, wait_s: float = WAIT_S) -> Iterator[Acting]:
    """Serve controls of *origin* whose writers wait for at most *wait_s* real seconds."""
    times: Any = {"deadline_s": DEADLINE_S, "clock": clock.now, "wall_clock": clock.now}
    with client_of(origin, clock) as client, loader() as looks, loader(wait_s) as acts:
        catalog = Catalog(client, looks, **times)
        yield Acting(client, catalog, Controls(client, catalog, acts, **times), acts)


@contextmanager
def catalog_of(
    origin: str,
    clock: ManualClock,
    directory: Path | None = None,
    reach: Reach | None = None,
    *,
    may_sweep: bool = True,
    changed: Changed = lambda _job_id, _run_id, _replaced: None,
) -> Iterator[Catalog]:
    """Serve a catalog of *origin* that knows nothing but what is kept in *directory*; all its times are *clock*'s."""
    kept = Kept(directory, wall_clock=clock.now)
    with client_of(origin, clock, reach=reach) as client, loader() as running, loader() as sweeping:
        yield Catalog(
            client,
            running,
            deadline_s=DEADLINE_S,
            listings=Listings(kept, "someone"),
            sweeps=Sweeps(client, sweeping, deadline_s=DEADLINE_S / 2, clock=clock.now) if may_sweep else None,
            changed=changed,
            clock=clock.now,
            wall_clock=clock.now,
        )


def paths(view: RunView) -> set[str]:
    """Return the paths of all files that a view shows."""
    return {leaf.path for leaf in view.root.leaves()}
