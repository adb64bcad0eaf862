"""Waiting until a job or a run has ended, or until its outputs are all there: what `rescalefs wait` does.

Rescale says how it went of jobs alone: a job that failed or was stopped ends as `Completed`, too, and the reason tells.
So of a run that is the last one of its job to end, the job's end is waited for.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from rescalefs.catalog import Catalog, RunState
from rescalefs.errors import AccessDenied, NotFound, RescaleError
from rescalefs.models import TERMINAL_STATUSES
from rescalefs.timing import Clock, within

# What one look may take, however little time is left.
LOOK_S = 5.0
# Reasons with which Rescale ends a job that went well; every other one is told as a failure.
_GOOD_REASONS = ("", "Completed successfully")


class Goal(enum.Enum):
    """What is waited for."""

    ENDED = "ended"  # it computes no more
    FINAL = "final"  # and all its outputs are uploaded


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went, and that in words."""

    is_success: bool
    text: str


class Waiter:
    """Waits for one job, or for one run of it. Used by one thread.

    *tell* is given a few words after each look.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        every_s: float,
        tell: Callable[[str], None],
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalog = catalog
        self._every_s = every_s
        self._tell = tell
        self._clock = clock
        self._sleep = sleep

    def wait(self, job_id: str, run_id: str | None, goal: Goal, timeout_s: float = float("inf")) -> Outcome | None:
        """Return how it went once it has happened, None if it has not within *timeout_s*.

        Raises:
            NotFound: there is no such job, or it is over and never had such a run.
            AccessDenied: the key is refused. Any other failure is waited out.
        """
        give_up_at = self._clock() + timeout_s
        while True:
            outcome = None
            try:
                with within(max(LOOK_S, give_up_at - self._clock()), lambda: False):
                    outcome, words = self._look(job_id, run_id, goal)
            except (AccessDenied, NotFound):
                raise
            except RescaleError as error:
                words = f"Rescale does not answer: {error}"
            self._tell(words)
            left_s = give_up_at - self._clock()
            if outcome is not None or left_s <= 0:
                return outcome
            self._sleep(min(self._every_s, left_s))

    def _look(self, job_id: str, run_id: str | None, goal: Goal) -> tuple[Outcome | None, str]:
        status = self._catalog.status(job_id)
        is_over = status in TERMINAL_STATUSES
        runs = self._catalog.runs(job_id)
        if run_id is not None and run_id not in runs:
            if is_over:
                raise NotFound(f"job {job_id} has no run {run_id}")
            return None, f"{status or 'not submitted'}, run {run_id} has not begun"
        stages = [self._stage(job_id, run, goal) for run in (runs if run_id is None else [run_id])]
        left = sum(not is_done for is_done, _ in stages)
        if run_id is not None:
            words = stages[0][1]
        else:
            words = f"{status or 'not submitted'}, {left} of {len(stages)} runs to go"
        if left or (run_id is None and not is_over):
            return None, words
        if not is_over and all(run.completed_ns is not None for run in runs.values()):
            return None, f"{words}, waiting for the job's own end"
        return self._judge(job_id, is_over), words

    def _stage(self, job_id: str, run_id: str, goal: Goal) -> tuple[bool, str]:
        """Return whether a run is where it is waited for, and where it stands in a word."""
        run = self._catalog.run(job_id, run_id)
        if goal is Goal.ENDED and (run.completed_ns is not None or self._catalog.is_over(job_id)):
            return True, "ended"  # whether its outputs are all there would cost a listing
        state = self._catalog.state(job_id, run_id)
        return state is RunState.FINAL, state.value

    def _judge(self, job_id: str, is_over: bool) -> Outcome:
        newest = self._catalog.newest_status(job_id) if is_over else None
        if newest is None:  # other runs of the job go on
            return Outcome(True, "ended; Rescale tells with the job's end how it went")
        is_success = newest.text == "Completed" and newest.reason in _GOOD_REASONS
        return Outcome(is_success, f"{newest.text} ({newest.reason})" if newest.reason else newest.text)
