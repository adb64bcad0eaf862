"""A mount whose cache directory fails it in every way: reads are slower, never wrong, and never fail."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, mount_at, need, wait_for
from tests.disk_use import used_bytes
from tests.readers import readers
from tests.tools import MIB

pytestmark = pytest.mark.mount
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
DISK_BYTES = 16 * MIB
# More than the small disk holds: large ones that are verified as they come, small ones that come whole.
SIZES = {"huge": 40 * MIB + 5, "big": 9 * MIB, "medium": 3 * MIB, **{f"small{n}": 70_000 + n for n in range(10)}}
PLAIN = hashlib.shake_128(b"a mount's cache").digest(max(SIZES.values()) + len(SIZES))
FILES = {name: PLAIN[number : number + size] for number, (name, size) in enumerate(SIZES.items())}
LIVE = {"log": PLAIN[:300_000], "case/U": PLAIN[: 2 * MIB]}


@pytest.fixture
def world() -> World:
    """A final run and a live one."""
    world = World()
    world.add_job("AbCdE").add_run(finished=True, files=FILES)
    world.add_job("FrEsh").add_run(finished=True, files={"fresh": b"f" * 200_000})
    world.add_job("LiveR").add_run(live=LIVE)
    return world


@contextlib.contextmanager
def small_disk(path: Path, size: int = DISK_BYTES) -> Iterator[Path]:
    """Mount a file system of a few megabytes."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "rescalefs-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as path:
        yield path


Mounting = Callable[..., Mounted]


@pytest.fixture
def mount_on(mount_of: Mounting, emulator: Emulator, disk: Path) -> Mounting:
    """Mount with a cache on the small disk."""
    return lambda *args: mount_of(emulator, "--cache-dir", str(disk / "cache"), *args, RESCALEFS_BUDGET="off")


