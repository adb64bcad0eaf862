"""The JSON of the API, written by hand from its documentation.

Every function takes the world's objects as they are now and returns what a body has of them.
File rows are kept as bytes, so that a run of 100,000 files lists at speed.
Fields: Rescale API documentation (2016, 2023); `fileChecksums` and what follows it: Rescale's own clients.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from rescalefs.emulator.clock import iso
from rescalefs.emulator.files import File, LiveFile
from rescalefs.emulator.jobs import Job, Run, Snapshot, Status

# As much of a file as file(1) looks at, by its default since 5.41.
FILE_TYPE_BYTES = 1024 * 1024
# What a storage key has in place of the user's id.
USER_ID = "OvdRk"
# One for all rows: making an encoder takes as long as writing a short row.
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def dump(value: object) -> bytes:
    """Return *value* as the bytes of a body."""
    return _ENCODER.encode(value).encode()


def page(count: int, next_url: str | None, previous_url: str | None, rows: Iterable[bytes]) -> bytes:
    """Return one page of a listing, its rows already written."""
    head = f'{{"count":{count},"next":{json.dumps(next_url)},"previous":{json.dumps(previous_url)},"results":['
    return head.encode() + b",".join(rows) + b"]}"


def user(email: str) -> dict[str, Any]:
    """Return the owner of the key."""
    return {
        "email": email,
        "fullName": "Demo User",
        "company": {"code": "demo", "name": "Demo Company"},
        "workspace": {"id": "WrkSpc", "name": "Demo Workspace"},
    }


def job_row(job: Job, *, with_reason: bool) -> dict[str, Any]:
    """Return a job as the list of jobs has it; v3 adds the reason of its status."""
    history, cluster = job.history(), job.cluster_history()
    status = history[-1] if history else Status(0.0, "")
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "dateInserted": iso(job.created),
        "analysisNames": [job.analysis],
        "jobStatus": _label(status.status) | ({"statusReason": status.reason} if with_reason else {}),
        "clusterStatusDisplay": _label(cluster[-1].status) if cluster else None,
        "sharedWith": [] if job.owner == job.world.user else [job.world.user],
        "isVisible": True,
        "storage": sum(run.output_bytes() for run in job.visible_runs()),
    }


def job_detail(job: Job) -> dict[str, Any]:
    """Return a job's definition; it tells no status."""
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "dateInserted": iso(job.created),
        "expectedRuns": job.expected_runs,
        "isLowPriority": False,
        "jobanalyses": [{"analysis": {"code": job.analysis.lower(), "name": job.analysis}, "command": "./Allrun"}],
        "paramFile": None,
        "caseFile": None,
        "resourceFilters": [],
        "archiveFilters": [],
        "sharedWith": [] if job.owner == job.world.user else [job.world.user],
    }


def status_row(status: Status, zone: str) -> dict[str, Any]:
    """Return one line of a history; job statuses are dated with `+00:00`, cluster statuses with `Z`."""
    return {"status": status.status, "statusDate": iso(status.date, zone), "statusReason": status.reason}


def run_row(run: Run) -> dict[str, Any]:
    """Return a run; while it computes it has neither an end, nor files, nor a size."""
    live = run.is_live()
    count = run.output_count() if run.output_file_count is None else run.output_file_count
    zone = run.job.zone
    return {
        "id": run.id,
        "dateStarted": iso(run.started, zone),
        "dateCompleted": None if live or run.completed is None else iso(run.completed, zone),
        "displayOrder": run.display_order,
        "type": run.type,
        "parent": run.parent,
        "isOptimal": run.is_optimal,
        "outputFileCount": 0 if live else count,
        "outputFileSize": None if live else run.output_bytes(),
        "variables": run.variables,
    }


def file_row(run: Run, file: File, api: str, now: float) -> bytes:
    """Return an output file; *api* is the address it was asked at, up to `/api/v2`.

    The first time, this reads the whole content for its checksums.
    """
    uploaded = file.uploaded(now)
    key = (
        api,
        uploaded,
        file.name,
        file.relative_path,
        file.date_uploaded,
        file.type_id,
        file.is_deleted,
        file.checksum,
        file.declared_size,
    )
    if file.row is None or file.row[0] != key:
        file.row = key, dump(_file_row(run, file, api, uploaded))
    return file.row[1]


