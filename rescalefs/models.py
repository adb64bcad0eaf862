"""Jobs, runs and files as the API describes them, made from its JSON.

The only module that knows the API's field names.
Times are nanoseconds since the epoch (`_ns`), sizes are bytes.
A field of the wrong type is a `Corrupt` answer, never a crash; a field that the API may leave out has a default.
Field names and their oddities: Rescale API documentation (2016, 2023), see docs/architecture.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from rescalefs.errors import Corrupt

# Python 3.10's fromisoformat knows neither "Z" nor fractions of other than 3 or 6 digits.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)?")

_MAX_DIGITS = 19  # of the largest size that a file can have; int() itself refuses text of thousands

# Statuses after which a job does nothing more (Rescale Interlink `models/job.go`; "Cancelled" from other clients).
TERMINAL_STATUSES = frozenset(
    {"Completed", "Failed", "Stopped", "Force Stopped", "Force Stop", "Terminated", "Cancelled"}
)


def parse_time_ns(text: object) -> int | None:
    """Return an ISO 8601 time as nanoseconds since the epoch, None for an absent one.

    Raises:
        Corrupt: the text is not a time.
    """
    if text is None or text == "":
        return None
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Corrupt(f"the API sent {_shown(text)} where a time belongs")
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z") else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    try:
        seconds = _seconds(f"{day}T{clock}{zone}")
    except (ValueError, OverflowError) as error:
        raise Corrupt(f"the API sent {_shown(text)} where a time belongs") from error
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))


@lru_cache(maxsize=1024)  # the files of a run are uploaded within minutes: many rows share a second
def _seconds(iso: str) -> int:
    delta = datetime.fromisoformat(iso) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    seconds = delta.days * 86_400 + delta.seconds
    datetime.fromtimestamp(seconds, timezone.utc)  # a zone may lead out of the first and the last year that there is
    return seconds


def time_text(time_ns: int | None) -> str | None:
    """Return an ISO 8601 time with the precision that was given, None where there is no time."""
    if time_ns is None:
        return None
    seconds, fraction = divmod(time_ns, 10**9)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def _shown(value: object) -> str:
    """Return a value as a message can show it: whatever it is, and however long or deep, a few words."""
    if isinstance(value, str):
        return repr(value[:60])
    return f"{value!r:.60}" if isinstance(value, int | float) else type(value).__name__


def _text(item: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = item.get(key, default)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise Corrupt(f"the API sent {_shown(value)} as {key}, text was expected")
    return value


def _count(item: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number that may be absent, or come as text (folder listings send sizes so)."""
    value = item.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise Corrupt(f"the API sent {_shown(value)} as {key}, a whole number was expected")
    return value


def _list(item: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list that may be absent."""
    value = item.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Corrupt(f"the API sent {type(value).__name__} as {key}, a list was expected")
    return value


def _value(item: Mapping[str, Any]) -> str:
    """Return the value of a variable, a number or a text or absent, as text."""
    value = item.get("value")
    if value is not None and not isinstance(value, str | int | float):
        raise Corrupt(f"the API sent {_shown(value)} as the value of a variable")
    return "" if value is None else str(value)


def _mapping(item: object) -> Mapping[str, Any]:
    if not isinstance(item, dict):  # what JSON's objects become; a check for any mapping takes as long as the rest
        raise Corrupt(f"the API sent {type(item).__name__} where an object belongs")
    return item


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `status` is the API's word, "" for a job that was never submitted, None where it was not told."""

    id: str
    name: str
    owner: str
    created_ns: int
    status: str | None
    analyses: tuple[str, ...] = ()

    @classmethod
    def from_api(cls, item: object, *, id: str | None = None) -> Job:
        """Make a job from a list item, or from a detail answer (which may lack the id and has no status)."""
        row = _mapping(item)
        status_field = row.get("jobStatus")
        status = _text(_mapping(status_field), "content", "") if status_field is not None else None
        return cls(
            id=_text(row, "id", id),
            name=_text(row, "name", ""),
            owner=_text(row, "owner", ""),
            created_ns=parse_time_ns(row.get("dateInserted")) or 0,
            status=status,
            analyses=tuple(name for name in _list(row, "analysisNames") if isinstance(name, str)),
        )

    @property
    def is_over(self) -> bool:
        """True once the job will never run again."""
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True)
class Status:
    """One line of a job's history."""

    text: str
    date_ns: int
    reason: str = ""

    @classmethod
    def from_api(cls, item: object) -> Status:
        """Make a status from a row of the history."""
        row = _mapping(item)
        date_ns = parse_time_ns(row.get("statusDate")) or 0
        return cls(_text(row, "status", ""), date_ns, _text(row, "statusReason", ""))


