"""How a run lives, settles and is final, and what is shown of a live one whose live view is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.catalog import Catalog, RunState
from rescalefs.client import Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from rescalefs.errors import AccessDenied, DeadlineExceeded, Unavailable
from rescalefs.finality import GIVEN_UP_AFTER_S, SAME_FOR_S, SETTLED_AFTER_S
from rescalefs.known import Lifetimes
from tests.conftest import Cost
from tests.stack import DEADLINE_S, catalog_of, paths

LIFETIMES = Lifetimes()
HOUR_S = 3600.0


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


# ---- live, settling, final ----


def test_a_run_lives_settles_and_is_final(world: World, catalog: Catalog, clock: ManualClock, cost: Cost) -> None:
    """After the end the listing grows until all is uploaded; two looks that agree make it final, and end the asking."""
    run = world.add_job("LiveR").add_run(live={"log": b"1", "case/U": b"2"}, trickle_s=30)
    view = catalog.view("LiveR", "1")
    assert (view.state, paths(view)) == (RunState.LIVE, {"log", "case/U"})
    assert not view.files
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

# Answers that there is no live view, and answers that say nothing about it.
NONE: list[dict[str, Any]] = [
    {"status": 404},
    {"status": 400},
    {"body": '{"detail": "The run is not in progress."}'},
    {"body": "[]"},
    {"body": "null"},
]
FAILS: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503},
    {"body": '[{"resource": "/api/v2/x"}]'},
    {"body": "<html><h1>Bad Gateway</h1></html>"},
    {"truncated_json": True},
    {"drop": True},
]
OUTPUTS = {"snapshot_1.tar.gz"}


@pytest.fixture
def live_run(world: World) -> Run:
    """A live run with two files, and one output."""
    return world.add_job("LiveR").add_run(live={"log": b"", "case/U": b""}, files=dict.fromkeys(OUTPUTS, b""))


def looks(catalog: Catalog, clock: ManualClock, times: int) -> list[set[str] | type[Exception]]:
    """Look again whenever a look would ask; return what was shown each time."""
    seen: list[set[str] | type[Exception]] = []
    for _ in range(times):
        clock.advance(LIFETIMES.live_s + 0.5)
        try:
            view = catalog.view("LiveR", "1")
            assert view.state is RunState.LIVE
            seen.append(paths(view))
        except Unavailable:
            seen.append(Unavailable)
    return seen


@pytest.mark.parametrize("dead", NONE, ids=str)
def test_no_live_view_is_not_an_empty_run(
    dead: dict[str, Any], live_run: Run, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """In whatever form that is said: the last good tree for one more lifetime, then the outputs; one request a look."""
    whole = paths(catalog.view("LiveR", "1"))
    assert whole == {"log", "case/U", *OUTPUTS}
    fault = emulator.faults.add(endpoint="directory_contents", **dead)

    assert looks(catalog, clock, 3) == [whole, OUTPUTS, OUTPUTS]
    assert fault.hits == 3
    emulator.faults.remove(fault)
    assert looks(catalog, clock, 1) == [whole]
    assert live_run.is_live()


@pytest.mark.parametrize("fails", FAILS, ids=str)
def test_a_live_view_that_fails_hides_nothing_for_a_minute(
    fails: dict[str, Any], live_run: Run, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """The last good tree holds; then it seems to fail for good, and the outputs are shown; one request a look."""
    whole = paths(catalog.view("LiveR", "1"))
    fault = emulator.faults.add(endpoint="directory_contents", **fails)

    assert looks(catalog, clock, 9) == [whole] * 6 + [OUTPUTS] * 3
    assert fault.hits == 9
    emulator.faults.remove(fault)
    assert looks(catalog, clock, 1) == [whole]
    assert live_run.is_live()


@pytest.mark.parametrize("dead", NONE, ids=str)
def test_no_live_view_from_the_start_leaves_the_outputs(
    dead: dict[str, Any], live_run: Run, emulator: Emulator, catalog: Catalog
) -> None:
    """With nothing seen before, a live run shows its outputs, and is live all the same."""
    emulator.faults.add(endpoint="directory_contents", **dead)

    view = catalog.view("LiveR", "1")

    assert (view.state, paths(view)) == (RunState.LIVE, OUTPUTS)


@pytest.mark.parametrize("fails", FAILS, ids=str)
def test_a_live_view_that_fails_from_the_start_is_an_error_for_a_minute(
    fails: dict[str, Any], live_run: Run, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """Outputs alone would be a short listing; but what fails for ever keeps nobody from them for ever."""
    emulator.faults.add(endpoint="directory_contents", **fails)

    assert looks(catalog, clock, 8) == [*[Unavailable] * 6, OUTPUTS, OUTPUTS]
    assert catalog.state("LiveR", "1") is RunState.LIVE


@pytest.mark.parametrize("fails", FAILS, ids=str)
def test_a_live_view_that_fails_once_is_asked_again(
    fails: dict[str, Any], live_run: Run, emulator: Emulator, catalog: Catalog, cost: Cost
) -> None:
    """After a look at whether the run has ended since."""
    catalog.runs("LiveR")
    emulator.faults.add(endpoint="directory_contents", times=1, **fails)
    asked = cost(lambda: catalog.view("LiveR", "1"))

    assert paths(catalog.view("LiveR", "1")) == {"log", "case/U", *OUTPUTS}
    assert asked == {"directory_contents": 2, "runs": 1, "statuses": 1, "run_files": 1}


def test_outputs_that_cannot_be_listed_are_an_error_at_once(
    live_run: Run, emulator: Emulator, catalog: Catalog, cost: Cost
) -> None:
    """That has nothing to do with the live view."""
    catalog.state("LiveR", "1")
    emulator.faults.add(endpoint="run_files", status=400)

    def look() -> None:
        with pytest.raises(Unavailable):
            catalog.view("LiveR", "1")

    assert cost(look) == {"directory_contents": 1, "run_files": 1}


def test_a_live_view_that_fails_because_the_run_has_ended_is_no_error(
    live_run: Run, emulator: Emulator, catalog: Catalog
) -> None:
    """However new what is known of the run is."""
    emulator.habits.dead_live = 500
    assert catalog.state("LiveR", "1") is RunState.LIVE
    live_run.finish()

    view = catalog.view("LiveR", "1")

    assert (view.state, paths(view)) == (RunState.SETTLING, {"log", "case/U", *OUTPUTS})


def test_a_live_view_that_fails_long_after_it_was_seen_is_an_error_too(
    live_run: Run, emulator: Emulator, catalog: Catalog, clock: ManualClock
) -> None:
    """Names of an hour ago are no listing of now; an answer, whatever it says, ends the minute."""
    whole = paths(catalog.view("LiveR", "1"))
    for _ in range(2):
        clock.advance(3600)
        fault = emulator.faults.add(endpoint="directory_contents", status=500)
        assert looks(catalog, clock, 6) == [Unavailable] * 6
        emulator.faults.remove(fault)
        assert looks(catalog, clock, 1) == [whole]


def test_a_live_view_that_never_answers_leaves_the_outputs_in_time(
    live_run: Run, catalog: Catalog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it seems to fail for good it is waited for half as long, so that the outputs come within the deadline."""
    waited = []

    def hang(_client: Client, _job_id: str, _run_id: str, deadline_at: float) -> None:
        waited.append(deadline_at - clock.now())
        clock.advance(waited[-1])
        raise DeadlineExceeded("nothing came")

    monkeypatch.setattr(Client, "live_paths", hang)
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            catalog.view("LiveR", "1")
        clock.advance(LIFETIMES.live_s + 1)

    assert paths(catalog.view("LiveR", "1")) == OUTPUTS
    assert waited == [DEADLINE_S] * 3 + [DEADLINE_S / 2]


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
