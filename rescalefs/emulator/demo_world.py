"""The world of the demo: one job of each sort that a user meets.

    airfoil, finished     an OpenFOAM case with a known answer, for ParaView (see `openfoam`)
    sweep, finished       12 runs with variables, each with the same mesh file of 1 MiB
    live                  a solver that writes its log every second and a time directory every half minute
    draft, failed         never submitted; ended by an error
    QTVia                 the job of the API documentation's example (2014): 63 files, ten of them as printed

Dates are relative to the clock when the world is made, except the example's.
"""

from __future__ import annotations

from collections.abc import Iterator

from rescalefs.emulator.airfoil import lift_coefficient, surface_pressure
from rescalefs.emulator.clock import Clock, parse_iso
from rescalefs.emulator.content import Generated
from rescalefs.emulator.files import Step
from rescalefs.emulator.openfoam import ANGLES_DEGREES, default_case
from rescalefs.emulator.world import DAY_S, Job, World

AIRFOIL_JOB, SWEEP_JOB, LIVE_JOB, DRAFT_JOB, FAILED_JOB, EXAMPLE_JOB = (
    "kWdRa",
    "sTqVb",
    "LvGjn",
    "dRfBx",
    "FbcZk",
    "QTVia",
)

SWEEP_ANGLES_DEGREES = range(-2, 10)
SWEEP_MESH_BYTES = 1 << 20

# The live run: it has been computing for a while, and writes a time directory so often, so many times.
LIVE_AGE_S = 75.0
LIVE_WRITE_S = 30
LIVE_WRITES = 40
# Seconds that it takes to write one field, a part each second: who looks in between sees half a file.
LIVE_PARTS = 4

# The example's rows: time, name, id, size in bytes, second of the upload. The page prints an `md5` for each;
# its bytes are not public, so ours are others of the same size, with their own true checksums.
_EXAMPLE_ROWS = """\
0 nut dmpTse 1278 50.641761
0 nuTilda fDhFDe 1268 50.550979
0 p sOhFDe 1166 50.714078
0 U RapTse 1298 50.465184
100 nut fmpTse 100195 50.931594
100 nuTilda hDhFDe 99221 50.862457
100 p uOhFDe 86615 51.005975
100 phi wMyXse 190707 51.079312
100 U TapTse 298228 50.787838
100 uniform/time LosKDe 968 51.222466
"""
_EXAMPLE_MINUTE = "2014-11-12T22:56:"
# The rest of the example's 63 files, ours: those of OpenFOAM's tutorial of that name.
_EXAMPLE_FIELDS = ("nut", "nuTilda", "p", "phi", "U", "uniform/time")
_EXAMPLE_TIMES = range(200, 900, 100)
_EXAMPLE_OTHERS = (
    *(f"airFoil2D/constant/polyMesh/{name}" for name in ("boundary", "faces", "neighbour", "owner", "points")),
    *(f"airFoil2D/constant/{name}" for name in ("RASProperties", "transportProperties")),
    *(f"airFoil2D/system/{name}" for name in ("controlDict", "fvSchemes", "fvSolution")),
    "process_output.log",
)


def demo_world(*, clock: Clock | None = None) -> World:
    """Return the world of the demo."""
    world = World(clock=clock)
    now = world.clock.now()
    _add_airfoil(world.add_job(AIRFOIL_JOB, name="airfoil, six angles of attack", created=now - 4 * DAY_S))
    _add_sweep(world.add_job(SWEEP_JOB, name="airfoil / sweep of alpha", created=now - 3 * DAY_S, expected_runs=12))
    _add_live(world.add_job(LIVE_JOB, name="airfoil, running", created=now - 600), now)
    world.add_job(DRAFT_JOB, name="draft: finer mesh", created=now - 2 * DAY_S, submitted=False)
    _add_failed(world.add_job(FAILED_JOB, name="airfoil, diverged", created=now - 5 * DAY_S))
    _add_example(world)
    return world


def _add_airfoil(job: Job) -> None:
    run = job.add_run(finished=True)
    for path, data in default_case().items():
        run.add_file(path, data)
    log = "".join(
        f"Time = {time}\n\nalpha = {angle} deg, Cl = {lift_coefficient(angle):.6f}\n\n"
        for time, angle in enumerate(ANGLES_DEGREES, 1)
    )
    run.add_file("process_output.log", f"{_banner('potentialFoam')}{log}End\n")


