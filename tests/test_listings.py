"""What is kept of listings spares requests after a remount, and is not believed when it should not be."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rescalefs.catalog import Catalog, Lifetimes, RunState
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import Offline
from rescalefs.kept import Kept
from rescalefs.known import FOR_EVER_S, Answer, Known
from rescalefs.listings import JOBS, MAX_REFRESHED, RUNS, Listings, keep_owner, recall_owner
from rescalefs.reach import Reach
from tests.conftest import Cost, wait_for
from tests.stack import WAIT_S, catalog_of, paths

DAY_S = 86_400.0
LIFETIMES = Lifetimes()
Mounting = Callable[..., AbstractContextManager[Catalog]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def mounting(emulator: Emulator, clock: ManualClock, tmp_path: Path) -> Mounting:
    """Begin with what the disk has, as a new mount does."""
    return lambda reach=None: catalog_of(emulator.origin, clock, tmp_path, reach)


def add_old_job(world: World, id: str = "AbCdE", runs: int = 1) -> None:
    """A job that ended two days ago."""
    then = world.clock.now() - 2 * DAY_S
    job = world.add_job(id, created=then - 9000, expected_runs=runs)
    for _ in range(runs):
        job.add_run(started=then - 4000, completed=then, files={"log": b"1", "case/U": b"2"}, variables={"a": 1})


def test_a_final_run_that_was_kept_is_not_listed_again(world: World, mounting: Mounting, cost: Cost) -> None:
    """On the same day the list of jobs is all that is asked for, and the runs and files are the same."""
    add_old_job(world, runs=2)
    with mounting() as catalog:
        before = catalog.view("AbCdE", "1")
        assert cost(lambda: catalog.view("AbCdE", "2")) == {"run_files": 1}

    with mounting() as catalog:
        assert cost(lambda: [catalog.view("AbCdE", run) for run in ("1", "2")]) == {"jobs": 1}
        after = catalog.view("AbCdE", "1")
        assert (after.state, after.run) == (RunState.FINAL, before.run)
        assert set(after.files) == set(before.files)
        assert paths(after) == paths(before) == {"log", "case/U"}


def test_a_day_later_the_run_object_confirms(world: World, mounting: Mounting, clock: ManualClock, cost: Cost) -> None:
    """One look at the runs, none at the files; and that is good for another day."""
    add_old_job(world)
    with mounting() as catalog:
        catalog.view("AbCdE", "1")
    clock.advance(DAY_S + 1)
    for asked in ({"jobs": 1, "runs": 1}, {"jobs": 1}):
        with mounting() as catalog:
            assert cost(lambda: catalog.view("AbCdE", "1")) == asked


def test_a_run_object_that_changed_is_listed_again(
    world: World, mounting: Mounting, clock: ManualClock, cost: Cost
) -> None:
    """Another count of outputs means other files."""
    add_old_job(world)
    with mounting() as catalog:
        catalog.view("AbCdE", "1")
    world.jobs["AbCdE"].runs["1"].add_file("late", b"")
    clock.advance(DAY_S + 1)
    with mounting() as catalog:
        assert cost(lambda: catalog.view("AbCdE", "1"))["run_files"] == 1
        assert "late" in paths(catalog.view("AbCdE", "1"))


@pytest.mark.parametrize("level", [(), ("AbCdE",), ("AbCdE", "1")])
def test_a_refresh_believes_the_disk_no_more(
    level: tuple[str, ...], world: World, mounting: Mounting, clock: ManualClock, cost: Cost
) -> None:
    """Runs and files of that level are asked for anew, once; what is of others stays."""
    add_old_job(world)
    add_old_job(world, "FgHiJ")
    with mounting() as catalog:
        for job in ("AbCdE", "FgHiJ"):
            catalog.view(job, "1")
    with mounting() as catalog:
        catalog.jobs()
        clock.advance(1)
        catalog.refresh(*level)
        clock.advance(1)
        asked = cost(lambda: catalog.view("AbCdE", "1"))
        assert (asked["runs"], asked["run_files"]) == (1, 1)
        assert cost(lambda: catalog.view("AbCdE", "1")) == {}
        assert ("run_files" in cost(lambda: catalog.view("FgHiJ", "1"))) == (level == ())


@pytest.mark.parametrize("level", [(), ("AbCdE",), ("AbCdE", "1")])
def test_a_refresh_is_kept(
    level: tuple[str, ...], world: World, mounting: Mounting, clock: ManualClock, cost: Cost
) -> None:
    """Nobody looked between the refresh and the end of the mount: the next one does not believe what was kept."""
    add_old_job(world, runs=2)
    add_old_job(world, "FgHiJ")

    def look(catalog: Catalog) -> None:
        for job, run in (("AbCdE", "1"), ("AbCdE", "2"), ("FgHiJ", "1")):
            catalog.view(job, run)

    with mounting() as catalog:
        look(catalog)
        clock.advance(1)
        catalog.refresh(*level)
    again = {(): {"runs": 2, "run_files": 3}, ("AbCdE",): {"runs": 1, "run_files": 2}}
    for asked in (again.get(level, {"runs": 1, "run_files": 1}), {}):
        clock.advance(1)
        with mounting() as catalog:
            assert cost(lambda: look(catalog)) == {"jobs": 1, **asked}


def test_what_was_asked_before_a_refresh_does_not_answer_what_is_asked_after_it(
    world: World, emulator: Emulator, mounting: Mounting
) -> None:
    """Nor is it kept, however late it comes."""
    run = world.add_job("AbCdE").add_run(finished=True, files={"log": b""})
    slow = emulator.faults.add(endpoint="run_files", stream_bytes_per_s=400, times=1)
    with mounting() as catalog:
        catalog.runs("AbCdE")
        with ThreadPoolExecutor(1) as pool:
            before = pool.submit(catalog.view, "AbCdE", "1")
            wait_for(lambda: slow.hits == 1, WAIT_S, lambda: "nobody asked")
            run.add_file("late", b"")
            catalog.refresh("AbCdE", "1")

            assert paths(catalog.view("AbCdE", "1")) == {"log", "late"}
            assert not before.done()
            assert paths(before.result()) == {"log"}
        assert paths(catalog.view("AbCdE", "1")) == {"log", "late"}


def test_a_refresh_that_cannot_be_kept_holds_as_long_as_the_mount(
    world: World, mounting: Mounting, clock: ManualClock, tmp_path: Path, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, say: what is on it is not believed all the same."""
    add_old_job(world)
    with mounting() as catalog:
        catalog.view("AbCdE", "1")
    clock.advance(1)
    with mounting() as catalog:
        monkeypatch.setattr(Kept, "write", lambda *_: None)
        catalog.refresh("AbCdE", "1")
        clock.advance(1)
        assert cost(lambda: catalog.view("AbCdE", "1")) == {"jobs": 1, "runs": 1, "run_files": 1}


