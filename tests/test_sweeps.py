"""Many runs of one job listed at once: what it costs, when it is done, and that it never tells anything else."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import Catalog, RunState, RunView
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Job, World
from rescalefs.errors import Offline
from rescalefs.finality import SETTLED_AFTER_S
from rescalefs.reach import Reach
from rescalefs.sweeps import AGAIN_S, LOOKS_S, MOST_PAGES
from tests.conftest import Cost, Mounted
from tests.stack import catalog_of, paths
from tests.tools import sh

Rows = list[dict[str, Any]]
DAY_S = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def catalog(emulator: Emulator, clock: ManualClock) -> Iterator[Catalog]:
    """A catalog of the world that knows nothing yet."""
    with catalog_of(emulator.origin, clock) as made:
        yield made


def add_sweep(world: World, runs: int, files: int, id: str = "Sweep") -> Job:
    """Add a job whose *runs* ended long ago with as many *files* each."""
    job = world.add_job(id, expected_runs=runs)
    for _ in range(runs):
        run = job.add_run(finished=True)
        for number in range(files):
            run.add_file(f"case/{number}", b"")
    return job


def find(catalog: Catalog, job: str = "Sweep") -> dict[str, set[str]]:
    """Go through all runs of a job in their order; return the paths in each."""
    return {run: paths(catalog.view(job, run)) for run in catalog.runs(job)}


# ---- what it costs ----


def test_many_runs_cost_the_pages_of_their_job(world: World, catalog: Catalog, cost: Cost) -> None:
    """121 runs of 66 files are twelve requests, the list of jobs and of runs and two runs among them."""
    add_sweep(world, 121, 66)

    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 2, "job_files": 8}
    assert find(catalog) == {str(run): {f"case/{n}" for n in range(66)} for run in range(1, 122)}
    assert {catalog.state("Sweep", run) for run in catalog.runs("Sweep")} == {RunState.FINAL}
    assert cost(lambda: find(catalog)) == {}


def test_who_looks_into_a_run_or_two_pays_for_these(
    world: World, catalog: Catalog, cost: Cost, clock: ManualClock
) -> None:
    """And so does who looks into another one every minute."""
    add_sweep(world, 30, 66)
    catalog.runs("Sweep")

    assert cost(lambda: [catalog.view("Sweep", run) for run in ("7", "3", "7", "3")]) == {"run_files": 2}
    for run in ("4", "5", "6"):
        clock.advance(LOOKS_S + 1)
        assert cost(lambda run=run: catalog.view("Sweep", run)) == {"run_files": 1}


def test_a_single_page_serves_from_the_second_run_on(world: World, catalog: Catalog, cost: Cost) -> None:
    """A page of the job costs what a page of the second run does."""
    add_sweep(world, 10, 100)

    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 1, "job_files": 1}


@pytest.mark.parametrize(("runs", "files"), [(4, 501), (3, 1500), (2, 1), (1, 5)])
def test_no_sweep_where_it_saves_nothing(runs: int, files: int, world: World, catalog: Catalog, cost: Cost) -> None:
    """Neither for large runs, nor when few are left."""
    add_sweep(world, runs, files)

    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": runs * -(-files // 1000)}


def test_a_sweep_is_kept_over_remounts_and_what_is_kept_is_not_swept(
    world: World, emulator: Emulator, clock: ManualClock, tmp_path: Path, cost: Cost
) -> None:
    """Runs that nobody looked into yet are on disk, too; where few are missing, these are listed alone."""
    add_sweep(world, 12, 100)
    with catalog_of(emulator.origin, clock, tmp_path) as catalog:
        for run in ("1", "2"):
            catalog.view("Sweep", run)
        assert cost(lambda: catalog.view("Sweep", "3")) == {"job_files": 2}
    with catalog_of(emulator.origin, clock, tmp_path) as catalog:
        assert cost(lambda: find(catalog)) == {"jobs": 1}
    for run in ("1", "11", "12"):
        world.jobs["Sweep"].runs[run].add_file("more", b"")
    clock.advance(DAY_S + 1)
    with catalog_of(emulator.origin, clock, tmp_path) as catalog:
        assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 3}


def test_a_swept_run_that_shows_something_else_later_is_told(
    world: World, emulator: Emulator, clock: ManualClock
) -> None:
    """Who remembers for long what a final run showed must hear of it, however the run was listed first."""
    job = add_sweep(world, 8, 3)
    told: list[tuple[str, str]] = []
    with catalog_of(emulator.origin, clock, changed=lambda job_id, run_id, _: told.append((job_id, run_id))) as catalog:
        find(catalog)
        assert emulator.requests["job_files"] == 1
        job.runs["7"].add_file("case/more", b"")
        clock.advance(DAY_S + 1)
        find(catalog)
        assert told == [("Sweep", "7")]
        assert not catalog.is_steady(catalog.view("Sweep", "7"))


def test_many_who_ask_at_once_share_a_sweep(world: World, emulator: Emulator, catalog: Catalog, cost: Cost) -> None:
    """Sixteen that look into other runs while the job is listed wait for that listing."""
    add_sweep(world, 40, 60)
    for run in ("1", "2"):
        catalog.view("Sweep", run)
    emulator.latency_s = 0.2

    def ask_together() -> None:
        with ThreadPoolExecutor(16) as pool:
            views = list(pool.map(lambda run: catalog.view("Sweep", str(run)), range(3, 19)))
        assert {len(view.files) for view in views} == {60}

    assert cost(ask_together) == {"job_files": 3}


def test_a_job_is_swept_once_and_anew_after_a_refresh(
    world: World, emulator: Emulator, catalog: Catalog, clock: ManualClock, cost: Cost
) -> None:
    """What a sweep did not bring is listed run by run, until some time has passed or somebody refreshes."""
    job = add_sweep(world, 10, 10)
    for run in job.runs.values():
        run.files[0].is_deleted = True  # the counts are wrong: no listing ends the asking
    find(catalog)
    for advance_s, swept in ((LOOKS_S, 0), (AGAIN_S, 1)):
        clock.advance(advance_s)
        assert cost(lambda: find(catalog)).get("job_files", 0) == swept
    clock.advance(LOOKS_S)
    catalog.refresh("Sweep")
    assert cost(lambda: find(catalog))["job_files"] == 1


def test_a_job_beyond_all_pages_is_not_swept(world: World, emulator: Emulator, catalog: Catalog, cost: Cost) -> None:
    """A sweep that would take longer than anybody waits is not begun."""
    add_sweep(world, 5, 1)

    def many(rows: Rows) -> Rows:
        return [{**row, "outputFileCount": (MOST_PAGES + 1) * 1000 // 5} for row in rows]

    emulator.faults.add(endpoint="runs", rows=many)
    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 5}


def test_without_a_network_no_sweep_is_made_and_later_it_is(
    world: World, emulator: Emulator, clock: ManualClock, cost: Cost
) -> None:
    """Runs that are not here fail at once; when the network is back they come together."""
    add_sweep(world, 30, 20)
    reach = Reach(clock=clock.now, wall_clock=clock.now)
    with catalog_of(emulator.origin, clock, None, reach) as catalog:
        catalog.view("Sweep", "1")
        reach.failed("no cable", tried_s=10)
        for run in ("2", "3"):
            with pytest.raises(Offline):
                catalog.view("Sweep", run)
        reach.answered()
        assert cost(lambda: find(catalog)) == {"job_files": 1}


# ---- what it tells ----


def test_live_and_settling_runs_keep_their_own_listing(
    world: World, catalog: Catalog, clock: ManualClock, cost: Cost
) -> None:
    """A job that goes on: ended runs come at once, one that ended a moment ago and one that computes do not."""
    job = add_sweep(world, 6, 3)
    job.add_run(started=clock.now() - 5000, completed=clock.now() - SETTLED_AFTER_S / 2, files={"late": b""})
    job.add_run(live={"log": b""})

    found = cost(lambda: find(catalog))
    assert {name: found[name] for name in ("run_files", "job_files", "directory_contents")} == {
        "run_files": 3,
        "job_files": 1,
        "directory_contents": 1,
    }
    assert [catalog.view("Sweep", run).state for run in ("6", "7", "8")] == [
        RunState.FINAL,
        RunState.SETTLING,
        RunState.LIVE,
    ]
    assert paths(catalog.view("Sweep", "8")) == {"log"}


NAMES = st.sampled_from(["log", "a", "a/b", "a/c", "x/../y", "..", "", "/z", "%2F", "n" * 300, ".rescale", "run2/log"])
FILES = st.lists(
    st.fixed_dictionaries(
        {
            "path": NAMES,
            "is_deleted": st.sampled_from([False, False, False, True]),
            "is_uploaded": st.sampled_from([True, True, True, False]),
            "type_id": st.sampled_from([5, 12]),
        }
    ),
    max_size=5,
)


def no_path(rows: Rows) -> Rows:
    return [{**row, "path": None} for row in rows]


def some_without_path(rows: Rows) -> Rows:
    return [row if number % 3 else {**row, "path": row["name"]} for number, row in enumerate(rows)]


def all_of_run_1(rows: Rows) -> Rows:
    return [{**row, "path": "user/user_X/output/job_Sweep/run1/x"} for row in rows]


def of_the_next_run(rows: Rows) -> Rows:
    """Tell the files of each run as those of the next one: the counts may agree all the same."""

    def moved(path: str) -> str:
        head, _, tail = path.partition("/run")
        number, _, rest = tail.partition("/")
        return f"{head}/run{int(number) % 5 + 1}/{rest}"

    return [{**row, "path": moved(row["path"])} for row in rows]


def of_other_sizes(rows: Rows) -> Rows:
    return [{**row, "decryptedSize": row["decryptedSize"] + 1} for row in rows]


HOSTILE: list[Callable[[Rows], Rows]] = [
    list,
    no_path,
    some_without_path,
    all_of_run_1,
    of_the_next_run,
    of_other_sizes,
    lambda rows: rows[1:],
    lambda rows: rows + rows[:1],
    lambda rows: rows[:-1] + rows[:1],
    lambda rows: [],
]


def shown(view: RunView) -> tuple[Any, ...]:
    """All that a view shows."""
    return view.state, {name for name, _ in walk("", view.root)}, sorted(view.files, key=lambda file: file.id)


def walk(place: str, tree: Any) -> Iterator[tuple[str, Any]]:
    for name, entry in tree.entries.items():
        yield place + name, entry
        if hasattr(entry, "entries"):
            yield from walk(f"{place}{name}/", entry)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FILES, min_size=5, max_size=5), st.sampled_from(HOSTILE))
def test_swept_or_listed_one_by_one_a_job_is_the_same(
    runs: list[list[dict[str, Any]]], change: Callable[[Rows], Rows]
) -> None:
    """Whatever the listing of the job says, each run has the files that its own listing has, in the same state."""
    clock = ManualClock(1_700_000_000.0)
    world = World(clock=clock)
    job = world.add_job("Sweep", expected_runs=5)
    for files in runs:
        run = job.add_run(finished=True)
        for number, fields in enumerate(files):
            run.add_file(content=b"%d" % number, **fields)
    with Emulator(world) as emulator:
        fault = emulator.faults.add(endpoint="job_files", rows=change)
        with catalog_of(emulator.origin, clock) as catalog:
            swept = {run: shown(catalog.view("Sweep", run)) for run in catalog.runs("Sweep")}
            assert fault.hits == emulator.requests["job_files"] <= 1
        with catalog_of(emulator.origin, clock, may_sweep=False) as catalog:
            assert {run: shown(catalog.view("Sweep", run)) for run in catalog.runs("Sweep")} == swept


@pytest.mark.parametrize(
    "fault",
    [
        {"shift_rows": 1},
        {"shift_rows": -1},
        {"count_plus": 1},
        {"status": 500},
        {"body": "{}"},
        {"rows": of_the_next_run},
        {"rows": of_other_sizes},
    ],
    ids=["rows lost", "rows doubled", "count too high", "500", "no listing", "runs mixed up", "other sizes"],
)
def test_a_sweep_that_fails_or_does_not_agree_is_not_used(
    fault: dict[str, Any],
    world: World,
    emulator: Emulator,
    catalog: Catalog,
    cost: Cost,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pages that moved, errors, files of a run that are not those it was listed with: each run by itself."""
    caplog.set_level(logging.INFO)
    add_sweep(world, 25, 50)
    emulator.faults.add(endpoint="job_files", **fault)

    assert cost(lambda: find(catalog))["run_files"] == 25
    assert find(catalog) == {str(run): {f"case/{n}" for n in range(50)} for run in range(1, 26)}
    assert "job Sweep" in caplog.text


