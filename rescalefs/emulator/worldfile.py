"""Worlds from a JSON file.

    {"user": "me@example.com", "stop_s": 1, "snapshot_s": 2,
     "jobs": [
       {"id": "AbCdE", "name": "wing", "owner": "you@example.com", "analysis": "OpenFOAM",
        "created": DATE, "submitted": DATE or true or false, "expected_runs": 1, "zone": "-07:00",
        "stages": {"Pending": 0, "Queued": 5, "Executing": 10},
        "runs": [
          {"id": "1", "finished": true, "failed": false, "started": DATE, "completed": DATE,
           "variables": {"alpha": 2}, "trickle_s": 0, "snapshot_exitcode": 0, "snapshot_format": "zip",
           "files": {PATH: FILE, ...} or [FILE with "path", ...],
           "live": {PATH: LIVE, ...}}]}]}

Everything but `jobs` may be left out; see `world` for what then holds.
Paths of this machine are relative to the file.

    DATE    "2024-05-02T10:11:12Z", or seconds from now (negative: ago)
    FILE    "text", or an object with one of
                "text", "base64", "size" (so many bytes, made from "seed"),
                "from" (a file of this machine; a directory adds its whole tree below PATH, "." being the top)
            and any of "id", "name", "type_id", "date_uploaded", "listed_from" (DATE), "is_uploaded",
            "is_deleted", "checksum" ("sha512", "md5", "both", "none"), "declared_size";
            in a list "path", which may be null
    LIVE    as FILE with one of the four, and any of "since_s",
            "grow": {"text": "Time = {n}\\n", "every_s": 1, "count": 100},
            "script": [{"at_s": 5, "action": "append" or "truncate" or "replace" or "remove" or "rotate",
                        "text": "what to write, or the path that a rotation moves the bytes to"}]
"""

from __future__ import annotations

import base64
import binascii
import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescalefs.emulator.clock import Clock, parse_iso
from rescalefs.emulator.content import Bytes, Content, Generated, LocalFile
from rescalefs.emulator.files import Step, grow
from rescalefs.emulator.world import Job, Run, World, WorldError

_SOURCES = frozenset({"text", "base64", "size", "seed", "from"})
_ROW = frozenset({"id", "name", "type_id", "is_uploaded", "is_deleted", "checksum", "declared_size"})
_ROW_DATES = frozenset({"date_uploaded", "listed_from"})
_JOB = frozenset({"id", "name", "owner", "analysis", "expected_runs", "zone"})
_RUN = frozenset({"id", "finished", "failed", "trickle_s", "snapshot_exitcode", "snapshot_format"})
# What a field must be: its Python types, and how to say so.
_TEXT = ((str,), "a text")
_NUMBER = ((int, float), "a number")
_WHOLE = ((int,), "a whole number")
_TRUTH = ((bool,), "true or false")
_OBJECT = ((dict,), "an object in braces")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("failed", "finished", "is_uploaded", "is_deleted"), _TRUTH),
    **dict.fromkeys(("stop_s", "snapshot_s", "trickle_s", "since_s", "every_s", "at_s"), _NUMBER),
    **dict.fromkeys(("type_id", "declared_size", "size", "expected_runs", "count", "snapshot_exitcode"), _WHOLE),
    **dict.fromkeys(("stages", "variables", "grow"), _OBJECT),
    **dict.fromkeys(("jobs", "runs", "script"), ((list,), "a list in brackets")),
    "seed": ((str, int), "a text or a whole number"),
}
_CHOICES = {
    "checksum": ("sha512", "md5", "both", "none"),
    "action": ("append", "truncate", "replace", "remove", "rotate"),
    "snapshot_format": ("tar.gz", "zip"),
    "zone": ("Z", "+00:00", "-07:00"),
}


