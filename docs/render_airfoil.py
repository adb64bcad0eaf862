"""Draw the flow around the demo's airfoil: how the picture `airfoil.png` beside this file was made.

    mkdir ~/rescale && rescalefs demo ~/rescale                                      # in one terminal
    python render_airfoil.py ~/rescale/jobs/kWdRa/runs/1/airfoil.foam airfoil.png    # in another

Needs VTK 9.4 or later (pip install vtk); the case is read by the same code as in ParaView.
No screen is needed: without one, VTK draws with EGL or OSMesa, on Debian and Ubuntu the packages libegl1 or libosmesa6
(`apt install libegl1`); its warning about the X server that is not there means nothing.
It must not run in the process that serves the mount: VTK's reader holds the interpreter while it reads.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import vtkmodules.vtkInteractionStyle
import vtkmodules.vtkRenderingFreeType
import vtkmodules.vtkRenderingOpenGL2  # noqa: F401  (as the two above: drawing happens through them)
from vtkmodules.vtkCommonCore import vtkLookupTable
from vtkmodules.vtkCommonDataModel import vtkMultiBlockDataSet, vtkPlane
from vtkmodules.vtkCommonTransforms import vtkTransform
from vtkmodules.vtkFiltersCore import vtkArrayCalculator, vtkCutter, vtkStripper, vtkTubeFilter
from vtkmodules.vtkFiltersFlowPaths import vtkStreamTracer
from vtkmodules.vtkFiltersGeneral import vtkContourTriangulator, vtkTransformFilter
from vtkmodules.vtkFiltersModeling import vtkBandedPolyDataContourFilter
from vtkmodules.vtkFiltersSources import vtkLineSource
from vtkmodules.vtkImagingCore import vtkImageShrink3D
from vtkmodules.vtkIOGeometry import vtkOpenFOAMReader
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingAnnotation import vtkScalarBarActor
from vtkmodules.vtkRenderingCore import (
    vtkActor,
    vtkColorTransferFunction,
    vtkPolyDataMapper,
    vtkRenderer,
    vtkRenderWindow,
    vtkTextActor,
    vtkWindowToImageFilter,
)

WIDTH, HEIGHT = 1000, 600  # pixels
FINER = 3  # drawn so many times larger, then averaged: smooth edges
STRIP, HEADER = 0.1, 0.08  # parts of the width and the height that belong to the colour bar and the title
# What is shown, in chords: the airfoil reaches from -0.5 to 0.5 and the far field to six chords.
CENTRE, HALF_HEIGHT = (0.02, 0.05), 0.43
# Bands of the pressure coefficient: a diverging map, pale where the pressure is that of the free stream.
LOWEST, HIGHEST, STEP = -2.5, 1.0, 0.125
COLOURS = [
    (-2.5, 0x08306B),
    (-1.8, 0x1F5FA8),
    (-1.1, 0x4F9BCB),
    (-0.5, 0xA6CFE3),
    (0.0, 0xF5F3EE),
    (0.3, 0xF9C9A8),
    (0.65, 0xE4774F),
    (1.0, 0xA31621),
]
TITLE = "Joukowski airfoil, angle of attack {alpha:.0f}°: pressure coefficient and streamlines"
INK = (0.13, 0.15, 0.19)
STREAMLINES = 45


def read(path: str, time: float) -> tuple[Any, Any, float]:
    """Return the mesh and the airfoil's surface at *time*, and the angle of attack there in degrees."""
    reader = vtkOpenFOAMReader()
    reader.SetFileName(path)
    reader.UpdateInformation()
    reader.EnableAllPatchArrays()
    reader.UpdateTimeStep(time)
    blocks = reader.GetOutput()
    patches = part(blocks, "boundary")
    far = part(patches, "farfield").GetCellData().GetArray("U")
    # The mean over the far field is the undisturbed stream.
    u, v = (sum(far.GetComponent(face, axis) for face in range(far.GetNumberOfTuples())) for axis in (0, 1))
    return part(blocks, "internalMesh"), part(patches, "airfoil"), math.degrees(math.atan2(v, u))


