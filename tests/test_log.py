"""Log lines: one a record, whatever a name in it holds; a file of the owner's own."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescalefs import log as module
from rescalefs.plain import plain

FORGED = "out\n2026-01-01 00:00:00,000 ERROR   rescalefs: the key was stolen\r\x1b[2J\u2028\x85end"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield root
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers, root.level = handlers, level


def test_a_newline_in_a_name_begins_no_line(root: logging.Logger, tmp_path: Path) -> None:
    """A name with a newline, a carriage return or an escape sequence stays within its line, and can be read there."""
    file = tmp_path / "log"
    module.set_up("debug", file, {})
    logging.getLogger("x").error("read /jobs/%s: gone", FORGED)

    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert r"out\n2026-01-01 00:00:00,000 ERROR   rescalefs: the key was stolen\r\x1b[2J\u2028\x85end: gone" in line


def test_a_traceback_is_indented(root: logging.Logger, tmp_path: Path) -> None:
    """The text of an unforeseen error may hold a name, too: no line of it can be taken for another record's."""
    file = tmp_path / "log"
    module.set_up("info", file, {})
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("x").exception("unforeseen")

    first, *rest = file.read_text(encoding="utf-8").split("\n")[:-1]
    assert "unforeseen" in first
    assert "ValueError" in "".join(rest)
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "8:1"}])
def test_standard_error_has_one_line_a_record(
    root: logging.Logger, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the foreground and under systemd, where each line has its priority."""
    module.set_up("info", None, environ)
    logging.getLogger("x").warning("open %s", FORGED)

    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("<4>x: open") == bool(environ)


def test_the_file_is_its_owners_each_time_it_is_begun(
    root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files are nobody else's business, in what was rotated neither."""
    monkeypatch.setattr(module, "_FILE_BYTES", 1000)
    file = tmp_path / "log"
    file.write_text("")
    file.chmod(0o644)
    module.set_up("info", file, {})
    for _ in range(100):
        logging.getLogger("x").info("a line of some length, so that the file is soon full")

    files = list(tmp_path.iterdir())
    assert len(files) == 1 + module._FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@given(st.text())
def test_any_text_is_one_plain_line(text: str) -> None:
    """No separator of lines is left, and a text that was plain is the same."""
    shown = plain(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode()
    assert plain(shown) == shown
    if text.isprintable():
        assert shown == text


def test_a_device_stays_everybodys(root: logging.Logger, tmp_path: Path) -> None:
    """`--log-file /dev/null` works, and closes it to nobody, though a log is its owner's own."""
    device = Path("/dev/null")
    if os.getuid() == 0:  # one of our own: root could close that of the machine
        device = tmp_path / "null"
        os.mknod(device, stat.S_IFCHR, os.makedev(1, 3))
        device.chmod(0o666)
    module.set_up("info", device, {})

    assert stat.filemode(device.stat().st_mode) == "crw-rw-rw-"
