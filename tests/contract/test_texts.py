"""Texts that the mount makes: tables, `.rescale` and events, as docs/semantics.md promises them."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Job, Run, World
from tests.conftest import Mounted, wait_for
from tests.test_mount_live import following
from tests.tools import refresh, write

pytestmark = pytest.mark.mount
HOUR_S = 3600.0


def table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by their id."""
    return {row["id"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}


def test_a_text_is_made_anew_at_each_open(run: Run, outputs: Path, mounted: Mounted) -> None:
    paths = (outputs / ".rescale/files.json", outputs.parent.parent / "runs.csv", mounted.path / ".rescale/stats")
    before = [path.read_bytes() for path in paths]
    run.add_file("late", b"")
    run.job.add_run(finished=True)

    refresh(outputs.parent.parent)

    assert all(path.read_bytes() != old for path, old in zip(paths, before, strict=True))


def test_a_text_stays_the_same_while_it_is_open(run: Run, outputs: Path, mounted: Mounted) -> None:
    for path in (outputs / ".rescale/files.json", outputs.parent.parent / "runs.csv", mounted.path / "jobs.csv"):
        with path.open("rb", buffering=0) as file:
            whole = path.read_bytes()
            assert file.read(10) == whole[:10]
            run.add_file(f"late {path.name}", b"")
            run.job.add_run(finished=True)
            mounted.emulator.world.add_job()
            refresh(mounted.path)
            refresh(outputs.parent.parent)
            assert path.read_bytes() != whole
            assert file.read() == whole[10:]


def test_the_size_of_a_text_is_the_number_of_its_bytes(outputs: Path, top: Path, mounted: Mounted) -> None:
    job = outputs.parent.parent
    places = (mounted.path / ".rescale", job / ".rescale", outputs / ".rescale", top / ".rescale")
    paths = [path for place in places for path in place.iterdir() if path.name != "stats"]  # that one counts on

    for path in (*paths, mounted.path / "jobs.csv", job / "runs.csv"):
        assert path.stat().st_size == len(path.read_bytes()), path
    assert len(paths) > 20


def test_rescale_status_tells_the_state_of_the_job_or_run(outputs: Path, top: Path, mounted: Mounted) -> None:
    job = outputs.parent.parent

    assert (job / ".rescale/status").read_text() == "Completed\n"
    assert (outputs / ".rescale/status").read_text() == "final\n"
    assert (top / ".rescale/status").read_text() == "live\n"
    assert (top.parent / "latest/.rescale/status").read_text() == "live\n"
    assert (top.parent.parent / ".rescale/status").read_text() == "Executing\n"
    assert (mounted.path / ".rescale/status").read_text() == "online\n"


def test_job_json_run_json_and_files_json_tell_what_rescale_tells(world: World, mounted: Mounted) -> None:
    job = world.add_job(name="wing / case 1")
    run = job.add_run(finished=True, files={"a/b": b"12345"}, variables={"alpha": 4})
    top = mounted.top(run)

    told = json.loads((mounted.jobs / job.id / ".rescale/job.json").read_text())
    assert (told["id"], told["name"], told["owner"], told["status"]) == (job.id, job.name, job.owner, "Completed")
    told = json.loads((top / ".rescale/run.json").read_text())
    assert (told["id"], told["state"], told["outputFileCount"], told["outputFileSize"]) == ("1", "final", 1, 5)
    assert told["variables"] == [{"name": "alpha", "value": "4"}]
    (row,) = json.loads((top / ".rescale/files.json").read_text())
    assert (row["id"], row["relativePath"], row["decryptedSize"]) == (run.files[0].id, "a/b", 5)


def test_no_text_tells_the_key(outputs: Path, top: Path, mounted: Mounted) -> None:
    """Neither that of the account nor those that outputs are encrypted with."""
    tables = [mounted.path / "jobs.csv", top.parent.parent / "runs.csv"]
    for path in (*tables, *(path for place in (mounted.path, outputs, top) for path in (place / ".rescale").iterdir())):
        text = path.read_bytes()
        assert b"ncryptionKey" not in text
        assert mounted.emulator.key.encode() not in text


# ---- tables ----


def test_jobs_csv_has_a_line_for_each_job(world: World, mounted: Mounted) -> None:
    job = world.add_job(name='wing, "first"\nof two')
    job.add_run(finished=True)
    world.add_job(submitted=False)
    refresh(mounted.path)

    rows = table(mounted.path / "jobs.csv")

    assert rows.keys() == world.jobs.keys()
    assert rows[job.id]["name"] == r'wing, "first"\nof two'
    assert rows[job.id]["status"] == "Completed"
    assert (mounted.path / "jobs.csv").read_bytes().count(b"\n") == len(world.jobs) + 1


def test_jobs_csv_costs_the_list_of_jobs(mounted: Mounted, emulator: Emulator) -> None:
    refresh(mounted.path)

    (mounted.path / "jobs.csv").read_bytes()

    assert emulator.requests == {"jobs": 1}


@pytest.fixture
def sweep(world: World) -> Job:
    """A job with runs that have variables."""
    job = world.add_job()
    job.add_run(finished=True, variables={"alpha": 4, "shape": "=flat", "state": "new"})
    job.add_run(finished=True, variables={"alpha": -2.50, "beta": "1e-3", "note": "+1-800"})
    return job


def test_runs_csv_has_a_line_for_each_run_and_a_column_for_each_variable(sweep: Job, mounted: Mounted) -> None:
    rows = table(mounted.jobs / sweep.id / "runs.csv")

    assert list(rows) == ["1", "2"]
    columns = ["id", "state", "started", "completed", "files", "bytes", "alpha", "shape", "state~2", "beta", "note"]
    assert list(rows["1"]) == columns
    assert (rows["1"]["beta"], rows["2"]["shape"]) == ("", "")


def test_runs_csv_costs_the_list_of_runs(sweep: Job, mounted: Mounted, emulator: Emulator) -> None:
    os.listdir(mounted.jobs / sweep.id)
    (mounted.jobs / sweep.id / ".rescale/status").read_bytes()
    emulator.reset_counts()

    (mounted.jobs / sweep.id / "runs.csv").read_bytes()

    assert emulator.requests == {"runs": 1}


def test_a_run_that_ended_an_hour_ago_is_final_in_runs_csv(world: World, mounted: Mounted, emulator: Emulator) -> None:
    """Though nobody has listed its files."""
    now = world.clock.now()
    job = world.add_job(created=now - 3 * HOUR_S, expected_runs=2)
    for ended_s in (1.1 * HOUR_S, 0.5 * HOUR_S):
        job.add_run(started=now - 2 * HOUR_S, completed=now - ended_s)

    rows = table(mounted.jobs / job.id / "runs.csv")

    assert [row["state"] for row in rows.values()] == ["final", "settling"]
    assert emulator.requests["run_files"] == 0


def test_a_variable_that_is_called_as_another_column_has_2_after_its_name(sweep: Job, mounted: Mounted) -> None:
    row = table(mounted.jobs / sweep.id / "runs.csv")["1"]

    assert (row["state"], row["state~2"]) == ("final", "new")


def test_a_text_that_looks_like_a_formula_has_an_apostrophe_before_it(sweep: Job, mounted: Mounted) -> None:
    rows = table(mounted.jobs / sweep.id / "runs.csv")

    assert (rows["1"]["shape"], rows["2"]["note"]) == ("'=flat", "'+1-800")


def test_numbers_stand_in_tables_as_rescale_tells_them(sweep: Job, mounted: Mounted) -> None:
    rows = table(mounted.jobs / sweep.id / "runs.csv")

    assert [rows["1"]["alpha"], rows["2"]["alpha"], rows["2"]["beta"]] == ["4", "-2.5", "1e-3"]


def test_listing_tables_by_name_costs_nothing(sweep: Job, mounted: Mounted, emulator: Emulator) -> None:
    (mounted.jobs / sweep.id).stat()
    emulator.reset_counts()

    assert sorted(os.listdir(mounted.path)) == ["by-name", "jobs", "jobs.csv"]
    assert sorted(os.listdir(mounted.jobs / sweep.id)) == ["runs", "runs.csv"]
    assert emulator.requests.total() == 0


# ---- events ----


def lines(top: Path) -> list[str]:
    """The events so far, without their times."""
    return [line.split(" ", 1)[1] for line in (top / ".rescale/events").read_text().splitlines()]


def test_events_begins_with_the_state_that_the_run_was_seen_in_first(top: Path) -> None:
    before = time.time()

    (line,) = (top / ".rescale/events").read_text().splitlines()

    assert line.endswith("Z state live")
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before)) <= line