def test_refreshes_without_end_take_little_memory(tmp_path: Path, clock: ManualClock) -> None:
    """They become one of everything: nothing older is believed, and what was kept is asked for again."""
    listings = Listings(Kept(None, wall_clock=clock.now), "someone")
    for number in range(3 * MAX_REFRESHED):
        listings.refresh("AbCdE", str(number))
    assert len(listings._refreshed) <= MAX_REFRESHED


def test_runs_that_were_listed_before_the_job_was_over_are_listed_again(
    world: World, mounting: Mounting, clock: ManualClock
) -> None:
    """All runs that there were had ended, but more were to come: what was kept then is not all there is."""
    job = world.add_job("AbCdE", expected_runs=2)
    job.add_run(finished=True, files={"log": b"1"})
    with mounting() as catalog:
        assert list(catalog.runs("AbCdE")) == ["1"]
        clock.advance(LIFETIMES.status_s + 1)
        job.add_run(finished=True, files={"log": b"2"})

        assert list(catalog.runs("AbCdE")) == ["1", "2"]
    clock.advance(LIFETIMES.jobs_s + 1)
    with mounting() as catalog:
        assert list(catalog.runs("AbCdE")) == ["1", "2"]


def test_live_and_settling_runs_are_not_taken_from_disk(world: World, mounting: Mounting, cost: Cost) -> None:
    """What can change is listed by each mount."""
    run = world.add_job("LiveR").add_run(live={"log": b""}, trickle_s=1000)
    for state in (RunState.LIVE, RunState.SETTLING):
        for _ in range(2):
            with mounting() as catalog:
                assert cost(lambda: catalog.view("LiveR", "1"))["run_files"] == 1
                assert catalog.view("LiveR", "1").state is state
        run.finish()