def live_row(run: Run, live: LiveFile, prefix: str) -> dict[str, Any]:
    """Return a file of a working directory; *prefix* is the version asked, such as `/api/v2`."""
    resource = f"{prefix}/jobs/{run.job.id}/runs/{run.id}/tail/{quote(live.path, errors='surrogatepass')}"
    return {"path": live.path, "resource": resource}


def tail_lines(run: Run, path: str, data: bytes, lines: int) -> dict[str, Any]:
    """Return the last *lines* lines, newlines stripped, with what file(1) says on the cluster."""
    body = data.removesuffix(b"\n")
    parts = body.rsplit(b"\n", lines)
    last = parts[1:] if len(parts) > lines else parts
    return {
        "fileType": f"/home/job_{run.job.id}/work/{path}: {_file_type(data)}",
        "lines": [line.decode(errors="replace") for line in last] if data and lines else [],
    }


def snapshot(answer: Snapshot) -> dict[str, Any]:
    """Return the answer to a request for a snapshot."""
    return {
        "data": "" if answer.exitcode == 0 else "tar: write error",
        "exitcode": answer.exitcode,
        "lastSnapshotID": answer.last_id,
        "reason": answer.reason,
    }


def _label(content: str) -> dict[str, Any]:
    return {"content": content, "labelClass": "", "useLabel": False}


def _file_row(run: Run, file: File, api: str, uploaded: bool) -> dict[str, Any]:
    job = run.job
    path = f"user/user_{USER_ID}/output/job_{job.id}/run{run.id}/{file.relative_path or file.name}"
    key = hashlib.sha256(file.id.encode()).digest()  # As long as the secret that the API shows here.
    # A row whose upload is still to come is dated with its appearance: nothing is dated in the future.
    date = file.date_uploaded if uploaded or not file.listed_from else file.listed_from
    row: dict[str, Any] = {
        "id": file.id,
        "name": file.name,
        "relativePath": file.relative_path,
        "typeId": file.type_id,
        "decryptedSize": file.content.size if file.declared_size is None else file.declared_size,
        "dateUploaded": iso(date, job.zone),
        "isUploaded": uploaded,
        "isDeleted": file.is_deleted,
        "viewInBrowser": True,
        "path": path,
        "owner": job.owner,
        "sharedWith": [],
        "encodedEncryptionKey": base64.b64encode(key).decode(),
        "downloadUrl": f"{api}/files/{file.id}/contents/",
        "pathParts": {"container": "bucket", "path": path},
        "storage": {
            "id": "s1",
            "storageType": "S3Storage",
            "encryptionType": "default",
            "connectionSettings": {"region": "us-east-1", "container": "bucket"},
        },
    }
    if "md5" in file.checksums():
        row["md5"] = file.content.digest("md5")
    if "sha512" in file.checksums():
        row["fileChecksums"] = [{"hashFunction": "sha512", "fileHash": file.content.digest("sha512")}]
    return row


def _file_type(data: bytes) -> str:
    """Return what file(1) says of *data*, in the words of its versions since 2020, but for what a text is about."""
    data = data[:FILE_TYPE_BYTES]
    if not data:
        return "empty"
    if b"\0" in data:
        return "data"
    try:
        # Its end may be inside of a character.
        codecs.getincrementaldecoder("utf-8")().decode(data)
        kind = "ASCII text" if data.isascii() else "Unicode text, UTF-8 text"
    except UnicodeDecodeError:
        kind = "ISO-8859 text"
    pairs = data.count(b"\r\n")
    ends = {"CRLF": pairs, "CR": data.count(b"\r") - pairs, "LF": data.count(b"\n") - pairs}
    found = [name for name, count in ends.items() if count]
    if found == ["LF"]:
        return kind
    return f"{kind}, with {', '.join(found) or 'no'} line terminators"
