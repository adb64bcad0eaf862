"""The server process: the emulated API, a plain tree of the same files beside it, and counters over HTTP.

    python -m benchmarks.origin ROOT [--quick]     prints its address, serves until standard input closes

    /api/...                      the emulator
    /files/...                    the plain tree: listings with links, ranges, HEAD
    /bench/counters               requests, bytes and peaks by endpoint, as JSON
    /bench/reset                  counters to zero
    /bench/limits?latency_s=&bytes_per_s=&hangs=     what it is from now on, for the API and the tree

While it hangs, requests for bytes are taken and not answered; they are answered when it hangs no more.
"""

from __future__ import annotations

import asyncio
import html
import json
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, unquote

from aiohttp import web

from benchmarks.files import FLAT, QUICK, STEP_BYTES, SWEEP, TWIN, VAST, WIDE, Sizes, Window, wide_name
from rescalefs.emulator.content import Bytes, LocalFile
from rescalefs.emulator.endpoints import _ranged
from rescalefs.emulator.exchange import Answer, error
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World

# The endpoint under which requests of the plain tree are counted; those of the API count as `contents`.
PLAIN = "plain"
HANG_LOOK_S = 0.05


def make_world(root: Path, sizes: Sizes, *, has_vast: bool = False) -> World:
    """Return the jobs `large`, `small`, `twins`, `many`, `wide`, `flat`, `sweep`, and maybe `vast`, all finished."""
    world, tree = World(), root / "tree"
    for name in ("large", "small"):
        world.add_job(name).add_run(finished=True).add_tree(tree / name)
    twins = world.add_job("twins")
    for _ in range(sizes.twin_runs):
        twins.add_run(finished=True, files={Path(TWIN).name: tree / TWIN})
    many = world.add_job("many").add_run(finished=True)
    for number, name in enumerate(sizes.many_names):
        # Without a checksum: the files are never read whole, and nobody waits for hundreds of them to be summed.
        window = Window(root / "base.bin", number * STEP_BYTES, sizes.many_bytes)
        many.add_file(Path(name).name, window, checksum="none")
    wide = world.add_job(WIDE).add_run(finished=True)
    for name in sizes.wide_names:
        wide.add_file(name.removeprefix(f"{WIDE}/"), b"", checksum="none")
    flat = world.add_job(FLAT).add_run(finished=True)
    for number in range(sizes.flat_files):
        flat.add_file(f"all/field_{number:06}.dat", b"", checksum="none")
    sweep = world.add_job(SWEEP, expected_runs=sizes.sweep_runs)
    for _ in range(sizes.sweep_runs):
        run = sweep.add_run(finished=True)
        for number in range(sizes.sweep_files):
            run.add_file(f"case/field_{number:02}.dat", b"", checksum="none")
    if has_vast:
        vast, nothing = world.add_job(VAST).add_run(finished=True), Bytes(b"")
        for number in range(sizes.vast_files):
            vast.add_file(wide_name(number), nothing, checksum="none")
    for job in world.jobs.values():
        for run in job.runs.values():
            for file in run.files:
                for function in file.checksums():
                    file.content.digest(function)
    return world


class Origin(Emulator):
    """An emulator that serves a plain tree too.

    It reaches into the emulator on purpose: the tree must be counted, delayed and sent by the very same code.
    """

    def __init__(self, world: World, tree: Path) -> None:
        """Serve *world*, and *tree* to everybody."""
        super().__init__(world)
        self._tree = tree
        self._hangs = False

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path.startswith("/bench/"):
            return self._control(path.removeprefix("/bench/"), request)
        while self._hangs and "/jobs/" not in path and request.transport is not None:
            await asyncio.sleep(HANG_LOOK_S)
        if not f"{path}/".startswith("/files/"):  # httpdirfs asks for directories without their slash
            return await super()._handle(request)
        record = self._record(request, PLAIN)
        self._under_way[PLAIN] += 1
        self.peak[PLAIN] = max(self.peak[PLAIN], self._under_way[PLAIN])
        try:
            await asyncio.sleep(self.latency_s)
            answer = self._plain(unquote(request.rel_url.raw_path).removeprefix("/files").strip("/"), request)
            if request.method == "HEAD":
                length = {"Content-Length": str(answer.length)}
                return web.Response(status=answer.status, headers=answer.headers | length)
            return await self._send(request, record, answer)
        finally:
            self._under_way[PLAIN] -= 1

    def _plain(self, name: str, request: web.BaseRequest) -> Answer:
        path = self._tree / name
        if path.is_dir():
            return _listing(path, name)
        if not path.is_file():
            return error(404)
        answer = _ranged(LocalFile(path), request.headers.get("Range"))
        modified = formatdate(path.stat().st_mtime, usegmt=True)
        answer.headers.update({"Accept-Ranges": "bytes", "Last-Modified": modified})
        answer.bytes_per_s = self.stream_bytes_per_s
        return answer

    def _control(self, word: str, request: web.BaseRequest) -> web.Response:
        query = request.rel_url.query
        if word == "reset":
            self.reset_counts()
        elif word == "limits":
            self.latency_s = float(query.get("latency_s", 0))
            self.stream_bytes_per_s = float(query["bytes_per_s"]) if query.get("bytes_per_s") else None
            self._hangs = query.get("hangs") == "1"
        return web.json_response({"requests": self.requests, "bytes": self.bytes_sent, "peak": self.peak})


def _listing(path: Path, name: str) -> Answer:
    """Return a directory as Apache and nginx show it."""
    answer = Answer(200, LocalFile(path / "."))
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    links = "\n".join(f'<a href="{quote(entry)}">{html.escape(entry)}</a>' for entry in entries)
    title = f"Index of /{html.escape(name)}"
    page = f'<html><head><title>{title}</title></head><body><h1>{title}</h1><pre><a href="../">../</a>\n{links}\n'
    answer.replace_body(f"{page}</pre></body></html>\n".encode(), "text/html; charset=utf-8")
    return answer


def main() -> None:
    """Serve until standard input closes, which it does when the parent ends in whatever way."""
    root = Path(sys.argv[1])
    tempfile.tempdir = str(root)
    sizes = QUICK if "--quick" in sys.argv else Sizes()
    with Origin(make_world(root, sizes, has_vast="--vast" in sys.argv), root / "tree") as origin:
        print(json.dumps({"origin": origin.origin, "key": origin.key}), flush=True)
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
