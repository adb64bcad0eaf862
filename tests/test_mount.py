"""Looking and reading through a real mount, on both bindings."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from rescalefs.emulator.demo_world import demo_world
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.tools import FILES, sh

pytestmark = pytest.mark.mount


# ---- looking ----


def test_a_tree_is_listed_as_the_api_lists_it(outputs: Path) -> None:
    """find sees exactly the paths of the listing, with sizes; nothing is added for a finished run."""
    found = sh(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], outputs).split("\0")[:-1]

    assert dict(zip(found[::2], map(int, found[1::2]), strict=True)) == {p: len(d) for p, d in FILES.items()}
    assert sorted(os.listdir(outputs)) == sorted({path.split("/")[0] for path in FILES})


def test_a_listing_costs_one_request_a_thousand_files(
    world: World, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """ls -lR of n files makes ceil(n/1000) listing requests and at most 3 others; a second one makes none."""
    run = world.add_job("ManyF").add_run(finished=True)
    for number in range(2500):
        run.add_file(f"d{number % 7}/f{number}", b"%d" % number)
    mounted = mount_of(emulator)
    emulator.reset_counts()

    first = sh("ls -lR jobs/ManyF/runs/1", mounted.path)

    assert first.count("-r--r--r--") == 2500
    assert emulator.requests["run_files"] == 3
    assert emulator.requests.total() - 3 <= 3
    emulator.reset_counts()
    assert sh("ls -lR jobs/ManyF/runs/1", mounted.path) == first
    assert emulator.requests.total() == 0


def test_a_refreshed_run_is_seen_as_it_is_now(outputs: Path, run: Run, mounted: Mounted) -> None:
    """Names that were looked at before go, come and change with the listing, however deep they are."""
    for _ in range(2):
        assert (outputs / "case/100/U").stat().st_size == len(FILES["case/100/U"])
    next(file for file in run.files if file.relative_path == "case/100/uniform/time").is_deleted = True
    run.add_file("case/100/late", b"12345")
    assert not (outputs / "case/100/late").exists()

    (outputs / ".rescale/refresh").write_bytes(b"1\n")

    assert (outputs / "case/100/late").stat().st_size == 5
    wait_for(lambda: not (outputs / "case/100/uniform/time").exists(), 10, lambda: "it stays")
    assert (outputs / "case/100/U").stat().st_size == len(FILES["case/100/U"])


def test_times_modes_and_owner_are_true(outputs: Path, run: Run) -> None:
    """mtime is the upload date, files are 0444 and directories 0555 of the mounting user."""
    for file in run.files:
        seen = os.stat(outputs / str(file.relative_path))
        assert seen.st_mtime == pytest.approx(file.date_uploaded, abs=1e-6)
        assert (stat.filemode(seen.st_mode), seen.st_uid) == ("-r--r--r--", os.getuid())
    assert stat.filemode(os.stat(outputs / "case").st_mode) == "dr-xr-xr-x"


def test_inodes_are_those_of_the_listing_and_outlive_a_remount(outputs: Path, mounted: Mounted) -> None:
    """readdir and stat tell the same inode number, and so does the next mount."""

    def inodes() -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(outputs)}

    before = inodes()
    assert before == {name: os.stat(outputs / name).st_ino for name in before}
    mounted.unmount()
    mounted.mount()
    assert inodes() == before


def test_df_asks_nothing_and_tells_of_the_cache_disk(outputs: Path, mounted: Mounted, emulator: Emulator) -> None:
    """statfs is answered from the disk that holds the cache, without a request."""
    emulator.reset_counts()

    here, disk = os.statvfs(mounted.path), os.statvfs(mounted.cache)

    assert (here.f_blocks, here.f_frsize, here.f_namemax) == (disk.f_blocks, disk.f_frsize, 255)
    assert emulator.requests.total() == 0


def test_names_that_no_job_has_are_answered_from_memory(mounted: Mounted, emulator: Emulator) -> None:
    """What indexers and file managers probe for costs no request."""
    emulator.reset_counts()

    for name in (".git", ".Trash-1000", "desktop.ini", "autorun.inf", ".hidden", ".xdg-volume-info", "no job"):
        assert not (mounted.jobs / name).exists()

    assert emulator.requests.total() == 0


def test_the_documented_example_is_shown_as_documented(mount_of: Callable[..., Mounted]) -> None:
    """Job QTVia of the API's documentation: names, sizes and times of its ten rows."""
    rows = {
        "airFoil2D/0/nut": (1278, "2014-11-12T22:56:50.641761+00:00"),
        "airFoil2D/0/nuTilda": (1268, "2014-11-12T22:56:50.550979+00:00"),
        "airFoil2D/0/p": (1166, "2014-11-12T22:56:50.714078+00:00"),
        "airFoil2D/0/U": (1298, "2014-11-12T22:56:50.465184+00:00"),
        "airFoil2D/100/nut": (100195, "2014-11-12T22:56:50.931594+00:00"),
        "airFoil2D/100/nuTilda": (99221, "2014-11-12T22:56:50.862457+00:00"),
        "airFoil2D/100/p": (86615, "2014-11-12T22:56:51.005975+00:00"),
        "airFoil2D/100/phi": (190707, "2014-11-12T22:56:51.079312+00:00"),
        "airFoil2D/100/U": (298228, "2014-11-12T22:56:50.787838+00:00"),
        "airFoil2D/100/uniform/time": (968, "2014-11-12T22:56:51.222466+00:00"),
    }
    with Emulator(demo_world()) as emulator:
        top = mount_of(emulator).jobs / "QTVia/runs/1"

        for path, (size, uploaded) in rows.items():
            seen = os.stat(top / path)
            modified = datetime.fromisoformat(uploaded).timestamp()
            assert (seen.st_size, seen.st_mtime) == (size, pytest.approx(modified, abs=1e-6))
            assert len((top / path).read_bytes()) == size
        assert sum(len(files) for _, _, files in os.walk(top)) == 63
        ids = {path: os.getxattr(top / path, "user.rescale.file_id") for path in rows}
        assert ids["airFoil2D/0/nut"] == b"dmpTse"
        assert ids["airFoil2D/100/uniform/time"] == b"LosKDe"


