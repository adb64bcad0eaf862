"""What is known of jobs, runs and files: what it costs, how long it is used, and what failures make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rescalefs.catalog import Catalog, RunState
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import NotFound, Unavailable
from rescalefs.finality import SETTLED_AFTER_S
from rescalefs.known import Lifetimes
from rescalefs.loader import Loader
from tests.conftest import Cost
from tests.stack import catalog_of, paths

LIFETIMES = Lifetimes()
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
    """One list of runs, in the order of their numbers, serves all runs of a job, and one page the files of the rest."""
    job = world.add_job("AbCdE")
    for number in ("10", "2", "1"):
        job.add_run(number, finished=True, files={number: b""}).display_order = 0
    catalog.view("AbCdE", "1")

    assert cost(lambda: [catalog.view("AbCdE", run) for run in ("2", "10")]) == {"job_files": 1}
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


def test_an_answer_that_has_just_come_is_not_asked_for_again(
    world: World, catalog: Catalog, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looked before an answer came, and asks after it, has that answer."""
    world.add_job("AbCdE").add_run(finished=True)
    load = Loader.load

    def load_after_another(*args: Any) -> Any:
        load(*args)
        return load(*args)

    monkeypatch.setattr(Loader, "load", load_after_another)

    assert cost(lambda: catalog.view("AbCdE", "1")) == {"jobs": 1, "runs": 1, "run_files": 1}


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


@pytest.mark.parametrize(
    ("make", "state", "lifetime_s"),
    [
        (pending, RunState.PENDING, LIFETIMES.live_s),
        (live, RunState.LIVE, LIFETIMES.live_s),
        (settling, RunState.SETTLING, LIFETIMES.settling_s),
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


def test_a_final_run_is_confirmed_by_its_object_and_its_files_are_listed_once(
    world: World, catalog: Catalog, clock: ManualClock, cost: Cost
) -> None:
    """For ever: a look at the runs every hour while they are young, every day later, and none at the files."""
    then = clock.now() - SETTLED_AFTER_S - 1
    run = world.add_job("AbCdE", created=then - 90).add_run(started=then - 60, completed=then, files={"log": b""})
    catalog.view("AbCdE", "1")

    def looks(hours: int) -> dict[str, int]:
        def look() -> None:
            for _ in range(hours):
                clock.advance(3601)
                assert catalog.view("AbCdE", "1").state is RunState.FINAL

        asked = cost(look)
        return {name: asked[name] for name in ("runs", "run_files") if name in asked}

    assert looks(20) == {"runs": 20}
    looks(24)
    assert looks(24 * 5) == {"runs": 5}
    run.files[0].is_deleted = True
    run.output_file_count = 0
    assert looks(25) == {"runs": 1, "run_files": 1}
    assert paths(catalog.view("AbCdE", "1")) == set()


@pytest.mark.parametrize(
    ("ask", "name", "lifetime_s"),
    [
        (lambda catalog: catalog.jobs(), "jobs", LIFETIMES.jobs_s),
        (lambda catalog: catalog.status("LiveR"), "statuses", LIFETIMES.status_s),
        (lambda catalog: catalog.runs("LiveR"), "runs", LIFETIMES.status_s),
        (lambda catalog: catalog.runs("AbCdE"), "runs", LIFETIMES.runs_final_s),
        (lambda catalog: catalog.runs("YoungR"), "runs", LIFETIMES.runs_over_s),
        (lambda catalog: catalog.job("AbCdE"), "jobs", LIFETIMES.job_s),
    ],
    ids=["jobs", "status", "runs", "runs long over", "runs just over", "job"],
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
    world.add_job("YoungR").add_run(started=clock.now() - 60, completed=clock.now() - 1)
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
