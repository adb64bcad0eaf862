"""The tables of the mount: `jobs.csv` and `runs.csv`, for spreadsheets and pandas.

Pure functions from values to bytes. Numbers stand as they are and everything else as text that no spreadsheet
takes for a formula: where such a text begins as one, an apostrophe is put before it (OWASP's advice).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rescalefs.models import Job, Run, time_text

JOB_COLUMNS = ("id", "name", "status", "owner", "created", "analyses")
RUN_COLUMNS = ("id", "state", "started", "completed", "files", "bytes")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"\t|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")

# What ends a line or a text for some readers: a line of the file is a job or a run, for grep and awk too.
_ONE_LINE = {ord("\0"): r"\0", ord("\r"): r"\r", ord("\n"): r"\n"}


def jobs_csv(jobs: Iterable[Job]) -> bytes:
    """Return one line a job, in the order given."""
    return _csv(
        JOB_COLUMNS,
        (
            (job.id, job.name, job.status or "", job.owner, time_text(job.created_ns or None), ", ".join(job.analyses))
            for job in jobs
        ),
    )


def runs_csv(runs: Sequence[Run], state: Callable[[Run], str]) -> bytes:
    """Return one line a run and, after the columns that all have, one column a variable.

    Variables stand in the order in which runs first have them; a run that lacks one has an empty cell.
    """
    values = [_variables(run) for run in runs]
    names = list(dict.fromkeys(name for named in values for name in named))
    return _csv(
        (*RUN_COLUMNS, *names),
        (
            (
                run.id,
                state(run),
                time_text(run.started_ns),
                time_text(run.completed_ns),
                run.output_count,
                run.output_bytes,
                *(named.get(name) for name in names),
            )
            for run, named in zip(runs, values, strict=True)
        ),
    )


def _variables(run: Run) -> Mapping[str, str]:
    """Return a run's variables by column; one whose name is taken in this table gets `~2`, `~3`, ... after it."""
    named: dict[str, str] = {}
    for variable in run.variables:
        name, number = variable.name, 1
        while name in named or name in RUN_COLUMNS:
            number += 1
            name = f"{variable.name}~{number}"
        named[name] = variable.value
    return named


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    writer.writerows(map(_cell, row) for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def _cell(value: object) -> str:
    text = "" if value is None else str(value).translate(_ONE_LINE)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