def test_a_name_that_is_no_text_is_not_there(mounted: Mounted) -> None:
    """Bytes that are no UTF-8 name nothing: ENOENT, on both bindings."""
    for name in (b"\xff", b"\xc3\x28.git"):
        with pytest.raises(FileNotFoundError):
            os.stat(os.fsencode(mounted.jobs) + b"/" + name)


def test_listing_attributes_asks_nothing(run: Run, mounted: Mounted, emulator: Emulator) -> None:
    """The names of attributes are known without a request, as `ls` of some systems wants them for each entry."""
    runs = mounted.jobs / "AbCdE/runs"
    assert os.listdir(runs) == ["1", "latest"]
    emulator.reset_counts()

    assert os.listxattr(runs / "1") == ["user.rescale.name", "user.rescale.status"]
    assert emulator.requests.total() == 0
    assert os.getxattr(runs / "1", "user.rescale.status") == b"final"
    assert os.getxattr(runs / "1", "user.rescale.name") == b"1"
    assert os.getxattr(mounted.jobs / "AbCdE", "user.rescale.name") == b"wing / case 1"
    assert os.getxattr(mounted.jobs / "AbCdE", "user.rescale.status") == b"Completed"


# ---- reading ----


def test_every_byte_is_the_servers(outputs: Path) -> None:
    """cat of each file gives its bytes."""
    for path, data in FILES.items():
        assert (outputs / path).read_bytes() == data


