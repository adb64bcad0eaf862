"""Attributes, extended ones too, as docs/semantics.md promises them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.tools import FILES, MIB, distinct, errno_of, refresh, sh

pytestmark = pytest.mark.mount


def test_the_size_of_an_output_is_the_one_that_rescale_lists(run: Run, outputs: Path) -> None:
    for file in run.files:
        file.declared_size = file.content.size + 7
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(outputs) if entry.is_file()}

    assert sizes == {path: len(data) + 7 for path, data in FILES.items() if "/" not in path}
    assert (outputs / "case/0/U").stat().st_size == len(FILES["case/0/U"]) + 7
    assert (outputs / "empty").stat().st_blocks == 1


def test_the_time_of_an_output_is_that_of_its_upload(run: Run, outputs: Path) -> None:
    for number, file in enumerate(run.files):
        file.date_uploaded = run.started + 100 * number + 0.25
    for number, file in enumerate(run.files):
        seen = os.stat(outputs / str(file.relative_path))
        assert seen.st_mtime == seen.st_ctime == seen.st_atime
        assert seen.st_mtime == pytest.approx(run.started + 100 * number + 0.25, abs=1e-5)


def test_the_time_of_a_directory_is_that_of_the_newest_file_below_it(run: Run, outputs: Path) -> None:
    dates = {"case/0/U": 5.0, "case/100/U": 9.0, "case/100/uniform/time": 3.0}
    for file in run.files:
        file.date_uploaded = run.started + dates.get(str(file.relative_path), 1.0)

    for path, date in {"case": 9.0, "case/0": 5.0, "case/100": 9.0, "case/100/uniform": 3.0}.items():
        assert os.stat(outputs / path).st_mtime == pytest.approx(run.started + date)


def test_everything_belongs_to_the_user_who_mounted(outputs: Path, top: Path, mounted: Mounted) -> None:
    owners = sh(f"find . {outputs} {top} {top}/.rescale by-name -printf '%U:%G\n' | sort -u", mounted.path)

    assert owners == f"{os.getuid()}:{os.getgid()}\n"


def test_files_are_0444_directories_0555_and_control_files_0600(outputs: Path, top: Path, mounted: Mounted) -> None:
    def modes(*arguments: str) -> set[str]:
        return set(sh(["find", *arguments, "-printf", "%M\n"], mounted.path).split())

    controls = [top / "stop", top / "snapshot", outputs / ".rescale/stop", *mounted.path.glob(".rescale/refresh")]
    assert {stat.filemode(path.stat().st_mode) for path in controls} == {"-rw-------"}
    assert modes(str(outputs), str(top / "case"), "jobs.csv", "-type", "f") == {"-r--r--r--"}
    assert modes(".", str(top), str(outputs / ".rescale"), "-type", "d") == {"dr-xr-xr-x"}


def test_access_tells_what_may_be_done(outputs: Path, top: Path) -> None:
    assert os.access(outputs / "big.bin", os.R_OK)
    assert not os.access(outputs / "big.bin", os.X_OK)
    assert os.access(outputs / "case", os.R_OK | os.X_OK)
    assert os.access(top / "stop", os.R_OK | os.W_OK)
    assert not os.access(top / "stop", os.X_OK)
    if os.getuid() != 0:  # the kernel lets root try
        assert not os.access(outputs / "big.bin", os.W_OK)


def test_a_path_has_one_inode_number_which_no_other_path_has(outputs: Path, top: Path) -> None:
    paths = [outputs, *outputs.rglob("*"), top, *top.rglob("*")]
    first = {path: path.stat().st_ino for path in paths}

    assert first == {path: path.stat().st_ino for path in paths}
    assert len(set(first.values())) == len(paths)
    assert {path.stat().st_nlink for path in paths} == {1}  # equal files are not links of each other


def test_inode_numbers_outlive_a_remount(run: Run, mount_of: Callable[..., Mounted], emulator: Emulator) -> None:
    mounted = mount_of(emulator)

    def inodes() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in mounted.top(run).rglob("*")}

    before = inodes()
    mounted.unmount()
    mounted.mount()
    assert inodes() == before
    assert len(before) > len(FILES)


def test_df_tells_of_the_disk_that_holds_the_cache(outputs: Path, mounted: Mounted) -> None:
    here, disk = os.statvfs(outputs), os.statvfs(mounted.cache)

    assert (here.f_blocks, here.f_frsize, here.f_namemax) == (disk.f_blocks, disk.f_frsize, 255)


def test_df_asks_nothing(mounted: Mounted, emulator: Emulator) -> None:
    assert "rescalefs" in sh(["df", "."], mounted.path)
    assert emulator.requests.total() == 0


# ---- extended attributes ----


def test_an_output_tells_file_id_job_id_run_id_and_uploaded_as_attributes(run: Run, outputs: Path) -> None:
    file = next(file for file in run.files if file.relative_path == "case/0/U")
    file.date_uploaded = 1_700_000_000.5
    told = {name: os.getxattr(outputs / "case/0/U", name) for name in os.listxattr(outputs / "case/0/U")}

    assert told["user.rescale.file_id"].decode() == file.id
    assert told["user.rescale.job_id"].decode() == run.job.id
    assert told["user.rescale.run_id"] == b"1"
    assert told["user.rescale.uploaded"].startswith(b"2023-11-14T22:13:20.5")


def test_a_checksum_is_an_attribute_under_the_name_of_its_algorithm(run: Run, outputs: Path) -> None:
    kinds = {"process_output.log": "sha512", "case/0/U": "md5", "-n": "none"}
    for file in run.files:
        file.checksum = kinds.get(str(file.relative_path), "both")  # type: ignore[assignment]
    names = {path: {name[13:] for name in os.listxattr(outputs / path)} & {"md5", "sha512"} for path in kinds}

    assert names == {"process_output.log": {"sha512"}, "case/0/U": {"md5"}, "-n": set()}
    for path, kind in kinds.items():
        if kind != "none":
            digest = hashlib.new(kind, FILES[path]).hexdigest()
            assert os.getxattr(outputs / path, f"user.rescale.{kind}").decode() == digest


def test_state_tells_how_much_of_an_output_is_here(world: World, top: Path, mounted: Mounted) -> None:
    run = world.add_job().add_run(finished=True)
    path = mounted.top(run) / "large"
    run.add_file("large", distinct(run.job.id, 20 * MIB))

    def state() -> str:
        return os.getxattr(path, "user.rescale.state").decode()

    assert state() == "remote"
    with path.open("rb", buffering=0) as file:
        file.read(1)
        assert state() == "partial"
    path.read_bytes()
    wait_for(lambda: state() == "verified", 10, state)
    assert os.getxattr(top / "log", "user.rescale.state") == b"live"


def test_a_job_tells_its_name_and_status_as_attributes(world: World, mounted: Mounted) -> None:
    job = world.add_job(name="wing / case 1")
    job.add_run(finished=True)
    place = mounted.jobs / job.id

    assert sorted(os.listxattr(place)) == ["user.rescale.name", "user.rescale.status"]
    assert os.getxattr(place, "user.rescale.name") == b"wing / case 1"
    assert os.getxattr(place, "user.rescale.status") == b"Completed"


def test_a_run_tells_its_name_and_status_as_attributes(outputs: Path, top: Path) -> None:
    for place, status in ((outputs, b"final"), (top, b"live")):
        assert sorted(os.listxattr(place)) == ["user.rescale.name", "user.rescale.status"]
        assert os.getxattr(place, "user.rescale.name") == b"1"
        assert os.getxattr(place, "user.rescale.status") == status


def test_listing_the_names_of_attributes_asks_nothing(outputs: Path, emulator: Emulator) -> None:
    """`ls` of some systems wants them for each entry."""
    assert os.listdir(outputs.parent) == ["1", "latest"]
    emulator.reset_counts()

    assert os.listxattr(outputs.parent.parent) == os.listxattr(outputs) == ["user.rescale.name", "user.rescale.status"]
    assert emulator.requests.total() == 0


def test_attributes_of_other_classes_are_refused_without_a_request(outputs: Path, emulator: Emulator) -> None:
    assert os.listdir(outputs)
    (outputs / "case/0/U").stat()
    emulator.reset_counts()

    for name in ("security.capability", "system.posix_acl_access", "trusted.x"):
        refused = errno_of(os.getxattr, outputs / "case/0/U", name)
        assert refused in (errno.errorcode[errno.EOPNOTSUPP], "ENODATA")  # the kernel says ENODATA of trusted ones
    refresh(outputs)
    assert errno_of(os.getxattr, outputs, "security.capability") == errno.errorcode[errno.EOPNOTSUPP]
    assert emulator.requests.total() == 0
