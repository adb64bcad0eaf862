"""An OpenFOAM case of the flow around the airfoil: mesh and fields as ASCII files, ready for ParaView.

Time 0 holds the initial condition; times 1, 2, ... one angle of attack each (`ANGLES_DEGREES`).
The mesh is the O-grid of `airfoil`, one cell thick; its faces are in OpenFOAM's order: internal ones by
owner, then by neighbour, pointing to the neighbour; then patch by patch, pointing outwards.
On the patch `airfoil` the fields are the exact surface values, in the cells those at the centroids.
Formats: OpenFOAM User Guide, chapters 4.1 (mesh) and 4.2 (fields).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from rescalefs.emulator.airfoil import Flow, Grid

ANGLES_DEGREES = (0, 2, 4, 6, 8, 10)
# Depth of the one cell, in chords. Any will do: the third direction is `empty`.
DEPTH = 0.1

_HEADER = """\
FoamFile
{{
    version     2.0;
    format      ascii;
    class       {kind};
    location    "{location}";
    object      {name};
}}

"""
_CONTROL = """\
application     potentialFoam;
startFrom       startTime;
startTime       0;
stopAt          endTime;
endTime         {end};
deltaT          1;
writeControl    timeStep;
writeInterval   1;
writeFormat     ascii;
writePrecision  9;
"""
_SCHEMES = """\
ddtSchemes           { default steadyState; }
gradSchemes          { default Gauss linear; }
divSchemes           { default none; div(phi,U) bounded Gauss linear; div(div(phi,U)) Gauss linear; }
laplacianSchemes     { default Gauss linear corrected; }
interpolationSchemes { default linear; }
snGradSchemes        { default corrected; }
"""
_SOLUTION = """\
solvers { Phi { solver PCG; preconditioner DIC; tolerance 1e-08; relTol 0; } }
potentialFlow { nNonOrthogonalCorrectors 5; }
"""


def case(grid: Grid | None = None, angles_degrees: Sequence[float] = ANGLES_DEGREES) -> dict[str, bytes]:
    """Return the files of the case by path; about a second's work for the default grid."""
    grid = grid or Grid()
    files = {
        "airfoil.foam": "",
        "system/controlDict": _dictionary("system", "controlDict", _CONTROL.format(end=len(angles_degrees))),
        "system/fvSchemes": _dictionary("system", "fvSchemes", _SCHEMES),
        "system/fvSolution": _dictionary("system", "fvSolution", _SOLUTION),
        "constant/transportProperties": _dictionary(
            "constant",
            "transportProperties",
            "transportModel  Newtonian;\nnu              [0 2 -1 0 0 0 0] 0;\n",
        ),
    }
    files.update(_mesh(grid))
    files.update(_initial())
    for number, angle in enumerate(angles_degrees, 1):
        files.update(_fields(grid, Flow(math.radians(angle)), str(number)))
    return {path: text.encode() for path, text in files.items()}


@cache
def default_case() -> Mapping[str, bytes]:
    """Return `case()`, made once in a process."""
    return case()


class Faces:
    """The faces of a grid, in OpenFOAM's order, as edges of the plane.

    An edge (a, b) has its owner on the left, so that the face drawn from it points out of the owner.
    """

    def __init__(self, grid: Grid) -> None:
        """Find them."""
        around, cells = grid.around, grid.around * grid.outwards
        self.edges: list[tuple[int, int]] = []
        self.owner: list[int] = []
        self.neighbour: list[int] = []
        for cell in range(cells):
            j, i = divmod(cell, around)
            inner, outer, next_outer, next_inner = grid.corners(cell)
            beside = {}
            if i + 1 < around:
                beside[cell + 1] = (next_outer, next_inner)
            if i == 0:
                beside[cell + around - 1] = (inner, outer)
            if j + 1 < grid.outwards:
                beside[cell + around] = (outer, next_outer)
            for neighbour in sorted(beside):
                self.edges.append(beside[neighbour])
                self.owner.append(cell)
                self.neighbour.append(neighbour)
        for i in range(around):  # The airfoil.
            self.edges.append((grid.point(i + 1, 0), grid.point(i, 0)))
            self.owner.append(i)
        for i in range(around):  # The far field.
            self.edges.append((grid.point(i, grid.outwards), grid.point(i + 1, grid.outwards)))
            self.owner.append(cells - around + i)


