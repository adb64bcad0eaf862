"""The emulated world: contents, clocks, jobs, live files, world files, and the demo."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rescalefs.emulator.clock import ManualClock, iso, parse_iso
from rescalefs.emulator.content import BLOCK_BYTES, Content, Generated, LocalFile, as_content
from rescalefs.emulator.demo_world import (
    AIRFOIL_JOB,
    DRAFT_JOB,
    FAILED_JOB,
    LIVE_JOB,
    SWEEP_JOB,
    demo_world,
)
from rescalefs.emulator.files import SNAPSHOT, Step, grow
from rescalefs.emulator.world import Job, World, WorldError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def job(world: World) -> Job:
    return world.add_job("AbCdE")


def whole(content: Content) -> bytes:
    return content.read(0, content.size)


# Contents and times.


@pytest.mark.parametrize("size", [0, 1, 5, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
def test_generated_content(size: int) -> None:
    content = Generated(size, "seed")
    computed = whole(content)
    assert len(computed) == size
    assert computed == whole(Generated(size, "seed"))
    assert content.digest("sha512") == hashlib.sha512(computed).hexdigest()
    path = content.local_file()
    assert (path is None) == (size <= BLOCK_BYTES)
    if path is not None:
        assert path.read_bytes() == computed
        assert content.read(BLOCK_BYTES - 3, BLOCK_BYTES + 3) == computed[BLOCK_BYTES - 3 : BLOCK_BYTES + 3]
        del content
        assert not path.exists()


def test_generated_blocks_differ() -> None:
    assert len(set(Generated(8 * BLOCK_BYTES).blocks())) == 8
    assert whole(Generated(100, 1)) != whole(Generated(100, 2))


def test_contents_of_all_sorts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert whole(as_content("\u00fc")) == b"\xc3\xbc"
    assert as_content(path).read(8, 99) == b"89"
    assert isinstance(as_content(path), LocalFile)
    with pytest.raises(FileNotFoundError):
        as_content(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("2014-11-12T22:56:50.641761Z", "Z"),
        ("2014-11-12T22:56:50+00:00", "+00:00"),
        ("2014-11-12T15:56:50.500000-07:00", "-07:00"),
    ],
)
def test_times_there_and_back(text: str, zone: str) -> None:
    assert iso(parse_iso(text), zone) == text


# Jobs and runs.


def test_ids_are_rescales_and_unique(world: World) -> None:
    ids = [world.add_job().id for _ in range(50)]
    run = world.jobs[ids[0]].add_run(finished=True)
    ids += [run.add_file(str(number), b"").id for number in range(50)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch("[A-Za-z]{5,6}", id) for id in ids)
    with pytest.raises(ValueError, match="two things"):
        run.add_file("x", b"", id=ids[0])


def test_statuses(world: World, clock: ManualClock) -> None:
    assert world.add_job(submitted=False).history() == []
    done = world.add_job(expected_runs=2)
    done.add_run(finished=True)
    assert done.history()[-1].status == "Executing"
    done.add_run(finished=True, failed=True)
    assert (done.history()[-1].status, done.history()[-1].reason) == ("Completed", "A run failed")
    queued = world.add_job(submitted=clock.now(), stages={"Pending": 0, "Queued": 5})
    queued.stop()
    clock.advance(10)
    assert [status.status for status in queued.history()] == ["Pending", "Stopping", "Completed"]


def test_stopping_one_of_several_runs(job: Job, clock: ManualClock) -> None:
    first, second = job.add_run(live={"a": b""}), job.add_run(live={"a": b""})
    assert first.stop()
    clock.advance(5)
    assert not first.is_live()
    assert not first.stop()
    assert job.history()[-1].status == "Executing"
    second.finish()
    assert job.history()[-1].reason == "Completed successfully"


def test_a_run_waits_for_its_job(world: World, clock: ManualClock) -> None:
    job = world.add_job(submitted=clock.now())
    run = job.add_run(live={"log": "x"})
    assert not run.is_visible()
    clock.advance(4)
    assert run.is_live()


# Live files.


def test_live_file_by_hand(job: Job) -> None:
    run = job.add_run(live={"log": "one\n", "other": b""})
    log = run.live["log"]
    log.append(b"two\n")
    assert log.read() == b"one\ntwo\n"
    log.truncate(4)
    assert log.read() == b"one\n"
    assert run.rotate("log", "log.1").read() == b""
    assert run.live["log.1"].read() == b"one\n"
    run.live["other"].remove()
    log.replace(b"new")
    assert [file.path for file in run.live_files()] == ["log", "log.1"]


def test_live_file_by_script(job: Job, clock: ManualClock) -> None:
    run = job.add_run()
    steps = [Step(1, "append", b"x"), Step(2, "truncate"), Step(3, "replace", b"zz"), Step(4, "remove")]
    scripted = run.add_live("scripted", b"", script=steps, since_s=1)
    endless = run.add_live("log", b"", script=grow("{n} {t}\n", every_s=2))
    seen = []
    for _ in range(5):
        seen.append((scripted.exists(), scripted.read(), endless.read()))
        clock.advance(1)
    assert seen == [
        (False, b"", b""),
        (True, b"x", b""),
        (True, b"", b"1 2\n"),
        (True, b"zz", b"1 2\n"),
        (False, b"zz", b"1 2\n2 4\n"),
    ]


def test_live_file_that_is_rotated_by_script(job: Job, clock: ManualClock) -> None:
    run = job.add_run()
    run.add_live("log", b"one\n", script=[Step(1, "append", b"two\n"), Step(2, "rotate", b"old/log.1")])
    seen = []
    for _ in range(3):
        seen.append({file.path: file.read() for file in run.live_files()})
        clock.advance(1)
    assert seen == [{"log": b"one\n"}, {"log": b"one\ntwo\n"}, {"log": b"", "old/log.1": b"one\ntwo\n"}]


def test_rotated_file_is_there_whoever_looks_first(job: Job, clock: ManualClock) -> None:
    run = job.add_run()
    run.add_live("log", b"one\n", script=[Step(1, "rotate", b"log.1")])
    assert run.live_file("log.1") is None
    clock.advance(1)
    rotated = run.live_file("log.1")
    assert rotated is not None
    assert rotated.read() == b"one\n"
    run.finish()
    assert [file.relative_path for file in run.listed_files()] == ["log", "log.1"]


def test_nothing_is_written_after_the_end(job: Job, clock: ManualClock) -> None:
    run = job.add_run()
    run.add_live("log", b"", script=grow("{n}", every_s=1))
    run.finish(in_s=3)
    clock.advance(100)
    (file,) = run.listed_files()
    assert whole(file.content) == b"123"
    assert file.date_uploaded == run.completed


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_snapshot_holds_the_moment(job: Job, clock: ManualClock, form: Any) -> None:
    run = job.add_run(live={"log": b"one", "d/f": b"two"})
    run.snapshot_format = form
    assert run.snapshot() is not None
    run.live["log"].append(b" more")
    clock.advance(2)
    (file,) = run.listed_files()
    archive = io.BytesIO(whole(file.content))
    if form == "zip":
        with zipfile.ZipFile(archive) as zipped:
            members = {name: zipped.read(name) for name in zipped.namelist()}
    else:
        with tarfile.open(fileobj=archive) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert (file.type_id, members) == (SNAPSHOT, {"log": b"one", "d/f": b"two"})


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_any_name_can_be_in_a_snapshot(job: Job, clock: ManualClock, form: Any) -> None:
    """JSON may tell of half of a surrogate pair, and of other names that are hardly any."""
    run = job.add_run(live={"half\ud800": b"one", "../x": b"two", "new\nline": b"three", "nul\0": b"four"})
    run.snapshot_format = form
    assert run.snapshot() is not None
    clock.advance(2)
    (file,) = run.listed_files()
    archive = io.BytesIO(whole(file.content))
    if form == "zip":
        with zipfile.ZipFile(archive) as zipped:
            assert {zipped.read(name) for name in zipped.namelist()} == {b"one", b"two", b"three", b"four"}
    else:
        with tarfile.open(fileobj=archive) as tar:
            assert "half\udced\udca0\udc80" in tar.getnames()
            assert len(tar.getnames()) == 4


def test_threads_append_whole_pieces(job: Job) -> None:
    log = job.add_run(live={"log": b""}).live["log"]
    threads = [
        threading.Thread(target=lambda piece=piece: [log.append(piece) for _ in range(200)])
        for piece in (b"aaaa\n", b"bbbb\n", b"cccc\n")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = log.read().splitlines()
    assert {line: lines.count(line) for line in set(lines)} == dict.fromkeys((b"aaaa", b"bbbb", b"cccc"), 200)


# World files.


def write(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "world.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_world_file(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "case" / "0").mkdir(parents=True)
    (tmp_path / "case" / "0" / "U").write_text("velocity")
    path = write(
        tmp_path,
        {
            "user": "me@example.com",
            "stop_s": 0,
            "jobs": [
                {"id": "DraFt", "submitted": False},
                {
                    "id": "AbCdE",
                    "name": "wing",
                    "created": "2023-11-01T10:00:00Z",
                    "zone": "-07:00",
                    "runs": [
                        {
                            "finished": True,
                            "variables": {"alpha": 2},
                            "files": {
                                "a.txt": "text",
                                "b.bin": {"base64": "AAE=", "id": "FileId", "checksum": "md5"},
                                "c": {"size": 5000, "seed": 1, "type_id": 11, "declared_size": 3},
                                "d": {"from": "case/0/U"},
                                ".": {"from": "case"},
                                "sub/dir": {"from": "case", "checksum": "none"},
                            },
                        },
                        {
                            "finished": True,
                            "files": [{"path": None, "text": "x", "name": "n"}, {"path": "../x", "text": ""}],
                        },
                        {
                            "started": -10,
                            "live": {
                                "log": {"text": "0", "grow": {"text": "{n}", "every_s": 5, "count": 3}},
                                "new": {"since_s": 15, "script": [{"at_s": 16, "action": "append", "text": "x"}]},
                            },
                        },
                    ],
                },
            ],
        },
    )
    world = World.from_file(path, clock=clock)
    assert world.user == "me@example.com"
    assert world.jobs["DraFt"].history() == []
    first, second, live = world.jobs["AbCdE"].runs.values()
    files = {file.relative_path: file for file in first.listed_files()}
    assert {path: whole(file.content)[:8] for path, file in files.items() if path != "c"} == {
        "a.txt": b"text",
        "b.bin": b"\0\1",
        "d": b"velocity",
        "0/U": b"velocity",
        "sub/dir/0/U": b"velocity",
    }
    assert (files["c"].content.size, files["c"].declared_size, files["c"].type_id) == (5000, 3, 11)
    assert (files["b.bin"].id, files["b.bin"].checksums()) == ("FileId", ("md5",))
    assert first.variables[0]["name"] == "alpha"
    assert [(file.name, file.relative_path) for file in second.files] == [("n", None), ("x", "../x")]
    assert live.live["log"].read() == b"012"
    clock.advance(6)
    assert [file.read() for file in live.live_files()] == [b"0123", b"x"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "line 1 is not JSON"),
        ([], "the world: it is []; write an object in braces"),
        ({"jobs": [{"nmae": "x"}]}, "jobs[0].nmae: there is no such field; use analysis, created, "),
        ({"jobs": [{"name": 5}]}, "jobs[0].name: it is 5; write a text"),
        ({"jobs": [{"created": "yesterday"}]}, "jobs[0].created: 'yesterday' is not a time such as"),
        ({"jobs": [{"id": "A"}, {"id": "A"}]}, "jobs[1].id: there are two things with the id 'A'; give each its own"),
        ({"jobs": [{"runs": [{"trickle_s": -1}]}]}, "jobs[0].runs[0].trickle_s: it is -1; give zero or more"),
        ({"jobs": [{"runs": [{"files": {"a": {}}}]}]}, "files['a']: 0 fields give its bytes; give one of"),
        ({"jobs": [{"runs": [{"files": {"a": {"text": "", "size": 1}}}]}]}, "files['a']: 2 fields give its bytes"),
        ({"jobs": [{"runs": [{"files": {"a": {"from": "nope"}}}]}]}, "files['a'].from: there is no file"),
        ({"jobs": [{"runs": [{"files": {"a": {"base64": "?"}}}]}]}, "files['a'].base64: it is not base64"),
        ({"jobs": [{"runs": [{"files": {"a": {"text": "", "checksum": "crc"}}}]}]}, "'crc' is not known; use sha512"),
        ({"jobs": [{"runs": [{"files": [{"text": "x"}]}]}]}, "files[0]: there is no path; write"),
        ({"jobs": [{"runs": [{"live": {"a": {"grow": {"text": "{m}", "every_s": 1}}}}]}]}, "only {n} and {t}"),
        ({"jobs": [{"runs": [{"live": {"a": {"grow": {"text": "x"}}}}]}]}, "text and every_s are needed"),
    ],
)
def test_world_file_with_a_mistake(tmp_path: Path, value: object, sentence: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(WorldError) as caught:
        World.from_file(path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_world_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="cannot be read"):
        World.from_file(tmp_path / "none.json")


# The demo.


def test_demo_world(clock: ManualClock) -> None:
    world = demo_world(clock=clock)
    last = {id: job.history()[-1:] for id, job in world.jobs.items()}
    assert {id: statuses[0].reason for id, statuses in last.items() if statuses} == {
        AIRFOIL_JOB: "Completed successfully",
        SWEEP_JOB: "Completed successfully",
        LIVE_JOB: None,
        FAILED_JOB: "A run failed",
        "QTVia": "Completed successfully",
    }
    assert last[DRAFT_JOB] == []
    sweep = world.jobs[SWEEP_JOB].runs
    assert len(sweep) == 12
    assert len({run.files[0].content.digest("sha512") for run in sweep.values()}) == 1
    assert [variable["name"] for variable in sweep["1"].variables] == ["alpha", "Cl"]
    live = world.jobs[LIVE_JOB].runs["1"]
    before = {file.path: len(file.read()) for file in live.live_files()}
    clock.advance(60)
    after = {file.path: len(file.read()) for file in live.live_files()}
    assert after["process_output.log"] > before["process_output.log"]
    assert set(after) - set(before) == {"90/U", "90/p", "120/U", "120/p"}
