"""Where log lines go: standard error in the foreground (with priorities for journald), else a rotating file.

One record is one line, whatever names it holds; only a traceback takes more, and these are indented.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rescalefs.plain import plain

# Enough to find last week's trouble, small enough to forget about.
_FILE_BYTES = 5_000_000
_FILES = 3
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _LineFormatter(logging.Formatter):
    """One line a record: nothing that the message says can begin another one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {plain(line)}" for line in super().formatException(ei).split("\n"))


class _JournalFormatter(_LineFormatter):
    """Prefixes `<priority>`, as systemd reads it; the journal has its own clock."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.name}: {super().format(record)}"
        return "\n".join(f"<{_PRIORITY.get(record.levelno, 6)}>{line}" for line in text.splitlines())


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that its owner alone may read, each time it is begun anew too: it has names of files."""

    def _open(self) -> Any:
        stream = super()._open()
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # /dev/null is everybody's
            os.fchmod(stream.fileno(), 0o600)
        return stream


def set_up(level: str, file: Path | None, environ: Mapping[str, str]) -> None:
    """Send log lines of *level* and above to *file*, or to standard error without one.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler
    if file is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _PrivateFile(
            file, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", errors="backslashreplace"
        )
        handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        is_journal = "JOURNAL_STREAM" in environ
        plain_lines = _LineFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        handler.setFormatter(_JournalFormatter() if is_journal else plain_lines)
    logging.raiseExceptions = False  # a full disk is not said with a traceback for each line
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These speak of every connection and operation, arguments and all, below warnings.
    for noisy in ("urllib3", "fuse"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