def test_runs_without_files_are_no_evidence(world: World, emulator: Emulator, catalog: Catalog, cost: Cost) -> None:
    """What a listing of the job tells is compared with a run that has files, before it is believed of others."""
    job = add_sweep(world, 2, 0)
    for _ in range(3):
        job.add_run(finished=True, files={"log": b""})
    emulator.faults.add(endpoint="job_files", rows=of_the_next_run)

    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 5, "job_files": 1}
    assert len({file.id for run in job.runs for file in catalog.view("Sweep", run).files}) == 3


def test_of_an_unknown_run_a_sweep_says_nothing(world: World, emulator: Emulator, catalog: Catalog, cost: Cost) -> None:
    """A run without outputs is believed to have none only if every file's run is told."""
    job = add_sweep(world, 6, 2)
    for _ in range(3):
        job.add_run(finished=True)
    emulator.faults.add(endpoint="job_files", rows=lambda rows: [{**rows[-1], "path": ""}, *rows[:-1]])

    assert cost(lambda: find(catalog)) == {"jobs": 1, "runs": 1, "run_files": 1 + 1 + 3, "job_files": 1}
    assert [len(files) for files in find(catalog).values()] == [2] * 6 + [0] * 3


@pytest.mark.mount
def test_find_through_a_mount_sweeps(mount_of: Callable[..., Mounted]) -> None:
    """`find` over 121 runs of 66 files: all of them, in twelve requests; and from the disk after a remount."""
    world = World()
    add_sweep(world, 121, 66)
    expected = sorted(f"{run}/case/{number}" for run in range(1, 122) for number in range(66))
    with Emulator(world) as emulator:
        mounted = mount_of(emulator)
        runs = mounted.jobs / "Sweep/runs"
        emulator.reset_counts()
        assert sorted(sh("find . -type f -printf '%P\\n'", runs).split()) == expected
        assert dict(emulator.requests) == {"jobs": 1, "runs": 1, "run_files": 2, "job_files": 8}

        mounted.unmount()
        mounted.mount()
        emulator.reset_counts()
        assert len(os.listdir(runs / "121/case")) == 66
        assert sorted(sh("find . -type f -printf '%P\\n'", runs).split()) == expected
        assert set(emulator.requests) <= {"jobs", "runs"}
