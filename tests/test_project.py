"""The house rules that no tool knows: who may import whom, what lies where, and that the parts agree."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import rescalefs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rescalefs"

# Upper rows may import lower rows; names within a row do not know each other.
# A package is one name, free inside.
ROWS = [
    {"__main__"},
    {"cli"},
    {"cache_command", "doctor_command", "status_command", "wait_command", "warm_command"},
    {"terminal"},
    {"demo"},
    {"mount"},
    {"binding"},
    {"operations"},
    {"namespace"},
    {"output_directory", "open_directory"},
    {"outputs", "rooms"},
    {"nodes"},
    {"ahead", "control", "ending", "events", "generated", "tables", "waiting"},
    {"catalog", "follow", "content"},
    {"listings", "live_names", "finality", "shown", "sweeps"},
    {"packed"},
    {"tailing", "tree"},
    {"client"},
    {"transport"},
    {"transfer", "config"},
    {
        "breaker",
        "budget",
        "connections",
        "kept",
        "kernel",
        "known",
        "looks",
        "names",
        "dump",
        "log",
        "loader",
        "credentials",
        "notify",
        "patience",
        "reach",
        "spool",
        "stalls",
        "stat_bytes",
        "system",
        "thread_state",
    },
    {"joining", "rows"},
    {"models", "plain", "private", "timing"},
    {"errors"},
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}

# The emulator shares no code with the program, so that a misunderstanding cannot sit on both sides.
ISLAND = "emulator"
ISLAND_VISITORS = {"cli", "demo"}

# Outside packages that one part alone may know.
ONLY_IN = {
    "requests": {"transport", "transfer"},
    "fuse": {"binding"},
    "mfusepy": {"binding"},
    "aiohttp": {"emulator"},
}

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "rescalefs",
    "setup.cfg",
    "systemd",
    "tests",
}

LONGEST = 400
# Files that may be longer, each with the reason why it is one thing.
LONGER: dict[str, str] = {
    "rescalefs/catalog.py": "jobs, runs and files are answered from one another's answers",
    "tests/histories.py": "one state machine: its rules share the model, the handles and the judging of errors",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = MODULES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a module of the package: `rescalefs.content.cache`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(dotted: str) -> str:
    """The part of the package that a module belongs to, as ROWS names it; "" for the package itself."""
    return dotted.split(".")[1] if "." in dotted else ""


NAMES = {name_of(path) for path in MODULES}
UNITS = {unit_of(name) for name in NAMES}


def imports_in(source: str, package: str) -> Iterator[str]:
    """Every module that *source*, a module in *package*, imports anywhere in it, by its absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from rescalefs import client` imports a module, `from rescalefs.client import C` a name.
                inner = f"{origin}.{alias.name}"
                yield inner if inner in NAMES else origin
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def imports_of(path: Path) -> set[str]:
    own = name_of(path)
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    return set(imports_in(path.read_text(encoding="utf-8"), package))


def why_not(importer: str, imported: str) -> str | None:
    """Why *importer* may not import *imported* (both as ROWS names them), None if it may."""
    if importer == imported or imported == "":  # the package itself holds only its version
        return None
    if importer == "":
        return "the package itself imports none of its modules"
    if importer == ISLAND:
        return "the emulator imports nothing of rescalefs"
    if imported == ISLAND:
        return None if importer in ISLAND_VISITORS else "the emulator is for cli and demo only"
    if not {importer, imported} <= set(ROW):
        return "one of them has no row"
    if ROW[importer] == ROW[imported]:
        return "they are of one row"
    return "it is of a higher row" if ROW[importer] > ROW[imported] else None


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_a_row():
    assert set() == UNITS - set(ROW) - {"", ISLAND}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_go_one_way(path):
    importer = unit_of(name_of(path))
    ours = {name for name in imports_of(path) if name == "rescalefs" or name.startswith("rescalefs.")}
    wrong = {name: reason for name in sorted(ours) if (reason := why_not(importer, unit_of(name)))}

    assert wrong == {}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_outside_packages_stay_where_they_belong(path):
    unit = unit_of(name_of(path))
    outside = {name.split(".")[0] for name in imports_of(path)}

    assert set() == {name for name in outside if unit not in ONLY_IN.get(name, {unit})}


@pytest.mark.parametrize(
    ("importer", "imported", "is_allowed"),
    [
        ("mount", "operations", True),
        ("operations", "mount", False),
        ("nodes", "errors", True),
        ("control", "generated", False),
        ("content", "content", True),
        ("content", "follow", False),
        ("cli", "emulator", True),
        ("mount", "emulator", False),
        ("emulator", "errors", False),
        ("cli", "", True),
        ("", "errors", False),
    ],
)
def test_the_rule_refuses_what_it_should(importer, imported, is_allowed):
    assert is_allowed == (why_not(importer, imported) is None)


@pytest.mark.parametrize(
    ("source", "package", "imported"),
    [
        ("import rescalefs.errors as e", "rescalefs", "rescalefs.errors"),
        ("from rescalefs import errors", "rescalefs", "rescalefs.errors"),
        ("from rescalefs import __version__", "rescalefs", "rescalefs"),
        ("from rescalefs.errors import Stale", "rescalefs", "rescalefs.errors"),
        ("from . import errors", "rescalefs", "rescalefs.errors"),
        ("from .cache import Cache", "rescalefs.content", "rescalefs.content.cache"),
        ("from ..errors import Stale", "rescalefs.content", "rescalefs.errors"),
        ("def f():\n    import requests.adapters", "rescalefs", "requests.adapters"),
        ("import importlib\nimportlib.import_module('fuse')", "rescalefs", "fuse"),
    ],
)
def test_every_way_to_import_is_seen(source, package, imported):
    assert imported in set(imports_in(source, package))


def test_the_reference_model_knows_nothing_of_the_program():
    names = set(imports_in((ROOT / "tests/reference.py").read_text(encoding="utf-8"), "tests"))

    assert set() == {name for name in names if name.split(".")[0] in {"rescalefs", "conftest"}}


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_module_is_too_long_without_a_reason():
    lines = {ids(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    too_long = {name: count for name, count in lines.items() if count > LONGEST}

    assert {name: count for name, count in too_long.items() if not LONGER.get(name)} == {}
    assert set() == set(LONGER) - set(too_long)


def locks_in(source: str) -> Iterator[str]:
    """Every lock and condition that an object of a class in *source* has, as `Class.attribute`."""
    for kind in ast.walk(ast.parse(source)):
        for node in ast.walk(kind) if isinstance(kind, ast.ClassDef) else ():
            if isinstance(node, ast.Assign) and re.match(r"threading\.(R?Lock|Condition)\(", ast.unparse(node.value)):
                yield f"{kind.name}.{ast.unparse(node.targets[0]).removeprefix('self.')}"


def test_every_lock_stands_in_the_table():
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Locks")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+\.\w+)` \|", table, re.MULTILINE))
    sources = (path.read_text(encoding="utf-8") for path in MODULES if unit_of(name_of(path)) != ISLAND)

    assert listed == {lock for source in sources for lock in locks_in(source)}


