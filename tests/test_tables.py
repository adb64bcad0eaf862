"""The tables as values: every cell comes back from a CSV reader, and none is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rescalefs import generated
from rescalefs.catalog import Catalog
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from rescalefs.models import Job, Run, Variable
from rescalefs.tables import JOB_COLUMNS, RUN_COLUMNS, jobs_csv, runs_csv
from tests.conftest import Cost
from tests.stack import catalog_of

TEXTS = st.text(st.sampled_from("a1.=+-@\t\r\n ,;\"'é\udc80/\0e＝"), max_size=6)
NAMES = st.sampled_from(["alpha", "Cl", "id", "state", "=x", "alpha~2"]) | TEXTS
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def rows_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def says(cell: str, text: str) -> bool:
    """Tell whether a cell is a text on one line of UTF-8, maybe kept from being a formula."""
    for character, shown in (("\0", "\\0"), ("\r", "\\r"), ("\n", "\\n")):
        text = text.replace(character, shown)
    text = text.encode(errors="backslashreplace").decode()
    return cell in (text, f"'{text}")


def run_with(*variables: tuple[str, str], id: str = "1") -> Run:
    return Run(id, 10**9, None, 1, 3, None, tuple(Variable(*pair) for pair in variables))


@given(st.lists(st.lists(st.tuples(NAMES, TEXTS), max_size=4), max_size=4))
@example([[("id", "=1+1"), ("alpha", "-5"), ("alpha", "+cmd|' /C calc'!A0")], [("alpha", "1e-05")]])
def test_every_variable_of_every_run_is_in_the_table(all_variables: list[list[tuple[str, str]]]) -> None:
    """As many lines as runs, all of one length; each value stands in its run's line; nothing begins a formula."""
    runs = [run_with(*variables, id=str(number)) for number, variables in enumerate(all_variables)]

    head, *lines = rows_of(runs_csv(runs, lambda run: "live"))

    assert head[: len(RUN_COLUMNS)] == list(RUN_COLUMNS)
    assert len(set(head)) == len(head)
    assert {len(line) for line in lines} <= {len(head)}
    assert [line[:6] for line in lines] == [[run.id, "live", "1970-01-01T00:00:01Z", "", "3", ""] for run in runs]
    for line, variables in zip(lines, all_variables, strict=True):
        cells = [cell for cell in line[6:] if cell]
        values = [value for _, value in variables if value]
        assert len(cells) == len(values)
        assert all(any(says(cell, value) for cell in cells) for value in values)
    for cell in [cell for line in (head, *lines) for cell in line]:
        assert NUMBER.fullmatch(cell) or not cell.strip(" \t\r\n\v\f").startswith(("=", "+", "-", "@", "＝"))


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_jobs_stand_in_the_table_as_they_are_called(named: list[tuple[str, str]]) -> None:
    """A line a job, with its name and owner whatever characters they have."""
    jobs = [Job(f"J{number}", name, owner, 10**9, "Completed") for number, (name, owner) in enumerate(named)]

    head, *lines = rows_of(jobs_csv(jobs))

    assert head == list(JOB_COLUMNS)
    for line, job in zip(lines, jobs, strict=True):
        assert line[0] == job.id
        assert says(line[1], job.name)
        assert says(line[3], job.owner)


def test_numbers_are_numbers_and_texts_are_no_formulas() -> None:
    """A minus before digits is a number, before letters it is not."""
    variables = [
        ("a", "-5"),
        ("b", "-5.5e-3"),
        ("c", "-x"),
        ("d", "=HYPERLINK(1)"),
        ("e", "@a"),
        ("f", " =1"),
        ("g", ""),
    ]

    assert rows_of(runs_csv([run_with(*variables)], lambda run: ""))[1][6:] == [
        *("-5", "-5.5e-3", "'-x", "'=HYPERLINK(1)", "'@a", "' =1", "")
    ]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return World(clock=clock)


@pytest.fixture
def catalog(emulator: Emulator, clock: ManualClock) -> Iterator[Catalog]:
    with catalog_of(emulator.origin, clock) as made:
        yield made


def test_states_in_the_table_ask_for_no_files(world: World, catalog: Catalog, clock: ManualClock, cost: Cost) -> None:
    """A run that ended an hour ago is final, a younger one settling until its files say more."""
    job = world.add_job("AbCdE", expected_runs=4)
    job.add_run(finished=True, started=clock.now() - 9000, completed=clock.now() - 4000)
    job.add_run(finished=True, started=clock.now() - 9000, completed=clock.now() - 60, files={"log": b""})
    job.add_run(live={"log": b""})
    runs = list(catalog.runs("AbCdE").values())

    def states() -> list[str]:
        return [catalog.state_as_known("AbCdE", run).value for run in runs]

    assert cost(states) == {}
    assert states() == ["final", "settling", "live"]
    for _ in range(2):
        catalog.view("AbCdE", "2")
        clock.advance(20)
    catalog.view("AbCdE", "2")
    assert states()[1] == "final"


def test_a_value_with_a_newline_stays_on_its_line() -> None:
    """What is said of a mount whose mount point, or cache, has one in its name; or what is no UTF-8."""
    assert (
        generated.table({"mount_point": "/a\nstatus b\udcff", "rates": 2})
        == b"mount_point /a\\nstatus b\\udcff\nrates 2\n"
    )
