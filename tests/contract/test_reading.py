"""Reading, as docs/semantics.md promises it: ways to read, and checksums."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run, World
from tests.conftest import Mounted, wait_for
from tests.tools import FILES, MIB, distinct, errno_of, python, refresh, sent_bytes, sh

pytestmark = pytest.mark.mount
LARGE_BYTES = 5 * MIB + 13


@pytest.fixture
def bytes_of(world: World) -> Callable[..., tuple[Run, bytes]]:
    """Make a run with a file called `file`, whose bytes nothing else has: `bytes_of(size, checksum="none")`."""

    def make(size: int = LARGE_BYTES, **fields: object) -> tuple[Run, bytes]:
        run = world.add_job().add_run(finished=True)
        data = distinct(run.job.id, size)
        run.add_file("file", data, **fields)
        return run, data

    return make


Make = Callable[..., tuple[Run, bytes]]


def test_a_read_gives_the_bytes_that_rescale_has(outputs: Path, tmp_path: Path) -> None:
    """By whole files, and by the parts that tools want."""
    for path, data in FILES.items():
        assert (outputs / path).read_bytes() == data
    copy = tmp_path / "copy"
    copy.write_bytes(FILES["big.bin"])
    for tool in ("head -c 100 ", "tail -c 100 ", "dd bs=777 status=none skip=3 if=", "sha256sum <", "cmp {copy} "):
        command = tool.format(copy=copy)
        printed = [subprocess.run(f"{command}{path}", shell=True, check=True, capture_output=True).stdout
                   for path in (outputs / "big.bin", copy)]  # fmt: skip
        assert printed[0] == printed[1]
    assert sh("grep -rl Time .", outputs) == "./process_output.log\n"


PARTS = """
import os, random, sys
from pathlib import Path
data, chance = Path(sys.argv[2]).read_bytes(), random.Random(1)
file = os.open(sys.argv[1], os.O_RDONLY)
for _ in range(400):
    offset, size = chance.randrange(len(data)), chance.choice([1, 777, 4096, 65537, 131072, 1 << 20])
    assert os.pread(file, size, offset) == data[offset:offset + size], (offset, size)
"""


def test_no_read_is_short_but_at_the_end_of_the_file(bytes_of: Make, mounted: Mounted, tmp_path: Path) -> None:
    """Reads of any size anywhere, while the bytes are still coming."""
    run, data = bytes_of()
    (tmp_path / "copy").write_bytes(data)

    python(PARTS, mounted.top(run) / "file", tmp_path / "copy")


def test_a_read_beyond_the_end_is_empty(outputs: Path) -> None:
    for path in ("process_output.log", "big.bin", "empty"):
        with open(outputs / path, "rb") as file:
            size = len(FILES[path])
            assert os.pread(file.fileno(), 100, size) == b""
            assert os.pread(file.fileno(), 100, size + 10 * MIB) == b""
            assert os.pread(file.fileno(), 100, max(0, size - 5)) == FILES[path][-5:]


def test_copies_by_cp_rsync_and_tar_are_equal_to_the_originals(outputs: Path, tmp_path: Path) -> None:
    """In bytes and times; a second rsync copies nothing."""
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


DIRECT = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
while count := os.readv(descriptor, [buffer]):
    sys.stdout.buffer.write(buffer[:count])
"""


def test_o_direct_reads_give_the_same_bytes(bytes_of: Make, mounted: Mounted) -> None:
    """They go around the kernel's pages."""
    run, data = bytes_of()
    path = mounted.top(run) / "file"

    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", DIRECT, path], capture_output=True, timeout=60)
        assert done.stdout == data, done.stderr
        assert path.read_bytes() == data


SENDFILE = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
at = 0
while count := os.sendfile(target, source, at, 1 << 30):
    at += count
