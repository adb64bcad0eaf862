"""The reference model: what a mount must show, as plain dictionaries, stated apart from the program.

    model = Model()
    model.add("AbCdE", "1", id="dmpTse", path="airFoil2D/0/nut", data=b"...", uploaded=1.0)
    model.tree("AbCdE", "1")     # {"airFoil2D/0/nut": b"..."}

Everything is worked out anew from the plain facts each time, so that there is one statement of what is right.
It imports nothing of the program.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Output:
    """One row of a run's listing."""

    id: str
    path: str
    data: bytes
    uploaded: float


@dataclass
class Model:
    """Jobs, their runs and the rows of these."""

    jobs: dict[str, dict[str, list[Output]]] = field(default_factory=dict)

    def add(self, job: str, run: str, *, id: str, path: str, data: bytes = b"", uploaded: float = 0.0) -> None:
        """Add a row, and the job and the run if they are new."""
        self.jobs.setdefault(job, {}).setdefault(run, []).append(Output(id, path, data, uploaded))

    def tree(self, job: str, run: str) -> dict[str, bytes]:
        """Return the bytes of every file of a run by the path under which the mount shows it."""
        outputs = {output.id: output for output in self.jobs[job][run]}
        rows = [(output.id, output.path, output.uploaded) for output in outputs.values()]
        return {path: outputs[id].data for id, path in shown_paths(rows).items()}


def shown_paths(rows: list[tuple[str, str, float]]) -> dict[str, str]:
    """Return the shown path of each file, for rows of (file id, path, date)."""
    directories = {shown_directory(path) for _, path, _ in rows}
    above = {"/".join(d.split("/")[:depth]) for d in directories for depth in range(1, d.count("/") + 2)}
    taken = {path for path in above if path}
    shown: dict[str, str] = {}
    late: list[tuple[str, str]] = []
    for id, path, _ in sorted(rows, key=lambda row: (-row[2], row[0])):
        directory, name = shown_directory(path), cut(escaped(path.split("/")[-1]), id)
        place = f"{directory}/{name}" if directory else name
        if place in taken or place == ".rescale":
            late.append((id, place))
        else:
            shown[id] = place
            taken.add(place)
    for id, place in late:
        directory, _, name = place.rpartition("/")
        while place in taken or place == ".rescale":
            name = marked(name, id)
            place = f"{directory}/{name}" if directory else name
        shown[id] = place
        taken.add(place)
    return shown


def shown_directory(path: str) -> str:
    """Return the directory of a file as it is shown; long names are not expected here."""
    names = [escaped(part) for part in path.split("/")[:-1]]
    if names and names[0] == ".rescale":
        names[0] = "%2Erescale"
    return "/".join(names)


def escaped(segment: str) -> str:
    """Return one segment as the table in the documentation has it."""
    if segment in ("", ".", ".."):
        return {"": "%2F", ".": "%2E", "..": "%2E%2E"}[segment]
    hexadecimal = "0123456789abcdefABCDEF"
    looks = any(
        segment[i] == "%" and len(segment) > i + 2 and segment[i + 1] in hexadecimal and segment[i + 2] in hexadecimal
        for i in range(len(segment))
    )
    cannot = [c for c in segment if c == "\0" or "\ud800" <= c <= "\udfff"]
    if not looks and not cannot:
        return segment
    shown = ""
    for c in segment:
        if c == "%" or c in cannot:
            shown += "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        else:
            shown += c
    return shown


def cut(name: str, id: str) -> str:
    """Return a name that fits into 255 bytes."""
    return marked(name, id) if len(name.encode()) > 255 else name


def marked(name: str, id: str) -> str:
    """Return `name~id`, as much of the name as fits."""
    while len(f"{name}~{id}".encode()) > 255:
        name = name[:-1]
    return f"{name}~{id}"
