"""Post-processing tools open cases on a real mount, on both bindings: VTK's reader, which is ParaView's.

The reader runs in a process of its own (see `openfoam_reader`).
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rescalefs.emulator.airfoil import MU, C, Flow, Grid, lift_coefficient, surface_pressure
from rescalefs.emulator.demo_world import AIRFOIL_JOB, demo_world
from rescalefs.emulator.openfoam import ANGLES_DEGREES, DEPTH, default_case
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import Mounted, skip, wait_for

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

pytestmark = pytest.mark.mount

READER = Path(__file__).with_name("openfoam_reader.py")
SOON_S = 20.0
# The case has nine digits and the reader keeps fields as 32-bit numbers; a few units in the last place of those.
PRECISION = 3e-7
# Where Debian's packages have the example, and the settings that the solver must be told of outside its own shell.
CAVITY = Path("/usr/share/doc/openfoam-examples/examples/incompressible/icoFoam/cavity/cavity")
OPENFOAM = Path("/usr/share/openfoam")


@pytest.fixture(scope="module")
def read_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Arrays]:
    """Read a case with VTK, whatever kind of file system it is on: arrays by time, part of the mesh and field."""
    tried = subprocess.run([sys.executable, READER], capture_output=True, text=True)
    if tried.returncode != 0:
        skip(f"VTK cannot be used here: {(tried.stderr.splitlines() or ['it crashed'])[-1]}")
    import numpy as np

    def read(path: Path) -> Arrays:
        out = tmp_path_factory.mktemp("arrays") / "out.npz"
        # What a newer VTK would rather have called is no error; its errors are lines on stderr, and it goes on.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", READER, path, out]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        with np.load(out) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, read_case: Callable[[Path], Arrays]) -> Arrays:
    """Return the demo's case, as the reader sees it on an ordinary disk."""
    top = tmp_path_factory.mktemp("airfoil")
    for name, data in default_case().items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return read_case(top / "airfoil.foam")


def assert_same(seen: Arrays, expected: Arrays) -> None:
    """Two readings have the same arrays, to the last bit."""
    assert set(seen) == set(expected)
    for name, array in expected.items():
        assert (seen[name].dtype, seen[name].shape) == (array.dtype, array.shape), name
        assert seen[name].tobytes() == array.tobytes(), name


def close(expected: Any) -> Any:
    """Return what compares equal to anything that differs by no more than the digits that the reader keeps."""
    return pytest.approx(expected, rel=PRECISION, abs=PRECISION / 10)


