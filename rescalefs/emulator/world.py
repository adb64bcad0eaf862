"""The scripted world: all that the emulated API knows of.

    world = World()
    job = world.add_job("AbCdE", name="wing")
    job.add_run(finished=True, files={"airfoil/0/U": b"...", "log": Path("/tmp/log")})
    run = job.add_run(live={"log": b"Time = 0\\n"})
    run.live["log"].append(b"Time = 1\\n")
    run.stop()

Dates are seconds since the epoch, durations (`_s`) are seconds.
Threads: any method, any thread; `World.lock` guards everything and may be held over several steps.
"""

from __future__ import annotations

import os
import random
import string
import threading
from collections.abc import Mapping
from typing import Any

from rescalefs.emulator.clock import Clock, RealClock
from rescalefs.emulator.files import File
from rescalefs.emulator.jobs import STAGES_S, Job, Run

__all__ = ["DAY_S", "Job", "Run", "World", "WorldError"]

DAY_S = 86_400.0
# Age of a job that is told nothing else: its runs have long been final by any client's rules.
DEFAULT_AGE_S = 4 * DAY_S


class WorldError(Exception):
    """A world file with a mistake; the text is one sentence that names file, place and remedy."""


class World:
    """All jobs of one user.

    Threads: any method, any thread.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        user: str = "demouser@rescale.com",
        seed: int = 0,
        stop_s: float = 1.0,
        snapshot_s: float = 2.0,
    ) -> None:
        """Begin without jobs; ids follow from *seed*.

        *stop_s* is how long a stopped run takes to end, *snapshot_s* how long an archive takes to appear.
        """
        self.clock: Clock = RealClock() if clock is None else clock
        self.user = user
        self.stop_s = stop_s
        self.snapshot_s = snapshot_s
        self.lock = threading.RLock()
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, tuple[Run, File]] = {}
        self._ids: set[str] = set()
        self._random = random.Random(seed)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, clock: Clock | None = None) -> World:
        """Return the world described by the JSON file *path* (see `worldfile`).

        Raises:
            WorldError: the file cannot be read or has a mistake.
        """
        from rescalefs.emulator.worldfile import load

        return load(path, clock=clock)

    def add_job(
        self,
        id: str | None = None,
        *,
        name: str | None = None,
        owner: str | None = None,
        created: float | None = None,
        submitted: bool | float = True,
        stages: Mapping[str, float] | None = None,
        analysis: str = "OpenFOAM",
        **fields: Any,
    ) -> Job:
        """Add a job and return it; *fields* are those of `Job`.

        *submitted* is a date, True for a minute after *created*, False for a job that was only saved.
        *stages* gives the delays of its statuses after that (default `STAGES_S`).
        """
        with self.lock:
            id = self.claim_id(id, length=5)
            if created is None:
                created = self.clock.now() - DEFAULT_AGE_S
                if not isinstance(submitted, bool):
                    created = min(created, submitted)
            if isinstance(submitted, bool):
                date = min(created + 60, self.clock.now()) if submitted else None
            else:
                date = submitted
            job = Job(
                world=self,
                id=id,
                name=f"job {id}" if name is None else name,
                owner=owner or self.user,
                created=created,
                submitted=date,
                stages=dict(STAGES_S if stages is None else stages),
                analysis=analysis,
                **fields,
            )
            self.jobs[id] = job
            return job

    def file(self, id: str) -> tuple[Run, File] | None:
        """Return the output file *id* and its run, None if listings do not have it."""
        with self.lock:
            found = self.files.get(id)
            return found if found is not None and found[1].is_listed(self.clock.now()) else None

    def claim_id(self, id: str | None, length: int) -> str:
        """Return *id*, or a new one of *length* mixed-case letters as Rescale's are.

        Raises:
            ValueError: the id is taken.
        """
        if id is not None and id in self._ids:
            raise ValueError(f"there are two things with the id {id!r}")
        while id is None or id in self._ids:
            id = "".join(self._random.choices(string.ascii_letters, k=length))
        self._ids.add(id)
        return id
