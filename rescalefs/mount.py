"""One mount, from its settings to its end: builds the rooms, serves, and cleans up.

Everything that has threads, sockets or open files is made in `serve`, in the process that stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from rescalefs import dump
from rescalefs.ahead import FilesAhead
from rescalefs.binding import Binding, End, NoFuse
from rescalefs.breaker import Breaker
from rescalefs.budget import Budget, rates
from rescalefs.catalog import Catalog
from rescalefs.client import Client
from rescalefs.config import Settings
from rescalefs.content.cache import MAX_OPEN, DiskCache
from rescalefs.content.engine import ContentEngine
from rescalefs.control import Controls
from rescalefs.credentials import Account
from rescalefs.ending import successor
from rescalefs.events import Events
from rescalefs.follow import MAX_FILES, Follower
from rescalefs.kept import Kept
from rescalefs.kernel import KernelMemory
from rescalefs.listings import Listings, keep_rates, recall_rates
from rescalefs.loader import Loader
from rescalefs.namespace import Namespace, run_place
from rescalefs.notify import notify
from rescalefs.operations import Operations
from rescalefs.reach import Reach
from rescalefs.rooms import Rooms
from rescalefs.stalls import STALL_S, Stalls
from rescalefs.sweeps import Sweeps
from rescalefs.system import close_inherited, raise_descriptor_limit, share_heaps
from rescalefs.timing import Clock
from rescalefs.transport import Transport

log = logging.getLogger(__name__)

# Listings, states and acts in flight; each waits for the API, none computes.
METADATA_THREADS = 16
# Live files fetched side by side, and those of one run, which stand still together; the budget for them is 2 a second.
LIVE_THREADS, LIVE_THREADS_OF_RUN = 16, 6
# Jobs whose runs are listed all at once.
SWEEP_THREADS = 2
# How much disk the spools of live files may take, as a part of what the cache may; it comes on top of that.
LIVE_SHARE = 0.25
# Where the data deadline is short, stalls are noticed in this part of it: the new request needs time, too.
STALL_SHARE = 0.25
# Live files and segments of the cache have a descriptor each: one in so many of those that the process may have.
_DESCRIPTOR_SHARE = 4
# Where listings are kept, in the cache directory.
LISTINGS = "listings"
# How long a parent waits for the mount to answer before it gives up: the kernel needs milliseconds.
READY_S = 30.0
# What the process in the background tells its parent then; anything else is why there is no mount.
_READY = b"ready"
_QUIT = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = {*_QUIT, signal.SIGHUP, signal.SIGUSR1}


def listings_directory(settings: Settings) -> Path:
    """Return where listings are kept."""
    return settings.cache_directory / LISTINGS


def account_name(origin: str, owner: str) -> str:
    """Return under which name an account's listings and contents are kept."""
    return f"{origin} {owner}"