def part(blocks: vtkMultiBlockDataSet, name: str) -> Any:
    """Return the block of that name."""
    for number in range(blocks.GetNumberOfBlocks()):
        if blocks.GetMetaData(number).Get(blocks.NAME()) == name:
            return blocks.GetBlock(number)
    raise SystemExit(f"the case has no part called {name}: is it the demo's airfoil?")


def middle(data: Any) -> vtkTransformFilter:
    """Return the cut through the middle of the mesh, which is one cell thick, laid into the plane z = 0."""
    bounds = data.GetBounds()
    depth = (bounds[4] + bounds[5]) / 2
    plane = vtkPlane()
    plane.SetOrigin(0, 0, depth)
    plane.SetNormal(0, 0, 1)
    cutter = vtkCutter()
    cutter.SetInputData(data)
    cutter.SetCutFunction(plane)
    move = vtkTransform()
    move.Translate(0, 0, -depth)
    flat = vtkTransformFilter()
    flat.SetTransform(move)
    flat.SetInputConnection(cutter.GetOutputPort())
    return flat


def actor_of(source: Any, colour: tuple[float, float, float] = INK, height: float = 0.0) -> vtkActor:
    """Return what draws a filter's output, unlit, *height* above the plane."""
    mapper = vtkPolyDataMapper()
    mapper.SetInputConnection(source.GetOutputPort())
    mapper.ScalarVisibilityOff()
    actor = vtkActor()
    actor.SetMapper(mapper)
    actor.SetPosition(0, 0, height)
    actor.GetProperty().LightingOff()
    actor.GetProperty().SetColor(colour)
    return actor


def colour_table() -> vtkLookupTable:
    """Return one colour for each band."""
    ramp = vtkColorTransferFunction()
    ramp.SetColorSpaceToLab()
    for value, colour in COLOURS:
        ramp.AddRGBPoint(value, *((colour >> shift & 255) / 255 for shift in (16, 8, 0)))
    bands = round((HIGHEST - LOWEST) / STEP)
    table = vtkLookupTable()
    table.SetNumberOfTableValues(bands)
    table.SetTableRange(LOWEST, HIGHEST)
    for band in range(bands):
        table.SetTableValue(band, *ramp.GetColor(LOWEST + (band + 0.5) * STEP))
    return table


def pressure(flow: Any, table: vtkLookupTable) -> vtkActor:
    """Return the bands of the pressure coefficient: twice the kinematic pressure, for a stream of speed 1."""
    coefficient = vtkArrayCalculator()
    coefficient.SetInputConnection(flow.GetOutputPort())
    coefficient.AddScalarArrayName("p")
    coefficient.SetFunction("2*p")
    coefficient.SetResultArrayName("Cp")
    bands = vtkBandedPolyDataContourFilter()
    bands.SetInputConnection(coefficient.GetOutputPort())
    bands.GenerateValues(table.GetNumberOfTableValues() + 1, LOWEST, HIGHEST)
    bands.SetScalarModeToValue()
    bands.ClippingOff()
    actor = actor_of(bands)
    mapper = actor.GetMapper()
    mapper.ScalarVisibilityOn()
    mapper.SetScalarModeToUseCellData()
    mapper.SetLookupTable(table)
    mapper.UseLookupTableScalarRangeOn()
    return actor


def streamlines(flow: Any, alpha_degrees: float) -> vtkActor:
    """Return streamlines that are evenly spaced upstream, across the stream."""
    alpha = math.radians(alpha_degrees)
    along, across = (math.cos(alpha), math.sin(alpha)), (-math.sin(alpha), math.cos(alpha))
    back, reach = 2.5, 1.1
    start = (-back * along[0], -back * along[1])
    seeds = vtkLineSource()
    seeds.SetPoint1(start[0] - reach * across[0], start[1] - reach * across[1], 0)
    seeds.SetPoint2(start[0] + reach * across[0], start[1] + reach * across[1], 0)
    seeds.SetResolution(STREAMLINES - 1)
    tracer = vtkStreamTracer()
    tracer.SetInputConnection(flow.GetOutputPort())
    tracer.SetSourceConnection(seeds.GetOutputPort())
    tracer.SetInputArrayToProcess(0, 0, 0, 0, "U")
    tracer.SetIntegratorTypeToRungeKutta45()
    tracer.SetIntegrationDirectionToForward()
    tracer.SetMaximumPropagation(6)
    tubes = vtkTubeFilter()
    tubes.SetInputConnection(tracer.GetOutputPort())
    tubes.SetRadius(0.001)
    tubes.SetNumberOfSides(6)
    actor = actor_of(tubes, INK, 0.01)
    actor.GetProperty().SetOpacity(0.6)
    return actor


