"""The airfoil's mesh, read back from the case's own files, and its flow against what theory says."""

from __future__ import annotations

import cmath
import itertools
import math
import re
from typing import Any

import pytest

from rescalefs.emulator import airfoil, openfoam
from rescalefs.emulator.airfoil import Flow, Grid, lift_coefficient, surface_pressure


@pytest.fixture(scope="module")
def case() -> dict[str, str]:
    return {path: data.decode() for path, data in openfoam.default_case().items()}


def numbers(text: str) -> list[list[float]]:
    body = text[text.index("\n(\n") + 3 : text.index("\n)\n")]
    return [[float(number) for number in line.strip("()").split()] for line in body.splitlines()]


@pytest.fixture(scope="module")
def mesh(case: dict[str, str]) -> dict[str, list[list[float]]]:
    return {name: numbers(case[f"constant/polyMesh/{name}"]) for name in ("points", "owner", "neighbour")} | {
        "faces": [[int(i) for i in re.findall(r"\d+", line)[1:]] for line in face_lines(case)]
    }


def face_lines(case: dict[str, str]) -> list[str]:
    return re.findall(r"^4\(.*\)$", case["constant/polyMesh/faces"], re.MULTILINE)


def face_area(points: list[list[float]], face: list[int]) -> list[float]:
    a, b, c, d = (points[corner] for corner in face)
    first = [c[axis] - a[axis] for axis in range(3)]
    second = [d[axis] - b[axis] for axis in range(3)]
    return [
        (first[(axis + 1) % 3] * second[(axis + 2) % 3] - first[(axis + 2) % 3] * second[(axis + 1) % 3]) / 2
        for axis in range(3)
    ]


def test_mesh_is_valid(mesh: dict[str, Any]) -> None:
    points, faces = mesh["points"], mesh["faces"]
    owner = [int(row[0]) for row in mesh["owner"]]
    neighbour = [int(row[0]) for row in mesh["neighbour"]]
    cells = Grid().around * Grid().outwards
    assert len(owner) == len(faces)
    assert set(owner) | set(neighbour) == set(range(cells))
    pairs = list(zip(owner, neighbour, strict=False))
    assert all(first < second for first, second in pairs)
    assert pairs == sorted(set(pairs))
    assert len({tuple(sorted(face)) for face in faces}) == len(faces)
    sums = [[0.0, 0.0, 0.0] for _ in range(cells)]
    volumes = [0.0] * cells
    for index, face in enumerate(faces):
        area = face_area(points, face)
        middle = [sum(points[corner][axis] for corner in face) / 4 for axis in range(3)]
        flux = sum(map(lambda a, m: a * m, area, middle)) / 3
        sides = [(owner[index], 1)] + ([(neighbour[index], -1)] if index < len(neighbour) else [])
        for cell, sign in sides:
            volumes[cell] += sign * flux
            for axis in range(3):
                sums[cell][axis] += sign * area[axis]
    assert max(abs(component) for total in sums for component in total) < 1e-9
    assert min(volumes) > 0
    grid = Grid()
    outer = abs(polygon_area(grid.points[-grid.around :])) - abs(polygon_area(grid.points[: grid.around]))
    assert sum(volumes) == pytest.approx(outer * openfoam.DEPTH, rel=1e-6)


def polygon_area(polygon: list[complex]) -> float:
    around = [*polygon, polygon[0]]
    return sum((a.conjugate() * b).imag for a, b in itertools.pairwise(around)) / 2


def test_boundary_covers_the_rest(case: dict[str, str], mesh: dict[str, Any]) -> None:
    rows = re.findall(r"(\w+) \{ type (\w+); nFaces (\d+); startFace (\d+); \}", case["constant/polyMesh/boundary"])
    assert [(name, kind) for name, kind, *_ in rows] == [
        ("airfoil", "wall"),
        ("farfield", "patch"),
        ("frontAndBack", "empty"),
    ]
    start = len(mesh["neighbour"])
    for _, _, count, first in rows:
        assert int(first) == start
        start += int(count)
    assert start == len(mesh["faces"])


def test_fluxes_balance_and_agree_with_the_velocity() -> None:
    grid, flow = Grid(), Flow(math.radians(6))
    faces = openfoam.Faces(grid)
    psi = [flow.stream_function(zeta) for zeta in grid.circle_points]
    balance = [0.0] * (grid.around * grid.outwards)
    worst = 0.0
    for index, (a, b) in enumerate(faces.edges):
        flux = psi[b] - psi[a]
        balance[faces.owner[index]] += flux
        if index < len(faces.neighbour):
            balance[faces.neighbour[index]] -= flux
        edge = grid.points[b] - grid.points[a]
        middle = airfoil.to_circle((grid.points[a] + grid.points[b]) / 2)
        if abs(middle - airfoil.C) > 0.05:  # Around the cusp a face is too long for its middle to stand for it.
            through = (flow.velocity(middle).conjugate() * edge).imag
            worst = max(worst, abs(through - flux) / abs(edge))
    assert max(map(abs, balance)) < 1e-12
    assert worst < 0.02


def test_flow() -> None:
    for degrees in (-4, 0, 5, 10):
        flow = Flow(math.radians(degrees))
        far = flow.velocity(1000 + 1000j)
        assert abs(far - cmath.rect(1, flow.alpha)) < 1e-3
        speeds = [abs(flow.velocity(airfoil.MU + airfoil.RADIUS * cmath.exp(1j * k))) for k in range(1, 100)]
        assert max(speeds) < 6
        assert flow.stream_function(airfoil.MU + airfoil.RADIUS * 1j) == pytest.approx(0, abs=1e-12)
    zeta = airfoil.MU + 2 * airfoil.RADIUS * cmath.exp(2j)
    assert airfoil.to_circle(airfoil.to_plane(zeta)) == pytest.approx(zeta)


@pytest.mark.parametrize("degrees", [-5, 0, 4, 10])
def test_lift_is_the_pressure_s(degrees: float) -> None:
    points = Grid().points[: Grid().around]
    force = 0j
    for index, (_, pressure) in enumerate(surface_pressure(degrees)):
        edge = points[(index + 1) % len(points)] - points[index]
        force += pressure * 1j * edge
    turned = force * cmath.exp(-1j * math.radians(degrees))
    assert 2 * turned.imag == pytest.approx(lift_coefficient(degrees), abs=2e-3)
    assert abs(2 * turned.real) < 2e-3  # D'Alembert: no drag.


def test_lift_grows_with_the_angle() -> None:
    lifts = [lift_coefficient(degrees) for degrees in range(-10, 11)]
    assert lifts == sorted(lifts)
    assert lifts[0] < 0 < lifts[10]


def test_case_files(case: dict[str, str]) -> None:
    times = [str(number) for number in range(1, len(openfoam.ANGLES_DEGREES) + 1)]
    assert {path for path in case if path[0].isdigit()} == {
        "0/U",
        "0/p",
        *(f"{time}/{field}" for time in times for field in ("U", "p", "phi")),
    }
    for time, degrees in zip(times, openfoam.ANGLES_DEGREES, strict=True):
        patch = case[f"{time}/p"].split("airfoil\n{\n")[1]
        written = [row[0] for row in numbers(patch)]
        assert written == pytest.approx([pressure for _, pressure in surface_pressure(degrees)], rel=1e-8)
        assert case[f"{time}/p"].count("{") == case[f"{time}/p"].count("}")
