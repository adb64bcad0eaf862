"""One cache directory, several processes, some of them killed: every byte right, the bound kept, no garbage."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cache_user import MIB, PLAIN, SIZES
from tests.conftest import wait_for
from tests.disk_use import files, used_bytes
from tests.faulty_source import FaultySource, remote
from tests.test_engine import engine_on

ROOT = Path(__file__).parent.parent
END_S = 60.0
LIMIT = 20 * MIB
READY = b"ready\n"
CONTENTS = {str(number): PLAIN[number : number + size] for number, size in enumerate(SIZES)}


class User:
    """A process that reads through the cache and checks each byte."""

    def __init__(self, root: Path, seed: int, reads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cache_user", str(root), str(LIMIT), str(seed), str(reads)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == READY, self.process.communicate()[1].decode()

    def result(self) -> dict[str, Any]:
        """What it told when it had read all."""
        out, errors = self.process.communicate(timeout=END_S)
        assert self.process.returncode == 0, errors.decode()
        return dict(json.loads(out.splitlines()[-1]))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def users(root: Path, count: int, reads: int, seed: int = 0) -> Iterator[list[User]]:
    """Processes on one directory; none is left behind."""
    made = [User(root, seed + number, reads) for number in range(count)]
    try:
        yield made
    finally:
        for user in made:
            user.end()


def check_all(root: Path) -> None:
    """Read all files whole, as the next process would: right bytes, and within the limit from then on."""
    with closing(engine_on(root, FaultySource(CONTENTS), LIMIT)) as engine:
        assert used_bytes(root) <= LIMIT
        for file_id, data in CONTENTS.items():
            with closing(engine.open(remote(file_id, data))) as handle:
                assert b"".join(handle.read(at, MIB) for at in range(0, len(data), MIB)) == data
        assert used_bytes(root) <= LIMIT
    names = [path.relative_to(root / "v2").as_posix() for path in files(root)]
    assert [name for name in names if not re.fullmatch(r"([0-9a-f]{2})/\1[0-9a-f]{38}\.[0-9]+", name)] == []
    assert {path.name for path in (root / "v2").iterdir() if path.is_file()} == {"lock"}
    assert os.listdir(root) == ["v2"]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_a_directory_under_evictions(tmp_path: Path, count: int) -> None:
    """Each reads right bytes while the others evict; each may be beyond the bound by what it writes between looks."""
    with users(tmp_path, count, reads=400) as started:
        results = [user.result() for user in started]
    slack = count * (LIMIT // 16 + MIB)
    assert max(result["most"] for result in results) <= LIMIT + slack
    check_all(tmp_path)


def test_what_one_has_fetched_the_other_does_not_fetch(tmp_path: Path) -> None:
    """A second process takes from disk what the first one has written, while that one still has it open."""
    data = PLAIN[: 12 * MIB]
    file = remote("0", data)
    sources = [FaultySource({"0": data}) for _ in range(2)]
    engines = [engine_on(tmp_path, source) for source in sources]
    for engine in engines:
        with closing(engine.open(file)) as handle:
            assert b"".join(handle.read(at, MIB) for at in range(0, len(data), MIB)) == data
    assert [source.taken_bytes for source in sources] == [len(data), 0]
    for engine in engines:
        engine.close()


def test_who_has_closed_a_file_leaves_writing_it_to_others(tmp_path: Path) -> None:
    """A second process keeps on disk what it reads of a file of which the first one has looked at the head."""
    data = PLAIN[: 12 * MIB]
    file = remote("0", data)
    sources = [FaultySource({"0": data}) for _ in range(2)]
    engines = [engine_on(tmp_path, source) for source in sources]
    with closing(engines[0].open(file)) as handle:
        handle.read(0, 1)
    content, segments = handle.content, engines[0]._cache._opened

    def is_left() -> bool:
        return not content.fetches and not any(segment._is_writer for segment in segments.values())

    wait_for(is_left, END_S, lambda: "the first one goes on")
    with closing(engines[1].open(file)) as handle:
        assert b"".join(handle.read(at, MIB) for at in range(0, len(data), MIB)) == data
    taken = sources[1].taken_bytes
    assert taken < len(data)
    for engine in engines:
        engine.close()
    with closing(engine_on(tmp_path, sources[1])) as engine, closing(engine.open(file)) as handle:
        assert b"".join(handle.read(at, MIB) for at in range(0, len(data), MIB)) == data
    assert sources[1].taken_bytes == taken


def kill_again_and_again(root: Path, times: int) -> None:
    """Kill one of two at a random moment of its work, each time; look at what it left each time."""
    order = random.Random(times)
    with users(root, 1, reads=1 << 30, seed=1) as (steady,):
        steady.wait_until_ready()
        for number in range(times):
            with users(root, 1, reads=1 << 30, seed=100 + number) as (victim,):
                victim.wait_until_ready()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    victim.process.wait(order.random() * 0.15)  # it ends by itself only if it finds wrong bytes
                assert victim.process.poll() is None, victim.process.communicate()[1].decode()
            check_all_but_the_bound(root)
            assert steady.process.poll() is None, steady.process.communicate()[1].decode()
    check_all(root)


def check_all_but_the_bound(root: Path) -> None:
    """What a killed process left is read right by another one, beside one that goes on."""
    order = random.Random(0)
    with closing(engine_on(root, FaultySource(CONTENTS), LIMIT)) as engine:
        for file_id, data in CONTENTS.items():
            with closing(engine.open(remote(file_id, data))) as handle:
                for at in sorted(order.randrange(len(data)) for _ in range(4)):
                    assert handle.read(at, MIB) == data[at : at + MIB]
    assert used_bytes(root) <= LIMIT + 2 * (LIMIT // 16 + MIB)
    assert len(files(root)) <= 2 * len(SIZES)


def test_a_killed_process_leaves_nothing_wrong(tmp_path: Path) -> None:
    """kill -9 at 5 random moments, beside a process that goes on: right bytes from then on, no garbage."""
    kill_again_and_again(tmp_path, 5)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_process_killed_200_times_leaves_nothing_wrong(tmp_path: Path) -> None:
    """kill -9 at 200 random moments, beside a process that goes on: right bytes from then on, no garbage."""
    kill_again_and_again(tmp_path, 200)
