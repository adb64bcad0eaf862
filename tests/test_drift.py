"""Pages that drift, through the real client and server: the tree is that of the files that there are, or an error."""

from __future__ import annotations

from typing import Any
from unittest import mock

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import RunState
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.known import Lifetimes
from tests.reference import shown_paths
from tests.stack import catalog_of
from tests.test_sweeps import walk
from tests.test_tree import PATHS

# Few rows make many pages.
PAGE = 3
DRIFTS: list[dict[str, Any]] = [
    {"shift_rows": 1},
    {"shift_rows": -1},
    {"shift_rows": -PAGE},
    {"count_plus": 1},
    {"count_plus": -1},
    {"count_plus": 40},
    {"drop_page_size": True},
    {"rows": lambda rows: rows[1:]},
    {"rows": lambda rows: rows[:-1]},
    {"rows": lambda rows: rows + rows[:1]},
    {"rows": lambda rows: rows[:-1] + rows[:1]},
    {"rows": lambda rows: []},
    {"rows": lambda rows: rows[::-1]},
]


@settings(max_examples=50, deadline=None)
@example([("", 0, False)] * (PAGE + 1), {"count_plus": -1}, 1)
@example([("", 0, False)] * PAGE + [("", 0, True)], {"count_plus": -1}, 1)
@example([("", 0, True)] + [("", 0, False)] * PAGE, {"count_plus": -1}, 1)
@given(
    st.lists(st.tuples(PATHS, st.integers(0, 2), st.booleans()), max_size=3 * PAGE + 2),
    st.sampled_from(DRIFTS),
    st.integers(1, 5),
)
def test_a_page_that_drifts_changes_nothing(
    files: list[tuple[str, int, bool]], drift: dict[str, Any], nth: int
) -> None:
    """Hostile, equal and conflicting names, deleted rows among them: rows moved, lost or doubled once are noticed."""
    assume(not any(len(segment) > 200 for path, _, _ in files for segment in path.split("/")[:-1]))
    clock = ManualClock(1_700_000_000.0)
    world = World(clock=clock)
    run = world.add_job("Drift").add_run(finished=True)
    for path, age, is_deleted in files:
        run.add_file(path, b"", date_uploaded=run.started + age, is_deleted=is_deleted)
    run.output_file_count = sum(not file.is_deleted for file in run.files)
    files_there = [file for file in run.files if not file.is_deleted]
    there = [(file.id, file.relative_path or file.name, int(file.date_uploaded)) for file in files_there]
    with Emulator(world) as emulator, mock.patch("rescalefs.client.FILES_PAGE", PAGE):
        emulator.faults.add(endpoint="run_files", nth=nth, **drift)
        with catalog_of(emulator.origin, clock) as catalog:
            view = catalog.view("Drift", "1")
            if drift == {"count_plus": -1} and nth == 1 and len(files) == PAGE + 1:
                # All that is told agrees: a page, its count, no next one. But the run counts one more.
                assert len(view.files) == run.output_file_count or view.state is RunState.SETTLING
                clock.advance(Lifetimes().settling_s)
                view = catalog.view("Drift", "1")
    found = {entry.id: name for name, entry in walk("", view.root) if not hasattr(entry, "entries")}
    assert found == shown_paths(there)
    assert {file.id for file in view.files} == {id for id, _, _ in there}
