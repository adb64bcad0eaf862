"""The key and the keys of files: where they go, and that they are nowhere else, on real mounts with both bindings."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.conftest import END_S, Mounted, wait_for
from tests.raw_server import RawServer, header, reply
from tests.test_cli import failure, home, rescalefs
from tests.tools import FILES, errno_of, run_in, sh

__all__ = ["home"]
pytestmark = pytest.mark.mount
KEY = "0123456789abcdef0123456789abcdef-secret"
UNIT = Path(__file__).parent.parent / "systemd/rescalefs@.service"
Mounting = Callable[..., Mounted]


@pytest.fixture
def world() -> World:
    """A final run, a live one, and a file that is not uploaded yet."""
    world = World()
    world.add_job("AbCdE", name="a\njob").add_run(finished=True, files=FILES)
    world.add_job("LiveR").add_run(live={"log": b"Time = 0\n"})
    return world


@pytest.fixture
def emulator(world: World) -> Iterator[Emulator]:
    with Emulator(world, key=KEY) as running:
        yield running


def file_keys(emulator: Emulator) -> list[str]:
    """The keys of files, as the API lists them."""
    command = ["curl", "-sS", "-H", f"Authorization: Token {KEY}"]
    url = f"{emulator.origin}/api/v2/jobs/AbCdE/runs/1/files/?page_size=1000"
    rows = json.loads(subprocess.run([*command, url], capture_output=True, check=True).stdout)["results"]
    return [row["encodedEncryptionKey"] for row in rows]


def texts_of(mounted: Mounted) -> Iterator[tuple[str, bytes]]:
    """Everything that a mount tells: files in it, hidden ones too, their attributes, its log, what it keeps on disk."""
    hidden = [".rescale", "jobs/AbCdE/.rescale", "jobs/AbCdE/runs/1/.rescale", "jobs/LiveR/runs/1/.rescale"]
    tops = [mounted.path / "jobs.csv", *mounted.jobs.glob("*/runs.csv"), *(mounted.path / name for name in hidden)]
    outputs = [mounted.jobs / "AbCdE/runs/1", mounted.jobs / "LiveR/runs/1"]
    for top in (*tops, *outputs):
        for path in (top, *(top.rglob("*") if top.is_dir() else ())):
            yield f"the name {path}", os.fsencode(path)
            if path.is_file() and not path.stat().st_mode & stat.S_IWUSR:
                yield str(path), path.read_bytes()
            for name in os.listxattr(path):
                yield f"{name} of {path}", os.getxattr(path, name)
    yield "the log", mounted.log.encode()
    for path in mounted.cache.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def use(mounted: Mounted) -> None:
    """Do what can be done, well and badly, so that everything there is gets logged."""
    emulator = mounted.emulator
    sh("ls -lR jobs by-name; cat jobs.csv jobs/*/runs.csv; tail -c 3 jobs/LiveR/runs/1/log", mounted.path)
    echo = b'{"detail": "Token %s is not known"}' % KEY.encode()
    for effects in (
        *({"status": code} for code in (401, 403, 500)),
        *({"late_status": 502, "body": b"<h1>no</h1>"}, {"late_status": 409, "body": echo}, {"bad_json": True}),
        *({"drop": True}, {"wrong_byte_at": 3}, {"redirect": "http://127.0.0.1:1/x"}),
    ):
        fault = emulator.faults.add(times=3, **effects)
        run_in("cat jobs/*/runs/1/*.log; ls jobs/*/runs/1/case; echo 1 > .rescale/refresh; ls jobs", mounted.path)
        emulator.faults.remove(fault)
    status = mounted.path / ".rescale/status"
    wait_for(lambda: status.read_text() == "online\n", END_S, status.read_text)  # the redirect led nowhere
    cat = "cat jobs/AbCdE/runs/1/process_output.log jobs/AbCdE/runs/1/big.bin > /dev/null"
    wait_for(lambda: run_in(cat, mounted.path).returncode == 0, END_S, lambda: "no bytes")  # within the deadline
    run_in("cd jobs; echo x > LiveR/runs/1/stop; echo 1 > LiveR/runs/1/snapshot; echo 1 > AbCdE/runs/1/.rescale/stop",
           mounted.path)  # fmt: skip
    assert mounted.process is not None
    mounted.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "SIGUSR1: end" in mounted.log, END_S, lambda: "no dump")


def test_the_key_and_the_keys_of_files_are_told_nowhere(mount_of: Mounting, emulator: Emulator, home: Path) -> None:
    """Not in argv, the log at debug level, tracebacks, SIGUSR1, files of the mount, attributes, the cache, commands."""
    mounted = mount_of(emulator, "--data-deadline", "2", "--metadata-deadline", "2", RESCALEFS_BUDGET="off")
    use(mounted)
    secrets = [KEY, *file_keys(emulator)]
    assert len(secrets) > len(FILES)
    forms = [form for secret in secrets for form in (secret.encode(), base64.b64encode(secret.encode()))]
    forms += [base64.b64decode(secret) for secret in secrets[1:]] + [b"ncryptionKey"]
    assert mounted.process is not None
    told = dict(texts_of(mounted))
    told["argv"] = Path(f"/proc/{mounted.process.pid}/cmdline").read_bytes()
    for command in (("doctor",), ("status", str(mounted.path)), ("status", str(mounted.jobs / "LiveR")), ("cache",)):
        done = rescalefs(home, *command, RESCALE_API_URL=emulator.origin, RESCALE_API_KEY=KEY)
        assert done.stdout
        told[f"{command}"] = f"{done.stdout} {done.stderr}".encode()
    assert len(told) > 100
    assert [(where, form) for where, text in told.items() for form in forms if form in text] == []
    assert "<key> is not known" in mounted.log
    assert "Traceback" not in mounted.log


def test_nobody_but_root_may_look_into_the_process(mount_of: Mounting, emulator: Emulator) -> None:
    """No core, and no look at its memory or environment by another process of the same user."""
    mounted = mount_of(emulator)
    assert mounted.process is not None
    limits = Path(f"/proc/{mounted.process.pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits
    assert Path(f"/proc/{mounted.process.pid}/environ").stat().st_uid == 0


def test_the_cache_is_its_owner_s_alone(mount_of: Mounting, emulator: Emulator) -> None:
    """Directories of the cache 0700, files 0600, whatever the umask."""
    umask = os.umask(0)
    try:
        mounted = mount_of(emulator)
    finally:
        os.umask(umask)
    sh("ls -lR jobs; cat jobs/AbCdE/runs/1/big.bin | wc -c", mounted.path)
    made = [mounted.cache, *mounted.cache.rglob("*")]
    assert len(made) > 10
    assert {stat.filemode(path.stat().st_mode) for path in made} == {"drwx------", "-rw-------"}


# ---- where the key goes ----


def test_the_key_goes_to_the_platform_alone(mount_of: Mounting, emulator: Emulator, world: World) -> None:
    """Redirects, `next` links, `downloadUrl` and `resource` that lead elsewhere bring nothing there but a question."""
    data = FILES["process_output.log"]
    with RawServer(reply(206, data, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}")) as other:
        mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
        elsewhere = {
            "next": f"{other.origin}/api/v2/jobs/?page=2",
            "count": 1,
            "results": [{"id": "AbCdE", "name": "x"}],
        }
        fault = emulator.faults.add(endpoint="jobs", times=1, body=json.dumps(elsewhere))
        assert "AbCdE" in os.listdir(mounted.jobs)
        emulator.faults.remove(fault)
        emulator.faults.add(
            endpoint="run_files",
            rows=lambda rows: [{**row, "downloadUrl": f"{other.origin}/{row['id']}/"} for row in rows],
        )
        live = [{"path": "log", "resource": f"{other.origin}/api/v2/jobs/LiveR/runs/1/tail/log"}]
        emulator.faults.add(endpoint="directory_contents", body=json.dumps(live))
        (log,) = [file for file in world.jobs["AbCdE"].runs["1"].files if file.relative_path == "process_output.log"]
        emulator.faults.add(endpoint="contents", path=f"/{log.id}/", times=1, redirect=f"{other.origin}/storage")
        assert (mounted.jobs / "AbCdE/runs/1/case/0/U").read_bytes() == FILES["case/0/U"]
        assert (mounted.jobs / "LiveR/runs/1/log").read_bytes() == b"Time = 0\n"
        assert (mounted.jobs / "AbCdE/runs/1/process_output.log").read_bytes() == data
    assert other.requests("GET") == 1  # the redirect, and nothing else, was followed; perhaps ahead of the reader
    assert other.heads[0].startswith("GET /storage ")
    assert [header(head, "Authorization") for head in other.heads] == [None]
    assert KEY not in "".join(other.heads)


def mount_refused(home: Path, binding: str, *args: str, **environ: str) -> tuple[int, str]:
    """Try to mount; return the exit code and the sentence."""
    point = home / "rescale"
    point.mkdir(exist_ok=True)
    refused = failure(rescalefs(home, "mount", "--binding", binding, *args, str(point), **environ))
    assert os.listdir(point) == []
    return refused


def test_a_file_with_a_key_that_others_may_read_is_refused(
    binding: str, emulator: Emulator, home: Path, tmp_path: Path
) -> None:
    """Key file, apiconfig, and the file of the systemd unit's environment: with the remedy, before any request."""
    file = tmp_path / "secret"
    file.write_text(f"[default]\napikey = {KEY}\n")
    sources = {
        "--key-file": (("--key-file", str(file)), {}),
        "apiconfig": ((), {"RESCALE_CONFIG_FILE": str(file)}),
        "EnvironmentFile": ((), {"RESCALE_API_KEY": KEY, "RESCALEFS_ENVIRONMENT_FILE": str(file)}),
    }
    for mode, (args, environ) in zip((0o640, 0o604, 0o666), sources.values(), strict=True):
        file.chmod(mode)
        code, sentence = mount_refused(home, binding, *args, RESCALE_API_URL=emulator.origin, **environ)
        assert (code, f"chmod 600 {file}" in sentence, KEY in sentence) == (3, True, False)
    assert emulator.requests.total() == 0
    assert "EnvironmentFile=-%h/.config/rescalefs/environment" in UNIT.read_text()
    assert "Environment=RESCALEFS_ENVIRONMENT_FILE=%h/.config/rescalefs/environment" in UNIT.read_text()