def test_events_has_a_line_for_each_change_of_the_state(live: Run, top: Path) -> None:
    lines(top)
    live.finish()

    def seen() -> list[str]:
        refresh(top)
        return lines(top)

    wait_for(lambda: seen()[-1:] == ["state final"], 10, lambda: str(seen()))
    assert seen() == ["state live", "state settling", "state final"]


def test_events_has_a_line_for_each_act(top: Path, emulator: Emulator) -> None:
    lines(top)
    emulator.faults.add(endpoint="stop", status=403, times=1)
    with pytest.raises(PermissionError):
        write(top / "stop", b"1")
    write(top / "stop", b"1")

    first, failed, done = lines(top)[:3]
    assert (first, failed[:13], done) == ("state live", "stop failed: ", "stop accepted")


def test_events_has_a_line_for_each_snapshot_that_was_uploaded(top: Path) -> None:
    lines(top)
    write(top / "snapshot", b"1")

    def seen() -> list[str]:
        refresh(top)
        return lines(top)

    wait_for(lambda: len(seen()) == 3, 10, lambda: str(seen()))
    assert seen()[1].startswith("snapshot accepted")
    assert seen()[2].startswith("snapshot uploaded snapshot_1")


def test_events_can_be_followed(live: Run, top: Path, tmp_path: Path) -> None:
    """Its size is true, and lines are added only."""
    path = top / ".rescale/events"
    with following({"tail": ["tail", "-n", "+1", "-s", "0.1", "-f", str(path)]}, tmp_path) as followers:
        out = followers["tail"]
        wait_for(lambda: out.read_bytes().endswith(b"state live\n"), 20, out.read_text)
        write(top / "stop", b"1")
        live.finish()
        refresh(top)
        wait_for(lambda: out.read_bytes().endswith(b"state settling\n"), 20, out.read_text)
        assert path.stat().st_size == len(path.read_bytes())
        wait_for(lambda: out.read_bytes() == path.read_bytes(), 20, out.read_text)


def test_events_of_a_run_that_was_final_when_it_was_seen_first_is_empty(outputs: Path) -> None:
    assert os.listdir(outputs)

    assert (outputs / ".rescale/events").read_bytes() == b""


def test_events_begins_anew_after_a_remount(live: Run, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """With the state in which the new mount sees the run first, if that is not final."""
    mounted = mount_of(emulator)
    top = mounted.top(live)
    write(top / "stop", b"1")
    assert len(lines(top)) >= 1
    live.finish()
    refresh(top)
    mounted.unmount()
    mounted.mount()

    assert lines(top) in (["state settling"], ["state final"], [])
