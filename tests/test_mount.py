"""Whole scenes through a real mount, on both bindings; the promises, one by one, are in `contract`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

import pytest

from rescalefs.emulator.airfoil import lift_coefficient
from rescalefs.emulator.demo_world import SWEEP_ANGLES_DEGREES, SWEEP_JOB, demo_world
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import Mounted
from tests.tools import sh

pytestmark = pytest.mark.mount


def test_the_documented_example_is_shown_as_documented(mount_of: Callable[..., Mounted]) -> None:
    """Job QTVia of the API's documentation: names, sizes and times of its ten rows."""
    rows = {
        "airFoil2D/0/nut": (1278, "2014-11-12T22:56:50.641761+00:00"),
        "airFoil2D/0/nuTilda": (1268, "2014-11-12T22:56:50.550979+00:00"),
        "airFoil2D/0/p": (1166, "2014-11-12T22:56:50.714078+00:00"),
        "airFoil2D/0/U": (1298, "2014-11-12T22:56:50.465184+00:00"),
        "airFoil2D/100/nut": (100195, "2014-11-12T22:56:50.931594+00:00"),
        "airFoil2D/100/nuTilda": (99221, "2014-11-12T22:56:50.862457+00:00"),
        "airFoil2D/100/p": (86615, "2014-11-12T22:56:51.005975+00:00"),
        "airFoil2D/100/phi": (190707, "2014-11-12T22:56:51.079312+00:00"),
        "airFoil2D/100/U": (298228, "2014-11-12T22:56:50.787838+00:00"),
        "airFoil2D/100/uniform/time": (968, "2014-11-12T22:56:51.222466+00:00"),
    }
    with Emulator(demo_world()) as emulator:
        top = mount_of(emulator).jobs / "QTVia/runs/1"

        for path, (size, uploaded) in rows.items():
            seen = os.stat(top / path)
            modified = datetime.fromisoformat(uploaded).timestamp()
            assert (seen.st_size, seen.st_mtime) == (size, pytest.approx(modified, abs=1e-6))
            assert len((top / path).read_bytes()) == size
        assert sum(len(files) for _, _, files in os.walk(top)) == 63
        ids = {path: os.getxattr(top / path, "user.rescale.file_id") for path in rows}
        assert ids["airFoil2D/0/nut"] == b"dmpTse"
        assert ids["airFoil2D/100/uniform/time"] == b"LosKDe"


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