def test_a_key_is_not_sent_unencrypted_to_another_machine(binding: str, home: Path) -> None:
    """By whatever option or variable its address is given."""
    url = "http://platform.example.com"
    for args, environ in (((), {"RESCALE_API_URL": url}), (("--api-url", url), {})):
        code, sentence = mount_refused(home, binding, *args, RESCALE_API_KEY=KEY, **environ)
        assert (code, "use https" in sentence) == (3, True)


FORGED = "out\n00:00:00 ERROR   forged\r\x1b[2J\u202e"


def test_control_characters_in_names_are_escaped_in_the_log_and_by_the_command_line(
    mount_of: Mounting, emulator: Emulator, world: World, home: Path
) -> None:
    """No name begins a line, moves the cursor or turns the direction of a text; as a name in the mount it is itself."""
    run = world.add_job("ForGe", name=FORGED).add_run(finished=True, files={FORGED: b"bad"})
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    path = mounted.top(run) / FORGED
    assert os.listdir(path.parent) == [FORGED]
    fault = emulator.faults.add(endpoint="contents", status=409)
    assert errno_of(path.read_bytes) == "EIO"
    said = [rescalefs(home, *command, str(path)).stderr for command in (("warm",), ("refresh",))]
    emulator.faults.remove(fault)
    assert path.read_bytes() == b"bad"

    shown = r"out\n00:00:00 ERROR   forged\r\x1b[2J\u202e"
    assert f"runs/1/{shown}: Input/output error\n" in said[0]
    assert f"runs/1/{shown} after" in mounted.log
    for text in (*said, mounted.log):
        assert not [line for line in text.splitlines() if line.startswith("00:00:00 ERROR")]
        assert not {"\x1b", "\r", "\u202e"} & set(text)


