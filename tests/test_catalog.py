"""What is known of jobs, runs and files: what it costs, how long it is used, and how a run becomes final."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import GIVEN_UP_AFTER_S, SAME_FOR_S, SETTLED_AFTER_S, Catalog, Lifetimes, RunState, RunView
from rescalefs.client import Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import AccessDenied, NotFound, Unavailable
from tests.stack import DEADLINE_S, catalog_of

LIFETIMES = Lifetimes()
HOUR_S = 3600.0
NO_ROWS = '{"count": 0, "next": null, "previous": null, "results": []}'


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


Cost = Callable[[Callable[[], object]], dict[str, int]]


@pytest.fixture
def cost(emulator: Emulator) -> Cost:
    """Count what a question costs: `cost(catalog.jobs) == {"jobs": 1}`."""

    def count(ask: Callable[[], object]) -> dict[str, int]:
        emulator.reset_counts()
        ask()
        return dict(emulator.requests)

    return count


def paths(view: RunView) -> set[str]:
    """Return the paths of all files that a view shows."""
    return {leaf.path for leaf in view.root.leaves()}


# ---- what it costs ----


@pytest.mark.parametrize("files", [0, 1, 1000, 1001, 2500])
def test_a_listing_costs_a_request_for_each_thousand_files(
    files: int, world: World, catalog: Catalog, cost: Cost
) -> None:
    """A finished run costs the list of jobs, its runs and its pages; nothing the second time, for an hour."""
    run = world.add_job("AbCdE").add_run(finished=True)
    for number in range(files):
        run.add_file(f"{number % 7}/{number}", b"")

    assert cost(lambda: catalog.view("AbCdE", "1")) == {"jobs": 1, "runs": 1, "run_files": max(1, -(-files // 1000))}
    assert paths(catalog.view("AbCdE", "1")) == {f"{number % 7}/{number}" for number in range(files)}
    assert cost(lambda: [catalog.view("AbCdE", "1"), catalog.state("AbCdE", "1"), catalog.status("AbCdE")]) == {}


def test_the_list_of_jobs_costs_a_request_for_each_two_hundred(world: World, catalog: Catalog, cost: Cost) -> None:
    """401 jobs are three requests, and each job, its name and its status are known with them."""
    jobs = [world.add_job().id for _ in range(401)]

    assert cost(catalog.jobs) == {"jobs": 3}
    assert set(catalog.jobs()) == set(jobs)
    assert cost(lambda: [(catalog.job(id), catalog.status(id)) for id in jobs]) == {}


def test_other_runs_of_a_job_cost_their_files_alone(world: World, catalog: Catalog, cost: Cost) -> None:
    """One list of runs serves all runs of a job, and is in the order of their numbers."""
    job = world.add_job("AbCdE")
    for number in ("10", "2", "1"):
        job.add_run(number, finished=True, files={number: b""}).display_order = 0
    catalog.view("AbCdE", "1")

    assert cost(lambda: [catalog.view("AbCdE", run) for run in ("2", "10")]) == {"run_files": 2}
    assert list(catalog.runs("AbCdE")) == ["1", "2", "10"]


def test_many_who_ask_at_once_share_the_answer(world: World, emulator: Emulator, catalog: Catalog, cost: Cost) -> None:
    """Sixteen callers that ask for one run together cost what one does."""
    world.add_job("AbCdE").add_run(finished=True, files={"log": b""})
    emulator.latency_s = 0.05

    def ask_together() -> None:
        with ThreadPoolExecutor(16) as pool:
            views = list(pool.map(lambda _: catalog.view("AbCdE", "1"), range(16)))
        assert {frozenset(paths(view)) for view in views} == {frozenset({"log"})}

    assert cost(ask_together) == {"jobs": 1, "runs": 1, "run_files": 1}


# ---- how long it is used ----


def pending(world: World, emulator: Emulator) -> None:
    """Have the API list a run that has not begun."""
    world.add_job("AbCdE").add_run()
    row = {"id": "1", "dateStarted": None, "dateCompleted": None, "displayOrder": 1, "outputFileCount": 0}
    body = json.dumps({"count": 1, "next": None, "previous": None, "results": [row]})
    emulator.faults.add(endpoint="runs", body=body)


def live(world: World, emulator: Emulator) -> None:
    world.add_job("AbCdE").add_run(live={"log": b""})


def settling(world: World, emulator: Emulator) -> None:
    world.add_job("AbCdE").add_run(live={"log": b""}, trickle_s=1000).finish()


def final(world: World, emulator: Emulator) -> None:
    world.add_job("AbCdE").add_run(finished=True, files={"log": b""})


@pytest.mark.parametrize(
    ("make", "state", "lifetime_s"),
    [
        (pending, RunState.PENDING, LIFETIMES.live_s),
        (live, RunState.LIVE, LIFETIMES.live_s),
        (settling, RunState.SETTLING, LIFETIMES.settling_s),
        (final, RunState.FINAL, LIFETIMES.final_s),
    ],
)
def test_files_are_listed_again_when_their_state_allows_no_longer(
    make: Callable[[World, Emulator], None],
    state: RunState,
    lifetime_s: float,
    world: World,
    emulator: Emulator,
    catalog: Catalog,
    clock: ManualClock,
    cost: Cost,
) -> None:
    """A run's files are asked for once in the lifetime that its state has, and the live view of live runs alone."""
    make(world, emulator)
    assert catalog.view("AbCdE", "1").state is catalog.state("AbCdE", "1") is state
    looks = {"run_files": 1, **({"directory_contents": 1} if state is RunState.LIVE else {})}

    def files_cost() -> dict[str, int]:
        asked = cost(lambda: catalog.view("AbCdE", "1"))
        return {name: asked[name] for name in ("run_files", "directory_contents") if name in asked}

    clock.advance(lifetime_s - 1)
    assert files_cost() == {}
    clock.advance(2)
    assert files_cost() == looks
    clock.advance(lifetime_s - 1)
    assert files_cost() == {}


