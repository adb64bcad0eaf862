"""Whatever the API answers, every operation ends as a value or as an error that is meant, and nothing crashes."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import re
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.config import Settings
from rescalefs.credentials import Account, Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.errors import Corrupt, NotFound, RescaleError
from rescalefs.mount import Mount
from rescalefs.operations import ERRNO, Gate, Operations
from tests.conftest import Mounted
from tests.mutation import mutated
from tests.stack import KEY, transport_to

# What an operation may end in: the errnos of the table.
MEANT = set(ERRNO.values())
MAX_STEPS = 400
FILES = {"a/b.txt": b"hello", "a/c": b"more" * 300, "log": b"Time = 1\n" * 10, "big": b"B" * 100_000}
ENDPOINTS = ["jobs", "job", "statuses", "runs", "run_files", "directory_contents", "act"]


def fuzz_world() -> World:
    world = World()
    for name in ("FinaA", "FinaB"):
        variables = {"angle": 3.5}
        world.add_job(name, name=f"wing {name}").add_run(finished=True, files=FILES, variables=variables)
    world.add_job("LiveR").add_run(live={"log": b"Time = 0\n", "case/U": b"(0 0 0)"})
    world.add_job("Draft")
    return world


class Recorded:
    """Stands for `Transport`: gives the answers of a real server, those of some endpoints mutated."""

    throttled_s = 0.0
    requests_by_endpoint: ClassVar[Mapping[str, int]] = {}
    answers: ClassVar[dict[str, Any]] = {}
    emulator: Emulator
    endpoints: frozenset[str] = frozenset()
    chance = random.Random(0)
    clock = staticmethod(time.monotonic)

    def __init__(self, *_: object, **__: object) -> None:
        self.hits = 0

    def json(self, endpoint: str, scope: str, path: str, _at: float, parse: Any = json.loads, **more: Any) -> Any:
        answer = self._recorded(path, lambda real: real.json(endpoint, scope, path, self._deadline(), **more))
        if endpoint == "jobs":  # so that one job is asked for by its id, and its status
            answer = {**answer, "results": [row for row in answer["results"] if row["id"] != "FinaB"]}
        if endpoint in self.endpoints:
            answer = mutated(answer, self.chance)
        try:
            return parse(bytearray(json.dumps(answer), "ascii"))
        except (ValueError, RecursionError) as error:  # as `Transport` does
            raise Corrupt(f"{path} is no JSON") from error

    def stream(self, endpoint: str, scope: str, path: str, deadline_at: float, *, start: int = 0, **_: Any) -> Any:
        def read(real: Any) -> bytes:
            with real.stream(endpoint, scope, path, self._deadline()) as transfer:
                return bytes(transfer._raw.read())

        return _Stream(self._recorded(path, read))

    def post(self, *_: object) -> Any:
        answer = {"exitcode": 0, "reason": "done"}
        return mutated(answer, self.chance) if "act" in self.endpoints else answer

    def close(self) -> None:
        pass

    def is_reachable(self) -> bool:
        return True

    def _deadline(self) -> float:
        return ManualClock().now() + 1e9

    def _recorded(self, path: str, ask: Callable[[Any], Any]) -> Any:
        if path not in self.answers:
            with closing(transport_to(self.emulator.origin, ManualClock(), key=Key(lambda: KEY, "a test"))) as real:
                try:
                    self.answers[path] = ask(real)
                except RescaleError as error:
                    self.answers[path] = error
        answer = self.answers[path]
        if isinstance(answer, RescaleError):
            raise NotFound("no such thing")
        return answer


class _Stream:
    start = 0
    media_type = "text/plain"

    def __init__(self, data: bytes) -> None:
        self.total = len(data)
        self._data = memoryview(data)

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        pass


class Walk:
    """Asks everything about everything that can be found, as the kernel would, up to a number of steps."""

    def __init__(self, gate: Any) -> None:
        self._gate = gate
        self._steps = 0
        self.outcomes: Counter[str] = Counter()

    def _ask(self, name: str, *args: Any) -> Any:
        self._steps += 1
        value, code = None, 0
        try:
            value = getattr(self._gate, name)(*args, **{"has_attributes": True} if name == "readdir" else {})
        except OSError as error:
            code = error.errno or -1
        assert code == 0 or code in MEANT, (name, args)
        self.outcomes[errno.errorcode.get(code, "ok")] += 1
        return value

    def go(self) -> None:
        waiting = ["/"]
        while waiting and self._steps < MAX_STEPS:
            path = waiting.pop(0)
            found = self._ask("getattr", path)
            if path in ("/", "/jobs"):
                waiting += [f"{path.rstrip('/')}/{name}" for name in (".rescale", "FinaB", "LiveR")]
            if found is None:
                continue
            self._check(found)
            kind = stat.S_IFMT(found[1])
            if kind == stat.S_IFDIR:
                waiting += [f"{path.rstrip('/')}/{name}" for name in self._names(path)]
                waiting += (
                    [f"{path}/{name}" for name in (".rescale", "latest")] if path.endswith(("/1", "/runs")) else []
                )
            elif kind == stat.S_IFLNK:
                assert os.fsencode(self._ask("readlink", path) or "x")
            else:
                self._read(path, found[2])
            for name in self._ask("listxattr", path) or ():
                self._ask("getxattr", path, name)

    def _names(self, path: str) -> list[str]:
        number = self._ask("opendir", path)
        if number is None:
            return []
        entries: list[Any] = []
        while some := self._ask("readdir", path, number, len(entries)):
            entries += some
        self._ask("releasedir", path, number)
        names = [os.fsdecode(raw) for raw, *_ in entries]
        assert len(names) == len(set(names))
        for name, (_, inode, mode, size, modified_ns) in zip(names, entries, strict=True):
            assert "/" not in name
            assert 0 < len(os.fsencode(name)) <= 255
            assert b"\0" not in os.fsencode(name)
            if size is not None:
                self._check((inode, mode, size, modified_ns))
        return names[2:]

    def _check(self, attributes: tuple[int, int, int, int]) -> None:
        inode, _, size, modified_ns = attributes
        assert inode > 1
        assert 0 <= size < 2**63
        assert -(2**63) <= modified_ns // 10**9 < 2**63

    def _read(self, path: str, size: int) -> None:
        info = SimpleNamespace(flags=os.O_RDONLY, fh=0, direct_io=0, keep_cache=0)
        if self._ask("open", path, info) is None:
            return
        for offset in (0, max(0, size - 1), size):
            data = self._ask("read", path, 1000, offset, info)
            assert data is None or len(data) <= 1000
        self._ask("release", path, info)

    def act(self) -> None:
        """Command what can be commanded."""
        for name in ("stop", "snapshot", "refresh"):
            path = f"/jobs/LiveR/runs/1/.rescale/{name}"
            info = SimpleNamespace(flags=os.O_WRONLY, fh=0, direct_io=0, keep_cache=0)
            if self._ask("open", path, info) is not None:
                self._ask("write", path, b"1", 0, info)
                self._ask("release", path, info)
            self._read(path, 100)


@pytest.fixture(scope="module", autouse=True)
def recorded() -> Iterator[None]:
    """Answers of a real server, asked for once."""
    with Emulator(fuzz_world(), key=KEY) as emulator:
        Recorded.emulator, Recorded.answers = emulator, {}
        yield


class Unforeseen(logging.Handler):
    """Keeps what nobody has foreseen, as plain characters; the rest of the log, full of odd ones, goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or "unforeseen" in record.msg:
            self.found.append(ascii(self.format(record)))


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Collect what is unforeseen while the block lasts."""
    ours, handler = logging.getLogger("rescalefs"), Unforeseen()
    ours.addHandler(handler)
    ours.propagate = False
    try:
        yield handler.found
    finally:
        ours.propagate = True
        ours.removeHandler(handler)


def walked(endpoints: list[str], seed: int) -> Counter[str]:
    """Mount with mutated answers, in this process and without FUSE, and ask everything."""
    Recorded.endpoints, Recorded.chance = frozenset(endpoints), random.Random(seed)
    patch = mock.patch("rescalefs.mount.Transport", Recorded)
    with tempfile.TemporaryDirectory() as directory, patch, watched() as unforeseen:
        cache = Path(directory)
        mount = Mount(Settings(cache / "mount", cache, 1 << 30), Account("http://x", Key(lambda: KEY, "a test")), "me")
        gate = Gate(Operations(mount.namespace, mount.kernel, cache, metadata_deadline_s=15, data_deadline_s=15))
        mount.start()
        walk = Walk(gate)
        try:
            walk.go()
            walk.act()
        finally:
            mount.close()
        assert not unforeseen, unforeseen[0]
    return walk.outcomes


def test_answers_as_they_are_have_no_errors() -> None:
    """What is walked is there: many values, from every endpoint."""
    outcomes = walked([], 0)

    assert outcomes["ok"] > 100
    assert {"EIO", "ETIMEDOUT"} & set(outcomes) == set()
    for word in ("statuses", "runs/", "/files/", "directory-contents", "/tail/", "/contents/"):
        assert any(word in path for path in Recorded.answers), word


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
ANY = {"endpoints": st.lists(st.sampled_from(ENDPOINTS), min_size=1, max_size=3), "seed": st.integers(0, 1 << 32)}


@settings(max_examples=60, **FUZZ)
@given(**ANY)
def test_no_answer_crashes_an_operation(endpoints: list[str], seed: int) -> None:
    """Wrong types, missing fields, huge numbers, deep nesting, hostile names: values or errors of the table."""
    walked(endpoints, seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "3000")), **FUZZ)
@given(**ANY)
def test_no_answer_of_thousands_crashes_an_operation(endpoints: list[str], seed: int) -> None:
    """The same, for long."""
    walked(endpoints, seed)


# ---- on a mount ----


def look_through(mounted: Mounted, most: int = 60) -> Counter[str]:
    """List, stat and read what can be found; count what came of it, and insist that an error is meant."""
    outcomes: Counter[str] = Counter()
    waiting = [mounted.path]
    while waiting and sum(outcomes.values()) < most:
        path = waiting.pop(0)
        try:
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                waiting += [path / name for name in os.listdir(path)]
            elif stat.S_ISREG(found.st_mode):
                path.read_bytes()
            os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            code = error.errno or -1
        else:
            code = 0
        assert code == 0 or code in MEANT, path
        outcomes[errno.errorcode.get(code, "ok")] += 1
    return outcomes


@pytest.mark.mount
@pytest.mark.timeout(120)
def test_no_answer_crashes_a_mount(mount_of: Callable[..., Mounted]) -> None:
    """Some dozens of them, as bytes over HTTP to a real mount; after them it is well."""
    walked([], 0)  # records the answers, whichever tests have run
    chance = random.Random(3)
    with Emulator(fuzz_world()) as emulator:
        mounted = mount_of(emulator, "--metadata-deadline", "2", "--data-deadline", "2", RESCALEFS_BUDGET="off")
        before = look_through(mounted)
        assert before["EIO"] == 0
        for _ in range(12):
            endpoint = chance.choice(list(PATHS))
            path = next(path for path in Recorded.answers if re.search(PATHS[endpoint], path))
            answer = mutated(Recorded.answers[path], chance)
            fault = emulator.faults.add(endpoint=endpoint, body=json.dumps(answer).encode("utf-8", "replace"))
            (mounted.path / ".rescale/refresh").write_bytes(b"1")
            look_through(mounted)
            emulator.faults.remove(fault)
        (mounted.path / ".rescale/refresh").write_bytes(b"1")
        assert look_through(mounted) == before
        assert "unforeseen" not in mounted.log
        assert "Traceback" not in mounted.log


PATHS = {
    "jobs": r"^jobs/\?",
    "job": r"^jobs/\w+/$",
    "statuses": "statuses",
    "runs": r"runs/\?",
    "run_files": "/files/",
    "directory_contents": "directory-contents",
}


def rows_of(count: int) -> bytes:
    rows = [
        {"id": f"F{number}", "relativePath": f"d/{number}", "decryptedSize": 1, "filler": "x" * 320}
        for number in range(count)
    ]
    return json.dumps({"count": count, "next": None, "results": rows}).encode()


HUNDRED_MB = 100_000_000
HUGE: dict[str, Callable[[], bytes]] = {
    "text": lambda: b'{"count": 1, "next": null, "results": [{"id": "' + b"x" * HUNDRED_MB + b'"}]}',
    "nesting": lambda: b"[" * HUNDRED_MB,
    "digits": lambda: b'{"count": ' + b"9" * HUNDRED_MB + b', "results": []}',
    "rows": lambda: rows_of(HUNDRED_MB // 400),
    "no JSON": lambda: b"<" * HUNDRED_MB,
}


@pytest.mark.long
@pytest.mark.mount
@pytest.mark.timeout(600)
def test_a_page_of_100_mb_is_no_crash(mount_of: Callable[..., Mounted]) -> None:
    """Whatever it holds: a listing or an error, and the mount goes on."""
    with Emulator(fuzz_world()) as emulator:
        mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
        for name, body in HUGE.items():
            fault = emulator.faults.add(endpoint="run_files", path="/jobs/FinaA/", body=body())
            (mounted.path / ".rescale/refresh").write_bytes(b"1")
            done = subprocess.run(["ls", "-U", mounted.jobs / "FinaA/runs/1/d"], capture_output=True, timeout=120)
            assert (done.returncode == 0) == (name == "rows"), (name, done.stderr)
            assert done.stdout.count(b"\n") == (HUNDRED_MB // 400 if name == "rows" else 0)
            assert fault.hits > 0
            emulator.faults.remove(fault)
            (mounted.path / ".rescale/refresh").write_bytes(b"1")
            assert sorted(os.listdir(mounted.jobs / "FinaA/runs/1")) == ["a", "big", "log"]
        assert "unforeseen" not in mounted.log
