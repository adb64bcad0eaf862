"""When a run that has ended cannot change any more, as far as its object and its files tell. Pure rules."""

from __future__ import annotations

from collections.abc import Collection

from rescalefs.models import RemoteFile, Run

# A run whose outputs are complete by its own count, this long after its end, is taken as final at one look;
# Rescale uploads outputs one by one after the end, within minutes for usual sizes.
SETTLED_AFTER_S = 3600.0
# A run whose count never matches its listing is final a day after its end, when the listing was the same for an hour.
GIVEN_UP_AFTER_S = 86_400.0
SAME_FOR_S = 3600.0
_NS = 1_000_000_000


def ended_for_s(run: Run, now_s: float) -> float | None:
    """Return how long ago a run ended, None while it has no end. *now_s* is in seconds since the epoch."""
    return None if run.completed_ns is None else now_s - run.completed_ns / _NS


def is_long_over(run: Run, now_s: float) -> bool:
    """Tell whether a run ended so long ago that all its outputs should be uploaded."""
    ended_s = ended_for_s(run, now_s)
    return ended_s is not None and ended_s > SETTLED_AFTER_S


def is_final(run: Run, files: Collection[RemoteFile], same_for_s: float | None, now_s: float) -> bool:
    """Tell whether a run that has ended can still change; *same_for_s* is None if it was not seen like this before.

    Two looks that agree, everything uploaded and the count right; one look is enough an hour after the end.
    Where the count never gets right, or an upload never completes, a day and an unchanged hour are.
    A run of a killed job may have no end, and a count of 0 as while it ran: the unchanged hour decides.
    """
    is_long_same = same_for_s is not None and same_for_s >= SAME_FOR_S
    ended_s = ended_for_s(run, now_s)
    if ended_s is None:
        return is_long_same
    if all(file.is_uploaded for file in files) and run.output_count == len(files):
        return same_for_s is not None or ended_s > SETTLED_AFTER_S
    return ended_s > GIVEN_UP_AFTER_S and is_long_same
