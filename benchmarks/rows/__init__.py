"""The rows, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.bench import Bench
from benchmarks.checks import Outcome
from benchmarks.rows import catalog, kept, limits, live, scattered, streams

Row = Callable[[Bench, Outcome], None]

ROWS: Mapping[str, Row] = {
    row.__name__: row
    for row in (
        streams.stream,
        streams.verified,
        streams.head,
        streams.tail,
        scattered.random,
        scattered.small,
        scattered.small_budget,
        streams.shared,
        kept.disk,
        kept.warm,
        kept.reopen,
        scattered.twins,
        catalog.find,
        catalog.names,
        catalog.details,
        catalog.looks,
        catalog.flat,
        catalog.sweep,
        catalog.vast,
        catalog.weight,
        live.follow,
        limits.memory,
        limits.stuck,
    )
}

# Rows that take minutes alone: they are measured when they are asked for by name.
LONG = frozenset({"vast"})


def title_of(row: Row) -> str:
    """Return what a row says of itself, for the table."""
    return (row.__doc__ or "").partition("\n")[0].rstrip(".")
