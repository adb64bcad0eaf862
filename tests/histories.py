"""Histories: what happens at Rescale and what a user does, in any order, against the reference model.

One machine for both ways to drive a mount (`tests/drivers.py`). Each rule is one step: it changes the emulated world
and the model alike, or asks the mount and judges the answer: right at one moment of the window that the documentation
allows, or an error that something excuses: a fault, a truncation, an upload that is pending. Nothing else is.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rescalefs.emulator.content import Bytes
from rescalefs.emulator.server import Emulator
from tests.drivers import Driver
from tests.reference import (
    DEAD_S,
    FAILING_S,
    JOBS_S,
    LIVE_S,
    LOOK_S,
    NEVER,
    SETTLING_S,
    Entity,
    Following,
    Job,
    Live,
    Model,
    Output,
    Run,
    Tree,
    has_only_grown,
    shown_job,
    versions,
)

MIB = 1 << 20
_PLAIN = random.Random(7).randbytes(9 * MIB)
_TEXT = "".join(f"Time = {n}\n" for n in range(40_000)).encode()
# About blocks of 64 KiB, about what the kernel asks for at once, about what is verified whole, about a segment.
SMALL_SIZES = [0, 1, 10, 300, 65_535, 65_536, 65_537, 131_073, 300_000]
BIG_SIZES = [4 * MIB, 4 * MIB + 1, 8 * MIB + 70_001]
_MAX_HANDLES = 4
_SNAPSHOT = 12  # the type of an archive
_REPEATED_S = 1.0  # for which what failed is not asked again through the same handle
SNAPSHOT_PENDING_S = 900.0  # for which a snapshot is waited for
_SLOW_S = 0.4  # a look that takes longer may leave a stat with what was known

NAMES = [
    *("log", "case/0/U", "case/100/U", "a", "a/b", "a/b/c", "stop", "snapshot", "latest", ".rescale", ".rescale/x"),
    *("-rf", "50%", "%41", "a b", "Zürich/é", "#?&=", "new\nline", "back\\slash", "~", "log~x", "." + "n" * 254),
]
HOSTILE = ["../x", "..", ".", "/abs", "a//b", "a/./b", "nul\0", "half\ud800", "%00", "ü" * 128, "a/", "%2E%2E"]
DOTS = {".", ".."}
JOB_NAMES = ["wing", "wing", "", "a/b", "..", "%41", "ü" * 200, "x~y", "nul\0", "\ud800"]
PAYLOADS = [b"1", b"1\n", b"{act}", b"{act}\n", b"", b"0", b"1\n\n", b"stop it", b"1" * 100, b"\xff"]
# Other than these, no payload acts.
GOOD = 4

# What may go wrong with a request, and what a program may see of that.
_FAILS = {errno.EIO, errno.ETIMEDOUT}
_NO_FILES = r"^(?!.*(/files/[^/]+/contents/|/tail/))"
FAULTS: list[tuple[dict[str, Any], set[int]]] = [
    ({"status": 401}, {errno.EACCES}),
    ({"status": 403}, {errno.EACCES}),
    ({"status": 404}, {errno.ENOENT, errno.ESTALE, errno.EIO}),
    ({"status": 409}, {errno.EIO}),
    ({"status": 429, "retry_after": 1}, _FAILS),
    ({"status": 429, "retry_after_date": 1.0}, _FAILS),
    ({"status": 500}, _FAILS),
    ({"status": 503}, _FAILS),
    ({"late_status": 502, "body": "<html>Bad Gateway</html>"}, _FAILS),
    ({"drop": True}, _FAILS),
    ({"cut_after": 0}, _FAILS),
    ({"cut_after": 70}, _FAILS),
    ({"path": _NO_FILES, "bad_json": True}, _FAILS),
    ({"path": _NO_FILES, "truncated_json": True}, _FAILS),
    ({"path": _NO_FILES, "body": b"[1, 2]"}, _FAILS),
    ({"path": _NO_FILES, "body": b"<html>Hello</html>"}, _FAILS),
    ({"path": _NO_FILES, "count_plus": 1}, set()),
    ({"path": _NO_FILES, "drop_page_size": True}, set()),
    ({"endpoint": "contents", "headers": {"Content-Range": "bytes 5-9/10"}}, _FAILS),
    ({"endpoint": "contents", "short_by": 100}, _FAILS),
    ({"ignore_range": True}, set()),
    ({"latency_s": 0.02}, set()),
]


@dataclass
class Fault:
    """One that is armed for the next question."""

    effects: dict[str, Any]
    errnos: set[int]


@dataclass
class Result:
    """How a question ended: its value or its errno, and when."""

    first: float
    last: float = 0.0
    errno: int = 0
    value: Any = None
    is_faulty: bool = False
    is_wrong: bool = False  # the fault was wrong bytes
    is_slow: bool = False


@dataclass(eq=False)
class Opened:
    """An open file: what it may be, and what was read of it so far."""

    number: int
    job: Job
    run: Run
    entities: list[Entity]
    since: float
    served: list[tuple[int, bytes]] = field(default_factory=list)
    failed: tuple[int, float] | None = None
    is_poisoned: bool = False
    following: list[Following] = field(default_factory=list)


_contents: dict[tuple[int, int], Bytes] = {}


def content(size: int, seed: int) -> Bytes:
    """Return the same content, whose checksums are known, for the same numbers."""
    key = size, seed % 8
    if key not in _contents:
        _contents[key] = Bytes(_PLAIN[key[1] : key[1] + size])
    return _contents[key]


picks = st.integers(0, 11)
paths = st.sampled_from(NAMES)
any_path = st.sampled_from([*NAMES, *HOSTILE])
sizes = st.sampled_from([*SMALL_SIZES, *SMALL_SIZES, *BIG_SIZES])
moments_s = st.sampled_from([0.5, 2.1, 2.1, 9.0, 11.0, 16.0, 31.0, 70.0, 700.0, 4000.0, 90_000.0])


class Machine(RuleBasedStateMachine):
    """A mount, the world behind it, and the model of both."""

    emulator: ClassVar[Emulator]
    made: ClassVar[int] = 0  # histories so far
    steps: ClassVar[int] = 0

    driver: Driver

    @contextmanager
    def driving(self, draws: st.DataObject) -> Iterator[Driver]:
        """Make the driver of one history, and see in the end that nothing is left of it."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.world = self.emulator.world
        self.handles: list[Opened] = []
        self.fault: Fault | None = None
        self.settled: set[tuple[str, str]] = set()
        self.exits = ExitStack()

    @initialize(
        data=st.data(),
        has_ranges=st.booleans(),
        dead=st.sampled_from([404, 400, 500, "detail", "empty"]),
        refused=st.sampled_from([200, 400, 404]),
        size=sizes,
    )
    def begin(self, data: st.DataObject, has_ranges: bool, dead: Any, refused: Any, size: int) -> None:
        """Every history begins with a job of a live run and a finished one."""
        self.emulator.faults.clear()
        self.emulator.log.clear()
        self.emulator.habits.tail_honours_range = has_ranges
        self.emulator.habits.dead_live = dead
        self.emulator.habits.finished_act = refused
        self.driver = self.exits.enter_context(self.driving(data))
        self.posts = self.emulator.methods["POST"]
        self.model = Model(slack_s=self.driver.slack_s, restarted=self.driver.now())
        self.model.refreshed[()] = self.driver.now()
        self.add_job("wing", 3)
        self.add_run(0, False, 0.0)
        self.add_run(0, True, 7200.0)
        self.add_live(0, "log", 300)
        self.add_output(1, "case/0/U", size, 1, "sha512")

    def teardown(self) -> None:
        try:
            self._close_all()
            self.exits.close()
        finally:
            self.emulator.faults.clear()
            with self.world.lock:
                self.world.jobs.clear()
                self.world.files.clear()

    # ---- what happens at Rescale ----

    @rule(name=st.sampled_from(JOB_NAMES), expected=st.integers(1, 3))
    def add_job(self, name: str, expected: int) -> None:
        now = self._tick()
        real = self.world.add_job(name=name, created=now - 3 * 86_400, expected_runs=expected)
        self.model.jobs[real.id] = Job(real.id, name, now, expected)

    @rule(pick=picks, is_finished=st.booleans(), ended_s=st.sampled_from([0.0, 60.0, 7200.0, 100_000.0]))
    def add_run(self, pick: int, is_finished: bool, ended_s: float) -> None:
        now = self._tick()
        jobs = [job for job in self._jobs() if len(job.runs) < job.expected]
        if not jobs:
            return
        job = jobs[pick % len(jobs)]
        real = self.world.jobs[job.id]
        if is_finished:
            made = real.add_run(started=now - ended_s - 60, completed=now - ended_s)
        else:
            made = real.add_run(started=now)
        # The mount may have listed the runs before this one was there, whatever its dates say.
        job.runs[made.id] = Run(made.id, now, NEVER if made.completed is None else made.completed)

    @rule(
        pick=picks,
        path=any_path,
        size=sizes,
        seed=picks,
        checksum=st.sampled_from(["sha512", "sha512", "md5", "both", "none"]),
    )
    def add_output(self, pick: int, path: str, size: int, seed: int, checksum: Any) -> None:
        now = self._tick()
        runs = self._runs()
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        made = content(size, seed)
        real = self.world.jobs[job.id].runs[run.id].add_file(path, made, checksum=checksum)
        data = made.read(0, size)
        run.outputs.append(
            Output(real.id, path, data, real.date_uploaded, now, now, now, has_checksum=checksum != "none")
        )

    @rule(pick=picks, path=any_path, size=st.sampled_from([0, 1, 300, 300, 65_530, 70_000]))
    def add_live(self, pick: int, path: str, size: int) -> None:
        now = self._tick()
        runs = [pair for pair in self._runs() if pair[1].is_live(now)]
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        if run.names(now) & {path} or any(_is_above(path, other) for other in run.names(now)):
            return
        self.world.jobs[job.id].runs[run.id].add_live(path, _TEXT[:size])
        run.lives.setdefault(path, Live(path, [])).versions.append((now, _TEXT[:size]))

    @rule(
        pick=picks,
        which=picks,
        action=st.sampled_from(["append", "append", "append", "truncate", "replace", "remove", "rotate"]),
        size=st.sampled_from([0, 1, 5, 300, 5000, 66_000]),
    )
    def change_live(self, pick: int, which: int, action: str, size: int) -> None:
        now = self._tick()
        runs = [pair for pair in self._runs() if pair[1].names(now)]
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        path = sorted(run.names(now))[which % len(run.names(now))]
        real = self.world.jobs[job.id].runs[run.id]
        before = run.lives[path].at(now) or b""
        match action:
            case "append":
                more = _TEXT[len(before) : len(before) + size] if size != 5 else b"\0" * 5
                real.live[path].append(more)
                after: bytes | None = before + more
            case "truncate":
                real.live[path].truncate(size)
                after = before[:size]
            case "replace":
                after = _PLAIN[len(before) : len(before) + size]
                real.live[path].replace(after)
            case "remove":
                real.live[path].remove()
                after = None
            case _:
                other = f"{path}.1"
                if other in run.names(now) or len(other) > 200:
                    return
                real.rotate(path, other)
                after = b""
                run.lives.setdefault(other, Live(other, [])).versions.append((now, before))
        run.lives[path].versions.append((now, after))

    @rule(pick=picks, trickle_s=st.sampled_from([0.0, 0.3, 5.0, 40.0]))
    def finish_run(self, pick: int, trickle_s: float) -> None:
        now = self._tick()
        runs = [pair for pair in self._runs() if pair[1].is_live(now) and pair[1].completed == NEVER]
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        real = self.world.jobs[job.id].runs[run.id]
        real.trickle_s = trickle_s if self.driver.is_timed else min(trickle_s, 0.3)
        real.finish()
        assert real.completed is not None
        run.completed = real.completed
        self._catch_up()

    @rule(pick=picks, which=picks)
    def delete_output(self, pick: int, which: int) -> None:
        now = self._tick()
        found = [(run, o) for _, run in self._runs() for o in run.outputs if o.is_listed(now) and o.uploaded <= now]
        if not found:
            return
        _, output = found[(pick * 12 + which) % len(found)]
        self.world.files[output.id][1].is_deleted = True
        output.deleted = now

    @rule(pick=picks)
    @precondition(lambda self: len(self._jobs()) > 1)
    def delete_job(self, pick: int) -> None:
        now = self._tick()
        job = self._jobs()[pick % len(self._jobs())]
        with self.world.lock:
            del self.world.jobs[job.id]
            for run in job.runs.values():
                for output in run.outputs:
                    self.world.files.pop(output.id, None)
        job.until = now

    @rule(seconds=moments_s)
    def wait(self, seconds: float) -> None:
        self._tick()
        self.driver.wait(seconds)
        self._catch_up()

    # ---- what goes wrong ----

    @rule(fault=st.sampled_from(FAULTS), nth=st.integers(1, 4), is_lasting=st.booleans())
    def break_next(self, fault: tuple[dict[str, Any], set[int]], nth: int, is_lasting: bool) -> None:
        effects, errnos = fault
        is_retried = bool({"status", "late_status", "drop", "cut_after"} & set(effects)) and not is_refusal(effects)
        is_lasting &= self.driver.is_timed or not is_retried  # real retries take their time
        self.fault = Fault({**effects, "skip": nth - 1, "times": None if is_lasting else 1}, errnos)

    @rule(pick=picks, position=st.sampled_from([0, 9, 65_536, 299_999]))
    def corrupt_next(self, pick: int, position: int) -> None:
        outputs = [o for _, run in self._runs() for o in run.outputs if o.has_checksum and position < len(o.data)]
        small = [output for output in outputs if len(output.data) <= 4 * MIB]
        if small:
            path = f"/files/{small[pick % len(small)].id}/"
            self.fault = Fault({"endpoint": "contents", "path": path, "wrong_byte_at": position}, {errno.EIO})

    @rule(is_crash=st.booleans(), damage=st.sampled_from(["", "", "flip", "cut", "wipe"]), seed=picks)
    def restart(self, is_crash: bool, damage: str, seed: int) -> None:
        self._restart(is_crash, damage, seed)

    def _restart(self, is_crash: bool, damage: str, seed: int) -> None:
        self._tick()
        if not is_crash:
            self._close_all()
        self.driver.settle()
        self.driver.restart(is_crash=is_crash, between=lambda: self._damage(damage, seed))
        if is_crash:
            self._close_all()  # of the process that is gone
        self.model.restarted = self._tick()

    def _damage(self, damage: str, seed: int) -> None:
        cache = self.driver.cache
        if damage == "wipe":
            self.driver.wipe()
        files = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
        if not files or damage in ("", "wipe"):
            return
        chosen = files[seed % len(files)]
        data = bytearray(chosen.read_bytes())
        at = random.Random(seed).randrange(len(data))
        if damage == "flip":
            data[at] ^= 0x40
        else:
            del data[at:]
        chosen.write_bytes(data)

    @rule()
    def wipe(self) -> None:
        self._tick()
        self.driver.settle()
        self.driver.wipe()

    # ---- what a user does ----

    @rule()
    def list_jobs(self) -> None:
        result = self._ask(lambda: self.driver.names("/jobs"))
        if not result.errno:
            allowed = self.model.job_sets(result.first, result.last)
            assert frozenset(result.value) in allowed, f"jobs {sorted(result.value)}, not {allowed}"
            assert set(result.value.values()) <= {stat.S_IFDIR}

    @rule()
    def list_names(self) -> None:
        result = self._ask(
            lambda: {name: self.driver.link(f"/by-name/{name}") for name in self.driver.names("/by-name")}
        )
        if not result.errno:
            jobs = self.model.jobs
            allowed = [
                {shown_job(jobs[id].name, id): f"../jobs/{id}" for id in ids}
                for ids in self.model.job_sets(result.first, result.last)
            ]
            assert result.value in allowed, f"{result.value}, not {allowed}"

    @rule(pick=picks)
    def read_tables(self, pick: int) -> None:
        result = self._ask(lambda: self._text("/jobs.csv"))
        if not result.errno:
            ids = frozenset(row["id"] for row in csv.DictReader(io.StringIO(result.value)))
            assert ids in self.model.job_sets(result.first, result.last)
        jobs = self._jobs(with_deleted=True)
        job = jobs[pick % len(jobs)]
        result = self._ask(lambda: self._text(f"/jobs/{job.id}/runs.csv"), job)
        if not result.errno:
            ids = frozenset(row["id"] for row in csv.DictReader(io.StringIO(result.value)))
            assert ids in self.model.run_sets(job, result.first, result.last)

    @rule(pick=picks)
    def list_runs(self, pick: int) -> None:
        jobs = self._jobs(with_deleted=True)
        job = jobs[pick % len(jobs)]
        result = self._ask(lambda: self.driver.names(f"/jobs/{job.id}/runs"), job)
        if not result.errno:
            allowed = self.model.run_sets(job, result.first, result.last)
            found = frozenset(result.value)
            assert found in {ids | ({"latest"} if ids else frozenset()) for ids in allowed}, f"{found}, not {allowed}"

    @rule(pick=picks)
    def walk(self, pick: int) -> None:
        runs = self._runs(with_deleted=True)
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        result = self._ask(lambda: self._walk(_path(job, run)), job, run)
        if not result.errno:
            allowed = [set(tree) for tree in self.model.views(job, run, result.first, result.last)]
            assert result.value in allowed, f"{sorted(result.value)}, not {sorted(map(sorted, allowed))}"

    @rule(pick=picks, which=picks)
    def look(self, pick: int, which: int) -> None:
        chosen = self._choose(pick, which)
        if chosen is None:
            return
        job, run, path = chosen
        result = self._ask(
            lambda: self.driver.stat(f"{_path(job, run)}/{path}"),
            job,
            run,
            excused=lambda result: self._excuses(job, run, path, result, is_open=False),
        )
        if result.errno:
            return
        mode, size, _ = result.value
        kinds = [tree[path] for tree in self.model.views(job, run, result.first, result.last) if path in tree]
        for entity in kinds:
            if isinstance(entity, str):
                if mode == stat.S_IFREG | 0o600:
                    return
            elif mode == stat.S_IFREG | 0o444 and size in self._lengths(run, entity, result):
                return
        lengths = [self._lengths(run, entity, result) for entity in kinds if not isinstance(entity, str)]
        raise AssertionError(f"{path!r} has {size} bytes, mode {mode:o}, not {lengths}")

    @rule(pick=picks, which=picks)
    def open_file(self, pick: int, which: int) -> None:
        self._open(pick, which)

    def _open(self, pick: int, which: int) -> Opened | None:
        chosen = self._choose(pick, which)
        if chosen is None:
            return None
        if len(self.handles) >= _MAX_HANDLES:
            self._close(self.handles[0])
        job, run, path = chosen
        result = self._ask(
            lambda: self.driver.open(f"{_path(job, run)}/{path}"),
            job,
            run,
            excused=lambda result: self._excuses(job, run, path, result, is_open=True),
        )
        if result.errno:
            return None
        found = [tree[path] for tree in self.model.views(job, run, result.first, result.last) if path in tree]
        entities = list(dict.fromkeys(found))
        if not any(isinstance(entity, Output | Live) for entity in entities):
            assert found, f"{path!r} was opened, but is not there"
            self.driver.close(result.value)
            return None
        # Who opens an output that is on its way gets what is known of the live file.
        entities += [
            run.lives[entity.path]
            for entity in entities
            if isinstance(entity, Output) and entity.path in run.lives and entity.uploaded > result.first - SETTLING_S
        ]
        handle = Opened(result.value, job, run, list(dict.fromkeys(entities)), result.first)
        self.handles.append(handle)
        handle.following = [
            Following(entity.path, result.first) for entity in handle.entities if isinstance(entity, Live)
        ]
        run.followed += handle.following
        return handle

    @rule(
        which=picks,
        place=st.sampled_from([0, 1, 65_536, 131_072, 4 * MIB, 8 * MIB, -1, -70_000]),
        shift=st.integers(-2, 2),
        size=st.sampled_from([1, 2, 5, 300, 4096, 65_536, 131_072]),
    )
    @precondition(lambda self: self.handles)
    def read(self, which: int, place: int, shift: int, size: int) -> None:
        handle = self.handles[which % len(self.handles)]
        length = max(self._longest(handle), 1)
        offset = max(0, (place if place >= 0 else length + place) + shift)
        if offset > length + 5:
            offset = offset % length
        self._read(handle, offset, size)

    @rule(pick=picks, which=picks, piece=st.sampled_from([131_072, 65_536, 1000_000]))
    def read_whole(self, pick: int, which: int, piece: int) -> None:
        handle = self._open(pick, which)
        if handle is None:
            return
        offset = 0
        while data := self._read(handle, offset, piece):
            offset += len(data)
        self._close(handle)
        self.driver.settle()
        cached: int = self.driver.cached_bytes()
        assert cached <= self.driver.cache_bytes, f"{cached} bytes are cached"

    @rule(which=picks)
    @precondition(lambda self: self.handles)
    def close_file(self, which: int) -> None:
        self._tick()
        self._close(self.handles[which % len(self.handles)])

    @rule(pick=picks, act=st.sampled_from(["stop", "snapshot", "snapshot"]), payload=st.sampled_from(PAYLOADS))
    def act(self, pick: int, act: str, payload: bytes) -> None:
        runs = self._runs(with_deleted=True)
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        data = payload.replace(b"{act}", act.encode())
        is_good = payload in PAYLOADS[:GOOD]
        if not data:  # write(2) of nothing asks nobody
            return
        before = self.emulator.methods["POST"]
        real_job = self.world.jobs.get(job.id)
        real = real_job.runs[run.id] if real_job is not None else None

        def excused(result: Result) -> set[int]:
            if not is_good:
                return {errno.EINVAL}
            is_pending = any(is_snapshot(output) and is_awaited(output, result.first) for output in run.outputs)
            answers = {errno.EPERM} if run.completed <= result.last else set()
            if result.first < run.completed <= result.last:  # between the look and the act, which had to wait its turn
                answers |= {errno.EIO, errno.ENOENT}
            return answers | ({errno.EBUSY} if is_pending and act == "snapshot" else set())

        result = self._ask(
            lambda: self._command(f"{_path(job, run)}/.rescale/{act}", data), job, run, excused=excused, is_act=True
        )
        sent = self.emulator.methods["POST"] - before
        if not is_good:
            assert result.errno, "another payload acted"
        if result.errno in (errno.EINVAL, errno.EPERM, errno.EBUSY):
            assert sent == 0, "refused, but sent"
        elif not result.errno:
            assert sent == 1, f"sent {sent} times"
            assert run.completed > result.first, "acted on a run that is not live"
        assert sent <= 1, f"sent {sent} times"
        self.posts += sent
        if sent and real is not None:
            if real.completed is not None and run.completed == NEVER:
                run.completed = real.completed
            known = {output.id for output in run.outputs}
            for made in real.files:
                if made.type_id == _SNAPSHOT and made.id not in known:
                    due, archive = made.date_uploaded, made.content.read(0, made.content.size)
                    run.outputs.append(Output(made.id, made.relative_path or "", archive, due, result.first, due, due))

    @rule(pick=picks, level=st.sampled_from(["all", "job", "run"]), payload=st.sampled_from([b"1\n", b"refresh", b"2"]))
    def refresh(self, pick: int, level: str, payload: bytes) -> None:
        runs = self._runs(with_deleted=True)
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        ids = {"all": (), "job": (job.id,), "run": (job.id, run.id)}[level]
        place = {"all": "", "job": f"/jobs/{job.id}", "run": _path(job, run)}[level]
        result = self._ask(
            lambda: self._command(f"{place}/.rescale/refresh", payload),
            *(() if level == "all" else (job,) if level == "job" else (job, run)),
            excused=lambda _: set() if payload != b"2" else {errno.EINVAL},
        )
        assert result.errno or payload != b"2"
        if not result.errno:
            self.model.refreshed[ids] = result.first

    @rule(pick=picks)
    def read_state(self, pick: int) -> None:
        runs = self._runs(with_deleted=True)
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        result = self._ask(lambda: self._text(f"{_path(job, run)}/.rescale/status"), job, run)
        if not result.errno:
            allowed = self.model.states(job, run, result.first, result.last)
            assert result.value.strip() in allowed, f"{result.value.strip()}, not {allowed}"

    @rule(pick=picks, which=picks)
    def read_xattr(self, pick: int, which: int) -> None:
        chosen = self._choose(pick, which)
        if chosen is None:
            return
        job, run, path = chosen
        result = self._ask(
            lambda: self.driver.xattr(f"{_path(job, run)}/{path}", "user.rescale.file_id"),
            job,
            run,
            excused=lambda result: self._excuses(job, run, path, result, is_open=False) | {errno.ENODATA},
        )
        if not result.errno:
            trees = self.model.views(job, run, result.first, result.last)
            ids = {getattr(tree[path], "id", None) for tree in trees if path in tree}
            assert result.value in ids, f"{result.value}, not {ids}"

    @rule(pick=picks, name=st.sampled_from(["nothing", ".git", "log/x", "n" * 256, "autorun.inf"]))
    def look_for_what_is_not_there(self, pick: int, name: str) -> None:
        runs = self._runs()
        if not runs:
            return
        job, run = runs[pick % len(runs)]
        result = self._ask(
            lambda: self.driver.stat(f"{_path(job, run)}/{name}"),
            job,
            run,
            # The kernel looks at what is above it, too, which may be a live file that is no more.
            excused=lambda result: (
                {errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR}
                | self._excuses(job, run, name.partition("/")[0], result, is_open=False)
            ),
        )
        assert result.errno, f"{name} is there"

    # ---- asking and judging ----

    def _tick(self) -> float:
        """Let no two things happen at one moment; return the time."""
        type(self).steps += 1
        self.driver.tick()
        self._catch_up()
        return self.driver.now()

    def _ask(
        self,
        question: Callable[[], Any],
        job: Job | None = None,
        run: Run | None = None,
        *,
        excused: Callable[[Result], set[int]] = lambda _: set(),
        is_act: bool = False,
    ) -> Result:
        """Ask, with the fault that is armed, and judge the error if one comes."""
        self._tick()
        fault, self.fault = self.fault, None
        added = self.emulator.faults.add(**fault.effects) if fault is not None else None
        result = Result(self.driver.now())
        began = time.monotonic()
        try:
            result.value = question()
        except OSError as error:
            result.errno = error.errno or -1
        result.is_slow = time.monotonic() - began > _SLOW_S
        if added is not None:
            self.driver.settle()
            self.emulator.faults.remove(added)
            result.is_faulty = added.hits > 0
            result.is_wrong = result.is_faulty and "wrong_byte_at" in added.effects
        result.last = self.driver.now()
        self._catch_up()
        if result.is_faulty:
            self.model.troubled = result.last
        if not result.errno:
            assert job is None or not self.model.is_gone(job, result.first), "a deleted job is still there"
        else:
            allowed = excused(result) | (fault.errnos if fault is not None and result.is_faulty else set())
            if job is not None and (job.until <= result.last or self._is_troubled(result, JOBS_S)):
                allowed |= {errno.ENOENT}
            if job is not None and run is not None:
                since = max(self.model.fresh_runs(job), result.first - 10.0)
                allowed |= {errno.ENOENT} if run.started >= since else set()
            code = errno.errorcode.get(result.errno)
            assert result.errno in allowed, f"{code}, without a reason; allowed: {sorted(allowed)}"
        assert is_act or self.emulator.methods["POST"] == self.posts, "something acted by accident"
        return result

    def _is_troubled(self, result: Result, seconds: float) -> bool:
        return self.model.troubled > result.first - seconds

    def _excuses(self, job: Job, run: Run, path: str, result: Result, *, is_open: bool) -> set[int]:
        """Return the errors that a stat or an open of a path may give."""
        trees = self.model.views(job, run, result.first, result.last)
        allowed: set[int] = set()
        if any(path not in tree for tree in trees):
            allowed |= {errno.ENOENT, errno.ENOTDIR}
        for entity in {tree[path] for tree in trees if path in tree}:
            if isinstance(entity, Live):
                if DOTS & set(entity.path.split("/")):  # no address can say so
                    allowed |= {errno.EIO}
                if run.completed <= result.last or entity.is_removed(result.first - LIVE_S - DEAD_S, result.last):
                    allowed |= {errno.ENOENT, errno.EIO}
            elif isinstance(entity, Output) and is_open and entity.uploaded > self._seen_since(job, run, result):
                allowed |= {errno.EIO}
        return allowed

    def _seen_since(self, job: Job, run: Run, result: Result) -> float:
        """Return since when a row at the latest was seen as it is now."""
        return max(self.model.fresh(job.id, run.id), result.first - SETTLING_S)

    def _lengths(self, run: Run, entity: Output | Live, result: Result) -> set[int]:
        """Return the sizes that a file may be said to have."""
        if isinstance(entity, Output):
            _, followed = run.followed_between(result.first - self.model.slack_s, result.last)
            own = {len(entity.data)}
            if entity.path not in followed:
                return own
            return own | {len(version.data) for version in versions(run, entity.path, result.last)}
        known = versions(run, entity.path, result.last)
        if not self._is_exact(run, entity, result):
            return {len(version.data) for version in known}
        since = result.first - LOOK_S - self.model.slack_s
        return {len(version.data) for version in known if version.until > since}

    def _is_exact(self, run: Run, live: Live, result: Result) -> bool:
        """Tell whether what is said of a live file must be true of the last seconds."""
        is_troubled = self._is_troubled(result, FAILING_S) or result.is_slow
        is_dead = run.completed <= result.last or live.is_removed(result.first - FAILING_S, result.last)
        return not (is_troubled or is_dead)

    def _longest(self, handle: Opened) -> int:
        lengths = [0]
        for entity in handle.entities:
            if isinstance(entity, Output):
                lengths.append(len(entity.data))
            elif isinstance(entity, Live):
                lengths += [len(v.data) for v in versions(handle.run, entity.path, self.driver.now())]
        return max(lengths)

    def _read(self, handle: Opened, offset: int, size: int) -> bytes:
        result = self._ask(
            lambda: self.driver.read(handle.number, offset, size),
            excused=lambda result: self._read_excuses(handle, offset, result),
        )
        if result.errno:
            handle.failed = result.errno, time.monotonic()
            handle.is_poisoned |= result.is_wrong
            return b""
        data: bytes = result.value
        possible = [entity for entity in handle.entities if self._is_right(handle, entity, offset, size, result)]
        names = [getattr(entity, "path", "") for entity in handle.entities]
        assert possible, f"[{offset}, +{size}) of {names}: {len(data)} bytes {data[:40]!r} are of no version"
        handle.entities = possible
        handle.served.append((offset, data))
        return data

    def _read_excuses(self, handle: Opened, offset: int, result: Result) -> set[int]:
        allowed: set[int] = set()
        if handle.failed is not None and time.monotonic() - handle.failed[1] < _REPEATED_S + 0.1:
            allowed.add(handle.failed[0])
        if handle.is_poisoned:
            allowed |= {errno.EIO}
        for entity in handle.entities:
            if isinstance(entity, Output):
                is_gone = entity.deleted <= result.last or handle.job.until <= result.last
                allowed |= {errno.ESTALE} if is_gone else set()
            elif (
                isinstance(entity, Live)
                and offset
                and not has_only_grown(handle.run, entity.path, self._bound(handle), result.last)
            ):
                allowed |= {errno.ESTALE}
        return allowed

    def _bound(self, handle: Opened) -> float:
        """Return since when at the earliest the file was seen that a handle is of."""
        if self.model.troubled > handle.since - FAILING_S:
            return handle.since - FAILING_S
        return handle.since - LOOK_S - self.model.slack_s

    def _is_right(self, handle: Opened, entity: Entity, offset: int, size: int, result: Result) -> bool:
        data: bytes = result.value
        if isinstance(entity, str):  # a control file, in whose place another file may be listed by now
            return not data or (entity.encode() in data and data.endswith(b"\n"))
        if isinstance(entity, Output):
            return data == entity.data[offset : offset + size]
        run, served = handle.run, handle.served
        known = versions(run, entity.path, result.last)
        is_exact = self._is_exact(run, entity, result)
        since = result.first - LOOK_S - self.model.slack_s
        if not is_exact and self._is_final_due(handle, entity, result):
            known = [version for version in known if version.data in self._finals(handle, entity)]
        right = [
            version.data
            for version in known
            if version.data[offset : offset + size] == data
            and (len(data) == size or not is_exact or version.until > since)
        ]
        if any(all(one[at : at + len(part)] == part for at, part in served) for one in right):
            return True
        if offset or not right or has_only_grown(run, entity.path, self._bound(handle), result.last):
            return False
        served.clear()  # it began anew
        handle.since = result.first
        return True

    def _finals(self, handle: Opened, live: Live) -> list[bytes]:
        return [output.data for output in handle.run.outputs if output.path == live.path]

    def _is_final_due(self, handle: Opened, live: Live, result: Result) -> bool:
        """Tell whether who follows a file of a run that has ended must be served the final one by now."""
        finals = [output for output in handle.run.outputs if output.path == live.path]
        settled_s = result.first - SETTLING_S - LOOK_S - 10.0 - self.model.slack_s
        is_there = any(output.uploaded < settled_s and output.deleted == NEVER for output in finals)
        is_undisturbed = not (self._is_troubled(result, FAILING_S) or result.is_slow) and handle.job.until == NEVER
        return handle.run.completed < settled_s and is_there and is_undisturbed

    # ---- by hand ----

    def _walk(self, top: str, below: str = "") -> set[str]:
        found: set[str] = set()
        for name, kind in self.driver.names(f"{top}/{below}".rstrip("/")).items():
            if kind == stat.S_IFDIR:
                inner = self._walk(top, f"{below}{name}/")
                assert inner, f"{below}{name} is an empty directory"
                found |= inner
            else:
                found.add(f"{below}{name}")
        return found

    def _text(self, path: str) -> str:
        number = self.driver.open(path)
        try:
            return self.driver.read(number, 0, MIB).decode(errors="surrogateescape")
        finally:
            self.driver.close(number)

    def _command(self, path: str, data: bytes) -> None:
        number = self.driver.open(path, os.O_WRONLY)
        try:
            self.driver.write(number, data)
        finally:
            self.driver.close(number)

    def _jobs(self, *, with_deleted: bool = False) -> list[Job]:
        return [job for job in self.model.jobs.values() if with_deleted or job.until == NEVER]

    def _runs(self, *, with_deleted: bool = False) -> list[tuple[Job, Run]]:
        return [(job, run) for job in self._jobs(with_deleted=with_deleted) for run in job.runs.values()]

    def _choose(self, pick: int, which: int) -> tuple[Job, Run, str] | None:
        """Choose a path that may be there now."""
        runs = self._runs(with_deleted=True)
        if not runs:
            return None
        job, run = runs[pick % len(runs)]
        now = self.driver.now()
        trees: list[Tree] = self.model.views(job, run, now, now)
        known = sorted({path for tree in trees for path in tree})
        return (job, run, known[which % len(known)]) if known else None

    def _catch_up(self) -> None:
        """Let the live files of runs that have ended become outputs, each listed and then uploaded in its turn."""
        now = self.driver.now()
        for job, run in self._runs():
            if run.completed > now or (job.id, run.id) in self.settled:
                continue
            self.settled.add((job.id, run.id))
            real = self.world.jobs[job.id].runs[run.id]
            real.output_count()
            known = {output.id for output in run.outputs}
            new = {file.relative_path: file.id for file in real.files if file.id not in known}
            due = run.completed
            for path, live in run.lives.items():
                data = live.at(run.completed)
                if data is not None:
                    end = due + real.trickle_s
                    run.outputs.append(Output(new[path], path, data, end, run.completed, due, end))
                    due = end

    def _close(self, handle: Opened) -> None:
        self.driver.close(handle.number)
        self.handles.remove(handle)
        self._forget(handle)

    def _forget(self, handle: Opened) -> None:
        for each in handle.following:
            each.until = self.driver.now()

    def _close_all(self) -> None:
        for handle in list(self.handles):
            self._close(handle)


def _path(job: Job, run: Run) -> str:
    return f"/jobs/{job.id}/runs/{run.id}"


def _is_above(one: str, other: str) -> bool:
    """Tell whether one of two paths would have to be a directory for the other."""
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


def is_snapshot(output: Output) -> bool:
    """Tell whether an output is the archive of a snapshot."""
    return output.path.startswith("snapshot_")


def is_awaited(snapshot: Output, at: float) -> bool:
    """Tell whether a snapshot may be under way for the mount: one that was deleted may have been seen by nobody."""
    return snapshot.uploaded > at or (snapshot.deleted <= at < snapshot.added + SNAPSHOT_PENDING_S)


def is_refusal(effects: dict[str, Any]) -> bool:
    """Tell whether a fault is not tried again."""
    return effects.get("status", 0) in (401, 403, 404, 409)