@pytest.mark.parametrize(
    ("ask", "name", "lifetime_s"),
    [
        (lambda catalog: catalog.jobs(), "jobs", LIFETIMES.jobs_s),
        (lambda catalog: catalog.status("LiveR"), "statuses", LIFETIMES.status_s),
        (lambda catalog: catalog.runs("LiveR"), "runs", LIFETIMES.status_s),
        (lambda catalog: catalog.runs("AbCdE"), "runs", LIFETIMES.runs_over_s),
        (lambda catalog: catalog.job("AbCdE"), "jobs", LIFETIMES.job_s),
    ],
    ids=["jobs", "status", "runs", "runs of a job that is over", "job"],
)
def test_what_is_not_files_has_its_lifetime_too(
    ask: Callable[[Catalog], object],
    name: str,
    lifetime_s: float,
    world: World,
    catalog: Catalog,
    clock: ManualClock,
    cost: Cost,
) -> None:
    """Within the lifetime no request is made, after it one; nobody who looks means no requests at all."""
    world.add_job("AbCdE").add_run(finished=True)
    world.add_job("LiveR").add_run(live={"log": b""})
    ask(catalog)

    clock.advance(lifetime_s - 1)
    assert cost(lambda: ask(catalog)) == {}
    assert cost(lambda: clock.advance(2)) == {}
    assert cost(lambda: ask(catalog))[name] == 1


def test_refreshing_forgets_one_level_and_what_is_below(world: World, catalog: Catalog, cost: Cost) -> None:
    """Refreshing a run spares the other runs' files, refreshing a job the other jobs, refreshing all spares nothing."""
    for id in ("AbCdE", "FgHiJ"):
        job = world.add_job(id)
        for _ in range(2):
            job.add_run(finished=True, files={"log": b""})

    def look() -> None:
        for id in ("AbCdE", "FgHiJ"):
            for run in ("1", "2"):
                catalog.view(id, run)

    look()
    assert cost(look) == {}
    catalog.refresh("AbCdE", "1")
    assert cost(look) == {"runs": 1, "run_files": 1}
    catalog.refresh("AbCdE")
    assert cost(look) == {"runs": 1, "run_files": 2}
    catalog.refresh()
    assert cost(look) == {"jobs": 1, "runs": 2, "run_files": 4}


