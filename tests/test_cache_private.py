"""The disk cache and what is not its own: directories of others, links to elsewhere, other versions of the program."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rescalefs.content.segment import BLOCK_BYTES
from tests.cached import ONE, SMALL, VICTIM, Open, name, opened
from tests.disk_use import files

# Others, who must not have put anything there.


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there would be believed."""
    with closing(opened(tmp_path)) as cache:
        assert VICTIM.write(cache)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with closing(opened(tmp_path)) as cache:
        assert VICTIM.read(cache) is None
        assert not VICTIM.write(cache)


@pytest.mark.parametrize("place", ["", "v2"])
def test_a_directory_that_others_can_write_is_not_used(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, with the remedy; nothing is read from it, nothing is written."""
    root = tmp_path / "cache"
    root.mkdir(mode=0o700)
    with closing(opened(root)) as cache:
        assert VICTIM.write(cache)
    (root / place).chmod(0o777)
    with closing(opened(root)) as cache:
        assert VICTIM.read(cache) is None
        assert not VICTIM.write(cache)
    assert len(caplog.records) == 1
    assert "other users" in caplog.text


def test_no_link_leads_out_of_it(start: Open, tmp_path: Path) -> None:
    """A directory of segments that is a link is replaced, the whole of them not used; where it leads stays as it is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"precious")
    with closing(opened(tmp_path)) as cache:
        VICTIM.write(cache)
    inner = (tmp_path / "v2" / name(VICTIM)).parent
    inner.rename(elsewhere / "moved")
    inner.symlink_to(elsewhere / "moved")
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    with closing(opened(tmp_path, ONE)) as cache:
        assert VICTIM.read(cache) is None
        cache.drop(VICTIM.identity, VICTIM.size)
    cache = start()
    assert VICTIM.write(cache)
    assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)
    assert not inner.is_symlink()
    cache.close()

    (tmp_path / "v2").rename(elsewhere / "v2")
    (tmp_path / "v2").symlink_to(elsewhere / "v2")
    cache = start()
    assert VICTIM.read(cache) is None
    assert not VICTIM.write(cache)
    assert {path: path.read_bytes() for path in before} == before


def test_what_it_makes_is_its_owners(start: Open, tmp_path: Path) -> None:
    """Directories 0700, files 0600, whatever the umask; one that was open is closed."""
    umask = os.umask(0)
    try:
        VICTIM.write(start())
        (tmp_path / "v2").chmod(0o755)
        SMALL[0].write(start())
    finally:
        os.umask(umask)
    made = [tmp_path / "v2", *(tmp_path / "v2").rglob("*")]
    assert {stat.filemode(path.stat().st_mode) for path in made} == {"drwx------", "-rw-------"}


# Versions.


def test_versions_of_the_program_leave_each_other_alone(tmp_path: Path) -> None:
    """Another version keeps what it has in a directory of its own: it is neither read, nor counted, nor removed."""
    with closing(opened(tmp_path)) as cache:
        VICTIM.write(cache)
    for version in ("v1", "v3"):
        shutil.copytree(tmp_path / "v2", tmp_path / version)
        for path in (tmp_path / version).glob("*/*"):
            path.write_bytes(b"of another version" * 1000)
    before = {path: path.read_bytes() for path in tmp_path.glob("v[13]/*/*")}
    assert len(before) == 2
    with closing(opened(tmp_path, 6 * ONE)) as cache:
        assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)
        for content in SMALL:
            assert content.write(cache)
            assert content.read(cache) == content.bytes(0, BLOCK_BYTES)
    assert {path: path.read_bytes() for path in before} == before


def test_a_segment_of_another_version_is_a_miss(tmp_path: Path) -> None:
    """A file under the right name whose mark is another program's is fetched anew."""
    with closing(opened(tmp_path)) as cache:
        VICTIM.write(cache)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(b"rfs-seg3" + data[8:])
    with closing(opened(tmp_path)) as cache:
        assert VICTIM.read(cache) is None
        assert VICTIM.write(cache)
        assert VICTIM.read(cache) == VICTIM.bytes(0, VICTIM.size)
