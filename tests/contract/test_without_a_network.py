"""Mounts without a network, as docs/semantics.md promises them: what is here is shown, the rest is an error at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, mount_at, wait_for
from tests.network import bound, nobody_at
from tests.test_cli import failure, rescalefs
from tests.tools import FILES, errno_of, run_in, sh

pytestmark = pytest.mark.mount
DAY_S = 86_400.0


def may_leave_the_network() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-n", "true"]).returncode == 0


needs_unshare = pytest.mark.skipif(not may_leave_the_network(), reason="needs the right to unshare the network")


@pytest.fixture(scope="module")
def world() -> World:
    """A job with two final runs, and one with a live run."""
    world = World()
    then = world.clock.now() - 2 * DAY_S
    job = world.add_job("AbCdE", name="wing", created=then - 9000, expected_runs=2)
    for _ in range(2):
        job.add_run(started=then - 60, completed=then, files=FILES)
    world.add_job("LiveR").add_run(live={"log": b"Time = 0\n"})
    return world


@pytest.fixture(scope="module")
def without(binding: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount that knows run 1 and one of its files, mounted again where there is no network."""
    emulator = Emulator(world).start()
    mounted = mount_at(tmp_path_factory.mktemp("without") / "home", binding, emulator)
    try:
        mounted.mount()
        sh("ls -R AbCdE/runs/1 LiveR; cat AbCdE/runs/1/big.bin > /dev/null", mounted.jobs)
        mounted.unmount()
        mounted.log_file.write_bytes(b"")
        mounted.command = ["unshare", "-n", *mounted.command]
        mounted.mount()
        emulator.reset_counts()
        yield mounted
        assert not emulator.requests
    finally:
        mounted.clean_up()
        emulator.stop()


@needs_unshare
def test_a_mount_succeeds_without_a_network_if_jobs_were_kept(without: Mounted) -> None:
    assert sorted(os.listdir(without.jobs)) == ["AbCdE", "LiveR"]


def refused_at(home: Path, cache: Path, **environ: str) -> bool:
    """Tell whether Rescale "cannot be reached" is why a mount in the background fails."""
    point = home / "other"
    point.mkdir(exist_ok=True)
    return failure(rescalefs(home, "mount", "--cache-dir", str(cache), str(point), **environ))[0] == 4


def test_a_mount_without_a_network_fails_if_no_jobs_were_kept(
    mounted: Mounted, emulator: Emulator, tmp_path: Path
) -> None:
    """For another platform nothing is kept."""
    os.listdir(mounted.jobs)
    environ = {"RESCALE_API_URL": "http://127.0.0.1:1", "RESCALE_API_KEY": emulator.key}

    for cache in (mounted.cache, tmp_path / "empty"):
        assert refused_at(tmp_path, cache, **environ)


@needs_unshare
def test_jobs_runs_and_files_of_final_runs_are_shown_as_they_were_seen_last(without: Mounted) -> None:
    top = without.jobs / "AbCdE/runs/1"

    assert os.listdir(without.jobs / "AbCdE/runs") == ["1", "2", "latest"]
    assert "wing~AbCdE" in os.listdir(without.path / "by-name")
    assert (without.path / "jobs.csv").read_text().count("\n") == 3
    assert (without.jobs / "AbCdE/runs.csv").read_text().count(",final,") == 2
    found = sh(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], top).split("\0")[:-1]
    assert dict(zip(found[::2], map(int, found[1::2]), strict=True)) == {p: len(d) for p, d in FILES.items()}


@needs_unshare
def test_bytes_that_are_in_the_cache_can_be_read_without_a_network(without: Mounted) -> None:
    path = without.jobs / "AbCdE/runs/1/big.bin"

    assert path.read_bytes() == FILES["big.bin"]
    assert os.getxattr(path, "user.rescale.state") == b"verified"


@needs_unshare
def test_what_is_not_here_gives_eio_at_once(without: Mounted) -> None:
    """Names and bytes. (At once: a hundred of them do not take the time of one deadline.)"""
    top = without.jobs / "AbCdE/runs/1"
    paths = [top / "process_output.log", without.jobs / "AbCdE/runs/2/big.bin", without.jobs / "Other"]

    done = run_in(["timeout", "15", "bash", "-c", 'for _ in {1..33}; do cat "$@"; done', "cat", *map(str, paths)], top)

    assert done.returncode == 1
    assert done.stderr.count("Input/output error") == 33 * len(paths)
    assert errno_of(os.listdir, without.jobs / "LiveR/runs/1") == "EIO"
    assert errno_of(os.stat, without.jobs / "LiveR/runs/1/log") == "EIO"


@needs_unshare
def test_rescale_status_says_since_when_there_is_no_network(without: Mounted) -> None:
    status = (without.path / ".rescale/status").read_text()

    assert status.startswith("offline since 20")
    assert status.count("\n") == 1