def test_looking_again_believes_nothing_that_was_known(world: World, catalog: Catalog, cost: Cost) -> None:
    """The look before an act asks for status and runs anew, so it sees a run that has just ended."""
    run = world.add_job("LiveR").add_run(live={"log": b""})
    assert catalog.state("LiveR", "1") is RunState.LIVE
    run.finish()
    assert catalog.state("LiveR", "1") is RunState.LIVE  # as it was known

    assert cost(lambda: catalog.look_again("LiveR", "1")) == {"statuses": 1, "runs": 1}
    assert catalog.look_again("LiveR", "1") is RunState.SETTLING


# ---- jobs that are missing, and jobs that never ran ----


def test_a_missing_job_is_not_found_and_that_is_remembered(
    world: World, catalog: Catalog, clock: ManualClock, cost: Cost
) -> None:
    """A miss costs the list of jobs and one look by id; it holds for 30 s, and then the job may be there."""

    def look() -> None:
        with pytest.raises(NotFound):
            catalog.job("NoJob")

    assert cost(look) == {"jobs": 1, "job": 1}
    world.add_job("NoJob")
    assert cost(look) == {}
    clock.advance(LIFETIMES.miss_s - 1)
    assert cost(look) == {}
    clock.advance(2)
    assert cost(lambda: catalog.job("NoJob")) == {"jobs": 1}


def test_many_missing_jobs_cost_one_list(catalog: Catalog, cost: Cost) -> None:
    """Whoever probes for names pays one look for each, and one list of jobs for all."""

    def look() -> None:
        for id in ("Aaaaa", "Bbbbb", "Ccccc", "Aaaaa"):
            with pytest.raises(NotFound):
                catalog.view(id, "1")

    assert cost(look) == {"jobs": 1, "job": 3}


def test_a_job_that_appears_in_the_list_ends_the_miss(world: World, catalog: Catalog, clock: ManualClock) -> None:
    """What the list of jobs has is there, whatever was missing before."""
    catalog.jobs()
    clock.advance(LIFETIMES.jobs_s - 1)
    with pytest.raises(NotFound):
        catalog.job("NewJo")
    world.add_job("NewJo")
    clock.advance(2)

    assert "NewJo" in catalog.jobs()
    assert catalog.job("NewJo").id == "NewJo"


def test_a_job_outside_the_list_is_found_by_its_id(
    world: World, emulator: Emulator, catalog: Catalog, cost: Cost
) -> None:
    """A job that the list lacks is looked up once, with its status, and known from then on."""
    world.add_job("AbCdE", name="wing").add_run(finished=True)
    emulator.faults.add(endpoint="jobs", body=NO_ROWS)

    assert cost(lambda: catalog.job("AbCdE")) == {"jobs": 1, "job": 1, "statuses": 1}
    assert (catalog.job("AbCdE").name, catalog.status("AbCdE")) == ("wing", "Completed")
    assert cost(lambda: catalog.job("AbCdE")) == {}


def test_a_look_that_failed_is_no_missing_job(world: World, emulator: Emulator, catalog: Catalog) -> None:
    """Only the API's own 404 says that there is no job; a failure is an error, and is not remembered."""
    world.add_job("AbCdE")
    emulator.faults.add(endpoint="jobs", body=NO_ROWS)
    fault = emulator.faults.add(endpoint="job", status=500)

    with pytest.raises(Unavailable):
        catalog.job("AbCdE")

    emulator.faults.remove(fault)
    assert catalog.job("AbCdE").id == "AbCdE"


def test_a_missing_run_is_not_found_without_a_request(world: World, catalog: Catalog, cost: Cost) -> None:
    """The runs of a job are known together, so a run that is not among them costs nothing."""
    world.add_job("AbCdE").add_run(finished=True)
    catalog.runs("AbCdE")

    def look() -> None:
        for ask in (catalog.run, catalog.view, catalog.state):
            with pytest.raises(NotFound, match="no run 7"):
                ask("AbCdE", "7")

    assert cost(look) == {}