@dataclass(frozen=True, slots=True)
class Variable:
    """One design variable of a run."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Run:
    """One execution. `started_ns` is None before it began, `completed_ns` is None until it ended."""

    id: str
    started_ns: int | None
    completed_ns: int | None
    order: int
    output_count: int | None
    output_bytes: int | None
    variables: tuple[Variable, ...] = ()

    @classmethod
    def from_api(cls, item: object) -> Run:
        """Make a run from a list item or a detail answer.

        `dateInserted` stands for `dateStarted` in parts of the documentation, so either is taken.
        """
        row = _mapping(item)
        id = row.get("id")
        started = row["dateStarted"] if "dateStarted" in row else row.get("dateInserted")
        variables = [_mapping(variable) for variable in _list(row, "variables")]
        return cls(
            id=str(id) if isinstance(id, int) and not isinstance(id, bool) else _text(row, "id"),
            started_ns=parse_time_ns(started),
            completed_ns=parse_time_ns(row.get("dateCompleted")),
            order=_count(row, "displayOrder") or 0,
            output_count=_count(row, "outputFileCount"),
            output_bytes=_count(row, "outputFileSize"),
            variables=tuple(Variable(_text(each, "name"), _value(each)) for each in variables),
        )


# The API's type of a snapshot archive among the output files (Rescale's user API notebook, 2023).
_SNAPSHOT_TYPE = 12


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One output file as a listing row describes it. `digest` is the strongest whole-file checksum known.

    `encodedEncryptionKey` of the row is a secret and is dropped here.
    """

    id: str
    path: str
    size: int
    uploaded_ns: int
    type_id: int
    is_uploaded: bool
    is_deleted: bool
    digest: Digest | None
    run_id: str | None = None

    @property
    def is_snapshot(self) -> bool:
        """True for the archive of a snapshot."""
        return self.type_id == _SNAPSHOT_TYPE

    @classmethod
    def from_api(cls, item: object) -> RemoteFile:
        """Make a file from a listing row."""
        row = _mapping(item)
        name = _text(row, "name", "")
        return cls(
            id=_text(row, "id"),
            path=_text(row, "relativePath", name) or name,
            size=_count(row, "decryptedSize") or 0,
            uploaded_ns=parse_time_ns(row.get("dateUploaded")) or 0,
            type_id=_count(row, "typeId") or 0,
            is_uploaded=row.get("isUploaded", True) is True,
            is_deleted=row.get("isDeleted", False) is True,
            digest=_digest(row),
            run_id=_run_of(_text(row, "path", "")),
        )


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum of a whole file's plaintext. `algorithm` is a name that `hashlib.new` takes."""

    algorithm: str
    value: bytes

    def sums(self) -> hashlib._Hash:
        """Begin to compute one of the same kind; by no means for security, for which some systems forbid MD5."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def matches(self, data: bytes | memoryview) -> bool:
        """Tell whether it is the checksum of *data*."""
        sums = self.sums()
        sums.update(data)
        return sums.digest() == self.value


@dataclass(frozen=True, slots=True)
class LastLines:
    """The last lines of a live file as text, without their newlines, and what file(1) says of it, after its path."""

    file_type: str
    lines: tuple[str, ...]

    @classmethod
    def from_api(cls, item: object) -> LastLines:
        """Make them from an answer of `tail` with `lines`."""
        fields = _mapping(item)
        lines = fields.get("lines")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise Corrupt("the API sent no lines where the last lines of a file belong")
        return cls(_text(fields, "fileType"), tuple(lines))


_HEX = re.compile("[0-9a-fA-F]*")


def _digest(row: Mapping[str, Any]) -> Digest | None:
    """Return the strongest checksum of a row; an unknown or malformed one counts as absent."""
    found: dict[str, str] = {}
    entries = row.get("fileChecksums")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            found[str(entry.get("hashFunction", "")).lower().replace("-", "")] = str(entry.get("fileHash", ""))
    if isinstance(row.get("md5"), str):
        found.setdefault("md5", row["md5"])
    for algorithm, length_bytes in (("sha512", 64), ("sha256", 32), ("sha1", 20), ("md5", 16)):
        text = found.get(algorithm, "")
        if len(text) == 2 * length_bytes and _HEX.fullmatch(text):
            return Digest(algorithm, bytes.fromhex(text))
    return None


_STORAGE_KEY = re.compile(r"user/[^/]+/output/job_[^/]+/run([^/]+)/")


def _run_of(storage_key: str) -> str | None:
    """Return the run id that a file's storage key names (`user/…/output/job_…/run3/…`), if it names one."""
    match = _STORAGE_KEY.match(storage_key)
    return match.group(1) if match else None