def _add_sweep(job: Job) -> None:
    mesh = Generated(SWEEP_MESH_BYTES, "mesh of the sweep")
    for angle in SWEEP_ANGLES_DEGREES:
        lift = round(lift_coefficient(angle), 6)
        run = job.add_run(finished=True, variables={"alpha": angle, "Cl": lift})
        table = "".join(f"{z.real:.9g},{z.imag:.9g},{p:.9g}\n" for z, p in surface_pressure(angle))
        run.add_file("mesh/airfoil.msh", mesh)
        run.add_file("surface_pressure.csv", f"x,y,p\n{table}")
        run.add_file("forces.csv", f"alpha,Cl\n{angle},{lift}\n")
        run.add_file("process_output.log", f"{_banner('sweep')}alpha = {angle} deg\nCl = {lift}\nEnd\n")


def _add_live(job: Job, now: float) -> None:
    run = job.add_run(started=now - LIVE_AGE_S)
    files = default_case()
    run.add_live("process_output.log", _banner("potentialFoam"), script=_log_steps())
    run.add_live("postProcessing/residuals.csv", "time,p\n", script=_residual_steps())
    for path, data in files.items():
        if path.split("/")[0] in ("airfoil.foam", "constant", "system", "0"):
            run.add_live(path, data)
    for write in range(1, LIVE_WRITES + 1):
        time = write * LIVE_WRITE_S
        for name in ("U", "p"):
            data = files[f"{(write - 1) % len(ANGLES_DEGREES) + 1}/{name}"]
            part = -(-len(data) // LIVE_PARTS)
            steps = [
                Step(time + number, "append", data[number * part : (number + 1) * part]) for number in range(LIVE_PARTS)
            ]
            run.add_live(f"{time}/{name}", b"", since_s=time, script=steps)


def _add_failed(job: Job) -> None:
    run = job.add_run(finished=True, failed=True)
    run.add_file("process_output.log", f"{_banner('simpleFoam')}--> FOAM FATAL ERROR: divergence at time 17\n")
    run.add_file("core", Generated(3 << 20, "core"))


def _add_example(world: World) -> None:
    created = parse_iso("2014-11-12T22:40:00Z")
    job = world.add_job(EXAMPLE_JOB, name="airFoil2D", created=created)
    run = job.add_run(completed=parse_iso(_EXAMPLE_MINUTE + "45.5Z"), started=created + 70)
    for row in _EXAMPLE_ROWS.splitlines():
        time, name, id, size, second = row.split()
        path = f"airFoil2D/{time}/{name}"
        date = parse_iso(f"{_EXAMPLE_MINUTE}{second}Z")
        run.add_file(path, _text(path, int(size)), id=id, date_uploaded=date, checksum="md5")
    others = [f"airFoil2D/{time}/{name}" for time in _EXAMPLE_TIMES for name in _EXAMPLE_FIELDS]
    for number, path in enumerate([*others, *_EXAMPLE_OTHERS]):
        date = parse_iso(_EXAMPLE_MINUTE + "52.25Z") + number / 16
        run.add_file(path, _text(path, 1000 + 100 * number), date_uploaded=date, checksum="md5")


def _text(title: str, size: int) -> bytes:
    """Return *size* bytes of text that says what it stands for."""
    line = f"// {title}: in place of the example's bytes\n".encode()
    return (line * (size // len(line) + 1))[: size - 1] + b"\n"


def _banner(program: str) -> str:
    return f"Rescale emulator: {program} on 1 core\nCreate mesh for time = 0\n\nStarting time loop\n\n"


def _residual(time: int) -> float:
    return 0.5 * 0.97 ** min(time, 500) + 1e-6 * (time % 7)


def _log_steps() -> Iterator[Step]:
    time = 0
    while True:
        time += 1
        residual = _residual(time)
        text = (
            f"Time = {time}\n\n"
            f"GAMG:  Solving for p, Initial residual = {residual:.6g}, "
            f"Final residual = {residual / 100:.6g}, No Iterations 4\n"
            f"ExecutionTime = {time} s  ClockTime = {time} s\n\n"
        )
        yield Step(time, "append", text.encode())


def _residual_steps() -> Iterator[Step]:
    time = 0
    while True:
        time += 1
        yield Step(time, "append", f"{time},{_residual(time):.6g}\n".encode())
