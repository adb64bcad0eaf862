"""Every fault of the table, on real mounts with both bindings: the errno, the log, no wrong byte, and recovery."""

from __future__ import annotations

import errno
import re

import pytest

from tests import fault_table
from tests.fault_table import DEADLINE_S, Outcome, outcomes
from tests.faults import BIG_CAT, FAULTS, LIVE_CAT, Fault

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]
# A machine under load; what hangs takes longer than this.
GRACE_S = 20.0


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.title)
def fault(request: pytest.FixtureRequest) -> Fault:
    row: Fault = request.param
    return row


@pytest.fixture
def seen(binding: str, fault: Fault) -> Outcome:
    return outcomes()[binding][fault]


def test_a_fault_is_its_errno_in_time_or_right_data(fault: Fault, seen: Outcome) -> None:
    """The operation gives exactly the errno of the table, within its deadline, and no byte that is not Rescale's."""
    assert seen.hits > 0
    assert errno.errorcode.get(seen.errno) == errno.errorcode.get(fault.errno), "\n".join(seen.log)
    assert seen.wrong_bytes <= fault.wrong_bytes
    assert seen.seconds < DEADLINE_S + GRACE_S


def test_a_fault_is_named_in_the_log(fault: Fault, seen: Outcome) -> None:
    """A failed operation leaves one line, which names its path and its cause; one that was mended leaves no error.

    (Tries that are not the last have lines of their own, which grow louder.)
    """
    loud = [line for line in seen.log if re.search(" (ERROR|WARNING) ", line) and "; again in " not in line]
    errors = [line for line in seen.log if " ERROR " in line]
    lines = [line for line in errors if "/runs/1" in line and f"({fault_name(fault)})" in line]
    if fault.is_of_key:
        lines = errors
    if fault.network is not None:  # one line stands for all that is asked
        lines = loud

    if fault.errno in (0, errno.ENOENT):
        assert lines == []
    elif fault.operation == BIG_CAT:
        assert lines  # one for each read that the kernel has sent ahead
    else:
        assert len(lines) == 1, "\n".join(seen.log)
    if fault.operation == LIVE_CAT:
        assert loud == lines
    assert re.search(fault.says, "\n".join(lines or seen.log)), "\n".join(seen.log)


def test_after_a_fault_all_is_well(seen: Outcome) -> None:
    """The next read, after the fault, gives right data."""
    assert seen.has_recovered, "\n".join(seen.log)


def test_the_table_is_printed(binding: str) -> None:
    """A line for each row and binding, below one that says what stands in it."""
    head, *lines = fault_table.lines()
    assert head.split() == ["fault", "operation", "binding", "errno", "bound", "took", "wrong", "recovered"]
    assert sum(f" {binding} " in line for line in lines) == len(FAULTS)
    assert all(re.search(r" (none|E[A-Z]+) +\d+\.\d +s +\d+\.\d s +\d+ yes$", line) for line in lines)


def fault_name(fault: Fault) -> str:
    return errno.errorcode.get(fault.errno, "none")
