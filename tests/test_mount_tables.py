"""Tables and names through a real mount, on both bindings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.airfoil import lift_coefficient
from rescalefs.emulator.demo_world import SWEEP_ANGLES_DEGREES, SWEEP_JOB, demo_world
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.test_cli import failure, rescalefs
from tests.tools import sh

pytestmark = pytest.mark.mount


@pytest.mark.filterwarnings("default")  # pandas warns of its own future
def test_pandas_finds_the_run_with_the_highest_lift(mount_of: Callable[..., Mounted]) -> None:
    """runs.csv of the demo's sweep, as an engineer reads it: numbers are numbers, and the run's own files agree."""
    pandas = pytest.importorskip("pandas")
    with Emulator(demo_world()) as emulator:
        job = mount_of(emulator).jobs / SWEEP_JOB
        emulator.reset_counts()

        runs = pandas.read_csv(job / "runs.csv", dtype={"id": str})

        assert emulator.requests["run_files"] == 0
        assert [str(runs[name].dtype) for name in ("files", "bytes", "alpha", "Cl")] == [
            *("int64", "int64", "float64" if any(angle % 1 for angle in SWEEP_ANGLES_DEGREES) else "int64", "float64")
        ]
        assert len(runs) == len(SWEEP_ANGLES_DEGREES)
        best = runs.loc[runs["Cl"].idxmax()]
        assert best["alpha"] == max(SWEEP_ANGLES_DEGREES, key=lift_coefficient)
        forces = pandas.read_csv(job / "runs" / best["id"] / "forces.csv")
        assert forces["Cl"][0] == best["Cl"]
        assert (runs["state"] == "final").all()


def test_tables_are_listed_without_a_request(
    world: World, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """A plain ls names them; who asks for their size has it, and that many bytes are there."""
    world.add_job("AbCdE", name="wing, first").add_run(finished=True, variables={"alpha": 4, "shape": "=flat"})
    mounted = mount_of(emulator)
    emulator.reset_counts()

    assert sorted(os.listdir(mounted.path)) == ["by-name", "jobs", "jobs.csv"]
    assert not emulator.requests
    assert sorted(os.listdir(mounted.jobs / "AbCdE")) == ["runs", "runs.csv"]
    assert set(emulator.requests) == {"jobs"}
    for table in (mounted.path / "jobs.csv", mounted.jobs / "AbCdE/runs.csv"):
        assert table.stat().st_size == len(table.read_bytes()) > 0
    assert (mounted.path / "jobs.csv").read_text().splitlines()[1].startswith('AbCdE,"wing, first",Completed,')
    assert (mounted.jobs / "AbCdE/runs.csv").read_text().splitlines()[1].endswith(",0,0,4,'=flat")
    assert set(emulator.requests) == {"jobs", "runs"}


def test_jobs_have_a_link_by_their_names(world: World, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    """Equal names, slashes, unicode, none, over-long ones: each a link to its job, for no more requests."""
    names = {
        "Aaaaa": "wing",
        "Bbbbb": "wing",
        "Ccccc": "a/b: 50%",
        "Ddddd": "Flügel \U0001f600",
        "Eeeee": "",
        "Fffff": "x" * 400,
        "Ggggg": "..",
        "Hhhhh": "%2F",
    }
    for id, name in names.items():
        world.add_job(id, name=name)
    mounted = mount_of(emulator)
    place = mounted.path / "by-name"
    emulator.reset_counts()

    links = {name: os.readlink(place / name) for name in os.listdir(place)}

    assert set(links.values()) == {f"../jobs/{id}" for id in names}
    assert {"wing~Aaaaa", "wing~Bbbbb", "a%2Fb: 50%25~Ccccc", "Flügel \U0001f600~Ddddd", "~Eeeee"} <= set(links)
    assert all(os.path.samefile(place / name, mounted.jobs / target[8:]) for name, target in links.items())
    assert emulator.requests == {"jobs": 1}
    for absent in (".Trash-1000", "backup~", "desktop.ini", "other~Aaaaa", "wing~Aaaaa~"):
        assert not os.path.lexists(place / absent)
    assert emulator.requests == {"jobs": 1}


def test_a_path_is_refreshed_by_the_command(run: Run, outputs: Path, mounted: Mounted, emulator: Emulator) -> None:
    """The level that a path is in is asked for again: a run from any place in it, then a job, then everything."""
    sh("ls -R .", outputs)
    costs = []
    for path in (outputs / "case/0", mounted.jobs / "AbCdE/runs/latest", mounted.jobs / "AbCdE", mounted.path):
        assert rescalefs(mounted.path.parent, "refresh", str(path)).returncode == 0
        emulator.reset_counts()
        sh("ls -R .", outputs)
        costs.append(dict(emulator.requests))

    of_run, of_job = {"runs": 1, "run_files": 1}, {"runs": 1, "run_files": 1}
    assert costs == [of_run, of_run, of_job, {"jobs": 1, **of_job}]


def test_what_is_not_in_a_mount_is_not_refreshed(tmp_path: Path) -> None:
    """A path elsewhere is one sentence."""
    code, sentence = failure(rescalefs(tmp_path, "refresh", str(tmp_path)))

    assert (code, "is not in a mount" in sentence) == (7, True)


def test_a_long_list_of_jobs_costs_a_request_for_each_two_hundred(
    world: World, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """ls -l of 5,000 jobs is 25 requests, and the names that file managers look for in it are none."""
    for _ in range(5000):
        world.add_job()
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    emulator.reset_counts()

    assert sh(["ls", "-l", "."], mounted.jobs).count("\nd") == 5000
    for name in (".hidden", ".Trash-0", "desktop.ini", ".directory", "Thumbs.db"):
        assert not (mounted.jobs / name).exists()
        assert not (mounted.path / "by-name" / name).exists()
    assert emulator.requests == {"jobs": 25}