def check_final(mounted: Mounted, seed: int = 0) -> None:
    """Read all of the final run, whole and in parts, in another order each time: every byte is right."""
    order = random.Random(seed)
    top = mounted.jobs / "AbCdE/runs/1"
    for name in order.sample(sorted(FILES), len(FILES)):
        with open(top / name, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the kernel would need no mount
            for _ in range(3):
                at = order.randrange(SIZES[name])
                assert os.pread(file.fileno(), 100_000, at) == FILES[name][at : at + 100_000], name
        assert (top / name).read_bytes() == FILES[name], name
    assert {name for name in os.listdir(top) if name in FILES} == set(FILES)


def check_all(mounted: Mounted, seed: int = 0) -> None:
    """Read all of the final run and of the live one: every byte is right."""
    check_final(mounted, seed)
    for name, data in LIVE.items():
        assert (mounted.jobs / "LiveR/runs/1" / name).read_bytes() == data, name


def warnings(mounted: Mounted) -> list[str]:
    """What the log complains of."""
    return [line for line in mounted.log.splitlines() if " ERROR " in line or " WARNING " in line]


def fill(disk: Path) -> Path:
    """Leave others' bytes all over the disk, and no room."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
    return ballast


@needs_root
def test_a_cache_on_a_small_disk(mount_on: Mounting, disk: Path) -> None:
    """Files larger than the disk, and than all of it: what fits is kept, and no error is logged."""
    mounted = mount_on()
    for seed in range(2):
        check_all(mounted, seed)
    assert not [line for line in warnings(mounted) if " ERROR " in line]
    room = os.statvfs(disk)
    assert room.f_bavail * room.f_frsize >= DISK_BYTES // 20
    mounted.unmount()
    mounted.mount()
    check_all(mounted, 2)


@needs_root
def test_a_cache_whose_disk_is_full(mount_on: Mounting, disk: Path) -> None:
    """Full before the mount, filled under it, and with room again: one warning, and then it is used."""
    mounted = mount_on()
    ballast = fill(disk)
    check_all(mounted)
    assert len(warnings(mounted)) <= 2, warnings(mounted)  # of the cache, and of the listings
    assert not any((disk / "cache/v2").glob("*/*"))
    ballast.unlink()
    check_all(mounted, 1)
    assert (mounted.jobs / "FrEsh/runs/1/fresh").read_bytes() == b"f" * 200_000
    assert any((disk / "cache/v2").glob("*/*"))
    mounted.unmount()
    shutil.rmtree(disk / "cache")
    (disk / "cache").mkdir(mode=0o700)
    fill(disk)
    mounted.mount()
    check_all(mounted, 2)


@needs_root
def test_a_cache_that_becomes_read_only(mount_on: Mounting, disk: Path) -> None:
    """What is on it is served, the rest comes from Rescale; what lives is kept elsewhere."""
    mounted = mount_on()
    top = mounted.jobs / "AbCdE/runs/1"
    assert (top / "medium").read_bytes() == FILES["medium"]
    mounted.unmount()
    read_only = ["mount", "-o", "remount,ro", str(disk)]
    (disk / "cache").mkdir(exist_ok=True)
    subprocess.run(read_only, check=True)
    assert mounted.process is not None
    with pytest.raises(AssertionError, match="the mount ended with 8"):
        mounted.mount()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    mounted.mount()
    # A disk becomes read-only by itself when it fails; by hand only while nothing on it is open for writing.
    if subprocess.run(read_only, capture_output=True).returncode != 0:
        subprocess.run(["mount", "-o", "remount,ro", "--bind", str(disk), str(disk)], check=False)
    check_all(mounted, 1)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    check_all(mounted, 2)


def test_a_cache_that_is_removed_makes_no_read_wrong(mount_of: Mounting, emulator: Emulator) -> None:
    """As `rm -rf` does, while readers are at work: no byte is wrong, no read fails, and it is made again."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    small = {name: data for name, data in FILES.items() if len(data) < 4 * MIB}
    with readers(mounted.jobs / "AbCdE/runs/1", small, 3, rounds=30) as working:
        while any(process.poll() is None for process in working):
            subprocess.run(["rm", "-rf", str(mounted.cache)], check=False)
        assert [(process.returncode, process.stderr.read()) for process in working] == [(0, "")] * 3
    check_all(mounted)
    shutil.rmtree(mounted.cache)
    check_all(mounted, 1)
    mounted.unmount()
    mounted.mount()
    check_all(mounted, 2)
    assert any((mounted.cache / "v2").glob("*/*"))


# Put in place as the mount's Python starts: what it reads and writes in its cache fails while a file is there.
BROKEN = """
import errno, os
def breaking(call):
    def broken(descriptor, *args):
        if os.path.exists({mark!r}) and os.readlink(f"/proc/self/fd/{{descriptor}}").startswith({cache!r}):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(descriptor, *args)
    return broken
for name in ("pread", "preadv", "pwrite", "pwritev"):
    setattr(os, name, breaking(getattr(os, name)))
"""


def read_or(path: Path) -> bytes | None:
    """Read a file; None for an error."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def test_a_cache_on_a_disk_that_breaks(mount_of: Mounting, emulator: Emulator, tmp_path: Path) -> None:
    """EIO for all that is read and written there: all comes from Rescale again, a live file after an error."""
    mark = tmp_path / "broken"
    text = BROKEN.format(mark=str(mark), cache=str(tmp_path / "mount0/cache"))
    (tmp_path / "sitecustomize.py").write_text(text)
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off", PYTHONPATH=path)
    check_all(mounted)
    live = mounted.jobs / "LiveR/runs/1"
    before = emulator.requests["contents"]
    mark.touch()
    for seed in (1, 2):
        check_final(mounted, seed)
        for name, data in LIVE.items():
            wait_for(lambda name=name, data=data: read_or(live / name) == data, END_S, lambda: "not found again")  # type: ignore[misc]
    assert emulator.requests["contents"] > before
    mark.unlink()
    check_all(mounted, 3)
    assert not [line for line in warnings(mounted) if " ERROR " in line and "/LiveR/" not in line]
    assert "Traceback" not in mounted.log


# ---- what lies there ----


def damage(path: Path, how: str, order: random.Random) -> None:
    """Do something to a file that no program of ours does."""
    data = bytearray(path.read_bytes())
    match how:
        case "cut":
            os.truncate(path, order.randrange(len(data)))
        case "altered":
            for _ in range(20):
                data[order.randrange(len(data))] ^= 1 + order.randrange(255)
            path.write_bytes(data)
        case "zeros":
            path.write_bytes(bytes(len(data)))
        case "foreign":
            path.write_bytes(order.randbytes(len(data)))
        case "another version":
            path.write_bytes(data[:7] + bytes([data[7] + 1]) + data[8:])
        case "another's":
            path.write_bytes(order.choice([other for other in path.parent.parent.glob("*/*")]).read_bytes())
        case "a directory":
            path.unlink()
            path.mkdir()
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "a link":
            path.unlink()
            path.symlink_to("/etc/passwd")
        case "nobody may":
            path.chmod(0)


BETWEEN = ["altered", "zeros", "foreign", "another version", "another's", "nobody may"]
UNDER = ["cut", "a directory", "a pipe", "a link"]


@pytest.mark.parametrize("is_under", [False, True], ids=["between mounts", "under a mount"])
def test_whatever_lies_in_the_cache_is_right_or_fetched_anew(
    is_under: bool, mount_of: Mounting, emulator: Emulator
) -> None:
    """Segments and listings, damaged in every way between two mounts, cut and replaced under one: no wrong byte.

    What a mount has compared with its checksum it believes from then on: who changes bytes in place under it is beyond
    what a cache can know without comparing at each read.
    """
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    order = random.Random(1)
    check_all(mounted)
    ways = itertools.cycle(UNDER if is_under else [*UNDER, *BETWEEN])
    for number in range(4):
        if not is_under:
            mounted.unmount()
        there = [*(mounted.cache / "v2").glob("*/*"), *(mounted.cache / "listings/v1").glob("*/*")]
        chosen = [path for path in there if path.is_file() and not path.is_symlink() and order.random() < 0.7]
        assert chosen
        damaged = sorted(zip(chosen, ways, strict=False), key=lambda pair: pair[1] == "nobody may")
        for path, how in damaged:
            damage(path, how, order)
        if not is_under:
            mounted.mount()
        check_all(mounted, number)
        for path, how in damaged:  # what cannot be replaced costs its place in the cache
            if how == "nobody may":
                path.chmod(0o600)
            elif path.is_dir() or path.is_fifo():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        check_all(mounted, number)
    assert not [line for line in warnings(mounted) if " ERROR " in line]
    assert "Traceback" not in mounted.log


# ---- kill -9, and two mounts ----


def kill_again_and_again(mounted: Mounted, times: int) -> None:
    """Kill the process behind a mount while readers are at work, at a random moment; mount again and look."""
    order = random.Random(times)
    small = {name: data for name, data in FILES.items() if len(data) < 4 * MIB}
    for _ in range(times):
        assert mounted.process is not None
        with readers(mounted.jobs / "AbCdE/runs/1", FILES, 2) as working:
            with contextlib.suppress(subprocess.TimeoutExpired):
                mounted.process.wait(order.random() * 0.5)
            mounted.process.kill()
            mounted.process.wait()
            for process in working:
                assert process.wait(20) == 1
                assert process.stderr.read().startswith("error "), "a wrong byte"
        mounted.mount()  # which clears what is left
        top = mounted.jobs / "AbCdE/runs/1"
        name = order.choice(sorted(SIZES))
        assert (top / name).read_bytes() == FILES[name]
        assert {name: (top / name).read_bytes() for name in small} == small
    check_all(mounted)
    mounted.unmount()
    left = [path for path in mounted.cache.rglob("*") if path.is_file()]
    # A listing that was being written at a kill is removed later, like those that others are writing.
    assert len([path for path in left if path.name.startswith(".new")]) <= times
    assert not [path for path in left if path.name.startswith("tmp")]


def test_a_mount_that_is_killed_leaves_nothing_wrong_in_its_cache(mount_of: Mounting, emulator: Emulator) -> None:
    """kill -9 at a few random moments, readers at work: every byte that is served afterwards is right."""
    kill_again_and_again(mount_of(emulator, "--cache-size", "30M", RESCALEFS_BUDGET="off"), 4)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_mount_that_is_killed_200_times_leaves_nothing_wrong_in_its_cache(
    mount_of: Mounting, emulator: Emulator
) -> None:
    """kill -9 at 200 random moments, readers at work: every byte that is served afterwards is right."""
    kill_again_and_again(mount_of(emulator, "--cache-size", "30M", RESCALEFS_BUDGET="off"), 100)


@pytest.mark.parametrize("bindings", [("fuse3", "fuse2")])
def test_two_mounts_share_a_cache_under_load(bindings: tuple[str, ...], emulator: Emulator, tmp_path: Path) -> None:
    """Both bindings side by side on one small cache, evictions and all, several readers each: every byte right."""
    for each in bindings:
        need(each)
    with ExitStack() as stack:
        mounts = []
        for each in bindings:
            options = ("--cache-dir", str(tmp_path / "cache"), "--cache-size", "25M")
            mounted = mount_at(tmp_path / each, each, emulator, *options, RESCALEFS_BUDGET="off")
            stack.callback(mounted.clean_up)
            mounted.mount()
            mounts.append(mounted)
        working = []
        for mounted in mounts:
            working += stack.enter_context(readers(mounted.jobs / "AbCdE/runs/1", FILES, 3, rounds=4))
        for seed, mounted in enumerate(mounts):
            check_all(mounted, seed)
        for process in working:
            assert (process.wait(90), process.stderr.read()) == (0, "")
        assert used_bytes(tmp_path / "cache") <= 25 * MIB + 2 * (25 * MIB // 16 + MIB)
        for mounted in mounts:
            assert mounted.unmount() == 0
            assert not [line for line in warnings(mounted) if " ERROR " in line]
