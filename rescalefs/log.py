"""Where log lines go: standard error in the foreground (with priorities for journald), else a rotating file."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Mapping
from pathlib import Path

# Enough to find last week's trouble, small enough to forget about.
_FILE_BYTES = 5_000_000
_FILES = 3
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournalFormatter(logging.Formatter):
    """Prefixes `<priority>`, as systemd reads it; the journal has its own clock."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.name}: {super().format(record)}"
        return "\n".join(f"<{_PRIORITY.get(record.levelno, 6)}>{line}" for line in text.splitlines())


def set_up(level: str, file: Path | None, environ: Mapping[str, str]) -> None:
    """Send log lines of *level* and above to *file*, or to standard error without one.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler
    if file is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", errors="backslashreplace"
        )
        file.chmod(0o600)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        is_journal = "JOURNAL_STREAM" in environ
        plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        handler.setFormatter(_JournalFormatter() if is_journal else plain)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These speak of every connection and operation, arguments and all, below warnings.
    for noisy in ("urllib3", "fuse"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