def test_a_job_never_submitted_has_no_status_and_no_runs(
    world: World, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """A saved job is there, empty and not over; when it is submitted its run appears within a status' lifetime."""
    job = world.add_job("AbCdE", submitted=False)

    assert (catalog.status("AbCdE"), catalog.is_over("AbCdE"), dict(catalog.runs("AbCdE"))) == ("", False, {})

    job.submitted = clock.now() - 60
    job.add_run(live={"log": b""})
    clock.advance(LIFETIMES.status_s + 1)
    assert catalog.status("AbCdE") == "Executing"
    assert catalog.state("AbCdE", "1") is RunState.LIVE


# ---- live, settling, final ----


def test_a_run_lives_settles_and_is_final(world: World, catalog: Catalog, clock: ManualClock, cost: Cost) -> None:
    """After the end the listing grows until all is uploaded; two looks that agree make it final, and end the asking."""
    run = world.add_job("LiveR").add_run(live={"log": b"1", "case/U": b"2"}, trickle_s=30)
    view = catalog.view("LiveR", "1")
    assert (view.state, paths(view)) == (RunState.LIVE, {"log", "case/U"})
    assert view.files == ()
    run.finish()
    seen = []
    for _ in range(6):
        clock.advance(LIFETIMES.settling_s + 1)
        view = catalog.view("LiveR", "1")
        seen.append((view.state, len(view.files), sum(file.is_uploaded for file in view.files)))

    # Uploads are complete after 30 and 60 s; the looks are at 16, 32, 48, 64, 80 and 96 s.
    s, f = RunState.SETTLING, RunState.FINAL
    assert seen == [(s, 1, 0), (s, 2, 1), (s, 2, 1), (s, 2, 2), (f, 2, 2), (f, 2, 2)]
    assert paths(view) == {"log", "case/U"}
    clock.advance(LIFETIMES.runs_over_s - 100)
    assert cost(lambda: catalog.view("LiveR", "1")) == {}


def test_a_run_that_has_ended_is_not_shown_as_it_lived(world: World, catalog: Catalog, clock: ManualClock) -> None:
    """As soon as the end is known the live tree is dropped, however young it is."""
    run = world.add_job("LiveR").add_run(live={"log": b""})
    catalog.runs("LiveR")
    clock.advance(LIFETIMES.status_s - 2)
    assert catalog.view("LiveR", "1").state is RunState.LIVE
    run.finish()

    clock.advance(3)

    assert catalog.view("LiveR", "1").state is RunState.SETTLING


@pytest.mark.parametrize(
    ("ended_s", "state"), [(SETTLED_AFTER_S - 1, RunState.SETTLING), (SETTLED_AFTER_S + 1, RunState.FINAL)]
)
def test_an_hour_after_the_end_one_look_is_enough(
    ended_s: float, state: RunState, world: World, catalog: Catalog, clock: ManualClock
) -> None:
    """A complete listing is final at the first look once the end is an hour ago, and not before."""
    end = clock.now() - ended_s
    world.add_job("AbCdE").add_run(started=end - 60, completed=end, files={"log": b""})

    assert catalog.state("AbCdE", "1") is state


def wrong_count(run: Run) -> None:
    run.output_file_count = 5


def never_uploaded(run: Run) -> None:
    run.files[0].is_uploaded = False


@pytest.mark.parametrize("spoil", [wrong_count, never_uploaded])
def test_a_listing_that_never_gets_right_is_given_up(
    spoil: Callable[[Run], None], world: World, catalog: Catalog, clock: ManualClock
) -> None:
    """It is final once it was the same for an hour and the end is a day ago; a change begins the hour again."""
    end = clock.now() - GIVEN_UP_AFTER_S + 2 * HOUR_S
    run = world.add_job("AbCdE").add_run(started=end - 60, completed=end, files={"log": b""})
    spoil(run)

    def state_in(seconds: float) -> RunState:
        clock.advance(seconds)
        catalog.refresh()
        return catalog.view("AbCdE", "1").state

    assert state_in(0) is RunState.SETTLING
    assert state_in(SAME_FOR_S + 1) is RunState.SETTLING  # not yet a day
    run.add_file("late", b"")
    assert state_in(SAME_FOR_S) is RunState.SETTLING  # a day, but it has changed
    assert state_in(SAME_FOR_S - 1) is RunState.SETTLING
    assert state_in(2) is RunState.FINAL
    assert paths(catalog.view("AbCdE", "1")) == {"log", "late"}


def test_a_run_without_an_end_is_not_final_because_it_is_empty(
    world: World, catalog: Catalog, clock: ManualClock
) -> None:
    """A killed job can leave a run without an end, whose count says nothing: it is final after an unchanged hour."""
    job = world.add_job("KillD")
    run = job.add_run(live={"log": b""})
    job.ended = clock.now()
    for _ in range(3):
        assert catalog.state("KillD", "1") is RunState.SETTLING
        clock.advance(LIFETIMES.settling_s + 1)
    run.add_file("log", b"late")

    clock.advance(LIFETIMES.settling_s + 1)
    assert len(catalog.view("KillD", "1").files) == 1

    clock.advance(SAME_FOR_S - 1)
    assert catalog.state("KillD", "1") is RunState.SETTLING
    clock.advance(LIFETIMES.settling_s + 1)
    assert catalog.state("KillD", "1") is RunState.FINAL


def test_a_deleted_output_is_hidden(world: World, catalog: Catalog) -> None:
    """Rows that Rescale marks as deleted are in no listing."""
    run = world.add_job("AbCdE").add_run(finished=True, files={"log": b"", "case/U": b""})
    run.files[0].is_deleted = True

    view = catalog.view("AbCdE", "1")

    assert {file.path for file in view.files} == paths(view) == {"case/U"}


ORDER = list(RunState)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 4),
    st.sampled_from([0.0, 7.0, 40.0, 400.0]),
    st.lists(st.sampled_from([0.0, 3.0, 11.0, 16.0, 60.0, 700.0, 5000.0]), min_size=2, max_size=12),
    st.integers(0, 6),
)
def test_a_run_is_final_only_when_nothing_more_can_come(
    emulator: Emulator, clock: ManualClock, files: int, trickle_s: float, waits: list[float], ends_after: int
) -> None:
    """However a run ends and whenever it is looked at: states go forward, final is whole, and looks are few."""
    run = emulator.world.add_job().add_run(live={f"d/{n}": b"" for n in range(files)}, trickle_s=trickle_s)
    listed: list[tuple[float, set[str]]] = []
    state, began = RunState.PENDING, clock.now()
    emulator.reset_counts()
    with catalog_of(emulator.origin, clock) as catalog:
        for number, wait_s in enumerate(waits):
            if number == ends_after:
                run.finish()
            clock.advance(wait_s)
            listed.append((clock.now(), {str(file.relative_path) for file in run.listed_files()}))
            view = catalog.view(run.job.id, "1")

            assert ORDER.index(view.state) >= ORDER.index(state)
            state = view.state
            if state is RunState.FINAL:
                assert paths(view) == {f"d/{n}" for n in range(files)}
                assert all(file.is_uploaded for file in view.files)
            known_s = LIFETIMES.status_s + LIFETIMES.settling_s
            old = [names for at, names in listed if at <= clock.now() - known_s]
            assert set().union(*old) <= paths(view)
    assert emulator.requests["run_files"] <= 2 + (clock.now() - began) / LIFETIMES.live_s