"""


def test_sendfile_gives_the_same_bytes(bytes_of: Make, top: Path, mounted: Mounted, tmp_path: Path) -> None:
    """As web servers and shutil use it: nobody looks at the bytes on the way."""
    run, data = bytes_of()

    for path, expected in ((mounted.top(run) / "file", data), (top / "log", b"Time = 0\n")):
        copy = tmp_path / path.name
        python(SENDFILE, path, copy)
        assert copy.read_bytes() == expected


def test_a_file_of_a_final_run_does_not_change_under_an_open_handle(bytes_of: Make, mounted: Mounted) -> None:
    """A newer upload of its path takes its name, and neither its bytes nor its length."""
    run, data = bytes_of()
    path = mounted.top(run) / "file"
    with open(path, "rb", buffering=0) as file:
        assert file.read(10) == data[:10]
        run.add_file("file", b"another one", date_uploaded=run.started + 9000)
        refresh(path.parent)
        assert sorted(os.listdir(path.parent)) == ["file", f"file~{run.files[0].id}"]
        for offset in (3 * MIB, LARGE_BYTES - 10, 0):
            assert os.pread(file.fileno(), 10, offset) == data[offset : offset + 10]
        with open(path, "rb", buffering=0) as newer:
            assert newer.read(1000) == b"another one"
        assert os.pread(file.fileno(), 10, 4 * MIB) == data[4 * MIB : 4 * MIB + 10]
        assert os.fstat(file.fileno()).st_size == len(data)


def test_a_file_that_is_not_uploaded_yet_gives_eio_when_it_is_opened(run: Run, mounted: Mounted) -> None:
    file = run.add_file("half", b"not here yet", is_uploaded=False)
    path = mounted.top(run) / "half"

    assert "half" in os.listdir(path.parent)
    assert errno_of(os.open, path, os.O_RDONLY) == "EIO"
    assert f"file {file.id} (half) is listed, but its upload is not complete" in mounted.log


def test_closing_a_file_ends_what_was_being_fetched_for_it_alone(
    bytes_of: Make, mounted: Mounted, emulator: Emulator
) -> None:
    run, data = bytes_of(40 * MIB)
    emulator.stream_bytes_per_s = float(MIB)
    with open(mounted.top(run) / "file", "rb", buffering=0) as file:
        assert b"".join(file.read(MIB // 8) for _ in range(6)) == data[: MIB * 3 // 4]
        emulator.stream_bytes_per_s = MIB / 64  # of each stream that begins now: 24 of them would take 80 s
        assert b"".join(file.read(MIB // 8) for _ in range(18)) == data[MIB * 3 // 4 : 3 * MIB]
        wait_for(lambda: emulator.under_way > 0, 10, lambda: "nothing is fetched ahead")

    wait_for(lambda: emulator.under_way == 0, 15, lambda: f"{emulator.under_way} go on")
    assert 3 * MIB <= sent_bytes(emulator, run) < len(data)


# ---- checksums ----

SMALL_BYTES = 100_000


def wrong(emulator: Emulator, run: Run, position: int, times: int | None = None) -> None:
    """Have Rescale send a wrong byte of the run's file."""
    emulator.faults.add(endpoint="contents", path=f"/{run.files[0].id}/", wrong_byte_at=position, times=times)