def test_trees_that_leave_memory_come_back_from_disk(
    world: World, mounting: Mounting, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one tree, looking at many asks for each once; the one used last stays."""
    monkeypatch.setattr("rescalefs.known.FOR_EVER_BYTES", 600)
    monkeypatch.setattr(Known.__init__, "__defaults__", (600,))
    add_old_job(world, runs=5)
    with mounting() as catalog:
        runs = list(catalog.runs("AbCdE"))
        views = {run: catalog.view("AbCdE", run) for run in runs}

        assert cost(lambda: [catalog.view("AbCdE", run) for run in runs]) == {}
        assert catalog.view("AbCdE", "1") is not views["1"]
        assert paths(catalog.view("AbCdE", "1")) == {"log", "case/U"}
        assert catalog.view("AbCdE", "1") is catalog.view("AbCdE", "1")


def test_what_holds_for_ever_is_bounded_by_bytes() -> None:
    """The least recently used go first; one that is larger than all room is kept until the next comes."""
    known = Known(lambda: 0.0, 100)
    for number in range(4):
        known.keep(("view", str(number)), Answer(number, FOR_EVER_S, 40))
        known.get(("view", "0"))
    assert [known.get(("view", str(number))) is not None for number in range(4)] == [True, False, False, True]

    known.keep(("view", "large"), Answer("large", FOR_EVER_S, 1000))
    assert known.get(("view", "large")) is not None
    assert known.get(("view", "0")) is None


# ---- without a network ----


def offline() -> Reach:
    reach = Reach()
    reach.failed("no network", 10.0)
    return reach


def test_without_a_network_what_is_kept_is_shown(
    world: World, mounting: Mounting, clock: ManualClock, cost: Cost
) -> None:
    """Jobs, runs and the files of final runs, however old and after a refresh too; else it is an error at once."""
    add_old_job(world)
    add_old_job(world, "FgHiJ")
    world.add_job("LiveR").add_run(live={"log": b""})
    with mounting() as catalog:
        catalog.view("AbCdE", "1")
        catalog.view("LiveR", "1")
    clock.advance(30 * DAY_S)
    reach = offline()

    def look() -> None:
        with mounting(reach) as catalog:
            for _ in range(2):
                assert set(catalog.jobs()) == {"AbCdE", "FgHiJ", "LiveR"}
                assert paths(catalog.view("AbCdE", "1")) == {"log", "case/U"}
                assert list(catalog.runs("LiveR")) == ["1"]
                for ask in (lambda: catalog.view("LiveR", "1"), lambda: catalog.view("FgHiJ", "1")):
                    with pytest.raises(Offline):
                        ask()
                with pytest.raises(Offline):
                    catalog.job("Other")
                catalog.refresh()
                clock.advance(5)

    assert cost(look) == {}


def test_what_is_shown_without_a_network_is_asked_for_soon_after(
    world: World, mounting: Mounting, clock: ManualClock, cost: Cost
) -> None:
    """When the network is back, nothing that was taken from disk for want of it stays longer than seconds."""
    add_old_job(world)
    with mounting() as catalog:
        catalog.view("AbCdE", "1")
    clock.advance(30 * DAY_S)
    reach = offline()
    with mounting(reach) as catalog:
        catalog.view("AbCdE", "1")
        reach.answered()
        world.add_job("NewJo")
        clock.advance(3)
        assert "NewJo" in catalog.jobs()
        assert cost(lambda: catalog.runs("AbCdE")) == {"runs": 1}


def test_listings_are_of_one_account(tmp_path: Path) -> None:
    """Another account, or the same name at another origin, sees nothing of them; the key's text is nowhere."""
    kept = Kept(tmp_path)
    Listings(kept, "origin a").keep_jobs([])
    assert Listings(kept, "origin a").jobs() == {}
    assert Listings(kept, "origin b").jobs() is None

    keep_owner(kept, "origin", "Token secret-key", "a@example.com")
    assert recall_owner(kept, "origin", "Token secret-key") == "a@example.com"
    assert recall_owner(kept, "origin", "Token other-key") is None
    assert recall_owner(kept, "elsewhere", "Token secret-key") is None
    assert not any(b"secret-key" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["a field more", "a field less", "no rows", "rows of another kind"])
def test_listings_of_another_version_are_asked_for_anew(
    damage: str, world: World, mounting: Mounting, cost: Cost, tmp_path: Path
) -> None:
    """Whole and checksummed, but not as this version writes them: as good as none, and replaced."""
    add_old_job(world)
    with mounting() as catalog:
        before = paths(catalog.view("AbCdE", "1"))
    kept = Kept(tmp_path, wall_clock=world.clock.now)
    change: dict[str, Callable[[dict[str, object]], object]] = {
        "a field more": lambda row: {**row, "colour": "red"},
        "a field less": lambda row: {name: row[name] for name in list(row)[:-1]},
        "no rows": lambda row: None,
        "rows of another kind": lambda row: [row["id"]],
    }
    for kind, key in ((JOBS, ("someone",)), (RUNS, ("someone", "AbCdE"))):
        found = kept.read(kind, key)
        assert found is not None
        start = 1 if kind == RUNS else 0  # after the mark of a job that is over
        rows = [change[damage](row) for row in json.loads(bytes(found.body[start:]))]
        text = json.dumps(None if damage == "no rows" else rows).encode()
        kept.write(kind, key, bytes(found.body[:start]) + text)
    for asked in (1, 0):
        with mounting() as catalog:
            assert cost(lambda: catalog.view("AbCdE", "1")).get("runs", 0) == asked
            assert paths(catalog.view("AbCdE", "1")) == before
    with mounting(reach=offline()) as catalog:
        assert "AbCdE" in catalog.jobs()