# ---- when the live view is dead ----

DEAD: list[dict[str, Any]] = [
    {"status": 404},
    {"status": 400},
    {"status": 500},
    {"body": '{"detail": "The run is not in progress."}'},
    {"body": "[]"},
    {"body": "null"},
    {"body": '[{"resource": "/api/v2/x"}]'},
    {"body": "<html><h1>Bad Gateway</h1></html>"},
    {"truncated_json": True},
    {"drop": True},
]


@pytest.mark.parametrize("dead", DEAD, ids=str)
def test_a_dead_live_view_is_not_an_empty_run(
    dead: dict[str, Any], world: World, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """In whatever form it is dead: the last good tree for one more lifetime, then the outputs; one request a look."""
    run = world.add_job("LiveR").add_run(live={"log": b"", "case/U": b""}, files={"snapshot_1.tar.gz": b""})
    whole = paths(catalog.view("LiveR", "1"))
    assert whole == {"log", "case/U", "snapshot_1.tar.gz"}
    fault = emulator.faults.add(endpoint="directory_contents", **dead)

    seen = []
    for _ in range(3):
        clock.advance(LIFETIMES.live_s + 0.5)
        view = catalog.view("LiveR", "1")
        seen.append(paths(view))
        assert view.state is RunState.LIVE

    assert seen == [whole, {"snapshot_1.tar.gz"}, {"snapshot_1.tar.gz"}]
    assert fault.hits == 3
    emulator.faults.remove(fault)
    clock.advance(LIFETIMES.live_s + 0.5)
    assert paths(catalog.view("LiveR", "1")) == whole
    assert run.is_live()


def test_a_live_view_that_is_dead_from_the_start_leaves_the_outputs(
    world: World, emulator: Emulator, catalog: Catalog
) -> None:
    """With nothing seen before, a live run shows its outputs, and is live all the same."""
    world.add_job("LiveR").add_run(live={"log": b""}, files={"snapshot_1.tar.gz": b""})
    emulator.faults.add(endpoint="directory_contents", status=500)

    view = catalog.view("LiveR", "1")

    assert (view.state, paths(view)) == (RunState.LIVE, {"snapshot_1.tar.gz"})


def test_outputs_are_as_new_as_their_listing_while_the_live_view_is_dead(
    world: World, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """Only what the dead view would have told is taken from the last good tree; a new output is seen at once."""
    run = world.add_job("LiveR").add_run(live={"log": b""})
    catalog.view("LiveR", "1")
    emulator.faults.add(endpoint="directory_contents", status=500)
    run.add_file("snapshot_1.tar.gz", b"")

    catalog.refresh("LiveR", "1")

    assert paths(catalog.view("LiveR", "1")) == {"log", "snapshot_1.tar.gz"}


def test_a_live_view_that_is_slow_to_fail_is_none_the_older(
    world: World, catalog: Catalog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good tree holds where the cluster takes its whole deadline to say nothing, as a busy one does."""
    world.add_job("LiveR").add_run(live={"log": b""})
    catalog.view("LiveR", "1")

    def time_out(*_: object) -> None:
        clock.advance(DEADLINE_S)
        raise Unavailable("nothing came")

    monkeypatch.setattr(Client, "live_paths", time_out)
    clock.advance(LIFETIMES.live_s + 0.5)

    assert paths(catalog.view("LiveR", "1")) == {"log"}


def test_a_live_view_that_may_not_be_seen_is_an_error(world: World, emulator: Emulator, catalog: Catalog) -> None:
    """A key that is refused says nothing about the run, and the user has to hear of it."""
    world.add_job("LiveR").add_run(live={"log": b""})
    emulator.faults.add(endpoint="directory_contents", status=403)

    with pytest.raises(AccessDenied):
        catalog.view("LiveR", "1")


# ---- when the API is down ----


def test_what_is_known_is_served_while_the_api_is_down(
    world: World, emulator: Emulator, catalog: Catalog, clock: ManualClock, cost: Cost
) -> None:
    """Within its lifetime a listing needs no API."""
    world.add_job("AbCdE").add_run(finished=True, files={"log": b""})
    catalog.view("AbCdE", "1")
    emulator.faults.add(status=503)
    clock.advance(LIFETIMES.runs_over_s - 1)

    assert cost(lambda: catalog.view("AbCdE", "1")) == {}
    assert paths(catalog.view("AbCdE", "1")) == {"log"}


@pytest.mark.parametrize("down", [{"status": 503}, {"drop": True}, {"body": "<html>"}, {"bad_json": True}], ids=str)
@pytest.mark.parametrize("endpoint", ["jobs", "runs", "run_files"])
def test_what_is_not_known_is_an_error_until_the_api_is_back(
    endpoint: str, down: dict[str, Any], world: World, emulator: Emulator, catalog: Catalog
) -> None:
    """No part of a listing is made up: any request that fails is an error, and the next look asks again."""
    world.add_job("AbCdE").add_run(finished=True, files={"log": b""})
    fault = emulator.faults.add(endpoint=endpoint, **down)

    for _ in range(2):
        with pytest.raises(Unavailable):
            catalog.view("AbCdE", "1")

    emulator.faults.remove(fault)
    assert paths(catalog.view("AbCdE", "1")) == {"log"}


def test_a_page_that_fails_makes_no_short_listing(world: World, emulator: Emulator, catalog: Catalog) -> None:
    """Of a run of three pages the last one fails: an error, never two pages."""
    run = world.add_job("AbCdE").add_run(finished=True)
    for number in range(2001):
        run.add_file(str(number), b"")
    fault = emulator.faults.add(endpoint="run_files", skip=2, status=500)

    with pytest.raises(Unavailable):
        catalog.view("AbCdE", "1")

    emulator.faults.remove(fault)
    assert len(paths(catalog.view("AbCdE", "1"))) == 2001