class Mount:
    """The rooms of one mount, wired together. Nothing runs before `start`.

    Lifetimes and retries go by *clock*, dates by *wall_clock*. How long a caller is kept waiting is real time always.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        owner: str,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        sleep: Callable[[float], None] = time.sleep,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._settings = settings
        deadline_s = settings.metadata_deadline_s
        self.kernel = KernelMemory()  # the kernel goes by its own time

        def wall_clock_ns() -> int:
            return int(wall_clock() * 1e9)

        self._reach = Reach(clock=clock, wall_clock=wall_clock)
        self._breaker = Breaker(clock=clock, wall_clock=wall_clock)
        self._key = account.key
        self._stalls = Stalls(min(STALL_S, settings.data_deadline_s * STALL_SHARE))  # bytes come in real time
        name = account_name(account.origin, owner)
        kept = Kept(listings_directory(settings), wall_clock=wall_clock)
        self._keep_rates = partial(keep_rates, kept, name)
        self._remembered_rates = recall_rates(kept, name, wall_clock())
        self._budget = Budget(
            rates(os.environ, settings.rates),
            remembered=self._remembered_rates,
            on_learnt=self._keep_rates,
            clock=clock,
            wait=wait,
        )
        self._transport = Transport(
            account.origin,
            account.key,
            self._budget,
            reach=self._reach,
            breaker=self._breaker,
            stalls=self._stalls,
            clock=clock,
            sleep=sleep,
        )
        self._client = Client(self._transport)
        self._loader = Loader("metadata", METADATA_THREADS, deadline_s)
        self._live_loader = Loader("live", LIVE_THREADS, deadline_s, LIVE_THREADS_OF_RUN)
        # Half of the time: a caller that has waited in vain lists its own run with what is left.
        self._sweep_loader = Loader("sweeps", SWEEP_THREADS, deadline_s / 2)
        listings = Listings(kept, name)
        events = Events(wall_clock=wall_clock)
        self._catalog = catalog = Catalog(
            self._client,
            self._loader,
            deadline_s=deadline_s,
            listings=listings,
            sweeps=Sweeps(self._client, self._sweep_loader, deadline_s=deadline_s / 2, clock=clock),
            followed=lambda job_id, run_id: self._follower.followed(job_id, run_id),
            seen=events.seen,
            changed=self._forget,
            clock=clock,
            wall_clock=wall_clock,
        )
        descriptors = raise_descriptor_limit() // _DESCRIPTOR_SHARE
        self._engine = ContentEngine(
            DiskCache(settings.cache_directory, settings.cache_bytes, max_open=min(MAX_OPEN, descriptors), clock=clock),
            self._client,
            account=name,
            deadline_s=settings.data_deadline_s,
            is_verified_first=settings.is_verified_first,
            on_other_size=self.kernel.forget,
            clock=clock,
        )
        self._follower = Follower(
            self._client,
            self._live_loader,
            lambda: settings.cache_directory,
            successor=successor(catalog, self._engine),
            max_bytes=settings.cache_bytes * LIVE_SHARE,
            deadline_s=deadline_s,
            max_files=min(MAX_FILES, descriptors),
            clock=clock,
            wall_clock_ns=wall_clock_ns,
        )
        controls = Controls(
            self._client,
            catalog,
            self._loader,
            deadline_s=deadline_s,
            record=events.add,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._ahead = FilesAhead(self._engine)
        rooms = Rooms(
            catalog,
            self._engine,
            self._ahead,
            self._follower,
            controls,
            events,
            settings.is_read_only,
            wall_clock_ns(),
            self._status,
            self._stats,
            {"origin": account.origin, **settings.public()},
            self.refresh,
        )
        self.namespace = Namespace(rooms)
        self.operations: Counter[str] = Counter()  # what the kernel asked, by name; threads may count at once

    def start(self) -> None:
        """Make the threads."""
        self._reach.start(self._transport.is_reachable)
        self._stalls.start()
        self._client.start()
        self._loader.start()
        self._live_loader.start()
        self._sweep_loader.start()
        self._engine.start()
        self._ahead.start()

    def close(self) -> None:
        """Let everybody who waits fail, and end the threads. May be called twice."""
        self._reach.close()
        self._stalls.close()
        self._loader.close()
        self._live_loader.close()
        self._sweep_loader.close()
        self._ahead.close()
        self._engine.close()
        self._client.close()
        self._transport.close()
        if self._budget.learnt != self._remembered_rates:  # else they are as old as they were
            self._keep_rates(self._budget.learnt)
        self.kernel.close()  # last: what is in flight, and would keep it waiting, fails by now

    def refresh(self, *ids: str) -> None:
        """Ask Rescale again from now on: for everything, for a job, or for a run (job id and run id)."""
        self._catalog.refresh(*ids)
        self.kernel.forget()

    def _forget(self, job_id: str, run_id: str, replaced: Iterable[str]) -> None:
        """A run is shown otherwise than before, some names as files that were directories or the other way round."""
        self.kernel.forget(f"{run_place(job_id, run_id)}/{name}" for name in replaced)

    def state(self) -> Iterator[str]:
        """Yield in lines what is known, open and under way: neither the key nor bytes of a file."""
        yield dump.process()
        yield f"status {self._status()}"
        yield from (f"{name} {value}" for name, value in self._stats().items())
        loaders = self._loader, self._live_loader, self._sweep_loader
        yield from (f"asking: {what}" for loader in loaders for what in loader.in_flight)
        yield from map(str, self._engine.open_contents())

    def _status(self) -> str:
        failing = None if self._reach.is_offline else self._key.status or self._breaker.status
        return failing or self._reach.status

    def _stats(self) -> Mapping[str, object]:
        requests = {f"requests.{name}": number for name, number in self._transport.requests_by_endpoint.items()}
        return {
            **requests,
            **{f"kernel.{name}": number for name, number in sorted(self.operations.items())},
            "throttled_s": round(self._budget.throttled_s, 1),
            **{f"rate.{scope}": f"{per_s:.2f}" for scope, per_s in self._budget.rates.items()},
            **self._engine.stats(),
            **self._follower.stats(),
        }


def serve(settings: Settings, account: Account, owner: str, binding: Binding, on_ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted or told to end by a signal. Called in the main thread.

    *on_ready* is called from another thread once the mount answers.

    Raises:
        NoFuse: the mount could not be made.
    """
    share_heaps()
    mount = Mount(settings, account, owner)
    end, has_begun = End(), threading.Event()

    def started() -> None:
        has_begun.set()
        mount.start()
        announce = partial(_announce, settings.mount_point, binding.read_ahead_kib, on_ready)
        threading.Thread(target=announce, name="ready", daemon=True).start()

    operations = Operations(
        mount.namespace,
        mount.kernel,
        settings.cache_directory,
        metadata_deadline_s=settings.metadata_deadline_s,
        data_deadline_s=settings.data_deadline_s,
        counts=mount.operations,
        on_start=started,
        on_stop=mount.close,
    )
    # libfuse's own handlers would stop its loop, but not those who wait inside a callback. So all signals are blocked
    # here, and in every thread made later, and one thread takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_take_signals, args=(mount, operations, end), name="signals", daemon=True).start()
    options: dict[str, str | bool] = dict(settings.fuse_options or {})
    if settings.allow_other:
        options["allow_other"] = True
    log.info("mounting %s on %s with %s", account.origin, settings.mount_point, binding.name)
    try:
        binding.run(operations, str(settings.mount_point), options, end)
    except NoFuse:
        if not has_begun.is_set():
            raise
        # The kernel ends a detached mount with its last open file, though a thread may just be reading a request.
        log.warning("the kernel ended the mount while something was asked of it")
    finally:
        notify("STOPPING=1", os.environ)
        mount.close()
    log.info("unmounted %s", settings.mount_point)