def test_the_top_level_holds_only_what_belongs_there():
    patterns = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    names = {
        path.name
        for path in ROOT.iterdir()
        if path.name != ".git" and not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    }

    assert set() == names - TOP_LEVEL


def test_the_version_is_the_newest_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?v?(\d+\.\d+\.\d+[^\]\s]*)", changelog, re.MULTILINE)

    assert newest is not None, "CHANGELOG.md has no entry of the form '## 1.2.3'"
    assert rescalefs.__version__ == newest[1]


def test_make_alone_prints_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    phony = set(" ".join(re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE)).split())
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS"}}
    printed = subprocess.run(
        ["make", "--no-print-directory"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert targets == phony
    assert {"demo", "test", "test-long", "check", "format", "bench", "dist", "clean"} <= targets
    assert set() == {name for name in targets if not re.search(rf"^  make {name} +\w", printed, re.MULTILINE)}


def verify_unit(unit: Path, runtime: Path) -> subprocess.CompletedProcess[str]:
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (package systemd)"
)


@needs_systemd
@pytest.mark.parametrize("instance", ["", "rescale", r"cfd-my\x2djobs"])
def test_the_systemd_unit_is_sound(tmp_path, instance):
    """As the template, and as instances: `~/rescale` and, escaped, `~/cfd/my-jobs`."""
    unit = tmp_path / f"rescalefs@{instance}.service"
    shutil.copy(ROOT / "systemd/rescalefs@.service", unit)
    done = verify_unit(unit, tmp_path / "runtime")

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_an_unsound_unit_would_be_seen(tmp_path):
    text = (ROOT / "systemd/rescalefs@.service").read_text(encoding="utf-8")
    unit = tmp_path / "rescalefs@broken.service"
    unit.write_text(text.replace("ExecStart=/usr/bin/env", "ExecStart=/no/such/program"), encoding="utf-8")
    done = verify_unit(unit, tmp_path / "runtime")

    assert "/no/such/program" in done.stderr
