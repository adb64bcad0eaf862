"""Potential flow around a Joukowski airfoil, exact everywhere, and an O-grid that follows it.

The map z = zeta + c^2/zeta takes the circle of radius R about `mu` that passes through zeta = c to an airfoil
with a cusp at z = 2c. In the circle's plane the flow of speed 1 at the angle alpha is

    w(zeta) = e^(-i alpha) (zeta - mu) + R^2 e^(i alpha) / (zeta - mu) + i Gamma/(2 pi) log((zeta - mu)/R)

where the Kutta condition (no velocity around the cusp) fixes Gamma = 4 pi R sin(alpha + beta) with
sin beta = Im mu / R.
The velocity is u - iv = (dw/dzeta) / (dz/dzeta), the pressure p = (1 - |u|^2)/2 (kinematic: over the density,
zero far away), the lift coefficient Cl = 2 Gamma / chord (Kutta-Joukowski).
The chord is 1, and so is the speed far away.
See for example L. M. Milne-Thomson, Theoretical Hydrodynamics, chapter 7.

Angles are radians here, and points of the plane complex numbers.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

# The circle before it is scaled to a chord of 1: its centre for c = 1.
# To the left gives thickness (about 12 % of the chord), upwards gives camber.
CENTRE = complex(-0.1, 0.08)
# Points of the circle that are looked at for the leading edge; the chord is then right to nine digits.
_CHORD_POINTS = 20_000
# Radius of the outer edge of the grid in radii of the circle: 6 chords, where the flow is nearly undisturbed.
FAR_RADII = 24.0


@dataclass(frozen=True)
class Flow:
    """The flow at one angle of attack."""

    alpha: float

    @property
    def circulation(self) -> float:
        """Return Gamma, positive where it lifts (clockwise)."""
        return 4 * math.pi * RADIUS * math.sin(self.alpha + _BETA)

    @property
    def lift_coefficient(self) -> float:
        """Return Cl for the chord of 1."""
        return 2 * self.circulation

    def velocity(self, zeta: complex) -> complex:
        """Return u + iv at the point that *zeta* is mapped to; it must not be the cusp."""
        offset = zeta - MU
        dw = (
            cmath.exp(-1j * self.alpha)
            - RADIUS**2 * cmath.exp(1j * self.alpha) / offset**2
            + 1j * self.circulation / (2 * math.pi) / offset
        )
        return (dw / (1 - (C / zeta) ** 2)).conjugate()

    def stream_function(self, zeta: complex) -> float:
        """Return psi, zero on the airfoil; its difference between two points is the flux between them."""
        offset = zeta - MU
        turned = cmath.exp(-1j * self.alpha) * offset + RADIUS**2 * cmath.exp(1j * self.alpha) / offset
        return turned.imag + self.circulation / (2 * math.pi) * math.log(abs(offset) / RADIUS)

    def pressure(self, zeta: complex) -> float:
        """Return the kinematic pressure at the point that *zeta* is mapped to."""
        return (1 - abs(self.velocity(zeta)) ** 2) / 2


def to_plane(zeta: complex) -> complex:
    """Return the point of the flow for a point of the circle's plane."""
    return zeta + C * C / zeta


def to_circle(z: complex) -> complex:
    """Return the point of the circle's plane, outside the circle, for a point of the flow."""
    root = cmath.sqrt(z * z - 4 * C * C)
    candidates = (z + root) / 2, (z - root) / 2
    return max(candidates, key=lambda zeta: abs(zeta - MU))


def _scale() -> float:
    """Return c for a chord of 1, from the airfoil of c = 1."""
    radius = abs(1 - CENTRE)
    circle = (CENTRE + radius * cmath.exp(2j * math.pi * k / _CHORD_POINTS) for k in range(_CHORD_POINTS))
    return 1 / (2 - min((zeta + 1 / zeta).real for zeta in circle))


C = _scale()
MU = CENTRE * C
RADIUS = abs(C - MU)
_BETA = math.asin(MU.imag / RADIUS)


@dataclass(frozen=True)
class Grid:
    """An O-grid: *around* cells by *outwards* cells, the first ring of points on the airfoil.

    Point (i, j) is the i-th from the trailing edge, counter-clockwise (over the upper side first), on ring j.
    """

    around: int = 120
    outwards: int = 40

    @cached_property
    def circle_points(self) -> list[complex]:
        """Return the points in the circle's plane, ring by ring; the rings' radii grow geometrically."""
        growth = FAR_RADII ** (1 / self.outwards)
        return [
            MU + RADIUS * growth**j * cmath.exp(1j * (2 * math.pi * i / self.around - _BETA))
            for j in range(self.outwards + 1)
            for i in range(self.around)
        ]

    @cached_property
    def points(self) -> list[complex]:
        """Return the points of the flow, ring by ring."""
        return [to_plane(zeta) for zeta in self.circle_points]

    def point(self, i: int, j: int) -> int:
        """Return the index of point (i, j); i goes round."""
        return j * self.around + i % self.around

    def corners(self, cell: int) -> tuple[int, int, int, int]:
        """Return the points of a cell, counter-clockwise from its inner first; cells count ring by ring."""
        j, i = divmod(cell, self.around)
        return self.point(i, j), self.point(i, j + 1), self.point(i + 1, j + 1), self.point(i + 1, j)

    @cached_property
    def centres(self) -> list[complex]:
        """Return the centroids of the cells."""
        cells = range(self.around * self.outwards)
        return [centroid([self.points[corner] for corner in self.corners(cell)]) for cell in cells]

    @cached_property
    def circle_centres(self) -> list[complex]:
        """Return the centroids of the cells in the circle's plane."""
        return [to_circle(z) for z in self.centres]

    def edge_middle(self, i: int, j: int) -> complex:
        """Return, in the circle's plane, the middle of the arc from point (i, j) to (i + 1, j)."""
        first = self.circle_points[self.point(i, j)] - MU
        return MU + first * cmath.exp(1j * math.pi / self.around)


def centroid(polygon: Sequence[complex]) -> complex:
    """Return the centre of area of a polygon."""
    twice_area, moment = 0.0, 0j
    origin = polygon[0]  # Nearby, so that small cells far from zero keep their digits.
    for a, b in pairwise(polygon[1:]):
        cross = ((a - origin).conjugate() * (b - origin)).imag
        twice_area += cross
        moment += cross * (a + b - 2 * origin) / 3
    return origin + moment / twice_area


def surface_pressure(alpha_degrees: float, around: int = 120) -> list[tuple[complex, float]]:
    """Return, for each face of the grid's airfoil, centre and exact pressure of the arc it stands for.

    The order is that of the patch `airfoil` in the OpenFOAM case: from the trailing edge over the upper side.
    """
    flow, grid = Flow(math.radians(alpha_degrees)), Grid(around, 1)
    return [
        ((grid.points[i] + grid.points[grid.point(i + 1, 0)]) / 2, flow.pressure(grid.edge_middle(i, 0)))
        for i in range(around)
    ]


def lift_coefficient(alpha_degrees: float) -> float:
    """Return the exact Cl at an angle of attack in degrees."""
    return Flow(math.radians(alpha_degrees)).lift_coefficient