def read_in_order(path: Path) -> tuple[bytes, str]:
    """Read a file in pieces; return what came before an error, and the error."""
    seen = b""
    with open(path, "rb", buffering=0) as file:
        while True:
            try:
                piece = os.pread(file.fileno(), MIB // 8, len(seen))
            except OSError as error:
                return seen, errno.errorcode[error.errno or 0]
            if not piece:
                return seen, ""
            seen += piece


def pread_all(file: int, size: int, offset: int) -> None:
    """Read all of [offset, offset + size): a piece cut short by an error would hide that error."""
    end = offset + size
    while offset < end and (piece := os.pread(file, end - offset, offset)):
        offset += len(piece)


def test_a_small_file_is_compared_with_its_checksum_before_its_first_byte_is_served(
    bytes_of: Make, mounted: Mounted, emulator: Emulator
) -> None:
    """A wrong byte near the end keeps all bytes back, at 4 MiB as well."""
    for size in (SMALL_BYTES, 4 * MIB):
        run, _ = bytes_of(size)
        wrong(emulator, run, size - 1)
        assert read_in_order(mounted.top(run) / "file") == (b"", "EIO")


def test_nobody_gets_all_of_a_large_file_that_does_not_match_its_checksum(
    bytes_of: Make, mounted: Mounted, emulator: Emulator
) -> None:
    """In order, and from its end to its begin: the read that would complete it fails."""
    run, data = bytes_of()
    wrong(emulator, run, 70_000)
    seen, error = read_in_order(mounted.top(run) / "file")
    assert error == "EIO"
    assert len(seen) < len(data)

    run, data = bytes_of()
    wrong(emulator, run, 70_000)
    with open(mounted.top(run) / "file", "rb", buffering=0) as file:
        starts = range(0, len(data), MIB // 2)
        errors = [errno_of(pread_all, file.fileno(), MIB // 2, start) for start in reversed(starts)]
    assert set(errors) <= {"", "EIO"}
    assert "EIO" in errors


def test_with_verify_first_a_large_file_is_compared_before_its_first_byte_is_served(
    bytes_of: Make, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    run, data = bytes_of()
    path = mount_of(emulator, "--verify", "first").top(run) / "file"
    wrong(emulator, run, 4 * MIB)
    with path.open("rb", buffering=0) as file:
        assert errno_of(file.read, 1) == "EIO"

    emulator.faults.clear()
    assert path.read_bytes() == data


def test_what_does_not_match_its_checksum_is_fetched_once_more(
    bytes_of: Make, mounted: Mounted, emulator: Emulator
) -> None:
    """A file that comes wrong once is served right, and nobody notices."""
    run, data = bytes_of(SMALL_BYTES)
    wrong(emulator, run, 7, times=1)

    assert (mounted.top(run) / "file").read_bytes() == data
    assert sent_bytes(emulator, run) == 2 * len(data)


def test_what_does_not_match_its_checksum_twice_gives_eio(bytes_of: Make, mounted: Mounted, emulator: Emulator) -> None:
    """It is not fetched a third time; who opens it later finds it mended."""
    run, data = bytes_of(SMALL_BYTES)
    wrong(emulator, run, 7)
    path = mounted.top(run) / "file"
    with path.open("rb", buffering=0) as file:
        assert errno_of(file.read, 1) == "EIO"
        assert sent_bytes(emulator, run) == 2 * len(data)

    emulator.faults.clear()
    assert path.read_bytes() == data


def test_who_has_read_bytes_that_proved_to_be_wrong_gets_eio_before_the_end(
    bytes_of: Make, mounted: Mounted, emulator: Emulator
) -> None:
    """Though the last bytes come by another handle, which has read nothing, and though it is mended meanwhile."""
    last = 8 * MIB
    run, data = bytes_of(last + 13)
    wrong(emulator, run, 70_000)
    path = mounted.top(run) / "file"
    with path.open("rb", buffering=0) as first, path.open("rb", buffering=0) as other:
        for file in (first, other):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # the kernel reads nothing ahead
        assert os.pread(first.fileno(), MIB // 2, 0)[70_000] != data[70_000]
        emulator.faults.clear()
        pieces = [14, 7, 12, 3, 9, 1, 15, 5, 10, 2, 13, 6, 11, 4, 8]  # nor does the mount
        errors = [errno_of(os.pread, first.fileno(), MIB // 2, at * MIB // 2) for at in pieces]
        errno_of(os.pread, other.fileno(), 13, last)
        errors.append(errno_of(os.pread, first.fileno(), 13, last))
        assert "EIO" in errors
        assert path.read_bytes() == data
        assert errno_of(os.pread, first.fileno(), 13, last) == "EIO"


def test_a_file_of_another_size_than_listed_gives_eio(bytes_of: Make, mounted: Mounted) -> None:
    """Whether it has more or less, if no checksum can tell what is right."""
    for size in (SMALL_BYTES, LARGE_BYTES):
        for more in (-7, 7):
            run, data = bytes_of(size, checksum="none", declared_size=size + more)
            seen, error = read_in_order(mounted.top(run) / "file")
            assert error == "EIO", (size, more)
            assert seen == data[: len(seen)]


def test_a_file_that_matches_its_checksum_at_another_size_has_that_size_from_then_on(
    bytes_of: Make, mounted: Mounted
) -> None:
    for more in (-7, 7, -SMALL_BYTES):
        run, data = bytes_of(SMALL_BYTES, declared_size=SMALL_BYTES + more)
        path = mounted.top(run) / "file"
        assert path.stat().st_size == SMALL_BYTES + more
        assert errno_of(path.read_bytes) == "EIO"
        wait_for(lambda path=path: path.stat().st_size == SMALL_BYTES, 10, lambda: "no other size")
        assert path.read_bytes() == data


def test_a_file_without_a_checksum_is_served_as_it_comes(bytes_of: Make, mounted: Mounted) -> None:
    for size in (SMALL_BYTES, LARGE_BYTES, 0):
        run, data = bytes_of(size, checksum="none")
        assert (mounted.top(run) / "file").read_bytes() == data


def test_a_file_without_a_checksum_is_never_verified(bytes_of: Make, mounted: Mounted) -> None:
    for size in (SMALL_BYTES, LARGE_BYTES):
        run, data = bytes_of(size, checksum="none")
        path = mounted.top(run) / "file"
        assert path.read_bytes() == data
        assert os.getxattr(path, "user.rescale.state") == b"cached"