def test_a_file_read_twice_is_downloaded_once(outputs: Path, emulator: Emulator) -> None:
    """The second cat makes no content request, nor does one after the kernel forgot the pages."""
    assert (outputs / "big.bin").read_bytes() == FILES["big.bin"]
    sent = emulator.bytes_sent["contents"]
    asked = emulator.requests["contents"]

    for _ in range(2):
        with open(outputs / "big.bin", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == FILES["big.bin"]

    assert (emulator.bytes_sent["contents"], emulator.requests["contents"]) == (sent, asked)
    assert sent == len(FILES["big.bin"])


def test_the_cache_outlives_a_remount(outputs: Path, mounted: Mounted, emulator: Emulator) -> None:
    """After a remount the bytes come from disk."""
    assert (outputs / "big.bin").read_bytes() == FILES["big.bin"]
    mounted.unmount()
    emulator.reset_counts()
    mounted.mount()

    assert (outputs / "big.bin").read_bytes() == FILES["big.bin"]
    assert emulator.requests["contents"] == 0


@pytest.mark.parametrize("tool", ["head -c 100", "tail -c 100", "dd bs=777 status=none skip=3 if=", "sha256sum <"])
def test_tools_read_parts_and_wholes(outputs: Path, tool: str, tmp_path: Path) -> None:
    """What a tool prints for a file in the mount is what it prints for a copy on disk."""
    copy = tmp_path / "copy"
    copy.write_bytes(FILES["big.bin"])
    glue = "" if tool.endswith("=") else " "

    def printed(path: Path) -> bytes:
        return subprocess.run(f"{tool}{glue}{path}", shell=True, check=True, capture_output=True).stdout

    assert printed(outputs / "big.bin") == printed(copy)


def test_grep_finds_in_the_whole_tree(outputs: Path) -> None:
    """grep -r reads every file."""
    assert sh("grep -rl Time .", outputs) == "./process_output.log\n"


def test_cp_rsync_and_tar_take_whole_trees(outputs: Path, tmp_path: Path) -> None:
    """Copies equal the originals in bytes and times; a second rsync copies nothing."""
    sh(["cp", "-a", str(outputs), str(tmp_path / "cp")], tmp_path)
    sh(["tar", "-cf", str(tmp_path / "tar"), "."], outputs)
    rsync = ["rsync", "-a", "--itemize-changes", f"{outputs}/", str(tmp_path / "rsync")]
    assert sh(rsync, tmp_path).count(">f") == len(FILES)

    assert ">f" not in sh(rsync, tmp_path)
    with tarfile.open(tmp_path / "tar") as archive:
        for path, data in FILES.items():
            member = archive.extractfile(f"./{path}")
            assert member is not None
            assert member.read() == data
    for copy in ("cp", "rsync"):
        for path, data in FILES.items():
            assert (tmp_path / copy / path).read_bytes() == data
            assert os.stat(tmp_path / copy / path).st_mtime == pytest.approx(os.stat(outputs / path).st_mtime)
        sh(["chmod", "-R", "u+w", copy], tmp_path)


MAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        with mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as view:
            sys.stdout.buffer.write(view[1000000:1005000])
"""


def test_a_map_shows_the_bytes(outputs: Path) -> None:
    """mmap of a final file works, private and shared. (In a process of its own: a page fault holds the interpreter.)"""
    done = subprocess.run([sys.executable, "-c", MAP, outputs / "big.bin"], capture_output=True, check=True)

    assert done.stdout == FILES["big.bin"][1_000_000:1_005_000] * 2


def test_reading_past_the_end_is_empty(outputs: Path) -> None:
    """pread beyond the size returns nothing, and across it what is there."""
    with open(outputs / "process_output.log", "rb") as file:
        assert os.pread(file.fileno(), 100, 1000) == b""
        assert os.pread(file.fileno(), 100, 9) == b"Time = 2\n"


def test_a_file_still_being_uploaded_is_listed_and_gives_eio(run: Run, mounted: Mounted) -> None:
    """A row with isUploaded false is listed; opening it is EIO, with a line that says why."""
    file = run.add_file("half", b"not here yet", is_uploaded=False)
    path = mounted.jobs / "AbCdE/runs/1/half"

    assert "half" in os.listdir(path.parent)
    with pytest.raises(OSError, match="Input/output") as caught:
        path.read_bytes()

    assert caught.value.errno == errno.EIO
    assert f"file {file.id} (half) is listed, but its upload is not complete" in mounted.log


def test_a_read_that_fails_is_tried_once(outputs: Path, mounted: Mounted, emulator: Emulator) -> None:
    """The kernel asks again for what its read-ahead could not get; that costs no request and no second line."""
    emulator.faults.add(endpoint="contents", status=403)
    emulator.reset_counts()

    with open(outputs / "process_output.log", "rb", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.read()
        assert emulator.requests["contents"] == 1
        assert mounted.log.count("ERROR") == 1

    emulator.faults.clear()
    assert (outputs / "process_output.log").read_bytes() == FILES["process_output.log"]


def test_attributes_tell_ids_and_checksum(outputs: Path, run: Run) -> None:
    """user.rescale.* name the file, its run and its checksum; ls -l is not slowed by other classes."""
    file = next(file for file in run.files if file.relative_path == "case/0/U")
    names = {name: os.getxattr(outputs / "case/0/U", name) for name in os.listxattr(outputs / "case/0/U")}

    assert names["user.rescale.file_id"].decode() == file.id
    assert names["user.rescale.sha512"].decode() == hashlib.sha512(FILES["case/0/U"]).hexdigest()
    with pytest.raises(OSError, match="not supported") as caught:
        os.getxattr(outputs / "case/0/U", "security.capability")
    assert caught.value.errno == errno.EOPNOTSUPP