def _mesh(grid: Grid) -> dict[str, str]:
    layer, cells = len(grid.points), grid.around * grid.outwards
    faces = Faces(grid)
    # Along the edge at the back, and home along the front: such a face points to the right of the edge.
    quads = [(a, b, b + layer, a + layer) for a, b in faces.edges]
    owner = list(faces.owner)
    for front in (False, True):
        for cell in range(cells):
            corners = grid.corners(cell)
            quads.append(
                tuple(corner + layer for corner in corners) if front else corners[::-1]  # type: ignore[arg-type]
            )
            owner.append(cell)
    note = f"nPoints:{2 * layer} nCells:{cells} nFaces:{len(quads)} nInternalFaces:{len(faces.neighbour)}"
    points = [f"({z.real:.9g} {z.imag:.9g} {depth:g})" for depth in (0.0, DEPTH) for z in grid.points]
    start = len(faces.neighbour)
    patches = "3\n(\n"
    for name, kind, count in (
        ("airfoil", "wall", grid.around),
        ("farfield", "patch", grid.around),
        ("frontAndBack", "empty", 2 * cells),
    ):
        patches += f"{name} {{ type {kind}; nFaces {count}; startFace {start}; }}\n"
        start += count
    bodies = {
        "points": ("vectorField", _list(points)),
        "faces": ("faceList", _list(f"4({a} {b} {c} {d})" for a, b, c, d in quads)),
        "owner": ("labelList", _list(map(str, owner))),
        "neighbour": ("labelList", _list(map(str, faces.neighbour))),
        "boundary": ("polyBoundaryMesh", patches + ")\n"),
    }
    files = {}
    for name, (kind, body) in bodies.items():
        header = _HEADER.format(kind=kind, location="constant/polyMesh", name=name)
        if kind == "labelList":
            header = header.replace("}\n", f'    note        "{note}";\n}}\n')
        files[f"constant/polyMesh/{name}"] = header + body
    return files


def _initial() -> dict[str, str]:
    velocity = "airfoil { type slip; }\nfarfield { type freestream; freestreamValue uniform (1 0 0); }\n"
    pressure = "airfoil { type zeroGradient; }\nfarfield { type fixedValue; value uniform 0; }\n"
    return {
        "0/U": _field("volVectorField", "0", "U", "[0 1 -1 0 0 0 0]", "uniform (1 0 0)", velocity),
        "0/p": _field("volScalarField", "0", "p", "[0 2 -2 0 0 0 0]", "uniform 0", pressure),
    }


def _fields(grid: Grid, flow: Flow, time: str) -> dict[str, str]:
    def vectors(points: Iterable[complex]) -> str:
        found = (flow.velocity(zeta) for zeta in points)
        return "nonuniform List<vector>\n" + _list(f"({u.real:.9g} {u.imag:.9g} 0)" for u in found)

    def scalars(values: Iterable[float]) -> str:
        return "nonuniform List<scalar>\n" + _list(f"{value:.9g}" for value in values)

    def patch(name: str, values: str) -> str:
        return f"{name}\n{{\ntype fixedValue;\nvalue {values};\n}}\n"

    patches = {
        name: [grid.edge_middle(i, ring) for i in range(grid.around)]
        for name, ring in (("airfoil", 0), ("farfield", grid.outwards))
    }
    velocity = "".join(patch(name, vectors(points)) for name, points in patches.items())
    pressure = "".join(patch(name, scalars(map(flow.pressure, points))) for name, points in patches.items())
    psi = [flow.stream_function(zeta) for zeta in grid.circle_points]
    faces = Faces(grid)
    flux = [DEPTH * (psi[b] - psi[a]) for a, b in faces.edges]
    inner, outer = len(faces.neighbour), len(faces.neighbour) + grid.around
    flux_patches = "".join(
        f"{name}\n{{\ntype calculated;\nvalue {scalars(values)};\n}}\n"
        for name, values in (("airfoil", flux[inner:outer]), ("farfield", flux[outer:]))
    )
    return {
        f"{time}/U": _field("volVectorField", time, "U", "[0 1 -1 0 0 0 0]", vectors(grid.circle_centres), velocity),
        f"{time}/p": _field(
            "volScalarField",
            time,
            "p",
            "[0 2 -2 0 0 0 0]",
            scalars(map(flow.pressure, grid.circle_centres)),
            pressure,
        ),
        f"{time}/phi": _field(
            "surfaceScalarField", time, "phi", "[0 3 -1 0 0 0 0]", scalars(flux[:inner]), flux_patches
        ),
    }


def _field(kind: str, time: str, name: str, dimensions: str, internal: str, patches: str) -> str:
    header = _HEADER.format(kind=kind, location=time, name=name)
    return (
        f"{header}dimensions {dimensions};\n\ninternalField {internal};\n\n"
        f"boundaryField\n{{\n{patches}frontAndBack {{ type empty; }}\n}}\n"
    )


def _dictionary(location: str, name: str, body: str) -> str:
    return _HEADER.format(kind="dictionary", location=location, name=name) + body


def _list(items: Iterable[str]) -> str:
    lines = list(items)
    return "\n".join([str(len(lines)), "(", *lines, ")\n"])
