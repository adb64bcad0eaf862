"""docs/semantics.md is a contract: each of its promises has a test of that name, on real mounts with both bindings.

A promise is a line of the document that begins with a dash.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.reference import JOBS_S, LIVE_S, LOOK_S, SETTLING_S

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
# Where no test stands without a promise.
CONTRACT = TESTS / "contract"
# The fixture that a test on mounts depends on, by way of others: it is each binding in turn.
BOTH = "binding"
# Marks with which a test does not run in every `make test`.
NOT_ALWAYS = {"long", "skip", "xfail"}


def promises_in(text: str) -> list[str]:
    """Every promise of a document."""
    return re.findall(r"^ *[-*] +(.*)", text, re.MULTILINE)


def name_of(promise: str) -> str:
    """The name of the test of a promise."""
    return "test_" + re.sub(r"[^a-z0-9]+", "_", promise.lower()).strip("_")


Functions = Mapping[str, ast.FunctionDef]


def functions_in(tree: ast.Module) -> Functions:
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def marks_of(node: ast.FunctionDef | ast.Module) -> set[str]:
    """The marks that a test has as a whole (those of single parameters are none), or a module's tests have."""
    if isinstance(node, ast.FunctionDef):
        decorators = [ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list]
        return {text.removeprefix("pytest.mark.") for text in decorators}
    marks = [ast.unparse(line.value) for line in node.body if ast.unparse(line).startswith("pytestmark = ")]
    return set(re.findall(r"pytest\.mark\.(\w+)", " ".join(marks)))  # type: ignore[arg-type]


def needs(node: ast.FunctionDef, fixtures: Functions) -> set[str]:
    """The fixtures that a function depends on, by way of others too."""
    found: set[str] = set()
    waiting = [argument.arg for argument in node.args.args]
    while waiting:
        name = waiting.pop()
        if name not in found and name in fixtures:
            found.add(name)
            waiting += [argument.arg for argument in fixtures[name].args.args]
    return found


def why_not(name: str, module: ast.Module, fixtures: Functions) -> str | None:
    """Why the test *name* of a module shows no promise, None if it does."""
    test = functions_in(module)[name]
    if BOTH not in needs(test, fixtures):
        return "it uses no mount with both bindings"
    if "mount" not in marks_of(module) | marks_of(test):
        return "it is not marked as one on mounts"
    if left_out := NOT_ALWAYS & (marks_of(module) | marks_of(test)):
        return f"it is marked {left_out}"
    return None


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def fixtures_for(path: Path) -> Functions:
    """What a test in *path* may name: its own functions before those of the conftest.py beside it, and above."""
    directories = [directory for directory in reversed(path.parents) if directory.is_relative_to(TESTS)]
    places = [directory / "conftest.py" for directory in directories if (directory / "conftest.py").exists()]
    return {name: node for place in (*places, path) for name, node in functions_in(parsed(place)).items()}


def named_in(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("test_*.py")):
        yield from ((name, path) for name in functions_in(parsed(path)) if name.startswith("test_"))


PROMISES = promises_in((ROOT / "docs/semantics.md").read_text(encoding="utf-8"))
NAMES = Counter(map(name_of, PROMISES))
SHOWN = [(name, path) for name, path in named_in(TESTS) if name in NAMES]


def test_a_promise_is_one_short_sentence():
    """On one line: a second sentence in it would have no test of its own."""
    assert len(PROMISES) > 100
    assert [promise for promise in PROMISES if not promise.endswith(".") or ". " in promise or len(promise) > 90] == []


def test_no_two_promises_have_one_name():
    assert [name for name, count in NAMES.items() if count > 1] == []


def test_each_promise_has_one_test_of_its_name():
    tests = Counter(name for name, _ in SHOWN)

    assert [name for name in NAMES if tests[name] != 1] == []


def test_each_promise_is_shown_on_mounts_with_both_bindings():
    wrong = {name: why_not(name, parsed(path), fixtures_for(path)) for name, path in SHOWN}

    assert {name: reason for name, reason in wrong.items() if reason} == {}


def test_the_contract_promises_whatever_its_tests_show():
    assert [name for name, _ in named_in(CONTRACT) if name not in NAMES] == []


def test_what_is_shown_is_as_old_as_the_model_allows():
    """The model, against which histories are judged, has the ages that the document tells."""
    text = " ".join((ROOT / "docs/semantics.md").read_text(encoding="utf-8").split())
    names = f"the names in a live run {LIVE_S:g} s, in one that has just ended {SETTLING_S:g} s"

    assert f"the list of jobs {JOBS_S:g} s, {names}, sizes of live files {LOOK_S:g} s." in text


@pytest.mark.parametrize(
    ("promise", "name"),
    [
        ("Listing `/jobs` lists no runs.", "test_listing_jobs_lists_no_runs"),
        ("A path of `.` and `..` is shown as `%2E`.", "test_a_path_of_and_is_shown_as_2e"),
        ("`--verify first` is 5 MiB.", "test_verify_first_is_5_mib"),
    ],
)
def test_the_name_is_the_sentence(promise, name):
    assert name_of(promise) == name
    assert promises_in(f"prose - no promise\n\n- {promise}\n") == [promise]


FIXTURES = """
def binding(): ...
def mount_of(binding, other): ...
def mounted(mount_of): ...
def emulator(): ...
"""


@pytest.mark.parametrize(
    ("source", "is_shown"),
    [
        ("pytestmark = pytest.mark.mount\ndef test_x(mounted): ...", True),
        ("pytestmark = [pytest.mark.mount, pytest.mark.timeout(9)]\ndef test_x(binding): ...", True),
        ("@pytest.mark.mount\ndef test_x(emulator, mounted): ...", True),
        ("pytestmark = pytest.mark.mount\ndef test_x(emulator): ...", False),
        ("pytestmark = pytest.mark.mount\ndef test_x(unknown): ...", False),
        ("def test_x(mounted): ...", False),
        ("pytestmark = pytest.mark.mount\n@pytest.mark.long\ndef test_x(mounted): ...", False),
        ("pytestmark = pytest.mark.mount\n@pytest.mark.skip('no')\ndef test_x(mounted): ...", False),
        ("pytestmark = pytest.mark.mount\ndef mounted(emulator): ...\ndef test_x(mounted): ...", False),
    ],
)
def test_what_shows_a_promise(source, is_shown):
    module = ast.parse(source)
    fixtures = {**functions_in(ast.parse(FIXTURES)), **functions_in(module)}

    assert is_shown == (why_not("test_x", module, fixtures) is None)
