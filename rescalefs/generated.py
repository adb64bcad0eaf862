"""The texts of the files that the mount makes itself: `.rescale/run.json`, `status`, `stats` and their like.

Pure functions from values to bytes. The key, and the encryption keys of files, are in none of their inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rescalefs.catalog import RunView
from rescalefs.content.flight import OnItsWay
from rescalefs.models import Job, RemoteFile, Run, time_text
from rescalefs.plain import plain


def word(status: str) -> bytes:
    """Return a status as one word and a newline."""
    return ("-".join(status.split()) or "not-submitted").encode(errors="backslashreplace") + b"\n"


def job_json(job: Job, status: str) -> bytes:
    """Describe a job."""
    return _json(
        {
            "id": job.id,
            "name": job.name,
            "owner": job.owner,
            "dateInserted": time_text(job.created_ns),
            "status": status,
            "analysisNames": list(job.analyses),
        }
    )


def run_json(run: Run, state: str) -> bytes:
    """Describe a run in the API's own field names, and the state that this mount sees it in."""
    return _json(
        {
            "id": run.id,
            "state": state,
            "dateStarted": time_text(run.started_ns),
            "dateCompleted": time_text(run.completed_ns),
            "displayOrder": run.order,
            "outputFileCount": run.output_count,
            "outputFileSize": run.output_bytes,
            "variables": [{"name": variable.name, "value": variable.value} for variable in run.variables],
        }
    )


def files_json(view: RunView) -> bytes:
    """List the output files of a run."""
    return _json([_file(file) for file in view.files])


def _file(file: RemoteFile) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": file.id,
        "relativePath": file.path,
        "decryptedSize": file.size,
        "dateUploaded": time_text(file.uploaded_ns),
        "typeId": file.type_id,
        "isUploaded": file.is_uploaded,
    }
    if file.digest is not None:
        row[file.digest.algorithm] = file.digest.value.hex()
    return row


def transfers(on_their_way: Iterable[OnItsWay]) -> bytes:
    """Return a line for each range on its way: file id, range, bytes that have come, how urgent it is, path."""
    rows = (
        f"{each.file.id} {each.start}-{each.end} {each.position - each.start} "
        f"{'read' if each.is_urgent else 'ahead'} {each.file.path}"
        for each in on_their_way
    )
    return "".join(f"{plain(row)}\n" for row in rows).encode()


def table(values: Mapping[str, object]) -> bytes:
    """Return `name value` lines, whatever the values are: a mount point may have a newline in its name."""
    return "".join(f"{name} {plain(str(value))}\n" for name, value in values.items()).encode()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
