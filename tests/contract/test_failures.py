"""Failures, as docs/semantics.md promises them. The faults of `tests/faults.py` are tried in `test_fault_table.py`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import Run
from rescalefs.outputs import _ASKED_AGAIN_S
from tests.conftest import Mounted, wait_for
from tests.tools import MIB, distinct, errno_of, refresh, sh

pytestmark = pytest.mark.mount


def errors(mistakes: dict[str, Callable[[], object]]) -> dict[str, str]:
    return {name: errno_of(mistake) for name, mistake in mistakes.items()}


def test_a_name_that_is_not_there_gives_enoent(outputs: Path, mounted: Mounted) -> None:
    found = errors(
        {
            "stat": lambda: os.stat(outputs / "nothing"),
            "open": lambda: os.open(outputs / "nothing", os.O_RDONLY),
            "list": lambda: os.listdir(outputs / "nothing"),
            "below nothing": lambda: os.stat(outputs / "nothing/more"),
            "of a job": lambda: os.stat(mounted.jobs / "Nobody"),
            "of a run": lambda: os.stat(outputs.parent / "2"),
            "of a text": lambda: os.stat(outputs / ".rescale/nothing"),
            "at the top": lambda: os.stat(mounted.path / "nothing"),
        }
    )

    assert set(found.values()) == {"ENOENT"}, found


def test_a_name_that_is_no_utf_8_gives_enoent(outputs: Path, mounted: Mounted) -> None:
    for place in (mounted.path, mounted.jobs, outputs):
        for name in (b"\xff", b"\xc3\x28.git"):
            assert errno_of(os.stat, os.fsencode(place) + b"/" + name) == "ENOENT"


def test_a_name_of_more_than_255_bytes_gives_enametoolong(outputs: Path, mounted: Mounted) -> None:
    assert [path.stat() for path in (outputs / "case").iterdir()]  # so that the place is known
    for place in (mounted.path, mounted.jobs, outputs, outputs / "case"):
        for name in ("n" * 256, "ü" * 128):
            assert errno_of(os.stat, place / name) == "ENAMETOOLONG"
        assert errno_of(os.stat, place / ("n" * 255)) == "ENOENT"


def test_a_path_that_goes_on_below_a_file_gives_enotdir(outputs: Path, top: Path) -> None:
    found = errors(
        {
            "stat": lambda: os.stat(outputs / "big.bin/x"),
            "stat below a live file": lambda: os.stat(top / "log/x"),
            "stat below a text": lambda: os.stat(outputs / ".rescale/status/x"),
            "list": lambda: os.listdir(outputs / "big.bin"),
            "open as a directory": lambda: os.open(outputs / "big.bin", os.O_DIRECTORY),
        }
    )

    assert set(found.values()) == {"ENOTDIR"}, found


def test_a_directory_that_is_read_or_written_gives_eisdir(outputs: Path, mounted: Mounted) -> None:
    found = errors(
        {
            "read": lambda: os.read(os.open(outputs / "case", os.O_RDONLY), 1),
            "opened for writing": lambda: os.open(outputs / "case", os.O_WRONLY),
            "a job": lambda: os.open(outputs.parent.parent, os.O_RDWR),
            "the mount": lambda: os.open(mounted.path, os.O_WRONLY),
        }
    )

    assert set(found.values()) == {"EISDIR"}, found


def test_a_link_that_is_not_to_be_followed_gives_eloop(outputs: Path) -> None:
    assert errno_of(os.open, outputs.parent / "latest", os.O_RDONLY | os.O_NOFOLLOW) == "ELOOP"


def test_reading_what_is_no_link_gives_einval(outputs: Path) -> None:
    for path in (outputs, outputs / "big.bin", outputs / ".rescale/status"):
        assert errno_of(os.readlink, path) == "EINVAL"


def test_reading_at_a_negative_offset_gives_einval(outputs: Path, top: Path) -> None:
    for path in (outputs / "big.bin", top / "log", outputs / ".rescale/status"):
        with path.open("rb") as file:
            assert errno_of(os.pread, file.fileno(), 1, -1) == "EINVAL"


def test_an_attribute_that_is_not_there_gives_enodata(outputs: Path, top: Path, mounted: Mounted) -> None:
    for path in (outputs, outputs / "big.bin", outputs / "case", top / "log", mounted.path):
        for name in ("user.none", "user.rescale.none"):
            assert errno_of(os.getxattr, path, name) == "ENODATA"


def test_a_key_that_is_refused_or_lacks_the_right_gives_eacces(
    run: Run, outputs: Path, mounted: Mounted, emulator: Emulator
) -> None:
    run.add_file("file", distinct(run.job.id, 1000))
    for status in (401, 403):
        fault = emulator.faults.add(status=status)
        assert errno_of(os.listdir, outputs) == "EACCES"
        emulator.faults.remove(fault)
        assert "file" in os.listdir(outputs)
        fault = emulator.faults.add(endpoint="contents", status=status)
        assert errno_of(lambda: (outputs / "file").read_bytes()) == "EACCES"
        emulator.faults.remove(fault)
        refresh(outputs)
    assert (outputs / "file").read_bytes() == distinct(run.job.id, 1000)


def test_no_answer_for_names_within_metadata_deadline_gives_etimedout(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    """Whatever it is that does not answer."""
    top = mount_of(emulator, "--metadata-deadline", "1").top(run)
    for endpoint in ("runs", "run_files"):
        fault = emulator.faults.add(endpoint=endpoint, latency_s=30.0)
        assert errno_of(os.listdir, top) == "ETIMEDOUT", endpoint
        emulator.faults.remove(fault)
        fault = emulator.faults.add(endpoint=endpoint, stall_after=1)
        assert errno_of(os.listdir, top) == "ETIMEDOUT", endpoint
        emulator.faults.remove(fault)
        wait_for(lambda: errno_of(refresh, top) == "", 20, lambda: "no answer without a fault")  # in a second


def test_no_answer_for_bytes_within_data_deadline_gives_etimedout(
    run: Run, mount_of: Callable[..., Mounted], emulator: Emulator
) -> None:
    data = distinct(run.job.id, 5 * MIB)
    run.add_file("file", data)
    path = mount_of(emulator, "--data-deadline", "1").top(run) / "file"
    for effect in ({"latency_s": 30.0}, {"stall_after": 1}):
        fault = emulator.faults.add(endpoint="contents", **effect)
        assert errno_of(path.read_bytes) == "ETIMEDOUT"
        emulator.faults.remove(fault)
    wait_for(lambda: errno_of(path.read_bytes) == "", 20, lambda: "no answer without a fault")  # in a second
    assert path.read_bytes() == data


def test_without_options_the_deadlines_are_15_s_for_names_and_60_s_for_bytes(mounted: Mounted) -> None:
    """(That those that are set are kept to, the two tests above show.)"""
    lines = (mounted.path / ".rescale/config").read_text().splitlines()

    told = dict(line.split(maxsplit=1) for line in lines)
    assert not {"--metadata-deadline", "--data-deadline"} & {*mounted.command, *mounted.args}
    assert (float(told["metadata_deadline_s"]), float(told["data_deadline_s"])) == (15, 60)


def test_a_failure_of_rescale_gives_eio(run: Run, outputs: Path, emulator: Emulator) -> None:
    """No HTTP status that it could answer, and nothing that is no answer, is taken for data or for nothing."""
    run.add_file("file", distinct(run.job.id, 1000))
    os.listdir(outputs)
    effects: list[dict[str, object]] = [{"status": code} for code in (400, 402, 405, 410, 418, 204, 206, 304)]
    effects += [
        {"body": body} for body in (b"null", b"[]", b"7", b'{"results": 7}', b'{"results": [{}], "next": null}')
    ]
    for effect in effects:
        refresh(outputs)
        fault = emulator.faults.add(endpoint="run_files", **effect)  # type: ignore[arg-type]
        assert errno_of(os.listdir, outputs) == "EIO", effect
        emulator.faults.remove(fault)
    assert "file" in os.listdir(outputs)


def test_a_file_that_went_away_under_an_open_handle_gives_estale(run: Run, outputs: Path) -> None:
    data = distinct(run.job.id, 9 * MIB)
    file = run.add_file("file", data)
    with open(outputs / "file", "rb", buffering=0) as handle:
        assert handle.read(10) == data[:10]
        file.is_deleted = True
        assert errno_of(os.pread, handle.fileno(), 10, 8 * MIB) == "ESTALE"
        assert os.pread(handle.fileno(), 10, 0) == data[:10]
    refresh(outputs)
    assert errno_of(os.stat, outputs / "file") == "ENOENT"


def test_a_failure_leaves_one_line_in_the_log(
    run: Run, outputs: Path, top: Path, mounted: Mounted, emulator: Emulator
) -> None:
    """Of files of a final run and of a live one."""
    run.add_file("half", b"not here yet", is_uploaded=False)
    run.add_file("refused", distinct(run.job.id, 1000))
    assert [os.listdir(outputs), os.listdir(top)]
    emulator.faults.add(endpoint="contents", status=403)
    emulator.faults.add(endpoint="tail", status=403)
    before = len(mounted.log)

    for path in (outputs / "half", outputs / "refused", top / "log"):
        assert errno_of(path.read_bytes) in ("EIO", "EACCES")

    lines = [line for line in mounted.log[before:].splitlines() if "WARNING" in line or "ERROR" in line]
    assert [line.split(" after ")[0].rpartition("/")[2] for line in lines] == ["half", "refused", "log"]
    assert "its upload is not complete" in lines[0]
    assert ["403" in line for line in lines[1:]] == [True, True]


def test_what_could_not_be_read_is_not_asked_for_again_at_once(run: Run, outputs: Path, emulator: Emulator) -> None:
    """The kernel asks again for what its read-ahead could not get; that costs no request."""
    data = distinct(run.job.id, 1000)
    file = run.add_file("file", data)
    fault = emulator.faults.add(endpoint="contents", path=f"/{file.id}/", status=403)

    began = time.monotonic()
    with open(outputs / "file", "rb", buffering=0) as handle:
        assert errno_of(handle.read) == "EACCES"
        assert 1 <= fault.hits <= 1 + (time.monotonic() - began) // _ASKED_AGAIN_S

    emulator.faults.remove(fault)
    assert (outputs / "file").read_bytes() == data


def test_who_has_waited_in_vain_for_bytes_of_a_file_does_not_wait_for_others_of_it_at_once(
    run: Run, emulator: Emulator, mount_of: Callable[..., Mounted]
) -> None:
    """As rsync reads on after an error: no other request is sent; who opens the file anew waits anew."""
    data = distinct(run.job.id, 20 * MIB)
    file = run.add_file("file", data)
    mounted = mount_of(emulator, "--data-deadline", "7", RESCALEFS_BUDGET="off")
    top = mounted.top(run)
    os.listdir(top)
    fault = emulator.faults.add(endpoint="contents", path=f"/{file.id}/", latency_s=60.0)
    with open(top / "file", "rb", buffering=0) as handle:
        assert errno_of(os.pread, handle.fileno(), MIB, 0) == "ETIMEDOUT"
        hits = fault.hits
        for place in range(4 * MIB, 16 * MIB, 2 * MIB):
            assert errno_of(os.pread, handle.fileno(), 100, place) == "ETIMEDOUT"
        assert fault.hits == hits
        emulator.faults.remove(fault)
        with open(top / "file", "rb", buffering=0) as other:
            assert os.pread(other.fileno(), 100, 17 * MIB) == data[17 * MIB : 17 * MIB + 100]
        assert os.pread(handle.fileno(), 100, 18 * MIB) == data[18 * MIB : 18 * MIB + 100]  # something has come


def test_ordinary_use_leaves_no_warning_in_the_log(outputs: Path, top: Path, mounted: Mounted, tmp_path: Path) -> None:
    before = len(mounted.log)
    shutil.copytree(outputs, tmp_path / "copy")
    shutil.copytree(top, tmp_path / "live")
    sh("ls -lR . .rescale", mounted.path)
    sh("cat jobs.csv .rescale/*", mounted.path)

    assert "WARNING" not in mounted.log[before:]
    assert "ERROR" not in mounted.log[before:]
