"""What is kept on disk is whole, ours and of its key, or a miss: crashes, damage, other processes, no room."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.kept import Kept

KEY = ("https://example.com a@example.com", "AbCdE", "1")


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def body_of(kept: Kept, key: tuple[str, ...] = KEY, kind: str = "files") -> bytes | None:
    found = kept.read(kind, key)
    return None if found is None else bytes(found.body)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["jobs", "files"]), st.lists(st.sampled_from(["", "a", "\0", "b\0", "\udc80"])), st.binary()
        ),
        max_size=8,
    )
)
def test_the_last_body_of_each_key_is_kept(tmp_path: Path, writes: list[tuple[str, list[str], bytes]]) -> None:
    """As a dictionary of kinds and keys, over instances; keys that look alike do not meet."""
    directory = tmp_path / str(len(list(tmp_path.iterdir())))
    model = {}
    for kind, key, body in writes:
        Kept(directory).write(kind, tuple(key), body)
        model[kind, tuple(key)] = body

    assert {each: body_of(Kept(directory), each[1], each[0]) for each in model} == model
    assert len(files_of(directory)) == len(model)


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Directories are 0700, files 0600, and nothing else is left there."""
    Kept(tmp_path / "kept").write("files", KEY, b"body")

    (file,) = files_of(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "kept").rglob("*") if path.is_dir()} == {0o700}
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


@given(st.integers(0, 79), st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_a_miss(tmp_path: Path, at: int, change: int) -> None:
    """Wherever it is."""
    kept = Kept(tmp_path)
    kept.write("files", KEY, b"a body of some length")
    (file,) = files_of(tmp_path)
    data = bytearray(file.read_bytes())
    assert len(data) > 79
    data[at] ^= change
    file.write_bytes(data)

    assert body_of(kept) is None
    kept.write("files", KEY, b"new")
    assert body_of(kept) == b"new"


def test_a_file_of_any_shorter_length_is_a_miss(tmp_path: Path) -> None:
    """What a full disk or a crash may leave."""
    kept = Kept(tmp_path)
    kept.write("files", KEY, b"a body of some length")
    (file,) = files_of(tmp_path)
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        assert body_of(kept) is None


def test_a_file_of_another_key_or_user_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file under a name that is not its own, or that somebody else has put there."""
    kept = Kept(tmp_path)
    kept.write("files", KEY, b"1")
    (file,) = files_of(tmp_path)
    kept.write("files", ("other",), b"2")
    other = next(path for path in files_of(tmp_path) if path != file)
    other.write_bytes(file.read_bytes())
    assert body_of(kept, ("other",)) is None

    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert body_of(kept) is None


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whenever it comes, the old body is there, whole; the attempt leaves nothing behind where it can."""
    kept = Kept(tmp_path)
    kept.write("files", KEY, b"old")

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, crash)
    kept.write("files", KEY, b"new")

    assert body_of(kept) == b"old"
    assert len(files_of(tmp_path)) == 1


def test_no_directory_and_no_rights_keep_nothing(tmp_path: Path) -> None:
    """Without a place nothing is kept, and nothing fails."""
    (tmp_path / "file").write_bytes(b"")
    for kept in (Kept(None), Kept(tmp_path / "file" / "below")):
        kept.write("files", KEY, b"body")
        assert body_of(kept) is None


def test_the_same_again_is_confirmed_and_not_written(tmp_path: Path) -> None:
    """Its time is the last confirmation's."""
    times = iter([1000.0, 2000.0])
    kept = Kept(tmp_path, wall_clock=lambda: next(times))
    kept.write("files", KEY, b"body")
    (file,) = files_of(tmp_path)
    inode = file.stat().st_ino
    kept.write("files", KEY, b"body")

    found = kept.read("files", KEY)
    assert found is not None
    assert found.confirmed_at_s == 2000.0
    assert file.stat().st_ino == inode


def test_what_was_confirmed_longest_ago_goes_first(tmp_path: Path) -> None:
    """All together stay below the limit, and a left temporary file goes too."""
    now = [0.0]
    kept = Kept(tmp_path, 10_000, wall_clock=lambda: now[0])
    for number in range(30):
        now[0] += 7200.0
        kept.write("files", (str(number),), bytes(1000))
        if number == 5:
            left = tmp_path / "v1/files/.new.left"
            left.write_bytes(b"")
            os.utime(left, (0, 0))

    there = [number for number in range(30) if body_of(kept, (str(number),)) is not None]
    assert there == list(range(30 - len(there), 30))
    assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 11_500
    assert not left.exists()


def _write_many(directory: Path, byte: int) -> None:
    kept = Kept(directory)
    for _ in range(100):
        kept.write("files", KEY, bytes([byte]) * 50_000)


def test_processes_that_write_together_leave_one_of_theirs(tmp_path: Path) -> None:
    """Readers see one of the bodies, whole, at any time."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, byte)) for byte in (1, 2)]
    for writer in writers:
        writer.start()
    kept = Kept(tmp_path)
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(body_of(kept))
    for writer in writers:
        writer.join()

    seen.add(body_of(kept))
    assert seen <= {None, b"\1" * 50_000, b"\2" * 50_000}
    assert body_of(kept) is not None
    assert len(files_of(tmp_path)) == 1