def _take_signals(mount: Mount, operations: Operations, end: End) -> None:
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGUSR1:
            handles = (f"{name} {count}" for name, count in operations.handles().items())
            for line in chain(mount.state(), handles, dump.operations(), dump.threads(), ["end"]):
                _say(line)
        elif number == signal.SIGHUP:
            log.info("SIGHUP: asking Rescale again from now on")
            mount.refresh()
        else:
            log.info("%s: ending", signal.Signals(number).name)
            mount.close()
            end()


def _say(line: str) -> None:
    """Write what was asked for by a signal, however little is logged otherwise."""
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, "SIGUSR1: %s", (line,), None))


def _announce(mount_point: Path, read_ahead_kib: int | None, on_ready: Callable[[], None]) -> None:
    try:
        os.statvfs(mount_point)  # answered by another thread of this process, once the kernel lets it
    except OSError as error:
        log.error("the mount does not answer: %s", error)
        return
    if read_ahead_kib is not None:
        _set_read_ahead(mount_point, read_ahead_kib)
    notify("READY=1", os.environ)
    on_ready()


def _set_read_ahead(mount_point: Path, kib: int) -> None:
    """Let the kernel read ahead by more than its 128 KiB, where this process may tell it so (root alone may)."""
    with contextlib.suppress(OSError):
        device = mount_point.stat().st_dev
        Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text(str(kib))


def run_in_background(serve_here: Callable[[Callable[[], None]], None], detach: Callable[[], None]) -> None:
    """Fork a process that serves; return once its mount answers.

    The child keeps standard error until it is ready, so that what the library complains about is seen. It ends if this
    process is gone by then, and has nothing open that the caller of this process had.
    *detach* is called in the child when it is ready: it points the standard streams elsewhere.

    Raises:
        NoFuse: the mount could not be made, or does not answer.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) != 0:
        os.close(writer)
        with open(reader, "rb") as channel:
            said = _read_within(channel.fileno(), READY_S)
        if said == _READY:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        raise NoFuse(said.decode() or "the mount did not come up")
    code = 1
    try:
        os.close(reader)
        close_inherited()
        os.setsid()
        os.chdir("/")

        def ready() -> None:
            detach()
            try:
                os.write(writer, _READY)
            except BrokenPipeError:  # who wanted the mount was ended while it came up, as by Ctrl-C
                os.kill(os.getpid(), signal.SIGTERM)

        serve_here(ready)
        code = 0
    except NoFuse as error:
        log.error("%s", error)
        with contextlib.suppress(BrokenPipeError):  # it was ready, and its parent has gone
            os.write(writer, str(error).encode())
    finally:
        logging.shutdown()
        os._exit(code)  # threads that wait for a resolver must not hold the process


def _read_within(descriptor: int, seconds: float) -> bytes:
    readable, _, _ = select.select([descriptor], [], [], seconds)
    return os.read(descriptor, select.PIPE_BUF) if readable else b""