@needs_unshare
def test_all_that_fails_without_a_network_leaves_one_line_in_the_log(without: Mounted) -> None:
    for name in ("process_output.log", "case/0/U"):
        assert errno_of((without.jobs / "AbCdE/runs/1" / name).read_bytes) == "EIO"

    loud = [line for line in without.log.splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(loud) == 1, loud
    assert "no way to Rescale" in loud[0]


class Away:
    """An emulator that can go, and come back at the same address."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.emulator = Emulator(world).start()
        self._port = int(self.emulator.origin.rpartition(":")[2])
        self._held = contextlib.ExitStack()

    def go(self) -> None:
        self.emulator.stop()
        self._held.enter_context(nobody_at(self._port))

    def come_back(self) -> None:
        self._held.close()
        self.emulator = bound(lambda: Emulator(self._world, port=self._port).start())

    def close(self) -> None:
        self._held.close()
        with contextlib.suppress(RuntimeError):  # it is away
            self.emulator.stop()


@pytest.fixture
def away(world: World) -> Iterator[Away]:
    found = Away(world)
    yield found
    found.close()


def test_another_account_sees_nothing_of_what_was_kept(
    away: Away, mount_of: Callable[..., Mounted], tmp_path: Path
) -> None:
    """Where the first one's mount comes up, a mount with another key does not."""
    mounted = mount_of(away.emulator)
    os.listdir(mounted.jobs)
    mounted.unmount()
    away.go()

    assert refused_at(tmp_path, mounted.cache, RESCALE_API_URL=away.emulator.origin, RESCALE_API_KEY="another-key")
    mounted.mount()
    assert sorted(os.listdir(mounted.jobs)) == ["AbCdE", "LiveR"]


def test_what_was_open_stays_open_while_the_network_is_away(
    world: World, away: Away, mount_of: Callable[..., Mounted]
) -> None:
    """Bytes that are here are read from it, and the rest when it is back."""
    run: Run = world.jobs["AbCdE"].runs["1"]
    path = mount_of(away.emulator).top(run) / "big.bin"
    data = FILES["big.bin"]
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 0) == data[:10]
        away.go()
        assert errno_of(os.pread, file.fileno(), 10, len(data) - 10) == "EIO"
        assert os.pread(file.fileno(), 10, 0) == data[:10]
        assert os.fstat(file.fileno()).st_size == len(data)
        away.come_back()
        wait_for(lambda: errno_of(os.pread, file.fileno(), 10, len(data) - 10) == "", 20, lambda: "still away")
        assert os.pread(file.fileno(), 10, len(data) - 10) == data[-10:]


def test_tail_f_goes_on_when_the_network_is_back(
    world: World, away: Away, mount_of: Callable[..., Mounted], tmp_path: Path
) -> None:
    """Though what was known of the run is too old by then. So does `-F`: it sees one file all the time."""
    run: Run = world.jobs["LiveR"].runs["1"]
    mounted = mount_of(away.emulator)
    path, shown = mounted.top(run) / "log", tmp_path / "shown"
    before = run.live["log"].read().decode()
    with contextlib.ExitStack() as stack:
        followers = []
        for option in ("-f", "-F"):
            command = ["tail", option, "-n", "+1", "-s", "0.2", "--max-unchanged-stats=1", str(path)]
            output = stack.enter_context(open(f"{shown}{option}", "wb"))
            followers.append(stack.enter_context(subprocess.Popen(command, stdout=output, stderr=output)))
            stack.callback(followers[-1].kill)

        def are_shown(text: str) -> bool:
            return all(Path(f"{shown}{option}").read_text() == text for option in ("-f", "-F"))

        def said() -> str:
            return "".join(Path(f"{shown}{option}").read_text() for option in ("-f", "-F"))

        wait_for(lambda: are_shown(before), 20, said)
        away.go()
        (mounted.path / ".rescale/refresh").write_bytes(b"1\n")  # as if all of it had been asked for long ago
        for _ in range(20):
            assert path.stat().st_size == len(before)
            time.sleep(0.1)
        assert errno_of(os.listdir, path.parent) == "EIO"  # which would be a part of the whole
        away.come_back()
        run.live["log"].append(b"again\n")
        wait_for(lambda: are_shown(f"{before}again\n"), 30, said)
        assert [follower.poll() for follower in followers] == [None, None]


def test_that_the_network_is_back_is_noticed_by_itself(away: Away, mount_of: Callable[..., Mounted]) -> None:
    """What was known stays while it is away, status says since when, and all is well when it is back."""
    mounted = mount_of(away.emulator)
    before = sh("ls -lR .", mounted.jobs / "AbCdE/runs/1")
    status = mounted.path / ".rescale/status"
    assert status.read_text() == "online\n"
    away.go()
    assert errno_of(os.listdir, mounted.jobs / "AbCdE/runs/2") == "EIO"
    assert status.read_text().startswith("offline since 20")
    assert sh("ls -lR .", mounted.jobs / "AbCdE/runs/1") == before

    away.come_back()

    wait_for(lambda: status.read_text() == "online\n", 20, status.read_text)
    assert len(os.listdir(mounted.jobs / "AbCdE/runs/2")) > 3
    wait_for(lambda: "can be reached again" in mounted.log, 20, lambda: "not in the log")
