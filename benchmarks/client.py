"""The origin as this process sees it: started, asked, told, ended."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ANSWER_S = 30.0
END_S = 10.0


@dataclass(frozen=True)
class Counts:
    """What the origin has served since it was last reset."""

    requests: dict[str, int]
    bytes: dict[str, int]
    peak: dict[str, int]

    @property
    def content_requests(self) -> int:
        """Return the requests for bytes of files, through the API and of the plain tree."""
        return self.requests.get("contents", 0) + self.requests.get("plain", 0)

    @property
    def content_bytes(self) -> int:
        """Return the bytes sent for them."""
        return self.bytes.get("contents", 0) + self.bytes.get("plain", 0)


@dataclass(frozen=True)
class Origin:
    """A running origin."""

    url: str
    key: str

    @property
    def files_url(self) -> str:
        """Return the address of the plain tree."""
        return f"{self.url}/files/"

    def limit(self, latency_s: float = 0.0, bytes_per_s: float | None = None, *, hangs: bool = False) -> None:
        """Set the wait before each answer, the pace of each stream, and whether bytes are not sent at all."""
        limits = {"latency_s": latency_s, "bytes_per_s": bytes_per_s or "", "hangs": int(hangs)}
        self._ask(f"limits?{urlencode(limits)}")

    def reset(self) -> None:
        """Let the counters begin at zero."""
        self._ask("reset")

    def counts(self) -> Counts:
        """Return the counters."""
        return Counts(**self._ask("counters"))

    def rows(self, path: str) -> int:
        """Return how many rows a page of the API has, as a client without pages or threads asks for it."""
        request = urllib.request.Request(  # noqa: S310  # loopback
            f"{self.url}/api/v2/{path}?page_size=1000", headers={"Authorization": f"Token {self.key}"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310  # loopback
            return len(json.load(answer)["results"])

    def _ask(self, word: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/bench/{word}", timeout=ANSWER_S) as answer:  # noqa: S310  # loopback
            return json.load(answer)


@contextmanager
def running(root: Path, *, is_quick: bool, has_vast: bool = False) -> Iterator[Origin]:
    """Serve *root* while the `with` block lasts."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.origin", str(root)),
            *(["--quick"] if is_quick else []),
            *(["--vast"] if has_vast else []),
        ],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the other
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the origin did not start; its error is above")
        told = json.loads(line)
        yield Origin(told["origin"], told["key"])
    finally:
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
