"""Read an OpenFOAM case with VTK's own reader and keep every number it found. A program, not a module of tests.

    python openfoam_reader.py CASE.foam OUT.npz

OUT.npz holds `times`, `patches` (what the reader offers), and for each time and each part of the mesh the arrays
`<time>/<part>/points`, `<time>/<part>/corners` (the points of the cells) and `<time>/<part>/<field>` (by cell).
The cells of a part must have one shape.
With no arguments it does nothing: it fails where VTK or NumPy cannot be imported.

It must be a process of its own: the reader holds the interpreter while it reads, so a server in the same process
could never answer it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkCompositeDataSet, vtkMultiBlockDataSet
from vtkmodules.vtkIOGeometry import vtkOpenFOAMReader


def read(path: str) -> dict[str, Any]:
    """Return the arrays of the case, all patches at all times, by the names above."""
    reader = vtkOpenFOAMReader()
    reader.SetFileName(path)
    reader.CreateCellToPointOff()  # interpolated values are the reader's, not the case's
    reader.UpdateInformation()
    reader.EnableAllPatchArrays()
    times = vtk_to_numpy(reader.GetTimeValues())
    patches = [reader.GetPatchArrayName(number) for number in range(reader.GetNumberOfPatchArrays())]
    found: dict[str, Any] = {"times": times, "patches": np.array(patches)}
    for time in times:
        reader.UpdateTimeStep(time)
        for name, part in parts(reader.GetOutput()):
            prefix = f"{time:g}/{name}"
            cells = part.GetPolys() if part.IsA("vtkPolyData") else part.GetCells()
            found[f"{prefix}/points"] = vtk_to_numpy(part.GetPoints().GetData()).copy()
            found[f"{prefix}/corners"] = vtk_to_numpy(cells.GetConnectivityArray()).reshape(part.GetNumberOfCells(), -1)
            fields = part.GetCellData()
            for number in range(fields.GetNumberOfArrays()):
                found[f"{prefix}/{fields.GetArrayName(number)}"] = vtk_to_numpy(fields.GetArray(number)).copy()
    return found


def parts(blocks: vtkMultiBlockDataSet) -> Iterator[tuple[str, Any]]:
    """Yield each part of the mesh with its name: `internalMesh`, `boundary/<patch>`."""
    for number in range(blocks.GetNumberOfBlocks()):
        name = blocks.GetMetaData(number).Get(vtkCompositeDataSet.NAME())
        block = blocks.GetBlock(number)
        if block.IsA("vtkMultiBlockDataSet"):
            for inner, part in parts(block):
                yield f"{name}/{inner}", part
        else:
            yield name, block


if __name__ == "__main__" and len(sys.argv) > 1:
    np.savez(sys.argv[2], **read(sys.argv[1]))
