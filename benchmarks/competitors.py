"""Programs that fetch without a mount: curl, and the plain parallel downloader. All results are checked."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.client import Origin
from benchmarks.files import checksum
from benchmarks.readers import check, run

Range = tuple[int, int]  # First byte and number of bytes.


def curl(origin: Origin, scratch: Path, requests: Sequence[tuple[str, Range | None]], expected: str) -> float:
    """Fetch files of the tree, or ranges of them, one after the other over one kept connection; return seconds.

    *expected* is the sha512 of everything together.
    """
    config = scratch / "curl.config"
    blocks = []
    for name, span in requests:
        lines = [f'url = "{origin.files_url}{name}"', "fail"]
        if span is not None:
            lines.append(f"range = {span[0]}-{span[0] + span[1] - 1}")
        blocks.append("\n".join(lines))
    config.write_text("\nnext\n".join(blocks) + "\n", encoding="utf-8")
    seconds, out = run("curl", "--silent", "--show-error", "--config", config)
    check(hashlib.sha512(out).hexdigest(), expected, "curl")
    return seconds


def downloader(origin: Origin, scratch: Path, name: str, file: Path) -> float:
    """Fetch a file of the tree, which is *file* on disk, with 16 threads; return seconds."""
    target = scratch / "downloaded"
    url, size = origin.files_url + name, file.stat().st_size
    _, out = run(sys.executable, "-m", "benchmarks.download", url, str(size), target)
    check(checksum(target), checksum(file), "the downloader")
    target.unlink()
    return float(json.loads(out)["seconds"])