def complex_of(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return vectors as points of the plane, having seen that they lie in it."""
    assert not vectors[:, 2].any()
    plane: np.ndarray[Any, Any] = vectors[:, 0].astype(float) + 1j * vectors[:, 1]
    return plane


def test_vtk_reads_the_exact_flow_through_the_mount(
    mount_of: Callable[..., Mounted], read_case: Callable[[Path], Arrays], on_disk: Arrays
) -> None:
    """VTK opens the demo's case like one on disk, and on the airfoil finds the pressure that theory gives."""
    with Emulator(demo_world()) as emulator:
        seen = read_case(mount_of(emulator).jobs / AIRFOIL_JOB / "runs/1/airfoil.foam")

    grid = Grid()
    assert seen["times"].tolist() == list(range(len(ANGLES_DEGREES) + 1))
    assert {"internalMesh", "patch/airfoil", "patch/farfield", "patch/frontAndBack"} == set(seen["patches"].tolist())
    assert len(seen["1/internalMesh/corners"]) == grid.around * grid.outwards == 4800
    assert len(seen["1/boundary/frontAndBack/corners"]) == 2 * 4800
    assert (seen["0/internalMesh/U"] == (1, 0, 0)).all()
    assert not seen["0/internalMesh/p"].any()

    on_circle = [grid.edge_middle(i, 0) for i in range(grid.around)]
    for time, degrees in enumerate(ANGLES_DEGREES, 1):
        flow = Flow(math.radians(degrees))
        exact = surface_pressure(degrees)
        patch = f"{time}/boundary/airfoil"
        corners = seen[f"{patch}/points"][seen[f"{patch}/corners"]].astype(float)
        centres = corners.mean(axis=1)
        assert centres[:, 0] + 1j * centres[:, 1] == close([centre for centre, _ in exact])
        assert centres[:, 2] == close(DEPTH / 2)
        pressure = seen[f"{patch}/p"]
        assert pressure == close([pressure for _, pressure in exact])
        # The flow follows the surface: its direction at the arc's middle is that of the circle's tangent, mapped.
        velocity = complex_of(seen[f"{patch}/U"])
        tangents = [1j * (zeta - MU) * (1 - (C / zeta) ** 2) for zeta in on_circle]
        across = [(u * t.conjugate()).imag / abs(t) for u, t in zip(velocity, tangents, strict=True)]
        assert across == pytest.approx([0] * grid.around, abs=1e-6)
        # The pressure read, over the surface read, lifts as much as theory says: within what 120 faces can tell.
        area = seen_areas(corners)
        lift = 2 * (pressure @ area) / DEPTH
        turned = complex(lift[0], lift[1]) * complex(math.cos(flow.alpha), -math.sin(flow.alpha))
        assert (turned.imag, turned.real) == pytest.approx((lift_coefficient(degrees), 0), abs=2e-3)
        # And so do the cells, to the far field.
        assert seen[f"{time}/internalMesh/p"] == close([flow.pressure(zeta) for zeta in grid.circle_centres])
        assert complex_of(seen[f"{time}/internalMesh/U"]) == close([flow.velocity(z) for z in grid.circle_centres])

    assert_same(seen, on_disk)


def test_opening_a_case_again_downloads_nothing(
    mount_of: Callable[..., Mounted], read_case: Callable[[Path], Arrays]
) -> None:
    """VTK opens and seeks as it likes; each file comes over the network once at most, and not again the next time."""
    with Emulator(demo_world()) as emulator:
        case = mount_of(emulator).jobs / AIRFOIL_JOB / "runs/1/airfoil.foam"
        emulator.reset_counts()
        first = read_case(case)
        asked, sent = emulator.requests["contents"], emulator.bytes_sent["contents"]
        assert_same(read_case(case), first)

        assert (emulator.requests["contents"], emulator.bytes_sent["contents"]) == (asked, sent)
        # The log beside the case may come, too: files ahead of a reader are few in vain.
        assert 0 < sent <= 1.01 * sum(map(len, default_case().values()))


def test_a_case_that_a_live_run_goes_on_writing_is_read_anew_each_time(
    world: World,
    emulator: Emulator,
    mount_of: Callable[..., Mounted],
    read_case: Callable[[Path], Arrays],
    on_disk: Arrays,
) -> None:
    """Reload in ParaView, say: all times that are there by then, to the last bit, though one is still being written."""
    case = default_case()
    later = {name for name in case if name.split("/")[0].isdecimal() and int(name.split("/")[0]) > 2}
    run = world.add_job("LiveR").add_run(live={name: data for name, data in case.items() if name not in later})
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    first = read_case(mounted.top(run) / "airfoil.foam")
    assert first["times"].tolist() == [0, 1, 2]
    assert_same(first, {name: on_disk[name] if name != "times" else first[name] for name in first})

    half = len(case["2/U"]) // 2
    run.live["2/U"].replace(case["2/U"][:half])  # it is written again, from its beginning
    assert (mounted.top(run) / "2/U").stat().st_size in (half, len(case["2/U"]))
    run.live["2/U"].append(case["2/U"][half:])
    for name in sorted(later):
        run.add_live(name, case[name])
    (mounted.top(run) / ".rescale/refresh").write_bytes(b"1")

    wait_for(lambda: (mounted.top(run) / "2/U").read_bytes() == case["2/U"], SOON_S, lambda: "half a file")
    assert_same(read_case(mounted.top(run) / "airfoil.foam"), on_disk)


def seen_areas(corners: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the area vectors of quadrilaterals, out of the flow as OpenFOAM's boundary faces point."""
    import numpy as np

    return np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / 2


@pytest.fixture(scope="module")
def cavity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compute OpenFOAM's first tutorial, the lid-driven cavity, and return where it is."""
    for program in ("blockMesh", "icoFoam"):
        if shutil.which(program) is None:
            skip(f"{program} is not installed (Debian's package openfoam)")
    if not CAVITY.is_dir():
        skip(f"{CAVITY} is not there (Debian's package openfoam-examples)")
    case = tmp_path_factory.mktemp("solved") / "cavity"
    shutil.copytree(CAVITY, case)
    environ = {"WM_PROJECT_DIR": str(OPENFOAM), **os.environ}
    for program in ("blockMesh", "icoFoam"):
        with (case / f"log.{program}").open("wb") as log:
            done = subprocess.run([program, "-case", case], env=environ, stdout=log, stderr=subprocess.STDOUT)
        assert done.returncode == 0, (case / f"log.{program}").read_text()
    (case / "cavity.foam").touch()
    return case


@pytest.mark.long
@pytest.mark.timeout(600)
def test_vtk_reads_a_solvers_case_as_from_disk(
    cavity: Path, world: World, emulator: Emulator, mounted: Mounted, read_case: Callable[[Path], Arrays]
) -> None:
    """A case that a solver computed gives VTK the same mesh and fields through the mount as on disk, at all times."""
    world.add_job("CaVty").add_run(finished=True).add_tree(cavity, "cavity")

    seen = read_case(mounted.jobs / "CaVty/runs/1/cavity/cavity.foam")

    expected = read_case(cavity / "cavity.foam")
    assert seen["times"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(seen["0.5/internalMesh/corners"]) == 400
    assert len(seen["0.5/internalMesh/points"]) == 882
    assert (seen["0.5/boundary/movingWall/U"] == (1, 0, 0)).all()
    # It really was computed: the lid drags the fluid round, fast to the right at the top and back below.
    top_to_bottom = seen["0.5/internalMesh/U"][:, 0].reshape(20, 20).mean(axis=1)[::-1]
    assert top_to_bottom[0] > 0.5
    assert top_to_bottom.min() < -0.1
    assert_same(seen, expected)