def test_the_emulator_listens_on_loopback_alone(emulator: Emulator) -> None:
    """Nobody else on the network finds it."""
    port = int(emulator.origin.rpartition(":")[2])
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 5)):
        pass
    sockets = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [fields[1] for fields in sockets if fields[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


# ---- a key that expires ----


def errors_in(mounted: Mounted) -> list[str]:
    return [line for line in mounted.log.splitlines() if " ERROR " in line]


def test_a_key_that_is_refused_leaves_one_line_a_minute_in_the_log(mount_of: Mounting, emulator: Emulator) -> None:
    """However many programs are refused; what is here can be read on, and all is well when it is accepted again."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top = mounted.jobs / "AbCdE/runs/1"
    assert (top / "process_output.log").read_bytes() == FILES["process_output.log"]
    emulator.key = "another"
    for name in ("case/0/U", "case/100/U", "big.bin", "-n"):
        for _ in range(3):
            with pytest.raises(PermissionError):
                (top / name).read_bytes()
    with pytest.raises(PermissionError):
        os.listdir(mounted.jobs / "LiveR/runs")
    assert (top / "process_output.log").read_bytes() == FILES["process_output.log"]
    (line,) = errors_in(mounted)
    assert "the API key from RESCALE_API_KEY is refused" in line
    emulator.key = KEY
    assert (top / "big.bin").read_bytes() == FILES["big.bin"]


def test_rescale_status_says_since_when_the_key_is_refused(mount_of: Mounting, emulator: Emulator) -> None:
    """With where it is from; it ends with the first question that is answered."""
    mounted = mount_of(emulator, RESCALEFS_BUDGET="off")
    top, status = mounted.jobs / "AbCdE/runs/1", mounted.path / ".rescale/status"
    assert os.listdir(top)
    assert status.read_text() == "online\n"
    emulator.key = "another"
    with pytest.raises(PermissionError):
        (top / "big.bin").read_bytes()
    assert re.fullmatch(r"key refused since 20\S*Z: the one from RESCALE_API_KEY\n", status.read_text())
    emulator.key = KEY
    assert (top / "big.bin").read_bytes() == FILES["big.bin"]
    assert status.read_text() == "online\n"


@pytest.mark.parametrize("source", ["--key-file", "apiconfig", "credential"])
def test_a_key_from_a_file_is_read_again_without_a_remount(
    source: str, mount_of: Mounting, emulator: Emulator, tmp_path: Path
) -> None:
    """A key that was renewed in its place needs no remount; one that others may read is not taken, and that is said."""
    place = tmp_path / "secrets"
    place.mkdir(mode=0o700)
    file = place / ("rescale-api-key" if source == "credential" else "key")
    form = "[default]\napikey = '{}'\n" if source == "apiconfig" else "{}\n"
    file.write_text(form.format(KEY))
    file.chmod(0o600)
    environ = {"apiconfig": {"RESCALE_CONFIG_FILE": str(file)}, "credential": {"CREDENTIALS_DIRECTORY": str(place)}}
    args = ("--key-file", str(file)) if source == "--key-file" else ()
    mounted = mount_of(emulator, *args, RESCALE_API_KEY="", **environ.get(source, {}))
    top = mounted.jobs / "AbCdE/runs/1"
    assert (top / "process_output.log").read_bytes() == FILES["process_output.log"]

    emulator.key = "renewed-key"
    file.write_text(form.format(emulator.key))
    if source != "credential":  # systemd's own are closed by their directory
        file.chmod(0o644)
        with pytest.raises(PermissionError):
            (top / "big.bin").read_bytes()
        assert f"chmod 600 {file}" in errors_in(mounted)[0]
        file.chmod(0o600)
    assert (top / "big.bin").read_bytes() == FILES["big.bin"]
    assert (top / "case/0/U").read_bytes() == FILES["case/0/U"]
    assert "renewed-key" not in mounted.log