def load(path: str | os.PathLike[str], *, clock: Clock | None = None) -> World:
    """Return the world that the file *path* describes.

    Raises:
        WorldError: it cannot be read, or has a mistake.
    """
    file = Path(path)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(f"{file} cannot be read ({error.strerror}); name a JSON file that exists") from error
    except UnicodeDecodeError as error:
        raise WorldError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise WorldError(f"{file}: line {error.lineno} is not JSON ({error.msg}); correct it there") from error
    return _Loader(file, clock).world(value)


@dataclass(frozen=True)
class _Loader:
    """Builds a world; every method takes a value and its place, for the sentence about a mistake."""

    file: Path
    clock: Clock | None

    def world(self, value: Any) -> World:
        fields = self._fields(value, "the world", {"user", "stop_s", "snapshot_s", "jobs"})
        jobs = fields.pop("jobs", [])
        world = World(clock=self.clock, **fields)
        for number, job in enumerate(jobs):
            self._job(world, job, f"jobs[{number}]")
        return world

    def _job(self, world: World, value: Any, place: str) -> None:
        fields = self._fields(value, place, {*_JOB, "created", "submitted", "stages", "runs"})
        runs = fields.pop("runs", [])
        now = world.clock.now()
        for name in ("created", "submitted"):
            if name in fields and not (name == "submitted" and isinstance(fields[name], bool)):
                fields[name] = self._date(fields[name], f"{place}.{name}", now)
        for stage, delay in fields.get("stages", {}).items():
            self._check(delay, _NUMBER, f"{place}.stages.{stage}")
        try:
            job = world.add_job(**fields)
        except ValueError as error:
            raise self._mistake(f"{place}.id", str(error), "give each its own") from error
        for number, run in enumerate(runs):
            self._run(job, run, f"{place}.runs[{number}]")

    def _run(self, job: Job, value: Any, place: str) -> None:
        fields = self._fields(value, place, {*_RUN, "started", "completed", "variables", "files", "live"})
        files, live = fields.pop("files", {}), fields.pop("live", {})
        if fields.get("id") in job.runs:
            raise self._mistake(f"{place}.id", "another run has this id", "give each its own")
        now = job.world.clock.now()
        for name in ("started", "completed"):
            if name in fields:
                fields[name] = self._date(fields[name], f"{place}.{name}", now)
        run = job.add_run(**fields)
        if isinstance(files, list):
            for number, file in enumerate(files):
                here = f"{place}.files[{number}]"
                if not isinstance(file, dict) or "path" not in file:
                    raise self._mistake(here, "there is no path", 'write {"path": ..., ...}; it may be null')
                rest = {name: field for name, field in file.items() if name != "path"}
                self._file(run, file["path"], rest, here)
        else:
            for path, file in self._check(files, _OBJECT, f"{place}.files").items():
                self._file(run, path, file, f"{place}.files[{path!r}]")
        for path, file in self._check(live, _OBJECT, f"{place}.live").items():
            self._live(run, path, file, f"{place}.live[{path!r}]")

    def _file(self, run: Run, path: str | None, value: Any, place: str) -> None:
        fields = self._file_fields(value, place, {*_ROW, *_ROW_DATES})
        if path is not None:
            self._check(path, _TEXT, f"{place}.path")
        now = run.job.world.clock.now()
        for name in _ROW_DATES & fields.keys():
            fields[name] = self._date(fields[name], f"{place}.{name}", now)
        source = self._local(fields, place)
        try:
            if source is not None and source.is_dir():
                fields.pop("from")
                run.add_tree(source, "" if path in (None, ".") else str(path), **fields)
            else:
                run.add_file(path, self._content(fields, place), **fields)
        except ValueError as error:
            raise self._mistake(f"{place}.id", str(error), "give each its own") from error

    def _live(self, run: Run, path: str, value: Any, place: str) -> None:
        fields = self._file_fields(value, place, {"since_s", "grow", "script"}, needs_source=False)
        steps: list[Iterator[Step]] = []
        if "grow" in fields:
            growth = self._fields(fields["grow"], f"{place}.grow", {"text", "every_s", "count"})
            if growth.get("every_s", 0) <= 0 or "text" not in growth:
                raise self._mistake(f"{place}.grow", "text and every_s are needed", 'write {"text": ..., "every_s": 1}')
            try:
                growth["text"].format(n=1, t=1)
            except (LookupError, ValueError) as error:
                raise self._mistake(
                    f"{place}.grow.text", "only {n} and {t} stand for something", "write other braces twice"
                ) from error
            steps.append(grow(**growth))
        if "script" in fields:
            steps.append(iter([self._step(step, f"{place}.script[{n}]") for n, step in enumerate(fields["script"])]))
        content = self._content(fields, place) if _SOURCES & fields.keys() else Bytes(b"")
        script = heapq.merge(*steps, key=lambda step: step.at_s)
        run.add_live(path, content, script=script, since_s=fields.get("since_s", 0.0))

    def _step(self, value: Any, place: str) -> Step:
        fields = self._fields(value, place, {"at_s", "action", "text"})
        if not {"at_s", "action"} <= fields.keys():
            raise self._mistake(place, "at_s and action are needed", 'write {"at_s": 5, "action": "append", ...}')
        return Step(fields["at_s"], fields["action"], fields.get("text", "").encode())

    def _file_fields(self, value: Any, place: str, others: set[str], *, needs_source: bool = True) -> dict[str, Any]:
        if isinstance(value, str):
            return {"text": value}
        fields = self._fields(value, place, {*_SOURCES, *others})
        sources = sorted((_SOURCES - {"seed"}) & fields.keys())
        if len(sources) > 1 or (needs_source and not sources):
            raise self._mistake(place, f"{len(sources)} fields give its bytes", "give one of text, base64, size, from")
        return fields

    def _content(self, fields: dict[str, Any], place: str) -> Content:
        """Take what gives the bytes out of *fields*."""
        source, seed = self._local(fields, place), fields.pop("seed", place)
        fields.pop("from", None)
        if source is not None:
            if not source.is_file():
                raise self._mistake(f"{place}.from", f"there is no file {source}", "name one that exists")
            return LocalFile(source)
        if "size" in fields:
            return Generated(fields.pop("size"), seed)
        if "text" in fields:
            return Bytes(fields.pop("text").encode())
        try:
            return Bytes(base64.b64decode(fields.pop("base64"), validate=True))
        except binascii.Error as error:
            raise self._mistake(f"{place}.base64", "it is not base64", "encode the bytes with base64") from error

    def _local(self, fields: dict[str, Any], place: str) -> Path | None:
        return self.file.parent / fields["from"] if "from" in fields else None

    def _date(self, value: Any, place: str, now: float) -> float:
        if isinstance(value, str):
            try:
                return parse_iso(value)
            except ValueError as error:
                raise self._mistake(place, str(error), "add date, time and zone") from error
        self._check(value, _NUMBER, place)
        return now + float(value)

    def _fields(self, value: Any, place: str, known: set[str]) -> dict[str, Any]:
        fields = dict(self._check(value, _OBJECT, place))
        for name, field in fields.items():
            here = f"{place}.{name}"
            if name not in known:
                raise self._mistake(here, "there is no such field", f"use {', '.join(sorted(known))}")
            if name in _CHOICES and field not in _CHOICES[name]:
                raise self._mistake(here, f"{field!r} is not known", f"use {', '.join(_CHOICES[name])}")
            if name in _KINDS:
                self._check(field, _KINDS[name], here)
                if isinstance(field, (int, float)) and field < 0:
                    raise self._mistake(here, f"it is {field}", "give zero or more")
            elif name not in {"created", "submitted", "started", "completed", "files", "live", *_ROW_DATES}:
                self._check(field, _TEXT, here)
        return fields

    def _check(self, value: Any, kind: tuple[tuple[type, ...], str], place: str) -> Any:
        types, noun = kind
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self._mistake(place, f"it is {json.dumps(value)[:40]}", f"write {noun}")
        return value

    def _mistake(self, place: str, problem: str, remedy: str) -> WorldError:
        return WorldError(f"{self.file}: {place}: {problem}; {remedy}")