def profile(surface: Any) -> vtkActor:
    """Return the airfoil's section, filled."""
    section = middle(surface)
    outline = vtkStripper()
    outline.SetInputConnection(section.GetOutputPort())
    outline.JoinContiguousSegmentsOn()
    filled = vtkContourTriangulator()
    filled.SetInputConnection(outline.GetOutputPort())
    return actor_of(filled, INK, 0.02)


def text(words: str, size: int, x: float, y: float) -> vtkTextActor:
    """Return a line of text whose left end is at (x, y), parts of the viewport."""
    actor = vtkTextActor()
    actor.SetInput(words)
    actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    actor.SetPosition(x, y)
    style = actor.GetTextProperty()
    style.SetFontFamilyToArial()
    style.SetFontSize(size * FINER)
    style.SetColor(INK)
    return actor


def colour_bar(table: vtkLookupTable) -> vtkScalarBarActor:
    """Return the colour bar, which fills its viewport."""
    bar = vtkScalarBarActor()
    bar.SetLookupTable(table)
    bar.SetNumberOfLabels(8)
    bar.SetLabelFormat("%.1f")
    bar.SetPosition(0.16, 0.04)
    bar.SetWidth(0.8)
    bar.SetHeight(0.92)
    bar.SetBarRatio(0.28)
    bar.SetTextPad(5 * FINER)
    bar.UnconstrainedFontSizeOn()
    style = bar.GetLabelTextProperty()
    style.SetFontFamilyToArial()
    style.SetFontSize(14 * FINER)
    style.SetColor(INK)
    style.ItalicOff()
    style.BoldOff()
    style.ShadowOff()
    return bar


def draw(path: str, time: float, out: str) -> None:
    """Draw the case at *time* into the PNG file *out*."""
    mesh, surface, alpha = read(path, time)
    flow, table = middle(mesh), colour_table()
    window = vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(WIDTH * FINER, HEIGHT * FINER)

    scene = vtkRenderer()
    scene.SetViewport(0, 0, 1 - STRIP, 1 - HEADER)
    for actor in (pressure(flow, table), streamlines(flow, alpha), profile(surface)):
        scene.AddActor(actor)
    camera = scene.GetActiveCamera()
    camera.ParallelProjectionOn()
    camera.SetFocalPoint(*CENTRE, 0)
    camera.SetPosition(*CENTRE, 10)
    camera.SetParallelScale(HALF_HEIGHT)

    strip = vtkRenderer()
    strip.SetViewport(1 - STRIP, 0, 1, 1 - HEADER)
    strip.AddViewProp(colour_bar(table))

    header = vtkRenderer()
    header.SetViewport(0, 1 - HEADER, 1, 1)
    header.AddViewProp(text(TITLE.format(alpha=alpha), 18, 0.012, 0.32))
    header.AddViewProp(text("Cp", 18, 1 - STRIP + 0.016, 0.32))

    for renderer in (scene, strip, header):
        renderer.SetBackground(1, 1, 1)
        window.AddRenderer(renderer)
    window.Render()
    image = vtkWindowToImageFilter()
    image.SetInput(window)
    image.ReadFrontBufferOff()
    smaller = vtkImageShrink3D()
    smaller.SetInputConnection(image.GetOutputPort())
    smaller.SetShrinkFactors(FINER, FINER, 1)
    smaller.AveragingOn()
    writer = vtkPNGWriter()
    writer.SetInputConnection(smaller.GetOutputPort())
    writer.SetCompressionLevel(9)
    writer.SetFileName(out)
    writer.Write()


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description="Draw the flow around the demo's airfoil.")
    parser.add_argument("case", help="the case's airfoil.foam, in a mount or anywhere")
    parser.add_argument("picture", help="the PNG file to write")
    parser.add_argument("--time", type=float, default=4, help="which time, 1 to 6 (default 4: six degrees)")
    arguments = parser.parse_args()
    draw(arguments.case, arguments.time, arguments.picture)


if __name__ == "__main__":
    main()
