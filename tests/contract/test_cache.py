"""The cache of bytes, as docs/semantics.md promises it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted
from tests.disk_use import used_bytes
from tests.test_cli import access, failure, rescalefs
from tests.tools import FILES, MIB, distinct, errno_of, sent_bytes

pytestmark = pytest.mark.mount
# More than one segment of the cache, of which each is up to 8 MiB.
SIZE = 9 * MIB + 5


@pytest.fixture
def data(run: Run) -> bytes:
    """The bytes of `file`, which nothing else has."""
    return distinct(run.job.id, SIZE)


@pytest.fixture
def cold(run: Run, data: bytes) -> Run:
    """A run with a file that was never read."""
    run.add_file("file", data)
    return run


def forget_pages(path: Path) -> None:
    """Have the kernel forget what it keeps of a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_was_read_once_is_not_fetched_again(cold: Run, data: bytes, mounted: Mounted, emulator: Emulator) -> None:
    """Nor when the kernel has forgotten the pages."""
    path = mounted.top(cold) / "file"
    for _ in range(3):
        assert path.read_bytes() == data
        forget_pages(path)

    assert sent_bytes(emulator, cold) == len(data)


def test_what_was_read_once_comes_from_the_disk_after_a_remount(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator)
    for _ in range(2):
        assert (mounted.top(cold) / "file").read_bytes() == data
        assert sent_bytes(emulator, cold) == len(data)
        mounted.unmount()
        mounted.mount()


def test_equal_files_are_fetched_once(
    cold: Run, data: bytes, world: World, mounted: Mounted, emulator: Emulator
) -> None:
    """By whatever name, in whatever run or job."""
    other = world.add_job().add_run(finished=True, files={"a/copy": data})
    assert (mounted.top(cold) / "file").read_bytes() == data

    assert (mounted.top(other) / "a/copy").read_bytes() == data
    assert (sent_bytes(emulator, cold), sent_bytes(emulator, other)) == (len(data), 0)


def test_mounts_that_share_a_cache_directory_fetch_a_file_once(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], mounted: Mounted, emulator: Emulator
) -> None:
    other = mount_of(emulator, "--cache-dir", str(mounted.cache))
    for mount in (mounted, other):
        assert (mount.top(cold) / "file").read_bytes() == data

    assert sent_bytes(emulator, cold) == len(data)


def cached_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > MIB // 2]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": os.unlink,
}


def _flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


ALTERATIONS: dict[str, Callable[[Path], object]] = {
    "a byte": lambda path: _flip(path, path.stat().st_size // 2),
    "a checksum": lambda path: _flip(path, 130),
    "the header": lambda path: _flip(path, 20),
    "all": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def test_a_cache_that_was_damaged_between_two_mounts_makes_no_read_wrong(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Each file of it in another way."""
    damages = [*DAMAGES.values(), *ALTERATIONS.values()]
    files = {f"file{number}": distinct(f"{run.job.id} {number}", MIB + number) for number in range(len(damages))}
    for name, data in files.items():
        run.add_file(name, data)
    mounted = mount_of(emulator)
    top = mounted.top(run)
    assert {name: (top / name).read_bytes() for name in files} == files
    mounted.unmount()

    for damage, file in zip(damages, cached_files(mounted.cache), strict=True):
        damage(file)
    emulator.reset_counts()
    mounted.mount()

    assert {name: (top / name).read_bytes() for name in files} == files
    assert emulator.requests["contents"] >= len(damages)


def test_a_cache_that_is_cut_or_removed_under_a_mount_makes_no_read_wrong(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    mounted = mount_of(emulator)
    path = mounted.top(cold) / "file"
    assert path.read_bytes() == data
    for damage in DAMAGES.values():
        for file in cached_files(mounted.cache):
            damage(file)
        forget_pages(path)
        assert path.read_bytes() == data
    shutil.rmtree(mounted.cache)
    forget_pages(path)
    assert path.read_bytes() == data


def test_a_cache_that_cannot_be_written_makes_no_read_wrong(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Its directory is a file, so that nobody can write into it, root included."""
    mounted = mount_of(emulator)
    for directory in mounted.cache.iterdir():
        shutil.rmtree(directory)
        directory.touch()
    path = mounted.top(cold) / "file"

    for _ in range(2):
        assert path.read_bytes() == data
        forget_pages(path)
    assert {name: (mounted.top(cold) / name).read_bytes() for name in FILES} == FILES


def test_a_cache_that_is_too_small_makes_no_read_wrong(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    path = mount_of(emulator, "--cache-size", "1M").top(cold) / "file"

    for _ in range(2):
        assert path.read_bytes() == data
        forget_pages(path)
    assert errno_of(os.stat, path) == ""


def test_the_bytes_of_files_in_the_cache_keep_to_cache_size(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """After each of several large files, of which it holds one."""
    size = 12 * MIB
    mounted = mount_of(emulator, "--cache-size", str(size), RESCALEFS_BUDGET="off")
    for number in range(4):
        data = distinct(f"{run.job.id} {number}", SIZE)
        run.add_file(f"file{number}", data)
    top = mounted.top(run)
    for number in range(4):
        assert (top / f"file{number}").read_bytes() == distinct(f"{run.job.id} {number}", SIZE)
        assert MIB < used_bytes(mounted.cache) <= size


def test_a_mount_whose_cache_directory_others_can_write_to_is_refused(
    binding: str, emulator: Emulator, tmp_path: Path
) -> None:
    """Before anything is asked, and with the remedy; whoever could write there could forge files."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "rescale").mkdir()
    emulator.reset_counts()
    for mode in (0o770, 0o707, 0o777):
        cache.chmod(mode)
        command = ["mount", "--binding", binding, "--cache-dir", str(cache), str(tmp_path / "rescale")]
        code, sentence = failure(rescalefs(tmp_path, *command, **access(emulator)))
        assert (code, f"chmod go-w {cache}" in sentence) == (8, True)
    assert (os.listdir(cache), os.listdir(tmp_path / "rescale")) == ([], [])
    assert emulator.requests.total() == 0


def test_what_another_version_of_rescalefs_keeps_in_the_cache_is_left_alone(
    cold: Run, data: bytes, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """An older and a newer one: neither read, nor counted, nor removed, though the cache is full."""
    more = distinct(f"{cold.job.id} more", SIZE)
    cold.add_file("more", more)
    mounted = mount_of(emulator, "--cache-size", "12M")
    path = mounted.top(cold) / "file"
    assert path.read_bytes() == data
    mounted.unmount()
    others: list[Path] = []
    for place in (mounted.cache, mounted.cache / "listings"):
        (own,) = place.glob("v[0-9]")
        for number in (int(own.name[1:]) - 1, int(own.name[1:]) + 1):
            other = place / f"v{number}"
            shutil.copytree(own, other)
            others += [each for each in other.rglob("*") if each.is_file()]
    for each in others:
        each.write_bytes(b"of another version" * 1000)
    assert len(others) > 4

    mounted.mount()

    for _ in range(2):
        assert path.read_bytes() == data
        assert (path.parent / "more").read_bytes() == more
    assert {each.read_bytes() for each in others} == {b"of another version" * 1000}
