"""Names, as docs/semantics.md promises them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.tools import FILES, errno_of, paths_below, posts, refresh, sh, write

pytestmark = pytest.mark.mount


def test_the_directory_of_a_final_run_holds_exactly_the_files_that_rescale_lists(outputs: Path) -> None:
    found = sh(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], outputs).split("\0")[:-1]

    assert dict(zip(found[::2], map(int, found[1::2]), strict=True)) == {p: len(d) for p, d in FILES.items()}
    assert sorted(os.listdir(outputs)) == sorted({path.split("/")[0] for path in FILES})


def test_a_file_that_rescale_has_deleted_is_not_shown(run: Run, mounted: Mounted) -> None:
    for file in run.files:
        file.is_deleted = file.relative_path in ("big.bin", "case/100/uniform/time")
    top = mounted.top(run)

    assert paths_below(top) == set(FILES) - {"big.bin", "case/100/uniform/time"}
    assert not (top / "big.bin").exists()
    assert not (top / "case/100/uniform").exists()


def test_the_directory_of_a_live_run_has_stop_and_snapshot_beside_its_files(top: Path) -> None:
    assert sorted(os.listdir(top)) == ["case", "log", "snapshot", "stop"]
    assert os.listdir(top / "case") == ["U"]


def test_a_file_called_stop_hides_the_control_file_which_is_still_in_rescale(
    world: World, mounted: Mounted, emulator: Emulator
) -> None:
    run = world.add_job().add_run(live={"stop": b"my own", "snapshot/U": b""})
    top = mounted.top(run)

    assert sorted(os.listdir(top)) == ["snapshot", "stop"]
    assert (top / "stop").read_bytes() == b"my own"
    assert errno_of(write, top / "stop", b"1\n") in ("EROFS", "EACCES")
    assert posts(emulator) == 0
    assert (top / ".rescale/stop").read_text() == "no stop was asked for\n"
    assert stat.filemode((top / ".rescale/snapshot").stat().st_mode) == "-rw-------"


def test_rescale_is_reached_by_name_and_never_listed(outputs: Path, top: Path, mounted: Mounted) -> None:
    for place in (mounted.path, outputs, outputs.parent.parent, top, top.parent.parent):
        assert ".rescale" not in os.listdir(place)
        assert "refresh" in os.listdir(place / ".rescale")
    assert not (outputs / "case/.rescale").exists()


def test_listing_jobs_lists_no_runs(run: Run, mounted: Mounted, emulator: Emulator) -> None:
    refresh(mounted.path)

    assert f" {run.job.id}\n" in sh("ls -l", mounted.jobs)
    assert emulator.requests == {"jobs": 1}


def test_a_job_that_is_not_in_the_list_is_found_by_its_id(world: World, mounted: Mounted, emulator: Emulator) -> None:
    os.listdir(mounted.jobs)
    run = world.add_job().add_run(finished=True, files={"new": b"12345"})
    emulator.reset_counts()

    assert (mounted.top(run) / "new").stat().st_size == 5
    assert (emulator.requests["job"], emulator.requests["jobs"]) == (1, 0)
    assert errno_of(os.listdir, mounted.jobs / "Nobody") == "ENOENT"


def test_ids_of_jobs_are_told_apart_by_case(world: World, mounted: Mounted) -> None:
    job = world.add_job()
    other = world.add_job(job.id.swapcase())
    job.add_run(finished=True, files={"one": b"1"})
    other.add_run(finished=True, files={"two": b"2"})

    assert os.listdir(mounted.jobs / job.id / "runs/1") == ["one"]
    assert os.listdir(mounted.jobs / other.id / "runs/1") == ["two"]


NO_JOBS = (".git", ".Trash-1000", "desktop.ini", "autorun.inf", ".hidden", ".xdg-volume-info", "no job", "backup~")


def test_a_name_that_no_job_can_have_is_looked_up_without_a_request(mounted: Mounted, emulator: Emulator) -> None:
    """What indexers and file managers probe for."""
    for name in NO_JOBS:
        assert not os.path.lexists(mounted.jobs / name)
        assert not os.path.lexists(mounted.path / "by-name" / name)

    assert emulator.requests.total() == 0


def test_latest_is_a_link_to_the_last_run(world: World, mounted: Mounted) -> None:
    job, empty = world.add_job(), world.add_job()
    for number in range(11):
        job.add_run(finished=True, files={f"of run {number}": b""})
    runs = mounted.jobs / job.id / "runs"

    assert os.listdir(runs) == [*map(str, range(1, 12)), "latest"]
    assert os.readlink(runs / "latest") == "11"
    assert os.listdir(runs / "latest") == ["of run 10"]
    assert os.listdir(mounted.jobs / empty.id / "runs") == []
    assert not os.path.lexists(mounted.jobs / empty.id / "runs/latest")


def links(mounted: Mounted) -> dict[str, str]:
    refresh(mounted.path)
    place = mounted.path / "by-name"
    found = {os.path.basename(os.readlink(place / name)): name for name in os.listdir(place)}
    assert all(os.path.samefile(place / name, mounted.jobs / id) for id, name in found.items())
    return found


def test_by_name_has_a_link_to_each_job(world: World, mounted: Mounted, emulator: Emulator) -> None:
    job, nameless = world.add_job(name="Flügel \U0001f600"), world.add_job(name="")

    found = links(mounted)

    assert (found[job.id], found[nameless.id]) == (f"Flügel \U0001f600~{job.id}", f"~{nameless.id}")
    assert found.keys() == world.jobs.keys()
    assert emulator.requests == {"jobs": 1}
    assert not os.path.lexists(mounted.path / f"by-name/other~{job.id}")


def test_jobs_of_one_name_have_links_of_their_own(world: World, mounted: Mounted) -> None:
    jobs = [world.add_job(name="wing") for _ in range(3)]

    found = links(mounted)

    assert [found[job.id] for job in jobs] == [f"wing~{job.id}" for job in jobs]


# ---- names that cannot be file names ----


def shown(world: World, mounted: Mounted, *paths: str) -> set[str]:
    """The names under which files of these paths are shown; each has its own bytes."""
    run = world.add_job().add_run(finished=True)
    for path in paths:
        run.add_file(path, path.encode(errors="backslashreplace"))
    top = mounted.top(run)
    found = paths_below(top)
    read = sorted((top / name).read_bytes() for name in found)
    assert read == sorted(path.encode(errors="backslashreplace") for path in paths)
    return found


def test_a_nul_in_a_name_is_shown_as_00(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "a\0b/\0", "\0\0") == {"a%00b/%00", "%00%00"}


def test_half_of_a_surrogate_pair_in_a_name_is_shown_as_its_bytes(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "a\ud800b", "\udfff/c") == {"a%ED%A0%80b", "%ED%BF%BF/c"}


def test_a_slash_in_the_name_of_a_job_is_shown_as_2f(world: World, mounted: Mounted) -> None:
    job, up = world.add_job(name="a/b"), world.add_job(name="../..")

    found = links(mounted)

    assert (found[job.id], found[up.id]) == (f"a%2Fb~{job.id}", f"..%2F..~{up.id}")


def test_a_percent_sign_is_shown_as_25_where_its_name_is_escaped_or_looks_escaped(
    world: World, mounted: Mounted
) -> None:
    assert shown(world, mounted, "100%\0", "a%2Fb", "%00", "%2E") == {"100%25%00", "a%252Fb", "%2500", "%252E"}


def test_a_percent_sign_in_any_other_name_stays_as_it_is(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "100%", "%", "%zz/%1") == {"100%", "%", "%zz/%1"}


def test_a_dot_and_two_dots_as_names_are_shown_as_2e_and_2e_2e(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "x/./a", "../b", "..") == {"x/%2E/a", "%2E%2E/b", "%2E%2E~" + last_id(world)}


def last_id(world: World) -> str:
    return list(world.files)[-1]


def test_an_empty_name_in_a_path_is_shown_as_2f(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "a//b", "/c", "d/") == {"a/%2F/b", "%2F/c", "d/%2F"}


def test_a_name_of_more_than_255_bytes_is_cut_and_ends_in_the_id_of_its_file(world: World, mounted: Mounted) -> None:
    (ascii_name,) = shown(world, mounted, "n" * 256)
    mark = f"~{last_id(world)}"
    assert ascii_name == "n" * (255 - len(mark)) + mark

    (wide,) = shown(world, mounted, "ü" * 128)
    mark = f"~{last_id(world)}"
    assert wide == "ü" * ((255 - len(mark)) // 2) + mark
    assert shown(world, mounted, "n" * 255) == {"n" * 255}


@pytest.fixture
def twice(world: World) -> Run:
    """A run that lists two files of one path."""
    run = world.add_job().add_run(finished=True)
    run.add_file("case/p", b"old", date_uploaded=run.started + 1)
    run.add_file("case/p", b"new", date_uploaded=run.started + 2)
    return run


def test_of_two_files_of_one_path_the_newest_upload_has_the_plain_name(twice: Run, mounted: Mounted) -> None:
    assert (mounted.top(twice) / "case/p").read_bytes() == b"new"


def test_the_older_one_of_two_files_of_one_path_ends_in_its_id(twice: Run, mounted: Mounted) -> None:
    older = f"case/p~{twice.files[0].id}"

    assert paths_below(mounted.top(twice)) == {"case/p", older}
    assert (mounted.top(twice) / older).read_bytes() == b"old"


def test_a_file_whose_path_is_also_a_directory_ends_in_its_id(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "a/b", "a") == {"a/b", f"a~{last_id(world)}"}


def test_an_output_called_rescale_ends_in_its_id(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, "a/.rescale", ".rescale") == {"a/.rescale", f".rescale~{last_id(world)}"}


def test_a_directory_of_outputs_called_rescale_is_shown_as_2erescale(world: World, mounted: Mounted) -> None:
    assert shown(world, mounted, ".rescale/status") == {"%2Erescale/status"}
